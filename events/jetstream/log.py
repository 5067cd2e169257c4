"""The log, kept by JetStream: append, read, deliver."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

import anyio
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, StreamConfig

from events.envelope import CONTENT_TYPE
from events.jetstream.delivery import Delivery
from events.jetstream.settings import Broker, login
from events.jetstream.shape import EARLIER, LogReplaced, StreamDrift, consumer_configs, differences, stream_config
from events.jetstream.wire import RETRY, Refused, answer, standing, stored, words
from events.log import Conflict, Emit, Entry, LogFull, LogUnavailable, NoLog, NotPermitted, TooLarge
from events.subjects import JOURNAL

DUPLICATE: Final = 10201
CONFLICTS: Final = frozenset({10071, 10164, DUPLICATE})
"""Wrong last sequence; the same on three replicas while another append is in flight; a duplicate inside a batch."""
FULL: Final = 10077
TOO_LARGE: Final = 10054
BACKLOG: Final = 1000  # messages of one pull
CATCHING_UP: Final = 10.0  # seconds in which a new leader must have all that was read from the one before
PATIENCE: Final = 30.0  # seconds of one long pull; a reconnect ends it early


class JetStreamLog:
    """The log, kept by JetStream. Open it with `JetStreamLog.open`."""

    def __init__(self, client: Client, broker: Broker) -> None:
        self.client = client
        self.broker = broker
        self.js = client.jetstream(timeout=2)
        self.denied: str | None = None
        self._trouble: Exception | None = None
        self._born: str | None = None
        self._behind_since: float | None = None
        self._waiting: set[anyio.CancelScope] = set()

    @classmethod
    @asynccontextmanager
    async def open(
        cls, broker: Broker, *, patient: bool = False, say: Callable[[str], None] = lambda _: None
    ) -> AsyncIterator[JetStreamLog]:
        """Connected. Raises LogUnavailable when the broker does not answer, unless `patient`."""
        client = Client()
        log = cls(client, broker)
        while True:
            try:
                await log._connect(say)
                break
            except RETRY as error:
                if not patient:
                    raise LogUnavailable(f"cannot reach the broker at {broker.url}: {words(error)}") from None
                say(f"the broker at {broker.url} does not answer ({words(error)}); trying again")
                await anyio.sleep(1)
        try:
            yield log
        finally:
            with anyio.move_on_after(2, shield=True), suppress(*RETRY):  # a broker that is gone needs no farewell
                await client.close()

    @property
    def connected(self) -> bool:
        """Is the broker there, as far as the client knows?"""
        return bool(self.client.is_connected)

    async def _connect(self, say: Callable[[str], None]) -> None:
        async def on_error(error: Exception) -> None:
            self._trouble = error
            text = str(error)
            if not self.client.is_connected and (half := self.client._transport) is not None:
                # Of a handshake that failed: nats-py opens the next one beside it (client.py, _attempt_reconnect).
                half.close()  # type: ignore[no-untyped-call]
            if "permissions violation" in text.lower():
                self.denied = text
                say(f"the broker refuses it: {text}; grant {self.broker.user or 'this login'} that subject")
                self._wake()
            elif not isinstance(error, OSError | nats.errors.Error):
                say(f"broker: {words(error)}")

        async def on_lost() -> None:
            say("lost the broker; reconnecting")

        async def on_back() -> None:
            say("the broker is back")
            self.denied = None  # what may be done may have changed meanwhile; if not, it will be refused again
            self._wake()

        options: dict[str, Any] = {
            "servers": [self.broker.url],
            "name": "catalyst-cutover",
            "error_cb": on_error,
            "disconnected_cb": on_lost,
            "reconnected_cb": on_back,
            "connect_timeout": 2,
            "reconnect_time_wait": 0.25,
            "max_reconnect_attempts": -1,
            "ping_interval": 5,
            "max_outstanding_pings": 2,
            "pending_size": -1,
            "inbox_prefix": self.broker.inbox_prefix,
            **login(self.broker),
        }
        try:
            with anyio.fail_after(3):
                await self.client.connect(**options)
        except TimeoutError:
            raise ConnectionError(words(self._trouble) if self._trouble else "no answer in 3 s") from None

    def _wake(self) -> None:
        """There is news of the connection for all who wait for an answer or a message."""
        for scope in tuple(self._waiting):
            scope.cancel()

    def _refused(self, *subjects: str) -> bool:
        """Was one of these refused, or our inbox, so that no answer can come? The client tells it in small letters."""
        found = (self.denied or "").lower()
        return bool(found) and any(each.lower() in found for each in (*subjects, "subscription"))

    # --- the journal -----------------------------------------------------------------------------------------

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

    async def append(self, raw: bytes, *, id: str, expected: int, then: Emit | None) -> int:
        """Compare-and-set append, retried until the broker's answer is known or the budget is used up."""
        deadline = time.monotonic() + self.broker.budget
        asked = (JOURNAL, *([then.subject] if then else []))
        pause = 0.05
        while True:
            try:
                return await self._append_once(raw, id, expected, then)
            except nats.errors.MaxPayloadError:
                raise self._too_large(raw) from None
            except Refused as refusal:
                if self._refused(*asked):  # of a batch the first half: the second is then refused for another reason
                    raise NotPermitted(str(self.denied)) from None
                if refusal.code not in CONFLICTS:
                    raise self._why(refusal, raw) from None
                trouble: Exception = refusal
            except RETRY as error:
                if self._refused(*asked):
                    raise NotPermitted(str(self.denied)) from None
                trouble = error
            found = await self._landed(raw, expected, deadline)
            if found is not None:
                return found
            if time.monotonic() > deadline:
                raise LogUnavailable(f"append not confirmed in {self.broker.budget:.0f} s: {words(trouble)}")
            await anyio.sleep(pause)
            pause = min(pause * 2, 1.0)

    async def _append_once(self, raw: bytes, id: str, expected: int, then: Emit | None) -> int:
        headers = {
            "Nats-Msg-Id": id,
            "Nats-Expected-Last-Subject-Sequence": str(expected),
            "content-type": CONTENT_TYPE,
        }
        if then is None:
            reply = await self._publish(JOURNAL, raw, headers)
            seq = int(reply["seq"])
            if seq <= expected:  # the broker took it for a repeat of an event from long ago
                raise ValueError(f"event id {id} stands in the log already, at {seq}")
            if reply.get("duplicate"):  # by us, before an answer was lost, or by someone else
                raise Refused({"err_code": DUPLICATE, "description": f"event id {id} is there already"})
            return seq
        batch = uuid4().hex
        await self.client.publish(JOURNAL, raw, headers={**headers, "Nats-Batch-Id": batch, "Nats-Batch-Sequence": "1"})
        closing = {
            "Nats-Msg-Id": then.draft.id,
            "content-type": CONTENT_TYPE,
            "Nats-Batch-Id": batch,
            "Nats-Batch-Sequence": "2",
            "Nats-Batch-Commit": "1",
        }
        answer = await self._publish(then.subject, then.draft.encode(), closing)
        return int(answer["seq"]) - 1

    async def _landed(self, raw: bytes, expected: int, deadline: float) -> int | None:
        """Is one of the entries above `expected` ours? Raises Conflict when there are some and none is.

        Judged by the bytes: another worker's event of the same id has another hash, and the next one builds on it."""
        while True:
            try:
                newer = await self.since(expected)
                break
            except LogUnavailable:
                if time.monotonic() > deadline:
                    raise
                await anyio.sleep(0.2)
        for entry in newer:
            if entry.raw == raw:
                return entry.seq
        if newer:
            raise Conflict(f"expected {expected}, the journal is at {newer[-1].seq}")
        return None

    def _why(self, refusal: Refused, raw: bytes) -> Exception:
        """What a refusal means for whoever asked."""
        if refusal.code == FULL:
            return LogFull("the stream is full (max_bytes); enlarge it, nothing was forgotten")
        if refusal.code == TOO_LARGE:
            return self._too_large(raw)
        return LogUnavailable(f"the broker refuses the message: {refusal}")

    def _too_large(self, raw: bytes) -> TooLarge:
        return TooLarge(f"{len(raw)} bytes; the broker takes {self.client.max_payload} in one message (max_payload)")

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

    async def publish(self, message: Emit) -> int:
        """Publish beside the journal; idempotent by the draft's id. Raises LogUnavailable."""
        return await self.publish_raw(message.subject, message.draft.encode(), message.draft.id)

    async def publish_raw(self, subject: str, raw: bytes, id: str | None = None) -> int:
        """Publish bytes as they are, retried within the budget."""
        headers = {"content-type": CONTENT_TYPE, **({"Nats-Msg-Id": id} if id else {})}
        deadline = time.monotonic() + self.broker.budget
        while True:
            try:
                return int((await self._publish(subject, raw, headers))["seq"])
            except nats.errors.MaxPayloadError:
                raise self._too_large(raw) from None
            except Refused as refusal:
                raise self._why(refusal, raw) from None
            except RETRY as error:
                if self._refused(subject):
                    raise NotPermitted(str(self.denied)) from None
                if time.monotonic() > deadline or id is None:
                    raise LogUnavailable(f"publish to {subject} not confirmed: {words(error)}") from None
                await anyio.sleep(0.2)

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
                if status := (msg.headers or {}).get("Status"):
                    if status == "408":  # expired: ask again
                        left = 0
                        continue
                    raise nats.js.errors.APIError.from_msg(msg)
                left -= 1
                yield msg
        finally:
            with anyio.move_on_after(1, shield=True), suppress(*RETRY):
                await subscription.unsubscribe()

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

    @contextmanager
    def _until_news(self) -> Iterator[anyio.CancelScope]:
        with anyio.CancelScope() as scope:
            self._waiting.add(scope)
            try:
                yield scope
            finally:
                self._waiting.discard(scope)

    # --- the stream and its consumers ------------------------------------------------------------------------

    async def ensure(self) -> None:
        """Stream and consumers exist as they must. Raises StreamDrift listing every difference."""
        wanted = stream_config(self.broker)
        try:
            found = await self._create_or_find(wanted)
            drift = differences(wanted, found)
            for consumer in consumer_configs(self.broker):
                info = await self._consumer(consumer)
                drift += [f"consumer {consumer.durable_name}: {line}" for line in differences(consumer, info)]
        except RETRY as error:
            if self.denied:
                raise NotPermitted(self.denied) from None
            raise LogUnavailable(f"stream {self.broker.stream}: {words(error)}") from None
        self._refuse_drift(drift)

    def _refuse_drift(self, drift: list[str]) -> None:
        if drift:
            raise StreamDrift(
                f"stream {self.broker.stream} is not as it must be; refusing to work on it:\n  " + "\n  ".join(drift)
            )

    async def await_ensured(self, say: Callable[[str], None]) -> None:
        """As `ensure`, for who may not create: waits until whoever may has done so. Raises StreamDrift."""
        while True:
            try:
                found = (await self.js.stream_info(self.broker.stream)).config
                drift = differences(stream_config(self.broker), found)
                for wanted in consumer_configs(self.broker):
                    info = await self.js.consumer_info(self.broker.stream, wanted.durable_name or "")
                    drift += [f"consumer {wanted.durable_name}: {each}" for each in differences(wanted, info.config)]
                break
            except nats.js.errors.NotFoundError as error:
                say(f"stream {self.broker.stream} is not made yet ({words(error)}); waiting")
            except RETRY as error:
                if self.denied:
                    raise NotPermitted(self.denied) from None
                say(f"stream {self.broker.stream}: {words(error)}; trying again")
            await anyio.sleep(1)
        self._refuse_drift(drift)

    async def _create_or_find(self, wanted: StreamConfig) -> StreamConfig:
        try:
            return (await self.js.stream_info(self.broker.stream)).config
        except nats.js.errors.NotFoundError:
            return (await self.js.add_stream(wanted)).config

    async def _consumer(self, wanted: ConsumerConfig) -> ConsumerConfig:
        name = wanted.durable_name or ""
        try:
            config: ConsumerConfig = (await self.js.consumer_info(self.broker.stream, name)).config
            if config.filter_subjects in EARLIER.get(name, ()):  # made by an earlier version of ours: its filter grows
                config = (await self.js.add_consumer(self.broker.stream, wanted)).config
            return config
        except nats.js.errors.NotFoundError:
            config = (await self.js.add_consumer(self.broker.stream, wanted)).config
            return config

    # --- the wire --------------------------------------------------------------------------------------------

    async def _publish(self, subject: str, raw: bytes, headers: dict[str, str]) -> dict[str, Any]:
        return answer((await self._request(subject, raw, headers)).data)

    async def _request(self, subject: str, raw: bytes, headers: dict[str, str] | None = None) -> Msg:
        """An answer within 2 s, or ConnectionError as soon as the broker refuses something or comes back."""
        reply: Msg | None = None
        with self._until_news():
            reply = await self.client.request(subject, raw, timeout=2, headers=headers)
        if reply is None:
            raise ConnectionError(self.denied or "the broker restarted")
        return reply

    async def _api(self, verb: str, body: dict[str, Any], *, missing: int) -> dict[str, Any] | None:
        deadline = time.monotonic() + self.broker.budget
        while True:
            try:
                return answer((await self._request(f"$JS.API.{verb}", json.dumps(body).encode())).data)
            except Refused as refusal:
                if refusal.status == missing:
                    return None
                if refusal.status != 503 or time.monotonic() > deadline:
                    raise LogUnavailable(f"{verb}: {refusal}") from None
            except RETRY as error:
                if self._refused(verb):
                    raise NotPermitted(str(self.denied)) from None
                if time.monotonic() > deadline:
                    raise LogUnavailable(f"the broker did not answer {verb}: {words(error)}") from None
            await anyio.sleep(0.1)
