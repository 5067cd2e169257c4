"""Read everything that may hold a tether; what cannot be read becomes a finding of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from schemas.events import Audited
from schemas.nodes import PLAN_KEY, NodePlan, NodeReport
from workers import credentials
from workers.adapters.cluster import (
    CONFIG_MAP,
    CONFIGURATION,
    CRON_JOB,
    DAEMON_SET,
    DEPLOYMENT,
    FUNCTION,
    GIT_REPOSITORY,
    HELM_REPOSITORY,
    IMAGE_REPOSITORY,
    JOB,
    NODE,
    OCI_REPOSITORY,
    POD,
    PROVIDER,
    SECRET,
    STATEFUL_SET,
    Kind,
    Object,
    key_of,
)
from workers.audit import finding as kinds
from workers.audit.finding import Audit, Finding, Severity, Tether, unread
from workers.audit.in_git import in_git
from workers.audit.kept import forgotten
from workers.audit.rules import Judge, all_hold, pod_spec
from workers.declared.reconcile import each
from workers.errors import Trouble
from workers.needs import images
from workers.node_log import current
from workers.sovereign import Sovereign
from workers.supply.sources import local_address
from workers.world import World

FLUX = "source.toolkit.fluxcd.io"
BUCKET = Kind(FLUX, "Bucket", "buckets", versions=("v1", "v1beta2"))
K3S_CHART = Kind("helm.cattle.io", "HelmChart", "helmcharts")
K3S_PLAN = Kind("upgrade.cattle.io", "Plan", "plans")

ALWAYS = (GIT_REPOSITORY, HELM_REPOSITORY)
"""Every Sovereign has these: when they are not served, something is wrong."""
WITH_GROUP = (OCI_REPOSITORY, PROVIDER, CONFIGURATION, FUNCTION)
"""Their absence is in order only while nothing of their API group is served."""
OPTIONAL = (BUCKET, IMAGE_REPOSITORY, K3S_CHART, K3S_PLAN)
SOURCES = (*ALWAYS, *WITH_GROUP, *OPTIONAL)
WORKLOADS = (DEPLOYMENT, STATEFUL_SET, DAEMON_SET, CRON_JOB, JOB, POD)
_OVER = frozenset({"Succeeded", "Failed"})


@dataclass(slots=True)
class Inventory:
    """The cluster as it was read, and what could not be."""

    objects: dict[Kind, list[Object]] = field(default_factory=dict)
    unread: list[Finding] = field(default_factory=list)

    def of(self, *wanted: Kind) -> list[Object]:
        """All objects of these kinds."""
        return [obj for kind in wanted for obj in self.objects.get(kind, ())]


async def audit(world: World) -> Audit:
    """Every tether there is. Raises nothing for what cannot be read: that is a finding."""
    findings = [*await declared(world), *await in_git(world), *await forgotten(world)]
    return Audit(datetime.now(UTC), tuple(sorted(findings, key=_order)))


async def declared(world: World) -> list[Finding]:
    """What the cluster's objects and the nodes' answers say now."""
    seen = await read(world)
    try:
        reports = await world.nodes.latest()
    except Trouble as error:
        reports = {}
        seen.unread.append(unread(kinds.MIRRORS, "NodeReport", "all nodes", error))
    return judged(seen, world.sovereign, reports)


async def evidence(world: World, signer: str = "") -> Audited:
    """The same as a fact for the journal: what completion rests on."""
    return (await audit(world)).fact(signer)


def _order(found: Finding) -> tuple[bool, int, str, str]:
    return found.severity is Severity.NOTICE, found.tether or 99, found.place, found.field


# --- reading ----------------------------------------------------------------------------------------------------


async def read(world: World) -> Inventory:
    """Everything, each kind by itself: one that is forbidden hides no other."""
    seen, cluster = Inventory(), world.cluster
    absent: list[Kind] = []

    async def look(kind: Kind) -> None:
        try:
            if not await cluster.served(kind):
                absent.append(kind)
                return
            seen.objects[kind] = await (credentials.secrets(world) if kind is SECRET else cluster.list(kind))
        except Trouble as error:
            seen.unread.append(unread(_tether(kind), kind.kind, "all of them", error))

    await each((*SOURCES, *WORKLOADS, SECRET, CONFIG_MAP, NODE), look)
    groups = {kind.group for kind in seen.objects}
    for kind in absent:
        if kind not in OPTIONAL and (kind in ALWAYS or not kind.group or kind.group in groups):
            seen.unread.append(unread(_tether(kind), kind.kind, "all of them", f"{kind.resource} is not served"))
    return seen


def _tether(kind: Kind) -> Tether:
    if kind in (SECRET, CONFIG_MAP):
        return kinds.PULL_SECRETS if kind is SECRET else kinds.API
    if kind is NODE:
        return kinds.MIRRORS
    if kind in WORKLOADS:
        return kinds.API if kind is DEPLOYMENT else kinds.IMAGES
    if kind in (PROVIDER, CONFIGURATION, FUNCTION):
        return kinds.PACKAGES
    return kinds.GIT if kind is GIT_REPOSITORY else kinds.CHARTS


# --- judging ----------------------------------------------------------------------------------------------------


def judged(seen: Inventory, sovereign: Sovereign, reports: Mapping[str, NodeReport]) -> list[Finding]:
    """All findings of what was read. Pure."""
    plan, broken = plan_of(seen.of(CONFIG_MAP), sovereign)
    nodes = seen.of(NODE)
    reports = current(nodes, reports)
    judge = Judge.of(sovereign, plan, all_hold(nodes, plan, reports))
    found = [*seen.unread, *broken]
    if NODE in seen.objects and not nodes:
        found.append(unread(kinds.MIRRORS, "Node", "all of them", "the API lists no Node"))
    found += _of_nodes(seen, judge.nodes(nodes, plan, reports), known=not broken)
    for obj in seen.of(*SOURCES):
        found += judge.source(obj)
    config = {key_of(obj): obj for obj in seen.of(CONFIG_MAP)}
    keys = {key_of(obj): tuple(obj.get("data") or ()) for obj in seen.of(SECRET)}
    told = [one for obj in workloads(seen) for one in judge.workload(obj, config, keys)]
    found += [*told, *_beyond(told, (one for obj in _alive(seen) for one in judge.proxies(obj, config, keys)))]
    if DEPLOYMENT in seen.objects:
        api = sovereign.catalyst_api
        mine = (o for o in seen.of(DEPLOYMENT) if key_of(o) == (api.namespace, api.deployment))
        found += judge.catalyst_api(next(mine, None))
    found += _overlooked(seen, sovereign)
    found += judge.secrets(seen.of(SECRET), _referenced(seen, sovereign))
    return found


def _of_nodes(seen: Inventory, found: Iterable[Finding], *, known: bool) -> Iterable[Finding]:
    """What is known of nodes. A plan that could not be read is not `no plan was ever given`."""
    if CONFIG_MAP not in seen.objects:
        yield unread(kinds.MIRRORS, "ConfigMap", "the nodes' plan", "ConfigMaps could not be read")
        known = False
    yield from (each for each in found if known or each.tether != kinds.MIRRORS.number)


def plan_of(config: Iterable[Object], sovereign: Sovereign) -> tuple[NodePlan | None, list[Finding]]:
    """What the nodes were told; a plan that cannot be read is a finding."""
    where = (sovereign.nodes.namespace, sovereign.nodes.plan_config_map)
    text: Any = next(((o.get("data") or {}).get(PLAN_KEY) for o in config if key_of(o) == where), None)
    if not text:
        return None, []
    try:
        return NodePlan.model_validate_json(text), []
    except ValidationError:
        return None, [unread(kinds.MIRRORS, "ConfigMap", "/".join(where), f"{PLAN_KEY} is no plan")]


def workloads(seen: Inventory) -> Iterable[Object]:
    """Templates, and Pods that run what no template of their namespace says: by hand, or of an older template."""
    templates = seen.of(*(kind for kind in WORKLOADS if kind not in (POD, JOB)))
    said = {(key_of(obj)[0], image) for obj in templates for image in images(pod_spec(obj))}
    yield from templates
    for obj in _alive(seen):
        if not {(key_of(obj)[0], image) for image in images(pod_spec(obj))} <= said:
            yield obj


def _alive(seen: Inventory) -> Iterator[Object]:
    """Jobs and Pods that are not over."""
    for obj in seen.of(JOB, POD):
        status = obj.get("status") or {}
        if status.get("phase") not in _OVER and not status.get("completionTime"):
            yield obj


def _beyond(told: Iterable[Finding], live: Iterable[Finding]) -> Iterator[Finding]:
    """What lives is told and its template does not say: a webhook's doing. Once a namespace, not for each Pod."""
    known = {(f.namespace, f.field, f.host) for f in told}
    for found in live:
        if (place := (found.namespace, found.field, found.host)) not in known:
            known.add(place)
            yield found


def _overlooked(seen: Inventory, sovereign: Sovereign) -> list[Finding]:
    """Pull secrets in use where we may not look."""
    specs = [(obj, pod_spec(obj)) for obj in seen.of(*WORKLOADS)]
    why = "its namespace is not among secret_namespaces"
    left = credentials.overlooked(sovereign, specs, seen.of(*SOURCES))
    return [unread(kinds.PULL_SECRETS, "Secret", place, why) for place in left]


def _referenced(seen: Inventory, sovereign: Sovereign) -> set[tuple[str, str]]:
    """Secrets that sources of the mothership name: step 6 strips those as well."""
    return {
        (key_of(obj)[0], str(name))
        for obj in seen.of(HELM_REPOSITORY, OCI_REPOSITORY)
        if local_address(str(obj["spec"].get("url", "")), sovereign)
        and (name := (obj["spec"].get("secretRef") or {}).get("name"))
    }
