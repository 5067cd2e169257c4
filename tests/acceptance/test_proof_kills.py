"""Killed in the hold, the block goes: by the watchman, or by the lifter when every process of ours is dead."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
import yaml

from events.jetstream import JetStreamLog
from sandbox.box import Box
from sandbox.controllers.api import CONFIG_MAPS
from sandbox.crew import Crew
from sandbox.policy import CLUSTERWIDE
from schemas.events import Requested
from workers.entrypoints import asking
from workers.entrypoints.settings import load

pytestmark = pytest.mark.timeout(300)
JOURNAL_LEASE, BLOCK_LEASE = 4.0, 20.0  # seconds


async def blocked(box: Box) -> bool:
    """Whether anything of a block stands, in the API or in a node's kernel."""
    plan = await box.api.get(CONFIG_MAPS, "cutover-node-plan", "catalyst-cutover-nodes")
    ordered = "block.json" in ((plan or {}).get("data") or {})
    return bool((await box.api.list(CLUSTERWIDE))[0]) or ordered or bool(box.blocks.current)


async def until(box: Box, wanted: bool, limit: float) -> float:
    """Seconds until it is so."""
    began = time.monotonic()
    async with asyncio.timeout(limit):
        while await blocked(box) is not wanted:
            await asyncio.sleep(0.1)
    return time.monotonic() - began


async def kill(*processes: asyncio.subprocess.Process) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        await process.wait()


async def test_the_block_is_lifted_whoever_is_killed_in_the_hold(tmp_path: Path) -> None:
    async with Box.open(tmp_path, hold=120.0) as box:
        document = yaml.safe_load(box.settings_file.read_text())
        document["pace"] = {"lease": JOURNAL_LEASE}
        document["nats"] = {**document["nats"], "ack_wait": 4.0}
        document["sovereign"]["proof"]["lease"] = BLOCK_LEASE
        file = tmp_path / "settings-quick.yaml"
        file.write_text(yaml.safe_dump(document))
        settings = load(file)
        async with JetStreamLog.open(settings.nats) as stream, Crew.at_work(file, tmp_path, 0) as crew:
            await stream.ensure()
            worker = await crew.hire("--no-projector")
            watchman = await crew.hire("--steps", "", "--no-admission")
            await asking.publish(settings, stream, Requested(operator="test", reason="kills"))
            await until(box, True, 120)

            # The watchman alone: the worker holds on, and the block stands.
            await kill(watchman)
            await asyncio.sleep(JOURNAL_LEASE + 1)
            assert await blocked(box)
            watchman = await crew.hire("--steps", "", "--no-admission")
            await asyncio.sleep(3)
            assert await blocked(box), "a watchman that comes up leaves a living proof alone"

            # The worker alone: the watchman lifts when the lease in the journal is over, long before the block's own.
            await kill(worker)
            assert await until(box, False, BLOCK_LEASE) < BLOCK_LEASE - 5

            # Everybody: nobody is left but the lifter, and the end that is written on the block.
            worker = await crew.hire("--no-projector")
            await until(box, True, 60)
            await asyncio.sleep(1)
            await kill(worker, watchman)
            await until(box, False, BLOCK_LEASE + 60)

            state = await asking.state(stream)
            assert state.run is not None
            assert state.run.step("egress-block-test").result == "running"
            assert not state.complete, "no kill makes a proof pass"
