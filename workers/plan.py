"""What a cutover would change, step by step and object by object, found by looking only: nothing is written.

Each step's own pure plan is asked on the cluster as it is now. A step that builds on what an earlier one makes is
asked on what that one would make. Trouble that would stop a step is told here, before anything was touched.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from difflib import unified_diff
from typing import TYPE_CHECKING, Any

from anyio import to_thread

from events.flow import STEPS
from schemas.nodes import PLAN_KEY
from workers import copy_sizes, credentials, flux, needs
from workers.adapters.cluster import (
    CONFIG_MAP,
    DEPLOYMENT,
    GIT_REPOSITORY,
    HELM_RELEASE,
    KUSTOMIZATION,
    NODE,
    SECRET,
    Object,
    key_of,
    name_of,
)
from workers.adapters.containerd import plan_digest
from workers.adapters.git import Worktree
from workers.adapters.oci import CopyPlan, Wanted, What, literal_projects
from workers.declared.changes import Change, at, holds
from workers.declared.elsewhere import to_be_patched
from workers.declared.files import plan_edits
from workers.declared.repository import branch_of, root_of
from workers.errors import Trouble, Wait
from workers.node_log import current
from workers.proof import declared
from workers.steps import (
    catalyst_api_env_patch,
    egress_block_test,
    flux_gitrepository_patch,
    gitea_mirror,
    harbor_prewarm,
    harbor_projects,
    helmrepo_patches,
    registry_pivot,
)
from workers.steps.helmrepo_patches.packages import image_configs
from workers.supply.pull_secrets import strips
from workers.tethers import auths_of, login_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from workers.world import World


class Passing(str):
    """Trouble that may pass by itself, or that only we cannot look into: the step would wait, or see for itself."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Planned:
    """One thing that would change."""

    what: str
    diff: tuple[str, ...] = ()


@dataclass(slots=True)
class Preview:
    """What one step would do."""

    step: str
    changes: list[Planned] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)
    """Why it would not get through."""

    def add(self, what: str, *diff: str) -> None:
        """One more change."""
        self.changes.append(Planned(what, diff))


@dataclass(slots=True)
class Ground:
    """What several steps stand on: the repository as it would be mirrored, and what the cluster needs."""

    tree: Worktree
    listed: Sequence[needs.Listed]
    notices: Sequence[str]
    kustomizations: Sequence[Object]
    sizes: bool = False
    """Read upstream's manifests to tell how much there is to copy. Docker Hub counts them as pulls."""


async def preview(world: World, *, sizes: bool = False) -> list[Preview]:
    """Every step's preview. Raises Wait, Stuck when neither local nor upstream Git can be read."""
    found = [Preview(step.slug) for step in STEPS]
    async with _ground(world) as ground:
        ground.sizes = sizes
        for step, ask in zip(found, ASKED, strict=True):
            try:
                await ask(world, ground, step)
            except Trouble as error:
                step.trouble.append(Passing(error) if passes(error) else str(error))
    return found


def passes(error: Trouble) -> bool:
    """True for trouble that need not stop a step: it waits for it, or may look where whoever asks here may not."""
    return isinstance(error, Wait) or error.reason == "ApiForbidden"


@asynccontextmanager
async def _ground(world: World) -> AsyncIterator[Ground]:
    sovereign = world.sovereign
    info = await world.gitea.repository(sovereign.gitea.organisation, sovereign.gitea.repository)
    upstream, local = gitea_mirror.remotes(sovereign)
    source = upstream if info is None or info.empty else local
    async with world.git.checkout(source, sovereign.upstream_git.branch) as tree:
        live: list[Object] = []
        for kind in needs.LIVE:
            if await world.cluster.served(kind):
                live += await world.cluster.list(kind)
        paths = [path.format(fqdn=sovereign.fqdn) for path in sovereign.flux.own_paths]
        told = {"SOVEREIGN_FQDN": sovereign.fqdn}
        read = await to_thread.run_sync(needs.read_tree, tree.path, sovereign.tree, told, paths)
        own = [needs.Need(What.IMAGE, i, "settings") for i in (*sovereign.extra_images, sovereign.nodes.image)]
        running = needs.needs_of(live, "live")
        listed, left_out = needs.listing(sovereign, [*running.found, *read.found, *own])
        notices = (*running.notices, *read.notices, *left_out)
        yield Ground(tree, listed, notices, await world.cluster.list(KUSTOMIZATION))


