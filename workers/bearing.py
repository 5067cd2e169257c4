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


def trace_of(traceparent: str | None) -> str:
    """The trace id of `00-<trace>-<span>-<flags>`; empty when it is none."""
    parts = (traceparent or "").split("-")
    return parts[1] if len(parts) == 4 else ""


BEARING: ContextVar[Bearing | None] = ContextVar("bearing", default=None)
