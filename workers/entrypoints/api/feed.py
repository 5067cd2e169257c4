"""The log as this process reads it: one subscription, folded once, encoded once, for any number of readers.

Nothing here is the truth: a process that starts anew reads the log from the beginning and has the same.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, NamedTuple

import orjson

from events import subjects
from events.envelope import Undecodable, read
from events.flow import BY_SLUG, STEPS
from events.fold import State, evolve
from events.jetstream import JetStreamLog
from events.log import Entry, LogUnavailable, NoLog
from workers.entrypoints import asking, printing
from workers.entrypoints.api.models import snapshot, stamp
from workers.entrypoints.asking import Answer

KEPT: Final = 16 << 20
"""Bytes of encoded events kept for readers; what is older is read from the log again."""
ANSWERS: Final = 1024
INPUTS: Final = 4096
"""Cancels and triggers whose message ids are remembered: a repeat of an older one is judged as a new one."""
ASKED: Final = frozenset({subjects.CANCEL, *map(subjects.trigger, STEPS)})
TICK: Final = 0.1
"""Seconds between two wakes of the readers: what comes faster travels together."""


class Chunk(NamedTuple):
    """Some events, encoded, and where a reader stands who has them."""

    raw: bytes
    seq: int


class Feed:
    """State, frames and answers, kept current by `follow`."""

    def __init__(self, kept: int = KEPT) -> None:
        self.state = State()
        self.read = 0
        """Sequence of the newest message read, on whatever subject."""
        self.complete_to: int | None = None
        """Journal sequence that had to be read before we may speak; None until the broker told it."""
        self.connected: Callable[[], bool] = lambda: False
        self.epoch = 0
        """Which log this is: one more whenever the stream was replaced by another one."""
        self._born: str | None = None
        self._kept, self._bytes, self._floor = kept, 0, 0
        self._seqs: list[int] = []
        self._frames: list[bytes] = []
        self.inputs: OrderedDict[str, int] = OrderedDict()
        """Message id -> sequence, of what was asked of the workers lately."""
        self._answers: OrderedDict[int, Answer] = OrderedDict()
        self._asked: dict[int, asyncio.Future[Answer]] = {}
        self._moved, self._dirty = asyncio.Event(), asyncio.Event()
        self._joined: tuple[int, Chunk] | None = None
        self._pictured: tuple[tuple[int, bool], bytes] | None = None

    @property
    def ready(self) -> bool:
        """Have we read what stood in the log when we came?"""
        return self.complete_to is not None and self.state.seq >= self.complete_to

    @property
    def live(self) -> bool:
        """Is what we show current, as far as one can know?"""
        return self.ready and self.connected()

    # --- following the log ------------------------------------------------------------------------------------

    async def follow(self, stream: JetStreamLog) -> None:
        """Read for ever. Raises NotPermitted, and LogReplaced: the next one begins with nothing then."""
        self.connected = lambda: bool(stream.client.is_connected)
        await self._begin(stream)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._wake())
            tasks.create_task(self._find_head(stream))
            async for entry in stream.read(subjects.ALL, self.read, live=True):
                self._take(entry)

    async def _begin(self, stream: JetStreamLog) -> None:
        """Of another log than the one that we have read, nothing is known."""
        born, last = "", 0
        while True:
            try:
                born, last = await stream.born(), await stream.newest()
                break
            except NoLog:
                break
            except LogUnavailable:
                await asyncio.sleep(0.5)
        if last < self.read or (self.read and self._born != born):
            self.forget()
        self._born = born

    def forget(self) -> None:
        """Another log stands in the place of the one that was read."""
        self.epoch += 1
        self.state, self.read, self.complete_to = State(), 0, None
        self._bytes, self._floor = 0, 0
        self._seqs, self._frames, self._joined, self._pictured = [], [], None, None
        self._answers.clear()
        self.inputs.clear()
        self._dirty.set()

    async def _find_head(self, stream: JetStreamLog) -> None:
        while self.complete_to is None:
            try:
                last = await stream.last()
                self.complete_to = last.seq if last else 0
            except LogUnavailable:
                await asyncio.sleep(0.5)

    def _take(self, entry: Entry) -> None:
        self.read = entry.seq
        if entry.subject == subjects.JOURNAL:
            self.state = evolve(self.state, entry)
            self._keep(entry.seq, frame(entry))
            self._dirty.set()
        elif entry.subject in ASKED and (asked := asking.decoded(entry)) is not None:
            self.inputs.setdefault(asked.id, entry.seq)
            if len(self.inputs) > INPUTS:
                self.inputs.popitem(last=False)
        for found in asking.replies(entry):
            self._answers[found.sequence] = found
            if len(self._answers) > ANSWERS:
                self._answers.popitem(last=False)
            if (waiting := self._asked.get(found.sequence)) and not waiting.done():
                waiting.set_result(found)

    def _keep(self, seq: int, raw: bytes) -> None:
        self._seqs.append(seq)
        self._frames.append(raw)
        self._bytes += len(raw)
        self._joined = None
        if self._bytes <= self._kept:
            return
        while self._bytes > self._kept * 3 // 4 and len(self._frames) > 1:  # in large pieces, for it moves a list
            cut = max(1, len(self._frames) // 8)
            self._bytes -= sum(map(len, self._frames[:cut]))
            self._floor = self._seqs[cut - 1]
            del self._frames[:cut], self._seqs[:cut]

    async def _wake(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            moved, self._moved = self._moved, asyncio.Event()
            moved.set()
            await asyncio.sleep(TICK)

    # --- for readers ------------------------------------------------------------------------------------------

    @property
    def floor(self) -> int:
        """Newest journal sequence that is no longer kept here."""
        return self._floor

    def behind(self, seq: int) -> int:
        """How many events a reader at `seq` has not got; only true above the floor."""
        return len(self._seqs) - bisect_right(self._seqs, seq)

    def after(self, seq: int, most: int = 1 << 18) -> Chunk | None:
        """What comes after `seq`, up to `most` bytes; None when that is nothing."""
        if self._joined is not None and self._joined[0] == seq:
            return self._joined[1]
        first = bisect_right(self._seqs, seq)
        if first == len(self._seqs):
            return None
        last, size = first, 0
        while last < len(self._seqs) and (size == 0 or size + len(self._frames[last]) <= most):
            size += len(self._frames[last])
            last += 1
        chunk = Chunk(b"".join(self._frames[first:last]), self._seqs[last - 1])
        self._joined = (seq, chunk)
        return chunk

    def picture(self) -> bytes:
        """The newest state as a frame without an id, encoded once for everybody."""
        key = (self.state.seq, self.live)
        if self._pictured is None or self._pictured[0] != key:
            document = snapshot(self.state, live=self.live)
            self._pictured = (key, b"event: status\ndata: " + orjson.dumps(document) + b"\n\n")
        return self._pictured[1]

    def nudge(self) -> None:
        """The broker went or came: readers shall be told now, not with the next heartbeat."""
        self._dirty.set()

    async def moved(self, seq: int, timeout: float) -> bool:
        """True once the journal has gone past `seq`, or the broker went or came; False after `timeout` seconds."""
        live, epoch = self.live, self.epoch
        try:
            async with asyncio.timeout(timeout):
                while self.state.seq <= seq and self.live == live and self.epoch == epoch:
                    await self._moved.wait()
        except TimeoutError:
            return False
        return True

    async def answer(self, seq: int, timeout: float) -> Answer:
        """What became of the input at `seq`; an empty answer after `timeout` seconds."""
        if seq in self._answers:
            return self._answers[seq]
        waiting = self._asked.setdefault(seq, asyncio.get_running_loop().create_future())
        try:
            return await asyncio.wait_for(asyncio.shield(waiting), timeout)
        except TimeoutError:
            return Answer(seq)
        finally:
            if self._asked.get(seq) is waiting:
                del self._asked[seq]


async def older(stream: JetStreamLog, seq: int, until: int) -> AsyncIterator[Chunk]:
    """Events above `seq` up to `until`, from the log itself. Raises LogUnavailable."""
    async for entry in stream.read(subjects.JOURNAL, seq):
        if entry.seq > until:
            return
        yield Chunk(frame(entry), entry.seq)


def frame(entry: Entry) -> bytes:
    """One journal entry as a server-sent event; its id is the stream sequence."""
    document: dict[str, Any] = {"sequence": entry.seq, "kind": "foreign", "level": "warn"}
    try:
        event = read(entry.raw)
    except Undecodable:
        document["message"] = "not an event of ours: someone else wrote on the journal"
    else:
        step = BY_SLUG.get(event.subject or "")
        kind = event.kind or "foreign"
        document |= {
            "kind": kind,
            "time": stamp(event.time),
            "level": _level(kind),
            "message": printing.said(event),
            "step": step.slug if step else "",
            "number": step.number if step else None,
            "attempt": event.attempt,
            "run": event.run,
            "event": orjson.Fragment(entry.raw),
        }
    # A line break would end the field: JSON of one line has none, and stored bytes are checked to be JSON.
    data = orjson.dumps(document).replace(b"\n", b" ").replace(b"\r", b" ")
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (entry.seq, str(document["kind"]).encode(), data)


def _level(kind: str) -> str:
    if kind in ("step.failed", "failed"):
        return "error"
    return "warn" if kind in ("step.waiting", "cancelled", "foreign") else "info"