# --- one preview a step -----------------------------------------------------------------------------------------


async def _mirror(world: World, _ground: Ground, said: Preview) -> None:
    gitea = world.sovereign.gitea
    where = f"{gitea.organisation}/{gitea.repository}"
    info = await world.gitea.repository(gitea.organisation, gitea.repository)
    upstream, local = gitea_mirror.remotes(world.sovereign)
    if gitea_mirror.plan(info, where):
        said.add(f"Gitea repository {where}", "+ created, with its organisation if that is missing")
    theirs = await world.git.ls_remote(upstream)
    ours = {} if info is None or info.empty else await world.git.ls_remote(local)
    for ref, sha in sorted(theirs.items()):
        if ref not in ours:
            said.add(ref, f"+ {sha}")
        elif ours[ref] != sha:
            # Whether it moves or stays is decided on the commits: a local descendant is left alone.
            said.notes.append(f"{ref} differs: local {ours[ref]}, upstream {sha}; moved only if it is no descendant")


async def _projects(world: World, ground: Ground, said: Preview) -> None:
    said.notes.append(f"Harbor {await world.harbor.check()} is healthy and accepts our login")
    literal = literal_projects(world.sovereign, [item.reference for item in ground.listed])
    for wish in harbor_projects.plan(world.sovereign, literal):
        project = await world.harbor.project(wish.name)
        if project is None:
            said.add(f"Harbor project {wish.name}", f"+ {wish}")
            continue
        registry = await world.harbor.endpoint(f"{wish.name}-upstream") if wish.proxy_of else None
        if wrong := harbor_projects.differences(wish, project, registry.id if registry else None):
            said.trouble.append(f"project {wish.name}: {' and '.join(wrong)}; wanted is {wish}")


async def _prewarm(world: World, ground: Ground, said: Preview) -> None:
    said.notes.extend(ground.notices)
    if any(item.what is What.CHART for item in ground.listed):
        said.notes.append("what charts name by default joins the list once the charts are in local Harbor")
    absent: list[harbor_prewarm.Place] = []
    placed: set[str] = set()
    for place in harbor_prewarm.plan(world.sovereign, ground.listed):
        wanted = place.wanted
        project = await world.harbor.project(wanted.repository.partition("/")[0])
        if project is None:
            here = False
        elif project.registry_id is not None:  # a proxy that is asked by its registry fetches what it lacks
            here = await world.harbor.has_artifact(wanted.repository, wanted.tag)
        else:
            placed.add(project.name)
            here = await world.registries.local_digest(wanted.repository, wanted.tag) is not None
        if not here:
            absent.append(place)
    sizes = await _sizes(world, [p.wanted for p in absent], placed, said) if ground.sizes else {}
    for place in absent:
        wanted, size = place.wanted, sizes.get(place.wanted)
        measure = (f"  {size}",) if size else ()
        lines = (f"+ copy of {wanted.reference}", *measure, *_reasons(place.listed))
        said.add(f"{wanted.repository}:{wanted.tag}", *lines)


async def _sizes(
    world: World, wanted: Sequence[Wanted], placed: Collection[str], said: Preview
) -> dict[Wanted, copy_sizes.Measure]:
    """By upstream's manifests; what upstream does not give is told. A proxy project is filled by asking: left out."""

    async def unheard(_done: int) -> None:
        return

    copier = world.registries.copier()
    hosted = [w for w in wanted if not w.pulled]
    here = [w for w in hosted if w.repository.partition("/")[0] in placed]
    known, new = await copier.survey(here, unheard), await copier.unplaced([w for w in hosted if w not in here])
    plan = CopyPlan(
        (*known.items, *new.items), known.known, (*known.postponed, *new.postponed), (*known.absent, *new.absent)
    )
    said.notes.append(copy_sizes.total(plan))
    said.notes.extend(f"size not known yet: {wait}" for wait in plan.postponed)
    said.notes.extend(f"optional, and not upstream: {one.reference}: {why}" for one, why in plan.absent)
    return dict(copy_sizes.measured(plan))


