"""Step 4 killed before each of its calls in turn: the next attempt ends as an undisturbed one does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest

from sandbox.nodes import first_boot
from workers.adapters.cluster_kinds import CONFIG_MAP, POD
from workers.steps import registry_pivot

from .conftest import NAMESPACE, NODES, Cast, described, order


class Killed(BaseException):
    """The worker is gone; whatever it wants to clean up stays as it is."""


@dataclass
class Life:
    """How many calls are left to a worker."""

    left: int
    calls: int = 0

    def strike(self) -> None:
        if self.calls >= self.left:
            raise Killed
        self.calls += 1


class Mortal:
    """An adapter in the hands of one who may die before any call."""

    def __init__(self, adapter: Any, life: Life) -> None:
        self._adapter, self._life = adapter, life

    def __getattr__(self, name: str) -> Callable[..., Any]:
        whole = getattr(self._adapter, name)

        async def call(*args: Any, **more: Any) -> Any:
            self._life.strike()
            return await whole(*args, **more)

        return call


async def attempt(cast_of: Cast, token: int, calls: int) -> int:
    """One attempt that dies at its n-th call; how many it made. Raises Killed."""
    life = Life(calls)
    world = cast_of.world
    mortal = {name: Mortal(getattr(world, name), life) for name in ("cluster", "nodes", "registries")}
    mine = replace(world, sovereign=described(wave=1), **cast("dict[str, Any]", mortal))
    await registry_pivot.run(order(token), mine, cast_of.report)
    return life.calls


async def state(cast_of: Cast) -> dict[str, Any]:
    """Everything that step 4 is about."""
    cluster = cast_of.world.cluster
    plan = await cluster.get(CONFIG_MAP, cast_of.world.sovereign.nodes.plan_config_map, NAMESPACE)
    tries = await cluster.list(POD, NAMESPACE, "cutover.catalyst/tries")
    files = {
        f: f.read_bytes() for n in cast_of.place.nodes for f in n.root.rglob("*") if f.suffix in (".toml", ".yaml")
    }
    return {"plan": (plan or {}).get("data"), "pods": [p["metadata"]["name"] for p in tries], "files": files}


async def first_day(cast_of: Cast) -> None:
    await cast_of.world.cluster.delete(CONFIG_MAP, cast_of.world.sovereign.nodes.plan_config_map, NAMESPACE)
    for node in cast_of.place.nodes:
        first_boot(node)
    cast_of.reports.seen.clear()


@pytest.mark.parametrize("stride", [9, pytest.param(1, marks=pytest.mark.slow)])
async def test_killed_before_any_call_the_next_attempt_ends_as_an_undisturbed_one(cast_of: Cast, stride: int) -> None:
    await cast_of.agents(NODES)
    whole = await attempt(cast_of, 1, 10_000)
    undisturbed = await state(cast_of)
    assert undisturbed["pods"] == []
    assert whole > 30
    token = 1
    for calls in range(0, whole - 2, stride):
        await first_day(cast_of)
        token += 2
        with pytest.raises(Killed):
            await attempt(cast_of, token, calls)
        await attempt(cast_of, token + 1, 10_000)
        assert await state(cast_of) == undisturbed, f"killed before call {calls}"
