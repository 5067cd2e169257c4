"""The reconcile loop that every controller shares: a queue of names, each worked on by one task at a time."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sandbox.clock import Clock
from sandbox.controllers.api import PODS, Api, Object, Resource
from sandbox.controllers.mirror import Key, Mirrors, key_of
from sandbox.network import Identity, Network

BACKOFF = (0.2, 0.5, 1.0, 2.0, 4.0, 5.0)  # seconds before another try


@dataclass(frozen=True)
class Context:
    """What the controllers of one Sovereign share."""

    api: Api
    mirrors: Mirrors
    network: Network
    clock: Clock
    directory: Path
    log: Callable[[str], None]


def running_pod(context: Context, namespace: str, app: str) -> Object | None:
    """The Pod in which a controller lives, when it is up."""
    for pod in context.mirrors[PODS]:
        meta = pod["metadata"]
        if meta.get("namespace") != namespace or (meta.get("labels") or {}).get("app") != app:
            continue
        if pod.get("status", {}).get("phase") == "Running" and "deletionTimestamp" not in meta:
            return pod
    return None


def started(old: Object | None, new: Object, app: str) -> bool:
    """Whether this change is a Pod of `app` coming up."""
    if (new["metadata"].get("labels") or {}).get("app") != app:
        return False
    was = (old or {}).get("status", {}).get("phase")
    return bool(new.get("status", {}).get("phase") == "Running" and was != "Running")


def identity(pod: Object) -> Identity:
    """Who a Pod is on the network."""
    meta, host = pod["metadata"], pod["spec"].get("hostNetwork")
    if host:
        return Identity("node", str(pod["spec"].get("nodeName", "")))
    labels = tuple(sorted((meta.get("labels") or {}).items()))
    return Identity("pod", meta["name"], meta.get("namespace", ""), labels)


class Controller(ABC):
    """Watches one kind; subclasses say what to do with one object and how soon to look again."""

    resource: Resource
    name = "controller"
    workers = 4

    def __init__(self, context: Context) -> None:
        self.context = context
        self.api, self.mirrors = context.api, context.mirrors
        self._waiting: dict[Key, None] = {}
        self._active: set[Key] = set()
        self._again: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = False

    @abstractmethod
    async def reconcile(self, obj: Object) -> float | None:
        """Bring one object closer to its spec; seconds after which to look again, None for never."""

    def gone(self, obj: Object) -> None:  # noqa: B027  most need not care
        """An object was deleted."""

    def wants(self, old: Object | None, new: Object) -> bool:
        """Whether a change calls for a reconcile."""
        return old is None or old != new

    def start(self) -> None:
        """Begin to listen and to work."""
        self._open = True
        self.mirrors[self.resource].listen(self._changed)
        self.extra()

    def extra(self) -> None:  # noqa: B027  most need not care
        """Listen to other kinds too."""

    async def stop(self) -> None:
        """Work on nothing any more."""
        self._open = False
        for timer in self._timers.values():
            timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def enqueue(self, key: Key) -> None:
        """Look at this object soon. Asked twice before its turn, it is looked at once."""
        if timer := self._timers.pop(key, None):
            timer.cancel()
        if key in self._active:
            self._again.add(key)
            return
        self._waiting[key] = None
        self._kick()

    def enqueue_all(self) -> None:
        for obj in self.mirrors[self.resource]:
            self.enqueue(key_of(obj))

    def say(self, message: str) -> None:
        self.context.log(f"{self.name}: {message}")

    def _changed(self, old: Object | None, new: Object | None) -> None:
        if new is not None:
            if self.wants(old, new):
                self.enqueue(key_of(new))
        elif old is not None:
            self.gone(old)

    def _kick(self) -> None:
        while self._open and self._waiting and len(self._active) < self.workers:
            key = next(iter(self._waiting))
            del self._waiting[key]
            self._active.add(key)
            task = asyncio.get_running_loop().create_task(self._work(key))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _work(self, key: Key) -> None:
        delay: float | None = None
        try:
            obj = self.mirrors[self.resource].get(key[1], key[0])
            if obj is not None:
                delay = await self.reconcile(obj)
            self._failures.pop(key, None)
        except Exception as error:
            failures = self._failures.get(key, 0)
            self._failures[key] = failures + 1
            delay = BACKOFF[min(failures, len(BACKOFF) - 1)]
            self.say(f"{'/'.join(key).lstrip('/')}: {type(error).__name__}: {error}")
        finally:
            self._active.discard(key)
        if key in self._again:
            self._again.discard(key)
            self._waiting[key] = None
        elif delay is not None and self._open and key not in self._waiting:
            self._timers[key] = asyncio.get_running_loop().call_later(delay, self.enqueue, key)
        self._kick()

    async def publish(self, obj: Object, status: Object) -> Object:
        """Merge `status` into the object's status, when that changes anything. None removes a field."""
        before: Object = obj.get("status") or {}
        after = {k: v for k, v in {**before, **status}.items() if v is not None}
        if after == before:
            return obj
        patched = await self.api.merge(self.resource, obj, {"status": status}, self.name, sub="status")
        self.mirrors[self.resource].put(patched)
        return patched or obj
