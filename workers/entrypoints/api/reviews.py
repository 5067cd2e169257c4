"""What the API server says of ServiceAccounts' tokens: asked once for each, of few at a time, believed a moment."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from workers.entrypoints.api.problems import Problem

BELIEVED: Final = 10.0
"""Seconds for which the API server's word is kept, be it yes or no."""
KEPT: Final = 1000
AT_ONCE: Final = 16
"""Tokens that are asked about at a time: whoever invents them shall not ask the API server as fast as he likes."""

Ask = Callable[[str], Awaitable[str | None]]


class Reviews:
    """Names by token. Kept are hashes of tokens; those that were refused apart, so that they push out no good one."""

    def __init__(self, ask: Ask, clock: Callable[[], float]) -> None:
        self._ask, self._clock = ask, clock
        self._good: OrderedDict[bytes, tuple[float, str | None]] = OrderedDict()
        self._bad: OrderedDict[bytes, tuple[float, str | None]] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[str | None]] = {}

    async def name(self, token: str) -> str | None:
        """Whose it is; None when the API server does not know it. Raises Problem 503, and what `ask` raises."""
        mark, now = hashlib.sha256(token.encode()).digest(), self._clock()
        for kept in (self._good, self._bad):
            if (found := kept.get(mark)) is not None and now - found[0] < BELIEVED:
                return found[1]
        asking = self._asking.get(mark)
        if asking is None:
            if len(self._asking) >= AT_ONCE and mark not in self._good:  # who was known is not kept out by a flood
                raise Problem(
                    503, "token-review-busy", "too many unknown tokens at once; ask again", {"Retry-After": "2"}
                )
            asking = self._asking[mark] = asyncio.ensure_future(self._take(token, mark))
            asking.add_done_callback(_heard)
        # Shielded: that one of many who wait goes away must not end it for the others.
        return await asyncio.shield(asking)

    async def _take(self, token: str, mark: bytes) -> str | None:
        try:
            name = await self._ask(token)
        finally:
            del self._asking[mark]
        self._good.pop(mark, None)
        kept = self._bad if name is None else self._good
        kept[mark] = (self._clock(), name)
        kept.move_to_end(mark)
        if len(kept) > KEPT:
            kept.popitem(last=False)
        return name


def _heard(task: asyncio.Task[str | None]) -> None:
    """Told to whoever waits; nobody may."""
    if not task.cancelled():
        task.exception()
