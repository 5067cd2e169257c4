"""Nothing is blocked while the key that will sign for the proof cannot be had."""

from __future__ import annotations

from typing import Any, cast

import pytest

from workers.entrypoints.wiring import keyed
from workers.errors import Stuck
from workers.world import Order, Report


async def test_the_proof_begins_only_when_its_key_is_there() -> None:
    told: list[str] = []

    async def last(*_: Any) -> Any:
        told.append("proven")

    async def absent() -> str:
        raise Stuck("ApiForbidden", "get secrets: 403")

    async def there() -> str:
        return "sha256:key"

    given = cast(Order, None), cast(Report, None)
    with pytest.raises(Stuck, match="ApiForbidden"):
        await keyed(last, absent)(*given)
    assert told == []
    await keyed(last, there)(*given)
    assert told == ["proven"]
