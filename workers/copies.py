"""What the log says was copied into local Harbor: the newest result of harbor-prewarm, of whichever run."""

from __future__ import annotations

from pydantic import ValidationError

from events.envelope import Undecodable, data_of, read
from events.jetstream import Broker, JetStreamLog
from events.log import Entry, Keeper, LogUnavailable, NotPermitted
from schemas.events import StepSucceeded
from schemas.results import Prewarmed
from workers.errors import Stuck, Wait

SLUG = "harbor-prewarm"
_MARK = SLUG.encode()


class Copies:
    """Implements `workers.world.Copied` on the journal, which is read once and then only where it grew."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._seq = 0
        self._latest: Prewarmed | None = None

    async def latest(self) -> Prewarmed | None:
        """What was proven to be in local Harbor; None before the first success. Raises Wait, Stuck."""
        try:
            for entry in await self._keeper.since(self._seq):
                self._seq = entry.seq
                self._latest = _result(entry) or self._latest
        except LogUnavailable as error:
            raise Wait("LogUnavailable", str(error)) from None
        except NotPermitted as error:
            raise Stuck("LogForbidden", str(error)) from None
        return self._latest


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


def _result(entry: Entry) -> Prewarmed | None:
    if _MARK not in entry.raw:  # most entries are progress of others: not worth reading
        return None
    try:
        event = read(entry.raw)
        data = data_of(event)
        if event.prevhash is not None and isinstance(data, StepSucceeded) and data.step == SLUG:
            return Prewarmed.model_validate(data.result)
    except (Undecodable, ValidationError):
        pass
    return None
