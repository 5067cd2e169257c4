"""What kube-controller-manager does to objects without being asked: owners' garbage, namespaces, default accounts.

Source: pkg/controller/garbagecollector, pkg/controller/namespace, pkg/controller/serviceaccount of Kubernetes.
"""

from __future__ import annotations

import asyncio
from typing import Any

from sandbox.kube.call import Call
from sandbox.kube.errors import ApiError
from sandbox.kube.resources import Catalogue
from sandbox.kube.store import Change, Place, Store
from sandbox.kube.verbs import Verbs

Object = dict[str, Any]
NAMESPACES = ("", "namespaces")
ACCOUNTS = ("", "serviceaccounts")
WAITING = ("foregroundDeletion", "orphan")


class Collector:
    """Runs behind the API for as long as the server does."""

    def __init__(self, verbs: Verbs, store: Store, catalogue: Catalogue) -> None:
        self._verbs = verbs
        self._store = store
        self._catalogue = catalogue
        self._queue: asyncio.Queue[tuple[Place, Change]] = asyncio.Queue()
        store.on_change.append(self._heard)

    def _heard(self, place: Place, change: Change) -> None:
        new = change.new
        metadata = (new or change.old or {}).get("metadata", {})
        interesting = (
            new is None
            or place[0] in (NAMESPACES, ACCOUNTS)
            or metadata.get("deletionTimestamp")
            or (change.old is None and metadata.get("ownerReferences"))
        )
        if interesting:
            self._queue.put_nowait((place, change))

    async def run(self) -> None:
        """Follow changes for ever."""
        for place, obj in self._store.everything():
            self._queue.put_nowait((place, Change(0, None, obj)))
        while True:
            place, change = await self._queue.get()
            self.settle(place, change)
            # Others have their turn between two steps, as with a controller in another process.
            await asyncio.sleep(0)

    def settle(self, place: Place, change: Change) -> None:
        """Do what follows from one change."""
        if change.new is None:
            if change.old is not None:
                self._owner_gone(change.old["metadata"]["uid"])
                self._dependent_gone(change.old)
            self._namespace_emptied(place[1])
            if place[0] == ACCOUNTS and place[2] == "default":
                self._default_account(place[1])
            return
        live = self._store.get(*place)
        if live is None:
            return
        metadata = live["metadata"]
        if place[0] == NAMESPACES:
            if metadata.get("deletionTimestamp"):
                self._empty(place[2])
            else:
                self._default_account(place[2])
        elif metadata.get("deletionTimestamp"):
            self._wait_over(place, live)
        elif metadata.get("ownerReferences"):
            self._check(place)

    def _call(self, place: Place, **more: Any) -> Call | None:
        resource = self._catalogue.storage(*place[0])
        if resource is None:
            return None
        return Call(resource, place[1], place[2], agent="kube-controller-manager", **more)

    def _delete(self, place: Place) -> None:
        if call := self._call(place, body={"propagationPolicy": "Background"}):
            try:
                self._verbs.delete(call)
            except ApiError as error:
                if error.code != 404:
                    raise

    def _owner_gone(self, uid: str) -> None:
        for place in self._store.dependents(uid):
            self._check(place)

    def _dependent_gone(self, obj: Object) -> None:
        for reference in obj["metadata"].get("ownerReferences") or ():
            owner = self._store.place_of(reference["uid"])
            live = self._store.get(*owner) if owner else None
            if owner and live and live["metadata"].get("deletionTimestamp"):
                self._wait_over(owner, live)

    def _check(self, place: Place) -> None:
        """Delete an object whose owners are all gone (or elsewhere); drop the ones that are gone from others."""
        obj = self._store.get(*place)
        if obj is None:
            return
        owners = obj["metadata"].get("ownerReferences") or []
        solid = [one for one in owners if self._exists(one, place[1])]
        if owners and not solid:
            self._delete(place)
        elif len(solid) < len(owners):
            self._store.put(*place, {**obj, "metadata": {**obj["metadata"], "ownerReferences": solid}})

    def _exists(self, reference: Object, namespace: str) -> bool:
        found = self._store.place_of(reference["uid"])
        return found is not None and found[1] in ("", namespace)

    def _wait_over(self, place: Place, obj: Object) -> None:
        """An owner that waits for its dependents, or wants them orphaned."""
        metadata = obj["metadata"]
        finalizers = [one for one in metadata.get("finalizers") or () if one in WAITING]
        dependents = self._store.dependents(metadata["uid"])
        if "orphan" in finalizers:
            for other in dependents:
                self._orphan(other, metadata["uid"])
            dependents = []
        for other in dependents if "foregroundDeletion" in finalizers else ():
            self._delete(other)
        if finalizers and not self._store.dependents(metadata["uid"]):
            self._release(place)

    def _orphan(self, place: Place, uid: str) -> None:
        obj = self._store.get(*place)
        if obj is not None:
            kept = [one for one in obj["metadata"].get("ownerReferences") or () if one["uid"] != uid]
            metadata = {key: value for key, value in obj["metadata"].items() if key != "ownerReferences"}
            metadata |= {"ownerReferences": kept} if kept else {}
            self._store.put(*place, {**obj, "metadata": metadata})

    def _release(self, place: Place) -> None:
        obj = self._store.get(*place)
        if obj is None:
            return
        left = [one for one in obj["metadata"].get("finalizers") or () if one not in WAITING]
        metadata = {key: value for key, value in obj["metadata"].items() if key != "finalizers"}
        if left:
            self._store.put(*place, {**obj, "metadata": {**metadata, "finalizers": left}})
        else:
            self._store.remove(*place, {**obj, "metadata": metadata})

    def _empty(self, namespace: str) -> None:
        for place, _ in self._store.everything():
            if place[1] == namespace:
                self._delete(place)
        self._namespace_emptied(namespace)

    def _namespace_emptied(self, namespace: str) -> None:
        obj = self._store.get(NAMESPACES, "", namespace)
        if obj is None or not obj["metadata"].get("deletionTimestamp"):
            return
        if any(place[1] == namespace for place, _ in self._store.everything()):
            return
        done = {**obj, "spec": {**obj["spec"], "finalizers": []}}
        if obj["metadata"].get("finalizers"):
            if done != obj:
                self._store.put(NAMESPACES, "", namespace, done)
        else:
            self._store.remove(NAMESPACES, "", namespace, done)

    def _default_account(self, namespace: str) -> None:
        home = self._store.get(NAMESPACES, "", namespace)
        if home is None or home["metadata"].get("deletionTimestamp"):
            return
        if self._store.get(ACCOUNTS, namespace, "default") is None and (
            call := self._call(
                (ACCOUNTS, namespace, ""),
                body={"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}},
            )
        ):
            self._verbs.create(call)
