"""One request to a resource, and an object as it is shown in answer."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sandbox.kube.access import User
from sandbox.kube.errors import ApiError
from sandbox.kube.managed import Owner
from sandbox.kube.resources import Resource

Object = dict[str, Any]
_GENERATIONS = {"apps", "batch", "networking.k8s.io", "policy", "apiextensions.k8s.io"}


@dataclass
class Call:
    """One request to a resource."""

    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    content_type: str = "application/json"
    agent: str = "unknown"
    user: User = field(default_factory=lambda: User("system:admin", ("system:masters",)))
    warnings: list[str] = field(default_factory=list)

    @property
    def dry(self) -> bool:
        """Whether nothing is to be kept."""
        return self.query.get("dryRun") == "All"

    def owner(self, operation: str) -> Owner:
        """Who is to own what this call writes."""
        manager = self.query.get("fieldManager") or self.agent
        return Owner(manager, operation, self.resource.api_version, self.subresource)


def shown(obj: Object, resource: Resource) -> Object:
    """The object in the version that was asked for."""
    return {**obj, "apiVersion": resource.api_version, "kind": resource.kind}


def counted(r: Resource) -> bool:
    """Whether objects of this kind count the generations of their spec."""
    return r.custom or r.group in _GENERATIONS or r.key == ("", "pods")


def parse_revision(text: str) -> int:
    """A resourceVersion; nothing is 0. What is no number is answered as 500, with no reason."""
    if not text:
        return 0
    if not all(c in string.digits for c in text):
        said = f'resourceVersion: Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax'
        raise ApiError(500, "", said)
    return int(text)
