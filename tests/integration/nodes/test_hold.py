"""Step 8 when it goes wrong: whatever ends the hold, the way out is open again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from sandbox.controllers.api import DEPLOYMENTS, GIT_REPOSITORIES
from workers.adapters.cluster_kinds import CILIUM_CLUSTERWIDE_POLICY, CONFIG_MAP, NETWORK_POLICY, POD
from workers.audit import survey
from workers.errors import Stuck
from workers.sovereign import Login, Proof
from workers.steps import egress_block_test, registry_pivot
from workers.world import World

from .conftest import LOCAL, NAMESPACE, NODES, Cast, order


class SlowGit:
    """A Git that takes for ever: the forced work never ends."""

    @asynccontextmanager
    async def checkout(self, _remote: Any, _branch: str) -> AsyncIterator[None]:
        await asyncio.Event().wait()
        yield


async def ready(cast_of: Cast, tmp_path: Any, hold: float = 60, lease: float = 60) -> World:
    """Pivoted nodes, clean declarations, everything green, and a Git that never answers."""
    await cast_of.agents(NODES)
    await registry_pivot.run(order(), cast_of.world, cast_of.report)
    url = f"https://{LOCAL}/openova/openova"
    secret = tmp_path / "token"
    secret.write_text("t")
    for namespace in ("flux-system", "catalyst-system"):
        place = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        await cast_of.world.cluster.apply(registry_pivot.pods.NAMESPACE, place)
    source = await cast_of.api.create(
        GIT_REPOSITORIES,
        {
            "apiVersion": "source.toolkit.fluxcd.io/v1",
            "kind": "GitRepository",
            "metadata": {"name": "openova", "namespace": "flux-system"},
            "spec": {"url": url, "interval": "1m"},
        },
        "test",
    )
    green = {"type": "Ready", "status": "True", "reason": "Succeeded", "message": "stored"}
    green["lastTransitionTime"] = source["metadata"]["creationTimestamp"]
    status = {"observedGeneration": source["metadata"]["generation"], "conditions": [green]}
    await cast_of.api.merge(GIT_REPOSITORIES, source, {"status": status}, "test", sub="status")
    container = {"name": "catalyst-api", "image": "x", "env": [{"name": "CATALYST_GITOPS_REPO_URL", "value": url}]}
    await cast_of.api.create(
        DEPLOYMENTS,
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "catalyst-api", "namespace": "catalyst-system"},
            "spec": {
                "selector": {"matchLabels": {"app": "a"}},
                "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [container]}},
            },
        },
        "test",
    )
    old = cast_of.world
    gitea = old.sovereign.gitea.model_copy(update={"login": Login(username="u", password_file=secret)})
    proof = Proof(hold=hold, rehearsal=True, lease=lease, sample=1, connect_timeout=1.0)
    sovereign = old.sovereign.model_copy(update={"gitea": gitea, "proof": proof})
    nothing = cast(Any, None)
    git = cast(Any, SlowGit())
    return World(sovereign, old.cluster, git, nothing, nothing, old.registries, old.nodes, survey=survey.declared)


async def holding(cast_of: Cast, world: World) -> asyncio.Task[Any]:
    """The step, as far as the hold."""
    step = asyncio.create_task(egress_block_test.run(order(9), world, cast_of.report))
    async with asyncio.timeout(60):
        while not any(p.hold_seconds_remaining is not None for p in cast_of.said):
            if step.done():
                await step
            await asyncio.sleep(0.05)
    assert await world.cluster.get(CILIUM_CLUSTERWIDE_POLICY, world.sovereign.proof.policy) is not None
    return step


async def assert_open(cast_of: Cast, world: World) -> None:
    """Nothing is left of the block or of its canaries."""
    assert await world.cluster.get(CILIUM_CLUSTERWIDE_POLICY, world.sovereign.proof.policy) is None
    plan = await world.cluster.get(CONFIG_MAP, world.sovereign.nodes.plan_config_map, NAMESPACE)
    assert plan is not None
    assert "block.json" not in plan["data"]
    assert await world.cluster.list(POD, NAMESPACE, "cutover.catalyst/tries") == []
    async with asyncio.timeout(60):
        while cast_of.place.blocks.current:
            await asyncio.sleep(0.05)


async def test_a_step_that_is_stopped_mid_hold_lifts_the_block(cast_of: Cast, tmp_path: Any) -> None:
    world = await ready(cast_of, tmp_path)
    step = await holding(cast_of, world)
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    await assert_open(cast_of, world)


async def test_a_policy_that_somebody_removes_ends_the_proof(cast_of: Cast, tmp_path: Any) -> None:
    world = await ready(cast_of, tmp_path)
    step = await holding(cast_of, world)
    await world.cluster.delete(CILIUM_CLUSTERWIDE_POLICY, world.sovereign.proof.policy)
    with pytest.raises(Stuck, match="BlockLost"):
        await asyncio.wait_for(step, 60)
    await assert_open(cast_of, world)


async def test_a_canary_that_gets_out_mid_hold_ends_the_proof(cast_of: Cast, tmp_path: Any) -> None:
    world = await ready(cast_of, tmp_path)
    step = await holding(cast_of, world)
    cast_of.enforcer.audit = True
    cast_of.enforcer.judge()
    with pytest.raises(Stuck, match="EgressNotBlocked"):
        await asyncio.wait_for(step, 60)
    await assert_open(cast_of, world)


async def test_a_source_that_turns_red_mid_hold_ends_the_proof(cast_of: Cast, tmp_path: Any) -> None:
    world = await ready(cast_of, tmp_path)
    step = await holding(cast_of, world)
    source = await cast_of.api.get(GIT_REPOSITORIES, "openova", "flux-system")
    assert source is not None
    (ready_now,) = source["status"]["conditions"]
    red = {**ready_now, "status": "False", "reason": "GitOperationFailed", "message": "i/o timeout"}
    await cast_of.api.merge(GIT_REPOSITORIES, source, {"status": {"conditions": [red]}}, "test", sub="status")
    with pytest.raises(Stuck, match=r"NotGreenUnderBlock.*GitOperationFailed"):
        await asyncio.wait_for(step, 60)
    await assert_open(cast_of, world)


async def test_a_declared_tether_is_found_before_anything_is_blocked(cast_of: Cast, tmp_path: Any) -> None:
    world = await ready(cast_of, tmp_path)
    source = await cast_of.api.get(GIT_REPOSITORIES, "openova", "flux-system")
    assert source is not None
    await cast_of.api.merge(GIT_REPOSITORIES, source, {"spec": {"url": "https://github.com/x/y"}}, "test")
    with pytest.raises(Stuck, match=r"TetherLeft.*github\.com \(cut by flux-gitrepository-patch\)"):
        await egress_block_test.run(order(9), world, cast_of.report)


async def test_a_cluster_that_is_offline_already_is_not_proven(cast_of: Cast, tmp_path: Any) -> None:
    world = await ready(cast_of, tmp_path)
    gone = cast_of.place.network.hosts.pop("github.com")
    with pytest.raises(Stuck, match=r"OfflineAlready.*github\.com"):
        await egress_block_test.run(order(9), world, cast_of.report)
    cast_of.place.network.hosts["github.com"] = gone


async def test_without_a_means_to_block_the_step_fails_and_is_never_skipped(cast_of: Cast, tmp_path: Any) -> None:
    world = await ready(cast_of, tmp_path)
    await cast_of.api.local.request(
        "DELETE",
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/ciliumclusterwidenetworkpolicies.cilium.io",
    )
    allow = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "allow-egress", "namespace": "flux-system"},
        "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]},
    }
    await world.cluster.apply(NETWORK_POLICY, allow)
    with pytest.raises(Stuck, match=r"CannotBlock.*flux-system/allow-egress"):
        await egress_block_test.run(order(9), world, cast_of.report)
