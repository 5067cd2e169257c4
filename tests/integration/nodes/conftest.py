"""Nodes, a network and registries that really answer; no Kubernetes API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sandbox.clock import Clock
from sandbox.images import Publisher
from sandbox.network import Network
from sandbox.nodes import Node, NodeBlocks, provision
from sandbox.policy import Policies, verdict
from sandbox.puller import Puller
from sandbox.registry import Registry
from sandbox.serving import serving
from schemas.nodes import Mirror, NodePlan

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
