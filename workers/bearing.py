"""Where a task stands: which run, step and attempt it works for. Log lines carry it."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Bearing:
    """`trace` is the run's W3C trace id, 32 hex digits."""

    run: str
    step: str
    attempt: int
    trace: str


BEARING: ContextVar[Bearing | None] = ContextVar("bearing", default=None)
