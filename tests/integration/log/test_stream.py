"""The stream itself: refused when it is not as it must be, and true to its promise about appends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from histories import accepted, draft
from pool_bench import Bench, opened

from events import subjects
from events.flow import FIRST
from events.jetstream import ADMISSION, Broker, JetStreamLog, StreamDrift
from events.journal import Journal
from events.log import Conflict, Emit, LogFull, LogUnavailable
from sandbox.broker import free_port
from schemas import events as facts


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with opened(tmp_path) as made:
        yield made


async def test_a_drifted_stream_is_refused_with_the_difference(bench: Bench) -> None:
    config = (await bench.stream.js.stream_info("CATALYST_CUTOVER")).config
    config.max_bytes = 1 << 31  # one that is smaller than it must be is made larger
    await bench.stream.js.update_stream(config)
    with pytest.raises(StreamDrift, match="max_bytes is 2147483648, must be 1073741824"):
        await bench.stream.ensure()


async def test_a_drifted_consumer_is_refused_with_the_difference(bench: Bench) -> None:
    config = (await bench.stream.js.consumer_info("CATALYST_CUTOVER", "step-3")).config
    config.max_ack_pending = 10
    await bench.stream.js.add_consumer("CATALYST_CUTOVER", config)
    with pytest.raises(StreamDrift, match="consumer step-3: max_ack_pending is 10, must be 1"):
        await bench.stream.ensure()


async def test_a_consumer_of_an_earlier_version_gets_its_new_filter_and_keeps_its_place(bench: Bench) -> None:
    js, stream = bench.stream.js, "CATALYST_CUTOVER"
    config = (await js.consumer_info(stream, ADMISSION)).config
    config.filter_subjects = [subjects.REQUESTED, subjects.CANCEL]
    await js.add_consumer(stream, config)
    await bench.stream.ensure()
    assert subjects.LOGIN in (await js.consumer_info(stream, ADMISSION)).config.filter_subjects
    config.filter_subjects = [subjects.REQUESTED]  # nobody's version: somebody changed it
    await js.add_consumer(stream, config)
    with pytest.raises(StreamDrift, match="filter_subjects"):
        await bench.stream.ensure()


async def test_of_many_that_append_at_once_one_wins(bench: Bench) -> None:
    journals = [Journal(bench.stream) for _ in range(20)]
    appends = [journal.append(draft(accepted(), number)) for number, journal in enumerate(journals)]
    ends = await asyncio.gather(*appends, return_exceptions=True)
    assert sorted(type(end).__name__ for end in ends) == ["Conflict"] * 19 + ["int"]


async def test_the_same_append_again_is_the_same_event(bench: Bench) -> None:
    raw = draft(accepted(), 1).sealed(1, "0" * 64).encode()
    first = await bench.stream.append(raw, id="e1", expected=0, then=None)
    assert await bench.stream.append(raw, id="e1", expected=0, then=None) == first
    with pytest.raises(Conflict):
        await bench.stream.append(raw.replace(b"ann", b"eve"), id="other", expected=0, then=None)


@pytest.mark.parametrize("with_trigger", [False, True])
async def test_an_event_of_the_same_id_by_another_worker_is_his(bench: Bench, with_trigger: bool) -> None:
    """Whoever took it for his own would chain the next one to bytes that are not in the log."""
    then = Emit(subjects.trigger(FIRST), draft(facts.Trigger(step=FIRST.slug), 2)) if with_trigger else None
    await Journal(bench.stream).append(draft(accepted(), 1), then)
    late = Journal(bench.stream)
    with pytest.raises(Conflict):
        await late.append(replace(draft(accepted(), 1), authid="eve"), then)
    await late.refresh()
    await late.append(draft(facts.Cancelled(operator="ann", request=2), 3))
    assert (await bench.state()).integrity == "ok"


async def test_a_full_stream_refuses_rather_than_forgets(bench: Bench) -> None:
    config = (await bench.stream.js.stream_info("CATALYST_CUTOVER")).config
    config.max_bytes = 2048
    await bench.stream.js.update_stream(config)
    journal = Journal(bench.stream)

    async def fill() -> None:
        for number in range(10):
            await journal.append(draft(accepted(), number))

    with pytest.raises(LogFull):
        await fill()
    assert (await Journal(bench.stream).refresh()).integrity == "ok"


async def test_an_unreachable_broker_is_said_with_its_address() -> None:
    port = free_port()
    with pytest.raises(LogUnavailable, match=f"127.0.0.1:{port}"):
        async with JetStreamLog.open(Broker(url=f"nats://127.0.0.1:{port}")):
            pass


async def test_an_append_while_the_broker_is_away_is_given_up_after_its_budget(bench: Bench) -> None:
    impatient = Broker(url=bench.broker.url, budget=0.5)
    async with JetStreamLog.open(impatient) as stream:
        await bench.broker.stop()
        began = datetime.now(UTC)
        with pytest.raises(LogUnavailable):
            await Journal(stream).append(draft(accepted(), 1))
        assert (datetime.now(UTC) - began).total_seconds() < 30
    await bench.broker.restart()