def _reasons(listed: Iterable[needs.Listed]) -> Iterator[str]:
    reasons = list(dict.fromkeys(reason for item in listed for reason in item.reasons))
    yield f"  for {', '.join(reasons[:3])}" + (f" and {len(reasons) - 3} more" if len(reasons) > 3 else "")


async def _nodes(world: World, _ground: Ground, said: Preview) -> None:
    where = world.sovereign.nodes
    known = await world.cluster.get(CONFIG_MAP, where.plan_config_map, where.namespace)
    wanted = registry_pivot.plan(world.sovereign, registry_pivot.authority(world.sovereign))
    before, after = ((known or {}).get("data") or {}).get(PLAN_KEY), wanted.model_dump_json()
    if before != after:
        lines = _diff(_pretty(before), _pretty(after))
        said.add(f"ConfigMap {where.namespace}/{where.plan_config_map}", *lines)
    listed = await world.cluster.list(NODE)
    names, digest = [name_of(node) for node in listed], plan_digest(wanted)
    for name, why in registry_pivot.laggards(names, current(listed, await world.nodes.latest()), digest).items():
        hosts = (f"+ certs.d/{m.host}/hosts.toml: {m.endpoint} and nowhere else" for m in wanted.mirrors)
        said.add(f"Node {name} ({why})", "+ registries.yaml: these mirrors, no default endpoint", *hosts)
    if not names:
        said.trouble.append("NoNodes: the API lists no Node")


async def _source(world: World, ground: Ground, said: Preview) -> None:
    sovereign = world.sovereign
    where = (sovereign.flux.namespace, sovereign.flux.git_repository)
    source = await world.cluster.get(GIT_REPOSITORY, where[1], where[0])
    if source is None:
        said.trouble.append(f"SourceAbsent: there is no GitRepository {'/'.join(where)}")
        return
    branch = branch_of(source) or sovereign.upstream_git.branch
    mine = [k for k in ground.kustomizations if flux.source_of(k) == where]
    paths = flux_gitrepository_patch.reaching(sovereign, mine)
    change = flux_gitrepository_patch.plan(source, sovereign, branch, paths)
    file = ground.tree.path / flux_gitrepository_patch.MARK
    if not flux_gitrepository_patch.marked(file.read_text(encoding="utf-8") if file.is_file() else None, sovereign):
        text = flux_gitrepository_patch.mark(sovereign, "(the run's id)")
        said.add(f"Git {flux_gitrepository_patch.MARK}", *_diff("", text))
    if await world.cluster.get(SECRET, sovereign.flux.git_secret, where[0]) is None:
        said.add(f"Secret {where[0]}/{sovereign.flux.git_secret}", "+ login of local Gitea")
    await _change(said, ground, [(change, source)], flux.owner(source, flux.OWNED_BY_KUSTOMIZATION) is not None)


async def _charts(world: World, ground: Ground, said: Preview) -> None:
    seen = await helmrepo_patches.observe(world)
    literal = literal_projects(world.sovereign, [item.reference for item in ground.listed])
    # Step 2 makes every project public; one that is there and private stops it, and is told there.
    public = {wish.name for wish in harbor_projects.plan(world.sovereign, literal)}
    todo = helmrepo_patches.planned(world.sovereign, seen, public)
    said.trouble.extend(f"SourceUnmapped: no local project stands in for {each}" for each in todo.unmapped)
    renamed = helmrepo_patches.rewritten(world.sovereign, seen)
    for config in image_configs(renamed, world.sovereign, public):
        prefix, rewrite = config["spec"]["matchImages"][0]["prefix"], config["spec"].get("rewriteImage")
        said.add(f"ImageConfig {name_of(config)}", f"+ {prefix} -> {rewrite['prefix'] if rewrite else 'signs in'}")
    said.notes.extend(f"left alone, of a third party: {each}" for each in todo.foreign)
    for in_git in (True, False):
        pairs = [p for p in todo.changes if (flux.owner(p[1], flux.OWNED_BY_KUSTOMIZATION) is not None) is in_git]
        await _change(said, ground, pairs, in_git)
    secrets = await credentials.secrets(world)
    referenced = {
        (key_of(obj)[0], str(name))
        for obj in seen.sources
        if (name := (obj["spec"].get("secretRef") or {}).get("name"))
    }
    for secret, new in strips(secrets, world.sovereign, referenced, {}):
        gone = auths_of(secret).keys() - auths_of({"data": {login_key(secret): new}}).keys()
        said.add(f"Secret {'/'.join(key_of(secret))}", *(f"- login at {host}" for host in sorted(gone)))


