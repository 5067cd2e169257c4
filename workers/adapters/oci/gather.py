"""Many at once, and one error out: a step's words must not come wrapped in a group."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio

Thing = TypeVar("Thing")
Result = TypeVar("Result")


async def each(things: Sequence[Thing], at_once: int, do: Callable[[Thing], Awaitable[Result]]) -> list[Result]:
    """The results in the order of the things. The first error ends the rest and is raised as it is."""
    results: dict[int, Result] = {}
    errors: list[Exception] = []
    limiter = anyio.CapacityLimiter(at_once)

    async def one(number: int, thing: Thing) -> None:
        async with limiter:
            try:
                results[number] = await do(thing)
            except Exception as error:
                errors.append(error)
                group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for number, thing in enumerate(things):
            group.start_soon(one, number, thing)
    if errors:
        raise errors[0]
    return [results[number] for number in range(len(things))]


class Room:
    """So many bytes may be on their way at once; what is larger than that goes alone."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._used = 0
        self._moved_out = anyio.Condition()

    @asynccontextmanager
    async def of(self, size: int) -> AsyncIterator[None]:
        """Room for so many bytes, until the block ends."""
        async with self._moved_out:
            while self._used and self._used + size > self._total:
                await self._moved_out.wait()
            self._used += size
        try:
            yield
        finally:
            self._used -= size
            with anyio.CancelScope(shield=True):
                async with self._moved_out:
                    self._moved_out.notify_all()
