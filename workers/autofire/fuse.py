"""The fuse: waits out the grace period that the journal tells of, and begins the cutover. Any number may burn.

The grace period is counted by the broker's clock, which stored the login: a machine whose own clock is ahead does not
fire early. It fires once, because `accepted` is appended by compare-and-set on the very state in which it was still
pending: of two replicas, or of a replica and a cancel, the journal takes the first. It fires never before handover is
sealed.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import anyio

from events import subjects
from events.envelope import Event, Undecodable, admit
from events.fold import AutoFire
from events.jetstream import JetStreamLog
from events.journal import Journal
from events.log import Conflict, LogFull, LogUnavailable
from schemas import events as facts
from workers.admission import accept
from workers.autofire.rule import Rule, disarming, pending
from workers.errors import Trouble
from workers.scribe import Scribe

log = logging.getLogger("cutover.autofire")
AGAIN = 15.0
"""Seconds until handover, which nobody announces, is looked at once more."""

SETTLE = 0.05  # seconds: a moment too late rather than one look too many

Sealed = Callable[[], Awaitable[bool]]
"""Is handover sealed? Raises Wait or Stuck when that cannot be read: then nothing fires."""


async def serve(stream: JetStreamLog, journal: Journal, scribe: Scribe, rule: Rule, sealed: Sealed) -> None:
    """Until it has fired or is ended for ever. `journal.tail` must run beside."""
    fuse = Fuse(stream, journal, scribe, rule, sealed)
    while journal.state.autofire is None or pending(journal.state):
        try:
            await fuse.burn()
        except Conflict:
            await journal.refresh()
        except (LogUnavailable, LogFull, Trouble) as error:
            log.warning("auto-fire waits: %s", error)
            await anyio.sleep(min(AGAIN, 5.0))


class Fuse:
    """One replica's."""

    def __init__(self, stream: JetStreamLog, journal: Journal, scribe: Scribe, rule: Rule, sealed: Sealed) -> None:
        self._stream, self._journal, self._scribe = stream, journal, scribe
        self._rule, self._sealed = rule, sealed

    async def burn(self) -> None:
        """One look: wait, disarm or fire. Raises Conflict when the journal moved meanwhile, and trouble."""
        state = self._journal.state
        fuse = pending(state)
        if fuse is None:
            await self._journal.moved(state.seq)
        elif not self._rule.enabled:
            why = "auto-fire was switched off"
            draft = disarming(self._scribe, fuse, self._scribe.source, why, None, None)
            await self._journal.append(draft, if_seq=state.seq)
        elif (left := (fuse.fires_at - await self._stream.clock()).total_seconds()) > 0:
            await self._rest(left + SETTLE)
        elif (cancel := await self._cancel(fuse)) is not None:
            await self._end(fuse, *cancel)
        elif not await self._sealed():
            log.info("auto-fire is due and waits for handover to be sealed, and for a plan that nothing stops")
            await self._rest(AGAIN)
        else:
            await self._fire(fuse)

    async def _rest(self, seconds: float) -> None:
        """Some seconds, or until the journal moves."""
        with anyio.move_on_after(seconds):
            await self._journal.moved(self._journal.state.seq)

    async def _cancel(self, fuse: AutoFire) -> tuple[int, facts.CancelRequested, Event] | None:
        """A cancel since the login that nobody has served yet: after a restart, the fuse may be faster than admission.

        Admission serves cancels in their order; what counts here is only that one was asked for in time."""
        found = [entry async for entry in self._stream.read(subjects.CANCEL, fuse.login)]
        for entry in found:
            try:
                event, data = admit(entry.raw, "cancel")
            except Undecodable:
                continue  # admission keeps it in `rejected`
            assert isinstance(data, facts.CancelRequested)  # noqa: S101  admit() checked the kind
            if data.run is None:
                return entry.seq, data, event
        return None

    async def _end(self, fuse: AutoFire, seq: int, data: facts.CancelRequested, event: Event) -> None:
        who = event.authid or data.operator or event.source
        state = self._journal.state
        if pending(state):
            draft = disarming(self._scribe, fuse, who, data.reason, seq, event)
            await self._journal.append(draft, if_seq=state.seq)

    async def _fire(self, fuse: AutoFire) -> None:
        """`accepted` in the name of who logged in, and the trigger of step 1. Raises Conflict."""
        login = await self._login(fuse.login)
        state = await self._journal.refresh()
        if pending(state) is None or state.broken:
            return
        # No await between this look and accept(), which appends only to the state that was looked at.
        why = f"auto-fire: grace period after the login of {fuse.operator}"
        await accept(self._journal, self._scribe, fuse.login, facts.Requested(reason=why), login)

    async def _login(self, seq: int) -> Event:
        found = [entry async for entry in self._stream.read(subjects.LOGIN, seq - 1)]
        if found and found[0].seq == seq:
            return admit(found[0].raw, "login")[0]
        raise LogUnavailable(f"the login at {seq} is not in the stream")