async def _api(world: World, ground: Ground, said: Preview) -> None:
    api = world.sovereign.catalyst_api
    deployment = await world.cluster.get(DEPLOYMENT, api.deployment, api.namespace)
    if deployment is None:
        said.trouble.append(f"CatalystApiAbsent: there is no Deployment {api.namespace}/{api.deployment}")
        return
    release = None
    if await world.cluster.served(HELM_RELEASE):
        namespace, name = catalyst_api_env_patch.maker(deployment, api)
        release = await world.cluster.get(HELM_RELEASE, name, namespace)
    change = catalyst_api_env_patch.plan(world.sovereign, deployment, release)
    target = release if release is not None else deployment
    to_be_patched(change, target, world.sovereign.field_manager)
    await _change(said, ground, [(change, target)], flux.owner(target, flux.OWNED_BY_KUSTOMIZATION) is not None)


async def _proof(world: World, _ground: Ground, said: Preview) -> None:
    sovereign = world.sovereign
    measure = egress_block_test.plan(sovereign.proof)
    hosts = [sovereign.mothership.registry, *(u.host for u in sovereign.upstreams)]
    said.notes.append(
        f"closes every way out for {measure.hold:g} s, {', '.join(hosts)} among them, then opens it again"
    )
    if measure.rehearsal:
        said.notes.append(f"that is shorter than {sovereign.proof.required:g} s: a rehearsal, never the proof")
    # A source's own goes with steps 5 and 6. A workload's stays, and would stop the run when nothing can be undone.
    found = await world.survey(world) if world.survey is not None else ()
    if hidden := [f for f in declared.veiled(found) if f.field.startswith("env[")]:
        said.trouble.append(f"ProxyUnknown: no canary could try these: {declared.told(hidden)}")


ASKED: tuple[Callable[[World, Ground, Preview], Awaitable[None]], ...] = (
    _mirror, _projects, _prewarm, _nodes, _source, _charts, _api, _proof,
)  # fmt: skip


# --- diffs ------------------------------------------------------------------------------------------------------


async def _change(said: Preview, ground: Ground, pairs: Sequence[tuple[Change, Object]], in_git: bool) -> None:
    """The objects' fields, and where Git declares them the manifests' lines."""
    todo = [(change, obj) for change, obj in pairs if not holds(change, obj)]
    for change, obj in todo:
        said.add(str(change), *fields(change, obj))
    if not (in_git and todo):
        return
    roots = [root_of(k) for k in ground.kustomizations]
    edits = await to_thread.run_sync(plan_edits, ground.tree.path, roots, [change for change, _ in todo])
    for file, text in edits.texts.items():
        name = str(file.resolve().relative_to(ground.tree.path.resolve()))
        said.add(f"Git {name}", *_diff(file.read_text(encoding="utf-8"), text))
    said.trouble.extend(f"DeclaredElsewhere: no manifest in Git declares {change}" for change in edits.undeclared)


def fields(change: Change, obj: Object) -> Iterator[str]:
    """What stands there, and what shall."""
    for path in change.absent:
        if (old := at(obj, path)) is not None:
            yield f"- {_dotted(path)}: {_shown(old)}"
    for path, new in change.fields.items():
        if (old := at(obj, path)) != new:
            if old is not None:
                yield f"- {_dotted(path)}: {_shown(old)}"
            yield f"+ {_dotted(path)}: {_shown(new)}"


def _dotted(path: Iterable[object]) -> str:
    return ".".join(map(str, path))


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _pretty(text: str | None) -> str:
    """One field a line; what is no JSON as it stands: a plan that somebody spoilt is written anew."""
    try:
        return json.dumps(json.loads(text), indent=2) + "\n" if text else ""
    except ValueError:
        return f"{text}\n"


def _diff(before: str, after: str) -> list[str]:
    lines = unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=1)
    return [line for line in lines if not line.startswith(("---", "+++"))]
