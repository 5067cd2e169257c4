"""Watches: history from a revision on, then every change as it comes, as a selector sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from sandbox.kube import errors
from sandbox.kube.call import Call, parse_revision, shown
from sandbox.kube.listing import selection
from sandbox.kube.selectors import Match
from sandbox.kube.store import Change
from sandbox.kube.verbs import Verbs

Object = dict[str, Any]
Event = tuple[str, Object]

BOOKMARK_EVERY = 10.0  # seconds; a real server sends one a minute
LAST_BOOKMARK = 2.0  # seconds before the end (cacher.go, `nextBookmarkTime`)
DEFAULT_TIMEOUT = 1800.0  # seconds


def seen(change: Change, match: Match | None, namespace: str) -> Event | None:
    """What a watcher with that selector sees of a change: an object may come into its sight, or leave it."""

    def has(obj: Object | None) -> bool:
        if obj is None or (namespace and obj["metadata"].get("namespace") != namespace):
            return False
        return match is None or match(obj)

    before, after = has(change.old), has(change.new)
    if after and change.new is not None:
        return ("MODIFIED" if before else "ADDED"), change.new
    if before and change.old is not None:
        metadata = {**change.old["metadata"], "resourceVersion": str(change.revision)}
        return "DELETED", {**change.old, "metadata": metadata}
    return None


def _bookmark(call: Call, revision: int, *, initial_end: bool = False) -> Event:
    metadata: Object = {"resourceVersion": str(revision)}
    if initial_end:
        metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
    r = call.resource
    return "BOOKMARK", {"kind": r.kind, "apiVersion": r.api_version, "metadata": metadata}


def _next_mark(now: float, deadline: float) -> float:
    """When the next bookmark is due; the last one comes a little before the end."""
    last = deadline - LAST_BOOKMARK
    return min(now + BOOKMARK_EVERY, last) if last > now else deadline + 1


class Watch:
    """One watch, from its start: what it missed is read at once, so nothing is lost between then and now."""

    def __init__(self, verbs: Verbs, call: Call) -> None:
        self._verbs = verbs
        self._call = call
        self._match = selection(call)
        self._namespace = call.namespace if call.resource.namespaced else ""
        self._bookmarks = call.query.get("allowWatchBookmarks") in ("true", "1")
        wanted = call.query.get("timeoutSeconds")
        self._timeout = float(wanted) if wanted and float(wanted) > 0 else DEFAULT_TIMEOUT
        self._first = self._backlog()
        self._subscription = verbs.store.subscribe(call.resource.key)

    def _backlog(self) -> list[Event]:
        store, call = self._verbs.store, self._call
        asked = call.query.get("resourceVersion", "")
        revision = parse_revision(asked)
        initial = call.query.get("sendInitialEvents") == "true"
        if revision == 0 or initial:
            now = store.all(call.resource.key, self._namespace or None)
            events: list[Event] = [("ADDED", obj) for obj in now if self._match is None or self._match(obj)]
            if initial:
                events.append(_bookmark(call, store.revision, initial_end=True))
            return events
        changes = store.since(call.resource.key, revision)
        if changes is None:
            gone = errors.expired(f"too old resource version: {revision} ({store.revision})")
            return [("ERROR", gone.status())]
        found = (seen(change, self._match, self._namespace) for change in changes)
        return [event for event in found if event is not None]

    async def events(self) -> AsyncIterator[Event]:
        """Events until the timeout, an error, or the server's end.

        A bookmark comes only when something of the kind has moved since the watch began, selected or not.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        for kind, obj in self._first:
            yield self._told(kind, obj)
            if kind == "ERROR":
                return
        queue = self._subscription.queue
        moved, mark = bool(self._first), _next_mark(loop.time(), deadline)
        while (left := deadline - loop.time()) > 0:
            try:
                # Not wait_for: on Python 3.11 it may swallow a cancellation that meets an arriving change.
                async with asyncio.timeout(min(left, max(mark - loop.time(), 0.001))):
                    change = await queue.get()
            except TimeoutError:
                if self._bookmarks and moved and loop.time() >= mark:
                    yield _bookmark(self._call, self._verbs.store.revision)
                mark = _next_mark(loop.time(), deadline)
                continue
            if change is None:
                return
            moved = True
            if event := seen(change, self._match, self._namespace):
                yield self._told(*event)

    def _told(self, kind: str, obj: Object) -> Event:
        if kind in ("ERROR", "BOOKMARK"):
            return kind, obj
        return kind, shown(obj, self._call.resource)

    def close(self) -> None:
        """Be told no more."""
        self._verbs.store.unsubscribe(self._subscription)
