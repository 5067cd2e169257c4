"""How hard one registry is asked: less when it says that it is too much, more again as it answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

import anyio

AT_ONCE = 16  # requests to one registry, until it says that these are too many


class Pace:
    """Turns for requests to one registry. Halved by a refusal, and one more for each full round of answers."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._most = at_once
        self._turns = anyio.CapacityLimiter(at_once)
        self._answers = 0
        self._not_before = 0.0

    @property
    def at_once(self) -> int:
        """How many requests there may be now."""
        return int(self._turns.total_tokens)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """For one request and its answer's body."""
        borrower = object()  # one task may copy from a registry to the same one
        await self._turns.acquire_on_behalf_of(borrower)
        try:
            async with self.pause():
                yield
        finally:
            self._turns.release_on_behalf_of(borrower)

    @asynccontextmanager
    async def pause(self) -> AsyncIterator[None]:
        """For a request that takes no turn: not before the registry wants to be asked again."""
        while (wait := self._not_before - monotonic()) > 0:  # noqa: ASYNC110  it may move while we sleep
            await anyio.sleep(wait)
        yield

    def refused(self, seconds: float) -> None:
        """Too many, or overloaded: fewer at once, and none for so many seconds."""
        self._turns.total_tokens = max(1, self.at_once // 2)
        self._answers = 0
        self._not_before = max(self._not_before, monotonic() + seconds)

    def answered(self) -> None:
        """It went well."""
        self._answers += 1
        if self._answers >= self.at_once < self._most:
            self._turns.total_tokens = self.at_once + 1
            self._answers = 0
