"""The sandbox's own wall clock: real time, plus whatever a scenario skips."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class Clock:
    """Tells the time; `skip` moves it forward, for deletions that a week brings."""

    def __init__(self) -> None:
        self._ahead = timedelta()

    def now(self) -> datetime:
        """The time in the sandbox, UTC."""
        return datetime.now(UTC) + self._ahead

    def skip(self, by: timedelta) -> None:
        """From now on it is `by` later."""
        self._ahead += by
