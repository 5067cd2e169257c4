"""What the cluster needs to be served by a registry, and why: read from live objects and from manifests in Git.

Pure but for `gather`. Steps 2 and 3 ask: which projects must exist, and what must be in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyio import to_thread

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
)
from workers.adapters.git import Remote
from workers.adapters.oci import BadReference, Reference, What, chart_tag
from workers.adapters.yaml_edit import CannotEdit, documents
from workers.sovereign import Sovereign
from workers.world import World

Object = Mapping[str, Any]
WORKLOADS = (POD, DEPLOYMENT, STATEFUL_SET, DAEMON_SET, JOB, CRON_JOB)
SOURCES = (HELM_REPOSITORY, HELM_RELEASE, OCI_REPOSITORY)
PACKAGES = (PROVIDER, CONFIGURATION, FUNCTION)
LIVE = (*WORKLOADS, *SOURCES, *PACKAGES)
_WORKLOADS = frozenset(k.kind for k in WORKLOADS)
_PACKAGES = frozenset(k.kind for k in PACKAGES)
_OVER = frozenset({"Succeeded", "Failed"})
DEFAULT_PACKAGE_HOST = "xpkg.upbound.io"
"""Where Crossplane up to 1.19 looks for a package that names no host (internal/xpkg)."""


@dataclass(frozen=True, slots=True)
class Need:
    """One reference as it is spelled, what it is used as, and who needs it."""

    what: What
    spelled: str
    reason: str


@dataclass(frozen=True, slots=True)
class Needs:
    """All needs, and what could not be read as one."""

    found: tuple[Need, ...]
    notices: tuple[str, ...] = ()


def needs_of(objects: Iterable[Object], where: str) -> Needs:
    """What these objects need. `where` begins each reason: `live`, or `Git`."""
    kept = list(objects)
    repositories = {_key(o): o for o in kept if o.get("kind") == "HelmRepository"}
    said = [n for o in kept for n in _needs(o, repositories, f"{where}: {o.get('kind')} {_name(o)}")]
    found = tuple(n for n in said if isinstance(n, Need))
    return Needs(found, tuple(n for n in said if isinstance(n, str)))


def _needs(obj: Object, repositories: Mapping[tuple[str, str], Object], reason: str) -> Iterator[Need | str]:
    """The needs of one object, and in words what could not be read as one."""
    kind = obj.get("kind")
    if kind in _WORKLOADS:
        if (obj.get("status") or {}).get("phase") not in _OVER:
            yield from (Need(What.IMAGE, image, reason) for image in images(_pod_spec(obj)))
    elif kind == "HelmRelease":
        yield from _chart(obj, repositories, reason)
        yield from (Need(What.IMAGE, i, f"{reason}, values") for i in value_images(_spec(obj).get("values")))
    elif kind == "OCIRepository":
        yield from _oci_repository(obj, reason)
    elif kind in _PACKAGES and (package := _spec(obj).get("package")):
        yield Need(What.PACKAGE, _hosted(str(package)), reason)


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


def value_images(values: Any) -> Iterator[str]:
    """Images that chart values name: `image: <reference>`, or registry, repository and tag apart."""
    if isinstance(values, list):
        for value in values:
            yield from value_images(value)
    if not isinstance(values, dict):
        return
    for key, value in values.items():
        if str(key).lower().endswith("image") and isinstance(value, str) and "/" in value:
            yield value
        elif str(key).lower().endswith("image") and isinstance(value, dict) and (joined := _joined(value)):
            yield joined
        else:
            yield from value_images(value)


def _joined(value: Mapping[str, Any]) -> str | None:
    """None without tag or digest: then the chart decides, and its workloads show it."""
    repository, tag, digest = value.get("repository"), value.get("tag"), value.get("digest")
    if not repository or not (tag or digest):
        return None
    registry = f"{value['registry']}/" if value.get("registry") else ""
    return f"{registry}{repository}" + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")


# charts


def _chart(release: Object, repositories: Mapping[tuple[str, str], Object], reason: str) -> Iterator[Need | str]:
    spec = (_spec(release).get("chart") or {}).get("spec") or {}
    source = spec.get("sourceRef") or {}
    if source.get("kind") != "HelmRepository":
        return  # a chartRef's OCIRepository is listed itself; a GitRepository is step 1's
    key = (source.get("namespace") or _key(release)[0], source.get("name", ""))
    repository = repositories.get(key)
    version = str(spec.get("version") or "")
    if repository is None:
        yield f"{reason}: its HelmRepository {key[0]}/{key[1]} is not there"
    elif not str(_spec(repository).get("url", "")).startswith("oci://"):
        yield f"{reason}: {_spec(repository).get('url')} is no OCI registry; its charts cannot be kept in Harbor"
    elif not _exact(version):
        yield f"{reason}: chart version {version!r} is a range, not a pin; it is left out"
    else:
        base = str(_spec(repository)["url"]).removeprefix("oci://").rstrip("/")
        yield Need(What.CHART, f"{base}/{spec.get('chart')}:{chart_tag(version)}", reason)


def _exact(version: str) -> bool:
    return version[:1].isdigit() and not any(c in version for c in " <>=~^*|,xX")


def _oci_repository(obj: Object, reason: str) -> Iterator[Need | str]:
    spec = _spec(obj)
    ref = spec.get("ref") or {}
    base = str(spec.get("url", "")).removeprefix("oci://")
    if ref.get("semver"):
        yield f"{reason}: semver {ref['semver']!r} is a range, not a pin; it is left out"
    elif ref.get("digest"):
        yield Need(What.CHART, f"{base}@{ref['digest']}", reason)
    else:
        yield Need(What.CHART, f"{base}:{ref.get('tag') or 'latest'}", reason)


def _hosted(package: str) -> str:
    first = package.partition("/")[0]
    return package if "." in first or ":" in first else f"{DEFAULT_PACKAGE_HOST}/{package}"


# the tree


def read_tree(root: Path, tree: str, substitutions: Mapping[str, str]) -> Needs:
    """Needs of every manifest beside and below the path that Flux applies, charts and infrastructure alike."""
    start = (root / tree).parent
    objects: list[tuple[str, Object]] = []
    notices: list[str] = []
    for path in sorted(p for p in start.rglob("*") if p.suffix in (".yaml", ".yml") and p.is_file()):
        name = str(path.relative_to(root))
        text = path.read_text(encoding="utf-8")
        for key, value in substitutions.items():
            text = text.replace(f"${{{key}}}", value)
        try:
            objects += [(name, d) for d in documents(text) if d]
        except CannotEdit as error:
            notices.append(f"{name}: not read: {error}")
    found = needs_of([o for _, o in objects], "Git")
    return Needs(found.found, (*notices, *found.notices))


# everything


@dataclass(frozen=True, slots=True)
class Listed:
    """One reference, read, with every spelling and reason."""

    reference: Reference
    what: What
    spelled: tuple[str, ...]
    reasons: tuple[str, ...]


def listing(sovereign: Sovereign, needs: Iterable[Need]) -> tuple[tuple[Listed, ...], tuple[str, ...]]:
    """Each reference once, and notices of what was left out.

    Left out: what must never be mirrored, images that name local Harbor already, and what is no reference.
    """
    never = Reference.parse(sovereign.nodes.upstream_only)
    merged: dict[tuple[Reference, What], tuple[dict[str, None], dict[str, None]]] = {}
    notices: dict[str, None] = {}
    for need in needs:
        try:
            reference = Reference.parse(need.spelled)
        except BadReference as error:
            notices[f"{need.reason}: left out: {error}"] = None
            continue
        local = reference.host == sovereign.harbor.host and need.what is What.IMAGE
        if local or (reference.name == never.name and reference.pin == never.pin):
            continue
        spelled, reasons = merged.setdefault((reference, need.what), ({}, {}))
        spelled[need.spelled] = None
        reasons[need.reason] = None
    listed = tuple(Listed(r, w, tuple(s), tuple(y)) for (r, w), (s, y) in merged.items())
    return listed, tuple(notices)


async def gather(world: World) -> Needs:
    """Everything that live objects, manifests in local Gitea, and the description name."""
    live = [obj for kind in LIVE if await world.cluster.served(kind) for obj in await _listed(world, kind)]
    found = needs_of(live, "live")
    sovereign, gitea = world.sovereign, world.sovereign.gitea
    url = f"{gitea.url.rstrip('/')}/{gitea.organisation}/{gitea.repository}.git"
    remote = Remote(url, gitea.login.username, gitea.login.password())
    async with world.git.checkout(remote, sovereign.upstream_git.branch) as worktree:
        substitutions = {"SOVEREIGN_FQDN": sovereign.fqdn}
        declared = await to_thread.run_sync(read_tree, worktree.path, sovereign.tree, substitutions)
    described = [Need(What.IMAGE, i, "extra_images") for i in sovereign.extra_images]
    described.append(Need(What.IMAGE, sovereign.nodes.image, "nodes.image"))
    return Needs((*found.found, *declared.found, *described), (*found.notices, *declared.notices))


async def _listed(world: World, kind: Any) -> list[Object]:
    """List items carry no kind of their own (Kubernetes API conventions)."""
    return [{**obj, "kind": kind.kind} for obj in await world.cluster.list(kind)]


def _spec(obj: Object) -> Object:
    return obj.get("spec") or {}


def _key(obj: Object) -> tuple[str, str]:
    metadata = obj.get("metadata") or {}
    return metadata.get("namespace", ""), metadata.get("name", "")


def _name(obj: Object) -> str:
    return "/".join(part for part in _key(obj) if part)
