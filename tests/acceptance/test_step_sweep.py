"""Steps 1 to 3 and 5 to 7 ended after each of their calls to the outside: the next attempt ends as an undisturbed one.

The whole sweep takes a quarter of an hour (`make sweep`); every day a few points of each step are tried.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pivot_scene import BEFORE, Scene, differences, scene
from supply_scene import SUPPLY, TAKE_BACK, supplied

PIVOTS = ("flux-gitrepository-patch", "helmrepo-patches", "catalyst-api-env-patch")
EVERY_DAY = {"flux-gitrepository-patch": 3, "helmrepo-patches": 4, "catalyst-api-env-patch": 2}
"""How many points of each step; spread evenly."""

pytestmark = [pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def it(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    """Steps 1 to 3 are done."""
    async with scene(tmp_path_factory.mktemp("sweep")) as opened:
        for step in BEFORE:
            await opened.done(step)
        await opened.customer()
        yield opened


async def swept_supply(it: Scene, most: int | None) -> list[int]:
    """Steps 1 to 3 from nothing, each undisturbed and then ended after its calls in turn; how many points of each."""
    points = []
    for step in reversed(SUPPLY):
        TAKE_BACK[step](it)
    for step in SUPPLY:
        before = await supplied(it)
        await it.done(step)
        wanted = await supplied(it)
        assert differences(before, wanted) != []
        points.append(await _swept(it, step, wanted, most))
    return points


async def _swept(it: Scene, step: str, wanted: dict[str, Any], most: int | None) -> int:
    calls, points, wrong = it.calls, 0, []
    stride = 1 if most is None else max(1, calls // most)
    for point in range(0 if most is None else stride // 2, 3 * calls, stride):
        if points == most:
            break
        TAKE_BACK[step](it)
        if await it.attempt(step, point) is not None:
            break
        points += 1
        where = it.fuse.last
        await it.done(step)
        wrong += [f"{step} {point} ({where}): {said}" for said in differences(wanted, await supplied(it))]
    assert wrong == []
    assert points >= (calls if most is None else most)
    return points


async def swept(it: Scene, step: str, most: int | None) -> int:
    """The step, undisturbed and then ended after its calls in turn; how many points. The step is done in the end."""
    objects, head = it.objects(), it.git("rev-parse", "main").strip()
    await it.done(step)
    calls, wanted = it.calls, it.state()
    again = await it.done(step)
    assert again.changes == 0
    assert differences(wanted, it.state()) == [], f"{step} repeated changes something"
    await it.take_back(objects, head)
    before = it.state()
    stride = 1 if most is None else max(1, calls // most)
    points, wrong = 0, []
    # Attempts differ in how often they look; beyond the last call of all an attempt succeeds.
    for point in range(0 if most is None else stride // 2, 3 * calls, stride):
        if await it.attempt(step, point) is not None or (most is not None and points == most):
            break
        points += 1
        where = it.fuse.last
        await it.done(step)
        wrong += [f"{point} ({where}): {said}" for said in differences(wanted, it.state())]
        await it.take_back(objects, head)
        assert differences(before, it.state()) == [], "the sweep itself did not take everything back"
    assert wrong == []
    assert points >= (calls * 3 // 4 if most is None else most)
    await it.done(step)
    return points


async def test_each_step_of_supply_ended_in_its_middle_ends_next_as_an_undisturbed_one(it: Scene) -> None:
    assert await swept_supply(it, 1) == [1, 1, 1]


@pytest.mark.parametrize("step", PIVOTS)
async def test_ended_at_some_points_the_next_attempt_ends_as_an_undisturbed_one(it: Scene, step: str) -> None:
    assert await swept(it, step, EVERY_DAY[step]) == EVERY_DAY[step]


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_ended_at_every_point_the_next_attempt_ends_as_an_undisturbed_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with scene(tmp_path) as it:
        for step in BEFORE:
            await it.done(step)
        await it.customer()
        said = ", ".join(f"{step}: {n} points" for step, n in zip(SUPPLY, await swept_supply(it, None), strict=True))
        with capsys.disabled():
            print(f"\n{said}")
        for step in PIVOTS:
            points = await swept(it, step, None)
            with capsys.disabled():
                print(f"\n{step}: {points} points")
