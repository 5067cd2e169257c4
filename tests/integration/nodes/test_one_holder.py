"""What must be the same from the first to the last second of a hold: whose block it is, which nodes, and who looks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from sandbox.controllers.api import DEPLOYMENTS, GIT_REPOSITORIES, NODES
from sandbox.policy import CLUSTERWIDE
from workers.adapters.cluster import SYNCED, Cluster
from workers.adapters.cluster_kinds import CILIUM_CLUSTERWIDE_POLICY, GIT_REPOSITORY, POD, Kind
from workers.errors import Stuck, Wait
from workers.proof import block, canaries, declared, health
from workers.proof.canaries import Ways
from workers.steps import egress_block_test

from .conftest import LOCAL, Cast, order
from .conftest import NODES as NAMES
from .test_hold import assert_open, holding, ready

PROXY = "10.9.9.9:3128"


async def test_of_two_attempts_the_later_one_holds_and_the_earlier_one_touches_nothing(
    cast_of: Cast, tmp_path: Any
) -> None:
    """A worker that was stopped for longer than its lease goes on: its successor's block is not its own."""
    world = await ready(cast_of, tmp_path)
    early, late = block.Block(world, 9), block.Block(world, 12)
    await early.apply()
    await late.apply()
    (before,) = (await cast_of.api.list(CLUSTERWIDE))[0]
    with pytest.raises(Stuck, match=r"BlockLost.*attempt 12 took over"):
        await early.renew()
    (after,) = (await cast_of.api.list(CLUSTERWIDE))[0]
    assert after["metadata"]["annotations"] == before["metadata"]["annotations"]
    assert not await block.lift(world, token=9)
    await late.renew()
    assert await block.lift(world, token=12)


async def test_a_policy_that_was_deleted_and_made_again_is_not_the_one_that_stood(cast_of: Cast, tmp_path: Any) -> None:
    """To the letter the same, with the same generation: between the two everybody could get out."""
    world = await ready(cast_of, tmp_path)
    mine = block.Block(world, 9)
    await mine.apply()
    (stood,) = await world.cluster.list(CILIUM_CLUSTERWIDE_POLICY)
    await world.cluster.delete(CILIUM_CLUSTERWIDE_POLICY, stood["metadata"]["name"])
    kept = {k: v for k, v in stood["metadata"].items() if k in ("name", "labels", "annotations")}
    again = await world.cluster.apply(CILIUM_CLUSTERWIDE_POLICY, {**stood, "metadata": kept})
    assert again["metadata"]["generation"] == stood["metadata"]["generation"]
    assert "made another" in str(mine.broken([again]))
    with pytest.raises(Stuck, match="BlockLost"):
        await mine.renew()
    assert await block.lift(world)


async def test_a_living_block_of_another_installation_is_waited_for_and_a_dead_one_is_lifted(
    cast_of: Cast, tmp_path: Any
) -> None:
    """Its token is of another log, so it says nothing about ours."""
    world = await ready(cast_of, tmp_path)
    await block.Block(world, 4_000).apply()
    with pytest.raises(Wait, match="BlockHeldByAnother"):
        await egress_block_test._nobody_holds(world, order(9))
    assert await block.standing(world.cluster, block.Placement.of(world.sovereign))
    await block.lift(world)
    soon = world.sovereign.proof.model_copy(update={"lease": 1.0})
    brief = replace(world, sovereign=world.sovereign.model_copy(update={"proof": soon}))
    await block.Block(brief, 4_000).apply()
    while (await block.standing(world.cluster, block.Placement.of(world.sovereign))).alive(datetime.now(UTC)):
        await asyncio.sleep(0.1)
    await egress_block_test._nobody_holds(world, order(9))
    assert not await block.standing(world.cluster, block.Placement.of(world.sovereign))


async def test_a_node_that_boots_anew_mid_hold_begins_the_proof_anew(cast_of: Cast, tmp_path: Any) -> None:
    """Its firewall was gone until its agent ran again; its name is the same."""
    world = await ready(cast_of, tmp_path)
    step = await holding(cast_of, world)
    node = await cast_of.api.get(NODES, NAMES[1])
    assert node is not None
    info = {**node["status"]["nodeInfo"], "bootID": "another"}
    await cast_of.api.merge(NODES, node, {"status": {"nodeInfo": info}}, "kubelet", sub="status")
    with pytest.raises(Wait, match=f"NodesChanged.*{NAMES[1]} booted anew"):
        await asyncio.wait_for(step, 90)
    await assert_open(cast_of, world)


