"""Traces are one more projection of the log: a trace for each run, a span for the run and for every attempt at a step.

Nothing here sends anything. Ids are computed from the events, so two exporters, or one that starts again, tell the
same spans. The trace is the one that the request's `traceparent` names, or that the run was given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from pydantic import BaseModel

from events.envelope import Event
from schemas import events as facts

_NEVER = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True)
class Moment:
    """Something within a span."""

    at: datetime
    name: str
    attributes: dict[str, str | int | float] = field(default_factory=dict)


@dataclass(frozen=True)
class Span:
    """A stretch of time that is over. Ids are integers of 128 and 64 bits, as W3C Trace Context has them."""

    trace: int
    id: int
    parent: int | None
    name: str
    begin: datetime
    end: datetime
    attributes: dict[str, str | int | float]
    moments: tuple[Moment, ...] = ()
    trouble: str = ""
    """Why it failed; empty when it did not."""


class Traces:
    """Hears journal events in order; tells each span when it ends."""

    def __init__(self) -> None:
        self._run: Span | None = None
        self._steps: dict[str, Span] = {}

    def hear(self, event: Event, data: BaseModel) -> Iterator[Span]:
        """The spans that this event ends, none or more."""
        at = event.time or _NEVER
        match data:
            case facts.Accepted():
                self._run, self._steps = _begun(event, data, at), {}
            case _ if self._run is None or event.run != self._run.attributes["cutover.run"]:
                return
            case facts.StepStarted():
                yield from self._ended(data.step, at, "another worker took over")
                self._steps[data.step] = _attempt(self._run, event, data, at)
            case facts.StepProgress():
                self._note(data.step, Moment(at, data.progress.message[:200]))
            case facts.StepWaiting():
                self._note(data.step, Moment(at, data.reason, {"message": data.message[:500], "tries": data.tries}))
                yield from self._ended(data.step, at, data.reason)
            case facts.StepFailed():
                yield from self._ended(data.step, at, f"{data.reason}: {data.message}")
            case facts.StepSucceeded():
                yield from self._ended(data.step, at)
            case facts.Completed() | facts.Failed() | facts.Cancelled():
                yield from self._closed(data, at)

    def _note(self, step: str, moment: Moment) -> None:
        if span := self._steps.get(step):
            last = span.moments[-1:]
            if not last or last[0].name != moment.name:  # a renewal that says the same again tells nothing
                self._steps[step] = replace(span, moments=(*span.moments[-99:], moment))

    def _ended(self, step: str, at: datetime, trouble: str = "") -> Iterator[Span]:
        if span := self._steps.pop(step, None):
            yield replace(span, end=at, trouble=trouble)

    def _closed(self, data: BaseModel, at: datetime) -> Iterator[Span]:
        """A run that ends ends whatever it left open."""
        for step in tuple(self._steps):
            yield from self._ended(step, at, "the run ended")
        if self._run is not None:
            trouble = ""
            if isinstance(data, facts.Failed):
                trouble = f"{data.reason}: {data.message}"
            elif isinstance(data, facts.Cancelled):
                trouble = f"cancelled by {data.operator}"
            yield replace(self._run, end=at, trouble=trouble)
        self._run = None


def context(traceparent: str | None, run: str) -> tuple[int, int | None]:
    """Trace and parent of `00-<32 hex>-<16 hex>-<flags>`; one made from the run's id when it is none."""
    parts = (traceparent or "").split("-")
    try:
        trace, parent = int(parts[1], 16), int(parts[2], 16)
    except (IndexError, ValueError):
        trace = parent = 0
    if not (0 < trace < 1 << 128 and 0 < parent < 1 << 64):
        return int(hashlib.sha256(run.encode()).hexdigest()[:32], 16), None
    return trace, parent


def span_id(*words: str) -> int:
    """The same words, the same id: never 0, which W3C forbids."""
    return int(hashlib.sha256("\0".join(words).encode()).hexdigest()[:16], 16) or 1


def _begun(event: Event, data: facts.Accepted, at: datetime) -> Span:
    run = event.run or event.id
    trace, parent = context(event.traceparent, run)
    known: dict[str, str | int | float] = {"cutover.run": run, "cutover.operator": event.authid or data.operator}
    return Span(trace, span_id(run), parent, "cutover", at, at, known)


def _attempt(run: Span, event: Event, data: facts.StepStarted, at: datetime) -> Span:
    known: dict[str, str | int | float] = {
        "cutover.run": run.attributes["cutover.run"],
        "cutover.step": data.step,
        "cutover.attempt": event.attempt or 0,
        "cutover.worker": data.worker,
    }
    return Span(run.trace, span_id(str(known["cutover.run"]), event.id), run.id, data.step, at, at, known)
