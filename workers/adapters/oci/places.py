"""Where each reference lives in local Harbor, and from where it may be fetched. Pure: one map for all who ask.

An image keeps its path below the project of its host, because nodes only swap the host. Charts of the mothership
have a project of their own. What the mothership's registry names keeps its path whole: its projects are ours too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from workers.adapters.oci.reference import Reference
from workers.sovereign import Login, Mode, Sovereign


class What(StrEnum):
    """What a reference is used as: it decides where it lives."""

    IMAGE = "image"
    CHART = "chart"
    PACKAGE = "package"


@dataclass(frozen=True, slots=True)
class Origin:
    """One place to fetch from: a registry on the wire and a repository in it."""

    host: str
    url: str
    repository: str
    login: Login | None = None


def local_repository(sovereign: Sovereign, reference: Reference, what: What) -> str | None:
    """Repository in local Harbor, project first; None when nobody mapped the host."""
    if reference.host in (sovereign.harbor.host, sovereign.mothership.registry):
        return reference.repository
    if what is What.CHART and (chart := _below(reference.name, sovereign.mothership.chart_prefix)):
        return f"{sovereign.mothership.chart_project}/{chart}"
    project = sovereign.project_of(reference.host)
    return f"{project}/{reference.repository}" if project else None


def origins(sovereign: Sovereign, reference: Reference, what: What) -> tuple[Origin, ...]:
    """Where to fetch from, in order: the mothership's registry if it is described, then the canonical one.

    A reference to local Harbor is traced back to where such a thing came from; so is a path of the mothership's.
    """
    repository = local_repository(sovereign, reference, what)
    if repository is None:
        return ()
    canonical = _canonical(sovereign, reference, repository)
    mothership = _mothership(sovereign, reference, repository)
    return tuple(dict.fromkeys([*mothership, *canonical]))


def _mothership(sovereign: Sovereign, reference: Reference, repository: str) -> list[Origin]:
    registry = sovereign.mothership.registry
    if sovereign.mothership_endpoint is None and reference.host != registry:
        return []
    url = sovereign.mothership_endpoint or f"https://{registry}"
    return [Origin(registry, url, repository, sovereign.mothership_login)]


def _canonical(sovereign: Sovereign, reference: Reference, repository: str) -> list[Origin]:
    name = reference.name
    if reference.host in (sovereign.harbor.host, sovereign.mothership.registry):
        name = _traced(sovereign, repository)
    host, _, path = name.partition("/")
    upstream = next((u for u in sovereign.upstreams if u.host == host), None)
    if upstream is None:
        return []
    # Docker Hub's registry answers at another name than its images carry (docs: registry-1.docker.io).
    default = "https://registry-1.docker.io" if host == "docker.io" else f"https://{host}"
    return [Origin(host, upstream.endpoint or default, path, upstream.login)]


def _traced(sovereign: Sovereign, repository: str) -> str:
    """The upstream name of a local repository; empty when its project stands for no upstream."""
    if chart := _below(repository, sovereign.mothership.chart_project):
        return f"{sovereign.mothership.chart_prefix}/{chart}"
    project, _, path = repository.partition("/")
    return next((f"{u.host}/{path}" for u in sovereign.upstreams if u.project == project), "")


def _below(name: str, prefix: str) -> str:
    start = prefix.rstrip("/") + "/"
    return name.removeprefix(start) if name.startswith(start) else ""


def literal_projects(sovereign: Sovereign, references: Iterable[Reference]) -> frozenset[str]:
    """Projects that references to the mothership's registry name themselves: they must exist here as well."""
    registry = sovereign.mothership.registry
    return frozenset(r.repository.partition("/")[0] for r in references if r.host == registry)


def proxied_projects(sovereign: Sovereign) -> frozenset[str]:
    """Projects that fill themselves by being pulled from, and refuse to be pushed to."""
    return frozenset(u.project for u in sovereign.upstreams if u.mode is Mode.PROXY)
