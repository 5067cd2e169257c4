"""The log on NATS JetStream: the only room that knows nats-py.

Facts this rests on (nats-server 2.15, nats-py 2.16): compare-and-set on one literal subject holds on one and on
three replicas; a batch is all or nothing; a publish that timed out while reconnecting may land later, so nothing is
buffered (`pending_size=-1`) and every append is idempotent by its id; a 503 during leader election is worth a retry;
a long pull does not notice that the server restarted, so it is cancelled when the client has reconnected.
"""

from __future__ import annotations

import base64
import json
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import uuid4

import anyio
import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, DiscardPolicy, StorageType, StreamConfig
from pydantic import BaseModel, ConfigDict, Field

from events.envelope import CONTENT_TYPE, Undecodable, read
from events.flow import STEPS
from events.log import Conflict, Emit, Entry, LogFull, LogUnavailable, NotPermitted
from events.subjects import ALL, CANCEL, JOURNAL, REQUESTED, STREAM, trigger

CONFLICTS: Final = frozenset({10071, 10164, 10201})
"""Wrong last sequence; the same on three replicas while another append is in flight; a duplicate inside a batch."""
FULL: Final = 10077
_BACKLOG: Final = 1000  # messages of one pull while catching up
_PATIENCE: Final = 30.0  # seconds of one long pull; a reconnect ends it early
_RETRY: Final = (
    TimeoutError,
    nats.errors.Error,
    nats.js.errors.Error,
    ConnectionError,
    OSError,
)