async def test_a_proxy_that_a_workload_is_told_to_use_must_not_let_out_either(
    cast_of: Cast, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A private address stays open, and whoever listens there may reach everything. Where a Secret names it, nobody
    begins before its owner says which proxy that is."""
    monkeypatch.setattr(egress_block_test, "BITE", 1.0)
    world = await ready(cast_of, tmp_path)

    async def letting_out(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await writer.drain()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(letting_out, "127.0.0.1", 0)
    async with server:
        await cast_of.place.network.attach(PROXY, server.sockets[0].getsockname()[1], local=True)
        api = await cast_of.api.get(DEPLOYMENTS, "catalyst-api", "catalyst-system")
        assert api is not None
        (container,) = api["spec"]["template"]["spec"]["containers"]

        async def tell(**proxy: Any) -> None:
            told = [*container["env"], {"name": "HTTPS_PROXY", **proxy}]
            spec = {"template": {"spec": {"containers": [{**container, "env": told}]}}}
            await cast_of.api.merge(DEPLOYMENTS, api, {"spec": spec}, "test")

        await tell(value=f"http://user:secret@{PROXY}")
        found = await declared.clean(world)
        assert declared.proxies(found) == (PROXY,)
        assert not any("secret" in f.model_dump_json() for f in found)
        await tell(valueFrom={"secretKeyRef": {"name": "proxy", "key": "url"}})
        with pytest.raises(Stuck, match=r"ProxyUnknown.*Deployment catalyst-system/catalyst-api env\[HTTPS_PROXY\]"):
            await declared.clean(world)
        proof = world.sovereign.proof.model_copy(update={"proxies": (PROXY,)})
        world = replace(world, sovereign=world.sovereign.model_copy(update={"proof": proof}))
        with pytest.raises(Stuck, match=f"EgressNotBlocked.*by proxy {PROXY}"):
            await asyncio.wait_for(holding(cast_of, world), 90)
    await assert_open(cast_of, world)


async def test_a_name_that_does_not_resolve_under_the_block_is_no_block(cast_of: Cast, tmp_path: Any) -> None:
    """The cluster's resolver asks one outside: the block closes that, and seems to close everything."""
    world = await ready(cast_of, tmp_path)
    before = await canaries.sample(world, NAMES, 9, "before")
    assert all(before.answered.values())
    cast_of.place.network.resolves = lambda host: host == LOCAL or "." not in host
    by_name = await canaries.sample(world, NAMES, 9, "names")
    assert not by_name.escaped(), "this is what a proof by names alone would see"
    by_address = await canaries.sample(world, NAMES, 9, "addresses", Ways(before.answered))
    assert {c.host for c in by_address.escaped()} == set(before.answered)


async def test_a_watch_that_is_silent_is_noticed_by_a_list(
    cast_of: Cast, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await ready(cast_of, tmp_path)
    real = Cluster.follow

    async def deaf(self: Cluster, kind: Kind, namespace: str | None = None) -> AsyncIterator[Any]:
        """Sources are told of once, and then the connection is dead and nobody says so."""
        async for change, obj in real(self, kind, namespace):
            yield change, obj
            if kind is GIT_REPOSITORY and change == SYNCED:
                await asyncio.Event().wait()

    monkeypatch.setattr(Cluster, "follow", deaf)
    monkeypatch.setattr(health, "BEHIND", 1.0)
    watch = health.FluxWatch(world.cluster, 60)
    await watch.look()
    running = asyncio.create_task(watch.run())
    try:
        assert "not watched yet" in str(watch.gap()), "what it may have missed between the look and the watch"
        await watched(watch)
        await watch.confirm()
        assert watch.gap() is None, "nothing happened that it could have missed"
        source = await cast_of.api.get(GIT_REPOSITORIES, "openova", "flux-system")
        assert source is not None
        good = source["status"]["conditions"]
        for conditions in ([{**good[0], "status": "False", "reason": "GitOperationFailed"}], good):
            await cast_of.api.merge(
                GIT_REPOSITORIES, source, {"status": {"conditions": conditions}}, "test", sub="status"
            )
        assert watch.red() == [], "this is what the watch alone would say"
        await watch.confirm()
        assert "GitRepository: the watch does not tell" in str(watch.gap())
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_what_went_between_the_look_and_the_watch_is_not_waited_for(
    cast_of: Cast, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A canary's Pod that is on its way out when the hold begins would otherwise be missing in every list after."""
    world = await ready(cast_of, tmp_path)
    monkeypatch.setattr(health, "BEHIND", 1.0)
    pod = {"metadata": {"name": "going", "namespace": "default"}, "spec": {"containers": [{"name": "a", "image": "a"}]}}
    await world.cluster.create(POD, pod)
    watch = health.FluxWatch(world.cluster, 60)
    await watch.look()
    await world.cluster.delete(POD, "going", "default")
    running = asyncio.create_task(watch.run())
    try:
        await watched(watch)
        await watch.confirm()
        assert watch.gap() is None
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def watched(watch: health.FluxWatch) -> None:
    """Every kind is watched by now."""
    async with asyncio.timeout(60):
        while watch.gap() is not None:
            await watch.changed.wait()
            watch.changed.clear()
