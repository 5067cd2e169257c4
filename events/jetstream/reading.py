"""Reading the stream: one message, all above a sequence, or for ever; and what is delivered to its consumers."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

import anyio
import nats.js.errors
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from events.jetstream.connection import Connection
from events.jetstream.delivery import Delivery
from events.jetstream.ears import Ears
from events.jetstream.settings import Broker
from events.jetstream.shape import LogReplaced
from events.jetstream.wire import RETRY, standing, stored, words
from events.log import Entry, LogUnavailable, NoLog, NotPermitted
from events.subjects import JOURNAL

BACKLOG: Final = 1000  # messages of one pull
CATCHING_UP: Final = 10.0  # seconds in which a new leader must have all that was read from the one before
PATIENCE: Final = 30.0  # seconds of one long pull; a reconnect ends it early


class Reader(Connection):
    """Reads one stream, and knows it again."""

    def __init__(self, client: Ears, broker: Broker) -> None:
        super().__init__(client, broker)
        self._born: str | None = None
        self._behind_since: float | None = None

    async def last(self) -> Entry | None:
        """The newest journal entry, read from the leader."""
        reply = await self._api(f"STREAM.MSG.GET.{self.broker.stream}", {"last_by_subj": JOURNAL}, missing=404)
        return stored(reply["message"]) if reply else None

    async def since(self, seq: int) -> Sequence[Entry]:
        """Journal entries above `seq`: a few one by one, many by a throwaway consumer."""
        entries: list[Entry] = []
        for _ in range(8):
            request = {"seq": seq + 1, "next_by_subj": JOURNAL}
            reply = await self._api(f"STREAM.MSG.GET.{self.broker.stream}", request, missing=404)
            if not reply:
                return entries
            entries.append(stored(reply["message"]))
            seq = entries[-1].seq
        async for entry in self.read(JOURNAL, seq):
            entries.append(entry)
        return entries

    async def follow(self, seq: int) -> AsyncIterator[Entry]:
        """Journal entries above `seq`, then live, across restarts of the broker."""
        async for entry in self.read(JOURNAL, seq, live=True):
            yield entry

    async def read(self, subject: str, seq: int = 0, *, live: bool = False) -> AsyncIterator[Entry]:
        """Entries of a subject above `seq`: up to the newest one, or without end when `live`.

        Raises LogReplaced when `live` and the stream is not the one that was read before."""
        while True:
            try:
                if live:
                    await self._same(seq)
                async for entry in self._pull(subject, seq, live):
                    seq = entry.seq
                    yield entry
                return
            except RETRY as error:
                if self._refused("$js.api.consumer."):
                    raise NotPermitted(str(self.denied)) from None
                if not live:
                    raise LogUnavailable(f"reading {subject}: {words(error)}") from None
                await anyio.sleep(0.2)

    async def born(self) -> str:
        """When the stream was made, which tells it from another one of its name. Raises LogUnavailable."""
        return str((await self._info())["created"])

    async def newest(self) -> int:
        """Sequence of the newest message, on whatever subject; 0 in an empty stream. Raises LogUnavailable."""
        return int((await self._info())["state"]["last_seq"])

    async def _info(self) -> dict[str, Any]:
        found = await self._api(f"STREAM.INFO.{self.broker.stream}", {}, missing=404)
        if found is None:
            raise NoLog(f"there is no stream {self.broker.stream}")
        return found

    async def _same(self, seq: int) -> None:
        """Raises LogReplaced; ConnectionError while nobody can say."""
        try:
            info = await self._info()
        except LogUnavailable as error:
            raise ConnectionError(str(error)) from None
        born, last = str(info["created"]), int(info["state"]["last_seq"])
        if self._born not in (None, born):
            raise LogReplaced(f"stream {self.broker.stream} was made anew at {born}; what was read before is not in it")
        self._born = born
        if last >= seq:
            self._behind_since = None
            return
        # A new leader may for a moment not have applied all that the one before it had confirmed.
        self._behind_since = self._behind_since or time.monotonic()
        if time.monotonic() - self._behind_since < CATCHING_UP:
            raise ConnectionError(f"the stream ends at {last}, and {seq} was read before")
        raise LogReplaced(f"stream {self.broker.stream} ends at {last}, and {seq} was read: it was cut back")

    async def _pull(self, subject: str, seq: int, live: bool) -> AsyncIterator[Entry]:
        config = ConsumerConfig(
            # A name, since with one the broker is asked on a subject that holds name and filter: what a user may
            # read can be granted, and a reader that takes the name of a step's consumer can be refused.
            name=f"reader-{uuid4().hex}",
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=seq + 1,
            ack_policy=AckPolicy.NONE,
            filter_subject=subject,
            inactive_threshold=60.0,
            mem_storage=True,
            num_replicas=1,
        )
        with self._until_news() as waiting:
            info = await self.js.add_consumer(self.broker.stream, config)
        if waiting.cancelled_caught:
            raise ConnectionError("the broker refused or restarted")
        pending = info.num_pending or 0
        try:
            if not pending and not live:
                return
            async for msg in self._flow(info.name):
                place = standing(msg.reply)
                yield Entry(place.seq, msg.subject, msg.data)
                if not live and not place.pending:
                    return
        finally:
            with anyio.move_on_after(1, shield=True), suppress(*RETRY):
                # Otherwise the server forgets it by itself after the threshold.
                await self.js.delete_consumer(self.broker.stream, info.name)

    async def _flow(self, consumer: str) -> AsyncIterator[Msg]:
        """What a consumer delivers, as it comes: one request for many messages, renewed when used up or expired.

        nats-py's `fetch(n)` waits until all n are there; a live reader cannot. Raises ConnectionError when the
        client has reconnected: the server forgot the request."""
        inbox = self.client.new_inbox()
        arrived: deque[Msg] = deque()
        news = anyio.Event()

        async def take(msg: Msg) -> None:
            arrived.append(msg)
            news.set()

        # A callback, since waiting for each message by itself costs more than the message.
        subscription = await self.client.subscribe(inbox, cb=take)
        request = json.dumps({"batch": BACKLOG, "expires": int(PATIENCE * 1e9)}).encode()
        left = 0
        try:
            while True:
                if left == 0:
                    left = BACKLOG
                    await self.client.publish(
                        f"$JS.API.CONSUMER.MSG.NEXT.{self.broker.stream}.{consumer}", request, inbox
                    )
                if not arrived:
                    news = anyio.Event()
                    with self._until_news(), anyio.move_on_after(PATIENCE + 5):
                        await news.wait()
                    if not arrived and self.denied and not self._refused("$js.api.consumer.msg.next"):
                        continue  # something else was refused to somebody else of this process
                    if not arrived:
                        raise ConnectionError("the broker restarted")
                msg = arrived.popleft()
                said = msg.headers or {}  # by the broker: a stored message has none here
                if status := said.get("Status"):
                    if status == "408":  # expired: ask again
                        left = 0
                        continue
                    raise nats.js.errors.APIError(code=int(status), description=said.get("Description"))
                left -= 1
                yield msg
        finally:
            with anyio.move_on_after(1, shield=True), suppress(*RETRY):
                await subscription.unsubscribe()

    # --- what the stream is, and what time it is there ------------------------------------------------------

    async def clock(self) -> datetime:
        """What time the broker says it is: the one clock that all processes share. Raises LogUnavailable."""
        info = await self._info()
        try:
            return datetime.fromisoformat(info["ts"]).astimezone(UTC)
        except (KeyError, TypeError, ValueError):
            raise LogUnavailable("the broker does not say what time it is") from None

    async def elapsed_since(self, seq: int) -> float:
        """Seconds since the broker stored the message at `seq`, by its own clock. Raises LogUnavailable."""
        found = await self._api(f"STREAM.MSG.GET.{self.broker.stream}", {"seq": seq}, missing=404)
        if found is None:
            raise LogUnavailable(f"message {seq} is not in the stream")
        stored_at = datetime.fromisoformat(found["message"]["time"]).astimezone(UTC)
        return (await self.clock() - stored_at).total_seconds()

    # --- deliveries ------------------------------------------------------------------------------------------

    async def deliveries(self, durable: str) -> AsyncIterator[Delivery]:
        """What is delivered to a durable consumer, one at a time, without end."""
        subscription = await self.js.pull_subscribe_bind(durable, self.broker.stream)
        while True:
            message: Msg | None = None
            with self._until_news():
                try:
                    message = (await subscription.fetch(1, timeout=PATIENCE))[0]
                except TimeoutError:
                    continue
                except RETRY:
                    await anyio.sleep(0.2)
            if message is None and self.denied:  # a worker that lacks a right ends, so that somebody looks
                raise NotPermitted(self.denied)
            if message is not None:
                yield self._delivery(message)

    async def sightings(self, durable: str) -> AsyncIterator[Delivery]:
        """What is delivered to a durable consumer whose acks cover all that went before, as it comes."""
        while True:
            try:
                async for msg in self._flow(durable):
                    yield self._delivery(msg)
            except RETRY:
                if self.denied:
                    raise NotPermitted(self.denied) from None
                await anyio.sleep(0.2)

    def _delivery(self, msg: Msg) -> Delivery:
        place = standing(msg.reply)
        patience = min(self.broker.budget, self.broker.ack_wait)
        stored_at = datetime.fromtimestamp(place.stored_ns / 1e9, UTC)
        forbidden = lambda: self.denied if self._refused("$js.ack.") else None  # noqa: E731
        return Delivery(msg.subject, msg.data, place.seq, place.tries, stored_at, msg, patience, forbidden)
