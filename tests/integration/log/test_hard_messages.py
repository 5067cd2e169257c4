"""What strangers write, what does not fit, what comes at the wrong moment: nobody falls over, and all of it is told."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import anyio
import pytest
from cloudevents.core.formats.json import JSONFormat
from histories import draft
from pool_bench import Bench, doing, opened, result

from events.envelope import read
from events.flow import SLUGS
from events.fold import State
from events.jetstream import JetStreamLog, LogReplaced, reading
from events.journal import Journal
from events.picture import picture
from events.subjects import CANCEL, JOURNAL, LOGIN, REQUESTED
from schemas.events import Audited, Cancelled, Requested, StepStarted
from schemas.results import StepResult
from workers import admission, pool, scribe
from workers.autofire import fuse
from workers.autofire.rule import Rule
from workers.errors import Wait
from workers.lease import now
from workers.verdict import Limits
from workers.world import Order, Report


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with opened(tmp_path) as made:
        yield made


def asked(kind: str = "requested", id: str = "1", data: object = None, **envelope: object) -> bytes:
    ours = {"specversion": "1.0", "id": id, "source": "me", "type": f"io.openova.catalyst.cutover.{kind}.v1"}
    return json.dumps({**ours, "data": data or {}, **envelope}).encode()


def over(state: State) -> bool:
    return state.run is not None and state.run.closed


ODD: dict[str, dict[str, Any]] = {
    "a trace that is none": {"traceparent": "abc"},
    "an empty trace": {"traceparent": ""},
    "a trace of zeros": {"traceparent": f"00-{'0' * 32}-{'0' * 16}-00"},
    "an empty name": {"authid": "", "authtype": ""},
    "control characters": {"authid": "\x00\x1b[31m", "authtype": "user"},
    "an endless name": {"authid": "n" * 400_000, "authtype": "user"},
    "an endless id": {"id": "i" * 400_000},
    "an endless reason": {"data": {"reason": "r" * 1_040_000}},
    "an endless operator": {"data": {"operator": "o" * 1_040_000}},
    "fields nobody knows": {"data": {"password": "hunter2"}, "whatever": 1},
    "data of no schema we know": {"dataschema": "https://schemas.openova.io/catalyst-cutover/v9/requested.json"},
}
REFUSED: dict[str, bytes] = {
    "nested too deep": asked().replace(b'"data": {}', b'"data": ' + b"[" * 100_000),
    "nested too deep, and closed": asked().replace(b'"data": {}', b'"data":' + b"[" * 5000 + b"]" * 5000),
    "a time before time": asked(time="0001-01-01T00:00:00+14:00"),
    "a time after time": asked(time="9999-12-31T23:59:59-14:00"),
    "an older CloudEvents": asked(specversion="0.3"),
    "a later version of ours": asked().replace(b".requested.v1", b".requested.v2"),
    "a fact as a request": asked("completed", data={"evidence_digest": "0", "rehearsal": False}),
    "data that is no object": asked(data=[1]),
    "data of the wrong kind": asked(data={"reason": {"a": 1}}),
    "a name that is no text": asked(authid={"a": 1}),
    "bytes in base64": asked(data_base64="AA=="),
    "a number too long": asked().replace(b'"data": {}', b'"data": {"reason": ' + b"9" * 5000 + b"}"),
    "half a character": asked().replace(b'"me"', b'"\\ud800"'),
    "no JSON": b"\xff\xfe",
    "nothing": b"",
}


async def test_no_request_however_odd_stops_a_worker_or_writes_what_does_not_fit(bench: Bench) -> None:
    worker = await bench.worker()
    for number, (name, envelope) in enumerate(ODD.items()):
        before = len(await bench.entries("catalyst.cutover.rejected"))
        seq = await bench.send(REQUESTED, asked(**{"id": f"odd-{number}", **envelope}))
        state = await bench.until(lambda state, seq=seq: over(state) and state.run.request == seq)
        assert state.complete, name
        assert not worker.done(), name
        assert len(await bench.entries("catalyst.cutover.rejected")) == before, name
        assert sum(map(len, picture(state).values())) < 50_000, name
    assert max(len(entry.raw) for entry in await bench.entries(JOURNAL)) < 20_000
    for event in [read(entry.raw) for entry in await bench.entries(JOURNAL)]:
        assert len((event.traceparent or "").split("-")) == 4


async def test_what_cannot_be_read_is_kept_with_its_reason_and_the_next_request_is_served(bench: Bench) -> None:
    worker = await bench.worker()
    for raw in REFUSED.values():
        await bench.send(REQUESTED, raw)
    rows = await bench.rejected(len(REFUSED))
    assert [row["reason"] for row in rows] == ["Undecodable"] * len(REFUSED)
    assert all(len(row["message"]) < 500 for row in rows)
    for raw in REFUSED.values():  # nor does it harm whoever reads the journal
        await bench.send(JOURNAL, raw or b" ")
    await bench.send(REQUESTED, asked())
    state = await bench.until(over)
    assert (state.complete, state.integrity, state.foreign) == (True, "ok", len(REFUSED))
    assert not worker.done()


async def test_every_message_of_a_run_is_a_cloud_event_in_structured_mode(bench: Bench) -> None:
    await bench.worker()
    inbox = await bench.stream.client.subscribe("catalyst.cutover.>")
    await bench.send(REQUESTED, asked(authtype="user", authid="ann"))
    await bench.until(over)
    await bench.stream.client.flush()
    heard = [await inbox.next_msg() for _ in range(inbox.pending_msgs)]
    assert len(heard) > 2 * len(SLUGS)
    for message in heard[1:]:  # the first is the hand-made one
        assert message.headers is not None
        assert message.headers["content-type"] == "application/cloudevents+json"
        event = JSONFormat().read(None, message.data)
        attributes = event.get_attributes()
        assert attributes["specversion"] == "1.0"
        assert attributes["id"] == message.headers["Nats-Msg-Id"]
        assert str(attributes["type"]).startswith("io.openova.catalyst.cutover.")
        assert str(attributes["source"]) == "//sovereign.test/cutover"
        plain = json.loads(message.data)
        assert plain["time"].endswith("Z") or plain["time"].endswith("+00:00")
        assert plain["datacontenttype"] == "application/json"
        assert all(name.isalnum() and name == name.lower() and len(name) <= 20 for name in plain)
        assert b"\n" not in message.data  # `nats sub` shows it as one line


async def test_a_result_that_fits_into_no_message_fails_its_step_once_and_says_so(bench: Bench) -> None:
    tries = 0

    async def much(order: Order, report: Report) -> StepResult:
        nonlocal tries
        tries += 1
        references = {f"docker.io/library/image-{number}": "x" * 60 for number in range(20_000)}
        return result("harbor-prewarm").model_copy(update={"references": references})

    await bench.worker({**doing(bench.done), "harbor-prewarm": much})
    await bench.send(REQUESTED, asked())
    state = await bench.until(over)
    assert state.run is not None
    assert (state.run.failed_step, state.run.reason, tries) == ("harbor-prewarm", "ResultTooLarge", 1)
    assert "max_payload" in state.run.message


async def test_a_full_log_is_waited_for_and_the_run_goes_on_when_there_is_room(bench: Bench) -> None:
    gate = anyio.Event()

    async def slow(order: Order, report: Report) -> StepResult:
        await gate.wait()
        return result("harbor-projects")

    worker = await bench.worker({**doing(bench.done), "harbor-projects": slow}, lease=3.0)  # it claims anew
    await bench.send(REQUESTED, asked())
    await bench.until(lambda state: state.run is not None and state.run.current == "harbor-projects")
    stream = bench.stream.js
    config = (await stream.stream_info("CATALYST_CUTOVER")).config
    room, config.max_bytes = config.max_bytes, 4096
    await stream.update_stream(config)
    gate.set()
    await anyio.sleep(1.0)
    assert not worker.done()
    assert len((await bench.state()).run.steps) == 2  # type: ignore[union-attr]
    config.max_bytes = room
    await stream.update_stream(config)
    assert (await bench.until(over)).complete


async def test_a_cancel_during_the_last_look_wins_over_completion(bench: Bench) -> None:
    looking, go_on = anyio.Event(), anyio.Event()

    async def look() -> Audited:
        if len(bench.done) == len(SLUGS):
            looking.set()
            await go_on.wait()
        return Audited(findings=(), clean=True)

    await bench.worker(audit=look)
    await bench.send(REQUESTED, asked())
    await looking.wait()
    await bench.send(CANCEL, asked("cancel", "c"))
    await bench.until(over)
    go_on.set()
    with anyio.fail_after(60):  # the last step's trigger is settled when its worker has nothing left to say
        while (await bench.stream.js.consumer_info("CATALYST_CUTOVER", "step-8")).num_ack_pending:
            await anyio.sleep(0.05)
    state = await bench.state()
    assert state.run is not None
    assert (state.run.phase, state.complete) == ("cancelled", False)
    assert "completed" not in [read(entry.raw).kind for entry in await bench.entries(JOURNAL)]


async def test_a_worker_whose_clock_is_wrong_by_a_day_gives_nothing_up_early(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scribe, "now", lambda: now() - timedelta(days=1))
    tries = 0

    async def patient(order: Order, report: Report) -> StepResult:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise Wait("UpstreamBusy", "503", after=0.05)
        return result("gitea-mirror")

    await bench.worker({**doing(bench.done), "gitea-mirror": patient})
    await bench.send(REQUESTED, asked())
    assert (await bench.until(over)).complete


async def test_of_two_requests_at_once_one_begins_a_run_and_the_other_is_told(bench: Bench) -> None:
    gate = anyio.Event()

    async def slow(order: Order, report: Report) -> StepResult:
        await gate.wait()
        return result("gitea-mirror")

    for name in ("w1", "w2"):
        await bench.worker({**doing(bench.done), "gitea-mirror": slow}, name=name)
    async with anyio.create_task_group() as tasks:
        for id in ("a", "b"):
            tasks.start_soon(bench.send, REQUESTED, asked(id=id))
    assert [row["reason"] for row in await bench.rejected(1)] == ["RunActive"]
    gate.set()
    await bench.until(over)
    assert [read(entry.raw).kind for entry in await bench.entries(JOURNAL)].count("accepted") == 1


async def test_a_refusal_is_kept_though_its_own_words_are_a_strangers(bench: Bench) -> None:
    """A type of half a megabyte comes back cut, or the refusal itself would not fit."""
    async with anyio.create_task_group() as tasks:
        writer = scribe.Scribe("sovereign.test", "w", str)
        tasks.start_soon(admission.serve, bench.stream, Journal(bench.stream), writer)
        await bench.send(REQUESTED, asked(type="t" * 600_000))
        (row,) = await bench.rejected(1)
        tasks.cancel_scope.cancel()
    assert len(row["message"]) < 1000


async def test_a_message_that_our_own_code_falls_over_is_kept_and_those_behind_it_are_served(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def falls(state: State, seq: int) -> tuple[str, str] | None:
        return why_not_accept(state, seq) if seq > 1 else {}["surprise"]

    why_not_accept = admission.why_not_accept
    monkeypatch.setattr(admission, "why_not_accept", falls)
    monkeypatch.setattr(admission, "AGAIN", 0.05)
    worker = await bench.worker()
    await bench.send(REQUESTED, asked(id="bad"))
    await bench.send(REQUESTED, asked(id="good"))
    assert (await bench.until(over)).complete
    (row,) = await bench.rejected(1)
    assert (row["reason"], row["sequence"]) == ("Unservable", 1)
    assert "KeyError" in row["message"]
    assert not worker.done()


async def test_a_trigger_that_our_own_code_falls_over_leaves_the_process_and_comes_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    falls = 1

    def decided(*given: Any, **named: Any) -> Any:
        nonlocal falls
        if falls and given[1].slug == "harbor-projects":
            falls -= 1
            raise KeyError("surprise")
        return decide(*given, **named)

    decide = pool.decide
    monkeypatch.setattr(pool, "decide", decided)
    worker = await bench.worker()
    await bench.send(REQUESTED, asked())
    assert (await bench.until(over)).complete
    assert not worker.done()


async def test_a_step_that_nobody_survives_is_given_up_and_not_tried_for_ever(bench: Bench) -> None:
    journal, writer = Journal(bench.stream), scribe.Scribe("sovereign.test", "doomed", str)
    request = await bench.send(REQUESTED, asked())
    await admission.accept(journal, writer, request, Requested(), None)
    run, trigger = journal.state.run, journal.state.seq + 1
    assert run is not None
    for attempt in range(1, 4):
        claim = StepStarted(step=SLUGS[0], worker="doomed", trigger=trigger, after=request, lease_seconds=1.0)
        await journal.append(writer.step(run, attempt, claim))

    async with JetStreamLog.open(bench.settings) as stream, anyio.create_task_group() as tasks:
        own = Journal(stream)
        work = pool.Pool(stream, own, writer, doing(bench.done), lease_seconds=1.0, limits=Limits(losses=3))
        tasks.start_soon(own.tail)
        tasks.start_soon(work.serve)
        state = await bench.until(over)
        tasks.cancel_scope.cancel()
    assert state.run is not None
    assert (state.run.reason, state.run.step(SLUGS[0]).attempt, bench.done) == ("WorkerLost", 4, [])


async def test_a_link_of_the_chain_that_nobody_here_can_read_is_told_and_breaks_nothing(bench: Bench) -> None:
    journal = Journal(bench.stream)
    await bench.worker()
    for kind in ("cutover.later-word.v1", "cutover.step.succeeded.v2"):
        state = await journal.refresh()
        cancelled = Cancelled(operator="ann", request=1)
        raw = draft(cancelled, state.length + 1).sealed(state.length + 1, state.hash).encode()
        raw = raw.replace(b"cutover.cancelled.v1", kind.encode())
        await bench.stream.append(raw, id=kind, expected=state.seq, then=None)
    rows = await bench.rejected(2)
    assert [row["reason"] for row in rows] == ["UnreadableFact"] * 2
    await bench.send(REQUESTED, asked())
    state = await bench.until(over)
    assert (state.complete, state.integrity, state.foreign) == (True, "ok", 0)


async def test_whoever_follows_a_log_that_is_replaced_or_cut_back_stops_rather_than_go_on_from_what_is_gone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cutover work` then ends with the difference, and its Pod begins anew."""
    await Journal(bench.stream).append(draft(Cancelled(operator="ann", request=1), 1))
    async with JetStreamLog.open(bench.settings) as stream:
        following = asyncio.create_task(Journal(stream).tail())
        await anyio.sleep(0.2)
        await bench.stream.js.delete_stream("CATALYST_CUTOVER")
        await bench.stream.ensure()
        with pytest.raises(LogReplaced, match="made anew"), anyio.fail_after(60):
            await following
    monkeypatch.setattr(reading, "CATCHING_UP", 0.3)  # a new leader is given that long
    async with JetStreamLog.open(bench.settings) as stream:
        with pytest.raises(LogReplaced, match="cut back"), anyio.fail_after(60):
            async for _ in stream.read(JOURNAL, 7, live=True):
                pass


