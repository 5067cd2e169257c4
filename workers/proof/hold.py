"""The clock of the proof: it counts only while everything was in order and somebody was looking."""

from __future__ import annotations

import time
from dataclasses import dataclass


def now() -> float:
    """Seconds on a clock that nobody sets and that goes on while the machine is suspended, where there is one.

    Linux stops CLOCK_MONOTONIC in a suspended machine: its other half of the cluster would have run on unseen.
    """
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)


@dataclass(slots=True)
class HoldClock:
    """Seconds held without a gap. Pure: the caller brings its own monotonic time."""

    needed: float
    longest_gap: float
    """Seconds between two ticks that still count as having looked."""
    held: float = 0.0
    restarts: int = 0
    gaps: int = 0
    """How many ticks were gaps: what was done before one proves nothing after it."""
    _last: float | None = None

    def tick(self, now: float, gap: str | None) -> None:
        """Count up to now; a gap, named or noticed by the time that passed, begins from nothing."""
        since = 0.0 if self._last is None else now - self._last
        self._last = now
        if gap is None and since <= self.longest_gap:
            self.held += since
            return
        self.gaps += 1
        if self.held > 0:
            self.restarts += 1
        self.held = 0.0

    @property
    def remaining(self) -> float:
        """Seconds still to hold."""
        return max(0.0, self.needed - self.held)

    @property
    def done(self) -> bool:
        """True when it was held long enough."""
        return self.held >= self.needed
