"""Nodes, a network and registries that really answer; on top an API server, kubelets and policies, no Flux."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from sandbox.clock import Clock
from sandbox.controllers import api as kinds
from sandbox.controllers.api import PODS, Api
from sandbox.controllers.jobs import Jobs
from sandbox.controllers.loop import Context
from sandbox.controllers.mirror import Mirrors
from sandbox.controllers.placement import Scheduler
from sandbox.images import Publisher
from sandbox.kube import KubeApi
from sandbox.kubelet import Kubelets, Supply, attach_api
from sandbox.network import Network
from sandbox.nodes import Node, NodeBlocks, provision
from sandbox.policy import Enforcer, Policies, verdict
from sandbox.puller import Puller
from sandbox.registry import Registry
from sandbox.registry.store import OCI_MANIFEST
from sandbox.serving import serving
from schemas.nodes import Mirror, NodePlan, NodeReport
from schemas.progress import Progress
from workers.adapters.cluster import Cluster
from workers.sovereign import Gitea, Harbor, Login, Nodes, Proof, Sovereign
from workers.steps import registry_pivot
from workers.world import Order, World

LOCAL = "harbor.sovereign.test"
HOSTS = {"ghcr.io": False, "harbor.openova.io": False, "docker.io": False, LOCAL: True}
PLAN = NodePlan(
    registry=LOCAL,
    mirrors=(
        Mirror(host="ghcr.io", endpoint=f"https://{LOCAL}/v2/proxy-ghcr"),
        Mirror(host="docker.io", endpoint=f"https://{LOCAL}/v2/proxy-docker"),
    ),
)


@dataclass
class Place:
    """What the tests of this folder play with."""

    network: Network
    registries: dict[str, Registry]
    nodes: list[Node]
    blocks: NodeBlocks
    clock: Clock
    log: list[str] = field(default_factory=list)

    def publish(self, host: str, repository: str, tag: str) -> str:
        return Publisher(self.registries[host].store, repository).image(f"{host}/{repository}:{tag}", tag)

    def judge(self, policies: Policies | None = None) -> None:
        blocks, hosts = self.blocks.current, self.network.hosts
        self.network.set_verdict(verdict(policies or Policies(), blocks, hosts, self.clock.now))

    async def pull(self, name: str, node: int = 0) -> str:
        """Base URL that an image was resolved at. Raises PullError."""
        puller = Puller(self.network, self.log.append)
        where = self.nodes[node]
        try:
            return (await puller.pull(where.name, where.containerd.certs, name, ())).via
        finally:
            await puller.close()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    clock = Clock()
    async with AsyncExitStack() as stack:
        network = await stack.enter_async_context(Network())
        registries = {}
        for host, local in HOSTS.items():
            registries[host] = Registry.open(tmp_path / "registries" / host, host, clock)
            port = await stack.enter_async_context(serving(registries[host].app))
            await network.attach(host, port, local=local)
        nodes = provision(tmp_path / "nodes")
        yield Place(network, registries, nodes, NodeBlocks(nodes), clock)


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
    kubelets: Kubelets
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
        nodes=Nodes(timeout=more.get("timeout", 60), wave=more.get("wave", 10)),
        proof=Proof(hold=3, rehearsal=True, connect_timeout=1.0),
        upstreams=tuple(u for u in Sovereign.model_fields["upstreams"].default if u.host in {"ghcr.io", "docker.io"}),
    )


@asynccontextmanager
async def jobs(api: Api, place: Place, directory: Path) -> AsyncIterator[None]:
    """Jobs make Pods and Pods find nodes: the lifter needs both."""
    mirrors = Mirrors(api)
    context = Context(api, mirrors, place.network, place.clock, directory, place.log.append)
    controllers = [Scheduler(context), Jobs(context)]
    following = [asyncio.create_task(mirrors[kind].run()) for kind in (kinds.NODES, kinds.PODS, kinds.JOBS)]
    await asyncio.gather(*(m.synced.wait() for m in mirrors.all()))
    for controller in controllers:
        controller.start()
    try:
        yield
    finally:
        for controller in controllers:
            await controller.stop()
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)


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
        await stack.enter_async_context(jobs(api, place, tmp_path))
        nothing = cast(Any, None)
        world = World(described(), cluster, nothing, nothing, nothing, cast(Any, Store(place)), reports)
        await cluster.apply(
            registry_pivot.pods.NAMESPACE, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        )
        yield Cast(place, api, world, reports, enforcer, kubelets)


NODES = ("cp-1", "worker-1", "worker-2")
