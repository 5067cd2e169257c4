"""Admission: who asked for what, and whether a run begins. Also the registrar, who keeps strays.

One active run per Sovereign, because `accepted` is appended by compare-and-set on the state it was decided on.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

import anyio
from pydantic import BaseModel

from events import flow, subjects
from events.envelope import Event, Undecodable, admit, data_of, read
from events.fold import State, evolve
from events.jetstream import ADMISSION, REGISTRAR, Delivery, JetStreamLog
from events.journal import Journal
from events.log import Conflict, Emit, Entry, LogUnavailable, NotPermitted
from schemas import events as facts
from workers.autofire.rule import Rule, armed, arming, disarming, why_not_arm
from workers.scribe import LOGGED, Scribe, clipped
from workers.verdict import plainest

log = logging.getLogger("cutover.admission")


KINDS = {subjects.REQUESTED: "requested", subjects.CANCEL: "cancel", subjects.LOGIN: "login"}
NOBODY = Rule()
Gate = Callable[[facts.Requested], Awaitable[tuple[str, str] | None]]
"""Why a request begins no run as the world stands: (reason, message); `workers.preflight` makes one."""
AGAIN = 1.0  # seconds until a message that could not be served comes again
TRIES = 5
"""After so many a message that our own code falls over is kept in `rejected`."""
KEEP = 5.0
"""Seconds between two words to the broker that a delivery is still worked on; well below `ack_wait`."""


async def open_to_all(_: facts.Requested) -> tuple[str, str] | None:
    """No gate."""
    return None


async def serve(
    stream: JetStreamLog, journal: Journal, scribe: Scribe, rule: Rule = NOBODY, gate: Gate = open_to_all
) -> None:
    """Take requests, cancels and logins for ever, in their order: a cancel never overtakes the login before it."""
    async for delivery in stream.deliveries(ADMISSION):
        try:
            await _serve_one(stream, journal, scribe, delivery, rule, gate)
        except (LogUnavailable, Conflict) as error:
            log.warning("%s; the message will come again", error)
            await delivery.later(AGAIN)


async def _serve_one(
    stream: JetStreamLog, journal: Journal, scribe: Scribe, delivery: Delivery, rule: Rule, gate: Gate
) -> None:  # fmt: skip
    try:
        await _handle(stream, journal, scribe, delivery, rule, gate)
    except (LogUnavailable, Conflict, NotPermitted):
        raise
    except Exception as error:  # a defect of ours: this message must not keep all those behind it from being served
        log.exception("message %d on %s cannot be served", delivery.seq, delivery.subject)
        if delivery.tries < TRIES:
            await delivery.later(AGAIN)
            return
        why = f"{type(plainest(error)).__name__} in {TRIES} tries: a defect; the log of the worker has more"
        await _reject(stream, scribe, delivery, "Unservable", why)


async def _handle(
    stream: JetStreamLog, journal: Journal, scribe: Scribe, delivery: Delivery, rule: Rule, gate: Gate
) -> None:  # fmt: skip
    try:
        event, data = admit(delivery.raw, KINDS[delivery.subject])
    except Undecodable as error:
        await _reject(stream, scribe, delivery, "Undecodable", str(error))
        return
    while True:
        state = await journal.refresh()
        try:
            refusal = await _serve(stream, journal, scribe, state, delivery, data, event, rule, gate)
        except Conflict:
            continue
        if refusal is not None and refusal[0]:
            await _reject(stream, scribe, delivery, *refusal)
        else:
            await delivery.settle()
        return


async def _serve(
    stream: JetStreamLog,
    journal: Journal,
    scribe: Scribe,
    state: State,
    delivery: Delivery,
    data: BaseModel,
    event: Event,
    rule: Rule,
    gate: Gate,
) -> tuple[str, str] | None:
    """Do what is asked, or say why not. Raises Conflict when it must be decided again."""
    match data:
        case facts.Requested():
            refusal = why_not_accept(state, delivery.seq) or why_not_again(state, data)
            if state.run is not None and state.run.request > delivery.seq and await _taken_up(stream, delivery.seq):
                refusal = "", "it was taken up before"
            if refusal is None:
                refusal = await asked(gate, data, delivery)
            if refusal is None:
                if journal.state.seq != state.seq:  # the world was asked for a while
                    raise Conflict("the journal moved on")
                await accept(journal, scribe, delivery.seq, data, event)
        case facts.Login():
            refusal = why_not_arm(state, rule, data, event)
            if refusal is None:
                fact = armed(rule, delivery.seq, delivery.stored_at, await stream.clock(), event.authid or "")
                await journal.append(arming(scribe, fact, event), if_seq=state.seq)
                log.info("auto-fire armed by the login of %s; it fires at %s", fact.operator, fact.fires_at)
        case _:
            assert isinstance(data, facts.CancelRequested)  # noqa: S101  admit() checked the kind
            refusal = why_not_cancel(state, data, delivery.seq)
            if refusal is None:
                await _cancel(journal, scribe, state, delivery.seq, data, event)
    return refusal


def why_not_accept(state: State, seq: int) -> tuple[str, str] | None:
    """Why the request at `seq` begins no run: (reason, message); an empty reason when it did so already."""
    if state.broken:
        return "LogBroken", f"the log's chain does not hold: {state.broken}; run `cutover verify`"
    run = state.run
    if run is not None and run.request == seq:
        return "", "it was taken up before"
    if run is not None and state.active:
        return "RunActive", f"run {run.id} is active at {run.current or 'its start'}; cancel it, or wait for its end"
    if run is not None and run.request > seq:
        return "RunActive", f"run {run.id} was begun by a later message while this one waited; ask again"
    return None


async def _taken_up(stream: JetStreamLog, seq: int) -> bool:
    """Did the request at `seq` begin a run, before the one that is the newest now?"""
    for entry in await stream.since(seq):
        with suppress(Undecodable):
            data = data_of(read(entry.raw))
            if isinstance(data, facts.Accepted) and data.request == seq:
                return True
    return False


def why_not_again(state: State, data: facts.Requested) -> tuple[str, str] | None:
    """Whoever wants the cutover done, and not done again, is told that it is done."""
    if data.unless_complete and state.complete:
        return "AlreadyComplete", "the cutover is complete"
    return None


async def asked(gate: Gate, data: facts.Requested, delivery: Delivery) -> tuple[str, str] | None:
    """What the gate says, while the delivery is kept ours: a preflight may take longer than `ack_wait`."""
    refusal: tuple[str, str] | None = None
    try:
        async with anyio.create_task_group() as tasks:

            async def keep() -> None:
                while True:
                    await anyio.sleep(KEEP)
                    await delivery.working()

            tasks.start_soon(keep)
            refusal = await gate(data)
            tasks.cancel_scope.cancel()
    except ExceptionGroup as several:  # one of the two: a broker that went away meanwhile is no end of the world
        raise several.exceptions[0] from None
    return refusal


def why_not_cancel(state: State, data: facts.CancelRequested, seq: int) -> tuple[str, str] | None:
    """Why the cancel at `seq` stops nothing; an empty reason when it did already."""
    run = state.run
    if data.run is None and (fuse := state.autofire) is not None and run is None:
        return None if fuse.phase == "pending" else ("", "auto-fire was cancelled before")
    if run is not None and run.phase == "cancelled":
        return "", "it was cancelled before"
    if run is None or not state.active:
        return "NoActiveRun", "no run is active"
    if data.run not in (None, run.id):
        return "NotTheActiveRun", f"run {data.run} is not the active one; that is {run.id}"
    if seq < run.request:
        return "NoActiveRun", "it was sent before this run began"
    return None


async def accept(journal: Journal, scribe: Scribe, request: int, data: facts.Requested, event: Event | None) -> None:
    """Begin a run: `accepted` and the trigger of step 1 in one batch. Raises Conflict."""
    state = journal.state
    operator = (event.authid if event else None) or data.operator or (event.source if event else "") or "unknown"
    accepted = facts.Accepted(operator=operator, reason=data.reason, request=request, steps=flow.SLUGS)
    draft, run = scribe.accepted(request, accepted, event)
    first = facts.Trigger(run=run, step=flow.FIRST.slug, after=request)
    trigger = replace(
        draft,
        id=f"{run}.{flow.FIRST.slug}.trigger.{request}",
        data=first,
        subject=flow.FIRST.slug,
        causationid=draft.id,
    )
    emit = Emit(subjects.trigger(flow.FIRST), trigger)
    await journal.append(draft, emit, if_seq=state.seq)
    log.info("run %s accepted for %s", run, operator)


async def _cancel(
    journal: Journal, scribe: Scribe, state: State, seq: int, data: facts.CancelRequested, event: Event
) -> None:
    run = state.run
    operator = event.authid or data.operator or event.source
    if run is None:
        fuse = state.autofire
        assert fuse is not None  # noqa: S101  why_not_cancel() looked
        await journal.append(disarming(scribe, fuse, operator, data.reason, seq, event), if_seq=state.seq)
        log.info("auto-fire cancelled by %s", operator)
        return
    cancelled = facts.Cancelled(operator=operator, reason=data.reason, request=seq)
    await journal.append(scribe.run(run, f"cancelled.{seq}", cancelled), if_seq=state.seq)
    log.info("run %s cancelled by %s", run.id, operator)


async def _reject(stream: JetStreamLog, scribe: Scribe, delivery: Delivery, reason: str, message: str) -> None:
    log.warning("rejected %s at %s: %s: %s", delivery.subject, delivery.seq, reason, clipped(message, LOGGED))
    await stream.publish(scribe.rejected(delivery, reason, message))
    await delivery.settle()


class Registrar:
    """Reads every message of the stream once and keeps the strays: unknown subjects, strangers in the journal."""

    def __init__(self, stream: JetStreamLog, scribe: Scribe) -> None:
        self._stream, self._scribe = stream, scribe
        self._state = State()
        self._read: Delivery | None = None
        self._news = anyio.Event()

    async def serve(self) -> None:
        """For ever. Its acks cover all that went before, so one a second is enough; a repeat does no harm."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._settle)
            async for delivery in self._stream.sightings(REGISTRAR):
                await self._look(delivery)
                self._read = delivery
                self._news.set()

    async def _look(self, delivery: Delivery) -> None:
        while True:
            try:
                if stray := await self._stray(delivery):
                    reason, message = stray
                    log.warning("stray on %s at %s: %s", delivery.subject, delivery.seq, reason)
                    await self._stream.publish(self._scribe.rejected(delivery, reason, message))
                return
            except LogUnavailable as error:
                log.warning("%s; trying again", error)
                await anyio.sleep(1)

    async def _settle(self) -> None:
        while True:
            await self._news.wait()
            await anyio.sleep(1)
            self._news = anyio.Event()
            if self._read is not None:
                await self._read.settle()

    async def _stray(self, delivery: Delivery) -> tuple[str, str] | None:
        subject = delivery.subject
        if subject in (*KINDS, subjects.REJECTED) or subjects.step_of(subject):
            return None  # someone else judges these
        if subject == subjects.JOURNAL:
            return await self._stranger(delivery)
        if subject.startswith(f"{subjects.ROOT}.node."):
            return _bad_report(delivery.raw)
        return "UnknownSubject", f"nobody listens on {subject}"

    async def _stranger(self, delivery: Delivery) -> tuple[str, str] | None:
        """Does the entry continue the chain? Judged by the same fold that everyone uses."""
        if delivery.seq <= self._state.seq:
            return None
        if self._state.seq == 0 and delivery.seq > 1:
            for entry in await self._stream.since(0):
                if entry.seq < delivery.seq:
                    self._state = evolve(self._state, entry)
        before = self._state.foreign
        self._state = evolve(self._state, Entry(delivery.seq, delivery.subject, delivery.raw))
        if self._state.foreign == before:
            return _not_understood(delivery.raw)
        return "ForeignInJournal", "not an event of ours, or a copy of one; it is no part of the history"


def _not_understood(raw: bytes) -> tuple[str, str] | None:
    """A link of the chain that a later version wrote, or somebody who knows how to: it is kept, and it is told."""
    try:
        data_of(read(raw))
    except Undecodable as error:
        return "UnreadableFact", f"it continues the chain, and nothing here is drawn from it: {error}"
    return None


def _bad_report(raw: bytes) -> tuple[str, str] | None:
    try:
        admit(raw, "node.reported")
    except Undecodable as error:
        return "Undecodable", str(error)
    return None
