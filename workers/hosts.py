"""How people spell the name of a registry, and the one spelling by which it is looked up. Pure."""

from __future__ import annotations

HUB = "docker.io"
HUB_ALIASES = frozenset({"index.docker.io", "registry-1.docker.io"})
"""Docker Hub by the names it answers at: distribution/reference takes the first for docker.io, people write both."""

_PORTS = {"http": ":80"}
_TLS = ":443"


def hub(host: str) -> str:
    """The host, and docker.io for any name of Docker Hub."""
    return HUB if host in HUB_ALIASES else host


def canonical(host: str, scheme: str = "https") -> str:
    """`GHCR.io:443` -> `ghcr.io`: in small letters, without the port that the scheme has anyway (`oci` goes by TLS)."""
    return hub(host.lower().removesuffix(_PORTS.get(scheme.lower(), _TLS)))


def canonical_address(bare: str, scheme: str = "https") -> str:
    """An address without its scheme, its host in the one spelling."""
    host, slash, path = bare.partition("/")
    return canonical(host, scheme) + slash + path
