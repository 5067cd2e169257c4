"""Step 4: every node pulls from local Harbor, and from nowhere else.

Changes   the plan that the node agents obey (a ConfigMap, so that nodes which join later find it too); entries of
          Pods' pull secrets that nodes would now send to local Harbor and be refused with
True when every node acknowledged the plan, pulled what exists only locally, and was refused what exists
          only upstream
Before    any node is touched: what must be refused is upstream, for anybody
Order     a canary node first, proven by both pulls; then waves, each after the one before has answered
Safe to repeat: a node that holds the plan is left alone; both pulls are proven again.

Every Node of the API counts, one that is NotReady or cordoned too: it comes back with the files it has. Agents
run on both (they tolerate everything); a node that stays away is named, and left out only when its Node is
deleted.
"""

from __future__ import annotations

from pathlib import Path

from schemas.nodes import Mirror, NodePlan
from schemas.progress import Progress
from schemas.results import NodesPivoted
from workers.adapters.cluster_kinds import NODE, name_of
from workers.adapters.containerd import plan_digest
from workers.errors import Stuck
from workers.node_log import current
from workers.proof import pods, pulls
from workers.sovereign import Sovereign
from workers.steps.registry_pivot import logins, waves
from workers.steps.registry_pivot.waves import holding, laggards
from workers.world import Order, Report, World

__all__ = ["authority", "holding", "laggards", "plan", "run"]


def plan(sovereign: Sovereign, ca: str | None = None) -> NodePlan:
    """The registry configuration every node shall have: each mapped host, and the mothership's own registry."""
    base = f"{sovereign.harbor.scheme}://{sovereign.harbor.host}/v2"
    mirrors = [Mirror(host=u.host, endpoint=f"{base}/{u.project}") for u in sovereign.upstreams]
    registry = sovereign.mothership.registry
    if registry not in {m.host for m in mirrors}:
        # References to it keep their path whole (adapters/oci/places): its projects exist here too.
        mirrors.append(Mirror(host=registry, endpoint=base))
    return NodePlan(registry=sovereign.harbor.host, mirrors=tuple(mirrors), ca_file=sovereign.harbor.ca_file, ca=ca)


def authority(sovereign: Sovereign) -> str | None:
    """The CA of local Harbor (PEM), for the agents to put on the nodes; None when a public one signed it."""
    if sovereign.harbor.ca_file is None:
        return None
    try:
        return Path(sovereign.harbor.ca_file).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        path = sovereign.harbor.ca_file
        raise Stuck("CaUnreadable", f"harbor.ca_file {path}: {error}; mount it into the worker") from error


async def run(order: Order, world: World, report: Report) -> NodesPivoted:
    """Publish the plan node by node, hear every node, prove both pulls on each, mend pull secrets."""
    sovereign, cluster = world.sovereign, world.cluster
    listed = await cluster.list(NODE)
    nodes = tuple(sorted(map(name_of, listed)))
    if not nodes:
        raise Stuck("NoNodes", "the API lists no Node; nothing can be pivoted or proven")
    wanted = plan(sovereign, authority(sovereign))
    digest = plan_digest(wanted)
    await logins.look(world, wanted)
    await pods.ensure_namespace(cluster, sovereign.nodes.namespace)
    await pods.sweep(cluster, sovereign.nodes.namespace, order.token)
    await pulls.negative_exists(world, waves.canary(listed, sovereign.nodes.canary), order.token)
    before = holding(nodes, current(listed, await world.nodes.latest()), digest)
    written, nodes = await waves.pivot(order, world, wanted, report)
    await report(Progress(message=f"proving pulls on {len(nodes)} nodes", percent=60))
    proof = await pulls.prove(world, nodes, order.token, "pivot")
    listed = await cluster.list(NODE)
    late = laggards([*map(name_of, listed)], current(listed, await world.nodes.latest()), digest)
    if late:
        raise Stuck("NodesChanged", "; ".join(f"{n}: {why}" for n, why in late.items()))
    mended = await logins.mend(world, wanted, report)
    changes = written + len(set(nodes) - before) + len(mended)
    what = f"{changes} changes" if changes else "nothing to change"
    found = waves.remarks(nodes, await world.nodes.latest())
    return NodesPivoted(
        changes=changes,
        summary="; ".join(
            [
                f"{what}: {len(nodes)} nodes pull images of mapped hosts from {sovereign.harbor.host} and nowhere else",
                *([f"pull secrets lead to it too: {', '.join(mended)}"] if mended else []),
                *await logins.remarks(world, mended),
                *found,
            ]
        ),
        nodes=dict.fromkeys(nodes, digest),
        local_only_reference=proof.local_only,
        upstream_only_reference=proof.upstream_only,
    )
