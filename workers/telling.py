"""Work, and a word now and then on how far it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

Result = TypeVar("Result")
LOOK = 1.0  # seconds between two words while something moves


async def telling(work: Awaitable[Result], tell: Callable[[], Awaitable[None]]) -> Result:
    """The result of the work; `tell` is called while it goes on, and once when it is done. Its error comes alone."""
    done: list[Result] = []
    errors: list[Exception] = []

    async def often() -> None:
        while True:
            await tell()
            await anyio.sleep(LOOK)

    async with anyio.create_task_group() as group:
        group.start_soon(often)
        try:
            done.append(await work)
        except Exception as error:
            errors.append(error)
        group.cancel_scope.cancel()
    if errors:
        raise errors[0]
    await tell()
    return done[0]
