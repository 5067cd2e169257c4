"""Whoever is ended at whatever moment of the proof: the block goes in time, and no proof passes that did not hold."""

from __future__ import annotations

from pathlib import Path

from kill_sweep import (
    API,
    BLOCK_LEASE,
    BROKER,
    PHASES,
    VICTIMS,
    WATCHMAN,
    WORKER,
    Case,
    sweeping,
)

from sandbox.scenarios import SCENARIOS, played

BEFORE = "before the block"
SHORT: tuple[Case, ...] = (
    ("applied, not checked", (BROKER,)),
    ("clock running", (API,)),
    ("half lifted", (WORKER, WATCHMAN)),
    ("lifted, not told", (WORKER, BROKER)),
    ("clock running", VICTIMS),
)
"""Each phase and each victim at least once, alone, in pairs, and all together. All of it: benchmarks/kills.py."""


async def test_the_block_goes_in_time_whoever_is_ended_and_only_a_whole_hold_passes(tmp_path: Path) -> None:
    async with sweeping(tmp_path) as sweep:
        # The watchman alone: the worker holds on. One that comes up leaves a living proof alone.
        await sweep.reached("clock running", (WATCHMAN,))
        await sweep.hire()
        assert await sweep.ended() == "success"

        took = await sweep.all_of(SHORT)
        assert len(await sweep.proofs()) == 1, "no kill made a proof pass"
        assert max(took.values()) <= BLOCK_LEASE + 55, took
        assert {phase for phase, _ in took} == set(PHASES) - {BEFORE}
        assert {name for _, victims in took for name in victims} == set(VICTIMS)
        assert await sweep.ended() == "success"
        await sweep.honest()

        # A proof that must fail fails, however often it was disturbed.
        async with played(sweep.box, SCENARIOS["block-cuts-dns"]):
            await sweep.strike(BEFORE, (WORKER,))
            assert await sweep.ended() == "failed"
        assert (await sweep.proof()).reason == "BlockCutsTooMuch"
        assert not (await sweep.state()).complete
        assert len(await sweep.proofs()) == 2
