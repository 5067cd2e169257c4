"""What an operator asks of the log: begin, stop, where are we, what happened, does it hold. No printing here."""

from __future__ import annotations

import getpass
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

import anyio
import orjson

from events import subjects
from events.envelope import Draft, Event, Undecodable, data_of, read
from events.fold import State, fold
from events.jetstream import JetStreamLog
from events.log import Entry
from events.picture import picture
from schemas import events as facts
from workers.adapters.cluster import CONFIG_MAP, Cluster
from workers.entrypoints.settings import Settings
from workers.projector import paint, sequence

PLACE = {"requested": subjects.REQUESTED, "cancel": subjects.CANCEL}


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request: the run, or the reason why not; neither when nobody answered in time."""

    sequence: int
    run: str | None = None
    reason: str = ""
    message: str = ""

    @property
    def refused(self) -> bool:
        """True when it stands in `rejected`."""
        return bool(self.reason)


def operator_of_this_shell() -> str:
    """Who types here, for people to read; it proves nothing."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


async def publish(settings: Settings, stream: JetStreamLog, data: facts.Requested | facts.CancelRequested) -> int:
    """Publish a request or a cancel as a CloudEvent; its stream sequence. Raises LogUnavailable."""
    kind = "requested" if isinstance(data, facts.Requested) else "cancel"
    draft = Draft(
        id=str(uuid4()), source=f"//{settings.sovereign.fqdn}/cli", data=data, subject="cutover", time=datetime.now(UTC)
    )
    return await stream.publish_raw(PLACE[kind], draft.encode(), draft.id)


async def answer(stream: JetStreamLog, seq: int, timeout: float) -> Answer:
    """What the workers made of the input at `seq`, within `timeout` seconds."""
    with anyio.move_on_after(timeout):
        async for entry in stream.read(subjects.ALL, seq, live=True):
            if found := answered(entry, seq):
                return found
    return Answer(seq)


def answered(entry: Entry, seq: int) -> Answer | None:
    """Is this message the answer to the input at `seq`?"""
    return next((found for found in replies(entry) if found.sequence == seq), None)


def replies(entry: Entry) -> Iterator[Answer]:
    """Which input this message answers, and how; nothing when it answers none."""
    if entry.subject not in (subjects.JOURNAL, subjects.REJECTED):
        return
    try:
        event = read(entry.raw)
        data = data_of(event)
    except Undecodable:
        return
    match data:
        case facts.Accepted() | facts.Cancelled() if entry.subject == subjects.JOURNAL:
            yield Answer(data.request, run=event.run)
        case facts.AutoFireDisarmed() if entry.subject == subjects.JOURNAL and data.request is not None:
            yield Answer(data.request, run=event.run or "")
        case facts.StepStarted() if entry.subject == subjects.JOURNAL:
            yield Answer(data.trigger, run=event.run)
        case facts.Rejected() if entry.subject == subjects.REJECTED:
            yield Answer(data.sequence, reason=data.reason, message=data.message)


async def state(stream: JetStreamLog) -> State:
    """The fold of the whole journal as it stands now. Raises LogUnavailable."""
    return fold(await stream.since(0)) if await stream.last() else State()


async def messages(stream: JetStreamLog) -> AsyncIterator[Entry]:
    """Every message of the stream so far, oldest first; none when no journal was ever written."""
    async for entry in stream.read(subjects.ALL):
        yield entry


def decoded(entry: Entry) -> Event | None:
    """The event of a message; None for garbage."""
    try:
        return read(entry.raw)
    except Undecodable:
        return None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The ConfigMap beside the fold of the log up to the sequence that it stands for."""

    head: int
    """Sequence of the newest journal entry."""
    shown: int
    """Sequence that the ConfigMap stands for; 0 when there is none."""
    differences: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Byte for byte."""
        return self.shown > 0 and not self.differences


async def compare(settings: Settings, stream: JetStreamLog, cluster: Cluster) -> Comparison:
    """Fold from sequence 1 and compare with the live ConfigMap. Raises LogUnavailable, Wait, Stuck."""
    place = settings.status
    live = await cluster.get(CONFIG_MAP, place.name, place.namespace)
    entries = list(await stream.since(0))
    head = entries[-1].seq if entries else 0
    if live is None:
        return Comparison(head, 0, (f"ConfigMap {place.namespace}/{place.name} does not exist",))
    data: dict[str, str] = live.get("data") or {}
    shown = sequence(data)
    wanted = picture(fold(entry for entry in entries if entry.seq <= shown))
    return Comparison(head, shown, differences(wanted, data))


async def repaint(settings: Settings, stream: JetStreamLog, cluster: Cluster) -> None:
    """Write the ConfigMap anew from the log. Raises LogUnavailable, Wait, Stuck."""
    place = settings.status
    await paint(cluster, await state(stream), namespace=place.namespace, name=place.name)


def canonical(data: dict[str, str]) -> bytes:
    """The bytes that are compared: JSON with sorted keys."""
    return orjson.dumps(data, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def differences(wanted: dict[str, str], found: dict[str, str]) -> tuple[str, ...]:
    """Every key in which the ConfigMap is not what the log gives."""
    if canonical(wanted) == canonical(found):
        return ()
    return tuple(
        f"{key}: the log gives {wanted.get(key)!r}, the ConfigMap says {found.get(key)!r}"
        for key in sorted(wanted.keys() | found.keys())
        if wanted.get(key) != found.get(key)
    )


@asynccontextmanager
async def listening(settings: Settings) -> AsyncIterator[JetStreamLog]:
    """A connection to the log for one question. Raises LogUnavailable."""
    async with JetStreamLog.open(settings.nats) as stream:
        yield stream
