"""A scenario: what is staged when its step is near, or while it works, and the honest verdict."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from events import flow
from events.fold import State, evolve
from events.jetstream import JetStreamLog
from sandbox.controllers.api import PODS
from workers.proof.pods import TURN

if TYPE_CHECKING:
    from sandbox.box import Box

Act = Callable[["Box"], Awaitable[None]]
ACTED = 30.0  # seconds after the step for an act to be over
FIRST_SAMPLE = "s1"
LAST_WORK = "hold1"
"""The nodes' pulls: everything else that is forced has been fetched by then."""


@dataclass(frozen=True)
class Scenario:
    """What a person would see, how it comes about, and how it ends."""

    tells: str
    verdict: str
    """The reason with which `step` must fail; empty, when the run must succeed in spite of it."""
    stage: Act | None = None
    """Before `step` begins; for the first step, before the run is asked for."""
    during: Act | None = None
    """While `step` works; in the proof while the clock runs, at turn `at`."""
    heal: Act | None = None
    described: Callable[[dict[str, Any]], None] | None = None
    """Changes what the workers are told of the Sovereign, before they start."""
    waits: bool = False
    """The verdict is what `step` must wait with, bounded by the pool; healed, the same run goes on to its end."""
    at: str = FIRST_SAMPLE
    """A turn of the proof's Pods, which is all of it that can be seen in the box."""
    step: str = flow.LAST.slug


@asynccontextmanager
async def played(box: Box, scenario: Scenario) -> AsyncIterator[None]:
    """Staged now, acted out once the clock runs, and healed at the end."""
    acting: asyncio.Task[None] | None = None
    try:
        if scenario.stage is not None:
            await scenario.stage(box)
        box.enforcer.judge()
        if scenario.during is not None:
            acting = asyncio.create_task(_acted(box, scenario.during, scenario.at, scenario.step))
        yield
        if acting is not None:
            # A scenario that never acted has shown nothing, however the proof ended.
            await asyncio.wait_for(acting, ACTED)
    finally:
        if acting is not None:
            acting.cancel()
            await asyncio.gather(acting, return_exceptions=True)
        if scenario.heal is not None:
            await scenario.heal(box)
        box.enforcer.judge()


@asynccontextmanager
async def near_its_step(box: Box, stream: JetStreamLog, scenario: Scenario) -> AsyncIterator[asyncio.Event]:
    """Staged when the step before its own begins: earlier, a step would mend it; later is too late.

    The event tells that the step waits as it must, and that the cause was healed then.
    """
    number = flow.BY_SLUG[scenario.step].number
    waited = asyncio.Event()
    last = await stream.last()

    async def play(since: int) -> None:
        async with AsyncExitStack() as stack:
            state, staged = State(), number == 1
            if staged:
                await stack.enter_async_context(played(box, scenario))
                ready.set()
            async for entry in stream.follow(0):
                state = evolve(state, entry)
                run = state.run
                if entry.seq <= since or run is None:
                    continue
                before = flow.STEPS[number - 2].slug
                if not staged and run.step(before).result in ("running", "success"):
                    await stack.enter_async_context(played(box, scenario))
                    staged = True
                mine = run.step(scenario.step)
                if staged and scenario.waits and mine.result == "waiting" and mine.reason == scenario.verdict:
                    break
        waited.set()

    ready = asyncio.Event()
    playing = asyncio.create_task(play(last.seq if last else 0))
    if number == 1:
        # Before anything is asked for.
        staging = asyncio.create_task(ready.wait())
        await asyncio.wait((playing, staging), return_when=asyncio.FIRST_COMPLETED)
        staging.cancel()
    try:
        yield waited
    finally:
        failed = playing.done()  # it ends by itself only when staging broke, or when the step waited as it must
        playing.cancel()
        (outcome,) = await asyncio.gather(playing, return_exceptions=True)
        if failed and isinstance(outcome, BaseException):
            raise outcome


async def _acted(box: Box, act: Act, turn: str, step: str) -> None:
    """In the proof, the turn of its Pods tells how far it is: nobody else in the box can see it."""
    if step == flow.LAST.slug:
        await _turn_comes(box, turn)
    box.log("sandbox: the scenario acts")
    await act(box)
    box.enforcer.judge()


async def _turn_comes(box: Box, turn: str) -> None:
    """Heard, not looked for: such a Pod may be gone between two looks."""
    come = asyncio.Event()

    def changed(_old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        if new is not None and (new["metadata"].get("labels") or {}).get(TURN) == turn:
            come.set()

    with box.mirrors[PODS].listening(changed):
        await come.wait()


async def until(done: Callable[[], bool], limit: float = 60.0) -> None:
    async with asyncio.timeout(limit):
        while not done():
            await asyncio.sleep(0.05)
