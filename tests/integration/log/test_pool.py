"""The pool on a real broker: order, exclusion, refusals, take-over."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic
from typing import Any

import anyio
import pytest
from pool_bench import Bench, doing, opened

from events.certificate import Signer, statement
from events.envelope import read
from events.flow import SLUGS
from events.fold import State
from events.picture import picture
from events.subjects import CANCEL, JOURNAL, REQUESTED
from schemas.events import Audited
from schemas.results import StepResult
from workers.errors import Stuck, Trouble, Wait
from workers.verdict import Limits
from workers.world import Order, Report


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with opened(tmp_path) as made:
        yield made


def asked(kind: str = "requested", id: str = "1", **data: Any) -> bytes:
    """What a person types."""
    return json.dumps(
        {"specversion": "1.0", "id": id, "source": "me", "type": f"io.openova.catalyst.cutover.{kind}.v1", "data": data}
    ).encode()


def over(state: State) -> bool:
    return state.run is not None and state.run.closed


async def test_a_request_runs_every_step_once_and_in_order(bench: Bench) -> None:
    await bench.worker()
    await bench.send(REQUESTED, asked())
    state = await bench.until(over)
    assert bench.done == [(slug, 1) for slug in SLUGS]
    assert state.complete
    assert picture(state)["cutoverComplete"] == "true"
    assert picture(state)["progressPercent"] == "100"


async def test_a_second_request_during_a_run_is_rejected_with_the_reason(bench: Bench) -> None:
    gate = anyio.Event()

    async def slow(order: Order, report: Report) -> StepResult:
        await gate.wait()
        return await original(order, report)

    work = doing(bench.done)
    original = work["gitea-mirror"]
    await bench.worker({**work, "gitea-mirror": slow})
    await bench.send(REQUESTED, asked())
    await bench.until(lambda state: state.active)
    await bench.send(REQUESTED, asked(id="2"))
    assert [row["reason"] for row in await bench.rejected(1)] == ["RunActive"]
    gate.set()
    await bench.until(over)
    assert len(bench.done) == 8


async def test_garbage_on_any_subject_is_kept_in_rejected_and_harms_nothing(bench: Bench) -> None:
    await bench.worker()
    beside = ("catalyst.cutover.step.3", "catalyst.cutover.node.n1", "catalyst.cutover.x")
    everywhere = {REQUESTED, CANCEL, JOURNAL, *beside}
    for subject in everywhere:
        await bench.send(subject, b"\xff{garbage")
    rows = await bench.rejected(6)
    assert {row["subject"] for row in rows} == everywhere
    await bench.send(REQUESTED, asked())
    state = await bench.until(over)
    assert state.complete
    assert state.integrity == "ok"
    assert state.foreign == 1


async def test_a_trigger_out_of_order_is_rejected(bench: Bench) -> None:
    await bench.worker()
    await bench.send("catalyst.cutover.step.5", asked("step.trigger"))
    assert (await bench.rejected(1))[0]["reason"] == "NoRun"
    work = dict(bench.done)
    assert work == {}


async def test_a_failed_step_ends_the_run_and_its_trigger_runs_it_again(bench: Bench) -> None:
    work = doing(bench.done)
    fine = work["harbor-prewarm"]
    broken = True

    async def prewarm(order: Order, report: Report) -> StepResult:
        if broken:
            raise Stuck("ImageDenied", "ghcr.io/x answers 403; check the login")
        return await fine(order, report)

    await bench.worker({**work, "harbor-prewarm": prewarm})
    await bench.send(REQUESTED, asked())
    state = await bench.until(over)
    shown = picture(state)
    assert shown["failedStep"] == "harbor-prewarm"
    assert shown["lastError"] == "ImageDenied: ghcr.io/x answers 403; check the login"
    assert [slug for slug, _ in bench.done] == ["gitea-mirror", "harbor-projects"]
    await bench.send("catalyst.cutover.step.5", asked("step.trigger", id="early"))
    assert (await bench.rejected(1))[0]["reason"] == "OutOfOrder"
    broken = False
    await bench.send("catalyst.cutover.step.3", asked("step.trigger", id="retry"))
    state = await bench.until(lambda state: state.complete)
    assert [slug for slug, _ in bench.done] == list(SLUGS)


async def test_a_trigger_for_a_finished_step_runs_it_and_what_follows_again(bench: Bench) -> None:
    await bench.worker()
    await bench.send(REQUESTED, asked())
    await bench.until(over)
    bench.done.clear()
    await bench.send("catalyst.cutover.step.7", asked("step.trigger", id="again"))
    await bench.until(lambda state: over(state) and len(bench.done) == 2)
    assert bench.done == [("catalyst-api-env-patch", 2), ("egress-block-test", 2)]


async def test_a_bare_trigger_of_step_1_begins_a_run_when_none_is_active(bench: Bench) -> None:
    await bench.worker()
    await bench.send("catalyst.cutover.step.1", asked("step.trigger"))
    state = await bench.until(over)
    assert state.complete
    assert len(bench.done) == 8


async def test_waiting_is_tried_again_by_itself_and_bounded(bench: Bench) -> None:
    work = doing(bench.done)
    fine = work["gitea-mirror"]
    tries = 0

    async def mirror(order: Order, report: Report) -> StepResult:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise Wait("UpstreamBusy", "503", after=0.05)
        return await fine(order, report)

    await bench.worker({**work, "gitea-mirror": mirror})
    await bench.send(REQUESTED, asked())
    state = await bench.until(over)
    assert state.complete
    assert state.run is not None
    assert state.run.step("gitea-mirror").attempt == 3


async def test_a_long_wait_is_kept_to_though_its_trigger_comes_back_before(bench: Bench) -> None:
    bench.limits = Limits(longest=0.2)
    begun: list[float] = []

    async def mirror(order: Order, report: Report) -> StepResult:
        begun.append(monotonic())
        if len(begun) == 1:
            raise Wait("UpstreamBusy", "429", after=0.8)
        return await fine(order, report)

    work = doing(bench.done)
    fine = work["gitea-mirror"]
    await bench.worker({**work, "gitea-mirror": mirror})
    await bench.send(REQUESTED, asked())
    assert (await bench.until(over)).complete
    assert begun[1] - begun[0] >= 0.7
    assert len(begun) == 2


async def test_a_run_after_a_cancel_is_not_kept_back_by_a_long_wait_of_the_one_before(bench: Bench) -> None:
    bench.limits = Limits(longest=0.2)
    patient = True

    async def mirror(order: Order, report: Report) -> StepResult:
        if patient:
            raise Wait("UpstreamBusy", "429", after=3600)
        return await fine(order, report)

    work = doing(bench.done)
    fine = work["gitea-mirror"]
    await bench.worker({**work, "gitea-mirror": mirror})
    await bench.send(REQUESTED, asked())
    await bench.until(lambda state: state.run is not None and state.run.step("gitea-mirror").result == "waiting")
    await bench.send(CANCEL, asked("cancel", id="c", operator="ann"))
    await bench.until(over)
    patient = False
    await bench.send(REQUESTED, asked(id="2"))
    assert (await bench.until(lambda state: state.complete)).run is not None


async def test_what_a_step_works_before_its_first_trouble_is_not_taken_from_its_patience(bench: Bench) -> None:
    bench.limits = Limits(total=0.5)
    tries = 0

    async def mirror(order: Order, report: Report) -> StepResult:
        nonlocal tries
        tries += 1
        if tries == 1:
            await anyio.sleep(0.6)
            raise Wait("UpstreamBusy", "503", after=0.05)
        return await fine(order, report)

    work = doing(bench.done)
    fine = work["gitea-mirror"]
    await bench.worker({**work, "gitea-mirror": mirror})
    await bench.send(REQUESTED, asked())
    assert (await bench.until(over)).complete


async def test_a_defect_in_a_step_becomes_a_failure_after_a_few_tries(bench: Bench) -> None:
    async def broken(order: Order, report: Report) -> StepResult:
        raise KeyError("surprise")

    await bench.worker({**doing(bench.done), "gitea-mirror": broken})
    await bench.send(REQUESTED, asked())
    state = await bench.until(over)
    assert state.run is not None
    assert state.run.reason == "Unexpected"
    assert "KeyError" in state.run.message


async def test_when_a_worker_dies_mid_step_another_takes_over_within_ack_wait(bench: Bench) -> None:
    hung = anyio.Event()

    async def hang(order: Order, report: Report) -> StepResult:
        hung.set()
        await anyio.sleep_forever()
        raise AssertionError

    first = await bench.worker({**doing(bench.done), "harbor-projects": hang}, name="first", lease=2.0)
    await bench.send(REQUESTED, asked())
    await hung.wait()
    await bench.worker(name="second", lease=2.0)
    first.cancel()
    state = await bench.until(over)
    assert state.complete
    assert state.run is not None
    assert state.run.step("harbor-projects").attempt == 2
    journal = [read(entry.raw) for entry in await bench.entries(JOURNAL)]
    succeeded = [event.subject for event in journal if event.kind == "step.succeeded"]
    assert succeeded == list(SLUGS)


async def test_a_cancel_stops_the_running_step_at_once(bench: Bench) -> None:
    stopped = anyio.Event()
    begun = anyio.Event()

    async def hang(order: Order, report: Report) -> StepResult:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            stopped.set()
        raise AssertionError

    await bench.worker({**doing(bench.done), "harbor-projects": hang})
    await bench.send(REQUESTED, asked())
    await begun.wait()
    await bench.send(CANCEL, asked("cancel", id="c", operator="ann", reason="not today"))
    with anyio.fail_after(60):
        await stopped.wait()
    state = await bench.until(over)
    assert state.run is not None
    assert state.run.phase == "cancelled"
    assert not state.complete


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_restart_of_the_broker_in_mid_run_loses_nothing(bench: Bench, how: str) -> None:
    begun, go_on = anyio.Event(), anyio.Event()
    work = doing(bench.done)
    fine = work["registry-pivot"]

    async def slow(order: Order, report: Report) -> StepResult:
        begun.set()
        await go_on.wait()
        return await fine(order, report)

    await bench.worker({**work, "registry-pivot": slow}, lease=4.0)
    await bench.send(REQUESTED, asked())
    await begun.wait()
    await getattr(bench.broker, how)()
    go_on.set()
    await anyio.sleep(0.5)
    await bench.broker.restart()
    state = await bench.until(over)
    assert state.complete
    assert [slug for slug, _ in bench.done] == list(SLUGS)


@pytest.mark.parametrize(
    ("finding", "complete"),
    [
        (None, True),
        ({"tether": 3, "place": "HelmRepository flux-system/bp-x", "field": "spec.url"}, False),
        ({"severity": "unreadable", "place": "Secret", "field": "all of them"}, False),
        ({"tether": 8, "place": "Node n1", "field": "os mirrors"}, True),
    ],
)
async def test_completion_rests_on_a_last_look(bench: Bench, finding: dict[str, Any] | None, complete: bool) -> None:
    found = (finding,) if finding else ()

    async def look() -> Audited:
        return Audited(findings=found, clean=not found)

    await bench.worker(audit=look)
    await bench.send(REQUESTED, asked())
    state = await bench.until(over)
    shown = picture(state)
    assert shown["cutoverComplete"] == ("true" if complete else "false")
    assert shown["tethersFound"] == str(len(found))
    if not complete:
        assert shown["failedStep"] == "egress-block-test"
        assert shown["lastError"].startswith("TethersLeft: 1 strings still tie")


async def test_a_look_that_could_not_be_taken_is_taken_again(bench: Bench) -> None:
    looks = 0

    async def look() -> Audited:
        nonlocal looks
        looks += 1
        if looks < 3:
            raise Wait("ApiServerUnavailable", "503")
        return Audited(findings=(), clean=True)

    await bench.worker(audit=look)
    await bench.send(REQUESTED, asked())
    assert (await bench.until(over)).complete
    assert looks == 3, "before the first step, where it stops nothing, and before completion, where it must succeed"


@pytest.mark.parametrize(
    "trouble", [Stuck("ApiForbidden", "get secrets: 403"), Wait("ApiServerUnavailable", "503")], ids=["person", "time"]
)
async def test_a_look_that_cannot_be_taken_ends_the_run_and_says_why(bench: Bench, trouble: Trouble) -> None:
    async def look() -> Audited:
        raise trouble

    bench.limits = Limits(total=2.0)
    await bench.worker(audit=look)
    await bench.send(REQUESTED, asked())
    state = await bench.until(over)
    shown = picture(state)
    assert (shown["cutoverComplete"], shown["failedStep"]) == ("false", "egress-block-test")
    assert shown["lastError"].startswith(f"{trouble.reason}: all steps succeeded, and the last look cannot be taken")
    assert len(bench.done) == len(SLUGS)


async def test_what_ties_the_sovereign_before_the_first_step_stands_in_the_certificate(bench: Bench) -> None:
    tether = {"tether": 1, "severity": "tether", "place": "GitRepository flux-system/openova"}

    async def look() -> Audited:
        clean = len(bench.done) == len(SLUGS)
        return Audited(findings=() if clean else (tether,), clean=clean)

    await bench.worker(audit=look)
    await bench.send(REQUESTED, asked())
    await bench.until(over)
    tethers = statement(await bench.entries(), Signer.new().verifier)["predicate"]["tethers"]
    assert tethers == {"before": {"clean": False, "findings": [tether]}, "after": {"clean": True, "findings": []}}
