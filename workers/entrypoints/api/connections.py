"""How many connections one process holds, and for how long one may say nothing or take nothing."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from workers.entrypoints.settings import ApiLimits

log = logging.getLogger("cutover.api")

FULL = b'{"error":"too-many-connections","detail":"this process serves as many as it may; ask again"}'
SLOW = b'{"error":"too-slow","detail":"the request did not arrive in time"}'


@dataclass
class Tally:
    """What was refused and cut; told to the log once a second at most."""

    refused: int = 0
    slow: int = 0
    stalled: int = 0
    open: int = 0
    _told: float = float("-inf")

    def tell(self) -> None:
        """A flood must not become a flood of lines."""
        if (now := time.monotonic()) - self._told >= 1.0:
            self._told = now
            log.warning(
                "connections: %d open, so far %d refused, %d too slow to ask, %d took nothing",
                self.open, self.refused, self.slow, self.stalled,
            )  # fmt: skip


def protocol(limits: ApiLimits, tally: Tally) -> type[asyncio.Protocol]:
    """uvicorn's HTTP/1.1, bounded."""

    class Bounded(H11Protocol):
        _admitted = False
        _arriving: asyncio.TimerHandle | None = None
        _stalling: asyncio.TimerHandle | None = None

        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            self.access_log = False  # it would print the query, and a ticket with it, whatever the settings say

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            if len(self.connections) >= limits.connections:
                tally.refused += 1
                tally.tell()
                transport.write(answer(b"503 Service Unavailable", FULL))
                transport.close()
                return
            self._admitted = True
            super().connection_made(transport)
            tally.open = len(self.connections)
            self._expect()

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget()
            if self._admitted:
                super().connection_lost(exc)
                tally.open = len(self.connections)

        def data_received(self, data: bytes) -> None:
            if not self._admitted:
                return
            super().data_received(data)
            if self._busy():
                self._forget_arrival()
            elif self._arriving is None:
                self._expect()

        def pause_writing(self) -> None:
            if self._admitted:
                super().pause_writing()
                self._stalling = self.loop.call_later(limits.stall, self._cut)

        def resume_writing(self) -> None:
            if self._stalling is not None:
                self._stalling.cancel()
                self._stalling = None
            if self._admitted:
                super().resume_writing()

        def _busy(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _expect(self) -> None:
            self._arriving = self.loop.call_later(limits.arrival, self._late)

        def _late(self) -> None:
            """Nothing whole has come: a slow loris, or nobody."""
            self._arriving = None
            if self._busy() or self.transport.is_closing():
                return
            tally.slow += 1
            tally.tell()
            self.transport.write(answer(b"408 Request Timeout", SLOW))
            self.transport.close()

        def _cut(self) -> None:
            """Whoever reads has taken nothing for too long: what waits for it is memory of ours."""
            self._stalling = None
            tally.stalled += 1
            tally.tell()
            self.transport.abort()

        def _forget_arrival(self) -> None:
            if self._arriving is not None:
                self._arriving.cancel()
                self._arriving = None

        def _forget(self) -> None:
            self._forget_arrival()
            if self._stalling is not None:
                self._stalling.cancel()
                self._stalling = None

    return Bounded


def answer(status: bytes, body: bytes) -> bytes:
    """A whole response, for those whom no route ever sees."""
    head: list[Any] = [
        b"HTTP/1.1 " + status, b"content-type: application/json", b"content-length: %d" % len(body),
        b"connection: close", b"retry-after: 2",
    ]  # fmt: skip
    return b"\r\n".join([*head, b"", b""]) + body
