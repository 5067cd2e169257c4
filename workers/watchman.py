"""The watchman: lifts a block whose attempt is over, whoever put it up. Any number of them may run.

It goes by the journal. While the proof is under way and its lease is alive, it does nothing. When the lease has
run out, or the attempt ended in any way, what stands of its block is lifted. While the broker does not answer, it
goes by the time that the block itself bears, which its holder renews in the cluster.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import anyio

from events.flow import LAST
from events.fold import State, StepState
from events.journal import Journal
from events.log import LogUnavailable
from workers.errors import Trouble

log = logging.getLogger("cutover.watchman")
AGAIN = 10.0  # seconds before another try when the cluster does not let us lift

Lift = Callable[[int, datetime | None], Awaitable[bool]]
"""Lift blocks up to this fencing token; with a time, only what is over by then. True when something stood."""


async def serve(journal: Journal, lift: Lift, *, lease_seconds: float) -> None:
    """Watch for ever. `journal.tail` must run beside."""
    settled: tuple[str, str, int] | None = None
    while True:
        state = journal.state
        if holding(state):
            settled = None
            silent = journal.silent_for()
            if silent < lease_seconds:
                with anyio.move_on_after(max(lease_seconds - silent, 0.1)):
                    await journal.moved(state.seq)
                continue
            if (newest := await _newest(journal)) is None:
                # Cut off ourselves, we cannot tell a dead holder from a quiet line: only what is over by itself may go.
                await _lifted(lift, state, over=True)
                await anyio.sleep(AGAIN)
                continue
            if newest.seq != state.seq:
                continue
        now = face(state)
        if now != settled and state.seq:
            settled = now if await _lifted(lift, state) else None
            if settled is None:
                await anyio.sleep(AGAIN)
                continue
        await journal.moved(state.seq)


def holding(state: State) -> bool:
    """True while the journal says that somebody holds the proof."""
    return state.run is not None and state.run.phase == "running" and _step(state).result == "running"


def face(state: State) -> tuple[str, str, int]:
    """What must change before there can be anything new to lift."""
    return (state.run.id if state.run else "", _step(state).result, _step(state).token)


def _step(state: State) -> StepState:
    return state.run.step(LAST.slug) if state.run else StepState()


async def _newest(journal: Journal) -> State | None:
    """The journal as the broker has it now: silence heard over a broken line is none. None when nobody answers."""
    try:
        return await journal.refresh()
    except LogUnavailable:
        return None


async def _lifted(lift: Lift, state: State, *, over: bool = False) -> bool:
    """Lift once, with `over` only what is past its own time; False when that could not be done."""
    token = _step(state).token
    try:
        # Without a token of this run nothing tells whose it is: only what is over may go.
        if await lift(token or state.seq, None if token and not over else datetime.now(UTC)):
            log.warning("lifted an egress block that attempt %d left behind", token)
    except Trouble as error:
        log.error("a block may be left behind and cannot be lifted: %s", error)
        return False
    return True
