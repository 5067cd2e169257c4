"""Server-sent events: replay, then live. Slow readers get the newest state, and are told what they missed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from events.jetstream import JetStreamLog
from events.log import LogUnavailable, NotPermitted
from workers.entrypoints.api.feed import Feed, older

log = logging.getLogger("cutover.api")

HEARTBEAT: Final = 15.0  # seconds
RETRY: Final = 2000  # milliseconds that a browser waits before it comes back
AHEAD: Final = 2.0
"""Seconds in which we must come to where a reader has been already, at another replica."""
LAG: Final = 256
"""Live events that a reader may be behind; one more, and it gets the newest state instead."""
RESET: Final = b'event: reset\ndata: {"why":"your place is of another log; this one is told from its start"}\n\n'
HEADERS: Final = {"Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no"}


@dataclass
class Readers:
    """Who reads along in this process: counted, bounded, sent home at the end."""

    most: int
    most_each: int
    open: dict[str, int] = field(default_factory=dict)
    lagged: int = 0
    refused: int = 0
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def count(self) -> int:
        return sum(self.open.values())

    def enter(self, who: str) -> bool:
        """False when there are too many already."""
        if self.count >= self.most or self.open.get(who, 0) >= self.most_each:
            self.refused += 1
            return False
        self.open[who] = self.open.get(who, 0) + 1
        return True

    def leave(self, who: str) -> None:
        self.open[who] -= 1
        if not self.open[who]:
            del self.open[who]


class EventStream(Response):
    """One reader, from `after` on."""

    media_type = "text/event-stream"

    def __init__(
        self, feed: Feed, stream: JetStreamLog, readers: Readers, who: str, after: int,
        *, until: float | None = None, once: bool = False, heartbeat: float = HEARTBEAT,
    ) -> None:  # fmt: skip
        super().__init__(None, 200, HEADERS)
        del self.headers["content-length"]
        self._feed, self._stream, self._readers, self._who = feed, stream, readers, who
        self._after, self._heartbeat, self._until, self._once = after, heartbeat, until, once

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}

        async def write(raw: bytes) -> None:
            await send({"type": "http.response.body", "body": raw, "more_body": True})

        try:
            await send(start)
            writing = asyncio.ensure_future(self._write(write))
            enough = [
                asyncio.ensure_future(_gone(receive)),
                asyncio.ensure_future(self._readers.closing.wait()),
            ]
            try:
                async with asyncio.timeout(self._until):
                    await asyncio.wait([writing, *enough], return_when=asyncio.FIRST_COMPLETED)
            except TimeoutError:
                pass  # the token has run out: whoever reads comes back with a new one
            finally:
                for task in (writing, *enough):
                    task.cancel()
                results = await asyncio.gather(writing, *enough, return_exceptions=True)
            _tell(results[0])
            if self._once and results[0] is not None:
                return  # cut short: without its end, nobody takes it for the whole; the connection is closed
            with suppress(OSError):
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._readers.leave(self._who)

    async def _write(self, write: Callable[[bytes], object]) -> None:
        async for raw in self._frames():
            done = write(raw)
            assert asyncio.iscoroutine(done)  # noqa: S101
            await done

    async def _frames(self) -> AsyncIterator[bytes]:
        """What this reader is sent, piece by piece; each piece waits until the one before could be written."""
        feed, at, epoch = self._feed, self._after, self._feed.epoch
        yield b": here\nretry: %d\n\n" % RETRY
        # Another replica may have been a moment ahead of us. A place that never comes is of another log.
        if at > feed.state.seq and not await feed.moved(at - 1, AHEAD):
            at = 0
            yield RESET
        replay = feed.state.seq
        shown: tuple[int, bool] | None = None
        while True:
            if epoch != feed.epoch:
                epoch, at, replay, shown = feed.epoch, 0, feed.state.seq, None
                yield RESET
            if at >= replay and (at < feed.floor or feed.behind(at) > LAG):
                self._readers.lagged += 1
                at, raw = _newest(feed, at)
                yield raw
                shown = (at, feed.live)
                continue
            if at < feed.floor:
                until = feed.floor
                async for old in older(self._stream, at, until):
                    at = old.seq
                    yield old.raw
                at = max(at, until)
                continue
            if (chunk := feed.after(at)) is not None:
                at = chunk.seq
                yield chunk.raw if at < feed.state.seq else chunk.raw + feed.picture()
                shown = (at, feed.live)
                continue
            if shown != (at, feed.live):
                yield feed.picture()
                shown = (at, feed.live)
            if self._once:
                return
            if not await feed.moved(at, self._heartbeat):
                yield b": alive\n\n"


def _newest(feed: Feed, at: int) -> tuple[int, bytes]:
    """Where a reader goes on who is too slow, and what it is told."""
    head, missed = feed.state.seq, feed.behind(at)
    told = orjson.dumps({"from": at + 1, "to": head, "missed": missed, "why": "this reader is too slow"})
    return head, b"id: %d\nevent: lagged\ndata: %s\n\n" % (head, told) + feed.picture()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _tell(result: object) -> None:
    """Why a reader was left; that it went away itself is no news."""
    match result:
        case LogUnavailable() | NotPermitted():
            log.warning("a reader is sent home: %s", result)
        case asyncio.CancelledError() | None:
            return
        case BaseException():
            log.error("a reader was lost", exc_info=result)
