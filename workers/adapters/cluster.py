"""The Kubernetes API, read (`cluster_reading`) and written, over one wire (`cluster_wire`)."""

from __future__ import annotations

from collections.abc import Mapping

from workers.adapters.cluster_answers import *  # noqa: F403  one name for callers: `cluster.Conflict`
from workers.adapters.cluster_answers import Absent, words_of
from workers.adapters.cluster_kinds import *  # noqa: F403  one name for callers: `cluster.SECRET`
from workers.adapters.cluster_kinds import Kind, Object, key_of
from workers.adapters.cluster_reading import LOST as LOST
from workers.adapters.cluster_reading import SYNCED as SYNCED
from workers.adapters.cluster_reading import Reader
from workers.errors import Stuck, Wait

MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"
REQUESTED_AT = "reconcile.fluxcd.io/requestedAt"


class Cluster(Reader):
    """One API server, with our field manager on every write. Open it with `Cluster.open`."""

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
        words, path = "tokenreviews.authentication.k8s.io", "/apis/authentication.k8s.io/v1/tokenreviews"
        try:
            status = (await self._call("POST", path, "create", words, body=body)).get("status") or {}
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
