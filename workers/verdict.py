"""What an error means for the step: try again in so many seconds, or give up. Pure, and the only place that says."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from events.log import TooLarge, Unreadable
from workers.errors import Stuck, Wait


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a step may go on without anyone acting."""

    waits: int = 120
    """Tries of a step that says itself that it is waiting."""
    blips: int = 5
    """Tries after an error that nobody foresaw."""
    losses: int = 100
    """Workers that may be lost in doing one trigger: a step that kills whoever does it must not kill for ever."""
    total: float = 2 * 3600.0
    """Seconds from the first trouble since the step last moved anything, all waits included."""
    longest: float = 60.0
    """Seconds between two tries after an error that nobody foresaw, and that a trigger is away at a stretch."""


@dataclass(frozen=True, slots=True)
class Retry:
    """It will be tried again by itself."""

    after: float
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """A person must act."""

    reason: str
    message: str


def verdict(
    error: Exception, tries: int, elapsed: float, limits: Limits, jitter: Callable[[], float] = random.random
) -> Retry | GiveUp:
    """What follows from `error` at the `tries`-th failure (from 1), `elapsed` seconds after trouble began.

    Whoever says how long to wait is asked no earlier, as far as patience lasts.
    """
    match error:
        case Stuck():
            return GiveUp(error.reason, error.message)
        case Wait():
            reason, message, allowed = error.reason, error.message, limits.waits
            after = max(error.after, 0.0)
        case _:
            reason, message, allowed = "Unexpected", f"{type(error).__name__}: {error}", limits.blips
            after = min(2.0 ** (tries - 1) * (0.5 + jitter() / 2), limits.longest)
    if tries >= allowed or elapsed >= limits.total:
        return GiveUp(reason, f"{message} (given up after {tries} tries in {elapsed:.0f} s)")
    return Retry(min(after, limits.total - elapsed), reason, message)


def unsayable(error: TooLarge | Unreadable) -> GiveUp:
    """A step whose outcome cannot be written down has failed: what nobody can read is no evidence."""
    if isinstance(error, TooLarge):
        return GiveUp("ResultTooLarge", f"what the step found does not fit into one message: {error}")
    return GiveUp("ResultUnreadable", f"what the step found could not be read back, so it was not written: {error}")


def plainest(error: Exception) -> Exception:
    """The one error that says most of a group: what needs a person, else what waits, else the first."""
    if not isinstance(error, ExceptionGroup):
        return error
    leaves = [plainest(each) for each in error.exceptions]
    for kind in (Stuck, Wait):
        for leaf in leaves:
            if isinstance(leaf, kind):
                return leaf
    return leaves[0]
