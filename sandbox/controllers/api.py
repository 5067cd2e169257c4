"""What controllers know of the Kubernetes API: kinds, paths, and the few verbs they use."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol

from sandbox.kube import errors

Object = dict[str, Any]

MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind, at the version that the controllers read."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", sub: str = "") -> str:
        """URL path of the collection (no name), the object, or its subresource."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        place = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return "".join((root, place, f"/{self.plural}", f"/{name}" if name else "", f"/{sub}" if sub else ""))


FLUX_SOURCE = "source.toolkit.fluxcd.io"
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
PODS = Resource("", "v1", "pods", "Pod")
SECRETS = Resource("", "v1", "secrets", "Secret")
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")
REPLICA_SETS = Resource("apps", "v1", "replicasets", "ReplicaSet")
DAEMON_SETS = Resource("apps", "v1", "daemonsets", "DaemonSet")
JOBS = Resource("batch", "v1", "jobs", "Job")
GIT_REPOSITORIES = Resource(FLUX_SOURCE, "v1", "gitrepositories", "GitRepository")
HELM_REPOSITORIES = Resource(FLUX_SOURCE, "v1", "helmrepositories", "HelmRepository")
HELM_CHARTS = Resource(FLUX_SOURCE, "v1", "helmcharts", "HelmChart")
OCI_REPOSITORIES = Resource(FLUX_SOURCE, "v1beta2", "ocirepositories", "OCIRepository")
KUSTOMIZATIONS = Resource("kustomize.toolkit.fluxcd.io", "v1", "kustomizations", "Kustomization")
HELM_RELEASES = Resource("helm.toolkit.fluxcd.io", "v2", "helmreleases", "HelmRelease")
PROVIDERS = Resource("pkg.crossplane.io", "v1", "providers", "Provider", namespaced=False)
IMAGE_CONFIGS = Resource("pkg.crossplane.io", "v1beta1", "imageconfigs", "ImageConfig", namespaced=False)
CRDS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)


class ApiError(Exception):
    """The API server said no."""

    def __init__(self, status: int, body: Any) -> None:
        detail = body if isinstance(body, dict) else {}
        self.status = status
        self.reason = str(detail.get("reason", ""))
        super().__init__(str(detail.get("message", "")) or f"HTTP {status}")


class Local(Protocol):
    """The in-process client of `sandbox.kube`."""

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: dict[str, str] = ...,
        content_type: str = ...,
        user: str = ...,
    ) -> tuple[int, Any]: ...

    def watch(self, path: str, query: dict[str, str] = ...) -> AsyncIterator[tuple[str, Object]]: ...


class Api:
    """The verbs. Everything but a NotFound where None says it is raised as ApiError."""

    def __init__(self, local: Local, user: str = "system:admin") -> None:
        self.local = local
        self._user = user

    async def _call(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json", **query: str
    ) -> Any:
        status, answer = await self.local.request(
            method, path, body, query=query, content_type=content_type, user=self._user
        )
        if status >= 400:
            raise ApiError(status, answer)
        return answer

    async def watch(self, resource: Resource, version: str) -> AsyncIterator[tuple[str, Object]]:
        """Changes after a resourceVersion, bookmarks among them. Raises ApiError when the watch is refused."""
        query = {"resourceVersion": version, "allowWatchBookmarks": "true"}
        try:
            async for event in self.local.watch(resource.path(), query):
                yield event
        except errors.ApiError as error:
            raise ApiError(error.code, error.status()) from error

    async def get(self, resource: Resource, name: str, namespace: str = "") -> Object | None:
        """The object, or None when it is not there."""
        try:
            found: Object = await self._call("GET", resource.path(namespace, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return found

    async def list(self, resource: Resource, namespace: str = "") -> tuple[list[Object], str]:
        """All objects, and the resourceVersion they stand for. Items of a list carry no kind: it is added."""
        answer = await self._call("GET", resource.path(namespace))
        kind = {"apiVersion": resource.api_version, "kind": resource.kind}
        return [{**kind, **item} for item in answer.get("items") or []], str(answer["metadata"]["resourceVersion"])

    async def create(self, resource: Resource, obj: Object, manager: str) -> Object:
        """Create; a name that is taken raises ApiError 409."""
        namespace = obj["metadata"].get("namespace", "")
        made: Object = await self._call("POST", resource.path(namespace), obj, fieldManager=manager)
        return made

    async def apply(self, resource: Resource, obj: Object, manager: str) -> Object:
        """Server-side apply, with force."""
        meta = obj["metadata"]
        path = resource.path(meta.get("namespace", ""), meta["name"])
        applied: Object = await self._call("PATCH", path, obj, APPLY, fieldManager=manager, force="true")
        return applied

    async def merge(self, resource: Resource, obj: Object, body: Object, manager: str, sub: str = "") -> Object | None:
        """Merge patch of `obj` (or its subresource); None when it is gone meanwhile."""
        meta = obj["metadata"]
        path = resource.path(meta.get("namespace", ""), meta["name"], sub)
        try:
            patched: Object = await self._call("PATCH", path, body, MERGE, fieldManager=manager)
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return patched

    async def delete(self, resource: Resource, name: str, namespace: str = "") -> bool:
        """Delete, dependants in the background; False when it was not there."""
        try:
            await self._call("DELETE", resource.path(namespace, name), propagationPolicy="Background")
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True
