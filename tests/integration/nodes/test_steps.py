"""Steps 4 and 8 on nodes, kubelets, policies and an API server that are really there; Flux is left out."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from sandbox.controllers import api as kinds
from sandbox.nodes import RESOLVER, Node
from sandbox.registry.faults import Fault, Wrong
from schemas.nodes import NodeReport, Turn
from schemas.progress import Progress
from workers.adapters.cluster_kinds import CILIUM_CLUSTERWIDE_POLICY, CONFIG_MAP, NODE, POD
from workers.adapters.cluster_kinds import NAMESPACE as NAMESPACE_KIND
from workers.errors import Stuck, Wait
from workers.proof import canaries, names, pulls
from workers.proof.block import Block
from workers.steps import egress_block_test, registry_pivot
from workers.world import World

from .conftest import LOCAL, NAMESPACE, NEGATIVE, NODES, Cast, described, order


async def test_every_node_is_pivoted_and_proven(cast_of: Cast) -> None:
    await cast_of.agents(NODES)
    result = await registry_pivot.run(order(), cast_of.world, cast_of.report)
    assert tuple(result.nodes) == NODES
    assert result.changes == 4
    for node in cast_of.place.nodes:
        assert (node.containerd.certs / "ghcr.io/hosts.toml").read_text().count(LOCAL) == 2
    left = await cast_of.world.cluster.list(POD, NAMESPACE, "cutover.catalyst/tries")
    assert left == []


async def test_a_second_time_nothing_changes_and_both_pulls_are_proven_again(cast_of: Cast) -> None:
    await cast_of.agents(NODES)
    first = await registry_pivot.run(order(7), cast_of.world, cast_of.report)
    again = await registry_pivot.run(order(8), cast_of.world, cast_of.report)
    assert (again.changes, again.nodes) == (0, first.nodes)
    assert "nothing to change" in again.summary
    assert again.local_only_reference != first.local_only_reference


async def test_one_node_goes_first_and_each_wave_waits_for_the_one_before(cast_of: Cast) -> None:
    world = World(**{**_parts(cast_of.world), "sovereign": described(wave=1)})
    await cast_of.agents(NODES)
    seen: list[tuple[tuple[str, ...], bool, set[str]]] = []

    async def watch() -> None:
        place = world.sovereign.nodes
        async for _, obj in world.cluster.watch(CONFIG_MAP, NAMESPACE, name=place.plan_config_map):
            turn = Turn.model_validate_json(obj["data"]["turn.json"])
            seen.append((turn.nodes, turn.everyone, set(cast_of.reports.seen)))

    watching = asyncio.create_task(watch())
    result = await registry_pivot.run(order(), world, cast_of.report)
    watching.cancel()
    turns = [(nodes, everyone) for nodes, everyone, _ in seen]
    assert turns == [(("worker-1",), False), (("worker-1", "cp-1"), False), ((), True)]
    assert [heard for _, _, heard in seen][1:] == [{"worker-1"}, {"worker-1", "cp-1"}]
    assert tuple(result.nodes) == NODES
    assert any("canary worker-1" in p.message for p in cast_of.said)


async def test_when_the_canary_fails_no_other_node_is_touched(cast_of: Cast) -> None:
    place = cast_of.place
    await cast_of.agents(NODES)
    before = [_registry_files(n) for n in place.nodes]
    place.network.hosts[LOCAL] = replace(place.network.hosts[LOCAL], port=9)  # nobody answers there
    world = World(**{**_parts(cast_of.world), "sovereign": described(timeout=6)})
    with pytest.raises(Stuck, match=r"NodesFailed.*worker-1: failed: Wait: LocalRegistryAway") as failed:
        await registry_pivot.run(order(), world, cast_of.report)
    assert "cp-1" not in str(failed.value)
    assert [_registry_files(n) for n in place.nodes] == before, "the canary's files are back as well"


async def test_a_canary_that_falls_back_upstream_stops_the_waves(cast_of: Cast) -> None:
    await cast_of.agents(NODES)
    cast_of.kubelets.puller("worker-1").falls_back = True
    with pytest.raises(Stuck, match=r"PullsStillUpstream.*worker-1"):
        await registry_pivot.run(order(), cast_of.world, cast_of.report)
    assert set(cast_of.reports.seen) == {"worker-1"}


@pytest.mark.parametrize("private", [False, True])
async def test_what_could_not_be_pulled_by_anybody_stops_the_step_before_a_node_is_touched(
    cast_of: Cast, private: bool
) -> None:
    await cast_of.agents(NODES)
    before = [_registry_files(n) for n in cast_of.place.nodes]
    host, repository, tag = NEGATIVE
    upstream = cast_of.place.registries[host]
    if private:
        upstream.close(repository)
    else:
        upstream.store.untag(repository, tag)
    verdict = "NegativeNotPublic" if private else "NegativeMissing"
    with pytest.raises(Stuck, match=rf"{verdict}.*nodes\.upstream_only"):
        await registry_pivot.run(order(), cast_of.world, cast_of.report)
    assert [_registry_files(n) for n in cast_of.place.nodes] == before


async def test_while_upstream_cannot_be_asked_the_step_waits(cast_of: Cast) -> None:
    await cast_of.agents(NODES)
    upstream = cast_of.place.registries["ghcr.io"]
    upstream.faults.add(Fault(Wrong.STATUS, NEGATIVE[1], times=None, status=503))
    with pytest.raises(Wait, match=r"UpstreamUnreadable.*worker-1.*503"):
        await registry_pivot.run(order(), cast_of.world, cast_of.report)


LONG = 3600.0  # seconds of a lease that no slow machine outlives


class Killed(BaseException):
    """The worker is gone."""


async def test_an_attempt_that_follows_a_killed_one_goes_on_where_that_stood(cast_of: Cast) -> None:
    world = World(**{**_parts(cast_of.world), "sovereign": described(wave=1)})
    await cast_of.agents(NODES)

    async def until_the_second(progress: Progress) -> None:
        if progress.items_done == 2:
            raise Killed

    with pytest.raises(Killed):
        await registry_pivot.run(order(7), world, until_the_second)
    await registry_pivot.run(order(8), world, cast_of.report)
    assert not any("canary" in p.message for p in cast_of.said)
    assert all(LOCAL in _registry_files(n) for n in cast_of.place.nodes)


async def test_a_second_time_nothing_is_written_anywhere(cast_of: Cast) -> None:
    await cast_of.agents(NODES)
    await registry_pivot.run(order(7), cast_of.world, cast_of.report)

    async def state() -> list[Any]:
        plan = await cast_of.world.cluster.get(CONFIG_MAP, cast_of.world.sovereign.nodes.plan_config_map, NAMESPACE)
        space = await cast_of.world.cluster.get(NAMESPACE_KIND, NAMESPACE)
        agents = [
            p for p in await cast_of.world.cluster.list(POD, NAMESPACE) if p["metadata"]["name"].startswith("agent-")
        ]
        files = [(f, f.stat().st_mtime_ns) for n in cast_of.place.nodes for f in n.root.rglob("*.toml")]
        versions = [(o["metadata"]["name"], o["metadata"]["resourceVersion"]) for o in (plan, space, *agents) if o]
        return [versions, files]

    before = await state()
    again = await registry_pivot.run(order(8), cast_of.world, cast_of.report)
    assert again.changes == 0
    assert await state() == before


async def test_a_node_that_is_not_ready_is_told_from_one_whose_agent_fails(cast_of: Cast) -> None:
    await cast_of.agents(NODES[:2])
    node = await cast_of.world.cluster.get(NODE, "worker-2")
    assert node is not None
    away = {
        "type": "Ready",
        "status": "Unknown",
        "reason": "NodeStatusUnknown",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    await cast_of.api.merge(kinds.NODES, node, {"status": {"conditions": [away]}}, "kcm", sub="status")
    world = World(**{**_parts(cast_of.world), "sovereign": described(timeout=4)})
    with pytest.raises(Stuck, match=r"worker-2: never reported.*NotReady since 2026-01-01.*NodeStatusUnknown"):
        await registry_pivot.run(order(), world, cast_of.report)


async def test_a_node_without_an_agent_is_named(cast_of: Cast) -> None:
    await cast_of.agents(NODES[:2])
    world = World(**{**_parts(cast_of.world), "sovereign": described(timeout=4)})
    with pytest.raises(Stuck, match=r"NodesSilent.*worker-2: never reported"):
        await registry_pivot.run(order(), world, cast_of.report)
    assert any("worker-2" in p.message for p in cast_of.said)


async def test_a_node_that_lies_about_its_files_is_found_by_its_pulls(cast_of: Cast) -> None:
    await cast_of.agents(NODES[:2])
    digest = registry_pivot.plan_digest(registry_pivot.plan(cast_of.world.sovereign))
    lie = NodeReport(node="worker-2", digest=digest, result="v2", at=datetime.now(UTC))
    await cast_of.reports.take(lie)
    world = World(**{**_parts(cast_of.world), "sovereign": described(timeout=6)})
    with pytest.raises(Stuck, match=r"(LocalPullFailed|PullsStillUpstream).*worker-2"):
        await registry_pivot.run(order(), world, cast_of.report)


def _registry_files(node: Node) -> str:
    """Everything that k3s and containerd read."""
    files = [*node.containerd.certs.rglob("*.toml"), node.containerd.k3s / "registries.yaml"]
    return "".join(f"{f.relative_to(node.root)}\n{f.read_text()}" for f in sorted(files))


def _parts(world: World) -> dict[str, Any]:
    return {name: getattr(world, name) for name in World.__slots__}


async def test_the_block_bites_everywhere_cuts_nothing_and_is_lifted(cast_of: Cast) -> None:
    place, sovereign = cast_of.place, described()
    proof = sovereign.proof.model_copy(update={"lease": LONG})
    world = World(**{**_parts(cast_of.world), "sovereign": sovereign.model_copy(update={"proof": proof})})
    await cast_of.agents(NODES)
    await registry_pivot.run(order(), world, cast_of.report)
    before = await canaries.sample(world, NODES, 9, "before")
    egress_block_test.check_before(before)
    assert len(before.upstream) == len(NODES) * 2 * len(canaries.targets(world.sovereign).upstream)
    block = Block(world, 9)
    await block.prepare()
    resolvers = await names.resolvers(world, NODES, 9)
    assert resolvers == {RESOLVER}, "the nodes' own, not the cluster's"
    block.names_at(resolvers)
    assert RESOLVER in block.words[1], "the evidence says what is left open"
    await block.apply()
    under = await egress_block_test._bites(order(9), world, NODES)
    assert not under.escaped()
    assert not under.cut_off()
    assert place.blocks.current.keys() == set(NODES)
    assert {b.lease for b in place.blocks.current.values()} == {LONG}
    await pulls.prove(world, NODES[1:2], 9, "under")
    assert await egress_block_test.lift(world)
    assert not await egress_block_test.lift(world)
    after = await egress_block_test._freed(order(9), world, NODES)
    egress_block_test.check_before(after)
    assert await world.cluster.get(CILIUM_CLUSTERWIDE_POLICY, world.sovereign.proof.policy) is None
    plan = await world.cluster.get(CONFIG_MAP, world.sovereign.nodes.plan_config_map, NAMESPACE)
    assert plan is not None
    assert plan["data"].keys() == {"plan.json", "turn.json"}


async def test_a_policy_that_is_accepted_and_not_enforced_is_no_block(
    cast_of: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = cast_of.world
    await cast_of.agents(NODES)
    await registry_pivot.run(order(), world, cast_of.report)
    cast_of.enforcer.audit = True
    monkeypatch.setattr(egress_block_test, "BITE", 0.0)
    await Block(world, 9).apply()
    with pytest.raises(Stuck, match="EgressNotBlocked"):
        await egress_block_test._bites(order(9), world, NODES)


async def test_the_block_of_one_who_fenced_us_off_is_not_ours_to_lift(cast_of: Cast) -> None:
    await cast_of.agents(NODES)
    await registry_pivot.run(order(), cast_of.world, cast_of.report)
    await Block(cast_of.world, 12).apply()
    assert not await egress_block_test.lift(cast_of.world, token=9)
    assert not await egress_block_test.lift(cast_of.world, only_expired_at=datetime.now(UTC))
    assert await egress_block_test.lift(cast_of.world, token=12)
