"""What strings of an object still name the mothership. Pure: objects in, findings out.

A finding never carries a value, only where it stands and which name it holds: values may be secrets.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from schemas.events import Audited
from workers.hosts import canonical, hub
from workers.sovereign import Sovereign

Object = Mapping[str, Any]
DOCKER_CONFIG = ".dockerconfigjson"
DOCKER_CFG = ".dockercfg"
"""The older spelling, which the kubelet reads too: the entries alone, under no `auths`."""
MAKERS = {
    "kustomize.toolkit.fluxcd.io/name": "Kustomization",
    "helm.toolkit.fluxcd.io/name": "HelmRelease",
    "meta.helm.sh/release-name": "Helm release",
    "reflector.v1.k8s.emberstack.com/reflects": "Reflector from",
    "replicator.v1.mittwald.de/replicated-from-version": "Replicator from version",
}
"""Label or annotation -> who writes a Secret. ExternalSecrets and SealedSecrets own theirs (ownerReferences)."""
UNSPOKEN = frozenset({"apiVersion", "kind", "metadata", "status"})
"""Names of kinds and labels are no addresses; a status repeats what the spec says."""

_HOST = re.compile(r"(?<![A-Za-z0-9._-])[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+(?::\d+)?")


@dataclass(frozen=True, slots=True)
class Names:
    """Every name that must not stand anywhere after the cutover, and those that look alike but are local."""

    domains: tuple[str, ...]
    prefixes: tuple[str, ...]
    """Host and path: `ghcr.io/openova-io`, `github.com/openova-io/openova`."""
    upstreams: tuple[str, ...]
    """Registry hosts that local projects stand in for. Only pullers that bypass the nodes are tied by these."""
    local: tuple[str, ...]

    @classmethod
    def of(cls, sovereign: Sovereign) -> Names:
        """The names of this Sovereign's mothership."""
        ship = sovereign.mothership
        git = re.sub(r"\.git$", "", re.sub(r"^\w+://([^@/]*@)?", "", sovereign.upstream_git.url)).rstrip("/")
        gitea = re.sub(r"^\w+://", "", sovereign.gitea.cluster_url).split("/")[0]
        return cls(
            domains=tuple(dict.fromkeys([*ship.domains, ship.registry.split(":")[0]])),
            prefixes=(ship.chart_prefix, git),
            upstreams=tuple(dict.fromkeys([*(u.host for u in sovereign.upstreams), ship.registry])),
            local=(sovereign.fqdn, sovereign.harbor.host.split(":")[0], gitea.split(":")[0]),
        )

    def in_text(self, text: str) -> str | None:
        """The first name of the mothership in a text, or None."""
        for prefix in self.prefixes:
            if re.search(rf"(?<![A-Za-z0-9._-]){re.escape(prefix)}(?![A-Za-z0-9_-])", text):
                return prefix
        for match in _HOST.finditer(text):
            host = match.group().split(":")[0].lower()
            if not _under(host, self.local) and _under(host, self.domains):
                return host
        return None

    def foreign_registry(self, host: str) -> bool:
        """True for a registry that stands upstream: the mothership's own, or one that a project replaces."""
        name = canonical(host)
        return bool({host, name} & {*self.upstreams}) or (_under(name, self.domains) and not _under(name, self.local))


@dataclass(frozen=True, slots=True)
class Tether:
    """One string that names the mothership."""

    kind: str
    namespace: str
    name: str
    path: str
    """Where in the object: `spec.url`, `spec.containers[api].env[GITOPS_URL]`."""
    names: str
    """The mothership's name that stands there."""

    def __str__(self) -> str:
        place = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.kind} {place} {self.path}: {self.names}"


def in_object(obj: Object, names: Names) -> tuple[Tether, ...]:
    """Every string of an object that names the mothership. Of a Secret only its registry entries are read."""
    found = _in_secret(obj, names) if obj.get("kind") == "Secret" else _in_strings(obj, names)
    meta = obj["metadata"]
    kind, namespace, name = str(obj.get("kind", "")), str(meta.get("namespace") or ""), str(meta["name"])
    return tuple(Tether(kind, namespace, name, path, which) for path, which in found)


