"""Steps 4 and 8 on nodes, kubelets, policies and an API server that are really there; Flux is left out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from sandbox.controllers.api import PODS, Api
from sandbox.kube import KubeApi
from sandbox.kubelet import Kubelets, Supply, attach_api
from sandbox.policy import Enforcer
from sandbox.registry.store import OCI_MANIFEST
from schemas.nodes import NodeReport
from schemas.progress import Progress
from workers.adapters.cluster import Cluster
from workers.adapters.cluster_kinds import CILIUM_CLUSTERWIDE_POLICY, CONFIG_MAP, POD
from workers.errors import Stuck
from workers.proof import canaries
from workers.proof.block import Block
from workers.sovereign import Gitea, Harbor, Login, Nodes, Proof, Sovereign
from workers.steps import egress_block_test, registry_pivot
from workers.world import Order, World

from .conftest import LOCAL, Place

OWN = "ghcr.io/openova-io/catalyst-cutover"
NEGATIVE = ("ghcr.io", "openova-io/cutover-negative", "upstream-only")
NAMESPACE = "catalyst-cutover-nodes"
LOGIN = Login(username="robot", password_file=Path("/nowhere"))


class Reports:
    """Newest report of each node, in memory."""

    def __init__(self) -> None:
        self.seen: dict[str, NodeReport] = {}
        self._news = asyncio.Event()

    async def take(self, report: NodeReport) -> None:
        self.seen[report.node] = report
        self._news.set()

    async def latest(self) -> Mapping[str, NodeReport]:
        self._news.clear()
        return dict(self.seen)

    async def changed(self, timeout: float) -> None:
        try:
            await asyncio.wait_for(self._news.wait(), timeout)
        except TimeoutError:
            return


class Store:
    """Local Harbor's store as the steps use it."""

    def __init__(self, place: Place) -> None:
        self._store = place.registries[LOCAL].store

    async def local_digest(self, repository: str, reference: str) -> str | None:
        found = self._store.manifest(repository, reference)
        return found.digest if found else None

    async def push_probe(self, repository: str, tag: str, content: bytes) -> str:
        config = self._store.put_blob(repository, b"{}")
        layer = self._store.put_blob(repository, content)
        manifest: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_MANIFEST}
        manifest["config"] = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2}
        manifest["layers"] = [{"mediaType": "application/x", "digest": layer, "size": len(content)}]
        return self._store.put_manifest(repository, json.dumps(manifest).encode(), OCI_MANIFEST, tag)


@dataclass
class Cast:
    """Everything that plays."""

    place: Place
    api: Api
    world: World
    reports: Reports
    enforcer: Enforcer
    said: list[Progress] = field(default_factory=list)

    async def report(self, progress: Progress) -> None:
        self.said.append(progress)

    async def agents(self, names: tuple[str, ...]) -> None:
        for name in names:
            pod = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": f"agent-{name}", "namespace": NAMESPACE},
                "spec": {
                    "nodeName": name,
                    "containers": [{"name": "agent", "image": f"{OWN}:0.1.0", "command": ["cutover", "node-agent"]}],
                },
            }
            await self.api.create(PODS, pod, "test")


def order(token: int = 7) -> Order:
    return Order("run-1", "registry-pivot", 1, token, datetime.now(UTC), {})


def described(**more: Any) -> Sovereign:
    return Sovereign(
        fqdn="sovereign.test",
        gitea=Gitea(url="http://gitea:3000", cluster_url=f"https://{LOCAL}", login=LOGIN),
        harbor=Harbor(url="http://harbor", host=LOCAL, login=LOGIN),
        nodes=Nodes(timeout=more.get("timeout", 20)),
        proof=Proof(hold=3, connect_timeout=0.5),
        upstreams=tuple(u for u in Sovereign.model_fields["upstreams"].default if u.host in {"ghcr.io", "docker.io"}),
    )


@pytest.fixture
async def cast_of(place: Place, tmp_path: Path) -> AsyncIterator[Cast]:
    for host, repository in (("ghcr.io", "openova-io"), (LOCAL, "proxy-ghcr/openova-io")):
        place.publish(host, f"{repository}/catalyst-cutover", "0.1.0")
    place.publish(*NEGATIVE)
    async with AsyncExitStack() as stack:
        kube = await stack.enter_async_context(KubeApi.open(tmp_path / "kube", place.clock))
        await attach_api(place.network, kube.port)
        # Who answers does not matter here, only that somebody does.
        await place.network.attach("github.com", kube.port, local=False)
        kubeconfig = tmp_path / "kubeconfig"
        kube.kubeconfig(kubeconfig)
        cluster = await stack.enter_async_context(Cluster.open(kubeconfig=kubeconfig, field_manager="test"))
        api, reports = Api(kube.local), Reports()
        supply = Supply(lambda: Cluster.open(kubeconfig=kubeconfig, field_manager="agent"), reports.take)
        kubelets = Kubelets(
            api, place.network, place.nodes, place.blocks, place.clock, own_repository=OWN, supply=supply
        )
        enforcer = Enforcer(api, place.network, place.blocks, place.clock)
        enforcing = asyncio.create_task(enforcer.run())
        stack.callback(enforcing.cancel)
        await stack.enter_async_context(kubelets.running())
        nothing = cast(Any, None)
        world = World(described(), cluster, nothing, nothing, nothing, cast(Any, Store(place)), reports)
        await cluster.apply(
            registry_pivot.pods.NAMESPACE, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        )
        yield Cast(place, api, world, reports, enforcer)


NODES = ("cp-1", "worker-1", "worker-2")


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
    await block.possible()
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
    assert plan["data"].keys() == {"plan.json"}


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
