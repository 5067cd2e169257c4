"""A controller's picture of the cluster: list, then watch, one stream a kind however many look at it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sandbox.controllers.api import Api, ApiError, Object, Resource

Key = tuple[str, str]
"""Namespace ("" for cluster-scoped objects) and name."""
Change = Callable[[Object | None, Object | None], None]
"""Called with what was and what is; None stands for absent."""


def key_of(obj: Object) -> Key:
    """Where an object stands."""
    meta = obj["metadata"]
    return meta.get("namespace", ""), meta["name"]


def _version(obj: Object) -> int:
    return int(obj["metadata"].get("resourceVersion", "0"))


class Mirror:
    """All objects of one kind. Read-your-writes, when what a write returned is given to `put`."""

    def __init__(self, api: Api, resource: Resource) -> None:
        self.resource = resource
        self.objects: dict[Key, Object] = {}
        self.synced = asyncio.Event()
        self._api = api
        self._listeners: list[Change] = []

    def listen(self, change: Change) -> None:
        """Hear of every change from now on, and of what is there already."""
        self._listeners.append(change)
        for obj in list(self.objects.values()):
            change(None, obj)

    @contextmanager
    def listening(self, change: Change) -> Iterator[None]:
        """Hear of changes for as long as the block lasts."""
        self._listeners.append(change)
        try:
            yield
        finally:
            self._listeners.remove(change)

    def get(self, name: str, namespace: str = "") -> Object | None:
        return self.objects.get((namespace, name))

    def __iter__(self) -> Iterator[Object]:
        return iter(list(self.objects.values()))

    def put(self, obj: Object | None) -> None:
        """Take in an object, unless a newer one of the same name is known."""
        if obj is None:
            return
        key = key_of(obj)
        old = self.objects.get(key)
        if old is not None and _version(old) >= _version(obj):
            return
        self.objects[key] = obj
        self._tell(old, obj)

    def _drop(self, obj: Object) -> None:
        old = self.objects.get(key_of(obj))
        if old is None or old["metadata"].get("uid") != obj["metadata"].get("uid"):
            return
        del self.objects[key_of(obj)]
        self._tell(old, None)

    def _tell(self, old: Object | None, new: Object | None) -> None:
        for listener in list(self._listeners):
            listener(old, new)

    async def run(self) -> None:
        """Follow the API server until cancelled; a watch that ended or expired begins again with a list."""
        while True:
            try:
                await self._follow(await self._list())
            except ApiError as error:
                if error.status not in {404, 410}:
                    raise
                # 404: a kind that is not served yet (its CRD comes with a provider).
                await asyncio.sleep(0.5 if error.status == 404 else 0)

    async def _list(self) -> str:
        items, version = await self._api.list(self.resource)
        present = {key_of(i) for i in items}
        for gone in [o for k, o in self.objects.items() if k not in present]:
            self._drop(gone)
        for item in items:
            self.put(item)
        self.synced.set()
        return version

    async def _follow(self, version: str) -> None:
        task = asyncio.current_task()
        async for kind, obj in self._api.watch(self.resource, version):
            # asyncio.wait_for of Python 3.11 can swallow a cancellation that comes with an event.
            if task is not None and task.cancelling():
                raise asyncio.CancelledError
            match kind:
                case "ADDED" | "MODIFIED":
                    self.put(obj)
                case "DELETED":
                    self._drop(obj)
                case "ERROR":
                    return
                case _:
                    pass


class Mirrors:
    """One mirror a kind, followed as long as the task group that runs them."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._mirrors: dict[Resource, Mirror] = {}

    def __getitem__(self, resource: Resource) -> Mirror:
        if resource not in self._mirrors:
            self._mirrors[resource] = Mirror(self._api, resource)
        return self._mirrors[resource]

    def all(self) -> list[Mirror]:
        return list(self._mirrors.values())
