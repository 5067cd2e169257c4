"""The pool: take, decide, do, append, settle. One loop for every step; no step knows of it.

    trigger --> decide (pure, from the journal) --> claim = step.started (compare-and-set: the fencing token)
            --> the step's own run, beside its lease --> step.succeeded + next trigger (one atomic batch)
            --> confirmed ack

A crash anywhere means the same trigger again, the same ids, the same facts.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import anyio
from pydantic import BaseModel

from events import flow, subjects
from events.envelope import Event, Undecodable, admit, data_of, read
from events.flow import Step
from events.fold import Run, State, StepState
from events.jetstream import Delivery, JetStreamLog, step_durable
from events.journal import Journal
from events.log import Conflict, Emit, LogUnavailable, NotPermitted, TooLarge, Unreadable
from schemas import events as facts
from schemas.results import StepResult
from workers import decision as decisions
from workers.admission import TRIES, Gate, accept, asked, open_to_all
from workers.bearing import BEARING, Bearing, trace_of
from workers.decision import Adopt, Begin, Do, Hold, Refuse, Settled, decide
from workers.errors import Trouble, Wait
from workers.lease import Fenced, Lease, lost
from workers.scribe import LOGGED, Scribe, clipped
from workers.tethers import tied
from workers.verdict import GiveUp, Limits, Retry, plainest, unsayable, verdict
from workers.world import Order, Report

log = logging.getLogger("cutover.pool")
LONGEST = 30.0  # seconds until a trigger that our code fell over comes again, at most
FIRST_LOOK = 60.0  # seconds for the audit that begins a run

Work = Callable[[Order, Report], Awaitable[StepResult]]
"""A step's `run` with its world already in hand."""


Outcome = StepResult | Retry | GiveUp


@dataclass(frozen=True, slots=True)
class Claim:
    """One attempt that is ours until its lease is lost."""

    run: Run
    step: Step
    attempt: int
    token: int
    delivery: Delivery
    sent: float
    """Monotonic time when it was asked for: the lease counts from then, whenever the answer came."""


