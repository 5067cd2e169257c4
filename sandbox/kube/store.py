"""Objects by kind, namespace and name; one revision for all; every change told to whoever watches.

Stored objects are never changed in place: a change puts another object, so history and watchers may share them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]
KindKey = tuple[str, str]  # group, plural
Place = tuple[KindKey, str, str]  # kind, namespace, name

HISTORY = 4096  # changes of one kind that a watch can still be given


@dataclass(frozen=True)
class Change:
    """One change; `old` or `new` is None for an object that came or went."""

    revision: int
    old: Object | None
    new: Object | None


@dataclass(eq=False)
class Subscription:
    """Changes of one kind from now on; `None` says that the server closes."""

    kind: KindKey
    queue: asyncio.Queue[Change | None]


class Store:
    """What the cluster holds."""

    def __init__(self, history: int = HISTORY) -> None:
        self.revision = 1
        self._objects: dict[KindKey, dict[tuple[str, str], Object]] = {}
        self._history: dict[KindKey, deque[Change]] = {}
        self._forgotten: dict[KindKey, int] = {}
        self._keep = history
        self._born = 1  # the oldest revision that history can start from
        self._subscriptions: dict[KindKey, set[Subscription]] = {}
        self._uids: dict[str, Place] = {}
        self._dependents: dict[str, set[Place]] = {}
        self.on_change: list[Callable[[Place, Change], None]] = []

    def get(self, kind: KindKey, namespace: str, name: str) -> Object | None:
        """The object as it is now."""
        return self._objects.get(kind, {}).get((namespace, name))

    def all(self, kind: KindKey, namespace: str | None = None) -> list[Object]:
        """Objects in the order of their keys, as etcd gives them."""
        have = self._objects.get(kind, {})
        if namespace is None:
            return [have[key] for key in sorted(have)]
        return [have[key] for key in sorted(key for key in have if key[0] == namespace)]

    def count(self, kind: KindKey) -> int:
        """How many there are."""
        return len(self._objects.get(kind, ()))

    def everything(self) -> Iterator[tuple[Place, Object]]:
        """All objects of all kinds, from a copy."""
        for kind, have in list(self._objects.items()):
            for (namespace, name), obj in list(have.items()):
                yield (kind, namespace, name), obj

    def put(self, kind: KindKey, namespace: str, name: str, obj: Object) -> Object:
        """Keep the object under a new revision; returns it as kept."""
        old = self.get(kind, namespace, name)
        self.revision += 1
        kept = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self.revision)}}
        self._objects.setdefault(kind, {})[namespace, name] = kept
        place = (kind, namespace, name)
        self._index(place, old, kept)
        self._tell(place, Change(self.revision, old, kept))
        return kept

    def remove(self, kind: KindKey, namespace: str, name: str, last: Object | None = None) -> Object:
        """Take the object out; returns its last state under the revision of its removal."""
        old = self._objects[kind].pop((namespace, name))
        self.revision += 1
        final = last if last is not None else old
        final = {**final, "metadata": {**final["metadata"], "resourceVersion": str(self.revision)}}
        place = (kind, namespace, name)
        self._index(place, old, None)
        self._tell(place, Change(self.revision, final, None))
        return final

    def forget(self, kind: KindKey) -> None:
        """Drop what is left of a kind that is no longer served."""
        for namespace, name in list(self._objects.get(kind, ())):
            self.remove(kind, namespace, name)

    def place_of(self, uid: str) -> Place | None:
        """Where the object of that uid is."""
        return self._uids.get(uid)

    def dependents(self, uid: str) -> list[Place]:
        """Objects that name it as an owner."""
        return sorted(self._dependents.get(uid, ()))

    def since(self, kind: KindKey, revision: int) -> list[Change] | None:
        """Changes after a revision; None when that is longer ago than history goes."""
        if revision < max(self._born, self._forgotten.get(kind, 0)) - 1:
            return None
        return [change for change in self._history.get(kind, ()) if change.revision > revision]

    def compact(self) -> None:
        """Forget history: a watch from before now is told 410, as after etcd's compaction."""
        self._history.clear()
        self._forgotten.clear()
        self._born = self.revision + 1

    def subscribe(self, kind: KindKey) -> Subscription:
        """Be told of changes of a kind from now on."""
        made = Subscription(kind, asyncio.Queue())
        self._subscriptions.setdefault(kind, set()).add(made)
        return made

    def unsubscribe(self, subscription: Subscription) -> None:
        """Be told no more."""
        self._subscriptions.get(subscription.kind, set()).discard(subscription)

    def hang_up(self) -> None:
        """End every watch."""
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions:
                subscription.queue.put_nowait(None)

    def dump(self) -> Object:
        """Everything, for the disk."""
        objects = [[*kind, obj] for (kind, _, _), obj in self.everything()]
        return {"revision": self.revision, "objects": objects}

    def load(self, state: Object) -> None:
        """What `dump` gave; history begins anew."""
        for group, plural, obj in state["objects"]:
            metadata = obj["metadata"]
            place = ((group, plural), metadata.get("namespace", ""), metadata["name"])
            self._objects.setdefault(place[0], {})[place[1], place[2]] = obj
            self._index(place, None, obj)
        self.revision = state["revision"]
        self.compact()

    def _index(self, place: Place, old: Object | None, new: Object | None) -> None:
        if old is not None:
            if new is None or new["metadata"]["uid"] != old["metadata"]["uid"]:
                self._uids.pop(old["metadata"]["uid"], None)
            for owner in old["metadata"].get("ownerReferences") or ():
                self._dependents.get(owner["uid"], set()).discard(place)
        if new is not None:
            self._uids[new["metadata"]["uid"]] = place
            for owner in new["metadata"].get("ownerReferences") or ():
                self._dependents.setdefault(owner["uid"], set()).add(place)

    def _tell(self, place: Place, change: Change) -> None:
        kind = place[0]
        history = self._history.setdefault(kind, deque())
        history.append(change)
        if len(history) > self._keep:
            self._forgotten[kind] = history.popleft().revision + 1
        for subscription in self._subscriptions.get(kind, ()):
            subscription.queue.put_nowait(change)
        for told in self.on_change:
            told(place, change)
