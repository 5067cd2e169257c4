"""The clock, the nodes and the forced work: what counts only when it was so the whole time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from workers.proof import census, forced, health, hold
from workers.proof.canaries import Sample
from workers.proof.hold import HoldClock
from workers.proof.holding import Holding
from workers.steps import egress_block_test as step8
from workers.world import Order, World

ORDER = Order("run-1", "egress-block-test", 1, 9, datetime.now(UTC), {})


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({"a": "1/x", "b": "2/y"}, None),
        ({"a": "1/x"}, "b left"),
        ({"a": "1/x", "b": "2/y", "c": "3/z"}, "c joined"),
        ({"a": "1/x", "b": "2/z"}, "b booted anew"),
        ({"a": "9/x", "c": "2/y"}, "a booted anew, b left, c joined"),
    ],
)
def test_other_nodes_than_before_are_told_by_what_became_of_them(now: dict[str, str], said: str | None) -> None:
    assert census.changed({"a": "1/x", "b": "2/y"}, now) == said


def test_the_clock_goes_on_while_the_machine_sleeps_where_there_is_such_a_clock() -> None:
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    expected = time.monotonic() if boot is None else time.clock_gettime(boot)
    assert hold.now() == pytest.approx(expected, abs=60)


def test_every_gap_is_counted_even_before_the_clock_ran() -> None:
    clock = HoldClock(10, 2)
    clock.tick(0, "a watch broke")
    clock.tick(1, None)
    clock.tick(9, None)  # nobody looked for eight seconds
    assert (clock.gaps, clock.restarts) == (2, 1)


@pytest.mark.parametrize(
    ("listed", "watched", "told", "silent"),
    [
        ({"a": "1"}, {"a": "1"}, set(), False),
        ({"a": "2"}, {"a": "1"}, set(), True),
        ({"a": "2"}, {"a": "3"}, {"a"}, False),
        ({"a": "1", "b": "1"}, {"a": "1"}, set(), True),
        ({"a": "1", "b": "1"}, {"a": "1"}, {"b"}, False),
        ({}, {"a": "1"}, set(), True),
    ],
)
def test_a_watch_is_silent_when_a_list_shows_what_it_never_told(
    listed: dict[str, str], watched: dict[str, str], told: set[str], silent: bool
) -> None:
    def keyed(names: dict[str, str]) -> dict[tuple[str, str], str]:
        return {("ns", name): version for name, version in names.items()}

    assert health.silent(keyed(listed), keyed(watched), {("ns", name) for name in told}) is silent


async def test_work_that_was_forced_before_a_gap_is_forced_again(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[int] = []

    async def everything(_w: World, _o: Order, _n: Sequence[str], _at: datetime, turn: int) -> list[str]:
        turns.append(turn)
        return [f"turn {turn}"]

    monkeypatch.setattr(forced, "everything", everything)
    monkeypatch.setattr(step8, "TICK", 0.01)
    nobody = Sample((), ())
    holding = Holding(HoldClock(1.0, 5.0), nobody, nobody)
    task = asyncio.create_task(step8._forcing(ORDER, cast(World, None), ["n"], holding, datetime.now(UTC)))

    async def until(so: Any) -> None:
        async with asyncio.timeout(120):
            while not so():
                await asyncio.sleep(0.01)

    try:
        await until(lambda: holding.forced_at == 0)
        holding.clock.held = 2.0
        assert holding.done
        holding.tick("a watch broke")
        holding.clock.held = 2.0
        assert not holding.done, "the time is over, and what was forced lies before the gap"
        await asyncio.sleep(0.1)
        assert turns == [1], "nothing is forced while the gap stands"
        holding.tick(None)
        await until(lambda: holding.forced_at == 1)
        holding.clock.held = 2.0
        assert holding.done
        assert (turns, holding.forced) == ([1, 2], ["turn 2"])
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_sources_that_ask_nobody_are_not_asked() -> None:
    assert forced.fetches({"spec": {"url": "https://x"}})
    assert not forced.fetches({"spec": {"url": "oci://x", "type": "oci"}})
    assert not forced.fetches({"spec": {"url": "https://x", "suspend": True}})
