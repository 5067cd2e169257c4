"""The command line against a real broker and no cluster: what scripts and tired people run into."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import nats
import pytest
import yaml
from acceptance_scene import ROOT, environment, line_with, typed
from nats.js.api import StreamConfig
from pool_bench import Bench, doing, opened

from events.subjects import ALL, STREAM
from sandbox.broker import Broker, free_port
from schemas.results import StepResult
from workers.world import Order, Report


def settings(directory: Path, url: str) -> str:
    """Settings of a Sovereign that has a broker and nothing else."""
    secret = directory / "secret"
    secret.write_text("s3cret-value\n")
    login = {"username": "u", "password_file": str(secret)}
    nowhere = "http://127.0.0.1:9"
    document = {
        "nats": {"url": url, "ack_wait": 3.0, "budget": 5.0},
        "sovereign": {
            "fqdn": "sovereign.test",
            "gitea": {"url": nowhere, "login": login},
            "harbor": {"url": nowhere, "host": "harbor.sovereign.test", "login": login},
        },
    }
    file = directory / "settings.yaml"
    file.write_text(yaml.safe_dump(document))
    return str(file)


@asynccontextmanager
async def running(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`cutover ...`, left running; its output comes line by line."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-u", "-m", "workers.entrypoints.cli", *arguments, cwd=ROOT, env=environment(),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def gated(bench: Bench, slug: str) -> anyio.Event:
    """A worker whose steps do nothing; the one named waits for the event."""
    gate, work = anyio.Event(), doing(bench.done)
    quick = work[slug]

    async def slow(order: Order, report: Report) -> StepResult:
        await gate.wait()
        return await quick(order, report)

    await bench.worker({**work, slug: slow})
    return gate


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with opened(tmp_path / "broker") as made:
        yield made


async def test_a_broker_that_is_not_there_is_said_and_has_its_own_exit_code(tmp_path: Path) -> None:
    url = f"nats://127.0.0.1:{free_port()}"
    for command in ("status", "request"):
        said = await typed("--config", settings(tmp_path, url), command)
        assert said.code == 3, (command, said.text)
        assert url in said.text


async def test_a_worker_waits_for_its_broker_and_stops_when_asked(tmp_path: Path) -> None:
    port = free_port()
    url = f"nats://127.0.0.1:{port}"
    async with running("--config", settings(tmp_path, url), "work") as worker:
        await line_with(worker, "does not answer")
        assert worker.returncode is None
        worker.send_signal(signal.SIGTERM)
        with anyio.fail_after(60):
            assert await worker.wait() == 0


async def test_a_watcher_waits_for_its_broker_and_outlives_a_restart(bench: Bench, tmp_path: Path) -> None:
    file = settings(tmp_path, bench.broker.url)
    await bench.broker.kill()
    async with running("--config", file, "watch") as watcher:
        await line_with(watcher, "does not answer")
        await bench.broker.restart()
        gate = await gated(bench, "harbor-prewarm")
        await anyio.sleep(3.0)  # it tries once a second; what happens before it listens is not news to it
        asked = await typed("--config", file, "request", "--operator", "ada")
        assert asked.code == 0, asked.text
        await line_with(watcher, "accepted, asked by ada")
        await line_with(watcher, "3/8 harbor-prewarm")
        await bench.broker.kill()
        await line_with(watcher, "lost the broker")
        await bench.broker.restart()
        gate.set()
        await line_with(watcher, "completed, evidence sha256:")
        with anyio.fail_after(60):
            assert await watcher.wait() == 0


async def test_a_stream_that_has_drifted_is_refused_with_the_difference(tmp_path: Path) -> None:
    async with Broker.start(tmp_path / "broker") as broker:
        client = await nats.connect(broker.url)
        await client.jetstream().add_stream(StreamConfig(name=STREAM, subjects=[ALL], max_age=3600.0))
        await client.close()
        said = await typed("--config", settings(tmp_path, broker.url), "work")
    assert said.code == 4, said.text
    assert "max_age is 3600, must be 0" in said.text
    assert "deny_delete" in said.text


async def test_request_status_log_export_verify_and_cancel_tell_one_story(bench: Bench, tmp_path: Path) -> None:
    file = settings(tmp_path, bench.broker.url)
    gate = await gated(bench, "harbor-prewarm")
    asked = await typed("--config", file, "request", "--operator", "ada", "--output", "json")
    assert asked.code == 0, asked.text
    run = json.loads(asked.text)["run"]
    await bench.until(lambda state: state.run is not None and state.run.current == "harbor-prewarm")

    second = await typed("--config", file, "request")
    assert second.code == 1
    assert "RunActive" in second.text
    stopped = await typed("--config", file, "cancel", "--operator", "bob", "--reason", "enough")
    assert stopped.code == 0, stopped.text
    gate.set()
    shown = json.loads((await typed("--config", file, "status", "--output", "json")).text)
    assert (shown["runId"], shown["runPhase"], shown["operator"]) == (run, "cancelled", "ada")
    assert (await typed("--config", file, "cancel")).code == 1

    log = (await typed("--config", file, "log")).text
    assert "accepted, asked by ada" in log
    assert "cancelled by bob: enough" in log
    assert "rejected catalyst.cutover.requested" in log
    only = (await typed("--config", file, "log", "--step", "2", "--kind", "step.succeeded")).text
    assert len(only.splitlines()) == 1
    assert "2/8 harbor-projects" in only

    export = tmp_path / "log.jsonl"
    assert (await typed("--config", file, "log", "--export", str(export))).code == 0
    whole = await typed("verify", str(export), "--output", "json")
    live = await typed("--config", file, "verify", "--output", "json")
    assert (whole.code, live.code) == (0, 0), whole.text + live.text
    assert json.loads(whole.text)["head"] == json.loads(live.text)["head"]


async def test_an_empty_log_is_no_error(bench: Bench, tmp_path: Path) -> None:
    file = settings(tmp_path, bench.broker.url)
    for command in ("status", "log", "verify"):
        said = await typed("--config", file, command)
        assert said.code == 0, (command, said.text)
