"""A log in memory: the same promise without a broker, for tests of behaviour that no broker changes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import anyio

from events.log import Conflict, Emit, Entry
from events.subjects import JOURNAL


class MemoryLog:
    """Keeps every message of the stream in a list; a sequence is a place in it, from 1."""

    def __init__(self) -> None:
        self.stream: list[Entry] = []
        self._ids: dict[str, int] = {}
        self._grown = anyio.Event()

    def journal(self) -> list[Entry]:
        """Only the journal's entries."""
        return [entry for entry in self.stream if entry.subject == JOURNAL]

    async def last(self) -> Entry | None:
        return next(reversed(self.journal()), None)

    async def since(self, seq: int) -> Sequence[Entry]:
        return [entry for entry in self.journal() if entry.seq > seq]

    async def append(self, raw: bytes, *, id: str, expected: int, then: Emit | None) -> int:
        last = await self.last()
        if id in self._ids and last is not None and last.raw == raw:
            return last.seq
        if (last.seq if last else 0) != expected:
            raise Conflict(f"expected {expected}, the journal is at {last.seq if last else 0}")
        seq = self._keep(JOURNAL, raw, id)
        if then is not None:
            self._keep(then.subject, then.draft.encode(), then.draft.id)
        return seq

    async def publish(self, message: Emit) -> int:
        draft = message.draft
        return self._ids.get(draft.id) or self._keep(message.subject, draft.encode(), draft.id)

    async def follow(self, seq: int) -> AsyncIterator[Entry]:
        while True:
            grown = self._grown
            for entry in await self.since(seq):
                seq = entry.seq
                yield entry
            await grown.wait()

    def _keep(self, subject: str, raw: bytes, id: str) -> int:
        seq = len(self.stream) + 1
        self.stream.append(Entry(seq, subject, raw))
        self._ids[id] = seq
        self._grown.set()
        self._grown = anyio.Event()
        return seq
