"""A canary: tries to get out (and to stay in touch), says what it found, and ends.

Any answer counts as reached: an error page, an alert about a certificate. A connection that is accepted and
then stays silent does not.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import click
from pydantic import TypeAdapter

from schemas.base import Travels

TERMINATION_LOG = Path("/dev/termination-log")
"""Kubernetes' default `terminationMessagePath`; at most 4096 bytes of it come back."""


class Finding(Travels):
    """One look at one target."""

    host: str
    reached: bool
    detail: str = ""


FINDINGS = TypeAdapter(tuple[Finding, ...])


async def look(targets: Sequence[str], timeout: float, connect: Mapping[str, str]) -> list[Finding]:
    """Try every target at once: a base URL, or `dns://RESOLVER/NAME` to have a name resolved.

    `connect` maps host[:port] to another base URL on the wire.
    """
    return list(await asyncio.gather(*(_try(t, timeout, connect) for t in targets)))


async def _try(target: str, timeout: float, connect: Mapping[str, str]) -> Finding:
    host = urlsplit(target).netloc
    try:
        async with asyncio.timeout(timeout):
            if target.startswith("dns://") and host not in connect:
                answer = await _resolved(urlsplit(target).path.strip("/"))
            else:
                answer = await _head(connect.get(host, target), host)
    except TimeoutError:
        return Finding(host=host, reached=False, detail=f"no answer within {timeout:g} s")
    except ssl.SSLError as error:
        # An alert is an answer: somebody out there spoke to us.
        return Finding(host=host, reached=True, detail=f"tls: {error.reason}")
    except OSError as error:
        return Finding(host=host, reached=False, detail=(error.strerror or type(error).__name__)[:80])
    return Finding(host=host, reached=bool(answer), detail=answer or "closed without an answer")


NAMES = TypeAdapter(dict[str, tuple[str, ...]])


async def addresses(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Name -> every address that it has here and now, A and AAAA; none for one that does not resolve."""
    return dict(zip(names, await asyncio.gather(*map(_addresses, names)), strict=True))


async def _addresses(name: str) -> tuple[str, ...]:
    host = name.partition(":")[0]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return ()
    return tuple(dict.fromkeys(str(each[4][0]) for each in found))


def names_document(found: Mapping[str, Sequence[str]]) -> str:
    """The one line of JSON that a look at names leaves behind."""
    return NAMES.dump_json({name: tuple(each) for name, each in found.items()}).decode()


async def _resolved(name: str) -> str:
    """The first address of a name, as every program here would be told it."""
    found = await asyncio.get_running_loop().getaddrinfo(name, None)
    return f"{name} is {found[0][4][0]}"[:60]


async def _head(url: str, host: str) -> str:
    """Status line of `HEAD /`, or "" when the other side closed without a word."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    reader, writer = await asyncio.open_connection(
        parts.hostname, parts.port or (443 if secure else 80), ssl=_any_certificate() if secure else None
    )
    try:
        writer.write(f"HEAD / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        line = await reader.readline()
        return line.decode("latin-1").strip()[:40]
    finally:
        writer.transport.abort()


def _any_certificate() -> ssl.SSLContext:
    """Reachability, not trust: a leak behind a bad certificate is a leak."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def document(findings: Sequence[Finding]) -> str:
    """The one line of JSON a canary leaves behind."""
    return json.dumps([f.model_dump() for f in findings], separators=(",", ":"))


@click.command("canary")
@click.option("--target", "targets", multiple=True, required=True, help="Base URL to try; give it again.")
@click.option("--names", is_flag=True, help="Say what each target's name resolves to, and try none.")
@click.option("--timeout", type=float, default=3.0, show_default=True, help="Seconds for each target.")
@click.option("--out", type=click.Path(path_type=Path), default=TERMINATION_LOG, show_default=True)
def command(targets: tuple[str, ...], names: bool, timeout: float, out: Path) -> None:
    """Say which targets answer from here. Ends with 0 whatever it finds: the finding is the result."""
    if names:
        said = names_document(asyncio.run(addresses([urlsplit(t).netloc for t in targets])))
    else:
        said = document(asyncio.run(look(targets, timeout, {})))
    click.echo(said)
    if out.parent.is_dir():
        out.write_text(said, encoding="utf-8")
