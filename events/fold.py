"""The fold: what the log says, as a plain function of it. No clock, no I/O.

`evolve` takes the state and one journal entry and gives the next state. Everything that anyone shows (ConfigMap,
status, stream of the console) and every decision of a worker is a reading of this state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import reduce
from typing import Any, Final, Literal, NamedTuple

from pydantic import BaseModel, ValidationError

from events.envelope import GENESIS, Event, Undecodable, data_of, read
from events.flow import BY_SLUG, LAST, PIVOTS, SLUGS, Step
from events.log import Entry
from schemas import events as facts
from schemas.progress import Progress
from schemas.results import RESULTS, EgressProven, StepResult

Result = Literal["", "running", "waiting", "success", "failed"]
Phase = Literal["running", "succeeded", "failed", "cancelled"]


UNDER_WAY: Final = ("running", "waiting")
NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""For an event that does not say when: CloudEvents lets it be silent, ours never are."""
_NONE: Final[dict[str, Any]] = {}  # shared and never written to: every change makes a new one


class StepState(NamedTuple):
    """One step within the run, as its newest attempt left it."""

    result: Result = ""
    attempt: int = 0
    started_at: datetime | None = None
    finished_at: datetime | None = None
    worker: str = ""
    token: int = 0
    """Sequence of the newest `step.started`: the fencing token."""
    trigger: int = 0
    """Sequence of the trigger that the newest attempt serves."""
    after: int | None = None
    seen: int = 0
    """Sequence of the step's newest event."""
    tries: int = 0
    """How often this trigger's work waited; the pool bounds it."""
    lost: int = 0
    """How often a worker claimed this trigger and was heard of no more."""
    troubled: int = 0
    """Sequence of its first wait since it last moved anything, for this trigger: since when patience is needed, by the
    broker's clock. 0: it is not."""
    pause: float = 0.0
    """Seconds from its newest event that it waits for."""
    reason: str = ""
    message: str = ""
    progress: Progress | None = None
    outcome: StepResult | None = None


class Run(NamedTuple):
    """One run, from `accepted` on."""

    id: str
    operator: str
    started_at: datetime
    accepted: int
    """Sequence of `accepted`."""
    request: int
    phase: Phase = "running"
    finished_at: datetime | None = None
    steps: dict[str, StepState] = _NONE
    current: str = ""
    failed_step: str = ""
    reason: str = ""
    message: str = ""
    closed: bool = False
    """True once `completed`, `failed` or `cancelled` stands in the journal."""
    digest: str = GENESIS
    """Rolling SHA-256 over the hashes of the run's events."""
    traceparent: str | None = None

    def step(self, slug: str) -> StepState:
        """State of a step; an empty one before its first attempt."""
        return self.steps.get(slug, _UNTOUCHED)

    def succeeded(self, step: Step) -> bool:
        """True when the newest attempt at the step succeeded."""
        return self.step(step.slug).result == "success"

    def unsure(self, slug: str) -> bool:
        """True while an attempt at the step may have changed something that it has not told yet."""
        return self.step(slug).result in UNDER_WAY


_UNTOUCHED = StepState()


class AutoFire(NamedTuple):
    """The grace period after the first operator's login."""

    phase: Literal["pending", "fired", "cancelled", "superseded"]
    """Superseded: someone began a run by hand before it was over."""
    login: int
    """Stream sequence of the login: also the `request` of the run that it begins."""
    operator: str
    armed_at: datetime
    fires_at: datetime
    by: str = ""
    """Who cancelled."""
    message: str = ""


class State(NamedTuple):
    """All that the journal says so far."""

    seq: int = 0
    """Sequence of the newest journal entry, ours or not: what the next append must expect."""
    length: int = 0
    """How many events of ours the chain holds."""
    hash: str = GENESIS
    """Hash of the newest event of the chain."""
    foreign: int = 0
    """Entries that do not continue the chain: someone else wrote on the subject. They are not history."""
    broken: str = ""
    """Why the chain does not hold; empty while it does."""
    run: Run | None = None
    first_started_at: datetime | None = None
    complete: bool = False
    completed_at: datetime | None = None
    rehearsal: bool = False
    evidence_digest: str = ""
    nodes: dict[str, str] = _NONE
    tethers: int | None = None
    """Findings of the newest audit; None before the first."""
    autofire: AutoFire | None = None
    """None until a login armed it, and so for ever where auto-fire is off."""

    @property
    def active(self) -> bool:
        """True while a run has been accepted and not ended."""
        return self.run is not None and self.run.phase == "running"

    @property
    def integrity(self) -> str:
        """`ok`, or `broken`."""
        return "broken" if self.broken else "ok"


def fold(entries: Iterable[Entry], state: State | None = None) -> State:
    """The state after all entries, in order."""
    return reduce(evolve, entries, state or State())


