"""Where charts and packages come from, and the place in local Harbor that stands for each. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from workers.adapters.cluster_kinds import (
    CONFIGURATION,
    FUNCTION,
    HELM_REPOSITORY,
    OCI_REPOSITORY,
    PROVIDER,
    Kind,
    Object,
)
from workers.hosts import canonical, canonical_address
from workers.sovereign import Sovereign

REPOSITORIES = (HELM_REPOSITORY, OCI_REPOSITORY)
PACKAGE_KINDS = (PROVIDER, CONFIGURATION, FUNCTION)
KINDS: Mapping[str, Kind] = {kind.kind: kind for kind in (*REPOSITORIES, *PACKAGE_KINDS)}

DEFAULT_PACKAGE_HOST = "xpkg.upbound.io"
"""What Crossplane up to 1.19 takes for a package that names no host."""


def address(obj: Object) -> str:
    """Where a source points: its url, or its package reference."""
    spec = obj["spec"]
    return str(spec["package"] if KINDS[obj["kind"]] in PACKAGE_KINDS else spec["url"])


def local_address(said: str, sovereign: Sovereign) -> str | None:
    """`oci://ghcr.io/openova-io/x` -> `harbor.<fqdn>/openova-io/x`; None for what is not upstream's.

    Charts of the mothership have a project of their own; everything else goes by its host's project, however the host
    is spelled.
    """
    scheme, bare = split(said)
    scheme, bare = scheme.lower(), canonical_address(bare, scheme)
    harbor, ship = sovereign.harbor.host, sovereign.mothership
    prefix = ship.chart_prefix.rstrip("/")
    if scheme and (bare == prefix or bare.startswith(prefix + "/")):
        return f"{harbor}/{ship.chart_project}{bare[len(prefix) :]}"
    host, _, path = bare.partition("/")
    if host in (ship.registry, canonical(ship.registry)) and path:
        # The mothership's Harbor holds projects of the same names (docs: harbor.openova.io/proxy-*).
        return f"{harbor}/{path}"
    project = sovereign.project_of(host) or sovereign.project_of(host_asked(said))
    # Plain chart repositories of upstream hosts (https) have no OCI path to map.
    if project is None or not path or (scheme and scheme != "oci"):
        return None
    return f"{harbor}/{project}/{path}"


def is_local(said: str, sovereign: Sovereign) -> bool:
    """True for an address in local Harbor."""
    return host_asked(said) == sovereign.harbor.host


def host_asked(said: str) -> str:
    """Host and port of an address."""
    return split(said)[1].partition("/")[0]


def project_of(bare: str) -> str:
    """The Harbor project of `host/project/rest`."""
    return bare.split("/")[1]


def split(said: str) -> tuple[str, str]:
    """(scheme, the rest without a trailing slash). A package without a host gets Crossplane's default."""
    scheme, found, rest = said.rstrip("/").rpartition("://")
    if found:
        return scheme, rest
    first = rest.partition("/")[0]
    hosted = "/" in rest and ("." in first or ":" in first or first == "localhost")
    return "", rest if hosted else f"{DEFAULT_PACKAGE_HOST}/{rest}"


def settled_at(obj: Object, sovereign: Sovereign) -> str | None:
    """Where in local Harbor an OCIRepository or package comes from now, host first; None when not from there."""
    said = address(obj)
    if is_local(said, sovereign):
        return split(said)[1]
    return local_address(said, sovereign) if resolved_locally(obj, sovereign) else None


def resolved_locally(obj: Object, sovereign: Sovereign) -> bool:
    """True for a package that Crossplane itself rewrote to its place in local Harbor (ImageConfig, since 1.20)."""
    place = local_address(address(obj), sovereign) if KINDS[obj["kind"]] in PACKAGE_KINDS else None
    return place is not None and (obj.get("status") or {}).get("resolvedPackage") == place


def path_of(said: str) -> str:
    """An address without scheme and host."""
    return split(said)[1].partition("/")[2]
