"""Who obeys the plan when: one node, then as many as a wave has, then everybody, now and later.

The agents watch the ConfigMap, so a turn reaches them as an event; their answers come over the log.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

from pydantic import ValidationError

from schemas.nodes import PLAN_KEY, TURN_KEY, NodePlan, NodeReport, Turn
from schemas.progress import Progress
from workers.adapters.cluster_kinds import CONFIG_MAP, NODE, Object, name_of
from workers.adapters.containerd import plan_digest
from workers.errors import Stuck
from workers.node_log import current
from workers.proof import pods, pulls
from workers.world import Order, Report, World

LOOK = 5.0  # seconds between two progress lines while nodes are silent
CONTROL_PLANE = "node-role.kubernetes.io/control-plane"


# --- decisions --------------------------------------------------------------------------------------------------


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


def remarks(nodes: Sequence[str], reports: Mapping[str, NodeReport]) -> list[str]:
    """What agents found that is not theirs to mend, or was and is mended."""
    return [f"{n}: {r.message}" for n in nodes if (r := reports.get(n)) is not None and r.message]


def canary(nodes: Iterable[Object], wanted: str | None) -> str:
    """The first to go: the configured one, or a healthy worker rather than what carries the API."""
    found = sorted(nodes, key=name_of)
    if wanted is not None:
        if wanted not in {name_of(n) for n in found}:
            raise Stuck("NoCanary", f"nodes.canary is {wanted}, and there is no such Node")
        return wanted

    def rank(node: Object) -> tuple[bool, bool, bool]:
        labels = node["metadata"].get("labels") or {}
        return away(node) is not None, CONTROL_PLANE in labels, bool((node.get("spec") or {}).get("unschedulable"))

    return name_of(min(found, key=rank))


def away(node: Object) -> str | None:
    """Why a node cannot answer, in the control plane's words; None for one that is Ready."""
    conditions = (node.get("status") or {}).get("conditions") or []
    ready = next((c for c in conditions if c.get("type") == "Ready"), None)
    if ready is None or ready.get("status") == "True":
        return None
    return f"NotReady since {ready.get('lastTransitionTime', '?')} ({ready.get('reason', 'no reason given')})"


def next_turn(turn: Turn, nodes: Sequence[str], size: int) -> Turn:
    """Whose turn it is when all before have answered. The last wave opens the plan to nodes that are yet to come."""
    waiting = [n for n in nodes if n not in turn.nodes]
    if len(waiting) <= size:
        return Turn(digest=turn.digest, everyone=True)
    return Turn(digest=turn.digest, nodes=(*turn.nodes, *waiting[:size]))


# --- doing it ---------------------------------------------------------------------------------------------------


async def pivot(order: Order, world: World, wanted: NodePlan, report: Report) -> tuple[int, tuple[str, ...]]:
    """Every node holds the plan. How often the plan itself had to be written (0, 1), and all nodes there are."""
    text, digest = wanted.model_dump_json(), plan_digest(wanted)
    known, turn = await _published(world, digest)
    written = int(known != text)
    if turn is None or written:
        turn = Turn(digest=digest)
    while True:
        listed = await world.cluster.list(NODE)
        names = tuple(sorted(map(name_of, listed)))
        if not turn.everyone and not set(turn.nodes) & set(names):
            # Nobody yet, or the canary was deleted meanwhile.
            turn = Turn(digest=digest, nodes=(canary(listed, world.sovereign.nodes.canary),))
            await _publish(order, world, text, turn)
        nodes = await _answered(world, turn, report)
        if turn.everyone:
            return written, nodes
        if len(turn.nodes) == 1:
            await report(Progress(message=f"canary {turn.nodes[0]} holds the plan; proving its pulls", percent=5))
            await pulls.prove(world, turn.nodes, order.token, "canary")
        turn = next_turn(turn, nodes, world.sovereign.nodes.wave)
        await _publish(order, world, text, turn)


async def _published(world: World, digest: str) -> tuple[str | None, Turn | None]:
    """The plan that stands, and how far an attempt before got with ours."""
    where = world.sovereign.nodes
    known = await world.cluster.get(CONFIG_MAP, where.plan_config_map, where.namespace)
    data = (known or {}).get("data") or {}
    try:
        turn = Turn.model_validate_json(data.get(TURN_KEY, ""))
    except ValidationError:
        turn = None
    return data.get(PLAN_KEY), turn if turn is not None and turn.digest == digest else None


async def _publish(order: Order, world: World, text: str, turn: Turn) -> None:
    """Plan and turn in one write: an agent never sees one without the other."""
    where = world.sovereign.nodes
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
            "data": {PLAN_KEY: text, TURN_KEY: turn.model_dump_json()},
        },
    )


async def _answered(world: World, turn: Turn, report: Report) -> tuple[str, ...]:
    """All nodes there are, once each whose turn it is holds the plan; nodes that join meanwhile included."""
    limit = world.sovereign.nodes.timeout
    deadline = time.monotonic() + limit
    while True:
        listed = await world.cluster.list(NODE)
        nodes = tuple(sorted(map(name_of, listed)))
        reports = current(listed, await world.nodes.latest())
        asked = [n for n in nodes if turn.everyone or n in turn.nodes]
        late = laggards(asked, reports, turn.digest)
        done = len(holding(nodes, reports, turn.digest))
        words = f"{done} of {len(nodes)} nodes hold the plan" + (f"; not {', '.join(late)}" if late else "")
        await report(Progress(message=words, percent=50 * done // len(nodes), items_done=done, items_total=len(nodes)))
        if not late:
            return nodes
        left = deadline - time.monotonic()
        if left <= 0:
            raise _overdue(late, listed, reports, limit)
        await world.nodes.changed(min(LOOK, left))


def _overdue(
    late: Mapping[str, str], nodes: Iterable[Object], reports: Mapping[str, NodeReport], limit: float
) -> Stuck:
    """Every node that does not hold the plan by its name: silent ones, or ones that say why they cannot."""
    gone = {name_of(n): why for n in nodes if (why := away(n)) is not None}
    said = "; ".join(f"{n}: {why}" + (f", {gone[n]}" if n in gone else "") for n, why in late.items())
    failed = all((r := reports.get(n)) is not None and r.result == "failed" for n in late)
    return Stuck("NodesFailed" if failed else "NodesSilent", f"after {limit:g} s: {said}")
