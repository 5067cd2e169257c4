"""What a container is told by its settings: texts that can be read, and names whose text nobody here reads.

Of a Secret only the names of its keys are looked at, and only where Secrets are read anyway; never a value.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from workers.tethers import strings

Object = Mapping[str, Any]
Config = Mapping[tuple[str, str], Object]
"""ConfigMaps, by namespace and name."""
Keys = Mapping[tuple[str, str], Collection[str]]
"""The names of the keys in each Secret that could be read."""
NO_KEYS: Keys = {}
PROXY = re.compile(r"(https?|all|ftp|grpc)_proxy", re.IGNORECASE)
"""Variables by which nearly every program is told to go through a proxy (curl, Go's httpproxy, Python's urllib)."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One variable, or what the container is started with (`command`, `args`)."""

    name: str
    text: str = ""
    unseen: str = ""
    """Why nobody knows its text; empty when it stands here."""

    @property
    def proxy(self) -> str:
        """HOST:PORT of the proxy that it names, or empty."""
        return proxy_host(self.text) if PROXY.fullmatch(self.name) else ""

    @property
    def veiled(self) -> str:
        """Why nobody knows which proxy it names; empty when that is known, or it is no such variable."""
        if not PROXY.fullmatch(self.name):
            return ""
        place = self.text.strip().rpartition("@")[2]  # a login made of other variables hides no address
        if "$(" in place:
            return "its address is put together of other variables"
        return self.unseen or ("its value is not HOST:PORT" if place and not self.proxy else "")


def settings(container: Object, namespace: str, config: Config, keys: Keys = NO_KEYS) -> Iterator[Setting]:
    """Every setting of a container, followed into ConfigMaps; what it is started with too."""
    for source in container.get("envFrom") or ():
        prefix = str(source.get("prefix") or "")
        found = config.get((namespace, _named(source, "configMapRef"))) or {}
        yield from (Setting(f"{prefix}{key}", str(text)) for key, text in (found.get("data") or {}).items())
        secret = _named(source, "secretRef")
        for key in keys.get((namespace, secret), ()):
            yield Setting(f"{prefix}{key}", unseen=f"its value stands in Secret {secret}")
    for entry in container.get("env") or ():
        yield _single(entry, namespace, config)
    for part in ("command", "args"):
        yield from (Setting(part, text) for _, text in strings(container.get(part) or []))


def _single(entry: Mapping[str, Any], namespace: str, config: Config) -> Setting:
    name, origin = str(entry["name"]), entry.get("valueFrom") or {}
    if ref := origin.get("configMapKeyRef"):
        found = config.get((namespace, str(ref.get("name", "")))) or {}
        return Setting(name, str((found.get("data") or {}).get(ref.get("key"), "")))
    if secret := origin.get("secretKeyRef"):
        return Setting(name, unseen=f"its value stands in Secret {secret.get('name')}")
    unseen = f"its value comes from a {next(iter(origin))}" if origin else ""
    return Setting(name, str(entry.get("value") or ""), unseen)


def unlisted(container: Object, namespace: str, keys: Keys) -> Iterator[str]:
    """Secrets that it takes whole, and of which not even the names of the keys are known."""
    for source in container.get("envFrom") or ():
        if (secret := _named(source, "secretRef")) and (namespace, secret) not in keys:
            yield secret


def _named(source: Mapping[str, Any], ref: str) -> str:
    return str((source.get(ref) or {}).get("name") or "")


def proxy_host(text: str) -> str:
    """HOST:PORT of a proxy as the variables spell it, without its login; empty for none. Schemes may be left out."""
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        port = parts.port or {"https": 443, "http": 80}.get(parts.scheme, 1080 if parts.scheme else 80)
    except ValueError:
        return ""
    name = parts.hostname or ""
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}" if name else ""
