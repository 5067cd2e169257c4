"""Live events: a thousand readers from one subscription, readers cut anywhere, readers too slow."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from api_bench import BASE, Door, door, frames
from pool_bench import opened as broker
from readers_bench import readers, served, started, telling

from events.subjects import JOURNAL
from workers.entrypoints.api.live import LAG

READERS = 1000
MOST_CPU = 0.5e-3  # seconds for one event to one reader
MOST_MEMORY = 150 * 1024  # bytes for one reader


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Door]:
    async with door(tmp_path, send_buffer=4096, stall=1.0) as made:
        yield made


async def journal(opened: Any) -> list[int]:
    return [entry.seq for entry in await opened.entries(JOURNAL)]


@pytest.mark.slow
async def test_each_of_a_thousand_readers_sees_every_event_in_order(tmp_path: Path) -> None:
    async with broker(tmp_path) as bench, served(bench, tmp_path) as api:
        alone = api.memory()
        crowd = await readers(api.url, READERS)
        before = api.cpu()
        await bench.worker(telling(3, 0.3), lease=20.0)
        assert await asyncio.to_thread(started, api.url) == 202
        async with asyncio.timeout(80):
            await asyncio.gather(*(reader.ended for reader in crowd))
        ids = await journal(bench)
        assert len(ids) > 30
        for reader in crowd:
            assert reader.ids == ids[: len(reader.ids)]
            assert len(reader.ids) >= len(ids) - 1  # an audit may follow the end
        used, grown = api.cpu() - before, api.memory() - alone
        assert used / (READERS * len(ids)) < MOST_CPU
        assert grown / READERS < MOST_MEMORY
        for reader in crowd:
            reader.transport.abort()


async def test_a_reader_that_is_cut_anywhere_gets_each_event_once(opened: Door) -> None:
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    await opened.bench.worker(telling(4, 0.15), lease=20.0)
    ended = asyncio.Event()

    async def reads() -> list[int]:
        """Comes back with the newest id that came whole, until the run has ended."""
        got: list[int] = []
        while True:
            last = {"Last-Event-ID": str(got[-1])} if got else {}
            path = f"{BASE}/events" if got else f"{BASE}/events?lastEventId=0"
            text, most = "", chance.randrange(1, 20000)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(chance.uniform(0.05, 1.0)):
                    async with opened.client.stream("GET", path, headers={**opened.headers(), **last}) as answer:
                        async for part in answer.aiter_text():
                            text += part
                            if len(text) > most:
                                break
            whole = text[: text.rfind("\n\n") + 2]
            got += [number for number, _, _ in frames(whole) if number is not None]
            if ended.is_set() and got and got[-1] >= opened.bench_head:  # type: ignore[attr-defined]
                return got

    crowd = [asyncio.create_task(reads()) for _ in range(12)]
    await opened.post("/start")
    await opened.bench.until(lambda state: state.complete, 60)
    ids = await journal(opened.bench)
    opened.bench_head = ids[-1]  # type: ignore[attr-defined]
    ended.set()
    async with asyncio.timeout(60):
        for got in await asyncio.gather(*crowd):
            assert got == ids, f"seed {seed}"


async def test_what_is_kept_no_longer_is_read_from_the_log_again(opened: Door) -> None:
    feed = opened.server.config.app.state.front.feed  # type: ignore[union-attr]
    feed._kept = 4000
    await opened.bench.worker()
    await opened.post("/start")
    await opened.bench.until(lambda state: state.complete)
    await flood(opened, 60)  # so that what is kept begins right behind what is not
    ids = await journal(opened.bench)
    while feed.state.seq < ids[-1]:
        await asyncio.sleep(0.05)
    assert feed.floor > ids[3]
    for after in (0, ids[2], feed.floor - 1, feed.floor, ids[-2]):
        assert await replayed(opened, after) == [seq for seq in ids if seq > after], after


async def replayed(opened: Door, after: int) -> list[int]:
    """Ids until the newest state comes."""
    text = ""
    async with (
        asyncio.timeout(60),
        opened.client.stream("GET", f"{BASE}/events?lastEventId={after}", headers=opened.headers()) as answer,
    ):
        async for part in answer.aiter_text():
            text += part
            if "event: status" in text and text.endswith("\n\n"):
                break
    return [number for number, _, _ in frames(text) if number is not None]


async def test_without_a_place_to_go_on_from_the_newest_run_is_replayed(opened: Door) -> None:
    await opened.bench.worker()
    await opened.post("/start")
    await opened.bench.until(lambda state: state.complete)
    second = (await opened.post("/start", {"again": True})).json()["run"]
    await opened.bench.until(lambda state: state.run is not None and state.run.id == second and state.run.closed)
    text = ""
    async with opened.client.stream("GET", f"{BASE}/events", headers=opened.headers()) as answer:
        async for part in answer.aiter_text():
            text += part
            if "event: completed" in text and text.endswith("\n\n"):
                break
    told = [data for number, _, data in frames(text) if number is not None]
    assert {data["run"] for data in told} == {second}
    assert told[0]["kind"] == "accepted"


async def slow(opened: Door) -> socket.socket:
    """A reader that has asked, and takes nothing."""
    place = urlsplit(opened.url)
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(reader, (place.hostname, place.port))
    ask = (
        f"GET {BASE}/events?lastEventId=0 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {opened.issuer.token()}\r\n\r\n"
    )
    await loop.sock_sendall(reader, ask.encode())
    assert b"200 OK" in await loop.sock_recv(reader, 300)
    return reader


async def flood(opened: Door, count: int) -> int:
    """So many entries of the journal, and the last one's sequence."""
    sent = 0
    for first in range(0, count, 200):
        batch = [opened.bench.stream.publish_raw(JOURNAL, b"x" * 100) for _ in range(min(200, count - first))]
        sent = max(await asyncio.gather(*batch))
    return sent


