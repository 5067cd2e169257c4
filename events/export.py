"""The log as a file: one message a line, byte for byte, so that it can be checked without a broker.

    {"seq":7,"subject":"catalyst.cutover.journal","event":{...the stored bytes, unchanged...}}

What is no JSON (garbage that someone published) stands as `"base64"` instead of `"event"`.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import orjson

from events.envelope import Undecodable, data_of, read
from events.fold import State, evolve
from events.log import Entry
from events.subjects import JOURNAL
from schemas.events import Completed


class Rewritten(Exception):
    """A line is not as an export wrote it; the text names the line."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check of the log found. `faults` is empty when everything holds."""

    messages: int
    events: int
    """Events of the journal's chain."""
    head: str
    """SHA-256 of the newest event: whoever wrote it down elsewhere can see that nothing was cut off the end."""
    last: int
    """Stream sequence of the newest message."""
    foreign: int
    faults: tuple[str, ...]


def line(entry: Entry) -> bytes:
    """One message as one line, without the line end."""
    start = _start(entry.seq, entry.subject)
    if _plain(entry.raw):
        return start + b'"event":' + entry.raw + b"}"
    return start + b'"base64":"' + base64.b64encode(entry.raw) + b'"}'


def entry(text: bytes, number: int = 1) -> Entry:
    """The message of a line. Raises Rewritten when the line is not what `line` wrote, to the byte."""
    try:
        document = orjson.loads(text)
        seq, subject = int(document["seq"]), str(document["subject"])
        start = _start(seq, subject)
        if "base64" in document:
            found = Entry(seq, subject, base64.b64decode(document["base64"], validate=True))
        else:
            found = Entry(seq, subject, text[len(start) + len(b'"event":') : -1])
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise Rewritten(f"line {number} is no line of an export: {type(error).__name__}") from None
    if line(found) != text:
        raise Rewritten(f"line {number} was rewritten by another program; its bytes cannot be checked")
    return found


def entries(lines: Iterable[bytes]) -> Iterator[Entry]:
    """Every message of an export, a line each with its line end, byte for byte. Raises Rewritten."""
    for number, text in enumerate(lines, 1):
        if not text.endswith(b"\n") or text.endswith(b"\r\n") or text == b"\n":
            raise Rewritten(f"line {number} does not end as an export ends it: it was cut off or written anew")
        yield entry(text[:-1], number)


def check(messages: Iterable[Entry]) -> Finding:
    """Follow the chain from the first message: gaps, changes, and evidence that does not match its run."""
    state, faults, count, last = State(), [], 0, 0
    for message in messages:
        count += 1
        if message.seq != last + 1:
            faults.append(
                f"message {last + 1} is missing" if message.seq > last else f"message {message.seq} is out of order"
            )
        last = message.seq
        if message.subject != JOURNAL:
            continue
        before = state
        state = evolve(state, message)
        if fault := _evidence(before, state, message):
            faults.append(fault)
    if state.broken:
        faults.insert(0, state.broken)
    return Finding(count, state.length, state.hash, last, state.foreign, tuple(faults))


def _evidence(before: State, after: State, message: Entry) -> str | None:
    """Does `completed` carry the digest of its own run's events?"""
    if before.run is None or after.length == before.length:
        return None
    try:
        event = read(message.raw)
        data = data_of(event)
    except Undecodable:
        return None
    if not isinstance(data, Completed) or event.run != before.run.id or data.evidence_digest == before.run.digest:
        return None
    return f"event {event.id} carries evidence {data.evidence_digest}, its run's events give {before.run.digest}"


def _start(seq: int, subject: str) -> bytes:
    return b'{"seq":%d,"subject":%s,' % (seq, orjson.dumps(subject))


def _plain(raw: bytes) -> bool:
    """May the bytes stand in a line as they are?"""
    if b"\n" in raw or b"\r" in raw:
        return False
    try:
        return isinstance(orjson.loads(raw), dict)
    except orjson.JSONDecodeError:
        return False
