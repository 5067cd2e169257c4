"""Step 2: local Harbor has every project that stands in for an upstream, of the wanted kind, for anybody to pull.

Projects are public because credentials of nodes live in containerd's config.toml, which k3s reads only at its
start (k3s, pkg/agent/containerd/config.go): with a private project the pivot would need a restart of every node.
Safe to repeat: creates only what is missing; what exists and is of another kind is an error, never success.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from schemas.progress import Progress
from schemas.results import ProjectsReady
from workers import needs
from workers import robot as robots
from workers.adapters.harbor import HarborApi, Project, Robot
from workers.adapters.oci import literal_projects
from workers.errors import Stuck, Wait
from workers.sovereign import Login, Mode, Sovereign, Upstream
from workers.world import Order, Report, World

PROBE = "cutover-readers"
HAZARDS = (
    "is a proxy: it rewrites indexes, so that their digests change, asks the upstream on every pull by tag, "
    "deletes its copy when the upstream answers 404, and takes no push"
)


@dataclass(frozen=True, slots=True)
class Wish:
    """A project as it shall be: hosted, or a proxy of an upstream."""

    name: str
    proxy_of: Upstream | None = None

    def __str__(self) -> str:
        kind = f"a proxy of {self.proxy_of.host}" if self.proxy_of else "hosted"
        return f"{self.name}: {kind}, public"


def plan(sovereign: Sovereign, literal: Iterable[str]) -> tuple[Wish, ...]:
    """Every project that must exist: one for each upstream, the charts', and those that references name."""
    wishes = {p: Wish(p) for p in [*sorted(literal), sovereign.mothership.chart_project]}
    for upstream in sovereign.upstreams:
        proxy_of = upstream if upstream.mode is Mode.PROXY else None
        wishes[upstream.project] = Wish(upstream.project, proxy_of)
    return tuple(wishes.values())


def differences(wish: Wish, found: Project, registry_id: int | None) -> list[str]:
    """How an existing project is other than wished, in words for a person."""
    wrong = []
    if not found.public:
        wrong.append("it is private")
    if wish.proxy_of is None and found.registry_id is not None:
        wrong.append(f"it is a proxy of registry {found.registry_id}")
    if wish.proxy_of is not None and found.registry_id is None:
        wrong.append("it is hosted")
    elif wish.proxy_of is not None and found.registry_id != registry_id:
        wrong.append(f"it is a proxy of registry {found.registry_id}, not {registry_id}")
    return wrong


async def run(order: Order, world: World, report: Report) -> ProjectsReady:
    """Create what is missing, compare what is there, look again."""
    harbor = world.harbor
    version = await harbor.check()
    await report(Progress(message=f"Harbor {version} is healthy and accepts our login"))
    wishes = plan(world.sovereign, await _literal(world))
    registries = {w.name: await _registry(harbor, w) for w in wishes}
    have = {w.name: await harbor.project(w.name) for w in wishes}
    _compare(wishes, have, registries)
    await _durable(harbor, wishes, have)
    created = [w.name for w in wishes if have[w.name] is None]
    changes = 0
    for done, wish in enumerate(wishes):
        said = f"{wish}; {HAZARDS}" if wish.proxy_of else str(wish)
        await report(Progress(message=said, items_done=done, items_total=len(wishes)))
        if have[wish.name] is None:
            changes += await harbor.create_project(wish.name, public=True, registry_id=registries[wish.name])
        changes += await _without_retention(harbor, wish)
    await _look_again(harbor, wishes, registries)
    await _room(harbor, wishes)
    probe = f"{world.sovereign.mothership.chart_project}/{PROBE}"
    await world.registries.probe_readers(probe)
    await world.registries.destination_ready(None, probe)
    robot, secret = await _robot(world, wishes, probe)
    changes += robot.made
    names = tuple(w.name for w in wishes)
    nothing = f"all {len(names)} projects exist as wanted; nothing to do"
    done_words = f"{len(names)} projects exist as wanted, {len(created)} of them new"
    summary = f"{done_words if changes else nothing}; robot {robot.login} may pull, {secret}"
    return ProjectsReady(changes=changes, summary=summary, projects=names, created=tuple(created))


async def _durable(harbor: HarborApi, wishes: Iterable[Wish], have: Mapping[str, Project | None]) -> None:
    """No hosted project has a policy of somebody's that deletes: what is kept here can never be fetched again."""
    policies = [(w.name, p.retention_id) for w in wishes if w.proxy_of is None and (p := have[w.name])]
    deleting = [f"{name} (policy {number})" for name, number in policies if number and await harbor.deletes(number)]
    if deleting:
        raise Stuck(
            "RetentionDeletes",
            f"{', '.join(deleting)}: a tag retention with rules that are on; it deletes what can then be fetched "
            "nowhere. Switch its rules off, or remove it",
        )


