"""What Kubernetes objects need, live or declared. Pure: objects in, needs out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from workers.adapters.cluster import (
    CONFIGURATION,
    CRON_JOB,
    DAEMON_SET,
    DEPLOYMENT,
    FUNCTION,
    HELM_RELEASE,
    HELM_REPOSITORY,
    JOB,
    OCI_REPOSITORY,
    POD,
    PROVIDER,
    STATEFUL_SET,
    Kind,
)
from workers.adapters.oci import What, chart_tag
from workers.hosts import canonical_address
from workers.needs.need import Need, Needs, Object
from workers.needs.spellings import lines, spelled

POSTGRES = Kind("postgresql.cnpg.io", "Cluster", "clusters")
"""CloudNativePG's: Harbor's and Gitea's databases, whose Pods have no template."""
Sources = Mapping[tuple[str, str, str], Object]
"""HelmRepositories and HelmCharts by kind, namespace and name."""
WORKLOADS = (POD, DEPLOYMENT, STATEFUL_SET, DAEMON_SET, JOB, CRON_JOB)
SOURCES = (HELM_REPOSITORY, HELM_RELEASE, OCI_REPOSITORY)
PACKAGES = (PROVIDER, CONFIGURATION, FUNCTION)
LIVE = (*WORKLOADS, *SOURCES, *PACKAGES)
_WORKLOADS = frozenset(k.kind for k in WORKLOADS)
_PACKAGES = frozenset(k.kind for k in PACKAGES)
_OVER = frozenset({"Succeeded", "Failed"})
_SILENT = frozenset({"HelmRepository", "CustomResourceDefinition", "Secret", "Node"})
"""Kinds in which the word image means something else, or which are read elsewhere."""
_VERSION = re.compile(r"v?\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?")
DEFAULT_PACKAGE_HOST = "xpkg.upbound.io"
"""Where Crossplane up to 1.19 looks for a package that names no host (internal/xpkg)."""


def needs_of(objects: Iterable[Object], where: str, *, optional: bool = False) -> Needs:
    """What these objects need. `where` begins each reason: `live`, or `Git`."""
    kept = list(objects)
    sources = {(str(o["kind"]), *_key(o)): o for o in kept if o.get("kind") in ("HelmRepository", "HelmChart")}
    said = [n for o in kept for n in _readable(o, sources, where, optional)]
    found = tuple(n for n in said if isinstance(n, Need))
    return Needs(found, tuple(n for n in said if isinstance(n, str)))


def _readable(obj: Object, sources: Sources, where: str, optional: bool) -> Iterator[Need | str]:
    """As `_needs`. What has another shape than its kind is told: one odd file in Git must not stop everything."""
    reason = f"{where}: {obj.get('kind')} {_name(obj)}"
    try:
        yield from _needs(obj, sources, reason, optional)
    except (AttributeError, KeyError, TypeError) as error:
        yield f"{reason}: has not the shape of its kind, what it needs is not seen ({error})"


def _needs(obj: Object, sources: Sources, reason: str, optional: bool) -> Iterator[Need | str]:
    """The needs of one object, and in words what could not be read as one."""
    kind = obj.get("kind")
    if kind in _WORKLOADS:
        if (obj.get("status") or {}).get("phase") not in _OVER:
            yield from (Need(What.IMAGE, image, reason, optional) for image in images(_pod_spec(obj)))
    elif kind == "HelmRelease":
        yield from _chart(obj, sources, reason)
        yield from in_values(_spec(obj).get("values"), f"{reason}, values", optional)
        if _spec(obj).get("valuesFrom"):
            yield f"{reason}: images in values that it takes from elsewhere (valuesFrom) are not seen"
    elif kind == "HelmChart" and "sourceRef" in _spec(obj):  # k3s has another kind of that name
        yield from _fetched(obj, _spec(obj), sources, reason)
    elif kind == "OCIRepository":
        yield from _oci_repository(obj, reason)
    elif kind in _PACKAGES:
        if package := _spec(obj).get("package"):
            yield Need(What.PACKAGE, _hosted(str(package)), reason, optional)
    elif kind == "ConfigMap":
        yield from _config_map(obj, reason, optional)
    elif kind == "Kustomization":
        # Kustomize's own file has it at the top, Flux's object in its spec.
        for part in (obj, _spec(obj)):
            yield from _transformer(part, reason, optional)
    elif kind not in _SILENT:
        yield from in_values({k: v for k, v in obj.items() if k in ("spec", "status")}, reason, optional)


def in_values(values: Any, reason: str, optional: bool) -> Iterator[Need | str]:
    """Images in values of any shape."""
    found = spelled(values)
    yield from (Need(What.IMAGE, image, reason, optional) for image in found.images)
    yield from (Need(What.IMAGE, image, reason, optional=True, loose=True) for image in found.loose)
    if not found.whole:
        yield f"{reason}: too large, images in the rest of it are not seen"


def _config_map(obj: Object, reason: str, optional: bool) -> Iterator[Need]:
    """Manifests in a ConfigMap, as k3s keeps its volume helper's (`helperPod.yaml`)."""
    for key, text in (obj.get("data") or {}).items():
        if str(key).endswith((".yaml", ".yml")) and isinstance(text, str):
            named = (value for _, value in lines(text) if "/" in value and "{" not in value and "://" not in value)
            yield from (Need(What.IMAGE, value, f"{reason}, {key}", optional) for value in named)


