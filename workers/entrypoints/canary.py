"""A canary: tries to get out (and to stay in touch), says what it found, and ends.

Any answer counts as reached: an error page, an alert about a certificate. A connection that is accepted and
then stays silent does not. What is outside is tried on every way there may be: each address that its name has
now, IPv4 and IPv6 at once, each address that it had before (a name that does not resolve is no closed door),
and each proxy that somebody here is told to use.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click

from schemas.canary import NAMES, RESOLVERS, Asked, Finding
from workers.adapters.firewall import nameservers

TERMINATION_LOG = Path("/dev/termination-log")
"""Kubernetes' default `terminationMessagePath`."""
MESSAGE = 4096  # bytes of it that come back (kubelet, MaxContainerTerminationMessageLength)
RESOLV_CONF = Path("/etc/resolv.conf")
T = TypeVar("T")


async def look(
    targets: Sequence[str],
    timeout: float,
    connect: Mapping[str, str],
    *,
    known: Mapping[str, Iterable[str]] | None = None,
    proxies: Sequence[str] = (),
) -> list[Finding]:
    """Try every target at once: a base URL, or `dns://RESOLVER/NAME` to have a name resolved.

    `connect` maps host[:port] to another base URL on the wire. `known` maps host[:port] to addresses that are tried
    whatever the name resolves to; `proxies` are tried for those hosts.
    """
    outside = known or {}
    return list(await asyncio.gather(*(_try(t, timeout, connect, outside, proxies) for t in targets)))


async def _try(
    target: str,
    timeout: float,
    connect: Mapping[str, str],
    known: Mapping[str, Iterable[str]],
    proxies: Sequence[str],
) -> Finding:
    """One target, on every way to it at once."""
    host = urlsplit(target).netloc
    if target.startswith("dns://") and host not in connect:
        ways = [_once(_resolved(urlsplit(target).path.strip("/")))]
    else:
        ways = [_direct(target, host, connect, known.get(host, ()))]
        ways += [_through(proxy, target, connect) for proxy in proxies if host in known]
    works = [asyncio.ensure_future(way) for way in ways]
    try:
        # A way that is still tried when the time is over has had no answer.
        _, late = await asyncio.wait(works, timeout=timeout)
    finally:
        # Nor does one go on when whoever asked is cancelled: `wait` leaves them to themselves.
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)
    found = [finding for work in works if not work.cancelled() for finding in work.result()]
    return _best(host, found, f"no answer within {timeout:g} s" if late else "no address")


def _best(host: str, found: Sequence[Finding], otherwise: str) -> Finding:
    """One that got through, else the first that says why not."""
    through = [f for f in found if f.reached]
    if through:
        at = tuple(dict.fromkeys(address for f in through for address in f.at))
        return Finding(host=host, reached=True, detail=through[0].detail, at=_one_each(at))
    said = next((f.detail for f in found if f.detail), otherwise)
    return Finding(host=host, reached=False, detail=said)


def _one_each(addresses: Iterable[str]) -> tuple[str, ...]:
    """The first of each family: all of them would not fit into a termination message."""
    return tuple({ipaddress.ip_address(a).version: a for a in reversed(list(addresses))}.values())


async def _direct(target: str, host: str, connect: Mapping[str, str], known: Iterable[str]) -> list[Finding]:
    """By every address, those of the name and those that are known. Ends at the first that answers of each."""
    if host in connect:
        return await _once(_head(connect[host], host, None))
    found: list[Finding] = []

    async def at(address: str) -> None:
        found.extend(await _once(_head(target, host, address), address))

    async def by_name(tried: set[str]) -> None:
        try:
            addresses = await _lookup(urlsplit(target).hostname or host)
        except OSError as error:
            found.append(Finding(host=host, reached=False, detail=_words(error)))
            return
        await asyncio.gather(*(at(a) for a in addresses if a not in tried))

    given = set(known)
    works = [asyncio.ensure_future(by_name(given)), *(asyncio.ensure_future(at(a)) for a in sorted(given))]
    try:
        await asyncio.gather(*works)
    except asyncio.CancelledError:
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)
        if not any(f.reached for f in found):
            raise
    return found


async def _once(way: Coroutine[Any, Any, str], address: str = "") -> list[Finding]:
    """What came of one way. Never raises but when it is cancelled."""
    try:
        answer = await way
    except ssl.SSLError as error:
        # An alert is an answer: somebody out there spoke to us.
        answer = f"tls: {error.reason}"
    except OSError as error:
        return [Finding(host="", reached=False, detail=_words(error))]
    at = (address,) if address and answer else ()
    return [Finding(host="", reached=bool(answer), detail=answer or "closed without an answer", at=at)]


def _words(error: OSError) -> str:
    return (error.strerror or type(error).__name__)[:80]