async def _room(harbor: HarborApi, wishes: Iterable[Wish]) -> None:
    """A project whose quota is used up takes nothing more: said before anything is moved."""
    quotas = {w.name: await harbor.quota(w.name) for w in wishes}
    if full := [f"{n} ({q.used} of {q.hard} bytes)" for n, q in quotas.items() if q and not q.left]:
        raise Stuck("HarborFull", f"projects {', '.join(full)} have no room left; raise their quota")


async def _robot(world: World, wishes: Iterable[Wish], probe: str) -> tuple[Robot, str]:
    """Whoever must sign in to pull uses this and never our own login. What became of its secret, in words.

    It is new each time, but not while somebody who would be refused then has a copy of it (workers/robot.py).
    """
    name, projects = world.sovereign.harbor.robot, [w.name for w in wishes]
    before = await robots.standing(world)
    kept = before.login if before is not None and before.copies else None
    robot = await world.harbor.robot(name, projects, kept.secret if kept else None)
    if before is not None and kept is not None and not robot.made:
        if robot.login == kept.username and await _accepted(world, kept, probe):
            who = ", ".join(before.copies[:5]) + (" and others" if before.copies[5:] else "")
            return robot, f"its secret as before, for {who} pull with it"
        robot = await world.harbor.robot(name, projects)
    await robots.store(world, robot)
    return robot, "made" if robot.made else "its secret new"


async def _accepted(world: World, login: Login, probe: str) -> bool:
    """Whether local Harbor takes the login. Raises Wait when that cannot be told now."""
    try:
        await world.registries.destination_ready(login, probe)
    except Stuck as stuck:
        if stuck.reason != "RobotRefused":
            raise
        return False
    return True


async def _literal(world: World) -> frozenset[str]:
    listed, _ = needs.listing(world.sovereign, (await needs.gather(world)).found)
    return literal_projects(world.sovereign, [item.reference for item in listed])


async def _registry(harbor: HarborApi, wish: Wish) -> int | None:
    """Harbor's id for the upstream of a proxy project."""
    if wish.proxy_of is None:
        return None
    upstream, name = wish.proxy_of, f"{wish.name}-upstream"
    # Harbor's adapter for Docker Hub wants the hub's address, not the registry's.
    url = "https://hub.docker.com" if upstream.adapter == "docker-hub" else f"https://{upstream.host}"
    if await harbor.endpoint(name) is None:
        await harbor.create_endpoint(name, url, upstream.adapter, upstream.login)
    found = await harbor.endpoint(name)
    if found is None:
        raise Wait("ProjectsPending", f"Harbor does not list registry {name} yet")
    if (found.url, found.type) != (url, upstream.adapter):
        raise Stuck(
            "WrongRegistry",
            f"registry {name} is {found.type} {found.url}, wanted is {upstream.adapter} {url}; rename or correct it",
        )
    return found.id


async def _without_retention(harbor: HarborApi, wish: Wish) -> int:
    """A proxy project is born with a retention that deletes what nobody pulled for 7 days (handler/project.go)."""
    project = await harbor.project(wish.name)
    if wish.proxy_of is None or project is None or project.retention_id is None:
        return 0
    await harbor.delete_retention(project.retention_id)
    if await harbor.has_retention(project.retention_id):
        raise Wait("RetentionRemains", f"{wish.name}: retention {project.retention_id} is still there")
    return 1


async def _look_again(harbor: HarborApi, wishes: Iterable[Wish], registries: Mapping[str, int | None]) -> None:
    wishes = tuple(wishes)
    now = {w.name: await harbor.project(w.name) for w in wishes}
    if absent := [name for name, project in now.items() if project is None]:
        raise Wait("ProjectsPending", f"Harbor does not list {', '.join(absent)} yet")
    _compare(wishes, now, registries)
    if kept := [w.name for w in wishes if w.proxy_of and (p := now[w.name]) and p.retention_id is not None]:
        raise Wait("RetentionRemains", f"proxy projects {', '.join(kept)} still have a retention policy")


def _compare(wishes: Iterable[Wish], have: Mapping[str, Project | None], registries: Mapping[str, int | None]) -> None:
    """Raises Stuck that names what is there and what is wanted, for all projects at once."""
    wrong = [
        f"project {w.name}: {' and '.join(differing)}; wanted is {w}"
        for w in wishes
        if (project := have[w.name]) and (differing := differences(w, project, registries[w.name]))
    ]
    if wrong:
        raise Stuck("WrongProject", "; ".join(wrong) + ". Rename or correct them; Harbor cannot change a kind")
