"""Step 6: every chart and package comes from local Harbor, in Git and live; the mothership's credentials go last.

Git first: kustomize-controller applies with force what Git says, so a live patch alone is undone within minutes.
Then what Git does not own. Then real downloads: an OCI HelmRepository has no status to believe, and a HelmChart
with a cached archive asks nobody. Safe to repeat: what is local stays, a chart fetched since then is not fetched.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from schemas.progress import Progress
from schemas.results import SourcesPivoted
from workers import flux
from workers.adapters.cluster import HELM_RELEASE, HELM_REPOSITORY, OCI_REPOSITORY, Object, key_of
from workers.declared.changes import Change, holds, merge_patch
from workers.declared.reconcile import Key, each, request, settled
from workers.declared.repository import Repository, owners, push, reconcile
from workers.errors import Stuck, Wait
from workers.sovereign import Sovereign
from workers.steps.helmrepo_patches import charts, logins, packages
from workers.steps.helmrepo_patches.observed import FLUX_KINDS, Seen, observe
from workers.steps.helmrepo_patches.sources import Artifact, Plan, at_home, needed, plan, said_of
from workers.supply.sources import (
    PACKAGE_KINDS,
    address,
    is_local,
    local_address,
    project_of,
    resolved_locally,
    settled_at,
)
from workers.world import Order, Report, World

__all__ = ["observe", "plan", "planned", "rewritten", "run"]

THIRD_PARTIES = 100
"""So many are named in the result, which goes into the log."""


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


@dataclass(frozen=True, slots=True)
class Done:
    """What was written, by kind of place."""

    changes: int
    in_git: int
    live: int
    mapped: int
    stripped: int


async def run(order: Order, world: World, report: Report) -> SourcesPivoted:
    """Repoint every source, in Git and live, fetch every chart again, then strip the credentials."""
    before = await observe(world)
    public = await _public(world, before)
    todo = planned(world.sovereign, before, public)
    if todo.unmapped:
        message = f"{', '.join(todo.unmapped[:10])}: the mothership's, and no local project stands in for it"
        raise Stuck("SourceUnmapped", f"{message}; map its host in `upstreams`, or take the source away")
    renamed = rewritten(world.sovereign, before)
    robot = await logins.robot_login(world)
    if todo.changes or renamed:
        await world.registries.destination_ready(robot, world.sovereign.mothership.chart_project + "/probe")
    await report(Progress(message=f"{len(todo.changes) + len(renamed)} sources still stand upstream", percent=5))

    await _mirrored(world, before, todo, renamed)
    provided = await logins.provide(world, before, todo, robot, public)
    declared = await _repositories(world, todo)
    commits = await _declare(order, world, declared, report)
    patched = await _patch_live(world, [pair for pair in todo.changes if _undeclared(pair[1])])
    mapped = await packages.configure(world.cluster, packages.image_configs(renamed, world.sovereign, public))
    await _settle(world, todo)

    await report(Progress(message="every chart is fetched from local Harbor", percent=50))
    sources = len(todo.changes) + provided + mapped
    fetched = await _fetch(world, before, again=sources > 0)
    await packages.healthy(world.cluster, todo, renamed, world.sovereign, world.sovereign.flux.timeout)
    await report(Progress(message="the mothership's credentials go", percent=80))
    stripped = await logins.strip(world, before, public, robot)
    changes = sources + fetched.charts + stripped

    await report(Progress(message="Flux runs once more, then a last look", percent=90))
    for part in declared:
        await reconcile(world, part.repo, commits[part.repo.key], again=changes > 0)
    after = await observe(world)
    await _look_again(world, after, public)
    await logins.stay_gone(world, before, public, robot)
    in_git = sum(len(part.changes) for part in declared)
    done = Done(changes, in_git, patched, mapped, stripped)
    return SourcesPivoted(
        changes=changes,
        summary=_summary(done, fetched, todo.foreign),
        helm_repositories=_count(world, after, "HelmRepository"),
        oci_repositories=_count(world, after, "OCIRepository"),
        packages=_count(world, after, *(kind.kind for kind in PACKAGE_KINDS)),
        charts_fetched=fetched.charts,
        pull_secrets=stripped,
        commit=commits[_main(world)],
        third_parties=todo.foreign[:THIRD_PARTIES],
    )


def _summary(done: Done, fetched: Fetched, foreign: Collection[str]) -> str:
    said = (
        f"{done.in_git} sources repointed in Git, {done.live} live only; {fetched.charts} charts fetched from local "
        f"Harbor; {done.stripped} pull secrets without the mothership"
    )
    words = [said if done.changes else "nothing to do: every source is local and every chart was fetched since"]
    if done.mapped:
        words.append(f"{done.mapped} ImageConfigs let Crossplane fetch from local Harbor")
    if fetched.dormant:
        words.append(f"{fetched.dormant} suspended charts not fetched")
    if fetched.differ:
        words.append(f"published again upstream under the same version: {', '.join(fetched.differ[:10])}")
    if foreign:
        words.append(
            f"left alone, of third parties: {', '.join(list(foreign)[:10])}; they cannot be fetched under the block: "
            "copy each into local Harbor or Gitea and point it there, or accept its host (accepted_hosts)"
        )
    return "; ".join(words)


def planned(sovereign: Sovereign, seen: Seen, public: Collection[str]) -> Plan:
    """What must change in sources and values; what an ImageConfig will rewrite is not among it."""
    # What Crossplane rewrites keeps its name.
    said = [obj for obj in seen.sources if not (seen.rewrites and packages.rewritable(obj, sovereign))]
    return plan(said, sovereign, public=public, releases=seen.releases)


def rewritten(sovereign: Sovereign, seen: Seen) -> list[Object]:
    """Packages that an ImageConfig shall send to local Harbor, and that do not come from there yet."""
    if not seen.rewrites:
        return []
    mine = [obj for obj in seen.packages if packages.rewritable(obj, sovereign)]
    return [obj for obj in mine if not resolved_locally(obj, sovereign)]


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


async def _mirrored(world: World, seen: Seen, todo: Plan, rewritten: Iterable[Object]) -> None:
    """Local Harbor serves everything that would be asked of it, before anything is made to ask there."""
    missing: list[str] = []
    wanted = needed(todo, seen.charts.values(), world.sovereign)
    wanted += [at_home(obj, world.sovereign) for obj in rewritten]

    async def look(artifact: Artifact) -> None:
        if await world.registries.local_digest(artifact.repository, artifact.reference) is None:
            missing.append(f"{artifact.repository}:{artifact.reference}")

    await each(dict.fromkeys(wanted), look)
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


# --- charts ---------------------------------------------------------------------------------------------


async def _fetch(world: World, before: Seen, *, again: bool) -> Fetched:
    """Every chart of a local repository was downloaded from there; its releases are Ready and untouched."""
    cluster, timeout = world.cluster, world.sovereign.flux.timeout
    now = await observe(world)
    if await charts.restore(cluster, now.charts):
        now = await observe(world)
    local = {key_of(obj): obj for obj in now.of(HELM_REPOSITORY.kind) if is_local(address(obj), world.sovereign)}
    moved = {key_of(obj) for obj in before.of(HELM_REPOSITORY.kind) if not is_local(address(obj), world.sovereign)}
    todo = charts.fetches(now.charts.values(), local, now.releases, moved=moved)
    differ = await charts.fetch(cluster, now.charts, todo, timeout) if todo.keys else []
    if todo.by_us or any(charts.copied_from(chart) for chart in now.charts.values()):
        await charts.drop_copies(cluster)
    await charts.releases_ready(cluster, before.releases, timeout, again=again or bool(todo.keys))
    return Fetched(len(todo.keys), len(todo.dormant), tuple(differ))


# --- after ----------------------------------------------------------------------------------------------


async def _look_again(world: World, after: Seen, public: frozenset[str]) -> None:
    """Raises Wait when a source stands upstream again, after Git was applied once more."""
    left = [(str(change), obj) for change, obj in planned(world.sovereign, after, public).changes]
    left += [(said_of(obj), obj) for obj in rewritten(world.sovereign, after)]
    if left:
        who = ", ".join(f"{what}{_writer(obj)}" for what, obj in left[:5])
        raise Wait("SourceReverted", f"{who}: upstream again after Flux applied Git; who writes it must stop")


def _writer(obj: Object) -> str:
    field = "url" if obj["kind"] in FLUX_KINDS else "package"
    return f" (written by {', '.join(names)})" if (names := flux.managers_of(obj, "spec", field)[:2]) else ""


def _count(world: World, seen: Seen, *kinds: str) -> int:
    return sum(1 for obj in seen.of(*kinds) if settled_at(obj, world.sovereign))