def evolve(state: State, entry: Entry) -> State:
    """One entry further. An entry that was already seen changes nothing."""
    if entry.seq <= state.seq:
        return state
    try:
        event = read(entry.raw)
        number = int(event.sequence or "0")
    except (Undecodable, ValueError):
        return state._replace(seq=entry.seq, foreign=state.foreign + 1)
    if event.prevhash is None or number < 1:
        return state._replace(seq=entry.seq, foreign=state.foreign + 1)
    if number <= state.length:  # a copy of the past is not history
        return state._replace(seq=entry.seq, foreign=state.foreign + 1)
    broken = state.broken or _fault(state, event, number)
    chained = state._replace(seq=entry.seq, length=number, hash=hashlib.sha256(entry.raw).hexdigest(), broken=broken)
    return _apply(chained, event, entry.seq)


def _fault(state: State, event: Event, number: int) -> str:
    """Why the event does not continue the chain; empty when it does."""
    if number != state.length + 1:
        return f"event {event.id} says it is number {number}, expected {state.length + 1}"
    if event.prevhash != state.hash:
        return f"event {event.id} (number {number}) does not follow the one before it"
    return ""


def _apply(state: State, event: Event, seq: int) -> State:
    """What the event means. An unknown kind is kept in the chain and means nothing to us."""
    try:
        data = data_of(event)
    except Undecodable:
        return state
    at = event.time or NEVER
    if isinstance(data, facts.Accepted):
        return _accepted(state, event, data, seq, at)
    if isinstance(data, facts.AutoFireArmed | facts.AutoFireDisarmed):
        return state._replace(autofire=_autofire(state.autofire, data, at))
    run = state.run
    if run is None or event.run != run.id:
        return state
    run = run._replace(digest=hashlib.sha256((run.digest + state.hash).encode()).hexdigest())
    if run.phase == "cancelled" and not isinstance(data, facts.Audited):
        return state._replace(run=run)  # what its worker still said; only a new request goes on
    if isinstance(data, facts.Completed):
        return _completed(state, run, data, at)
    if isinstance(data, facts.Cancelled):
        ended = run._replace(phase="cancelled", finished_at=at, closed=True, reason="Cancelled",
                        message=data.reason or "", steps=_stopped(run))  # fmt: skip
        return state._replace(run=ended, complete=state.complete and not any(map(run.unsure, PIVOTS)))
    if isinstance(data, facts.Failed):
        ended = run._replace(
            phase="failed", finished_at=at, closed=True, failed_step=run.failed_step or data.step,
            reason=run.reason or data.reason, message=run.message or data.message,
        )  # fmt: skip
        return state._replace(run=ended, complete=_still(state, data.step))
    if isinstance(data, facts.Audited):
        return state._replace(run=run, tethers=len(data.findings) + data.omitted)
    return _step_event(state._replace(run=run), run, event, data, seq, at)


def _completed(state: State, run: Run, data: facts.Completed, at: datetime) -> State:
    """The word is believed as far as the journal bears it out: said without evidence, it means nothing."""
    if not all(run.step(slug).result == "success" for slug in SLUGS):
        return state._replace(run=run)
    proof = run.step(LAST.slug).outcome
    short = isinstance(proof, EgressProven) and (proof.rehearsal or proof.held_seconds < proof.required_seconds)
    ended = run._replace(phase="succeeded", finished_at=at, closed=True, current="")
    return state._replace(
        run=ended, complete=True, completed_at=at,
        rehearsal=data.rehearsal or short, evidence_digest=data.evidence_digest,
    )  # fmt: skip


def _accepted(state: State, event: Event, data: facts.Accepted, seq: int, at: datetime) -> State:
    run = Run(
        id=event.run or event.id, operator=data.operator, started_at=at, accepted=seq, request=data.request,
        digest=hashlib.sha256((GENESIS + state.hash).encode()).hexdigest(), traceparent=event.traceparent,
    )  # fmt: skip
    armed = state.autofire
    if armed is not None and armed.phase == "pending":
        armed = armed._replace(phase="fired" if data.request == armed.login else "superseded")
    return state._replace(run=run, first_started_at=state.first_started_at or at, autofire=armed)


def _still(state: State, failed: str) -> bool:
    """Is the older proof good after this step failed? A pivot may have changed what wins, and nobody said how much;
    a failed proof contradicts the older one."""
    return state.complete and failed not in (*PIVOTS, LAST.slug)


def _autofire(
    old: AutoFire | None, data: facts.AutoFireArmed | facts.AutoFireDisarmed, at: datetime
) -> AutoFire | None:
    """It is armed once in the life of a Sovereign, and what ended it is not undone."""
    if isinstance(data, facts.AutoFireArmed):
        return old or AutoFire("pending", data.login, data.operator, at, data.fires_at)
    if old is None or old.phase != "pending" or old.login != data.login:
        return old
    return old._replace(phase="cancelled", by=data.operator, message=data.reason or "")


