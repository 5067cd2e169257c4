"""One message in our hands."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import anyio
from nats.aio.msg import Msg

from events.jetstream.wire import RETRY
from events.log import NotPermitted


@dataclass
class Delivery:
    """One message in our hands: settle it, put it off, or say that we still work on it."""

    subject: str
    raw: bytes
    seq: int
    tries: int
    stored_at: datetime
    """When the broker stored it, by the broker's clock."""
    _msg: Msg
    _budget: float
    _forbidden: Callable[[], str | None] = lambda: None
    """What the broker said when it did not let us acknowledge."""

    async def settle(self) -> bool:
        """Acknowledge and have it confirmed; False when the broker did not confirm in time (it will come again).

        Raises NotPermitted: it would come again for ever."""
        deadline = time.monotonic() + self._budget
        while time.monotonic() < deadline:
            try:
                await self._msg.ack_sync(timeout=2)
                return True
            except RETRY:
                if why := self._forbidden():
                    raise NotPermitted(why) from None
                await anyio.sleep(0.2)
        return False

    async def later(self, seconds: float) -> None:
        """Deliver it again in `seconds`. Lost requests do no harm: then it comes after `ack_wait`."""
        try:
            await self._msg.nak(delay=max(seconds, 0.001))
        except RETRY:
            return

    async def working(self) -> None:
        """Start `ack_wait` anew. Best effort: the lease in the journal is what excludes others."""
        try:
            await self._msg.in_progress()
        except RETRY:
            return
