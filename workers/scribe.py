"""Writes drafts: ids, sources and causes of our events, in one place. Nothing secret passes it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from secrets import token_hex

from pydantic import BaseModel

from events import subjects
from events.envelope import Draft, Event
from events.flow import Step
from events.fold import Run
from events.jetstream import Delivery
from events.log import Emit
from events.types import KIND_OF
from schemas import events as facts
from workers.lease import now

_KEPT = 64 * 1024  # bytes of a rejected message


@dataclass(frozen=True)
class Scribe:
    """Who writes, for which Sovereign, and what must never be repeated."""

    fqdn: str
    worker: str
    redact: Callable[[str], str]

    @property
    def source(self) -> str:
        """CloudEvents `source`: `//<fqdn>/cutover`."""
        return f"//{self.fqdn}/cutover"

    def accepted(self, request: int, data: facts.Accepted, event: Event | None) -> tuple[Draft, str]:
        """`accepted`, and the id of the run that it begins: the same for the same request."""
        run = f"run-{request}-{hashlib.sha256(f'{self.fqdn}/{request}'.encode()).hexdigest()[:6]}"
        draft = Draft(
            id=f"{run}.accepted", source=self.source, data=data, subject="cutover", time=now(), run=run,
            causationid=event.id if event else None, traceparent=(event.traceparent if event else None) or _trace(),
            authtype=event.authtype if event else None, authid=event.authid if event else None,
        )  # fmt: skip
        return draft, run

    def step(self, run: Run, attempt: int, data: BaseModel) -> Draft:
        """A fact about a step. Its id is fixed by run, step, attempt and kind: a repeat is the same event."""
        slug: str = getattr(data, "step")  # noqa: B009  every step fact has it
        kind = KIND_OF[type(data)]
        suffix = f".{getattr(data, 'worker')}" if kind == "step.started" else ""  # noqa: B009
        return self._draft(run, f"{run.id}.{slug}.{attempt}.{kind}{suffix}", data, slug, attempt)

    def progress(self, run: Run, attempt: int, data: facts.StepProgress, number: int) -> Draft:
        """A renewal: each one is an event of its own."""
        return self._draft(run, f"{run.id}.{data.step}.{attempt}.progress.{number}", data, data.step, attempt)

    def run(self, run: Run, what: str, data: BaseModel) -> Draft:
        """A fact about the whole run."""
        return self._draft(run, f"{run.id}.{what}", data, "cutover", None)

    def aside(self, id: str, data: BaseModel, event: Event | None) -> Draft:
        """A fact that belongs to no run, and whose doing it is."""
        return Draft(
            id=id, source=self.source, data=data, subject="cutover", time=now(),
            causationid=event.id if event else None, traceparent=event.traceparent if event else None,
            authtype=event.authtype if event else None, authid=event.authid if event else None,
        )  # fmt: skip

    def trigger(self, run: Run, step: Step, after: int) -> Emit:
        """The order to do `step`, because of the fact at `after`."""
        data = facts.Trigger(run=run.id, step=step.slug, after=after)
        return Emit(
            subjects.trigger(step), self._draft(run, f"{run.id}.{step.slug}.trigger.{after}", data, step.slug, None)
        )

    def rejected(self, delivery: Delivery, reason: str, message: str) -> Emit:
        """A message that was not acted upon, with its bytes."""
        data = facts.Rejected(
            subject=delivery.subject, sequence=delivery.seq, reason=reason, message=self.redact(message),
            original_base64=base64.b64encode(delivery.raw[:_KEPT]).decode(),
        )  # fmt: skip
        draft = Draft(id=f"rejected.{delivery.seq}", source=self.source, data=data, subject="cutover", time=now())
        return Emit(subjects.REJECTED, draft)

    def _draft(self, run: Run, id: str, data: BaseModel, subject: str, attempt: int | None) -> Draft:
        return Draft(
            id=id, source=self.source, data=data, subject=subject, time=now(), run=run.id, attempt=attempt,
            traceparent=run.traceparent,
        )  # fmt: skip


def _trace() -> str:
    """A new W3C trace: one for the whole run."""
    return f"00-{token_hex(16)}-{token_hex(8)}-01"
