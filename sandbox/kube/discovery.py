"""What is served, as clients ask for it. Aggregated discovery is answered with the plain form, as older servers do."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from sandbox.kube.resources import ALL_VERBS, Catalogue, Resource, priority

Object = dict[str, Any]

_SUBRESOURCES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "status": ("", "", ("get", "patch", "update")),
    "scale": ("autoscaling/v1", "Scale", ("get", "patch", "update")),
    "token": ("authentication.k8s.io/v1", "TokenRequest", ("create",)),
    "eviction": ("policy/v1", "Eviction", ("create",)),
    "binding": ("", "Binding", ("create",)),
    "log": ("", "", ("get",)),
    "finalize": ("", "", ("update",)),
}


def versions() -> Object:
    """`/api`."""
    return {
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": "127.0.0.1"}],
    }


def version() -> Object:
    """`/version`: the release whose recorded answers this server is held to."""
    return {
        "major": "1",
        "minor": "36",
        "emulationMajor": "1",
        "emulationMinor": "36",
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35",
        "gitVersion": "v1.36.0+sandbox",
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "",
        "platform": "",
    }


def _by_group(catalogue: Catalogue) -> dict[str, list[str]]:
    found: dict[str, set[str]] = {}
    for resource in catalogue.all():
        if resource.group:
            found.setdefault(resource.group, set()).add(resource.version)
    return {group: sorted(names, key=priority) for group, names in found.items()}


def _group(name: str, found: list[str]) -> Object:
    listed = [{"groupVersion": f"{name}/{v}", "version": v} for v in found]
    return {"name": name, "versions": listed, "preferredVersion": listed[0]}


def groups(catalogue: Catalogue) -> Object:
    """`/apis`."""
    listed = [_group(name, found) for name, found in _by_group(catalogue).items()]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}


def group(catalogue: Catalogue, name: str) -> Object | None:
    """`/apis/<group>`."""
    found = _by_group(catalogue).get(name)
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(name, found)} if found else None


def _hash(resource: Resource) -> str:
    said = f"{resource.group}/{resource.storage_version or resource.version}/{resource.kind}"
    return base64.b64encode(hashlib.sha256(said.encode()).digest()[:8]).decode()


def _listed(resource: Resource) -> list[Object]:
    one: Object = {
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": list(resource.verbs),
    }
    if resource.short:
        one["shortNames"] = list(resource.short)
    if resource.categories:
        one["categories"] = list(resource.categories)
    if len(resource.verbs) >= len(ALL_VERBS) - 1:
        one["storageVersionHash"] = _hash(resource)
    out = [one]
    for name in sorted(resource.subresources):
        where, kind, verbs = _SUBRESOURCES[name]
        sub: Object = {
            "name": f"{resource.plural}/{name}",
            "singularName": "",
            "namespaced": resource.namespaced,
            "kind": kind or resource.kind,
            "verbs": list(verbs),
        }
        if where:
            sub["group"], _, sub["version"] = where.rpartition("/")
        out.append(sub)
    return out


def resources(catalogue: Catalogue, group_name: str, version_name: str) -> Object | None:
    """`/apis/<group>/<version>`, or `/api/v1` for the group with no name."""
    found = [r for r in catalogue.all() if (r.group, r.version) == (group_name, version_name)]
    if not found:
        return None
    where = f"{group_name}/{version_name}" if group_name else version_name
    listed = [one for r in sorted(found, key=lambda r: r.plural) for one in _listed(r)]
    body: Object = {"kind": "APIResourceList", "groupVersion": where, "resources": listed}
    return body | ({"apiVersion": "v1"} if group_name else {})