class Broker(BaseModel):
    """How to reach the broker and what the stream shall be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    user: str | None = None
    password_file: Path | None = None
    token_file: Path | None = None
    credentials_file: Path | None = None
    nkey_seed_file: Path | None = None
    ca_file: Path | None = None
    stream: str = STREAM
    replicas: int = Field(default=1, ge=1, le=5)
    max_bytes: int = Field(default=1 << 30, gt=0)
    duplicate_window: float = Field(default=30 * 86400.0, gt=0)
    ack_wait: float = Field(default=30.0, gt=0)
    """Seconds after which a trigger whose worker fell silent is delivered to another one."""
    budget: float = Field(default=20.0, gt=0)
    """Seconds for which an append is retried while the broker is away."""
    inbox_prefix: str = "_INBOX"


class StreamDrift(Exception):
    """The stream or a consumer on the broker is not as it must be; the text lists every difference."""


@dataclass
class Delivery:
    """One message in our hands: settle it, put it off, or say that we still work on it."""

    subject: str
    raw: bytes
    seq: int
    tries: int
    _msg: Msg
    _budget: float

    async def settle(self) -> bool:
        """Acknowledge and have it confirmed; False when the broker did not confirm in time (it will come again)."""
        deadline = time.monotonic() + self._budget
        while time.monotonic() < deadline:
            try:
                await self._msg.ack_sync(timeout=2)
                return True
            except _RETRY:
                await anyio.sleep(0.2)
        return False

    async def later(self, seconds: float) -> None:
        """Deliver it again in `seconds`. Lost requests do no harm: then it comes after `ack_wait`."""
        try:
            await self._msg.nak(delay=max(seconds, 0.001))
        except _RETRY:
            return

    async def working(self) -> None:
        """Start `ack_wait` anew. Best effort: the lease in the journal is what excludes others."""
        try:
            await self._msg.in_progress()
        except _RETRY:
            return


class JetStreamLog:
    """The log, kept by JetStream. Open it with `JetStreamLog.open`."""

    def __init__(self, client: Client, broker: Broker) -> None:
        self.client = client
        self.broker = broker
        self.js = client.jetstream(timeout=2)
        self.denied: str | None = None
        self.connected = anyio.Event()
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
            except _RETRY as error:
                if not patient:
                    raise LogUnavailable(f"cannot reach the broker at {broker.url}: {_words(error)}") from None
                say(f"the broker at {broker.url} does not answer ({_words(error)}); trying again")
                await anyio.sleep(1)
        try:
            yield log
        finally:
            with anyio.move_on_after(2, shield=True), suppress(*_RETRY):  # a broker that is gone needs no farewell
                await client.close()

    async def _connect(self, say: Callable[[str], None]) -> None:
        async def on_error(error: Exception) -> None:
            text = str(error)
            if "permissions violation" in text.lower():
                self.denied = text
            elif not isinstance(error, OSError | nats.errors.Error):
                say(f"broker: {_words(error)}")

        async def on_lost() -> None:
            say("lost the broker; reconnecting")

        async def on_back() -> None:
            say("the broker is back")
            for scope in tuple(self._waiting):
                scope.cancel()

        with anyio.fail_after(5):
            await self.client.connect(
                servers=[self.broker.url],
                name="catalyst-cutover",
                error_cb=on_error,
                disconnected_cb=on_lost,
                reconnected_cb=on_back,
                connect_timeout=2,
                reconnect_time_wait=0.25,  # type: ignore[arg-type]  # seconds; a float is slept as it is
                max_reconnect_attempts=-1,
                ping_interval=5,
                max_outstanding_pings=2,
                pending_size=-1,
                inbox_prefix=self.broker.inbox_prefix,
                allow_reconnect=True,
                **_login(self.broker),
            )

    # --- the journal -----------------------------------------------------------------------------------------

    async def last(self) -> Entry | None:
        """The newest journal entry, read from the leader."""
        reply = await self._api(f"STREAM.MSG.GET.{self.broker.stream}", {"last_by_subj": JOURNAL}, missing=404)
        return _entry(reply["message"]) if reply else None

    async def since(self, seq: int) -> Sequence[Entry]:
        """Journal entries above `seq`: a few one by one, many by a throwaway consumer."""
        entries: list[Entry] = []
        for _ in range(8):
            request = {"seq": seq + 1, "next_by_subj": JOURNAL}
            reply = await self._api(f"STREAM.MSG.GET.{self.broker.stream}", request, missing=404)
            if not reply:
                return entries
            entries.append(_entry(reply["message"]))
            seq = entries[-1].seq
        async for entry in self.read(JOURNAL, seq):
            entries.append(entry)
        return entries

    async def append(self, raw: bytes, *, id: str, expected: int, then: Emit | None) -> int:
        """Compare-and-set append, retried until the broker's answer is known or the budget is used up."""
        deadline = time.monotonic() + self.broker.budget
        pause = 0.05
        while True:
            try:
                return await self._append_once(raw, id, expected, then)
            except _Refused as refusal:
                if refusal.code == FULL:
                    raise LogFull("the stream is full (max_bytes); enlarge it, nothing was forgotten") from None
                if refusal.code not in CONFLICTS:
                    raise LogUnavailable(f"append refused: {refusal}") from None
                trouble: Exception = refusal
            except _RETRY as error:
                if self.denied:
                    raise NotPermitted(self.denied) from None
                trouble = error
            found = await self._landed(id, expected, deadline)
            if found is not None:
                return found
            if time.monotonic() > deadline:
                raise LogUnavailable(f"append not confirmed in {self.broker.budget:.0f} s: {_words(trouble)}")
            await anyio.sleep(pause)
            pause = min(pause * 2, 1.0)

    async def _append_once(self, raw: bytes, id: str, expected: int, then: Emit | None) -> int:
        headers = {
            "Nats-Msg-Id": id,
            "Nats-Expected-Last-Subject-Sequence": str(expected),
            "Content-Type": CONTENT_TYPE,
        }
        if then is None:
            seq = int((await self._publish(JOURNAL, raw, headers))["seq"])
            if seq <= expected:  # the broker took it for a repeat of an event from long ago
                raise ValueError(f"event id {id} stands in the log already, at {seq}")
            return seq
        batch = uuid4().hex
        await self.client.publish(JOURNAL, raw, headers={**headers, "Nats-Batch-Id": batch, "Nats-Batch-Sequence": "1"})
        closing = {
            "Nats-Msg-Id": then.draft.id,
            "Content-Type": CONTENT_TYPE,
            "Nats-Batch-Id": batch,
            "Nats-Batch-Sequence": "2",
            "Nats-Batch-Commit": "1",
        }
        answer = await self._publish(then.subject, then.draft.encode(), closing)
        return int(answer["seq"]) - 1

    async def _landed(self, id: str, expected: int, deadline: float) -> int | None:
        """Is one of the entries above `expected` our event? Raises Conflict when there are some and none is."""
        while True:
            try:
                newer = await self.since(expected)
                break
            except LogUnavailable:
                if time.monotonic() > deadline:
                    raise
                await anyio.sleep(0.2)
        for entry in newer:
            try:
                if read(entry.raw).id == id:
                    return entry.seq
            except Undecodable:
                continue
        if newer:
            raise Conflict(f"expected {expected}, the journal is at {newer[-1].seq}")
        return None

    async def publish(self, message: Emit) -> int:
        """Publish beside the journal; idempotent by the draft's id. Raises LogUnavailable."""
        return await self.publish_raw(message.subject, message.draft.encode(), message.draft.id)

    async def publish_raw(self, subject: str, raw: bytes, id: str | None = None) -> int:
        """Publish bytes as they are, retried within the budget."""
        headers = {"Content-Type": CONTENT_TYPE, **({"Nats-Msg-Id": id} if id else {})}
        deadline = time.monotonic() + self.broker.budget
        while True:
            try:
                return int((await self._publish(subject, raw, headers))["seq"])
            except _Refused as refusal:
                raise (LogFull if refusal.code == FULL else LogUnavailable)(str(refusal)) from None
            except _RETRY as error:
                if self.denied:
                    raise NotPermitted(self.denied) from None
                if time.monotonic() > deadline or id is None:
                    raise LogUnavailable(f"publish to {subject} not confirmed: {_words(error)}") from None
                await anyio.sleep(0.2)

    async def follow(self, seq: int) -> AsyncIterator[Entry]:
        """Journal entries above `seq`, then live, across restarts of the broker."""
        async for entry in self.read(JOURNAL, seq, live=True):
            yield entry

    async def read(self, subject: str, seq: int = 0, *, live: bool = False) -> AsyncIterator[Entry]:
        """Entries of a subject above `seq`: up to the newest one, or without end when `live`."""
        while True:
            try:
                async for entry in self._pull(subject, seq, live):
                    seq = entry.seq
                    yield entry
                return
            except _RETRY as error:
                if self.denied:
                    raise NotPermitted(self.denied) from None
                if not live:
                    raise LogUnavailable(f"reading {subject}: {_words(error)}") from None
                await anyio.sleep(0.2)

    async def _pull(self, subject: str, seq: int, live: bool) -> AsyncIterator[Entry]:
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=seq + 1,
            ack_policy=AckPolicy.NONE,
            filter_subject=subject,
            inactive_threshold=60.0,
            mem_storage=True,
            num_replicas=1,
        )
        info = await self.js.add_consumer(self.broker.stream, config)
        pending = info.num_pending or 0
        try:
            if not pending and not live:
                return
            async for msg in self._flow(info.name):
                place = _place(msg.reply)
                yield Entry(place.seq, msg.subject, msg.data)
                if not live and not place.pending:
                    return
        finally:
            with anyio.move_on_after(1, shield=True), suppress(*_RETRY):
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
        request = json.dumps({"batch": _BACKLOG, "expires": int(_PATIENCE * 1e9)}).encode()
        left = 0
        try:
            while True:
                if left == 0:
                    left = _BACKLOG
                    await self.client.publish(
                        f"$JS.API.CONSUMER.MSG.NEXT.{self.broker.stream}.{consumer}", request, inbox
                    )
                if not arrived:
                    news = anyio.Event()
                    with self._until_reconnect(), anyio.move_on_after(_PATIENCE + 5):
                        await news.wait()
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
            with anyio.move_on_after(1, shield=True), suppress(*_RETRY):
                await subscription.unsubscribe()

    # --- deliveries ------------------------------------------------------------------------------------------

    async def deliveries(self, durable: str) -> AsyncIterator[Delivery]:
        """What is delivered to a durable consumer, one at a time, without end."""
        subscription = await self.js.pull_subscribe_bind(durable, self.broker.stream)
        while True:
            message: Msg | None = None
            with self._until_reconnect():
                try:
                    message = (await subscription.fetch(1, timeout=_PATIENCE))[0]
                except TimeoutError:
                    continue
                except _RETRY:
                    if self.denied:
                        raise NotPermitted(self.denied) from None
                    await anyio.sleep(0.2)
            if message is not None:
                yield self._delivery(message)

    async def sightings(self, durable: str) -> AsyncIterator[Delivery]:
        """What is delivered to a durable consumer whose acks cover all that went before, as it comes."""
        while True:
            try:
                async for msg in self._flow(durable):
                    yield self._delivery(msg)
            except _RETRY:
                if self.denied:
                    raise NotPermitted(self.denied) from None
                await anyio.sleep(0.2)

    def _delivery(self, msg: Msg) -> Delivery:
        place = _place(msg.reply)
        patience = min(self.broker.budget, self.broker.ack_wait)
        return Delivery(msg.subject, msg.data, place.seq, place.tries, msg, patience)

    @contextmanager
    def _until_reconnect(self) -> Iterator[anyio.CancelScope]:
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
        except _RETRY as error:
            if self.denied:
                raise NotPermitted(self.denied) from None
            raise LogUnavailable(f"stream {self.broker.stream}: {_words(error)}") from None
        if drift:
            raise StreamDrift(
                f"stream {self.broker.stream} is not as it must be; refusing to work on it:\n  " + "\n  ".join(drift)
            )

    async def _create_or_find(self, wanted: StreamConfig) -> StreamConfig:
        try:
            return (await self.js.stream_info(self.broker.stream)).config
        except nats.js.errors.NotFoundError:
            return (await self.js.add_stream(wanted)).config

    async def _consumer(self, wanted: ConsumerConfig) -> ConsumerConfig:
        name = wanted.durable_name or ""
        try:
            config: ConsumerConfig = (await self.js.consumer_info(self.broker.stream, name)).config
            return config
        except nats.js.errors.NotFoundError:
            config = (await self.js.add_consumer(self.broker.stream, wanted)).config
            return config

    # --- the wire --------------------------------------------------------------------------------------------

    async def _publish(self, subject: str, raw: bytes, headers: dict[str, str]) -> dict[str, Any]:
        reply = await self.client.request(subject, raw, timeout=2, headers=headers)
        return _answer(reply.data)

    async def _api(self, verb: str, body: dict[str, Any], *, missing: int) -> dict[str, Any] | None:
        deadline = time.monotonic() + self.broker.budget
        while True:
            try:
                reply = await self.client.request(f"$JS.API.{verb}", json.dumps(body).encode(), timeout=2)
                return _answer(reply.data)
            except _Refused as refusal:
                if refusal.status == missing:
                    return None
                if refusal.status != 503 or time.monotonic() > deadline:
                    raise LogUnavailable(f"{verb}: {refusal}") from None
            except _RETRY as error:
                if self.denied:
                    raise NotPermitted(self.denied) from None
                if time.monotonic() > deadline:
                    raise LogUnavailable(f"the broker did not answer {verb}: {_words(error)}") from None
            await anyio.sleep(0.1)