def _transformer(obj: Object, reason: str, optional: bool) -> Iterator[Need | str]:
    """Kustomize's `images`: what it puts in the place of a name; and images in patches that are written as text."""
    for patch in (*(obj.get("patches") or ()), *(obj.get("patchesStrategicMerge") or ())):
        text = patch.get("patch") if isinstance(patch, Mapping) else patch
        for _, value in lines(str(text or "")):
            if "/" in value and "{" not in value:
                yield Need(What.IMAGE, value, f"{reason}, patches", optional)
    for entry in obj.get("images") or ():
        name = str(entry.get("newName") or entry.get("name") or "")
        tag, digest = entry.get("newTag"), entry.get("digest")
        if name and (tag or digest):
            whole = name + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")
            yield Need(What.IMAGE, whole, f"{reason}, images", optional)


# workloads


def _pod_spec(obj: Object) -> Object:
    """The Pod's own, or the template's."""
    spec = _spec(obj)
    if obj.get("kind") == "CronJob":
        spec = _spec(spec.get("jobTemplate") or {})
    return spec if obj.get("kind") == "Pod" else _spec(spec.get("template") or {})


def images(pod_spec: Object) -> Iterator[str]:
    """Every image that a kubelet would pull for this Pod, image volumes included."""
    for part in ("initContainers", "containers", "ephemeralContainers"):
        for container in pod_spec.get(part) or []:
            if image := container.get("image"):
                yield str(image)
    for volume in pod_spec.get("volumes") or []:
        if reference := (volume.get("image") or {}).get("reference"):
            yield str(reference)


# charts


def _chart(release: Object, sources: Sources, reason: str) -> Iterator[Need | str]:
    spec = _spec(release)
    if reference := spec.get("chartRef"):
        if reference.get("kind") != "HelmChart":
            return  # an OCIRepository is listed itself
        key = (reference.get("namespace") or _key(release)[0], reference.get("name", ""))
        chart = sources.get(("HelmChart", *key))
        if chart is None:
            yield f"{reason}: its chart is HelmChart {key[0]}/{key[1]}, which is read in Git only: see that it is there"
        else:
            yield from _fetched(chart, _spec(chart), sources, reason, release)
    else:
        yield from _fetched(release, (spec.get("chart") or {}).get("spec") or {}, sources, reason, release)


def _fetched(
    owner: Object, spec: Object, sources: Sources, reason: str, release: Object | None = None
) -> Iterator[Need | str]:
    """The chart that a HelmChart's `spec` names, which stands in `owner`, with what the release makes of it."""
    source = spec.get("sourceRef") or {}
    if source.get("kind") != "HelmRepository":
        return  # a GitRepository is step 1's
    key = (source.get("namespace") or _key(owner)[0], source.get("name", ""))
    repository = sources.get(("HelmRepository", *key))
    wanted, runs = str(spec.get("version") or ""), _deployed(release or {})
    if repository is None:
        yield f"{reason}: its HelmRepository {key[0]}/{key[1]} is not there"
    elif not str(_spec(repository).get("url", "")).startswith("oci://"):
        yield f"{reason}: {_spec(repository).get('url')} is no OCI registry; its charts cannot be kept in Harbor"
    else:
        if not _exact(wanted):
            yield f"{reason}: chart version {wanted!r} is a range, not a pin; it is left out"
        base = canonical_address(str(_spec(repository)["url"]).removeprefix("oci://").rstrip("/"))
        values = _spec(release or {}).get("values") or {}
        for version in dict.fromkeys(v for v in (wanted, runs) if _exact(v)):
            why = reason if version == wanted else f"{reason}, deployed"
            name = f"{base}/{spec.get('chart')}:{chart_tag(version)}"
            # What runs was fetched long ago and lives on in Helm's own Secrets: gone upstream is no error.
            yield Need(What.CHART, name, why, optional=version != wanted, values=values)


def _deployed(release: Object) -> str:
    """The version that runs, which may lag behind what is wanted: a rollback asks for it again (helm-controller)."""
    history = (release.get("status") or {}).get("history") or ()
    return next((str(h.get("chartVersion") or "") for h in history if h.get("status") == "deployed"), "")


def _exact(version: str) -> bool:
    """Whether it is one version. `1.2` is none: it means any `1.2.x` (Masterminds/semver, as Helm and Flux use it)."""
    return _VERSION.fullmatch(version) is not None


def _oci_repository(obj: Object, reason: str) -> Iterator[Need | str]:
    spec = _spec(obj)
    ref = spec.get("ref") or {}
    base = canonical_address(str(spec.get("url", "")).removeprefix("oci://").rstrip("/"))
    if ref.get("digest"):  # before a range, and a range before a tag (source-controller, OCIRepositoryRef)
        yield Need(What.CHART, f"{base}@{ref['digest']}", reason)
    elif ref.get("semver"):
        runs = str(((obj.get("status") or {}).get("artifact") or {}).get("revision") or "").partition("@")[0]
        kept = f"{runs}, which runs, is kept" if _exact(runs) else "it is left out"
        yield f"{reason}: semver {ref['semver']!r} is a range, not a pin; {kept}"
        if _exact(runs):
            yield Need(What.CHART, f"{base}:{runs}", f"{reason}, runs", optional=True)
    else:
        yield Need(What.CHART, f"{base}:{ref.get('tag') or 'latest'}", reason)


def _hosted(package: str) -> str:
    first = package.partition("/")[0]
    return package if "." in first or ":" in first else f"{DEFAULT_PACKAGE_HOST}/{package}"


def _spec(obj: Object) -> Object:
    return obj.get("spec") or {}


def _key(obj: Object) -> tuple[str, str]:
    metadata = obj.get("metadata")
    if not isinstance(metadata, Mapping):
        return "", ""
    return str(metadata.get("namespace") or ""), str(metadata.get("name") or "")


def _name(obj: Object) -> str:
    return "/".join(part for part in _key(obj) if part)
