"""The pool: take, decide, do, append, settle. One loop for every step; no step knows of it.

    trigger --> decide (pure, from the journal) --> claim = step.started (compare-and-set: the fencing token)
            --> the step's own run, beside its lease --> step.succeeded + next trigger (one atomic batch)
            --> confirmed ack

A crash anywhere means the same trigger again, the same ids, the same facts.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import anyio

from events import flow
from events.envelope import Event, Undecodable, admit
from events.flow import Step
from events.fold import Run, State
from events.jetstream import Delivery, JetStreamLog, step_durable
from events.journal import Journal
from events.log import Conflict, Emit, LogUnavailable
from schemas import events as facts
from schemas.results import StepResult
from workers import decision as decisions
from workers.admission import accept
from workers.decision import Adopt, Begin, Do, Hold, Refuse, Settled, decide
from workers.errors import Trouble
from workers.lease import Fenced, Lease, lost, now
from workers.scribe import Scribe
from workers.verdict import GiveUp, Limits, Retry, verdict
from workers.world import Order, Report

log = logging.getLogger("cutover.pool")

Work = Callable[[Order, Report], Awaitable[StepResult]]
"""A step's `run` with its world already in hand."""


@dataclass(frozen=True)
class Pool:
    """Workers for some steps, in one process. Any number of processes may run any of them."""

    stream: JetStreamLog
    journal: Journal
    scribe: Scribe
    work: Mapping[str, Work]
    lease_seconds: float = 20.0
    limits: Limits = field(default_factory=Limits)

    async def serve(self) -> None:
        """Take triggers of our steps for ever."""
        async with anyio.create_task_group() as tasks:
            for slug in self.work:
                tasks.start_soon(self._serve_step, flow.BY_SLUG[slug])

    async def _serve_step(self, step: Step) -> None:
        async for delivery in self.stream.deliveries(step_durable(step.number)):
            try:
                await self.handle(step, delivery)
            except (LogUnavailable, Conflict) as error:
                log.warning("%s: %s; the trigger will come again", step.slug, error)
                await delivery.later(1.0)

    async def handle(self, step: Step, delivery: Delivery) -> None:
        """One delivery, to its end: settled, or left to come again."""
        try:
            event, data = admit(delivery.raw, "step.trigger")
        except Undecodable as error:
            await self._refuse(delivery, Refuse("Undecodable", str(error)))
            return
        assert isinstance(data, facts.Trigger)  # noqa: S101  admit() checked the kind
        while True:
            state = await self.journal.refresh()
            choice = decide(state, step, data, delivery.seq, lease_over=self._lease_is_over())
            try:
                if await self._act(choice, step, event, data, delivery, state):
                    return
            except Conflict:
                continue  # someone was faster: read on, decide again

    async def _act(
        self, choice: decisions.Decision, step: Step, event: Event, trigger: facts.Trigger, delivery: Delivery,
        state: State,
    ) -> bool:  # fmt: skip
        """Carry a decision out; False when it must be decided again."""
        match choice:
            case Refuse():
                await self._refuse(delivery, choice)
            case Settled(why=why):
                log.info("%s: trigger %s settled: %s", step.slug, delivery.seq, why)
                await delivery.settle()
            case Begin():
                await accept(self.journal, self.scribe, delivery.seq, facts.Requested(), event)
                await delivery.settle()
            case Adopt(run=run):
                await self._follow_up(run, step)
                await delivery.settle()
            case Hold():
                await self._hold(state, delivery)
                return False
            case Do(run=run, attempt=attempt):
                await self._do(run, step, attempt, trigger, delivery, state)
        return True

    def _lease_is_over(self) -> bool:
        return self.journal.silent_for() >= self.lease_seconds

    async def _hold(self, state: State, delivery: Delivery) -> None:
        """Until the journal moves, or has been silent for the rest of a lease."""
        await delivery.working()
        rest = max(self.lease_seconds - self.journal.silent_for(), 0.05)
        with anyio.move_on_after(min(rest, self.stream.broker.ack_wait / 3)):
            await self.journal.moved(state.seq)

    async def _refuse(self, delivery: Delivery, refusal: Refuse) -> None:
        log.warning("rejected %s at %s: %s: %s", delivery.subject, delivery.seq, refusal.reason, refusal.message)
        await self.stream.publish(self.scribe.rejected(delivery, refusal.reason, refusal.message))
        await delivery.settle()

    # --- doing it ----------------------------------------------------------------------------------------------

    async def _do(
        self, run: Run, step: Step, attempt: int, trigger: facts.Trigger, delivery: Delivery, state: State
    ) -> None:
        """Claim, work, append the outcome, settle."""
        started = facts.StepStarted(
            step=step.slug, worker=self.scribe.worker, trigger=delivery.seq, after=trigger.after,
            lease_seconds=self.lease_seconds,
        )  # fmt: skip
        token = await self.journal.append(self.scribe.step(run, attempt, started), if_seq=state.seq)
        log.info("%s: attempt %d of run %s, token %d", step.slug, attempt, run.id, token)
        try:
            outcome = await self._attempt(run, step, attempt, token, delivery)
            await self._conclude(run, step, attempt, token, outcome, delivery)
        except Fenced as fenced:
            log.warning("%s: stopped, %s", step.slug, fenced)
            await delivery.later(1.0)

    async def _attempt(
        self, run: Run, step: Step, attempt: int, token: int, delivery: Delivery
    ) -> StepResult | Retry | GiveUp:
        """The step's own run beside its lease. Every exception ends here and becomes data. Raises Fenced."""
        lease = Lease(
            self.journal, lambda data: self.scribe.progress(run, attempt, data, self.journal.state.count),
            run=run.id, step=step.slug, worker=self.scribe.worker, token=token, seconds=self.lease_seconds,
            delivery=delivery,
        )  # fmt: skip
        outcome: StepResult | Retry | GiveUp | None = None
        order = Order(run.id, step.slug, attempt, token, run.started_at, _results(run, step))
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as beside:
                beside.start_soon(self._keep, lease, scope)
                try:
                    outcome = await self.work[step.slug](order, lease.report)
                except Exception as error:  # whatever a step raises becomes a verdict
                    log.info("%s: %s", step.slug, self.scribe.redact(repr(error)), exc_info=_unforeseen(error))
                    outcome = self._judge(error, step)
                beside.cancel_scope.cancel()
        if outcome is None or lease.lost:
            raise Fenced(lease.lost or "the lease was lost")
        return outcome

    async def _keep(self, lease: Lease, scope: anyio.CancelScope) -> None:
        try:
            await lease.keep(scope)
        except* Fenced as group:
            lease.lost = str(group.exceptions[0])
            scope.cancel()

    def _judge(self, error: Exception, step: Step) -> Retry | GiveUp:
        state = self.journal.state.run
        mine = state.step(step.slug) if state else None
        tries = (mine.tries if mine else 0) + 1
        since = mine.tried_since if mine else None
        elapsed = (now() - since).total_seconds() if since else 0.0
        return verdict(error, tries, elapsed, self.limits)

    async def _conclude(
        self, run: Run, step: Step, attempt: int, token: int, outcome: StepResult | Retry | GiveUp,
        delivery: Delivery,
    ) -> None:  # fmt: skip
        """Append what came of it, as long as the step is ours; then settle."""
        worker = self.scribe.worker
        match outcome:
            case Retry():
                mine = run.step(step.slug)
                live = self.journal.state.run
                tries = (live.step(step.slug).tries if live else mine.tries) + 1
                fact: facts.StepWaiting | facts.StepFailed | facts.StepSucceeded = facts.StepWaiting(
                    step=step.slug, worker=worker, token=token, reason=outcome.reason,
                    message=self.scribe.redact(outcome.message), after_seconds=outcome.after, tries=tries,
                )  # fmt: skip
                await self._append_ours(run, step, attempt, token, fact, None)
                await delivery.later(outcome.after)
                return
            case GiveUp():
                fact = facts.StepFailed(
                    step=step.slug, worker=worker, token=token, reason=outcome.reason,
                    message=self.scribe.redact(outcome.message),
                )  # fmt: skip
            case _:
                fact = facts.StepSucceeded(
                    step=step.slug, worker=worker, token=token, result=outcome.model_dump(mode="json")
                )
        await self._append_ours(run, step, attempt, token, fact, delivery)
        ended = (await self.journal.refresh()).run
        if ended is not None and ended.id == run.id:
            await self._follow_up(ended, step)
        await delivery.settle()

    async def _append_ours(
        self, run: Run, step: Step, attempt: int, token: int,
        fact: facts.StepWaiting | facts.StepFailed | facts.StepSucceeded, delivery: Delivery | None,
    ) -> None:  # fmt: skip
        """Append under our token; a conflict that is not about our step is tried again. Raises Fenced."""
        while True:
            following = flow.after(step) if isinstance(fact, facts.StepSucceeded) else None
            emit: Emit | None = self.scribe.trigger(run, following, token) if following else None
            try:
                await self.journal.append(self.scribe.step(run, attempt, fact), emit)
                return
            except Conflict:
                why = lost(await self.journal.refresh(), run.id, step.slug, token)
                if why:
                    raise Fenced(why) from None

    async def _follow_up(self, run: Run, step: Step) -> None:
        """What must stand behind a finished step: the next trigger, `completed`, or `failed`. Safe to repeat."""
        mine = run.step(step.slug)
        if mine.result == "failed" and not run.closed:
            ended = facts.Failed(step=step.slug, reason=mine.reason, message=mine.message)
            await self.journal.append(self.scribe.run(run, f"failed.{mine.token}", ended))
            return
        if mine.result != "success":
            return
        following = flow.after(step)
        if following is not None:
            if run.step(following.slug).after != mine.token:
                await self.stream.publish(self.scribe.trigger(run, following, mine.token))
        elif not run.closed and all(run.succeeded(each) for each in flow.STEPS):
            done = facts.Completed(
                evidence_digest=run.digest, rehearsal=bool(getattr(mine.outcome, "rehearsal", False))
            )
            await self.journal.append(self.scribe.run(run, f"completed.{mine.token}", done))


def _results(run: Run, step: Step) -> dict[str, StepResult]:
    """Results of the steps before this one."""
    found = ((before.slug, run.step(before.slug).outcome) for before in flow.before(step))
    return {slug: outcome for slug, outcome in found if outcome is not None}


def _unforeseen(error: Exception) -> bool:
    return not isinstance(error, Trouble)
