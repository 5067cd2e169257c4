"""Writes drafts: ids, sources and causes of our events, in one place. Nothing secret passes it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, Final

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
_LONGEST: Final = 4000
"""Characters of one text in an event. What a person has to read is at its start, and the picture of the log is a
ConfigMap, which holds 1 MiB in all."""
LOGGED: Final = 500  # characters of a stranger's words in our own log
_NAME: Final = 300  # characters of who somebody is
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


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
            id=f"{run}.accepted", source=self.source, data=self._clean(data), subject="cutover", time=now(), run=run,
            **{"traceparent": _trace(), **_caused(event)},
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
            id=id, source=self.source, data=self._clean(data), subject="cutover", time=now(), **_caused(event)
        )  # fmt: skip

    def trigger(self, run: Run, step: Step, after: int) -> Emit:
        """The order to do `step`, because of the fact at `after`."""
        data = facts.Trigger(run=run.id, step=step.slug, after=after)
        return Emit(
            subjects.trigger(step), self._draft(run, f"{run.id}.{step.slug}.trigger.{after}", data, step.slug, None)
        )

    def rejected(self, delivery: Delivery, reason: str, message: str) -> Emit:
        """A message that was not acted upon, with its bytes: once for each reason, whoever gives it."""
        data = facts.Rejected(
            subject=clipped(delivery.subject), sequence=delivery.seq, reason=reason,
            message=clipped(self.redact(message)),
            original_base64=base64.b64encode(delivery.raw[:_KEPT]).decode(),
        )  # fmt: skip
        id = f"rejected.{delivery.seq}.{reason}"
        draft = Draft(id=id, source=self.source, data=data, subject="cutover", time=now())
        return Emit(subjects.REJECTED, draft)

    def _draft(self, run: Run, id: str, data: BaseModel, subject: str, attempt: int | None) -> Draft:
        return Draft(
            id=id, source=self.source, data=self._clean(data), subject=subject, time=now(), run=run.id,
            attempt=attempt, traceparent=run.traceparent,
        )  # fmt: skip

    def _clean(self, data: BaseModel) -> BaseModel:
        """The same fact without secrets, and without texts that no message could carry."""
        changed = {
            name: clean
            for name in type(data).model_fields
            if (clean := self._said(old := getattr(data, name))) is not old
        }
        return data.model_copy(update=changed) if changed else data

    def _said(self, value: Any) -> Any:
        """The very same object where nothing had to be changed."""
        match value:
            case str():
                clean = clipped(self.redact(value))
                return value if clean == value else clean
            case BaseModel():
                return self._clean(value)
            case dict():
                found = {key: self._said(each) for key, each in value.items()}
                return value if all(found[key] is each for key, each in value.items()) else found
            case list() | tuple():
                parts = [self._said(each) for each in value]
                return value if all(new is old for new, old in zip(parts, value, strict=True)) else type(value)(parts)
        return value


def clipped(text: str, most: int = _LONGEST) -> str:
    """Its beginning, and how much more there was."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text) - most} characters more)"


def _caused(event: Event | None) -> dict[str, Any]:
    """Whose doing a fact is, from what was sent to us: only as much as fits, and only a trace that is one."""
    if event is None:
        return {}
    found = {"causationid": event.id, "authtype": event.authtype, "authid": event.authid}
    said = {name: clipped(value, _NAME) for name, value in found.items() if value}
    if event.traceparent and _TRACEPARENT.fullmatch(event.traceparent):
        said["traceparent"] = event.traceparent
    return said


def _trace() -> str:
    """A new W3C trace: one for the whole run."""
    return f"00-{token_hex(16)}-{token_hex(8)}-01"