async def test_a_reader_too_slow_gets_the_newest_state_and_is_told_what_it_missed(tmp_path: Path) -> None:
    async with door(tmp_path, send_buffer=4096, stall=60.0) as opened:
        loop = asyncio.get_running_loop()
        with await slow(opened) as reader:
            last = await flood(opened, 12 * LAG)  # some 800 fit into the buffers on the way, at least LAG do not
            state = opened.server.config.app.state  # type: ignore[union-attr]
            readers, feed = state.readers, state.front.feed
            async with asyncio.timeout(60):  # reading before that, it might never be too slow
                while feed.state.seq < last:
                    await asyncio.sleep(0.05)
            text = b""
            async with asyncio.timeout(60):
                # It may have been told early and then have kept up: the last entry comes in either way, whole.
                while b"event: lagged" not in text or b"\n\n" not in text.partition(f"id: {last}\n".encode())[2]:
                    text += await loop.sock_recv(reader, 1 << 16)
            whole = text[: text.rfind(b"\n\n") + 2].decode()
            told = [(number, data) for number, kind, data in frames(whole) if kind == "lagged"]
            # What the kernel holds for it goes through now and then; each stretch that did not is told, once.
            assert readers.lagged == len(told)
            assert told[0][1]["missed"] > LAG
            assert all(after["from"] > before["to"] for (_, before), (_, after) in pairwise(told))
            assert all(data["to"] == number for number, data in told)
            after = await flood(opened, 1)
            async with asyncio.timeout(60):
                while f"id: {after}\n".encode() not in text:
                    text += await loop.sock_recv(reader, 1 << 16)


async def test_a_reader_that_takes_nothing_is_cut_off(opened: Door, caplog: pytest.LogCaptureFixture) -> None:
    readers = opened.server.config.app.state.readers  # type: ignore[union-attr]
    with await slow(opened):
        assert readers.count == 1
        async with asyncio.timeout(60):
            while readers.count:  # until the kernel's buffers are full, and a second more
                await flood(opened, 400)
                await asyncio.sleep(0.2)
    assert "took nothing" in caplog.text


async def test_readers_too_many_are_refused_and_make_room_when_they_leave(tmp_path: Path) -> None:
    async with door(tmp_path, readers=3, readers_each=2) as opened:
        path, mine = f"{BASE}/events", opened.headers()
        async with opened.client.stream("GET", path, headers=mine), opened.client.stream("GET", path, headers=mine):
            third = await opened.client.get(path, headers=mine)
            assert (third.status_code, third.json()["error"]) == (429, "too-many-readers")
        readers = opened.server.config.app.state.readers  # type: ignore[union-attr]
        async with asyncio.timeout(60):
            while readers.count:
                await asyncio.sleep(0.02)
        async with opened.client.stream("GET", path, headers=mine) as again:
            assert again.status_code == 200
