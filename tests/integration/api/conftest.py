"""One front door for all tests of a file that leave it as it was; others open one of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from acceptance_scene import in_one_task
from api_bench import Door, door


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def opened(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    made, close = await in_one_task(lambda: door(tmp_path_factory.mktemp("api")))
    yield made
    await close()