def _in_strings(obj: Object, names: Names) -> Iterator[tuple[str, str]]:
    for key, part in obj.items():
        if key in UNSPOKEN:
            continue
        for path, text in strings(part, key):
            if which := names.in_text(text):
                yield path, which


def _in_secret(obj: Object, names: Names) -> Iterator[tuple[str, str]]:
    for host in registry_hosts(obj):
        if names.foreign_registry(host):
            yield f"{login_key(obj)}.auths[{host}]", host


def strings(part: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every string below, with its path. Items of a list go by their `name`, when they have one."""
    if isinstance(part, str):
        yield path, part
    elif isinstance(part, Mapping):
        for key, value in part.items():
            yield from strings(value, f"{path}.{key}" if path else str(key))
    elif isinstance(part, list):
        for number, item in enumerate(part):
            label = item.get("name", number) if isinstance(item, Mapping) else number
            yield from strings(item, f"{path}[{label}]")


def registry_hosts(secret: Object) -> tuple[str, ...]:
    """Hosts that a pull secret has an entry for. Raises ValueError when unreadable."""
    return tuple(host_of(entry) for entry in auths_of(secret))


def login_key(secret: Object) -> str | None:
    """The key of its data under which a pull secret keeps its logins; None for any other Secret."""
    return next((key for key in (DOCKER_CONFIG, DOCKER_CFG) if key in (secret.get("data") or {})), None)


def written_by(secret: Object) -> str:
    """Who will write the Secret again, in words, as far as it says; empty when it does not."""
    meta = secret["metadata"]
    labels, notes = meta.get("labels") or {}, meta.get("annotations") or {}
    makers = [f"{ref.get('kind')} {ref.get('name')}" for ref in meta.get("ownerReferences") or ()]
    makers += [f"{kind} {name}" for key, kind in MAKERS.items() if (name := labels.get(key) or notes.get(key))]
    return f" (made by {', '.join(makers)}: change it there too)" if makers else ""


def auths_of(secret: Object) -> dict[str, Any]:
    """The entries of a pull secret, {} for any other Secret. Raises ValueError when unreadable."""
    key = login_key(secret)
    if key is None:
        return {}
    try:
        whole = json.loads(base64.b64decode(secret["data"][key], validate=True))
        auths = (whole.get("auths") or {}) if key == DOCKER_CONFIG else whole
    except (binascii.Error, UnicodeDecodeError, json.JSONDecodeError, AttributeError, TypeError) as error:
        raise ValueError(f"its {key} is not readable ({type(error).__name__})") from None
    if not isinstance(auths, dict):
        raise ValueError(f"its {key} has no mapping of auths")
    return auths


def with_auths(secret: Object, auths: Mapping[str, Any]) -> str:
    """What a readable pull secret's key shall hold, so that it has these entries and all else as before."""
    key = login_key(secret)
    whole = json.loads(base64.b64decode(secret["data"][key]))
    new = {**whole, "auths": dict(auths)} if key == DOCKER_CONFIG else dict(auths)
    return base64.b64encode(json.dumps(new, separators=(",", ":")).encode()).decode()


def host_of(entry: str) -> str:
    """A registry entry's host: people write `https://index.docker.io/v1/` for docker.io."""
    host = re.sub(r"^\w+://", "", entry).split("/")[0]
    return hub(host)


def _under(host: str, domains: tuple[str, ...]) -> bool:
    return any(host == domain or host.endswith("." + domain) for domain in domains)


def tied(found: Audited) -> list[str]:
    """The findings that forbid completion: whatever could not be read, and why, then tethers 1 to 7. Where one event
    has no room for all, these are listed first (`Audit.fact`), so that none of them is hidden among those left out."""
    unread = [f"{_named(row)}: {row.get('host')}" for row in found.findings if row.get("severity") == "unreadable"]
    left = [row for row in found.findings if row.get("severity") != "unreadable"]
    return [*unread, *(_named(row) for row in left if row.get("tether") in range(1, 8))]


def _named(row: Mapping[str, Any]) -> str:
    return " ".join(str(row[part]) for part in ("kind", "namespace", "name", "field") if row.get(part))
