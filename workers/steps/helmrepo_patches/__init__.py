"""Step 6: every chart and package comes from local Harbor, in Git and live; the mothership's credentials go last.

Git first: kustomize-controller applies with force what Git says, so a live patch alone is undone within minutes.
Then what Git does not own. Then real downloads: an OCI HelmRepository has no status to believe, and a HelmChart
with a cached archive asks nobody. Safe to repeat: what is local stays, a chart fetched since then is not fetched.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from schemas.progress import Progress
from schemas.results import SourcesPivoted
from workers import credentials, flux
from workers.adapters.cluster import (
    HELM_CHART,
    HELM_RELEASE,
    HELM_REPOSITORY,
    OCI_REPOSITORY,
    SECRET,
    Object,
    key_of,
    name_of,
)
from workers.declared.changes import Change, holds, merge_patch
from workers.declared.reconcile import Key, each, request, settled
from workers.declared.repository import Repository, owners, push, reconcile
from workers.errors import Stuck, Wait
from workers.steps.helmrepo_patches import charts, packages
from workers.steps.helmrepo_patches.pull_secrets import Auths, entry, pull_secret, strips
from workers.steps.helmrepo_patches.sources import (
    KINDS,
    PACKAGE_KINDS,
    Artifact,
    Plan,
    address,
    ca_secret,
    is_local,
    local_address,
    needed,
    plan,
    project_of,
)
from workers.tethers import DOCKER_CONFIG
from workers.world import Order, Report, World

__all__ = ["plan", "run"]


@dataclass(frozen=True, slots=True)
class Seen:
    """The cluster as it is now."""

    sources: tuple[Object, ...]
    charts: Mapping[Key, Object]
    releases: Mapping[Key, Object]

    def of(self, *kinds: str) -> list[Object]:
        """The sources of these kinds."""
        return [obj for obj in self.sources if obj["kind"] in kinds]


@dataclass(frozen=True, slots=True)
class Declared:
    """What one repository declares of all that must change, and the Kustomizations that apply it."""

    repo: Repository
    changes: tuple[Change, ...]
    kustomizations: frozenset[Key]


@dataclass(frozen=True, slots=True)
class Fetched:
    """How many charts came from local Harbor now, how many sleep, and which came with other bytes."""

    charts: int
    dormant: int
    differ: tuple[str, ...]


async def run(order: Order, world: World, report: Report) -> SourcesPivoted:
    """Repoint every source, in Git and live, fetch every chart again, then strip the credentials."""
    before = await observe(world)
    public = await _public(world, before)
    todo = _plan(world, before, public)
    await report(Progress(message=f"{len(todo.changes)} sources still stand upstream", percent=5))

    await _mirrored(world, before, todo)
    provided = await _provide(world, todo)
    declared = await _repositories(world, todo)
    commits = await _declare(order, world, declared, report)
    patched = await _patch_live(world, [pair for pair in todo.changes if _undeclared(pair[1])])
    await _settle(world, todo)

    await report(Progress(message="every chart is fetched from local Harbor", percent=50))
    fetched = await _fetch(world, before)
    await packages.healthy(world.cluster, todo, world.sovereign.flux.timeout)
    await report(Progress(message="the mothership's credentials go", percent=80))
    stripped = await _strip(world, before, public)

    await report(Progress(message="Flux runs once more, then a last look", percent=90))
    for part in declared:
        await reconcile(world, part.repo, commits[part.repo.key])
    after = await observe(world)
    await _look_again(world, after, public)
    in_git = sum(len(part.changes) for part in declared)
    changes = len(todo.changes) + provided + fetched.charts + stripped
    return SourcesPivoted(
        changes=changes,
        summary=_summary(changes, in_git, patched, stripped, fetched, todo.foreign),
        helm_repositories=_count(world, after, "HelmRepository"),
        oci_repositories=_count(world, after, "OCIRepository"),
        packages=_count(world, after, *(kind.kind for kind in PACKAGE_KINDS)),
        charts_fetched=fetched.charts,
        pull_secrets=stripped,
        commit=commits[_main(world)],
    )


def _summary(changes: int, in_git: int, patched: int, stripped: int, fetched: Fetched, foreign: Iterable[str]) -> str:
    done = (
        f"{in_git} sources repointed in Git, {patched} live only; {fetched.charts} charts fetched from local Harbor; "
        f"{stripped} pull secrets without the mothership"
    )
    words = [done if changes else "nothing to do: every source is local and every chart was fetched since"]
    if fetched.dormant:
        words.append(f"{fetched.dormant} charts of suspended releases not fetched")
    if fetched.differ:
        words.append(f"published again upstream under the same version: {', '.join(fetched.differ[:10])}")
    if others := list(foreign):
        words.append(f"left alone, of third parties: {', '.join(others[:10])}")
    return "; ".join(words)


async def observe(world: World) -> Seen:
    """Every source, chart and release of the cluster, whoever made it."""
    cluster = world.cluster
    found: dict[str, list[Object]] = {}

    async def look(kind_name: str) -> None:
        kind = KINDS.get(kind_name) or {"HelmChart": HELM_CHART, "HelmRelease": HELM_RELEASE}[kind_name]
        found[kind_name] = await cluster.list(kind) if await cluster.served(kind) else []

    await each((*KINDS, "HelmChart", "HelmRelease"), look)
    return Seen(
        sources=tuple(obj for name in KINDS for obj in found[name]),
        charts={key_of(chart): chart for chart in found["HelmChart"]},
        releases={key_of(release): release for release in found["HelmRelease"]},
    )


def _plan(world: World, seen: Seen, public: frozenset[str]) -> Plan:
    return plan(seen.sources, world.sovereign, public=public, releases=seen.releases)


def _main(world: World) -> Key:
    return world.sovereign.flux.namespace, world.sovereign.flux.git_repository


def _undeclared(obj: Object) -> bool:
    return flux.owner(obj, flux.OWNED_BY_KUSTOMIZATION) is None


async def _public(world: World, seen: Seen) -> frozenset[str]:
    """The local projects, of those that are needed, that anyone may read."""
    sovereign = world.sovereign
    needed = {
        project_of(new)
        for new in (local_address(address(obj), sovereign) or address(obj).partition("://")[2] for obj in seen.sources)
        if new.startswith(sovereign.harbor.host + "/")
    }
    return frozenset([name for name in sorted(needed) if await world.harbor.is_public(name)])


async def _mirrored(world: World, seen: Seen, todo: Plan) -> None:
    """Local Harbor serves everything that would be asked of it, before anything is made to ask there."""
    missing: list[str] = []

    async def look(artifact: Artifact) -> None:
        if await world.registries.local_digest(artifact.repository, artifact.reference) is None:
            missing.append(f"{artifact.repository}:{artifact.reference}")

    await each(needed(todo, seen.charts.values(), world.sovereign), look)
    if missing:
        some = ", ".join(sorted(missing)[:10])
        raise Stuck("NotMirrored", f"local Harbor lacks {some} ({len(missing)} in all); run harbor-prewarm again")


# --- declared state -------------------------------------------------------------------------------------


async def _repositories(world: World, todo: Plan) -> list[Declared]:
    changes = {(obj["kind"], key_of(obj)): change for change, obj in todo.changes}
    grouped = await owners(world.cluster, [obj for _, obj in todo.changes], _main(world))
    return [
        Declared(
            repo,
            tuple(changes[obj["kind"], key_of(obj)] for obj in objects),
            frozenset(key for obj in objects if (key := flux.owner(obj, flux.OWNED_BY_KUSTOMIZATION))),
        )
        for repo, objects in grouped.values()
    ]


async def _declare(order: Order, world: World, declared: Iterable[Declared], report: Report) -> dict[Key, str]:
    """Git says it, Flux applied it, and the live objects show it. The head of each repository."""
    commits: dict[Key, str] = {}
    for part in declared:
        subject = f"Charts and packages from {world.sovereign.harbor.host}"
        pushed = await push(world, order, part.repo, part.changes, subject)
        commits[part.repo.key] = pushed.commit
        if not part.changes:
            continue
        await report(Progress(message=f"Flux applies {pushed.commit[:12]}", percent=25))
        await reconcile(world, part.repo, pushed.commit, must=part.kustomizations)
        await each(part.changes, lambda change: _read_back(world, change))
    return commits


async def _read_back(world: World, change: Change) -> None:
    if not holds(change, await world.cluster.get(change.kind, change.name, change.namespace or None)):
        message = f"{change} is not as Git declares it, though Flux has applied that; something overrides the manifest"
        raise Stuck("DeclaredElsewhere", f"{message} (a kustomize patch, a webhook, reconcile: disabled)")


async def _patch_live(world: World, pairs: Iterable[tuple[Change, Object]]) -> int:
    """Objects that Git does not own, each under the resourceVersion it was read at. How many."""
    todo = [pair for pair in pairs if not holds(*pair)]

    async def patch(pair: tuple[Change, Object]) -> None:
        change, obj = pair
        await world.cluster.patch(change.kind, change.name, change.namespace or None, merge_patch(change, obj))

    await each(todo, patch)
    return len(todo)


async def _settle(world: World, todo: Plan) -> None:
    """OCIRepositories fetched again and releases with new values done. HelmRepositories of OCI have no status."""
    for kind in (OCI_REPOSITORY, HELM_RELEASE):
        keys = [(change.namespace, change.name) for change, _ in todo.changes if change.kind is kind]
        if keys:
            token = await request(world.cluster, kind, keys)
            await settled(world.cluster, kind, dict.fromkeys(keys), world.sovereign.flux.timeout, token=token)


# --- credentials ----------------------------------------------------------------------------------------


async def _provide(world: World, todo: Plan) -> int:
    """The Secrets that changed sources refer to exist before those sources do. How many had to be written."""
    sovereign, wanted = world.sovereign, []
    for change, _ in todo.changes:
        if change.fields.get(("spec", "secretRef", "name")) == sovereign.flux.registry_secret:
            login = entry(sovereign.harbor.host, sovereign.harbor.login)
            wanted.append(pull_secret(sovereign.flux.registry_secret, change.namespace, login))
        if ("spec", "certSecretRef", "name") in change.fields:
            wanted.append(_ca(world, change.namespace))
    secrets = {key_of(secret): secret for secret in wanted}
    written: list[Key] = []

    async def put(secret: Object) -> None:
        have = await world.cluster.get(SECRET, secret["metadata"]["name"], secret["metadata"]["namespace"])
        if have is None or have.get("data") != secret["data"]:
            await world.cluster.apply(SECRET, secret)
            written.append(key_of(secret))

    await each(secrets.values(), put)
    return len(written)


def _ca(world: World, namespace: str) -> Object:
    path = Path(world.sovereign.harbor.ca_file or "")
    try:
        certificate = path.read_bytes()
    except OSError as error:
        raise Stuck("CaUnreadable", f"harbor.ca_file {path}: {error.strerror}; mount it into the worker") from error
    meta = {"name": ca_secret(world.sovereign), "namespace": namespace}
    data = {"ca.crt": base64.b64encode(certificate).decode()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "Opaque", "data": data}


async def _strip(world: World, before: Seen, public: frozenset[str]) -> int:
    """No pull secret opens a door upstream. How many had to be changed."""
    todo = await _strips(world, before, public)

    async def strip(pair: tuple[Object, str]) -> None:
        meta = pair[0]["metadata"]
        body = {"metadata": {"resourceVersion": meta["resourceVersion"]}, "data": {DOCKER_CONFIG: pair[1]}}
        await world.cluster.patch(SECRET, meta["name"], meta["namespace"], body)

    original = world.sovereign.flux.pull_secret
    # Copies are known by what the original holds: it goes last, or a second try would not know them.
    await each([pair for pair in todo if name_of(pair[0]) != original], strip)
    await each([pair for pair in todo if name_of(pair[0]) == original], strip)
    if left := await _strips(world, before, public):
        who = ", ".join("/".join(key_of(secret)) for secret, _ in left[:5])
        raise Wait("PullSecretRestored", f"{who}: the mothership's entries came back after they were removed")
    return len(todo)


async def _strips(world: World, before: Seen, public: frozenset[str]) -> list[tuple[Object, str]]:
    sovereign = world.sovereign
    referenced = {ref for obj in before.sources if local_address(address(obj), sovereign) for ref in _refers(obj)}
    projects = {u.project for u in sovereign.upstreams} | {sovereign.mothership.chart_project}
    # Credentials of local Harbor go into pull secrets only where a project asks for any.
    asks = any([not await world.harbor.is_public(project) for project in sorted(projects - public)])
    local: Auths = entry(sovereign.harbor.host, sovereign.harbor.login) if asks else {}
    return strips(await credentials.secrets(world), sovereign, referenced, local)


def _refers(obj: Object) -> list[Key]:
    ref = (obj["spec"].get("secretRef") or {}).get("name")
    return [(key_of(obj)[0], str(ref))] if ref else []


# --- charts ---------------------------------------------------------------------------------------------


async def _fetch(world: World, before: Seen) -> Fetched:
    """Every chart of a local repository was downloaded from there; its releases are Ready and untouched."""
    cluster, timeout = world.cluster, world.sovereign.flux.timeout
    now = await observe(world)
    local = {key_of(obj): obj for obj in now.of(HELM_REPOSITORY.kind) if is_local(address(obj), world.sovereign)}
    todo = charts.fetches(now.charts.values(), local, now.releases)
    differ = await charts.fetch(cluster, now.charts, todo, timeout) if todo.keys else []
    await charts.releases_ready(cluster, before.releases, timeout)
    return Fetched(len(todo.keys), len(todo.dormant), tuple(differ))


# --- after ----------------------------------------------------------------------------------------------


async def _look_again(world: World, after: Seen, public: frozenset[str]) -> None:
    """Raises Wait when a source stands upstream again, after Git was applied once more."""
    if left := _plan(world, after, public).changes:
        who = ", ".join(str(change) for change, _ in left[:5])
        raise Wait("SourceReverted", f"{who}: upstream again after Flux applied Git; who wrote it?")


def _count(world: World, seen: Seen, *kinds: str) -> int:
    return sum(1 for obj in seen.of(*kinds) if is_local(address(obj), world.sovereign))
