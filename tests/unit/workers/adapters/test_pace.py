"""How hard a registry is asked, and how much is on its way at once."""

from __future__ import annotations

from time import monotonic

import anyio

from workers.adapters.oci.gather import Room
from workers.adapters.oci.pace import Pace


async def test_a_refusal_halves_the_turns_and_full_rounds_of_answers_bring_them_back() -> None:
    pace = Pace(8)
    pace.refused(0)
    pace.refused(0)
    assert pace.at_once == 2
    for _ in range(2 + 3):
        pace.answered()
    assert pace.at_once == 4
    for _ in range(1000):
        pace.answered()
    assert pace.at_once == 8


async def test_one_turn_is_always_left() -> None:
    pace = Pace(2)
    for _ in range(5):
        pace.refused(0)
    assert pace.at_once == 1


async def test_nobody_asks_before_the_registry_wants_to_be_asked() -> None:
    pace, started = Pace(2), monotonic()
    pace.refused(0.1)
    async with pace.turn(), pace.pause():
        assert monotonic() - started >= 0.1


async def test_what_is_on_its_way_stays_within_its_room_and_what_is_larger_goes_alone() -> None:
    room = Room(100)
    under_way: list[int] = []
    most: list[int] = []

    async def pass_through(size: int) -> None:
        async with room.of(size):
            under_way.append(size)
            most.append(sum(under_way))
            if size > 100:
                assert under_way == [size]
            await anyio.sleep(0.01)
            under_way.remove(size)

    async with anyio.create_task_group() as group:
        for size in (40, 40, 40, 300, 60, 10):
            group.start_soon(pass_through, size)
    assert len(most) == 6
    assert all(m <= 100 or m == 300 for m in most)
