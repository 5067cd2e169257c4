"""The sandbox's own wall clock: real time, plus whatever a scenario skips."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class Clock:
    """Tells the time; `skip` moves it forward, for deletions that a week brings.

    A clock `of` another goes with it, and its own skips move nobody else: workers beside the sandbox keep real time,
    and a block that leases by it would end when everybody else is a week older.
    """

    def __init__(self, of: Clock | None = None) -> None:
        self._of = of
        self._ahead = timedelta()

    def now(self) -> datetime:
        """The time in the sandbox, UTC."""
        return (self._of.now() if self._of else datetime.now(UTC)) + self._ahead

    def skip(self, by: timedelta) -> None:
        """From now on it is `by` later."""
        self._ahead += by
