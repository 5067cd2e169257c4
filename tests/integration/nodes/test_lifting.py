"""Who lifts the block when the step cannot: the lifter Job, the watchman, and nobody for a block that is alive."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sandbox.controllers.api import CONFIG_MAPS
from workers.adapters.cluster_kinds import CILIUM_CLUSTERWIDE_POLICY, CONFIG_MAP, JOB, POD
from workers.errors import Stuck
from workers.proof import block, lifter
from workers.steps import egress_block_test

from .conftest import NAMESPACE, Cast, order
from .test_hold import holding, ready

LEASE = 8.0  # seconds


async def gone(cast_of: Cast, world: Any, within: float) -> float:
    """Seconds until nothing of the block stands. Fails when it takes longer."""
    began = time.monotonic()
    async with asyncio.timeout(within):
        while await block.standing(world.cluster, block.Placement.of(world.sovereign)) or cast_of.place.blocks.current:
            await asyncio.sleep(0.1)
    return time.monotonic() - began


async def test_with_the_step_dead_the_lifter_lifts_when_the_lease_is_over(
    cast_of: Cast, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dead(*_: Any, **__: Any) -> bool:
        return False

    world = await ready(cast_of, tmp_path, lease=LEASE)
    step = await holding(cast_of, world)
    (job,) = await world.cluster.list(JOB, NAMESPACE)
    assert job["spec"]["activeDeadlineSeconds"] > 60
    # As after kill -9: nothing of the step's own clean-up happens.
    monkeypatch.setattr(egress_block_test, "lift", dead)
    step.cancel()
    await asyncio.gather(step, return_exceptions=True)
    assert await block.standing(world.cluster, block.Placement.of(world.sovereign))
    await gone(cast_of, world, within=LEASE + 60)
    assert await world.cluster.list(JOB, NAMESPACE), "it stands by until its own time is over"


async def test_a_step_that_ends_takes_its_lifter_along(cast_of: Cast, tmp_path: Any) -> None:
    world = await ready(cast_of, tmp_path)
    step = await holding(cast_of, world)
    step.cancel()
    await asyncio.gather(step, return_exceptions=True)
    assert await world.cluster.list(JOB, NAMESPACE) == []


async def test_without_a_lifter_nothing_is_blocked(
    cast_of: Cast, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await ready(cast_of, tmp_path)
    monkeypatch.setattr(lifter, "READY", 1.0)
    nodes = world.sovereign.nodes.model_copy(update={"image": "ghcr.io/openova-io/nowhere:1"})
    monkeypatch.setattr(lifter, "job", lambda s, *a, _job=lifter.job: _job(s.model_copy(update={"nodes": nodes}), *a))
    with pytest.raises(Stuck, match="NoLifter"):
        await egress_block_test.run(order(9), world, cast_of.report)
    assert not await block.standing(world.cluster, block.Placement.of(world.sovereign))
    assert await world.cluster.list(POD, NAMESPACE, "cutover.catalyst/tries") == []


async def test_a_late_renewal_does_not_bring_back_what_others_have_lifted(cast_of: Cast, tmp_path: Any) -> None:
    world = await ready(cast_of, tmp_path)
    late = block.Block(world, 9)
    await late.apply()
    assert await block.lift(world)
    with pytest.raises(Stuck, match="BlockLost"):
        await late.renew()
    assert not await block.standing(world.cluster, block.Placement.of(world.sovereign))


async def test_a_node_order_of_a_later_attempt_is_left_alone(cast_of: Cast, tmp_path: Any) -> None:
    world = await ready(cast_of, tmp_path)
    until = datetime.now(UTC) + timedelta(seconds=60)
    order_ = block.NodeBlock(deny=("0.0.0.0/0",), expires_at=until, token=12)
    plan = await cast_of.api.get(CONFIG_MAPS, "cutover-node-plan", NAMESPACE)
    assert plan is not None
    await cast_of.api.merge(CONFIG_MAPS, plan, {"data": {"block.json": order_.model_dump_json()}}, "test")
    assert not await block.lift(world, token=9)
    assert await block.lift(world, token=12)


async def test_a_node_order_that_stays_or_goes_by_itself_is_not_overlooked(
    cast_of: Cast, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await ready(cast_of, tmp_path)
    ours = block.Block(world, 9)
    await ours.apply()
    await ours.renew()
    await world.cluster.delete(CILIUM_CLUSTERWIDE_POLICY, world.sovereign.proof.policy)
    with pytest.raises(Stuck, match=rf"^BlockNotLifted.*: block\.json in ConfigMap {NAMESPACE}/cutover-node-plan;"):
        await egress_block_test._really_lifted(world)
    with monkeypatch.context() as patched:

        async def undone(*_: Any) -> None:
            """As where an admission webhook puts back what it knows."""

        patched.setattr(block, "_order_nodes", undone)
        with pytest.raises(Stuck, match=r"^BlockNotLifted: still there after it was deleted: block\.json"):
            await block.lift(world, token=9)
    assert await block.lift(world, token=9)
    await egress_block_test._really_lifted(world)
    again = block.Block(world, 9)
    await again.apply()
    await world.cluster.patch(CONFIG_MAP, "cutover-node-plan", NAMESPACE, {"data": {"block.json": None}})
    with pytest.raises(Stuck, match=r"^BlockLost: somebody removed or changed block\.json"):
        await again.renew()
    assert await block.lift(world)
