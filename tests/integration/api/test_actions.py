"""What the API publishes and answers, with real workers on a real broker; the steps do nothing real."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from api_bench import BASE, Door, door, frames
from pool_bench import doing, result

from events.envelope import read
from events.flow import SLUGS
from events.subjects import CANCEL, REQUESTED, trigger
from schemas.results import StepResult
from workers.errors import Stuck
from workers.world import Order, Report


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Door]:
    async with door(tmp_path) as made:
        yield made


def stopped_at(
    slug: str, opened: Door, reason: str = "BadLogin", gate: anyio.Event | None = None
) -> tuple[dict[str, object], anyio.Event]:
    """Steps that do nothing, one of which fails until the event is set, and then takes until the gate opens."""
    healed = anyio.Event()

    async def step(order: Order, report: Report) -> StepResult:
        if not healed.is_set():
            raise Stuck(reason, "put a good password into the Secret")
        if gate is not None:
            await gate.wait()
        return result(slug)

    return {**doing(opened.bench.done), slug: step}, healed


async def test_start_answers_with_the_run_and_again_with_200_once_it_is_complete(opened: Door) -> None:
    await opened.bench.worker()
    answer = await opened.post("/start", {"reason": "handover"})
    assert answer.status_code == 202
    body = answer.json()
    assert body["run"].startswith("run-")
    assert [step["name"] for step in body["steps"]] == list(SLUGS)
    await opened.bench.until(lambda state: state.complete)
    again = await opened.post("/start")
    assert (again.status_code, again.json()["state"], again.json()["cutoverComplete"]) == (200, "sovereign", True)
    assert again.json()["progressPercent"] == 100
    anew = await opened.post("/start", {"again": True})
    assert anew.status_code == 202
    assert anew.json()["run"] != body["run"]


async def test_who_asked_is_in_the_event_and_the_token_is_nowhere(
    opened: Door, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    access = logging.getLogger("uvicorn.access")
    monkeypatch.setattr(access, "propagate", True)  # whatever somebody configures, it must not print a query
    await opened.bench.worker()
    token = opened.issuer.token()
    claims = opened.issuer.claims()
    assert (await opened.post("/start", {"reason": "it is time"}, token)).status_code == 202
    await opened.get("/status", token)
    await opened.get("/status", token[:-4] + "AAAA")
    ticket = (await opened.post("/ticket", token=token)).json()["ticket"]
    await opened.client.get(f"{BASE}/events?ticket={ticket}x")
    await opened.bench.until(lambda state: state.complete)
    asked = read((await opened.bench.entries(REQUESTED))[0].raw)
    assert (asked.authtype, asked.authid) == ("user", f"operator ({claims['sub']})")
    said = capfd.readouterr()
    log = b"".join(entry.raw for entry in await opened.bench.entries()).decode()
    ours = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]  # the test's own
    assert any(record.levelno == logging.INFO for record in ours)
    everything = "\n".join([log, said.out, said.err, *(record.getMessage() for record in ours)])
    accepted = [line for line in log.split('"specversion"') if ".accepted.v1" in line]
    assert str(claims["sub"]) in accepted[0]
    for part in (token, token.split(".")[1][:40], token.split(".")[2][:40], ticket.split(".")[2][:30]):
        assert part not in everything


async def test_a_second_start_while_one_runs_is_409_and_names_the_run(opened: Door) -> None:
    work, _ = stopped_at("harbor-projects", opened)
    gate = anyio.Event()

    async def held(order: Order, report: Report) -> StepResult:
        await gate.wait()
        return result("gitea-mirror")

    await opened.bench.worker({**work, "gitea-mirror": held})  # type: ignore[arg-type]
    run = (await opened.post("/start")).json()["run"]
    second = await opened.post("/start")
    assert (second.status_code, second.json()["error"]) == (409, "cutover-in-progress")
    assert run in second.json()["detail"]
    retried = await opened.post("/steps/gitea-mirror/retry")
    assert (retried.status_code, retried.json()["error"]) == (409, "step-running")
    other = await opened.post("/cancel", {"run": "run-9"})
    assert (other.status_code, other.json()["error"]) == (409, "not-the-active-run")
    running = await opened.post("/steps/gitea-mirror/retry", **{"Idempotency-Key": "another"})
    assert (running.status_code, running.json()["error"]) == (409, "step-running")
    key = {"Idempotency-Key": "k1"}
    cancelled = await opened.post("/cancel", {"run": run, "reason": "not today"}, **key)
    assert (cancelled.status_code, cancelled.json()["runPhase"]) == (202, "cancelled")
    repeat = await opened.post("/cancel", {"run": run, "reason": "not today"}, **key)
    assert (repeat.status_code, repeat.json()["request"]) == (202, cancelled.json()["request"]), repeat.text
    (asked,) = await opened.bench.entries(CANCEL)
    assert read(asked.raw).authtype == "user"
    again = await opened.post("/cancel")
    assert (again.status_code, again.json()["error"]) == (409, "no-active-run")
    gate.set()


async def test_a_failed_step_is_told_with_what_to_do_and_retried(opened: Door) -> None:
    gate = anyio.Event()
    work, healed = stopped_at("harbor-prewarm", opened, gate=gate)
    await opened.bench.worker(work)  # type: ignore[arg-type]
    await opened.post("/start")
    await opened.bench.until(lambda state: state.run is not None and state.run.closed)
    status = (await opened.get("/status")).json()
    assert (status["failedStep"], status["lastError"]) == (
        "harbor-prewarm", "BadLogin: put a good password into the Secret",
    )  # fmt: skip
    assert [s["status"] for s in status["steps"]] == ["done", "done", "failed", *["pending"] * 5]
    early = await opened.post("/steps/egress-block-test/retry")
    assert (early.status_code, early.json()["error"]) == (409, "out-of-order")
    assert (await opened.post("/steps/no-such/retry")).status_code == 404
    healed.set()
    key = {"Idempotency-Key": "k1"}
    retried = await opened.post("/steps/harbor-prewarm/retry", {"reason": "healed"}, **key)
    assert (retried.status_code, retried.json()["run"]) == (202, status["runId"])
    from events.flow import BY_SLUG

    orders = await opened.bench.entries(trigger(BY_SLUG["harbor-prewarm"]))
    assert read(orders[-1].raw).authtype == "user"
    repeat = await opened.post("/steps/harbor-prewarm/retry", {"reason": "healed"}, **key)
    assert (repeat.status_code, repeat.json()["request"]) == (202, orders[-1].seq), repeat.text
    another = await opened.post("/steps/harbor-prewarm/retry", **{"Idempotency-Key": "k2"})
    assert (another.status_code, another.json()["error"]) == (409, "step-running")
    assert await opened.bench.entries(trigger(BY_SLUG["harbor-prewarm"])) == orders
    gate.set()
    assert (await opened.bench.until(lambda state: state.complete)).complete


async def test_a_request_that_nobody_answers_is_504_and_its_repeat_is_the_same_message(tmp_path: Path) -> None:
    async with door(tmp_path, answer=1.0) as opened:
        first = await opened.post("/start", **{"Idempotency-Key": "k1"})
        assert (first.status_code, first.json()["error"]) == (504, "not-answered")
        await opened.bench.worker()
        await opened.bench.until(lambda state: state.complete)
        repeat = await opened.post("/start", **{"Idempotency-Key": "k1"})
        assert repeat.status_code == 202
        assert len(await opened.bench.entries(REQUESTED)) == 1


async def test_a_broker_that_is_away_is_503_and_what_was_known_is_shown_as_not_live(tmp_path: Path) -> None:
    async with door(tmp_path, answer=1.5) as opened:
        worker = await opened.bench.worker()
        await opened.post("/start")
        await opened.bench.until(lambda state: state.complete)
        worker.cancel()
        await opened.bench.broker.stop()
        asked = await opened.post("/start", {"again": True})
        assert (asked.status_code, asked.json()["error"]) == (503, "broker-unavailable")
        known = (await opened.get("/status")).json()
        assert (known["live"], known["cutoverComplete"]) == (False, True)
        assert (await opened.client.get("/readyz")).status_code == 503
        assert (await opened.client.get("/healthz")).status_code == 200
        await opened.bench.broker.restart()
        async with asyncio.timeout(60):
            while not (await opened.get("/status")).json()["live"]:
                await asyncio.sleep(0.1)


async def test_errors_come_as_problem_json_to_those_who_accept_it(opened: Door) -> None:
    answer = await opened.post("/steps/gitea-mirror/retry", Accept="application/problem+json")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "about:blank", "title": "no run", "status": 409, "error": "no-run",
        "detail": "there is no run to act on: start one",
    }  # fmt: skip
    plain = await opened.post("/steps/gitea-mirror/retry")
    assert plain.json() == {"error": "no-run", "detail": "there is no run to act on: start one"}


async def test_handover_and_preflight_are_asked_by_admission_and_answered_as_425_and_424(opened: Door) -> None:
    """The gate is `workers.preflight`'s; here a stand-in says what it would say."""
    from events.jetstream import JetStreamLog
    from events.journal import Journal
    from schemas import events as facts
    from workers import admission
    from workers.scribe import Scribe

    async def gate(data: facts.Requested) -> tuple[str, str] | None:
        if data.preflight:
            return "PreflightFailed", "gitea-mirror: Gitea refuses our login"
        return "HandoverIncomplete", "the handover is not finished"

    async with JetStreamLog.open(opened.bench.settings) as stream, anyio.create_task_group() as tasks:
        scribe = Scribe("sovereign.test", "w", str)
        tasks.start_soon(lambda: admission.serve(stream, Journal(stream), scribe, gate=gate))
        early = await opened.post("/start")
        assert (early.status_code, early.json()["error"]) == (425, "handover-incomplete")
        unfit = await opened.post("/start", {"preflight": True})
        assert (unfit.status_code, unfit.json()["error"]) == (424, "preflight-failed")
        assert "Gitea refuses our login" in unfit.json()["detail"]
        tasks.cancel_scope.cancel()
    assert not (await opened.get("/status")).json()["runId"]


async def test_events_are_replayed_then_live_and_end_with_the_state(opened: Door) -> None:
    await opened.bench.worker()
    seen = ""
    async with opened.client.stream("GET", f"{BASE}/events", headers=opened.headers()) as answer:
        assert (await opened.post("/start")).status_code == 202
        async with asyncio.timeout(60):
            async for text in answer.aiter_text():
                seen += text
                if '"state":"sovereign"' in seen:
                    break
    told = frames(seen)
    journal = [entry.seq for entry in await opened.bench.entries("catalyst.cutover.journal")]
    assert [number for number, _, _ in told if number is not None] == journal
    states = [data for _, kind, data in told if kind == "status"]
    assert states[-1]["cutoverComplete"]
    names = [kind for number, kind, _ in told if number is not None]
    assert names[0] == "accepted"
    assert "completed" in names
    event = next(data for number, kind, data in told if kind == "step.started")
    assert (event["step"], event["number"], event["event"]["specversion"]) == ("gitea-mirror", 1, "1.0")
    assert json.loads(json.dumps(event))["message"].startswith("started by")
