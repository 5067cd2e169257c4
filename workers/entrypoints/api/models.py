"""What the API answers: the fields that existing readers know, and ours beside them. Pure: state in, document out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from events.flow import STEPS, Step
from events.fold import State, StepState
from events.picture import picture

_STATUS = {"": "pending", "running": "running", "waiting": "running", "success": "done", "failed": "failed"}
_RESULT = {"": "", "running": "running", "waiting": "running", "success": "success", "failed": "failed"}


class StepView(BaseModel):
    """One of the eight rows."""

    name: str
    number: int
    title: str
    result: str
    """`""`, `running`, `success`, `failed`: the ConfigMap's word."""
    status: str
    """`pending`, `running`, `done`, `failed`: the console's word for the same."""
    waiting: bool
    """It will be tried again by itself."""
    startedAt: str
    finishedAt: str
    jobName: str = ""
    attempt: int
    tries: int
    reason: str
    message: str
    percent: int | None = None
    itemsDone: int | None = None
    itemsTotal: int | None = None
    bytesDone: int | None = None
    bytesTotal: int | None = None
    bytesPerSecond: float | None = None
    holdSecondsRemaining: float | None = None


class Snapshot(BaseModel):
    """Where the cutover stands: the fold of the log up to `streamSequence`."""

    state: str
    """`tethered` or `sovereign`."""
    cutoverComplete: bool
    cutoverStartedAt: str
    cutoverFinishedAt: str
    cutoverLastAttemptStartedAt: str
    currentStep: str
    currentStepIndex: int
    totalSteps: int
    progressPercent: int
    failedStep: str
    lastError: str
    runId: str
    runPhase: str
    """`""` before the first run, then `running`, `succeeded`, `failed` or `cancelled`."""
    operator: str
    rehearsal: bool
    evidenceDigest: str
    holdSecondsRemaining: int | None
    tethersFound: int | None
    streamSequence: int
    integrity: str
    integrityError: str
    live: bool
    """False while the broker is away: this is the newest that we know."""
    steps: list[StepView]
    raw: dict[str, str]
    """The ConfigMap's data, key by key."""


class Started(Snapshot):
    """A request that was taken up."""

    run: str
    request: int
    """Sequence of the request in the log."""


class LoggedIn(BaseModel):
    """A login that was told of."""

    autoFire: str
    """`""` where nothing is armed yet, then `pending`, `fired`, `cancelled` or `superseded`."""


class Ask(BaseModel):
    """Body of an action. Who asks is in the token, not here."""

    model_config = ConfigDict(extra="forbid", strict=True)

    reason: str | None = Field(default=None, max_length=1000)
    """Why, for the record."""


class Start(Ask):
    """Body of `start`; may be left out."""

    again: bool = False
    """Run again although the cutover is complete."""
    preflight: bool | None = None
    """The plan is made first. Left out: 424 for what a person must mend; true: also for what may pass by itself;
    false: it is not asked."""


class Retry(Ask):
    """Body of `retry`; may be left out."""

    run: str | None = Field(default=None, max_length=200)
    """Only if this is the newest run."""


class Cancel(Ask):
    """Body of `cancel`; may be left out."""

    run: str | None = Field(default=None, max_length=200)
    """Only if this run is the active one."""


def snapshot(state: State, *, live: bool) -> dict[str, Any]:
    """The document of `Snapshot`."""
    raw = picture(state)
    run = state.run
    hold = raw.get("holdSecondsRemaining", "")
    return {
        "state": "sovereign" if state.complete else "tethered",
        "cutoverComplete": state.complete,
        **{key: raw.get(key, "") for key in _WORDS},
        "currentStepIndex": int(raw.get("currentStepIndex", "0")),
        "totalSteps": len(STEPS),
        "progressPercent": int(raw.get("progressPercent", "0")),
        "rehearsal": state.complete and state.rehearsal,
        "holdSecondsRemaining": int(hold) if hold else None,
        "tethersFound": state.tethers,
        "streamSequence": state.seq,
        "integrity": state.integrity,
        "integrityError": state.broken,
        "live": live,
        "steps": [_row(step, run.step(step.slug) if run else StepState()) for step in STEPS],
        "raw": raw,
    }


_WORDS = (
    "cutoverStartedAt", "cutoverFinishedAt", "cutoverLastAttemptStartedAt", "currentStep", "failedStep", "lastError",
    "runId", "runPhase", "operator", "evidenceDigest",
)  # fmt: skip


def _row(step: Step, at: StepState) -> dict[str, Any]:
    progress = at.progress
    shown = progress.message if progress is not None and at.result == "running" else at.message
    if at.result == "success" and at.outcome is not None:
        shown = at.outcome.summary
    row = {
        "name": step.slug,
        "number": step.number,
        "title": step.title,
        "result": _RESULT[at.result],
        "status": _STATUS[at.result],
        "waiting": at.result == "waiting",
        "startedAt": stamp(at.started_at),
        "finishedAt": stamp(at.finished_at),
        "jobName": "",
        "attempt": at.attempt,
        "tries": at.tries,
        "reason": at.reason,
        "message": shown,
        **dict.fromkeys(_MEASURES.values()),
    }
    if progress is not None:
        row |= {name: getattr(progress, field) for field, name in _MEASURES.items()}
    if at.result == "success":
        row["percent"] = 100
    return row


_MEASURES = {
    "percent": "percent",
    "items_done": "itemsDone",
    "items_total": "itemsTotal",
    "bytes_done": "bytesDone",
    "bytes_total": "bytesTotal",
    "bytes_per_second": "bytesPerSecond",
    "hold_seconds_remaining": "holdSecondsRemaining",
}


def stamp(at: datetime | None) -> str:
    """RFC 3339 in UTC with milliseconds; empty for what has not been."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z") if at else ""
