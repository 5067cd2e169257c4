"""Decide before doing: what a delivered trigger means, from the folded journal alone. Pure.

The trigger's own stream sequence tells deliveries apart: the same trigger again is the same work, a newer one is a
new order for the step.
"""

from __future__ import annotations

from dataclasses import dataclass

from events import flow
from events.flow import Step
from events.fold import Run, State, StepState
from schemas.events import Trigger


@dataclass(frozen=True, slots=True)
class Begin:
    """A bare trigger of step 1 while no run is active: begin a run, as a request would."""


@dataclass(frozen=True, slots=True)
class Do:
    """Claim the step and do it."""

    run: Run
    attempt: int


@dataclass(frozen=True, slots=True)
class Adopt:
    """It succeeded or failed already: emit what should follow if that is missing, and do not repeat."""

    run: Run


@dataclass(frozen=True, slots=True)
class Hold:
    """Another worker's lease may be alive: watch the journal until it moves or stays silent for a lease."""

    run: Run
    token: int


@dataclass(frozen=True, slots=True)
class Settled:
    """A newer order or the run's end has overtaken this trigger: nothing is left to do for it."""

    why: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """Not allowed; the trigger is kept in `rejected` with the reason."""

    reason: str
    message: str


Decision = Begin | Do | Adopt | Hold | Settled | Refuse


def decide(state: State, step: Step, trigger: Trigger, seq: int, *, lease_over: bool) -> Decision:
    """What to do with the trigger at stream sequence `seq` for `step`.

    `lease_over` is the worker's own finding, by its monotonic clock, that the journal has been silent for a lease.
    """
    if state.broken:
        return Refuse("LogBroken", f"the log's chain does not hold: {state.broken}; run `cutover verify`")
    if trigger.step is not None and trigger.step != step.slug:
        return Refuse("WrongSubject", f"the trigger names {trigger.step}, its subject is for {step.slug}")
    run = state.run
    if run is not None and seq < run.request:
        return Settled(f"it is older than run {run.id}")
    if run is None or (step is flow.FIRST and trigger.run is None and not state.active and not _own(run, step, seq)):
        return Begin() if step is flow.FIRST and trigger.run is None else Refuse("NoRun", "there is no run to act on")
    if trigger.run not in (None, run.id):
        if trigger.after is not None:
            return Settled(f"its run {trigger.run} is over")
        return Refuse("NotTheLastRun", f"run {trigger.run} is not the last one; that is {run.id}")
    return _within(run, step, trigger, seq, lease_over)


def _own(run: Run, step: Step, seq: int) -> bool:
    """Does the run's newest attempt at the step serve this very trigger, or is the run its child?"""
    return run.step(step.slug).trigger == seq or run.request == seq


def _within(run: Run, step: Step, trigger: Trigger, seq: int, lease_over: bool) -> Decision:
    """The trigger belongs to this run. Is it new, ours already, or overtaken?"""
    now = run.step(step.slug)
    if run.request == seq:
        return Settled("it began this run")
    if run.phase == "cancelled":
        if trigger.after is not None or now.trigger == seq:
            return Settled(f"run {run.id} was cancelled")
        return Refuse("RunCancelled", f"run {run.id} was cancelled; publish a new request")
    if now.trigger > seq:
        return Settled("a newer trigger for the step was served")
    if now.trigger == seq:
        return _again(run, now, lease_over)
    if trigger.after is not None and now.after == trigger.after:
        return Settled("the same trigger was served before")
    return _anew(run, step, now)


def _again(run: Run, now: StepState, lease_over: bool) -> Decision:
    """The same trigger once more: its worker died, waits, or finished without settling."""
    if now.result in ("success", "failed"):
        return Adopt(run)
    if now.result == "":
        return Settled("an earlier step was ordered again since; a new trigger will come")
    if now.result == "waiting" or lease_over:
        return Do(run, now.attempt + 1)
    return Hold(run, now.token)


def _anew(run: Run, step: Step, now: StepState) -> Decision:
    """A new order for the step: only in order, and never beside another one."""
    missing = [before.slug for before in flow.before(step) if not run.succeeded(before)]
    if missing:
        return Refuse("OutOfOrder", f"{step.slug} needs {', '.join(missing)} to have succeeded in run {run.id}")
    busy = [slug for slug, other in run.steps.items() if other.result in ("running", "waiting")]
    if busy:
        return Refuse("StepRunning", f"{busy[0]} is under way in run {run.id}; wait for it, or cancel the run")
    return Do(run, now.attempt + 1)
