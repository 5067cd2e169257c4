"""Step 4 on a Sovereign whose images are mirrored: each scenario of the nodes ends in its honest verdict."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from acceptance_scene import in_one_task
from step_by_step import Grounds, grounds

from events import flow
from sandbox.catalogue import HARBOR_HOST
from sandbox.controllers.api import CONFIG_MAPS, SECRETS
from sandbox.controllers.oci import docker_config
from sandbox.nodes import first_boot
from sandbox.scenarios import SCENARIOS, nodes, played, scenario
from schemas.nodes import NodeReport
from schemas.progress import Progress
from schemas.results import NodesPivoted
from workers.adapters.containerd import Containerd
from workers.errors import Trouble
from workers.proof import pulls
from workers.steps import registry_pivot as step4
from workers.steps.registry_pivot import logins, waves

pytestmark = pytest.mark.asyncio(loop_scope="module")
NAMES = [name for name, each in SCENARIOS.items() if each.step == nodes.STEP]
PATIENCE = 6.0  # seconds for a node's answer, where one never comes


@dataclass
class Sovereign(Grounds):
    """A box, mirrored up to step 3."""

    last: NodesPivoted | None = None

    async def pivot(self, timeout: float = 30.0) -> NodesPivoted:
        """Step 4 alone, as a new attempt. Its plan is one that no node has ever held."""
        order = self.order(nodes.STEP)
        told = self.world.sovereign
        turned = self.token % len(told.upstreams)
        sovereign = told.model_copy(
            update={
                "upstreams": (*told.upstreams[turned:], *told.upstreams[:turned]),
                "nodes": told.nodes.model_copy(update={"timeout": timeout, "wave": 2}),
            }
        )
        async with asyncio.timeout(60):
            self.last = await step4.run(order, replace(self.world, sovereign=sovereign), self.report)
        return self.last

    async def verdict(self, name: str) -> str:
        """The reason with which step 4 ends in this scenario, nodes being as cloud-init left them; "" is success."""
        await self.first_day()
        async with played(self.box, SCENARIOS[name]):
            try:
                await self.pivot(PATIENCE if SCENARIOS[name].described else 30.0)
            except Trouble as error:
                self.said.append(Progress(message=str(error)))
                return error.reason
        return ""

    async def first_day(self) -> None:
        """No plan anywhere, agents that have never seen one, and the files of cloud-init."""
        self.said.clear()
        kubelets = self.box.kubelets
        for node in self.box.nodes:
            kubelets.silence(node.name)
        await asyncio.sleep(0.3)  # what an agent has begun on its disk it ends
        await self.box.api.delete(CONFIG_MAPS, *nodes.PLACE)
        for node in self.box.nodes:
            first_boot(node)
            kubelets.wake(node.name)

    def leads_home(self, node: str) -> bool:
        """Every hosts.toml of a mapped host names local Harbor alone."""
        text = (self.box.node(node).containerd.certs / "ghcr.io/hosts.toml").read_text(encoding="utf-8")
        return text.count(f"https://{HARBOR_HOST}/v2/") == 2 and "openova.io" not in text


@asynccontextmanager
async def mirrored(directory: Path) -> AsyncIterator[Sovereign]:
    async with grounds(directory) as (box, world):
        sovereign = Sovereign(box, world)
        await sovereign.through([step.slug for step in flow.STEPS[:3]])
        yield sovereign


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def sovereign(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sovereign]:
    value, close = await in_one_task(lambda: mirrored(tmp_path_factory.mktemp("nodes")))
    yield value
    await close()


async def reports(sovereign: Sovereign) -> dict[str, NodeReport]:
    return dict(await sovereign.world.nodes.latest())


@pytest.mark.parametrize("name", NAMES)
async def test_each_scenario_ends_in_its_honest_verdict(sovereign: Sovereign, name: str) -> None:
    assert await sovereign.verdict(name) == SCENARIOS[name].verdict
    said = " ".join(p.message for p in sovereign.said)
    match name:
        case "node-lags":
            assert "2 of 3 nodes hold the plan; not worker-2" in said
            assert sovereign.leads_home("worker-2")
        case "node-never-answers":
            assert "worker-2: still holds" in said or "worker-2: never reported" in said
            assert "worker-1:" not in said
        case "hosts-toml-broken":
            assert sovereign.last is not None
            assert "certs.d/ghcr.io/hosts.toml was ignored by containerd, written anew" in sovereign.last.summary
            assert "certs.d/registry.acme.test/hosts.toml was ignored" in sovereign.last.summary
        case "silent-fallback":
            assert "was pulled on worker-2" in said
        case "new-node-joins":
            assert sovereign.last is not None
            assert set(sovereign.last.nodes) == {"cp-1", "worker-1", "worker-2", "worker-3"}
        case "ghcr-pull-secret-refused":
            assert sovereign.last is not None
            assert "tenant-acme/ghcr-pull-secret (ghcr.io)" in sovereign.last.summary


async def test_a_node_that_joins_long_after_is_pivoted_without_any_worker(sovereign: Sovereign) -> None:
    await sovereign.first_day()
    await sovereign.pivot()
    await nodes.joins(sovereign.box)
    try:
        async with asyncio.timeout(60):
            while nodes.NEWCOMER not in await reports(sovereign) or not sovereign.leads_home(nodes.NEWCOMER):
                await asyncio.sleep(0.05)
        assert (await reports(sovereign))[nodes.NEWCOMER].result == "v2"
    finally:
        await nodes.leaves(sovereign.box)


async def test_the_second_time_no_pull_secret_and_no_order_is_written(sovereign: Sovereign) -> None:
    async def versions() -> list[Any]:
        found = [
            await sovereign.box.api.get(SECRETS, nodes.SHOP_SECRET, nodes.SHOP[1]),
            await sovereign.box.api.get(CONFIG_MAPS, *nodes.PLACE),
        ]
        return [(each or {}).get("metadata", {}).get("resourceVersion") for each in found]

    await sovereign.first_day()
    await nodes._opens_shop(sovereign.box)
    try:
        first = await sovereign.pivot()
        secret = await sovereign.box.api.get(SECRETS, nodes.SHOP_SECRET, nodes.SHOP[1])
        login = docker_config(secret or {}, "ghcr.io")
        assert login is not None
        assert login.username.startswith("robot$")
        before = await versions()
        sovereign.token -= 1
        again = await sovereign.pivot()
        assert await versions() == before
        assert first.changes == 1 + 3 + 1
        assert again.changes == 0
    finally:
        await nodes._closes_shop(sovereign.box)


Break = Callable[[pytest.MonkeyPatch], None]


def nothing(*_: Any) -> Any:
    return {}


def silence_counts_as_consent(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(waves, "laggards", nothing)
    patch.setattr(step4, "laggards", nothing)


def broken_files_stay(patch: pytest.MonkeyPatch) -> None:
    """The agent takes what is there for right, when it cannot be read."""
    whole = Containerd.wanted

    def wanted(self: Containerd, plan: Any) -> Any:
        return {p: t for p, t in whole(self, plan).items() if p.parent.name not in self.ignored()}

    patch.setattr(Containerd, "wanted", wanted)


BY_PULLS = {"LocalPullFailed", "PullsStillUpstream"}
GUARDS: list[tuple[str, Break, set[str]]] = [
    # Who is not heard is found out by the pulls: two guards in a row.
    ("node-never-answers", silence_counts_as_consent, BY_PULLS),
    ("hosts-toml-broken", broken_files_stay, BY_PULLS),
    ("silent-fallback", lambda patch: patch.setattr(pulls, "_check_upstream", nothing), {""}),
]


@pytest.mark.parametrize(("name", "broken", "left"), GUARDS, ids=[name for name, *_ in GUARDS])
async def test_without_its_guard_the_verdict_would_be_another(
    sovereign: Sovereign, name: str, broken: Break, left: set[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        broken(patch)
        patch.setattr(sovereign, "pivot", lambda _limit: Sovereign.pivot(sovereign, PATIENCE))
        assert await sovereign.verdict(name) in left


async def none(*_: Any) -> tuple[str, ...]:
    return ()


async def test_a_refused_login_that_nobody_replaces_keeps_the_pod_from_starting(sovereign: Sovereign) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logins, "mend", none)
        patch.setattr(scenario, "ACTED", 5.0)
        with pytest.raises(TimeoutError):
            await sovereign.verdict("ghcr-pull-secret-refused")
