"""Step 8 on a Sovereign that is already cut over: each scenario ends in its honest verdict."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio
from acceptance_scene import in_one_task

from events import flow
from events.jetstream import JetStreamLog
from sandbox.box import Box
from sandbox.scenarios import SCENARIOS, played
from schemas.progress import Progress
from schemas.results import EgressProven
from workers.adapters.cluster import Cluster
from workers.entrypoints import wiring
from workers.entrypoints.settings import load
from workers.errors import Stuck, Trouble
from workers.inbox import Inbox
from workers.proof import block, forced, health, lifter
from workers.proof import canaries as flock
from workers.proof.canaries import Sample
from workers.steps import egress_block_test as step8
from workers.world import Order, World

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]
HOLD = 3.0


@dataclass
class Sovereign:
    """A box, cut over up to the proof."""

    box: Box
    world: World
    token: int = 100
    said: list[Progress] = field(default_factory=list)

    async def report(self, progress: Progress) -> None:
        self.said.append(progress)

    async def prove(self) -> EgressProven:
        """Step 8 alone, as a new attempt."""
        self.token += 1
        order = Order("run-1", step8.__name__, self.token, self.token, datetime.now(UTC), {})
        async with asyncio.timeout(110):
            return await step8.run(order, self.world, self.report)

    async def verdict(self, name: str) -> str:
        """The reason with which step 8 ends in this scenario; empty when it succeeds. Nothing is left behind."""
        async with played(self.box, SCENARIOS[name]):
            try:
                await self.prove()
            except Trouble as error:
                reason = error.reason
            else:
                reason = ""
        assert not await block.standing(self.world.cluster, block.Placement.of(self.world.sovereign))
        return reason


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def sovereign(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sovereign]:
    def opened() -> Any:
        return cut_over(tmp_path_factory.mktemp("proof"))

    value, close = await in_one_task(opened)
    yield value
    await close()


class cut_over:  # noqa: N801  used as `async with cut_over(...)`
    def __init__(self, directory: Any) -> None:
        self._directory, self._stack = directory, AsyncExitStack()

    async def __aenter__(self) -> Sovereign:
        box = await self._stack.enter_async_context(Box.open(self._directory, hold=HOLD))
        settings = load(box.settings_file)
        stream = await self._stack.enter_async_context(JetStreamLog.open(settings.nats))
        await stream.ensure()
        api: Cluster = await self._stack.enter_async_context(wiring.cluster(settings))
        inbox = Inbox(stream)
        following = asyncio.create_task(inbox.follow())
        self._stack.callback(following.cancel)
        world = await self._stack.enter_async_context(wiring.world(settings, api, inbox))
        found = Sovereign(box, world)
        results: dict[str, Any] = {}
        for number, step in enumerate(flow.STEPS[:-1], 1):
            order = Order("run-1", step.slug, 1, number, datetime.now(UTC), dict(results))
            results[step.slug] = await wiring.bound(step.slug, world)(order, found.report)
        return found

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A datapath that will never close, or never open again, is waited for a moment only."""
    monkeypatch.setattr(step8, "BITE", 1.0)


async def test_the_proof_succeeds_and_says_what_was_blocked_forced_and_seen(sovereign: Sovereign) -> None:
    proof = await sovereign.prove()
    assert proof.rehearsal
    assert proof.held_seconds >= HOLD
    assert proof.means == ("CiliumClusterwideNetworkPolicy: default deny, world denied", block.NODE_MEANS)
    upstream = set(proof.blocked_hosts)
    assert {c.reached for c in proof.during if c.host in upstream} == {0}
    assert all(c.reached == c.asked for c in (*proof.before, *proof.after))
    assert {c.network for c in proof.before} == {"pod", "host", "pod/flux-system"}
    assert all(c.asked == 3 for c in proof.before if c.network == "host"), "each of three nodes"
    assert proof.exceptions == ()
    assert any("fetched again" in line for line in proof.forced)
    assert len(proof.model_dump_json()) < 30_000


@pytest.mark.parametrize("name", SCENARIOS)
async def test_each_scenario_ends_in_its_honest_verdict(sovereign: Sovereign, name: str) -> None:
    assert await sovereign.verdict(name) == SCENARIOS[name].verdict
