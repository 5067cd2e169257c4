"""The promise of the log: what whoever keeps it guarantees, and the only way anyone appends to it.

One literal journal subject, appended by compare-and-set on its own last sequence. The keeper is JetStream
(`events.jetstream`) or, for tests of pure behaviour, memory (`events.memory`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from events.envelope import Draft


class Conflict(Exception):
    """Someone else appended first. Read on, decide again."""


class LogUnavailable(Exception):
    """The keeper did not answer within the budget. Whether the append landed is not known."""


class NoLog(LogUnavailable):
    """The keeper answers, and keeps no log of this name."""


class LogFull(LogUnavailable):
    """The stream has reached its `max_bytes`; the keeper refuses rather than forgets. Nothing landed."""


class TooLarge(Exception):
    """The message is larger than the keeper takes: it would never land, however often it is tried."""


class Unreadable(Exception):
    """Nobody could read the event back: it is not sent, since it would stand in the log and mean nothing."""


class NotPermitted(Exception):
    """The broker refuses this identity; the text names the subject. A person must act."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One message as stored: its stream sequence, its subject, its bytes."""

    seq: int
    subject: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class Emit:
    """A message to publish: where, and what."""

    subject: str
    draft: Draft


class Keeper(Protocol):
    """Whoever keeps the log."""

    async def last(self) -> Entry | None:
        """The newest journal entry, from the leader; None while the journal is empty."""
        ...

    async def since(self, seq: int) -> Sequence[Entry]:
        """Every journal entry with a sequence above `seq`, in order."""
        ...

    async def append(self, raw: bytes, *, id: str, expected: int, then: Emit | None) -> int:
        """Append to the journal if its last sequence is `expected`, together with the trigger `then`, all or
        nothing; the entry's sequence. The same id again is the same entry. Raises Conflict, LogUnavailable."""
        ...

    async def publish(self, message: Emit) -> int:
        """Publish beside the journal; the same id again is the same message."""
        ...

    def follow(self, seq: int) -> AsyncIterator[Entry]:
        """Journal entries above `seq`, then live, without end, across restarts of the keeper."""
        ...