class Ahead(datetime):
    """The clock of a machine that is wrong by an hour."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime.now(tz) + timedelta(hours=1)


async def test_a_machine_whose_clock_is_an_hour_ahead_does_not_cut_the_grace_period_short(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (admission, fuse):
        monkeypatch.setattr(module, "datetime", Ahead, raising=False)
        monkeypatch.setattr(module, "now", lambda: Ahead.now(UTC), raising=False)
    grace = 1.5
    rule = Rule(True, grace, "sovereign-admin")

    async def sealed() -> bool:
        return True

    async with JetStreamLog.open(bench.settings) as stream, anyio.create_task_group() as tasks:
        journal, writer = Journal(stream), scribe.Scribe("sovereign.test", "w", str)
        tasks.start_soon(journal.tail)
        tasks.start_soon(admission.serve, stream, journal, writer, rule)
        tasks.start_soon(fuse.serve, stream, journal, writer, rule, sealed)
        began = time.monotonic()
        login = asked("login", "l", {"roles": ["sovereign-admin"]}, authtype="user", authid="ann")
        await bench.send(LOGIN, login)
        armed = (await bench.until(lambda state: state.autofire is not None)).autofire
        assert armed is not None
        assert armed.fires_at < datetime.now(UTC) + timedelta(seconds=grace)
        await bench.until(lambda state: state.run is not None)
        assert time.monotonic() - began >= grace
        tasks.cancel_scope.cancel()