def _stopped(run: Run) -> dict[str, StepState]:
    """A cancelled run has no running step."""
    return {slug: step._replace(result="") if step.result in UNDER_WAY else step for slug, step in run.steps.items()}


def _step_event(state: State, run: Run, event: Event, data: BaseModel, seq: int, at: datetime) -> State:
    slug = getattr(data, "step", None)
    if slug not in BY_SLUG:
        return state
    old = run.step(slug)
    match data:
        case facts.StepStarted():
            still = state.complete and not (slug in PIVOTS and run.unsure(slug))
            return state._replace(run=_started(run, old, event, data, seq, at), complete=still)
        case facts.StepProgress() if data.token == old.token:
            troubled = 0 if _moved(old.progress, data.progress) else old.troubled
            step = old._replace(progress=data.progress, seen=seq, troubled=troubled)
        case facts.StepWaiting() if data.token == old.token:
            step = old._replace(result="waiting", reason=data.reason, message=data.message, tries=data.tries, seen=seq,
                                troubled=old.troubled or seq, pause=data.after_seconds)  # fmt: skip
        case facts.StepSucceeded() if data.token == old.token:
            try:
                outcome = RESULTS[slug].model_validate(data.result)
            except ValidationError:  # a success that cannot be read is none
                return state._replace(run=_unreadable(run, slug, old, seq, at), complete=_still(state, slug))
            step = old._replace(result="success", finished_at=at, seen=seq, outcome=outcome, reason="", message="")
            return _succeeded(state, run, slug, step, outcome)
        case facts.StepFailed() if data.token == old.token:
            step = old._replace(result="failed", finished_at=at, seen=seq, reason=data.reason, message=data.message)
            failed = _with(run, slug, step)._replace(phase="failed", failed_step=slug, finished_at=at,
                             reason=data.reason, message=data.message)  # fmt: skip
            return state._replace(run=failed, complete=_still(state, slug))
        case _:
            return state
    return state._replace(run=_with(run, slug, step))


def _started(run: Run, old: StepState, event: Event, data: facts.StepStarted, seq: int, at: datetime) -> Run:
    """A claim. A new trigger begins the step anew and makes every later step pending again."""
    again = old.trigger == data.trigger
    step = StepState(
        result="running", attempt=event.attempt or old.attempt + 1, worker=data.worker, token=seq,
        started_at=old.started_at if again else at, trigger=data.trigger, after=data.after, seen=seq,
        tries=old.tries if again else 0, lost=old.lost + (old.result == "running") if again else 0,
        troubled=old.troubled if again else 0,
        progress=old.progress if again else None,
    )  # fmt: skip
    later = SLUGS[SLUGS.index(data.step) + 1 :]
    pending = {slug: _pending(old) if slug in later else old for slug, old in run.steps.items()}
    return run._replace(
            steps={**pending, data.step: step}, current=data.step, phase="running", finished_at=None,
        closed=False, failed_step="", reason="", message="",
    )  # fmt: skip


def _moved(before: Progress | None, now: Progress) -> bool:
    """Is more done of a known number of bytes? Whoever knows it counts what is left, and what has moved stays.
    Items are no measure: each attempt looks at all of them again."""
    earlier = before.bytes_done if before else None
    return now.bytes_total is not None and (now.bytes_done or 0) > (earlier or 0)


def _unreadable(run: Run, slug: str, old: StepState, seq: int, at: datetime) -> Run:
    why = "the result in the log is not of this version's shape; run the step again"
    step = old._replace(result="failed", finished_at=at, seen=seq, reason="ResultUnreadable", message=why)
    return _with(run, slug, step)._replace(
        phase="failed", failed_step=slug, finished_at=at, reason="ResultUnreadable", message=why
    )


def _pending(step: StepState) -> StepState:
    """To be done again: its result is gone, its count of attempts stays, so that no event id comes twice."""
    return StepState(attempt=step.attempt, trigger=step.trigger, after=step.after)


def _succeeded(state: State, run: Run, slug: str, step: StepState, outcome: StepResult) -> State:
    """A change after the proof makes the proof too old."""
    stale = outcome.changes > 0 and slug != LAST.slug
    nodes = state.nodes
    if slug == "registry-pivot":
        nodes = dict.fromkeys(getattr(outcome, "nodes", {}), "v2")
    return state._replace(run=_with(run, slug, step), complete=state.complete and not stale, nodes=nodes)


def _with(run: Run, slug: str, step: StepState) -> Run:
    return run._replace(steps={**run.steps, slug: step})
