"""Steps 4 and 8 on nodes, kubelets, policies and an API server that are really there; Flux is left out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from schemas.nodes import NodeReport
from workers.adapters.cluster_kinds import CILIUM_CLUSTERWIDE_POLICY, CONFIG_MAP, POD
from workers.errors import Stuck
from workers.proof import canaries
from workers.proof.block import Block
from workers.steps import egress_block_test, registry_pivot
from workers.world import World

from .conftest import LOCAL, NAMESPACE, NODES, Cast, described, order


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


async def test_a_node_without_an_agent_is_named(cast_of: Cast) -> None:
    await cast_of.agents(NODES[:2])
    world = World(**{**_parts(cast_of.world), "sovereign": described(timeout=3)})
    with pytest.raises(Stuck, match=r"NodesSilent.*worker-2: never reported"):
        await registry_pivot.run(order(), world, cast_of.report)
    assert any("worker-2" in p.message for p in cast_of.said)


async def test_a_node_that_lies_about_its_files_is_found_by_its_pulls(cast_of: Cast) -> None:
    await cast_of.agents(NODES[:2])
    digest = registry_pivot.plan_digest(registry_pivot.plan(cast_of.world.sovereign))
    lie = NodeReport(node="worker-2", digest=digest, result="v2", at=datetime.now(UTC))
    await cast_of.reports.take(lie)
    world = World(**{**_parts(cast_of.world), "sovereign": described(timeout=4)})
    with pytest.raises(Stuck, match=r"(LocalPullFailed|PullsStillUpstream).*worker-2"):
        await registry_pivot.run(order(), world, cast_of.report)


def _parts(world: World) -> dict[str, Any]:
    return {name: getattr(world, name) for name in World.__slots__}


async def test_the_block_bites_everywhere_cuts_nothing_and_is_lifted(cast_of: Cast) -> None:
    world, place = cast_of.world, cast_of.place
    await cast_of.agents(NODES)
    await registry_pivot.run(order(), world, cast_of.report)
    before = await canaries.sample(world, NODES, 9, "before")
    egress_block_test.check_before(before)
    assert len(before.upstream) == len(NODES) * 2 * len(canaries.targets(world.sovereign).upstream)
    block = Block(world, 9)
    await block.prepare()
    await block.apply()
    under = await egress_block_test._bites(order(9), world, NODES)
    assert not under.escaped()
    assert not under.cut_off()
    assert place.blocks.current.keys() == set(NODES)
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
