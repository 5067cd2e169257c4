"""What the routes ask of the log: publish an input, and wait for what the workers make of it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

from pydantic import BaseModel

from events import certificate as certificates
from events import subjects
from events.certificate import Uncertifiable
from events.envelope import Draft
from events.fold import State
from events.jetstream import JetStreamLog
from events.log import LogFull, LogUnavailable, NotPermitted, TooLarge
from schemas import events as facts
from workers import certify
from workers.audit import report
from workers.audit.survey import audit as survey
from workers.entrypoints import asking, wiring
from workers.entrypoints.api.feed import Feed
from workers.entrypoints.api.models import snapshot
from workers.entrypoints.api.problems import Problem, slug_of
from workers.entrypoints.api.who import Caller
from workers.entrypoints.asking import Answer
from workers.entrypoints.settings import Settings, redactor
from workers.errors import Stuck, Trouble
from workers.node_log import NodeLog
from workers.plan import preview

log = logging.getLogger("cutover.api")

KNOWN: Final = {"RunActive": "cutover-in-progress", "HandoverIncomplete": "handover-incomplete"}
"""Reasons of a rejection that existing readers know by another name."""
STATUS: Final = {"HandoverIncomplete": 425, "PreflightFailed": 424, "HandoverUnknown": 503}
"""Reasons of a rejection that are no conflict."""
Refusal = tuple[str, str]
"""(reason, message)"""
FRESH: Final = 10.0
"""Seconds for which one look at the cluster serves everybody who asks."""


class Front:
    """One process at the front door. Holds nothing that the log does not hold."""

    def __init__(self, settings: Settings, feed: Feed, *, patience: float, look: float) -> None:
        self.settings, self.feed = settings, feed
        self._stream: JetStreamLog | None = None
        self._patience = patience
        self._looks = {name: Look(work, look) for name, work in self._surveys().items()}

    def open(self, stream: JetStreamLog) -> None:
        """The broker answered for the first time."""
        self._stream = stream

    @property
    def stream(self) -> JetStreamLog:
        """Raises Problem 503 while the broker was never there."""
        if self._stream is None:
            raise Problem(503, "broker-unavailable", "the broker has not answered yet", {"Retry-After": "2"})
        return self._stream

    def snapshot(self) -> dict[str, Any]:
        """Where the cutover stands. Raises Problem 503 until the log has been read."""
        if not self.feed.ready:
            raise Problem(503, "status-read-failed", "the log has not been read yet", {"Retry-After": "2"})
        return snapshot(self.feed.state, live=self.feed.live)

    # --- asking -----------------------------------------------------------------------------------------------

    async def ask(
        self, caller: Caller, subject: str, place: str, data: BaseModel, key: str | None, *, longer: float = 0.0,
        judge: Callable[[State], Refusal | None] | None = None,
    ) -> Answer:  # fmt: skip
        """Publish an input and wait for its answer. Raises Problem.

        `key` makes a repeat the same message: for a caller who does not know whether the first one arrived. What the
        first one has changed since is then no reason to refuse it, so `judge` is asked about new messages only."""
        seq = self.feed.inputs.get(message_id(caller, subject, key)) if key else None
        if seq is None:
            if judge is not None:
                self.foreseen(judge)
            seq = await self.publish(caller, subject, place, data, key)
        return await self._answer(seq, self._patience + longer)

    async def logged_in(self, caller: Caller) -> str:
        """Tell the log of an operator's login where it may arm auto-fire; auto-fire's phase, empty when there is none.

        Raises Problem."""
        rule, state = self.settings.auto_fire, self.feed.state
        first = self.feed.ready and state.autofire is None and state.run is None
        # Who may not start a cutover by hand does not by logging in, whatever roles the settings name for both.
        entitled = caller.authtype == "user" and caller.may_act and rule.role in caller.roles
        if rule.enabled and first and entitled:
            data = facts.Login(operator=caller.authid, roles=(rule.role,))
            await self.publish(caller, subjects.LOGIN, "cutover", data, None)
        return state.autofire.phase if state.autofire else ""

    async def publish(self, caller: Caller, subject: str, place: str, data: BaseModel, key: str | None) -> int:
        """An input in the caller's name; its sequence in the log. Raises Problem."""
        name = message_id(caller, subject, key) if key else str(uuid4())
        draft = Draft(
            id=name, source=f"//{self.settings.sovereign.fqdn}/api", data=data, subject=place, time=datetime.now(UTC),
            authtype=caller.authtype, authid=caller.authid,
        )  # fmt: skip
        try:
            async with asyncio.timeout(self._patience):
                seq = await self.stream.publish_raw(subject, draft.encode(), draft.id)
        except LogFull as error:
            raise Problem(503, "log-full", str(error)) from None
        except TooLarge as error:
            raise Problem(413, "body-too-large", str(error)) from None
        except (LogUnavailable, TimeoutError):
            raise Problem(
                503, "broker-unavailable", "the broker did not confirm the request; whether it arrived is not known",
                {"Retry-After": "5"},
            ) from None  # fmt: skip
        except NotPermitted as error:
            raise Problem(503, "broker-refuses", str(error)) from None
        log.info("%s by %s is message %d", subject, caller.authid, seq)
        return seq

    async def _answer(self, seq: int, patience: float) -> Answer:
        repeat = seq < self.feed.read
        found = await self.feed.answer(seq, 0.5 if repeat else patience)
        if repeat and not found.run and not found.refused:  # its answer may be older than what we remember
            found = await asking.answer(self.stream, seq, patience)
        return found

    def foreseen(self, judge: Callable[[State], Refusal | None]) -> None:
        """Raises Problem for what the workers would refuse as things stand, by their own pure rule.

        Not published then: a trigger for a step that runs would wait behind it and run it once more. Without the
        broker nothing is foreseen; publishing says what is the matter."""
        self.snapshot()
        if self.feed.live and (refusal := judge(self.feed.state)) is not None:
            self.told(Answer(0, reason=refusal[0], message=refusal[1]))

    def told(self, answer: Answer) -> dict[str, Any]:
        """The document of `Started`. Raises Problem for what was refused or not answered."""
        if answer.refused:
            status = STATUS.get(answer.reason, 409)
            raise Problem(status, KNOWN.get(answer.reason) or slug_of(answer.reason), answer.message)
        if answer.run is None:
            raise Problem(
                504, "not-answered",
                f"the request is message {answer.sequence} of the log and no worker has answered it; "
                "it will be taken up when one comes",
            )  # fmt: skip
        return {**self.snapshot(), "run": answer.run, "request": answer.sequence}

    # --- looking at the Sovereign -----------------------------------------------------------------------------

    async def look(self, what: str) -> Any:
        """`plan` or `audit`. Raises Problem."""
        try:
            return await self._looks[what].taken()
        except Problem:
            raise
        except TimeoutError:
            raise Problem(
                503, f"{what}-timeout", f"the {what} took too long; ask again", {"Retry-After": "10"}
            ) from None
        except (Trouble, LogUnavailable, NotPermitted, OSError) as error:
            raise Problem(503, f"{what}-failed", self._redacted(error), {"Retry-After": "10"}) from None

    def _redacted(self, error: Exception) -> str:
        return redactor(self.settings)(str(error))

    def _surveys(self) -> dict[str, Callable[[], Awaitable[Any]]]:
        settings = self.settings

        async def plan() -> Any:
            async with (
                wiring.cluster(settings) as cluster,
                wiring.world(settings, cluster, NodeLog(settings.nats)) as world,
            ):
                return await preview(world)

        async def audit() -> Any:
            async with (
                wiring.cluster(settings) as cluster,
                wiring.world(settings, cluster, NodeLog(settings.nats)) as world,
            ):
                return {"sovereign": settings.sovereign.fqdn, **report.document(await survey(world))}

        async def certificate() -> Any:
            entries = [entry async for entry in asking.messages(self.stream)]
            if not self.feed.state.complete:  # why not is said before a key is asked for that nobody has made yet
                certificates.statement(entries, certificates.Signer.new().verifier)
            async with wiring.cluster(settings) as cluster:
                signer = await certify.signer(cluster, settings.status.namespace)
            return await asyncio.to_thread(certificates.issue, entries, signer)

        return {"plan": plan, "audit": audit, "certificate": certificate}

    async def certificate(self) -> bytes:
        """The signed certificate of the log as it stands. Raises Problem."""
        try:
            found: bytes = await self._looks["certificate"].taken()
            return found
        except Uncertifiable as error:
            raise Problem(404, "not-certifiable", str(error)) from None
        except (LogUnavailable, NotPermitted, TimeoutError) as error:
            raise Problem(503, "broker-unavailable", str(error) or "no answer in time", {"Retry-After": "5"}) from None
        except Trouble as error:
            slug = slug_of(error.reason) if isinstance(error, Stuck) else "cluster-unavailable"
            raise Problem(503, slug, self._redacted(error)) from None


def message_id(caller: Caller, subject: str, key: str) -> str:
    """The same for the same caller, question and key, at every replica."""
    return hashlib.sha256(f"{caller.authid}\n{subject}\n{key}".encode()).hexdigest()[:32]


@dataclass
class Look:
    """One look at the cluster at a time, however many ask; its result serves a few seconds."""

    work: Callable[[], Awaitable[Any]]
    limit: float
    _running: asyncio.Task[Any] | None = None
    _found: tuple[float, Any] | None = None

    async def taken(self) -> Any:
        now = asyncio.get_running_loop().time()
        if self._found is not None and now - self._found[0] < FRESH:
            return self._found[1]
        if self._running is None:
            self._running = asyncio.ensure_future(self._take())
            self._running.add_done_callback(self._ended)
        # Shielded: that one of many who wait goes away must not end it for the others.
        return await asyncio.shield(self._running)

    async def _take(self) -> Any:
        async with asyncio.timeout(self.limit):
            found = await self.work()
        self._found = (asyncio.get_running_loop().time(), found)
        return found

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running = None
        if not task.cancelled():
            task.exception()  # told to whoever waits; nobody may