async def addresses(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Name -> every address that it has here and now, A and AAAA; none for one that does not resolve."""
    return dict(zip(names, await asyncio.gather(*map(_addresses, names)), strict=True))


async def _addresses(name: str) -> tuple[str, ...]:
    try:
        return await _lookup(urlsplit(f"//{name}").hostname or name)
    except OSError:
        return ()


def names_document(found: Mapping[str, Sequence[str]]) -> str:
    """The one line of JSON that a look at names leaves behind."""
    return NAMES.dump_json({name: tuple(each) for name, each in found.items()}).decode()


async def _lookup(name: str) -> tuple[str, ...]:
    """Every address of a name, as every program here would be told it. Raises OSError."""
    found = await _in_thread(lambda: socket.getaddrinfo(name, None, type=socket.SOCK_STREAM))
    return tuple(dict.fromkeys(str(each[4][0]) for each in found))


async def _resolved(name: str) -> str:
    """The first address of a name."""
    return f"{name} is {(await _lookup(name))[0]}"[:60]


async def _in_thread(work: Callable[[], T]) -> T:
    """In a thread of its own that nobody waits for.

    Under the block a name outside hangs in the resolver for many seconds: the loop's own few threads would all be
    taken, and the Sovereign's own names would wait behind them.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def tell(act: Callable[[Any], None], value: object) -> None:
        if not answer.done():
            act(value)

    def run() -> None:
        act: tuple[Callable[[Any], None], object]
        try:
            act = (answer.set_result, work())
        except Exception as error:
            act = (answer.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody asks any more
            loop.call_soon_threadsafe(tell, *act)

    threading.Thread(target=run, daemon=True).start()
    return await answer


async def _head(url: str, host: str, address: str | None) -> str:
    """Status line of `HEAD /`, or "" when the other side closed without a word. `address`: where to connect."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    reader, writer = await asyncio.open_connection(
        address or parts.hostname,
        parts.port or (443 if secure else 80),
        ssl=_any_certificate() if secure else None,
        server_hostname=parts.hostname if secure else None,
    )
    try:
        return await _asked(reader, writer, "HEAD /", host)
    finally:
        writer.transport.abort()


async def _asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, what: str, host: str) -> str:
    writer.write(f"{what} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    await writer.drain()
    line = await reader.readline()
    return line.decode("latin-1").strip()[:40]


async def _through(proxy: str, target: str, connect: Mapping[str, str]) -> list[Finding]:
    """By a proxy's CONNECT. One that asks for a login may let others out: nobody knows, so it counts."""
    parts, wire = urlsplit(target), urlsplit(connect.get(proxy, f"//{proxy}"))
    wanted = f"{parts.hostname}:{parts.port or 443}"
    try:
        reader, writer = await asyncio.open_connection(wire.hostname, wire.port or 3128)
        try:
            answer = await _asked(reader, writer, f"CONNECT {wanted}", wanted)
        finally:
            writer.transport.abort()
    except (OSError, ValueError) as error:
        return [Finding(host="", reached=False, detail=f"proxy {proxy}: {type(error).__name__}"[:80])]
    status = [*answer.split(), "", ""][1]
    through = status.startswith("2") or status == "407"
    return [Finding(host="", reached=through, detail=f"by proxy {proxy}: {answer}"[:80])]


def _any_certificate() -> ssl.SSLContext:
    """Reachability, not trust: a leak behind a bad certificate is a leak."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def document(findings: Sequence[Finding]) -> str:
    """The one line of JSON a canary leaves behind. Of many targets less is said, but every one is told of."""
    said = ""
    for most in (80, 30, 0):
        parts = [f.model_copy(update={"detail": f.detail[:most]}) for f in findings]
        each = [f.model_dump(mode="json", exclude_defaults=True) | {"reached": f.reached} for f in parts]
        said = json.dumps(each, separators=(",", ":"))
        if len(said.encode()) <= MESSAGE:
            break
    return said


def known_of(given: Sequence[str], targets: Sequence[str]) -> dict[str, set[str]]:
    """`HOST=ADDRESS` texts by host; a bare `HOST` marks what is outside and has no known address."""
    found: dict[str, set[str]] = {}
    for text in given:
        host, _, address = text.partition("=")
        found.setdefault(host, set()).update({address} if address else ())
    return {host: each for host, each in found.items() if host in {urlsplit(t).netloc for t in targets}}


async def asked(image: str, url: str) -> Asked:
    """The image, asked for as anybody at its registry's URL."""
    # Only this kind of look needs it, and every canary is awaited.
    from workers.adapters.oci import anonymous

    return await anonymous.ask(image, url)


@click.command("canary")
@click.option("--target", "targets", multiple=True, help="Base URL to try; give it again.")
@click.option("--known", multiple=True, help="HOST[=ADDRESS]: it is outside, and is tried there whatever DNS says.")
@click.option("--proxy", "proxies", multiple=True, help="HOST:PORT of a proxy by which what is outside is tried too.")
@click.option("--names", is_flag=True, help="Say what each target's name resolves to, and try none.")
@click.option("--resolvers", is_flag=True, help="Say who is asked for names here, and try none.")
@click.option("--image", default="", help="Ask the first target for this image, as anybody, and try none.")
@click.option("--timeout", type=float, default=3.0, show_default=True, help="Seconds for each target.")
@click.option("--out", type=click.Path(path_type=Path), default=TERMINATION_LOG, show_default=True)
def command(
    targets: tuple[str, ...],
    known: tuple[str, ...],
    proxies: tuple[str, ...],
    names: bool,
    resolvers: bool,
    image: str,
    timeout: float,
    out: Path,
) -> None:
    """Say which targets answer from here. Ends with 0 whatever it finds: the finding is the result."""
    if not (targets or resolvers):
        raise click.UsageError("nothing to try: give --target")
    if resolvers:
        said = RESOLVERS.dump_json(tuple(nameservers(RESOLV_CONF.read_text(encoding="utf-8")))).decode()
    elif names:
        said = names_document(asyncio.run(addresses([urlsplit(t).netloc for t in targets])))
    elif image:
        said = asyncio.run(asked(image, targets[0])).model_dump_json()
    else:
        outside = known_of(known, targets)
        said = document(asyncio.run(look(targets, timeout, {}, known=outside, proxies=proxies)))
    click.echo(said)
    if out.parent.is_dir():
        out.write_text(said, encoding="utf-8")