@dataclass(frozen=True)
class Pool:
    """Workers for some steps, in one process. Any number of processes may run any of them."""

    stream: JetStreamLog
    journal: Journal
    scribe: Scribe
    work: Mapping[str, Work]
    lease_seconds: float = 20.0
    limits: Limits = field(default_factory=Limits)
    audit: Callable[[], Awaitable[facts.Audited]] | None = None
    """The first look of a run and the last one before `completed`; what they find stands in the journal."""
    gate: Gate = open_to_all
    """What a bare trigger that begins a run must pass, as a request does at admission."""

    async def serve(self) -> None:
        """Take triggers of our steps for ever."""
        async with anyio.create_task_group() as tasks:
            for slug in self.work:
                tasks.start_soon(self._serve_step, flow.BY_SLUG[slug])

    async def _serve_step(self, step: Step) -> None:
        fallen: Counter[int] = Counter()
        async for delivery in self.stream.deliveries(step_durable(step.number)):
            try:
                await self._serve_one(step, delivery, fallen)
            except (LogUnavailable, Conflict, Trouble) as error:
                log.warning("%s: %s; the trigger will come again", step.slug, error)
                await delivery.later(1.0)

    async def _serve_one(self, step: Step, delivery: Delivery, fallen: Counter[int]) -> None:
        """What our code falls over comes again; what no attempt ever served must not for ever stand before the rest."""
        try:
            await self.handle(step, delivery)
        except (LogUnavailable, Conflict, Trouble, NotPermitted, ExceptionGroup):
            raise
        except Exception as error:  # a defect of ours, and of this step's trigger only: the other steps go on
            log.exception("%s: trigger %d cannot be served", step.slug, delivery.seq)
            fallen[delivery.seq] += 1
            run = self.journal.state.run
            under_way = run is not None and run.step(step.slug).trigger == delivery.seq
            if under_way or fallen[delivery.seq] < TRIES:
                await delivery.later(min(2.0 ** fallen[delivery.seq], LONGEST))
                return
            why = f"{type(error).__name__} in {TRIES} tries: a defect; the log of the worker has more"
            await self._refuse(delivery, Refuse("Unservable", why))

    async def handle(self, step: Step, delivery: Delivery) -> None:
        """One delivery, to its end: settled, or left to come again."""
        try:
            event, data = admit(delivery.raw, "step.trigger")
        except Undecodable as error:
            await self._refuse(delivery, Refuse("Undecodable", str(error)))
            return
        assert isinstance(data, facts.Trigger)  # noqa: S101  admit() checked the kind
        if delivery.subject != subjects.trigger(step):  # who may order a step is granted by subject, so it counts
            why = f"it came on {delivery.subject} to the consumer of {step.slug}, whose filter somebody changed"
            await self._refuse(delivery, Refuse("WrongSubject", why))
            return
        # What we know already is enough to claim, since the claim is a compare-and-set; every other decision is
        # made on the leader's newest entry.
        state = self.journal.state
        choice = decide(state, step, data, delivery.seq, lease_over=self._lease_is_over())
        if not isinstance(choice, Do):
            state = await self.journal.refresh()
        while True:
            choice = decide(state, step, data, delivery.seq, lease_over=self._lease_is_over())
            try:
                if await self._act(choice, step, event, data, delivery, state):
                    return
            except Conflict:
                log.debug("%s: someone was faster; deciding again", step.slug)
            state = await self.journal.refresh()

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
                if (refusal := await asked(self.gate, facts.Requested(), delivery)) is not None:
                    await self._refuse(delivery, Refuse(*refusal))
                    return True
                if self.journal.state.seq != state.seq:  # the world was asked for a while
                    raise Conflict("the journal moved on")
                await accept(self.journal, self.scribe, delivery.seq, facts.Requested(), event)
                await delivery.settle()
            case Adopt(run=run):
                await self._follow_up(run, step)
                await delivery.settle()
            case Hold():
                await self._hold(state, delivery)
                return False
            case Do(run=run):
                if (rest := await self._rest(run.step(step.slug))) > 0:
                    await delivery.later(min(rest, self.limits.longest))
                else:
                    await self._do(choice, step, trigger, delivery, state)
        return True

    async def _rest(self, mine: StepState) -> float:
        """Seconds that the step has yet to wait, by the broker's clock.

        A long wait is looked at now and then: while its trigger is away, no other of the step is delivered, and after
        a cancel a new run may need one.
        """
        if mine.result != "waiting" or mine.pause <= self.limits.longest:
            return 0.0
        return mine.pause - await self.stream.elapsed_since(mine.seen)

    def _lease_is_over(self) -> bool:
        return self.journal.silent_for() >= self.lease_seconds

    async def _hold(self, state: State, delivery: Delivery) -> None:
        """Until the journal moves, or has been silent for the rest of a lease."""
        await delivery.working()
        rest = max(self.lease_seconds - self.journal.silent_for(), 0.05)
        with anyio.move_on_after(min(rest, self.stream.broker.ack_wait / 3)):
            await self.journal.moved(state.seq)

    async def _refuse(self, delivery: Delivery, refusal: Refuse) -> None:
        why = clipped(refusal.message, LOGGED)
        log.warning("rejected %s at %s: %s: %s", delivery.subject, delivery.seq, refusal.reason, why)
        await self.stream.publish(self.scribe.rejected(delivery, refusal.reason, refusal.message))
        await delivery.settle()

    # --- doing it ----------------------------------------------------------------------------------------------

    async def _do(self, do: Do, step: Step, trigger: facts.Trigger, delivery: Delivery, state: State) -> None:
        """Claim, work, append the outcome, settle."""
        started = facts.StepStarted(
            step=step.slug, worker=self.scribe.worker, trigger=delivery.seq, after=trigger.after,
            lease_seconds=self.lease_seconds,
        )  # fmt: skip
        sent = time.monotonic()
        token = await self.journal.append(self.scribe.step(do.run, do.attempt, started), if_seq=state.seq)
        claim = Claim(do.run, step, do.attempt, token, delivery, sent)
        bearing = BEARING.set(Bearing(do.run.id, step.slug, do.attempt, trace_of(do.run.traceparent)))
        log.info("%s: attempt %d of run %s, token %d", step.slug, do.attempt, do.run.id, token)
        try:
            await self._conclude(claim, self._deadly(claim) or await self._attempt(claim))
        except Fenced as fenced:
            log.warning("%s: stopped, %s", step.slug, fenced)
            await delivery.later(1.0)
        finally:
            BEARING.reset(bearing)

    async def _attempt(self, claim: Claim) -> Outcome:
        """The step's own run beside its lease. Every exception ends here and becomes data. Raises Fenced."""
        slug, run = claim.step.slug, claim.run
        lease = Lease(
            self.journal, lambda data: self.scribe.progress(run, claim.attempt, data, self.journal.state.length),
            run=run.id, step=slug, worker=self.scribe.worker, token=claim.token, seconds=self.lease_seconds,
            delivery=claim.delivery, sent=claim.sent,
        )  # fmt: skip
        lease.in_time()
        outcome: Outcome | None = None
        order = Order(run.id, slug, claim.attempt, claim.token, run.started_at, _results(run, claim.step))
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as beside:
                beside.start_soon(_keep, lease, scope)
                if claim.step == flow.FIRST:
                    await self._first_look(claim)
                try:
                    outcome = await self.work[slug](order, lease.report)
                except Exception as error:  # whatever a step raises becomes a verdict
                    outcome = await self._judge(error, claim)
                beside.cancel_scope.cancel()
        if outcome is None or lease.lost:
            raise Fenced(lease.lost or "the lease was lost")
        return outcome

    def _deadly(self, claim: Claim) -> GiveUp | None:
        """The end of a step that nobody survives; None while it may be tried."""
        lost = self._mine(claim).lost
        if lost < self.limits.losses:
            return None
        return GiveUp("WorkerLost", f"{lost} workers that did this step were heard of no more; see why they ended")

    async def _first_look(self, claim: Claim) -> None:
        """What ties the Sovereign before anything is done, for the certificate. Whatever it finds stops nothing."""
        if self.audit is None:
            return
        try:
            with anyio.move_on_after(FIRST_LOOK):
                if await self._looked_at(claim.run):
                    return
                found = await self.audit()
                await self._append_found(claim.run, f"audited.{claim.token}", found)
        except Exception as error:  # a look that failed leaves the certificate without it, and says so there
            log.warning("the look before the cutover was not taken: %s", plainest(error))

    async def _looked_at(self, run: Run) -> bool:
        """Did an earlier attempt leave an audit of this run?"""
        for entry in await self.journal.keeper.since(run.accepted):
            with suppress(Undecodable):
                if isinstance(data_of(read(entry.raw)), facts.Audited):
                    return True
        return False

    async def _append_found(self, run: Run, name: str, found: facts.Audited) -> None:
        """Into the journal, which moves meanwhile. Raises LogUnavailable."""
        while True:
            try:
                await self.journal.append(self.scribe.run(run, name, found))
                return
            except Conflict:
                await self.journal.refresh()

    async def _judge(self, error: Exception, claim: Claim) -> Retry | GiveUp:
        """The verdict on an error, from how often this trigger has been tried, and how long in vain.

        How long is told by the broker's clock alone: the worker before us may have stood on a machine whose own is
        wrong by hours."""
        cause = plainest(error)
        log.info("%s: %s", claim.step.slug, cause, exc_info=None if isinstance(cause, Trouble) else error)
        mine = self._mine(claim)
        try:
            elapsed = await self.stream.elapsed_since(mine.troubled) if mine.troubled else 0.0
        except LogUnavailable:
            elapsed = 0.0  # how often it was tried is still known, and bounds it
        return verdict(cause, mine.tries + 1, elapsed, self.limits)

    def _mine(self, claim: Claim) -> StepState:
        """The step as the journal has it now."""
        return (self.journal.state.run or claim.run).step(claim.step.slug)

    async def _conclude(self, claim: Claim, outcome: Outcome) -> None:
        """Append what came of it, as long as the step is ours; then settle, or let the trigger come again."""
        following = flow.after(claim.step)
        emit = None
        if following is not None and isinstance(outcome, StepResult):
            emit = self.scribe.trigger(claim.run, following, claim.token)
        try:
            await self._append_ours(claim, self._fact(claim, outcome), emit)
        except (TooLarge, Unreadable) as error:  # it would never land: to try again would do the step again for ever
            outcome, emit = unsayable(error), None
            await self._append_ours(claim, self._fact(claim, outcome), None)
        if isinstance(outcome, Retry):
            await claim.delivery.later(min(outcome.after, self.limits.longest))
            return
        if emit is None:
            await self._follow_up(self.journal.state.run or claim.run, claim.step)
        await claim.delivery.settle()

    def _fact(self, claim: Claim, outcome: Outcome) -> facts.StepWaiting | facts.StepFailed | facts.StepSucceeded:
        """What the journal shall say of the outcome."""
        ours: dict[str, Any] = {"step": claim.step.slug, "worker": self.scribe.worker, "token": claim.token}
        match outcome:
            case Retry(after=after, reason=reason, message=message):
                said = self.scribe.redact(message)
                tries = self._mine(claim).tries + 1
                return facts.StepWaiting(**ours, reason=reason, message=said, after_seconds=after, tries=tries)
            case GiveUp(reason=reason, message=message):
                return facts.StepFailed(**ours, reason=reason, message=self.scribe.redact(message))
            case _:
                return facts.StepSucceeded(**ours, result=outcome.model_dump(mode="json"))

    async def _append_ours(self, claim: Claim, fact: BaseModel, emit: Emit | None) -> None:
        """Append under our token; a conflict that is not about our step is tried again. Raises Fenced."""
        while True:
            try:
                await self.journal.append(self.scribe.step(claim.run, claim.attempt, fact), emit)
                return
            except Conflict:
                why = lost(await self.journal.refresh(), claim.run.id, claim.step.slug, claim.token)
                if why:
                    raise Fenced(why) from None

    async def _follow_up(self, run: Run, step: Step) -> None:
        """What must stand behind a finished step: the next trigger, `completed`, or `failed`. Safe to repeat."""
        mine, following = run.step(step.slug), flow.after(step)
        if mine.result == "failed" and not run.closed:
            await self._end(step, facts.Failed(step=step.slug, reason=mine.reason, message=mine.message), mine.token)
        elif mine.result == "success" and following is not None:
            if run.step(following.slug).after != mine.token:
                await self.stream.publish(self.scribe.trigger(run, following, mine.token))
        elif mine.result == "success" and not run.closed and all(run.succeeded(each) for each in flow.STEPS):
            await self._complete(run, step, mine)

    async def _complete(self, run: Run, step: Step, mine: StepState) -> None:
        """`completed`, when a last look finds none of tethers 1 to 7 and nothing that could not be read; else `failed`.
        Both rest on what stands in the journal. Whatever else leads outside is in the certificate, whose verdict says
        so."""
        try:
            found = await self.audit() if self.audit else None
        except Trouble as trouble:
            if not await self._past_hope(trouble, mine):
                raise
            message = self.scribe.redact(f"all steps succeeded, and the last look cannot be taken: {trouble.message}")
            await self._end(step, facts.Failed(step=step.slug, reason=trouble.reason, message=message), mine.token)
            return
        if found is not None:
            name = f"audited.{mine.token}.{self.scribe.worker}.{self.journal.state.length}"
            await self.journal.append(self.scribe.run(run, name, found))
        if found is not None and (left := tied(found)):
            number = f"{'at least ' if found.omitted else ''}{len(left)}"
            message = f"{number} strings still tie the Sovereign; see `cutover audit`. First: {left[0]}"
            await self._end(step, facts.Failed(step=step.slug, reason="TethersLeft", message=message), mine.token)
            return
        await self._end(step, None, mine.token)

    async def _past_hope(self, trouble: Trouble, mine: StepState) -> bool:
        """Must a person act before the last look can be taken? What may pass is waited for as long as for any step."""
        return not isinstance(trouble, Wait) or await self.stream.elapsed_since(mine.seen) > self.limits.total

    async def _end(self, step: Step, failed: facts.Failed | None, token: int) -> None:
        """The run's last word, on the very state that it is said of: a cancel that came while we looked stands before
        it, and then nothing is ended. Raises Conflict when the journal moves meanwhile."""
        state = await self.journal.refresh()
        run = state.run
        if run is None or run.closed or run.step(step.slug).token != token:
            log.info("%s: not the end of the run any more", step.slug)
            return
        if failed is not None:
            draft = self.scribe.run(run, f"failed.{token}", failed)
        else:
            shortened = bool(getattr(run.step(step.slug).outcome, "rehearsal", False))
            done = facts.Completed(evidence_digest=run.digest, rehearsal=shortened)
            draft = self.scribe.run(run, f"completed.{token}", done)
        await self.journal.append(draft, if_seq=state.seq)


async def _keep(lease: Lease, scope: anyio.CancelScope) -> None:
    """Renew the lease; when it is lost, stop the step."""
    try:
        await lease.keep(scope)
    except* Fenced as group:
        lease.lost = str(group.exceptions[0])
        scope.cancel()


def _results(run: Run, step: Step) -> dict[str, StepResult]:
    """Results of the steps before this one."""
    found = ((before.slug, run.step(before.slug).outcome) for before in flow.before(step))
    return {slug: outcome for slug, outcome in found if outcome is not None}
