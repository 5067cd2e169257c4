"""What somebody who may publish can write, and what an answer that comes late or not at all can do: no run hangs."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from pool_bench import Bench, doing, opened, result

from events.flow import SLUGS
from events.fold import State
from events.jetstream import JetStreamLog
from events.jetstream.ears import Ears
from events.jetstream.wire import Refused
from events.journal import Journal
from events.log import Emit
from events.subjects import REJECTED, REQUESTED
from schemas.events import Requested
from schemas.progress import Progress
from schemas.results import StepResult
from workers import admission, pool
from workers.pool import Pool
from workers.scribe import Scribe
from workers.world import Order, Report

FIRST = SLUGS[0]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with opened(tmp_path) as made:
        yield made


def asked(kind: str = "requested", id: str = "1", data: object = None) -> bytes:
    ours = {"specversion": "1.0", "id": id, "source": "me", "type": f"io.openova.catalyst.cutover.{kind}.v1"}
    return json.dumps({**ours, "data": data or {}}).encode()


def over(state: State) -> bool:
    return state.run is not None and state.run.closed


async def put(bench: Bench, subject: bytes, payload: bytes, headers: bytes = b"") -> None:
    """On the bare wire, where nothing is checked before it is sent; stored once the broker has answered."""
    host, _, port = bench.broker.url.removeprefix("nats://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    size = len(headers) + len(payload)
    with closing(writer):
        verb = b"HPUB %s %d %d" % (subject, len(headers), size) if headers else b"PUB %s %d" % (subject, size)
        writer.write(b'CONNECT {"verbose":false,"headers":true}\r\n' + verb + b"\r\n" + headers + payload + b"\r\n")
        writer.write(b"PING\r\n")
        await writer.drain()
        while b"PONG" not in await reader.readline():
            pass


NODE = b"catalyst.cutover.node.x"
REPORT = asked("node.reported")
SPOILT: dict[str, tuple[bytes, bytes, bytes]] = {
    "a status that ends a pull": (NODE, REPORT, b"NATS/1.0\r\nStatus: 408\r\n\r\n"),
    "a status that is an error": (NODE, REPORT, b"NATS/1.0\r\nStatus: 500\r\n\r\n"),
    "a status in the first line": (NODE, REPORT, b"NATS/1.0 503 \xff\xff\r\nStatus: 1\r\n\r\n"),
    "a status of a trigger": (b"catalyst.cutover.step.2", asked("step.trigger"), b"NATS/1.0\r\nStatus: 408\r\n\r\n"),
    "headers that are none": (NODE, REPORT, b"x"),
    "headers that end at once": (NODE, REPORT, b"NATS/1.0"),
    "a subject that is not UTF-8": (NODE + b"\xff", REPORT, b""),
    "a subject with a vertical tab": (NODE + b"\x0by", REPORT, b""),
    "a subject that ends in a form feed": (NODE + b"\x0c", REPORT, b""),
}


async def test_what_stands_beside_a_stored_message_stops_nobody_who_reads_it(bench: Bench) -> None:
    worker = await bench.worker()
    for subject, payload, headers in SPOILT.values():
        await put(bench, subject, payload, headers)
    await put(bench, REQUESTED.encode(), asked(), b"NATS/1.0\r\nStatus: 408\r\n\r\n")
    assert (await bench.until(over)).complete
    rows = await bench.rejected(len(SPOILT))
    assert sorted(row["sequence"] for row in rows) == list(range(1, len(SPOILT) + 1))
    told = {row["subject"] for row in rows}
    assert {r"catalyst.cutover.node.x\xff", "catalyst.cutover.node.x\x0by", "catalyst.cutover.node.x\x0c"} <= told
    with anyio.fail_after(60):
        assert [entry.seq for entry in await bench.entries()][: len(SPOILT)] == list(range(1, len(SPOILT) + 1))
    assert not worker.done()


async def test_whoever_takes_our_ids_beforehand_keeps_nothing_of_ours_out_of_the_log(bench: Bench) -> None:
    place = 6  # of the request: the ids below are of the run that it begins
    run = f"run-{place}-{hashlib.sha256(f'sovereign.test/{place}'.encode()).hexdigest()[:6]}"
    taken = (f"{run}.accepted", f"{run}.{FIRST}.1.progress.2", f"{run}.{FIRST}.1.step.succeeded",
             f"{run}.{SLUGS[1]}.1.step.started.w1", f"rejected.{place + 1}.Undecodable")  # fmt: skip
    for id in taken:
        await put(bench, NODE, b"{}", f"NATS/1.0\r\nNats-Msg-Id: {id}\r\n\r\n".encode())

    async def telling(order: Order, report: Report) -> StepResult:
        bench.done.append((FIRST, order.attempt))
        await report(Progress(message="far"))
        await bench.until(lambda state: bool(state.run and state.run.step(FIRST).progress))
        return result(FIRST)

    await bench.worker({**doing(bench.done), FIRST: telling})
    assert await bench.send(REQUESTED, asked()) == place
    await bench.send(REQUESTED, b"garbage")
    state = await bench.until(over)
    assert (state.complete, state.integrity, state.foreign) == (True, "ok", 0)
    assert bench.done == [(slug, 1) for slug in SLUGS]
    rows = await bench.rejected(len(taken) + 1)
    assert place + 1 in {row["sequence"] for row in rows}


async def test_a_rejection_that_is_published_again_stands_once(bench: Bench) -> None:
    worker = Scribe("sovereign.test", "w", str)
    draft = worker.aside("rejected.1.X", Requested(), None)
    first = await bench.stream.publish(Emit(REJECTED, draft))
    assert await bench.stream.publish(Emit(REJECTED, draft)) == first


def told(state: State, slug: str) -> str:
    progress = state.run.step(slug).progress if state.run else None
    return progress.message if progress else ""


async def test_a_file_name_that_is_no_text_and_a_number_that_is_none_are_told_and_hang_nobody(bench: Bench) -> None:
    async def odd(order: Order, report: Report) -> StepResult:
        bench.done.append((FIRST, order.attempt))
        await report(Progress(message="caf\udce9.yaml", bytes_per_second=float("nan")))
        await bench.until(lambda state: bool(state.run and state.run.step(FIRST).progress))
        return result(FIRST).model_copy(update={"summary": "caf\udce9.yaml left alone"})

    async def unreadable(order: Order, report: Report) -> StepResult:
        bench.done.append((SLUGS[1], order.attempt))
        await report(Progress.model_construct(message="x", items_done=10**5000))
        await bench.until(lambda state: "cannot be written" in told(state, SLUGS[1]))
        return result(SLUGS[1]).model_copy(update={"changes": 10**5000})

    await bench.worker({**doing(bench.done), FIRST: odd, SLUGS[1]: unreadable})
    await bench.send(REQUESTED, asked())
    state = await bench.until(over)
    assert state.run is not None
    outcome = state.run.step(FIRST).outcome
    assert outcome is not None
    assert outcome.summary == r"caf\udce9.yaml left alone"
    assert (state.run.failed_step, state.run.reason) == (SLUGS[1], "ResultUnreadable")
    assert (bench.done, state.foreign, state.integrity) == ([(FIRST, 1), (SLUGS[1], 1)], 0, "ok")


async def test_a_trigger_as_large_as_a_message_may_be_is_rejected_and_its_step_is_served(bench: Bench) -> None:
    worker = await bench.worker()
    await bench.send("catalyst.cutover.step.2", asked("step.trigger", data={"step": "x" * 1_000_000}))
    (row,) = await bench.rejected(1)
    assert row["reason"] == "WrongSubject"
    assert len(row["message"]) < 5000
    await bench.send(REQUESTED, asked())
    assert (await bench.until(over)).complete
    assert not worker.done()


async def test_a_trigger_that_our_own_code_falls_over_for_ever_does_not_stand_before_the_rest(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decided(*given: Any, **named: Any) -> Any:
        return decide(*given, **named) if given[3] > 1 else {}["surprise"]

    decide = pool.decide
    monkeypatch.setattr(pool, "decide", decided)
    monkeypatch.setattr(pool, "LONGEST", 0.05)
    await bench.worker()
    await bench.send("catalyst.cutover.step.2", asked("step.trigger"))
    await bench.send(REQUESTED, asked())
    assert (await bench.until(over)).complete
    (row,) = await bench.rejected(1)
    assert (row["reason"], row["sequence"]) == ("Unservable", 1)
    assert "KeyError" in row["message"]


async def test_a_claim_that_is_answered_when_others_may_soon_take_over_is_not_worked_on(bench: Bench) -> None:
    lease = 1.5
    late = True

    class Slow(JetStreamLog):
        async def append(self, raw: bytes, *, id: str, expected: int, then: Emit | None) -> int:
            nonlocal late
            seq = await super().append(raw, id=id, expected=expected, then=then)
            if late and ".step.started" in id:
                late = False
                await anyio.sleep(lease * 0.8)
            return seq

    async with Slow.open(bench.settings) as stream, anyio.create_task_group() as tasks:
        journal, writer = Journal(stream), Scribe("sovereign.test", "w", str)
        work = Pool(stream, journal, writer, doing(bench.done), lease_seconds=lease)
        tasks.start_soon(journal.tail)
        tasks.start_soon(work.serve)
        tasks.start_soon(admission.serve, stream, journal, writer)
        await bench.send(REQUESTED, asked())
        state = await bench.until(over)
        tasks.cancel_scope.cancel()
    assert state.complete
    assert (FIRST, 1) not in bench.done
    assert {slug for slug, _ in bench.done} == set(SLUGS)


@pytest.mark.parametrize("how", ["half a batch", "no leader"])
async def test_an_append_that_the_broker_could_not_take_just_then_is_sent_again_and_no_step_is_done_twice(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    lost = 0
    publish, request = Ears.publish, JetStreamLog._publish

    async def losing(self: Ears, subject: str, payload: bytes = b"", reply: str = "", headers: Any = None) -> None:
        nonlocal lost
        if not lost and b"step.succeeded" in payload and (headers or {}).get("Nats-Batch-Sequence") == "1":
            lost += 1  # with a connection that went down
            return
        await publish(self, subject, payload, reply=reply, headers=headers)

    async def refusing(self: JetStreamLog, subject: str, raw: bytes, headers: dict[str, str]) -> dict[str, Any]:
        nonlocal lost
        if not lost and f"{SLUGS[1]}.trigger." in headers.get("Nats-Msg-Id", ""):  # the second half of a batch
            lost += 1
            raise Refused({"code": 503, "err_code": 10008, "description": "JetStream system temporarily unavailable"})
        return await request(self, subject, raw, headers)

    if how == "half a batch":
        monkeypatch.setattr(Ears, "publish", losing)
    else:
        monkeypatch.setattr(JetStreamLog, "_publish", refusing)
    await bench.worker()
    await bench.send(REQUESTED, asked())
    assert (await bench.until(over)).complete
    assert (lost, bench.done) == (1, [(slug, 1) for slug in SLUGS])


async def test_a_request_that_a_trigger_overtook_is_told_so(bench: Bench) -> None:
    async def until_overtaken(_: Requested) -> None:
        await bench.until(lambda state: state.run is not None)

    async with JetStreamLog.open(bench.settings) as stream, anyio.create_task_group() as tasks:
        journal, writer = Journal(stream), Scribe("sovereign.test", "w", str)
        tasks.start_soon(journal.tail)
        tasks.start_soon(Pool(stream, journal, writer, doing(bench.done)).serve)
        tasks.start_soon(lambda: admission.serve(stream, journal, writer, gate=until_overtaken))
        request = await bench.send(REQUESTED, asked())
        await bench.send("catalyst.cutover.step.1", asked("step.trigger"))
        (row,) = await bench.rejected(1)
        await bench.until(over)
        tasks.cancel_scope.cancel()
    assert (row["sequence"], row["reason"]) == (request, "RunActive")
