"""A reader is a position: what it is sent from there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import pytest

from events.jetstream import JetStreamLog
from events.log import Entry
from events.subjects import JOURNAL
from workers.entrypoints.api import live
from workers.entrypoints.api.feed import Feed
from workers.entrypoints.api.live import EventStream, Readers

NOBODY = cast(JetStreamLog, None)


def told(feed: Feed, *numbers: int) -> None:
    """Entries come in."""
    for number in numbers:
        feed._take(Entry(number, JOURNAL, b"x"))


@asynccontextmanager
async def waking(feed: Feed) -> AsyncIterator[None]:
    task = asyncio.create_task(feed._wake())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def sent(feed: Feed, after: int, wanted: int, **more: Any) -> list[int]:
    """Ids until so many have come."""
    stream = EventStream(feed, NOBODY, Readers(1, 1), "reader", after, **more)
    found: list[int] = []
    async with asyncio.timeout(60):
        async for raw in stream._frames():
            found += [int(line[4:]) for line in raw.splitlines() if line.startswith(b"id: ")]
            if len(found) >= wanted:
                break
    return found


async def test_a_reader_who_was_ahead_at_another_replica_is_told_nothing_twice() -> None:
    feed = Feed()
    told(feed, 1, 2, 3)
    async with waking(feed):
        reading = asyncio.create_task(sent(feed, 5, 2))
        await asyncio.sleep(0.2)
        told(feed, 4, 5, 6, 7)
        assert await reading == [6, 7]


async def test_a_place_that_never_comes_is_of_another_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "AHEAD", 0.1)
    feed = Feed()
    told(feed, 1, 2, 3)
    async with waking(feed):
        assert await sent(feed, 99, 3) == [1, 2, 3]


async def test_a_stream_that_need_not_follow_ends_with_what_there_is() -> None:
    feed = Feed()
    told(feed, 2, 4, 9)
    assert await sent(feed, 2, 99, once=True) == [4, 9]


async def test_events_that_come_at_once_travel_together_and_are_joined_once() -> None:
    feed = Feed()
    told(feed, *range(1, 50))
    first, second = feed.after(0), feed.after(0)
    assert first is second
    assert first is not None
    assert first.seq == 49
    assert feed.after(49) is None


@pytest.mark.parametrize(("cut", "once", "ended"), [(False, True, True), (True, True, False), (True, False, True)])
async def test_what_was_to_be_the_whole_is_not_ended_when_it_was_cut(cut: bool, once: bool, ended: bool) -> None:
    feed, readers, sent = Feed(), Readers(1, 1), list[Any]()
    told(feed, 1, 2, 3)
    readers.enter("reader")

    async def send(message: Any) -> None:
        sent.append(message)
        if cut and message.get("more_body"):
            readers.closing.set()
            await asyncio.sleep(3600)

    async def receive() -> Any:
        await asyncio.sleep(3600)

    await EventStream(feed, NOBODY, readers, "reader", 0, once=once)({"type": "http"}, receive, send)
    assert (not sent[-1].get("more_body", True)) is ended
    assert readers.count == 0
