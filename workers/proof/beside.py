"""Works that run beside the block, and which of their troubles ends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from workers.errors import Stuck, Trouble


@asynccontextmanager
async def beside(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run these beside the block; the first trouble of any ends it, and its end ends them."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(w) for w in works]
            yield
            for task in tasks:
                task.cancel()
    except BaseExceptionGroup as several:
        raise _worst(several) from several


def _worst(several: BaseExceptionGroup[BaseException]) -> BaseException:
    """One of many: what a person must act on before what may pass, and that before a defect."""
    flat: list[BaseException] = []
    for error in several.exceptions:
        flat.append(_worst(error) if isinstance(error, BaseExceptionGroup) else error)
    ranked = sorted(flat, key=lambda e: (not isinstance(e, Stuck), not isinstance(e, Trouble)))
    return ranked[0]
