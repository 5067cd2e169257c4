"""Live progress: follows the journal and shows it, as a table that redraws itself or as lines."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

import anyio
from rich.console import Console, RenderableType
from rich.live import Live

from events.envelope import Undecodable, read
from events.fold import State, evolve
from events.jetstream import Broker, JetStreamLog
from events.log import Entry, LogUnavailable
from schemas.progress import Progress
from workers.entrypoints import printing

BROKER_BACK = "the broker is back"
API_BACK = "the API is back"


class Followed(Protocol):
    """A journal to read along with."""

    async def last(self) -> Entry | None:
        """Its newest entry. Raises LogUnavailable."""
        ...

    def follow(self, seq: int) -> AsyncIterator[Entry]:
        """Entries above `seq`, then live, without end."""
        ...


class View(Protocol):
    """Where progress is shown."""

    def saw(self, entry: Entry, state: State, *, old: bool) -> None:
        """An entry was read; `old` when it was in the log before the watch began."""
        ...

    def note(self, text: str) -> None:
        """Something about the connection that a person should know."""
        ...


@dataclass
class Lines:
    """One line for each event that says something new."""

    write: Callable[[str], None]
    from_start: bool = False
    _last: dict[str, Progress | None] = field(default_factory=dict)

    def saw(self, entry: Entry, state: State, *, old: bool) -> None:
        if old and not self.from_start:
            return
        try:
            event = read(entry.raw)
        except Undecodable:
            self.write(f"{entry.seq:>6} not an event: someone else wrote on the journal")
            return
        key = event.subject or ""
        step = state.run.step(key) if state.run else None
        if printing.worth_a_line(event, self._last.get(key)):
            self.write(printing.line(event, entry.seq))
            self._last[key] = step.progress if step else None

    def note(self, text: str) -> None:
        self.write(f"       {text}")


@dataclass
class Picture:
    """The table, redrawn a few times a second."""

    state: State = field(default_factory=State)
    said: str = ""

    def saw(self, entry: Entry, state: State, *, old: bool) -> None:
        self.state = state

    def note(self, text: str) -> None:
        self.said = "" if text in (BROKER_BACK, API_BACK) else text

    def __rich__(self) -> RenderableType:
        return printing.table(self.state, datetime.now(UTC), note=self.said)


@asynccontextmanager
async def shown(console: Console, *, from_start: bool = False, plain: bool = False) -> AsyncIterator[View]:
    """A view that fits where the output goes: a table on a terminal, lines elsewhere."""
    if plain or not console.is_terminal:

        def out(text: str) -> None:
            console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)

        yield Lines(out, from_start)
        return
    picture = Picture()
    with Live(get_renderable=picture.__rich__, console=console, refresh_per_second=4):
        yield picture


async def follow(
    stream: Followed, view: View, *, from_start: bool, once: bool = True, since: int | None = None
) -> State:
    """Show the journal until the run ends; without end unless `once`.

    With `from_start`, a run that has ended already is shown and counts; else the next one is waited for. `since` is
    the sequence after which the end counts, when the caller has just asked for the run."""
    head = await _head(stream) if since is None else since
    state = State()
    async for entry in stream.follow(0):
        state = evolve(state, entry)
        view.saw(entry, state, old=entry.seq <= head)
        if once and entry.seq >= head and _over(state) and (from_start or entry.seq > head):
            return state
    return state


def _over(state: State) -> bool:
    """Has the newest run ended, with its closing event in the journal?"""
    return state.run is not None and state.run.closed


async def _head(stream: Followed) -> int:
    """The newest journal sequence; asked until the broker answers."""
    while True:
        try:
            last = await stream.last()
            return last.seq if last else 0
        except LogUnavailable:
            await anyio.sleep(0.5)


async def watch(broker: Broker, console: Console, *, from_start: bool, once: bool, plain: bool) -> State:
    """`cutover watch`: patient with a broker that is away, before and during."""
    async with (
        shown(console, from_start=from_start, plain=plain) as view,
        JetStreamLog.open(broker, patient=True, say=view.note) as stream,
    ):
        return await follow(stream, view, from_start=from_start, once=once)
