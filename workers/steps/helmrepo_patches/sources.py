"""Which chart and package sources stand upstream, and what they shall say instead. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from workers import flux
from workers.adapters.cluster_kinds import (
    HELM_RELEASE,
    HELM_REPOSITORY,
    OCI_REPOSITORY,
    Object,
    key_of,
    name_of,
    namespace_of,
)
from workers.adapters.oci.reference import chart_tag
from workers.declared.changes import Change, Path
from workers.declared.elsewhere import to_be_patched
from workers.errors import Stuck
from workers.sovereign import Sovereign
from workers.supply.sources import (
    KINDS,
    PACKAGE_KINDS,
    address,
    host_asked,
    is_local,
    local_address,
    path_of,
    project_of,
    settled_at,
)
from workers.tethers import Names


@dataclass(frozen=True, slots=True)
class Plan:
    """Every change, each with the object as it is; and whose sources are none of the mothership's."""

    changes: tuple[tuple[Change, Object], ...]
    foreign: tuple[str, ...]
    """Sources of third parties, left alone."""
    unmapped: tuple[str, ...] = ()
    """Sources of the mothership's for which there is no local place."""


def plan(
    objects: Iterable[Object],
    sovereign: Sovereign,
    *,
    public: Collection[str],
    releases: Mapping[tuple[str, str], Object],
) -> Plan:
    """What must change so that no source stands upstream. `public` are the projects anyone may read.

    Raises Stuck where the change cannot be made: by whom the object is made anew.
    """
    changes: list[tuple[Change, Object]] = []
    foreign: list[str] = []
    unmapped: list[str] = []
    names = Names.of(sovereign)
    for obj in objects:
        change = wanted(obj, sovereign, public)
        if change is None:
            if not is_local(address(obj), sovereign):
                theirs = names.in_text(address(obj)) or names.foreign_registry(host_asked(address(obj)))
                (unmapped if theirs else foreign).append(said_of(obj))
        elif (release := rendered_by(obj)) is not None:
            changes.append((_in_values(obj, change, release, releases), releases[release]))
        else:
            changes.append((change, obj))
    together = _together(changes)
    for change, obj in together:
        to_be_patched(change, obj, sovereign.field_manager)
    return Plan(tuple(together), tuple(foreign), tuple(unmapped))


def said_of(obj: Object) -> str:
    """A source in words: kind, name, and the host that it asks."""
    return f"{obj['kind']} {'/'.join(filter(None, key_of(obj)))} ({host_asked(address(obj))})"


def _together(changes: Iterable[tuple[Change, Object]]) -> list[tuple[Change, Object]]:
    """One change an object: two sources may be rendered from the values of one release."""
    merged: dict[tuple[str, str, str], tuple[Change, Object]] = {}
    for change, obj in changes:
        key = (change.kind.kind, change.namespace, change.name)
        fields = {**merged[key][0].fields, **change.fields} if key in merged else change.fields
        merged[key] = (replace(change, fields=fields), obj)
    return list(merged.values())


def wanted(obj: Object, sovereign: Sovereign, public: Collection[str]) -> Change | None:
    """What this source shall say; None when it already is local, or not the mothership's at all."""
    kind = KINDS[obj["kind"]]
    new = local_address(address(obj), sovereign)
    if new is None:
        return None
    if kind in PACKAGE_KINDS:
        return Change(kind, "", name_of(obj), {("spec", "package"): new})
    fields: dict[Path, str | bool] = {("spec", "url"): f"oci://{new}"}
    absent: list[Path] = []
    if kind is HELM_REPOSITORY:
        fields["spec", "type"] = "oci"
    _say_trust(fields, obj, sovereign)
    # source-controller refuses a pull secret without an entry for exactly the url's host.
    if project_of(new) not in public:
        fields["spec", "secretRef", "name"] = sovereign.flux.registry_secret
    elif "secretRef" in obj["spec"]:
        absent.append(("spec", "secretRef"))
    # A cloud's own way to sign in, or a proxy on the way upstream, is none to local Harbor.
    absent += [("spec", key) for key in ("provider", "proxySecretRef") if obj["spec"].get(key) not in (None, "generic")]
    return Change(kind, namespace_of(obj), name_of(obj), fields, tuple(absent))


def _say_trust(fields: dict[Path, str | bool], obj: Object, sovereign: Sovereign) -> None:
    """Plain HTTP and a private CA are said per source: OCI sources cannot skip verification."""
    if sovereign.harbor.scheme == "http":
        fields["spec", "insecure"] = True
    elif obj["spec"].get("insecure"):
        fields["spec", "insecure"] = False
    if sovereign.harbor.ca_file is not None:
        fields["spec", "certSecretRef", "name"] = ca_secret(sovereign)


def ca_secret(sovereign: Sovereign) -> str:
    """Name of the Secret with the CA of local Harbor."""
    return f"{sovereign.flux.registry_secret}-ca"


