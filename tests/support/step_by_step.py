"""A Sovereign in a box whose steps a test runs one by one, in its own process, with what workers are given."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from events.jetstream import JetStreamLog
from sandbox.box import Box
from schemas.progress import Progress
from schemas.results import StepResult
from workers.adapters.cluster import Cluster
from workers.entrypoints import wiring
from workers.entrypoints.settings import Settings, load
from workers.inbox import Inbox
from workers.world import Order, World


@asynccontextmanager
async def world_of(
    settings: Settings, cluster: Callable[[], AbstractAsyncContextManager[Cluster]] | None = None
) -> AsyncIterator[World]:
    """Every adapter as a worker process has it, nodes' reports included. `cluster`: another way to the API."""
    async with JetStreamLog.open(settings.nats) as stream, (cluster or _plain(settings))() as api:
        await stream.ensure()
        inbox = Inbox(stream)
        following = asyncio.create_task(inbox.follow())
        try:
            async with wiring.world(settings, api, inbox) as world:
                yield world
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


def _plain(settings: Settings) -> Callable[[], AbstractAsyncContextManager[Cluster]]:
    return lambda: wiring.cluster(settings)


@dataclass
class Grounds:
    """A box, the workers' world in it, and whatever the steps said."""

    box: Box
    world: World
    token: int = 100
    said: list[Progress] = field(default_factory=list)

    async def report(self, progress: Progress) -> None:
        self.said.append(progress)

    def order(self, step: str, results: dict[str, StepResult] | None = None) -> Order:
        """A new attempt at one step."""
        self.token += 1
        return Order("run-1", step, self.token, self.token, datetime.now(UTC), dict(results or {}))

    async def through(self, slugs: Sequence[str]) -> dict[str, StepResult]:
        """These steps done, one after the other."""
        results: dict[str, Any] = {}
        for slug in slugs:
            results[slug] = await wiring.bound(slug, self.world)(self.order(slug, results), self.report)
        return results


@asynccontextmanager
async def grounds(directory: Path, **box: Any) -> AsyncIterator[tuple[Box, World]]:
    """A settled box, nothing cut over yet. `box`: what `Box.open` is told beside."""
    async with Box.open(directory, **box) as opened, world_of(load(opened.settings_file)) as world:
        yield opened, world
