"""What the log says was copied into local Harbor: the newest result of harbor-prewarm, of whichever run."""

from __future__ import annotations

from pydantic import ValidationError

from events.envelope import Event, Undecodable, data_of, read
from events.flow import BY_SLUG
from events.jetstream import Broker, JetStreamLog
from events.log import Entry, Keeper, LogUnavailable, NotPermitted
from schemas.events import StepSucceeded
from schemas.results import Prewarmed
from workers.errors import Stuck, Wait

SLUG = "harbor-prewarm"
_MARK = SLUG.encode()
_OTHERS = BY_SLUG.keys() - {SLUG}


class Copies:
    """Implements `workers.world.Copied` on the journal, which is read once and then only where it grew."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._seq = 0
        self._number = 0
        self._latest: Prewarmed | Stuck | None = None

    async def latest(self) -> Prewarmed | None:
        """What was proven to be in local Harbor; None before the first success.

        Raises Wait; Stuck `ResultUnreadable` when the newest success is in words that we do not know: an older one
        says nothing of what stands there now.
        """
        try:
            for entry in await self._keeper.since(self._seq):
                self._seq = entry.seq
                self._take(entry)
        except LogUnavailable as error:
            raise Wait("LogUnavailable", str(error)) from None
        except NotPermitted as error:
            raise Stuck("LogForbidden", str(error)) from None
        if isinstance(self._latest, Stuck):
            raise Stuck(self._latest.reason, self._latest.message)
        return self._latest

    def _take(self, entry: Entry) -> None:
        """Strangers in the journal and copies of the past are no history, here as in the fold."""
        if _MARK not in entry.raw:  # most entries are progress of others: not worth reading
            return
        try:
            event = read(entry.raw)
            number = int(event.sequence or "0")
        except (Undecodable, ValueError):
            return
        if event.prevhash is None or number <= self._number:
            return
        self._number = number
        self._latest = _result(event, entry.seq) or self._latest


class CopyLog:
    """The same with a connection for each question: for whoever asks once and goes."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def latest(self) -> Prewarmed | None:
        """What was proven to be in local Harbor; None before the first success. Raises Wait, Stuck."""
        try:
            async with JetStreamLog.open(self._broker) as stream:
                # Before the first run there is no stream, and nothing was ever copied.
                return await Copies(stream).latest() if await stream.last() is not None else None
        except LogUnavailable as error:
            raise Wait("LogUnavailable", str(error)) from None
        except NotPermitted as error:
            raise Stuck("LogForbidden", str(error)) from None


def _result(event: Event, seq: int) -> Prewarmed | Stuck | None:
    """What a success of harbor-prewarm says; None for any other event."""
    if event.kind != "step.succeeded" or (event.data or {}).get("step") in _OTHERS:
        return None
    try:
        data = data_of(event)
        assert isinstance(data, StepSucceeded)  # noqa: S101  the kind was checked
        return Prewarmed.model_validate(data.result) if data.step == SLUG else None
    except (Undecodable, ValidationError):
        why = f"the newest result of {SLUG}, entry {seq} of the log, is not of this version's shape"
        return Stuck("ResultUnreadable", f"{why}, so nobody knows what was copied; run {SLUG} once more")
