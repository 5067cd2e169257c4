"""The Kubernetes API: the only room of kubernetes-asyncio.

That client has no time limits, no retries, loops wrongly on an expired watch, and picks its own content type
and field manager (measured in 36.1.0). So every call goes through `_call`, which says all of that aloud.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import orjson
from aiohttp import ClientConnectorCertificateError, ClientError, ClientResponse, ClientTimeout

from workers.adapters.cluster_answers import *  # noqa: F403  one name for callers: `cluster.Conflict`
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
from workers.adapters.cluster_kinds import *  # noqa: F403  one name for callers: `cluster.SECRET`
from workers.adapters.cluster_kinds import Changes, Kind, Object, Objects, Seen, key_of
from workers.adapters.kubernetes_client import ApiClient, Configuration, config
from workers.errors import Stuck, Wait

MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"
REQUESTED_AT = "reconcile.fluxcd.io/requestedAt"
PAGE = 500
TRIES = 5
CONNECT, READ = 5.0, 30.0  # seconds
WATCH_SECONDS = 60
"""A watch is opened anew this often, so that a connection that died silently is noticed soon."""

SYNCED, LOST = "SYNCED", "LOST"
"""Marks of `follow`: the list is whole (again); the connection broke and is tried again."""


class Cluster:
    """One API server, with our field manager on every write."""

    def __init__(self, api: ApiClient, field_manager: str) -> None:
        self._api = api
        self._manager = field_manager
        self._versions: dict[str, str] = {}
        api.user_agent = field_manager

    @classmethod
    @asynccontextmanager
    async def open(cls, *, kubeconfig: Path | None, field_manager: str) -> AsyncIterator[Cluster]:
        """A connection for as long as the block lasts. No kubeconfig: the Pod's own service account."""
        settings = Configuration()
        try:
            if kubeconfig is None:
                config.load_incluster_config(  # type: ignore[no-untyped-call]
                    client_configuration=settings
                )
            else:
                await config.load_kube_config(config_file=str(kubeconfig), client_configuration=settings)
        except (config.ConfigException, OSError) as error:
            whence = "the Pod's service account" if kubeconfig is None else str(kubeconfig)
            raise Stuck("KubeconfigUnusable", f"{whence}: {error}") from error
        api = ApiClient(settings)
        try:
            yield cls(api, field_manager)
        finally:
            await api.close()

    # --- what is served ---------------------------------------------------------------------------------

    async def served(self, kind: Kind) -> bool:
        """False when the API has no such kind (its CRD is not installed). Trouble is raised, never False."""
        return await self._version(kind) is not None

    async def _version(self, kind: Kind) -> str | None:
        """The most wanted version that is served. Only a found one is remembered: a CRD may come later."""
        if kind.resource in self._versions:
            return self._versions[kind.resource]
        elsewhere = False
        offered = await self._offered(kind.group)
        for version in [*kind.versions, *(v for v in offered if v not in kind.versions)]:
            if version not in offered or kind.plural not in await self._resources(kind.group, version):
                continue
            if version in kind.versions:
                self._versions[kind.resource] = version
                return version
            elsewhere = True
        if elsewhere:
            message = f"{kind.resource} is served, but in none of the versions {', '.join(kind.versions)}"
            raise Stuck("ApiVersionUnknown", message)
        return None

    async def _offered(self, group: str) -> tuple[str, ...]:
        if not group:
            return ("v1",)
        try:
            found = await self._call("GET", f"/apis/{group}", "discover", f"API group {group}")
        except Absent:
            return ()
        return tuple(v["version"] for v in found.get("versions", []))

    async def _resources(self, group: str, version: str) -> frozenset[str]:
        path = f"/apis/{group}/{version}" if group else f"/api/{version}"
        try:
            found = await self._call("GET", path, "discover", f"API group {group or 'core'}/{version}")
        except Absent:
            return frozenset()
        return frozenset(r["name"] for r in found.get("resources", []))

    async def _path(self, kind: Kind, namespace: str | None, name: str | None = None) -> str:
        version = await self._version(kind)
        if version is None:
            raise Stuck("KindNotServed", f"the API server has no {kind.resource}: its CRD is not installed")
        parts = ["", "apis", kind.group, version] if kind.group else ["", "api", version]
        if kind.namespaced and namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        elif kind.namespaced and name is not None:
            raise ValueError(f"{kind.kind} {name} needs a namespace")
        parts.append(kind.plural)
        if name is not None:
            parts.append(quote(name, safe=""))
        return "/".join(parts)

    async def _complete(self, kind: Kind, obj: Object) -> Object:
        """The object with apiVersion and kind: items of lists come without, and SSA refuses that."""
        version = await self._version(kind)
        api_version = f"{kind.group}/{version}" if kind.group else str(version)
        return {**obj, "apiVersion": api_version, "kind": kind.kind}

    # --- reading ----------------------------------------------------------------------------------------

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

    # --- writing ----------------------------------------------------------------------------------------

    async def apply(self, kind: Kind, obj: Object, *, force: bool = True) -> Object:
        """Server-side apply under our field manager: creates or changes; fields not given are not ours.

        With `force` we take fields from other managers; without it, theirs raise Conflict.
        """
        namespace, name = key_of(obj)
        query = {"fieldManager": self._manager, "force": "true" if force else "false"}
        body = await self._complete(kind, obj)
        return await self._write("PATCH", "patch", kind, namespace, name, body, query, APPLY)

    async def patch(self, kind: Kind, name: str, namespace: str | None, body: Object) -> Object:
        """Merge patch. `metadata.resourceVersion` in it makes it a precondition: Conflict when stale."""
        query = {"fieldManager": self._manager}
        return await self._write("PATCH", "patch", kind, namespace, name, body, query, MERGE)

    async def replace(self, kind: Kind, obj: Object) -> Object:
        """Write the whole object under its resourceVersion; Conflict when someone was faster."""
        namespace, name = key_of(obj)
        body = await self._complete(kind, obj)
        query = {"fieldManager": self._manager}
        return await self._write("PUT", "update", kind, namespace, name, body, query, "application/json")

    async def _write(
        self,
        method: str,
        verb: str,
        kind: Kind,
        namespace: str | None,
        name: str,
        body: Object,
        query: Mapping[str, str],
        content_type: str,
    ) -> Object:
        words = words_of(kind, namespace, name)
        path = await self._path(kind, namespace, name)
        try:
            written: Object = await self._call(
                method, path, verb, words, query=query, body=body, content_type=content_type
            )
        except Absent:
            raise Wait("ObjectAbsent", f"{verb} {words}: 404, it or its namespace does not exist") from None
        return written

    async def create(self, kind: Kind, obj: Object) -> Object:
        """A new object. Raises Exists when the name is taken."""
        namespace, name = key_of({**obj, "metadata": {"name": "", **obj["metadata"]}})
        words = words_of(kind, namespace, name or obj["metadata"].get("generateName", ""))
        path = await self._path(kind, namespace)
        body = await self._complete(kind, obj)
        try:
            created: Object = await self._call(
                "POST", path, "create", words, query={"fieldManager": self._manager}, body=body
            )
        except Absent:
            raise Wait("ObjectAbsent", f"create {words}: 404, its namespace does not exist") from None
        return created

    async def review_token(self, token: str, audience: str) -> str | None:
        """Whose token this is (`system:serviceaccount:<namespace>:<name>`); None when it is nobody's.

        A server that knows no audiences answers without any, and must not be believed (TokenReview's own docs)."""
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        }
        path = "/apis/authentication.k8s.io/v1/tokenreviews"
        try:
            status = (await self._call("POST", path, "create", "TokenReview", body=body)).get("status") or {}
        except Absent:
            raise Stuck("KindNotServed", "the API server has no TokenReview") from None
        if not status.get("authenticated") or audience not in (status.get("audiences") or ()):
            return None
        name: str | None = (status.get("user") or {}).get("username") or None
        return name

    async def delete(self, kind: Kind, name: str, namespace: str | None = None) -> bool:
        """Ask for deletion, dependants in the background; False when it was not there."""
        path = await self._path(kind, namespace, name)
        try:
            query = {"propagationPolicy": "Background"}
            await self._call("DELETE", path, "delete", words_of(kind, namespace, name), query=query)
        except Absent:
            return False
        return True

    async def request_reconcile(self, kind: Kind, name: str, namespace: str, token: str) -> Object:
        """Ask a Flux controller to reconcile now. Handled once `status.lastHandledReconcileAt == token`.

        That alone proves nothing: it is acknowledged on suspended and failed objects too (`workers.flux`).
        """
        return await self.patch(kind, name, namespace, {"metadata": {"annotations": {REQUESTED_AT: token}}})

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

    async def follow(self, kind: Kind, namespace: str | None = None) -> Changes:
        """As `watch`, with the marks SYNCED and LOST between the changes, for whoever must know of gaps."""
        async with aclosing(self._watch(kind, namespace, None, None)) as events:
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
            except (ClientError, OSError, TimeoutError, Unavailable) as error:
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

    # --- the wire ---------------------------------------------------------------------------------------

    async def _call(
        self,
        method: str,
        path: str,
        verb: str,
        words: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> Any:
        """One request, tried again while the server is only busy or away. Trouble comes as our own words."""
        limits = ClientTimeout(connect=CONNECT, sock_connect=CONNECT, sock_read=READ)
        last: Exception | None = None
        for attempt in range(1, TRIES + 1):
            after = None
            try:
                response = await self._send(method, path, query or {}, body, content_type, limits)
                async with response:
                    raw = await response.read()
                if response.status < 300:
                    return orjson.loads(raw)
                raise trouble(verb, words, response, raw)
            except Unavailable as error:
                last, after = error, error.after
            except (ClientConnectorCertificateError, ssl.SSLCertVerificationError) as error:
                message = f"{verb} {words}: the API server's certificate is not trusted; check the CA"
                raise Stuck("ApiCertificateInvalid", message) from error
            except (ClientError, OSError, TimeoutError, orjson.JSONDecodeError) as error:
                last = error
            if attempt < TRIES:
                await anyio.sleep(pause(attempt, after))
        what = str(last) if isinstance(last, Unavailable) else type(last).__name__
        raise Wait("ApiServerUnavailable", f"{verb} {words}: {what}, {TRIES} times") from last

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Object | None,
        content_type: str,
        limits: ClientTimeout,
    ) -> ClientResponse:
        response: ClientResponse = await self._api.call_api(
            path,
            method,
            query_params=list(query.items()),
            header_params={"Accept": "application/json", "Content-Type": content_type},
            body=body,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _request_timeout=limits,
        )
        return response


def _only(seen: Seen) -> Object | None:
    return next(iter(seen.values()), None)