class _Refused(Exception):
    """JetStream answered with an error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error.get('description', 'error')} ({error.get('err_code')})")
        self.code = int(error.get("err_code", 0))
        self.status = int(error.get("code", 0))


def _answer(raw: bytes) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(raw) if raw else {}
    if "error" in body:
        raise _Refused(body["error"])
    return body


def _entry(message: dict[str, Any]) -> Entry:
    return Entry(int(message["seq"]), message["subject"], base64.b64decode(message.get("data", "")))


class _Place(NamedTuple):
    seq: int
    tries: int
    pending: int


def _place(reply: str) -> _Place:
    """Where a delivered message stands, from its reply subject; nats-py's own reading costs as much as the rest.

    `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>`, and in version 2 with
    domain and account before the stream and a token at the end (server/consumer.go, ADR-15)."""
    words = reply.split(".")
    if len(words) == 9:
        return _Place(int(words[5]), int(words[4]), int(words[8]))
    return _Place(int(words[7]), int(words[6]), int(words[10]))


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _login(broker: Broker) -> dict[str, Any]:
    """Connection options of whatever credentials the settings name. Secrets are read from files only."""
    options: dict[str, Any] = {}
    if broker.user:
        options["user"] = broker.user
    if broker.password_file:
        options["password"] = broker.password_file.read_text(encoding="utf-8").strip()
    if broker.token_file:
        options["token"] = broker.token_file.read_text(encoding="utf-8").strip()
    if broker.credentials_file:
        options["user_credentials"] = str(broker.credentials_file)
    if broker.nkey_seed_file:
        options["nkeys_seed"] = str(broker.nkey_seed_file)
    if broker.ca_file:
        options["tls"] = ssl.create_default_context(cafile=str(broker.ca_file))
    return options


def stream_config(broker: Broker) -> StreamConfig:
    """The stream as it must be: nothing ages, nothing is overwritten, nothing can be taken out."""
    return StreamConfig(
        name=broker.stream,
        subjects=[ALL],
        storage=StorageType.FILE,
        num_replicas=broker.replicas,
        max_bytes=broker.max_bytes,
        discard=DiscardPolicy.NEW,
        max_age=0,
        max_msgs=-1,
        duplicate_window=broker.duplicate_window,
        deny_delete=True,
        deny_purge=True,
        allow_atomic=True,
        allow_direct=True,
        allow_rollup_hdrs=False,
        allow_msg_ttl=False,
        allow_msg_schedules=False,
    )


def consumer_configs(broker: Broker) -> tuple[ConsumerConfig, ...]:
    """One durable consumer a step, one for requests, one that looks for strays."""

    def durable(name: str, subjects: list[str]) -> ConsumerConfig:
        return ConsumerConfig(
            durable_name=name,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=broker.ack_wait,
            max_ack_pending=1,
            max_deliver=-1,
            filter_subject=subjects[0] if len(subjects) == 1 else None,
            filter_subjects=subjects if len(subjects) > 1 else None,
        )

    steps = [durable(step_durable(step.number), [trigger(step)]) for step in STEPS]
    registrar = durable(REGISTRAR, [ALL])
    registrar.ack_policy, registrar.max_ack_pending = AckPolicy.ALL, 1000  # it reads much and keeps little
    return (*steps, durable(ADMISSION, [REQUESTED, CANCEL]), registrar)


ADMISSION: Final = "admission"
REGISTRAR: Final = "registrar"


def step_durable(number: int) -> str:
    """Name of a step's durable consumer."""
    return f"step-{number}"


def differences(wanted: StreamConfig | ConsumerConfig, found: StreamConfig | ConsumerConfig) -> list[str]:
    """Every field in which what was found differs from what must be, one line each."""
    lines = []
    for name, want in vars(wanted).items():
        have = getattr(found, name, None)
        if want is None or _plain(want) == _plain(have):
            continue
        lines.append(f"{name} is {_plain(have)!r}, must be {_plain(want)!r}")
    if isinstance(found, StreamConfig) and (found.sources or found.mirror or found.republish):
        lines.append("it mirrors, sources or republishes, must do none of it")
    return lines


def _plain(value: Any) -> Any:
    value = getattr(value, "value", value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return False if value is None else value
