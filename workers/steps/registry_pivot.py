"""Step 4: every node pulls from local Harbor, and from nowhere else.

Changes   the plan that the node agents obey (a ConfigMap, so that nodes which join later find it too)
True when every node acknowledged the plan, pulled what exists only locally, and was refused what exists
          only upstream
Safe to repeat: a node that holds the plan is left alone; both pulls are proven again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from schemas.nodes import Mirror, NodePlan, NodeReport
from schemas.progress import Progress
from schemas.results import NodesPivoted
from workers.adapters.cluster_kinds import CONFIG_MAP
from workers.adapters.containerd import plan_digest
from workers.entrypoints.node_agent import PLAN_KEY
from workers.errors import Stuck
from workers.proof import pods, pulls
from workers.sovereign import Sovereign
from workers.world import Order, Report, World

LOOK = 5.0  # seconds between two progress lines while nodes are silent


def plan(sovereign: Sovereign) -> NodePlan:
    """The registry configuration every node shall have: each mapped host, and the mothership's own registry."""
    base = f"{sovereign.harbor.scheme}://{sovereign.harbor.host}/v2"
    mirrors = [Mirror(host=u.host, endpoint=f"{base}/{u.project}") for u in sovereign.upstreams]
    registry = sovereign.mothership.registry
    if registry not in {m.host for m in mirrors}:
        # References to it keep their path whole (adapters/oci/places): its projects exist here too.
        mirrors.append(Mirror(host=registry, endpoint=base))
    return NodePlan(registry=sovereign.harbor.host, mirrors=tuple(mirrors), ca_file=sovereign.harbor.ca_file)


def holding(nodes: Sequence[str], reports: Mapping[str, NodeReport], digest: str) -> frozenset[str]:
    """Nodes whose newest word is that they hold this plan."""
    return frozenset(n for n in nodes if (r := reports.get(n)) is not None and r.digest == digest and r.result == "v2")


def laggards(nodes: Sequence[str], reports: Mapping[str, NodeReport], digest: str) -> dict[str, str]:
    """Node -> why it does not count, in words for a person."""
    held = holding(nodes, reports, digest)
    return {n: _why(reports.get(n)) for n in nodes if n not in held}


def _why(report: NodeReport | None) -> str:
    if report is None:
        return "never reported; does its agent run?"
    if report.result == "failed":
        return f"failed: {report.message}"
    return f"still holds {report.digest[:19]}"


async def run(order: Order, world: World, report: Report) -> NodesPivoted:
    """Publish the plan, hear every node, prove both pulls on each."""
    sovereign, cluster = world.sovereign, world.cluster
    nodes = await pods.node_names(cluster)
    if not nodes:
        raise Stuck("NoNodes", "the API lists no Node; nothing can be pivoted or proven")
    wanted = plan(sovereign)
    digest = plan_digest(wanted)
    await pods.ensure_namespace(cluster, sovereign.nodes.namespace)
    await pods.sweep(cluster, sovereign.nodes.namespace, order.token)
    before = holding(nodes, await world.nodes.latest(), digest)
    written = await _publish(order, world, wanted)
    nodes = await _acknowledged(world, digest, report)
    await report(Progress(message=f"proving pulls on {len(nodes)} nodes", percent=60))
    proof = await pulls.prove(world, nodes, order.token, "pivot")
    late = laggards(await pods.node_names(cluster), await world.nodes.latest(), digest)
    if late:
        raise Stuck("NodesChanged", "; ".join(f"{n}: {why}" for n, why in late.items()))
    changes = written + len(set(nodes) - before)
    what = f"{changes} changes" if changes else "nothing to change"
    return NodesPivoted(
        changes=changes,
        summary=f"{what}: {len(nodes)} nodes pull from {sovereign.harbor.host} and nowhere else",
        nodes=dict.fromkeys(nodes, digest),
        local_only_reference=proof.local_only,
        upstream_only_reference=proof.upstream_only,
    )


async def _publish(order: Order, world: World, wanted: NodePlan) -> int:
    where = world.sovereign.nodes
    text = wanted.model_dump_json()
    known = await world.cluster.get(CONFIG_MAP, where.plan_config_map, where.namespace)
    if known is not None and (known.get("data") or {}).get(PLAN_KEY) == text:
        return 0
    await world.cluster.apply(
        CONFIG_MAP,
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": where.plan_config_map,
                "namespace": where.namespace,
                "annotations": {pods.TOKEN: str(order.token)},
            },
            "data": {PLAN_KEY: text},
        },
    )
    return 1


async def _acknowledged(world: World, digest: str, report: Report) -> tuple[str, ...]:
    """Every node, nodes that join meanwhile included, once all hold the plan."""
    deadline = time.monotonic() + world.sovereign.nodes.timeout
    while True:
        nodes = await pods.node_names(world.cluster)
        late = laggards(nodes, await world.nodes.latest(), digest)
        done = len(nodes) - len(late)
        words = f"{done} of {len(nodes)} nodes hold the plan" + (f"; not {', '.join(late)}" if late else "")
        await report(Progress(message=words, percent=50 * done // len(nodes), items_done=done, items_total=len(nodes)))
        if not late:
            return nodes
        left = deadline - time.monotonic()
        if left <= 0:
            reasons = "; ".join(f"{n}: {why}" for n, why in late.items())
            raise Stuck("NodesSilent", f"after {world.sovereign.nodes.timeout:g} s: {reasons}")
        await world.nodes.changed(min(LOOK, left))
