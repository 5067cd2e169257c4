"""A canary tries every way out there may be: what DNS says, what it said before, both families, and proxies."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from schemas.canary import FINDINGS, Finding
from workers.entrypoints import canary

HOST = "upstream.test"


@asynccontextmanager
async def answering(words: bytes, address: str = "127.0.0.1", port: int = 0) -> AsyncIterator[int]:
    """Somebody who says these words to whoever asks; without words, somebody who is silent."""
    ended: list[asyncio.Task[None]] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.readline()
            writer.write(words)
            if not words:
                await reader.read()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended.append(asyncio.create_task(talk(reader, writer)))

    server = await asyncio.start_server(serve, address, port)
    async with server:
        yield int(server.sockets[0].getsockname()[1])
    await asyncio.gather(*ended)


def resolver(monkeypatch: pytest.MonkeyPatch, found: Sequence[str] | Exception, delay: float = 0.0) -> None:
    """Names lead where a test says; an address is what it is."""
    real = socket.getaddrinfo

    def ask(host: str, port: object, *args: object, **more: object) -> object:
        if host.replace(".", "").isdigit() or ":" in host:
            return real(host, port, *args, **more)  # type: ignore[arg-type,call-overload]
        time.sleep(delay)
        if isinstance(found, Exception):
            raise found
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 0)) for each in found]

    monkeypatch.setattr(socket, "getaddrinfo", ask)


async def test_a_name_that_does_not_resolve_is_no_closed_door(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver(monkeypatch, socket.gaierror(-3, "Temporary failure in name resolution"))
    async with answering(b"HTTP/1.1 200 OK\r\n\r\n") as port:
        url, host = f"http://{HOST}:{port}", f"{HOST}:{port}"
        (by_name,) = await canary.look([url], 5, {})
        (by_address,) = await canary.look([url], 5, {}, known={host: {"127.0.0.1"}})
    assert not by_name.reached
    assert "name resolution" in by_name.detail
    assert by_address.reached
    assert by_address.at == ("127.0.0.1",)


async def test_one_address_of_many_that_answers_is_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropped packets on the first address must not eat the time of the second: IPv4 blocked, IPv6 open."""
    resolver(monkeypatch, ["127.0.0.2", "127.0.0.1"])
    async with answering(b"HTTP/1.1 404 Not Found\r\n\r\n") as port, answering(b"", "127.0.0.2", port):
        (found,) = await canary.look([f"http://{HOST}:{port}"], 3, {})
    assert found.reached
    assert found.at == ("127.0.0.1",)


async def test_many_names_that_hang_do_not_make_the_sovereigns_own_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the block every name outside hangs in the resolver, and the loop has but a few threads."""
    resolver(monkeypatch, socket.gaierror(-3, "again"), delay=6.0)
    async with answering(b"HTTP/1.1 200 OK\r\n\r\n") as port:
        outside = [f"http://away-{number}.test:{port}" for number in range(60)]
        *hung, local = await canary.look([*outside, f"http://127.0.0.1:{port}"], 4.0, {})
    assert local.reached
    assert not any(each.reached for each in hung)
    assert "no answer within" in hung[0].detail


@pytest.mark.parametrize(
    ("answer", "reached"),
    [
        (b"HTTP/1.1 200 Connection established\r\n\r\n", True),
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", True),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", False),
        (b"", False),
    ],
)
async def test_a_proxy_that_lets_out_is_a_way_out(
    answer: bytes, reached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver(monkeypatch, socket.gaierror(-2, "unknown"))
    async with answering(answer) as port:
        proxy = f"127.0.0.1:{port}"
        outside, local = await canary.look(
            [f"https://{HOST}", "http://gitea.test"], 2, {}, known={HOST: ()}, proxies=(proxy,)
        )
    assert outside.reached is reached
    assert not reached or "by proxy" in outside.detail
    assert not local.reached, "what is local must be reached without one"


def test_what_a_canary_says_fits_into_a_termination_message() -> None:
    many = [f"{number:02d}.a-rather-long-name-of-a-registry.example" for number in range(14)]
    at = ("203.0.113.200", "2001:0db8:85a3:0000:0000:8a2e:0370:7334")
    said = canary.document([Finding(host=h, reached=True, detail="x" * 80, at=at) for h in many])
    assert len(said) < 4096
    assert len(FINDINGS.validate_json(said)) == 14


def test_known_addresses_are_read_as_they_are_given() -> None:
    targets = ["https://ghcr.io", "https://[2001:db8::1]:8443", "http://gitea:3000"]
    given = ["ghcr.io", "ghcr.io=192.0.2.1", "ghcr.io=2001:db8::2", "[2001:db8::1]:8443", "stranger=192.0.2.9"]
    assert canary.known_of(given, targets) == {
        "ghcr.io": {"192.0.2.1", "2001:db8::2"},
        "[2001:db8::1]:8443": set(),
    }
