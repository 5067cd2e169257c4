"""As much of `/openapi/v3` as clients need to learn that this server checks fields itself.

client-go asks whether a kind's PATCH knows the parameter `fieldValidation` (query_param_verifier_v3.go); where it
does, kubectl and Helm leave the checking to the server. No schemas are told.
"""

from __future__ import annotations

from typing import Any

from sandbox.kube.resources import Catalogue, Resource

Object = dict[str, Any]
_PARAMETERS = ("dryRun", "fieldManager", "fieldValidation", "force")


def _root(resource: Resource) -> str:
    return f"apis/{resource.group}/{resource.version}" if resource.group else f"api/{resource.version}"


def index(catalogue: Catalogue) -> Object:
    """`/openapi/v3`: where each group and version is described."""
    roots = sorted({_root(resource) for resource in catalogue.all()})
    return {"paths": {root: {"serverRelativeURL": f"/openapi/v3/{root}"} for root in roots}}


def document(catalogue: Catalogue, root: str) -> Object | None:
    """`/openapi/v3/apis/<group>/<version>`; None when nothing of it is served."""
    found = [resource for resource in catalogue.all() if _root(resource) == root]
    if not found:
        return None
    info = {"title": "Kubernetes", "version": "unversioned"}
    return {"openapi": "3.0.0", "info": info, "paths": {_path(r): _operations(r) for r in found}}


def _path(resource: Resource) -> str:
    where = "namespaces/{namespace}/" if resource.namespaced else ""
    return f"/{_root(resource)}/{where}{resource.plural}/{{name}}"


def _operations(resource: Resource) -> Object:
    kind = {"group": resource.group, "version": resource.version, "kind": resource.kind}
    parameters = [{"name": name, "in": "query", "schema": {"type": "string"}} for name in _PARAMETERS]
    return {
        "patch": {
            "parameters": parameters,
            "responses": {"200": {"description": "OK"}},
            "x-kubernetes-group-version-kind": kind,
        }
    }
