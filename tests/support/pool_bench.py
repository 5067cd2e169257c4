"""A real broker for each test, and a worker pool whose steps the test supplies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from events.flow import SLUGS
from events.fold import State
from events.jetstream import Broker as BrokerSettings
from events.jetstream import JetStreamLog
from events.journal import Journal
from events.log import Entry
from events.subjects import ALL, REJECTED
from sandbox.broker import Broker
from schemas.events import Audited
from schemas.results import (
    CatalystApiPivoted,
    EgressProven,
    GitMirrored,
    GitRepositoryPivoted,
    NodesPivoted,
    Prewarmed,
    ProjectsReady,
    SourcesPivoted,
    StepResult,
)
from workers import admission
from workers.lease import now
from workers.pool import Pool
from workers.scribe import Scribe
from workers.verdict import Limits
from workers.world import Order, Report

Step = Callable[[Order, Report], Awaitable[StepResult]]
Audit = Callable[[], Awaitable[Audited]]


def result(slug: str, changes: int = 1) -> StepResult:
    """A result of the right kind for a step that did nothing real."""
    plain: dict[str, Any] = {"changes": changes, "summary": f"{slug} done"}
    match slug:
        case "gitea-mirror":
            return GitMirrored(
                **plain, branch="main", upstream_sha="a", local_sha="a", mirrored_at=now(), refs=1, refs_changed=1
            )
        case "harbor-projects":
            return ProjectsReady(**plain, projects=("p",), created=())
        case "harbor-prewarm":
            return Prewarmed(**plain, artifacts=1, digests=1, bytes_total=1, bytes_moved=1, references={}, reasons={})
        case "registry-pivot":
            return NodesPivoted(**plain, nodes={"n1": "d"}, local_only_reference="l", upstream_only_reference="u")
        case "flux-gitrepository-patch":
            return GitRepositoryPivoted(**plain, url="u", revision="r", previous_url="p")
        case "helmrepo-patches":
            return SourcesPivoted(
                **plain, helm_repositories=1, oci_repositories=0, packages=0, charts_fetched=1, pull_secrets=1,
                commit="c",
            )  # fmt: skip
        case "catalyst-api-env-patch":
            return CatalystApiPivoted(**plain, values={}, pod="p", commit="c")
        case _:
            return EgressProven(
                **plain, held_seconds=1, required_seconds=600, rehearsal=True, means=("m",), blocked_hosts=("h",),
                before=(), during=(), after=(), forced=(), restarts=0, blocked_at=now(), lifted_at=now(),
            )  # fmt: skip


def doing(done: list[tuple[str, int]]) -> dict[str, Step]:
    """Eight steps that note (slug, attempt) and succeed."""

    def step(slug: str) -> Step:
        async def run(order: Order, report: Report) -> StepResult:
            done.append((slug, order.attempt))
            return result(slug)

        return run

    return {slug: step(slug) for slug in SLUGS}


@dataclass
class Bench:
    """One broker, and workers on it."""

    broker: Broker
    settings: BrokerSettings
    stream: JetStreamLog
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    done: list[tuple[str, int]] = field(default_factory=list)
    limits: Limits = field(default_factory=lambda: Limits(blips=2))

    async def worker(
        self, work: dict[str, Step] | None = None, name: str = "w1", lease: float = 30.0, audit: Audit | None = None
    ) -> asyncio.Task[None]:
        """Start a worker of all steps with admission; cancel the task to end it without farewell.

        `lease`: seconds; short only where another worker takes over, since a busy machine lets one run out.
        """
        task = asyncio.create_task(self._live(work or doing(self.done), name, lease, audit))
        self.tasks.append(task)
        return task

    async def _live(self, work: dict[str, Step], name: str, lease: float, audit: Audit | None) -> None:
        async with JetStreamLog.open(self.settings) as stream, anyio.create_task_group() as tasks:
            await stream.ensure()
            journal, scribe = Journal(stream), Scribe("sovereign.test", name, lambda text: text)
            pool = Pool(stream, journal, scribe, work, lease_seconds=lease, limits=self.limits, audit=audit)
            tasks.start_soon(journal.tail)
            tasks.start_soon(pool.serve)
            tasks.start_soon(admission.serve, stream, journal, scribe)
            tasks.start_soon(admission.Registrar(stream, scribe).serve)

    async def send(self, subject: str, raw: bytes) -> int:
        """As anyone with a NATS client would."""
        return await self.stream.publish_raw(subject, raw)

    async def state(self) -> State:
        """The fold of the journal as it stands on the broker."""
        return await Journal(self.stream).refresh()

    async def until(self, wanted: Callable[[State], bool], seconds: float = 60.0) -> State:
        """The first state for which `wanted` is true."""
        journal = Journal(self.stream)
        with anyio.fail_after(seconds):
            state = await journal.refresh()
            while not wanted(state):
                await anyio.sleep(0.05)
                state = await journal.refresh()
            return state

    async def entries(self, subject: str = ALL) -> list[Entry]:
        """Everything on a subject so far."""
        return [entry async for entry in self.stream.read(subject)]

    async def rejected(self, count: int) -> list[dict[str, Any]]:
        """The first `count` rejections' data."""
        import json

        with anyio.fail_after(60):
            while len(found := await self.entries(REJECTED)) < count:
                await anyio.sleep(0.05)
        return [json.loads(entry.raw)["data"] for entry in found]


@asynccontextmanager
async def opened(path: Path, ack_wait: float = 3.0) -> AsyncIterator[Bench]:
    async with Broker.start(path) as broker:
        settings = BrokerSettings(url=broker.url, ack_wait=ack_wait, budget=5.0)
        async with JetStreamLog.open(settings) as stream:
            await stream.ensure()
            bench = Bench(broker, settings, stream)
            try:
                yield bench
            finally:
                for task in bench.tasks:
                    task.cancel()
                ends = await asyncio.gather(*bench.tasks, return_exceptions=True)
                for end in ends:
                    assert end is None or isinstance(end, asyncio.CancelledError), end