@dataclass(frozen=True, slots=True)
class Artifact:
    """Something that local Harbor must serve: repository with its project first, and tag or digest."""

    repository: str
    reference: str


def needed(todo: Plan, charts: Iterable[Object], sovereign: Sovereign) -> list[Artifact]:
    """What will be asked of local Harbor once the plan is carried out: the charts in use, and the packages."""
    hosts: dict[tuple[str, str], str] = {}
    found: dict[Artifact, None] = {}
    for change, _ in todo.changes:
        if change.kind is HELM_REPOSITORY:
            url = str(change.fields["spec", "url"])
            hosts[change.namespace, change.name] = path_of(url)
        elif change.kind in PACKAGE_KINDS:
            name, _, digest = path_of(str(change.fields["spec", "package"])).partition("@")
            repository, _, tag = name.partition(":")
            found[Artifact(repository, digest or tag or "latest")] = None
    for chart in charts:
        source = flux.source_of(chart, "HelmRepository")
        artifact = (chart.get("status") or {}).get("artifact") or {}
        version = str(artifact.get("revision") or chart["spec"].get("version", ""))
        # A range without an archive so far cannot be looked up by name; fetching it will tell.
        if source in hosts and version[:1].isdigit():
            found[Artifact(f"{hosts[source]}/{chart['spec']['chart']}", chart_tag(version))] = None
    return list(found)


def pinned(
    sources: Iterable[Object], charts: Iterable[Object], releases: Iterable[Object], sovereign: Sovereign
) -> list[Artifact]:
    """Every chart and package that a local source names in a version: what must be had with local credentials."""
    places = {
        key_of(obj): path_of(address(obj))
        for obj in sources
        if obj["kind"] == HELM_REPOSITORY.kind and is_local(address(obj), sovereign)
    }
    found: dict[Artifact, None] = {}
    for obj in sources:
        if obj["kind"] != HELM_REPOSITORY.kind and (place := settled_at(obj, sovereign)):
            found[_artifact(place, obj)] = None
    wanted = [(chart, chart["spec"]) for chart in charts]
    wanted += [(release, (release["spec"].get("chart") or {}).get("spec") or {}) for release in releases]
    for obj, spec in wanted:
        source = flux.source_of(obj, "HelmRepository")
        version = str(((obj.get("status") or {}).get("artifact") or {}).get("revision") or spec.get("version", ""))
        if source in places and re.fullmatch(r"v?\d+\.\d+\.\d+[-+\w.]*", version):
            found[Artifact(f"{places[source]}/{spec['chart']}", chart_tag(version))] = None
    return [artifact for artifact in found if artifact.reference]


def at_home(obj: Object, sovereign: Sovereign) -> Artifact:
    """What local Harbor must serve in place of a package that still names its upstream."""
    return _artifact(str(local_address(address(obj), sovereign)), obj)


def _artifact(place: str, obj: Object) -> Artifact:
    bare = place.partition("/")[2]
    if obj["kind"] == OCI_REPOSITORY.kind:
        ref = obj["spec"].get("ref") or {}
        return Artifact(bare, str(ref.get("digest") or ref.get("tag") or ("" if ref.get("semver") else "latest")))
    name, _, digest = bare.partition("@")
    repository, _, tag = name.partition(":")
    return Artifact(repository, digest or tag or "latest")


def rendered_by(obj: Object) -> tuple[str, str] | None:
    """The HelmRelease whose chart rendered this object; ("", release) when Helm did without Flux."""
    if owner := flux.owner(obj, flux.OWNED_BY_RELEASE):
        return owner
    labels = obj["metadata"].get("labels") or {}
    if labels.get("app.kubernetes.io/managed-by") != "Helm":
        return None
    notes = obj["metadata"].get("annotations") or {}
    return "", str(notes.get("meta.helm.sh/release-name", "unknown"))


def _in_values(
    obj: Object, change: Change, release: tuple[str, str], releases: Mapping[tuple[str, str], Object]
) -> Change:
    """The change said in the values of the release that renders the object. Raises Stuck where it cannot be."""
    who = f"{change} is rendered by Helm release {'/'.join(filter(None, release))}"
    if release not in releases:
        raise Stuck("RenderedByHelm", f"{who}, which Flux does not manage; change its values, then run this again")
    found = list(_places(releases[release]["spec"].get("values") or {}, address(obj)))
    if not found:
        raise Stuck("RenderedByHelm", f"{who}, whose values do not hold {address(obj)}; set it there first")
    new = change.fields.get(("spec", "package")) or change.fields["spec", "url"]
    return Change(HELM_RELEASE, *release, {("spec", "values", *path): new for path in found})


def _places(part: Any, text: str, path: Path = ()) -> Iterator[Path]:
    if part == text:
        yield path
    elif isinstance(part, Mapping):
        for key, value in part.items():
            yield from _places(value, text, (*path, str(key)))
    elif isinstance(part, list):
        for number, value in enumerate(part):
            yield from _places(value, text, (*path, number))
