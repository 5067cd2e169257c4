"""A collector on loopback hears the run as OTLP; one that is away costs nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from histories import accepted, draft, started, succeeded
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from pool_bench import Bench, opened

from events.flow import SLUGS
from events.journal import Journal
from sandbox.broker import free_port
from sandbox.serving import serving
from schemas import events as facts
from workers.entrypoints import telemetry


class Collector:
    """What a collector receives."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    async def take(self, request: web.Request) -> web.Response:
        said = ExportTraceServiceRequest.FromString(await request.read())
        for resource in said.resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return web.Response()

    async def heard(self, count: int) -> list[Span]:
        async with asyncio.timeout(60):
            while len(self.spans) < count:
                await asyncio.sleep(0.02)
        return self.spans


@asynccontextmanager
async def collecting() -> AsyncIterator[tuple[Collector, str]]:
    collector, app = Collector(), web.Application()
    app.router.add_post("/v1/traces", collector.take)
    async with serving(app) as port:
        yield collector, f"http://127.0.0.1:{port}/v1/traces"


@asynccontextmanager
async def sending(bench: Bench, endpoint: str) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(telemetry.serve(bench.stream, endpoint, "sovereign.test"))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with opened(tmp_path) as made:
        yield made


async def test_spans_of_a_run_arrive_as_they_end_and_after_a_restart_under_the_same_ids(bench: Bench) -> None:
    journal, slug = Journal(bench.stream), SLUGS[0]
    async with collecting() as (collector, endpoint):
        async with sending(bench, endpoint):
            await journal.append(draft(accepted(), 1))
            await journal.append(draft(started(slug), 2))
            await journal.append(draft(succeeded(slug, 2), 3))
            (first,) = await collector.heard(1)
        async with sending(bench, endpoint):
            await journal.append(draft(facts.Failed(step=slug, reason="Why", message="so"), 4))
            again, run = (await collector.heard(3))[1:]
    assert (first.name, again.name, run.name) == (slug, slug, "cutover")
    assert first.span_id == again.span_id
    assert first.trace_id == run.trace_id
    assert first.parent_span_id == run.span_id
    assert run.status.message == "Why: so"


async def test_a_collector_that_is_away_is_told_in_the_log_and_stops_nothing(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry, "PATIENCE", 0.2)
    journal, slug = Journal(bench.stream), SLUGS[0]
    async with sending(bench, f"http://127.0.0.1:{free_port()}/v1/traces") as task:
        await journal.append(draft(accepted(), 1))
        await journal.append(draft(started(slug), 2))
        await journal.append(draft(succeeded(slug, 2), 3))
        async with asyncio.timeout(60):
            while "could not be sent" not in caplog.text:
                await asyncio.sleep(0.02)
        assert not task.done()
