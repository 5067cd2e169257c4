"""Reading an API server: objects as they are, and as they change. What only reads needs no more than this."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import aclosing

import anyio
import orjson
from aiohttp import ClientError, ClientTimeout

from workers.adapters.cluster_answers import (
    Absent,
    Expired,
    Unavailable,
    WaitedInVain,
    change_of,
    conditions,
    pause,
    selected,
    trouble,
    where,
    words_of,
)
from workers.adapters.cluster_kinds import Changes, Kind, Object, Objects, Seen, key_of
from workers.adapters.cluster_wire import CONNECT, TRIES, Wire
from workers.errors import Wait

PAGE = 500  # objects
WATCH_SECONDS = 60
"""A watch is opened anew this often, so that a connection that died silently is noticed soon."""

SYNCED, LOST = "SYNCED", "LOST"
"""Marks of `follow`: the list is whole (again); the connection broke and is tried again."""


class Reader(Wire):
    """Lists, looks, watches and waits."""

    async def list(self, kind: Kind, namespace: str | None = None, labels: str | None = None) -> Objects:
        """Every object of a kind, page by page; all namespaces when `namespace` is None."""
        return (await self._list(kind, namespace, selected(None, labels)))[0]

    async def _list(self, kind: Kind, namespace: str | None, selectors: Mapping[str, str]) -> tuple[Objects, str]:
        path = await self._path(kind, namespace)
        words = f"{kind.resource} {where(namespace)}"
        items: Objects = []
        query = {**selectors, "limit": str(PAGE)}
        restarted = False
        while True:
            try:
                page = await self._call("GET", path, "list", words, query=query)
            except Expired:
                # The continue token outlived the server's memory: begin again, once.
                if restarted:
                    raise Wait("ListExpired", f"list {words}: the continue token expired twice") from None
                restarted, items, query = True, [], {**selectors, "limit": str(PAGE)}
                continue
            except Absent:
                self._versions.pop(kind.resource, None)
                raise Wait("KindVanished", f"list {words}: 404 though it was served a moment ago") from None
            for item in page.get("items") or []:
                items.append(await self._complete(kind, item))
            token = page["metadata"].get("continue")
            if not token:
                return items, str(page["metadata"]["resourceVersion"])
            query = {**selectors, "limit": str(PAGE), "continue": token}

    async def get(self, kind: Kind, name: str, namespace: str | None = None) -> Object | None:
        """The object, or None when there is none of that name. A kind that is not served raises Stuck."""
        path = await self._path(kind, namespace, name)
        try:
            found: Object = await self._call("GET", path, "get", words_of(kind, namespace, name))
        except Absent:
            return None
        return found

    # --- watching ---------------------------------------------------------------------------------------

    async def watch(
        self, kind: Kind, namespace: str | None = None, *, name: str | None = None, labels: str | None = None
    ) -> Changes:
        """What there is (as ADDED), then every change, until closed. Use it inside `aclosing`.

        A watch that expired (410) lists again: what exists comes as ADDED, what went meanwhile as DELETED.
        """
        async with aclosing(self._watch(kind, namespace, name, labels)) as events:
            async for change, obj in events:
                if change not in (SYNCED, LOST):
                    yield change, obj

    async def follow(self, kind: Kind, namespace: str | None = None, *, name: str | None = None) -> Changes:
        """As `watch`, with the marks SYNCED and LOST between the changes, for whoever must know of gaps, or that there
        is nothing."""
        async with aclosing(self._watch(kind, namespace, name, None)) as events:
            async for change, obj in events:
                yield change, obj

    async def _watch(self, kind: Kind, namespace: str | None, name: str | None, labels: str | None) -> Changes:
        selectors = selected(name, labels)
        known: dict[tuple[str, str], Object] = {}
        while True:
            items, version = await self._list(kind, namespace, selectors)
            now = {key_of(item): item for item in items}
            for gone in known.keys() - now.keys():
                yield "DELETED", known[gone]
            for item in now.values():
                yield "ADDED", item
            known = now
            yield SYNCED, {}
            try:
                async with aclosing(self._changes(kind, namespace, selectors, version)) as changes:
                    async for change, obj in changes:
                        if change == LOST:
                            pass
                        elif change == "DELETED":
                            known.pop(key_of(obj), None)
                        else:
                            known[key_of(obj)] = obj
                        yield change, obj
            except Expired:
                await anyio.sleep(pause(1, None))

    async def _changes(self, kind: Kind, namespace: str | None, selectors: Mapping[str, str], version: str) -> Changes:
        """Changes since a resourceVersion, over as many connections as it takes. Raises Expired on 410."""
        failures = 0
        while True:
            query = {
                **selectors,
                "watch": "1",
                "allowWatchBookmarks": "true",
                "timeoutSeconds": str(WATCH_SECONDS),
                "resourceVersion": version,
            }
            try:
                async with aclosing(self._stream(kind, namespace, query)) as lines:
                    async for change, obj in lines:
                        failures = 0
                        version = str(obj["metadata"]["resourceVersion"])
                        if change != "BOOKMARK":
                            yield change, obj
            except Absent as error:
                raise Wait("KindVanished", f"watch {kind.resource}: 404, its CRD went away") from error
            except (ClientError, OSError, TimeoutError, orjson.JSONDecodeError, Unavailable) as error:
                failures += 1
                if failures >= TRIES:
                    words = f"watch {kind.resource} {where(namespace)}: {type(error).__name__}"
                    raise Wait("ApiServerUnavailable", words) from error
                yield LOST, {}
                await anyio.sleep(pause(failures, getattr(error, "after", None)))

    async def _stream(self, kind: Kind, namespace: str | None, query: Mapping[str, str]) -> Changes:
        path = await self._path(kind, namespace)
        limits = ClientTimeout(connect=CONNECT, sock_connect=CONNECT, sock_read=WATCH_SECONDS + 15)
        response = await self._send("GET", path, query, None, "application/json", limits)
        try:
            if response.status >= 300:
                body = await response.read()
                raise trouble("watch", f"{kind.resource} {where(namespace)}", response, body)
            rest = b""
            # Not readline: it fails on a line longer than the reader's buffer.
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield change_of(kind, orjson.loads(line))
        finally:
            response.close()

    async def wait(
        self,
        kind: Kind,
        name: str,
        namespace: str | None,
        until: Callable[[Object | None], bool],
        timeout: float,
    ) -> Object | None:
        """The object once `until` holds for it (None: it does not exist). Raises Wait `<Kind>Timeout`."""
        try:
            seen = await self.wait_all(kind, namespace, lambda all_: until(_only(all_)), timeout, name=name)
        except WaitedInVain as vain:
            words = f"{words_of(kind, namespace, name)}: not there yet after {timeout:g} s"
            message = f"{words}; {conditions(_only(vain.seen))}"
            raise Wait(f"{kind.kind}Timeout", message) from None
        return _only(seen)

    async def wait_all(
        self,
        kind: Kind,
        namespace: str | None,
        until: Callable[[Seen], bool],
        timeout: float,
        *,
        name: str | None = None,
        labels: str | None = None,
    ) -> Seen:
        """All objects of a kind, once `until` holds for them together: one watch for a thousand objects.

        Raises WaitedInVain, a Wait `<Kind>Timeout`.
        """
        seen: dict[tuple[str, str], Object] = {}
        synced = False
        with anyio.move_on_after(timeout):
            async with aclosing(self._watch(kind, namespace, name, labels)) as events:
                async for change, obj in events:
                    if change == SYNCED:
                        synced = True
                    elif change == LOST:
                        continue
                    elif change == "DELETED":
                        seen.pop(key_of(obj), None)
                    else:
                        seen[key_of(obj)] = obj
                    if synced and until(seen):
                        return seen
        words = f"{kind.resource} {where(namespace)}: not there yet after {timeout:g} s"
        raise WaitedInVain(f"{kind.kind}Timeout", words, seen)


def _only(seen: Seen) -> Object | None:
    return next(iter(seen.values()), None)
