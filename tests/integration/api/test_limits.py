"""What one process bears: large bodies, wrong types, slow senders, ten thousand connections."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from acceptance_scene import in_one_task
from api_bench import BASE, Door, door

from events.subjects import ALL

pytestmark = pytest.mark.asyncio(loop_scope="module")
CONNECTIONS = 300


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def opened(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    where = tmp_path_factory.mktemp("api")
    made, close = await in_one_task(lambda: door(where, connections=CONNECTIONS, arrival=1.0, answer=1.0))
    yield made
    await close()


async def raw(opened: Door, *parts: bytes, pause: float = 0.0) -> bytes:
    """What comes back for these bytes, until the other side closes or says no more."""
    place = urlsplit(opened.url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)
        async with asyncio.timeout(60):
            return await reader.read(65536)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_a_body_of_a_megabyte_is_refused_and_kept_nowhere(opened: Door, caplog: pytest.LogCaptureFixture) -> None:
    headers = {**opened.headers(), "Content-Type": "application/json"}
    answer = await opened.client.post(f"{BASE}/start", content=b'"' + b"x" * (1 << 20) + b'"', headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (413, "body-too-large")

    async def unending() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b" " * 16384

    answer = await opened.client.post(f"{BASE}/start", content=unending(), headers=headers)
    assert answer.status_code == 413
    assert await opened.bench.entries(ALL) == []
    assert "413 body-too-large" in caplog.text


async def test_only_json_is_read_and_only_what_is_known_in_it(opened: Door) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        headers = {**opened.headers(), "Content-Type": kind}
        answer = await opened.client.post(f"{BASE}/start", content=b'{"reason":"x"}', headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (415, "unsupported-media-type"), kind
    for body in (b"{", b'{"operator":"somebody else"}', b'{"reason":1}', b"[]", b'"start"', b"\xff"):
        headers = {**opened.headers(), "Content-Type": "application/json"}
        answer = await opened.client.post(f"{BASE}/start", content=body, headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid-request"), body
    assert await opened.bench.entries(ALL) == []


async def test_headers_too_large_are_refused(opened: Door) -> None:
    answer = await opened.get("/status", **{"X-Much": "x" * 20000})
    assert answer.status_code in (400, 431)
    many = await opened.get("/status", **{f"X-{number}": "x" * 100 for number in range(150)})
    assert (many.status_code, many.json()["error"]) == (431, "headers-too-large")


async def test_whoever_sends_too_slowly_is_sent_away(opened: Door) -> None:
    assert b"408" in await raw(opened, b"GET /healthz HTTP/1.1\r\n", b"Host: x\r\n", b"X-a: b\r\n", pause=0.4)
    assert b"408" in await raw(opened)  # nothing at all
    start = f"POST {BASE}/start HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nContent-Type: application/json\r\n\r\n"
    assert b"408" in await raw(opened, start.encode(), b"{", pause=0.1)
    kept = await raw(opened, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /healthz HTTP/1.1\r\n", pause=0.5)
    assert b"200 OK" in kept


async def test_what_is_no_http_is_answered_400_and_closed(opened: Door) -> None:
    for noise in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\n: x\r\n\r\n",
    ):
        assert b"400" in (await raw(opened, noise))[:40]


async def test_ten_thousand_connections_are_bounded_and_logged_and_leave_the_others_served(
    opened: Door, caplog: pytest.LogCaptureFixture
) -> None:
    """They send a byte and wait, so that only the bound and the time limit end them."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    place = urlsplit(opened.url)
    refused = held = most = 0
    held_at_server = opened.server.server_state.connections

    async def knock() -> None:
        nonlocal refused, held, most
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        with contextlib.suppress(ConnectionError):
            writer.write(b"G")
            most = max(most, len(held_at_server))
            answer = await reader.read(4096)
            refused += b"503" in answer and b"too-many-connections" in answer
            held += b"408" in answer
        writer.close()

    async with opened.client.stream("GET", f"{BASE}/events", headers=opened.headers()) as watching:
        assert watching.status_code == 200
        gate = asyncio.Semaphore(1500)

        async def bounded() -> None:
            async with gate:
                await knock()

        async with asyncio.timeout(60):
            await asyncio.gather(*(bounded() for _ in range(10_000)))
        assert most <= CONNECTIONS
        assert refused > 1000
        assert held > 0
    assert "refused" in caplog.text
    lines = [record for record in caplog.records if "connections:" in record.getMessage()]
    assert len(lines) < 60
    assert (await opened.client.get("/healthz")).status_code == 200
    text = (await opened.client.get("/metrics")).text
    count = next(line for line in text.splitlines() if line.startswith("cutover_api_connections_refused_total"))
    assert float(count.split()[1]) >= refused
