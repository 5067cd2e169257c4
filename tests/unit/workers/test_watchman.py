"""The watchman's decisions, from the journal's state alone."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import anyio

from events.fold import Run, State, StepState
from events.log import LogUnavailable
from workers import watchman
from workers.errors import Wait

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Book:
    """A journal that the test writes."""

    def __init__(self, state: State) -> None:
        self.state, self._moved, self._at = state, anyio.Event(), time.monotonic()

        self.newest: State | None = state
        """What the broker has; None while it does not answer."""

    async def refresh(self) -> State:
        if self.newest is None:
            raise LogUnavailable("away")
        if self.newest.seq > self.state.seq:
            self.write(self.newest)
        return self.state

    def write(self, state: State) -> None:
        self.state, self._at = state, time.monotonic()
        self.newest = self.newest and state
        self._moved.set()
        self._moved = anyio.Event()

    async def moved(self, seq: int) -> State:
        while self.state.seq <= seq:
            await self._moved.wait()
        return self.state

    def silent_for(self) -> float:
        return time.monotonic() - self._at


def state(seq: int, result: Any, token: int, phase: Any = "running") -> State:
    steps = {"egress-block-test": StepState(result=result, token=token)}
    return State(seq=seq, run=Run("r", "o", NOW, 1, 1, phase=phase, steps=steps))


@asynccontextmanager
async def watching(book: Book, fails: int = 0, lease: float = 2.0) -> AsyncIterator[list[tuple[int, bool]]]:
    lifts: list[tuple[int, bool]] = []

    async def lift(token: int, only_expired_at: datetime | None) -> bool:
        lifts.append((token, only_expired_at is not None))
        if len(lifts) <= fails:
            raise Wait("ApiServerUnavailable", "away")
        return True

    task = asyncio.create_task(watchman.serve(book, lift, lease_seconds=lease))  # type: ignore[arg-type]
    try:
        yield lifts
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.01)


async def test_while_the_lease_is_alive_nothing_is_lifted() -> None:
    book = Book(state(1, "running", 7))
    async with watching(book) as lifts:
        for seq in range(2, 8):
            await asyncio.sleep(0.5)
            book.write(state(seq, "running", 7))
        assert lifts == []


async def test_a_lease_that_ran_out_is_lifted_once_with_the_attempts_own_token() -> None:
    async with watching(Book(state(1, "running", 7)), lease=0.4) as lifts:
        await until(lambda: bool(lifts))
        await asyncio.sleep(0.5)
        assert lifts == [(7, False)]


async def test_silence_over_a_line_that_lost_something_is_no_end_of_a_lease() -> None:
    book = Book(state(1, "running", 7))
    async with watching(book, lease=0.4) as lifts:
        book.newest = state(2, "running", 7)  # renewed, and we were not told
        await until(lambda: book.state.seq == 2)
        assert lifts == []


async def test_while_the_broker_is_away_only_what_is_past_its_own_time_may_go(monkeypatch: Any) -> None:
    monkeypatch.setattr(watchman, "AGAIN", 0.05)
    book = Book(state(1, "running", 7))
    book.newest = None
    async with watching(book, lease=0.4) as lifts:
        await until(lambda: len(lifts) >= 2)
        assert set(lifts) == {(7, True)}, "tried again and again, by the time that the block bears"
        book.newest = book.state
        await until(lambda: lifts[-1] == (7, False))


async def test_an_attempt_that_ended_is_looked_after_at_once() -> None:
    for result, phase in (("failed", "failed"), ("waiting", "running"), ("", "cancelled"), ("success", "succeeded")):
        book = Book(state(1, "running", 7))
        async with watching(book, lease=30) as lifts:
            await asyncio.sleep(0.02)
            book.write(state(2, result, 7, phase))
            await until(lambda lifts=lifts: bool(lifts))  # type: ignore[misc]
            assert lifts == [(7, False)], (result, phase)
            book.write(state(3, result, 7, phase))
            await asyncio.sleep(0.05)
            assert len(lifts) == 1, "once for each end"


async def test_before_this_runs_proof_only_what_is_over_may_go() -> None:
    async with watching(Book(state(5, "", 0))) as lifts:
        await until(lambda: bool(lifts))
        assert lifts == [(5, True)]


async def test_what_cannot_be_lifted_is_tried_again(monkeypatch: Any) -> None:
    monkeypatch.setattr(watchman, "AGAIN", 0.05)
    async with watching(Book(state(1, "failed", 7, "failed")), fails=2) as lifts:
        await until(lambda: len(lifts) >= 3)
        await asyncio.sleep(0.2)
        assert len(lifts) == 3
