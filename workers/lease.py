"""A claim on a step, kept alive in the journal and given up the moment it cannot be confirmed.

Acks of JetStream are not fenced; this is what excludes a second worker. Each renewal is a compare-and-set append, so
whoever claimed after us, or cancelled, makes ours fail; and a worker that has heard no confirmation for two thirds
of a lease, by its own monotonic clock, stops itself before anyone may take over.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

import anyio

from events.envelope import Draft
from events.fold import State
from events.jetstream import Delivery
from events.journal import Journal
from events.log import Conflict, LogUnavailable, TooLarge, Unreadable
from schemas.events import StepProgress
from schemas.progress import Progress

GRACE = 0.05  # seconds in which a step may be done before anyone looks after its lease
PACE = 0.5  # seconds between two progress events, at least


class Fenced(Exception):
    """The step is not ours any more; whatever we did since is someone else's to judge."""


class Lease:
    """The claim of one attempt. `keep` renews it until cancelled; `report` is what the step calls."""

    def __init__(self, journal: Journal, draft: Callable[[StepProgress], Draft], *, run: str, step: str,
                 worker: str, token: int, seconds: float, delivery: Delivery, sent: float) -> None:  # fmt: skip
        self.token = token
        self.lost: str | None = None
        self._journal, self._draft, self._delivery = journal, draft, delivery
        self._run, self._step, self._worker, self._seconds = run, step, worker, seconds
        self._confirmed = sent  # others count from when the claim landed, which was later
        self._latest = Progress(message="started")
        self._news = anyio.Event()

    async def report(self, progress: Progress) -> None:
        """Note how far the step is; it is written at the pace of the lease, the newest one only."""
        self._latest = progress
        self._news.set()

    async def keep(self, scope: anyio.CancelScope) -> None:
        """Renew for ever; cancel `scope` when the lease is lost. Run it beside the step."""
        await anyio.sleep(GRACE)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch_for_others, scope)
            tasks.start_soon(self._watch_the_clock, scope)
            while True:
                with anyio.move_on_after(self._seconds / 4):
                    await self._news.wait()
                self._news = anyio.Event()
                await self.renew()
                await self._delivery.working()
                await anyio.sleep(PACE)

    async def renew(self) -> None:
        """One confirmed renewal. Raises Fenced."""
        while True:
            sent = time.monotonic()
            data = StepProgress(step=self._step, worker=self._worker, token=self.token, progress=self._latest)
            try:
                await self._journal.append(self._draft(data))
            except Conflict:
                self._still_ours(await self._journal.refresh())
                continue
            except (TooLarge, Unreadable):
                self._latest = Progress(message="what the step reports cannot be written down")
                continue
            except LogUnavailable:
                await anyio.sleep(0.2)  # the clock beside us decides how long this may go on
                continue
            self._confirmed = sent
            return

    def _still_ours(self, state: State) -> None:
        why = lost(state, self._run, self._step, self.token)
        if why:
            raise Fenced(why)

    async def _watch_for_others(self, scope: anyio.CancelScope) -> None:
        """A cancel or another claim stops us at once, not only at the next renewal."""
        state = self._journal.state
        while not (why := lost(state, self._run, self._step, self.token)):
            state = await self._journal.moved(state.seq)
        self._stop(scope, why)

    def in_time(self) -> None:
        """May the work begin? Raises Fenced when the claim was answered so late that others may take over soon."""
        if self._left() <= 0:
            raise Fenced(f"the claim was answered {time.monotonic() - self._confirmed:.1f} s after it was sent")

    def _left(self) -> float:
        """Seconds until we stop ourselves unless a renewal is confirmed."""
        return self._confirmed + self._seconds * 2 / 3 - time.monotonic()

    async def _watch_the_clock(self, scope: anyio.CancelScope) -> None:
        while (left := self._left()) > 0:  # noqa: ASYNC110  it moves on
            await anyio.sleep(left)
        self._stop(scope, f"no renewal was confirmed for {self._seconds * 2 / 3:.0f} s")

    def _stop(self, scope: anyio.CancelScope, why: str) -> None:
        self.lost = self.lost or why
        scope.cancel()


def lost(state: State, run: str, step: str, token: int) -> str:
    """Why the attempt with this fencing token is not the step's any more; empty while it is."""
    if state.run is None or state.run.id != run:
        return "another run began"
    if state.run.phase == "cancelled":
        return "the run was cancelled"
    now = state.run.step(step)
    if now.token != token:
        return f"another worker ({now.worker}) took over"
    return "" if now.result == "running" else f"the step is {now.result or 'pending'}"


def now() -> datetime:
    """The wall clock, for the `time` of events only; no decision rests on it."""
    return datetime.now(UTC)
