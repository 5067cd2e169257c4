"""The envelope: CloudEvents 1.0 in structured JSON, one byte string that is hashed, stored and exported as it is.

A draft becomes an event when it is sealed behind the event before it: `sequence` counts the journal's events and
`prevhash` is the SHA-256 of the one before, so a changed, dropped or reordered event shows.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from cloudevents.core.exceptions import BaseCloudEventException
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from events.types import KIND_OF, KINDS, kind_of, schema_of, type_of

CONTENT_TYPE: Final = "application/cloudevents+json"
GENESIS: Final = "0" * 64
"""`prevhash` of the first event."""
_FORMAT: Final = JSONFormat()


class Undecodable(Exception):
    """These bytes are not an event that we understand; the text says why."""


class Event(BaseModel):
    """A CloudEvent as it was written. Extensions that we do not know are left in the bytes."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    specversion: str
    id: str
    source: str
    type: str
    subject: str | None = None
    time: datetime | None = None
    dataschema: str | None = None
    run: str | None = None
    attempt: int | None = None
    causationid: str | None = None
    traceparent: str | None = None
    sequence: str | None = None
    prevhash: str | None = None
    authtype: str | None = None
    authid: str | None = None
    data: dict[str, Any] | None = None

    @field_validator("time")
    @classmethod
    def _can_be_shown(cls, time: datetime | None) -> datetime | None:
        """A time at the edge of the calendar cannot be put into another zone: whoever painted it would fall over."""
        if time is None:
            return None
        if not 1970 <= time.year < 9999:
            raise ValueError("no time of ours")
        return time if time.tzinfo is not None else time.replace(tzinfo=UTC)

    @property
    def kind(self) -> str | None:
        """Our word for its type; None when it is not one of ours."""
        return kind_of(self.type)


@dataclass(frozen=True, slots=True)
class Recorded:
    """An event with its place in the stream and the bytes that were stored."""

    seq: int
    raw: bytes
    event: Event

    @property
    def hash(self) -> str:
        """SHA-256 of the stored bytes, hex."""
        return hashlib.sha256(self.raw).hexdigest()


@dataclass(frozen=True, slots=True)
class Draft:
    """An event that is not in the log yet. `id` is the same when a retry means the same event."""

    id: str
    source: str
    data: BaseModel
    subject: str
    time: datetime
    run: str | None = None
    attempt: int | None = None
    causationid: str | None = None
    traceparent: str | None = None
    authtype: str | None = None
    authid: str | None = None
    sequence: str | None = None
    prevhash: str | None = None

    @property
    def kind(self) -> str:
        """Our word for its type."""
        return KIND_OF[type(self.data)]

    def sealed(self, number: int, prevhash: str) -> Draft:
        """The same draft as the journal's event `number`, chained to the one before."""
        return replace(self, sequence=f"{number:012d}", prevhash=prevhash)

    def encode(self) -> bytes:
        """The bytes to store. Raises ValueError when an attribute breaks CloudEvents 1.0, or JSON cannot hold it."""
        attributes: dict[str, Any] = {
            "specversion": "1.0",
            "id": self.id,
            "source": self.source,
            "type": type_of(self.kind),
            "subject": self.subject,
            "time": self.time.astimezone(UTC),
            "datacontenttype": "application/json",
            "dataschema": schema_of(self.kind),
        }
        for name in _EXTENSIONS:
            value = getattr(self, name)
            if value is not None:
                attributes[name] = value
        data = _sayable(self.data.model_dump(mode="json", exclude_none=True))
        try:
            return _FORMAT.write(CloudEvent(attributes, data))
        except BaseCloudEventException as error:
            raise ValueError(str(error)) from None


def _sayable(value: Any) -> Any:
    """The same in JSON that every reader takes: half a character (a file name that is not UTF-8, as Python holds it)
    is spelled out, a number that is none is left out."""
    match value:
        case str():
            return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {_sayable(key): _sayable(each) for key, each in value.items()}
        case list() | tuple():
            return [_sayable(each) for each in value]
    return value


_EXTENSIONS: Final = (
    "run",
    "attempt",
    "causationid",
    "traceparent",
    "sequence",
    "prevhash",
    "authtype",
    "authid",
)


def read(raw: bytes) -> Event:
    """A stored event, quickly: shape only. Raises Undecodable."""
    try:
        return Event.model_validate(orjson.loads(raw))
    except (ValidationError, orjson.JSONDecodeError) as error:
        raise Undecodable(f"not a CloudEvent: {_first_line(error)}") from None


def admit(raw: bytes, kind: str) -> tuple[Event, BaseModel]:
    """A message from outside, checked in full against CloudEvents 1.0 and the model of `kind`. Raises Undecodable."""
    try:
        _FORMAT.read(None, raw)
    except Exception as error:  # whatever a stranger's bytes do to a parser: nested too deep, dates of no calendar
        raise Undecodable(f"not a CloudEvent 1.0: {_first_line(error)}") from None
    event = read(raw)
    if event.specversion != "1.0":
        raise Undecodable(f"not a CloudEvent 1.0: specversion is {event.specversion[:20]!r}")
    if event.kind != kind:
        raise Undecodable(f"type {event.type[:200]!r} has no place here; expected {type_of(kind)!r}")
    return event, data_of(event)


def data_of(event: Event) -> BaseModel:
    """The typed data of an event of ours. Raises Undecodable."""
    kind = event.kind
    if kind is None:
        raise Undecodable(f"type {event.type[:200]!r} is not one of ours")
    try:
        return KINDS[kind].model_validate(event.data or {})
    except ValidationError as error:
        raise Undecodable(f"data of {kind}: {_first_line(error)}") from None


def record(seq: int, raw: bytes) -> Recorded:
    """Bytes at a sequence, read. Raises Undecodable."""
    return Recorded(seq, raw, read(raw))


def _first_line(error: Exception) -> str:
    """What is wrong, without the input: it may hold what must not be repeated."""
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'document'}: {e['msg']}" for e in error.errors()[:3])
    if isinstance(error, ValueError) and not isinstance(error, BaseCloudEventException):
        return "invalid JSON"
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
