"""Many at once, and one error out: a step's words must not come wrapped in a group."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
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
