"""What JetStream says on the wire: answers, refusals, where a delivered message stands."""

from __future__ import annotations

import base64
import json
from typing import Any, Final, NamedTuple

import nats.errors
import nats.js.errors

from events.log import Entry

RETRY: Final = (
    TimeoutError,
    nats.errors.Error,
    nats.js.errors.Error,
    ConnectionError,
    OSError,
)
"""Trouble after which nothing is known of what was asked: ask again, or look."""


class Refused(Exception):
    """JetStream answered with an error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error.get('description', 'error')} ({error.get('err_code')})")
        self.code = int(error.get("err_code", 0))
        self.status = int(error.get("code", 0))


def answer(raw: bytes) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(raw) if raw else {}
    if "error" in body:
        raise Refused(body["error"])
    return body


def stored(message: dict[str, Any]) -> Entry:
    return Entry(int(message["seq"]), message["subject"], base64.b64decode(message.get("data", "")))


class Place(NamedTuple):
    seq: int
    tries: int
    pending: int
    stored_ns: int
    """When the broker stored it, ns since the epoch."""


def standing(reply: str) -> Place:
    """Where a delivered message stands, from its reply subject; nats-py's own reading costs as much as the rest.

    `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>`, and in version 2 with
    domain and account before the stream and a token at the end (server/consumer.go, ADR-15)."""
    words = reply.split(".")
    if len(words) == 9:
        return Place(int(words[5]), int(words[4]), int(words[8]), int(words[7]))
    return Place(int(words[7]), int(words[6]), int(words[10]), int(words[9]))


def words(error: BaseException) -> str:
    return str(error) or type(error).__name__
