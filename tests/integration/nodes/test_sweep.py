"""Step 4 ended after each of its calls to the outside in turn, and begun again where that left things."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, cast

from pivot_scene import Fuse, Fused, Outside

from workers.adapters.cluster_kinds import POD
from workers.errors import Trouble
from workers.steps import registry_pivot
from workers.world import World

from .conftest import NAMESPACE, NODES, Cast, order


def files(cast_of: Cast) -> dict[str, str]:
    """What the nodes' container runtimes read."""
    found = {}
    for node in cast_of.place.nodes:
        certs = node.containerd.certs
        found |= {f"{node.name}/{p.relative_to(certs)}": p.read_text() for p in certs.rglob("*") if p.is_file()}
    return found


async def attempt(cast_of: Cast, world: World, fuse: Fuse, token: int, point: int | None) -> Any:
    """One attempt; None when it was ended."""

    async def report(_progress: Any) -> None:
        fuse.before()

    fuse.arm(point)
    try:
        return await registry_pivot.run(order(token), world, report)
    except BaseException as error:
        if fuse.blown:
            return None
        if isinstance(error, Trouble):
            return error
        raise


async def test_ended_after_each_call_in_turn_the_step_still_arrives(cast_of: Cast) -> None:
    await cast_of.agents(NODES)
    fuse = Fuse()
    inner = cast_of.world
    cluster = Fused(cast(Any, inner.cluster)._api, "test")
    cluster.fuse = fuse
    world = replace(
        inner,
        cluster=cluster,
        registries=cast(Any, Outside(inner.registries, fuse, "registries")),
        nodes=cast(Any, Outside(inner.nodes, fuse, "nodes")),
    )
    ended, token = 0, 10
    for point in range(400):
        token += 1
        result = await attempt(cast_of, world, fuse, token, point)
        if result is not None:
            break
        ended += 1
    assert ended > 15
    for _ in range(20):
        token += 1
        done = await attempt(cast_of, world, fuse, token, None)
        if not isinstance(done, Trouble):
            break
        await asyncio.sleep(0.5)
    assert tuple(done.nodes) == NODES
    settled = files(cast_of)
    again = await attempt(cast_of, world, fuse, token + 1, None)
    assert (again.changes, again.nodes) == (0, done.nodes)
    assert files(cast_of) == settled
    assert {name.partition("/")[0] for name in settled} >= set(NODES)
    assert await inner.cluster.list(POD, NAMESPACE, "cutover.catalyst/tries") == []
