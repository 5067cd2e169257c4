"""The wires between a Sovereign's parts: one TCP forwarder for each (who, host), each judged by a verdict.

A name on the network has an address that policies can speak of (198.51.100.0/24 for the outside, RFC 5737;
10.43.0.0/16 for the cluster's own services, as k3s gives them). Real sockets stay on loopback.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType

CHUNK = 65536
PATIENCE = 30.0  # seconds
OUTSIDE = "198.51.100."
INSIDE = "10.43.0."
ALIASES = {"registry-1.docker.io": "docker.io", "auth.docker.io": "docker.io"}
"""Other names of the same host: where Docker Hub really answers."""


def canonical(netloc: str) -> str:
    """The name under which a host is attached."""
    name = netloc.removesuffix(":443")
    return ALIASES.get(name, name)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who opens a connection."""

    kind: str
    """`pod` (own network namespace), `node` (host network) or `worker`."""
    name: str
    namespace: str = ""
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Host:
    """A name on the network: where it really listens, and the address that policies see."""

    name: str
    port: int
    local: bool
    address: str

    @property
    def addresses(self) -> tuple[str, ...]:
        """Every address of the name: what is outside has an AAAA record too (2001:db8::/32, RFC 3849)."""
        if self.local:
            return (self.address,)
        return (self.address, str(ipaddress.IPv6Address(SIX + int(ipaddress.IPv4Address(self.address)))))


SIX = int(ipaddress.IPv6Address("2001:db8::"))
Verdict = Callable[[Identity, str], bool]


def _everything(_who: Identity, _host: str) -> bool:
    return True


def _known_to_all(_host: str) -> bool:
    return True


class _Wire:
    """One accepted connection; `cut` ends both ends at once."""

    def __init__(self, who: Identity, host: str, client: asyncio.StreamWriter) -> None:
        self.who, self.host = who, host
        self.ends = [client]
        self.passing = False

    def cut(self) -> None:
        for end in self.ends:
            end.transport.abort()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while chunk := await source.read(CHUNK):
            sink.write(chunk)
            await sink.drain()
        if sink.can_write_eof():
            sink.write_eof()
    except (ConnectionError, OSError):
        sink.transport.abort()


class Network:
    """Every name and every route. Use `async with Network() as network`."""

    def __init__(self) -> None:
        self.hosts: dict[str, Host] = {}
        self.resolves: Callable[[str], bool] = _known_to_all
        """Does DNS say what this name's address is? Canaries ask; whoever knows the address needs no DNS."""
        self._verdict: Verdict = _everything
        self._routes: dict[tuple[Identity, str], asyncio.Server] = {}
        self._wires: set[_Wire] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._opening = asyncio.Lock()
        self._openings: set[asyncio.Task[asyncio.Server]] = set()
        self._closed = False

    async def __aenter__(self) -> Network:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def attach(self, host: str, port: int, *, local: bool) -> None:
        """Give a name to what listens on a loopback port. Attached again: the same address, the new port."""
        known = self.hosts.get(host)
        address = known.address if known and known.local == local else self._address(local)
        self.hosts[host] = Host(host, port, local, address)

    def move(self, host: str, *, address: str | None = None, local: bool | None = None) -> Host:
        """Give a host another address, or another side of the fence; what it was before. Judge again after it."""
        old = self.hosts[host]
        self.hosts[host] = replace(old, address=address or old.address, local=old.local if local is None else local)
        return old

    def _address(self, local: bool) -> str:
        taken = {h.address for h in self.hosts.values()}
        prefix = INSIDE if local else OUTSIDE
        return next(a for n in range(10, 255) if (a := f"{prefix}{n}") not in taken)

    def set_verdict(self, verdict: Verdict) -> None:
        """Judge by this from now on, established connections included: those now denied are cut.

        Cilium judges packets of established connections too (bpf_lxc.c), so keep-alive is no way around.
        """
        self._verdict = verdict
        for wire in list(self._wires):
            if wire.passing and not verdict(wire.who, wire.host):
                wire.cut()

    def allows(self, who: Identity, host: str) -> bool:
        """The verdict as it stands now."""
        return self._verdict(who, host)

    def patience(self, who: Identity, host: str, dropped: float) -> float:
        """Seconds that a client in the box waits for an answer: `dropped` where its packets are dropped.

        Where they arrive it waits long: a busy machine is no outage. A wire that is denied later is cut at once.
        """
        return max(dropped, PATIENCE) if self._verdict(who, host) else dropped

    async def route(self, who: Identity, host: str) -> int:
        """Loopback port on which `who` reaches `host`. Raises LookupError for a name nobody attached."""
        if host not in self.hosts:
            raise LookupError(f"no such host: {host}")
        # A caller that is cancelled meanwhile would leave behind a socket that listens and that nobody knows.
        opening = asyncio.get_running_loop().create_task(self._open(who, host))
        self._openings.add(opening)
        opening.add_done_callback(self._openings.discard)
        server = await asyncio.shield(opening)
        return int(server.sockets[0].getsockname()[1])

    async def _open(self, who: Identity, host: str) -> asyncio.Server:
        async with self._opening:
            if self._closed:
                raise LookupError(f"the network is down: {host}")
            server = self._routes.get((who, host))
            if server is None:
                server = await asyncio.start_server(partial(self._accept, who, host), "127.0.0.1", 0)
                self._routes[who, host] = server
            return server

    async def url(self, who: Identity, host: str) -> str:
        """Base URL on which `who` reaches `host`."""
        return f"http://127.0.0.1:{await self.route(who, host)}"

    async def forget(self, who: Identity) -> None:
        """Close every route of one that is gone."""
        await _shut([self._routes.pop(key) for key in [k for k in self._routes if k[0] == who]])
        for wire in [w for w in self._wires if w.who == who]:
            wire.cut()

    async def close(self) -> None:
        """Close every route and cut every connection. No route is opened any more."""
        self._closed = True
        await asyncio.gather(*self._openings, return_exceptions=True)
        await _shut(list(self._routes.values()))
        self._routes.clear()
        for wire in list(self._wires):
            wire.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, who: Identity, host: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(who, host, reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(
        self, who: Identity, host: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        wire = _Wire(who, host, writer)
        self._wires.add(wire)
        try:
            if self._verdict(who, host):
                await self._forward(wire, reader, writer)
            else:
                await _swallow(reader)
        finally:
            self._wires.discard(wire)
            wire.cut()

    async def _forward(self, wire: _Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire.passing = True
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.hosts[wire.host].port)
        except OSError:
            return
        wire.ends.append(far_writer)
        # The verdict may have changed while we connected.
        if not self._verdict(wire.who, wire.host):
            return
        await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        for end in wire.ends:
            with contextlib.suppress(OSError):
                end.close()
                await end.wait_closed()


async def _shut(servers: list[asyncio.Server]) -> None:
    """Accept nobody any more, then close: asyncio (3.11) leaks the socket of one accepted as its server closes."""
    loop = asyncio.get_running_loop()
    for server in servers:
        for listener in server.sockets:
            loop.remove_reader(listener.fileno())
    for _ in range(3):  # who was accepted already gets a connection
        await asyncio.sleep(0)
    for server in servers:
        server.close()


async def _swallow(reader: asyncio.StreamReader) -> None:
    """Say nothing until the client gives up: a dropped packet has no answer."""
    with contextlib.suppress(ConnectionError, OSError):
        while await reader.read(CHUNK):
            pass
