"""Trouble on demand: what a registry does wrong, to which requests, and how often."""

from __future__ import annotations

import re
from collections import Counter, deque
from dataclasses import dataclass
from enum import StrEnum

from aiohttp import web


class Wrong(StrEnum):
    """What goes wrong."""

    STATUS = "status"
    """The request is answered with `status`."""
    RESET = "reset"
    """The connection is reset before an answer."""
    BYTES = "wrong-bytes"
    """The body has the right length and other bytes."""
    FULL = "full"
    """The storage has no room left, in the words of docker-registry's filesystem driver."""
    TRUNCATED = "truncated"
    """The connection is reset in the middle of the body."""


@dataclass(slots=True)
class Fault:
    """One kind of trouble, for requests whose method and path match."""

    wrong: Wrong
    path: str = r".*"
    """Regular expression, searched in the path."""
    methods: tuple[str, ...] = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
    times: int | None = 1
    """How often; None is until it is cleared."""
    status: int = 503
    retry_after: str | None = None
    location: str | None = None
    """With a 3xx: where readers are sent, as Harbor does that redirects to its object store."""

    def applies(self, request: web.BaseRequest) -> bool:
        """Whether it still happens, and to this request."""
        return self.times != 0 and request.method in self.methods and bool(re.search(self.path, request.path))


@dataclass(frozen=True, slots=True)
class Seen:
    """One request that was answered."""

    method: str
    path: str
    status: int
    user: str = ""
    span: str = ""
    """`Range`, when only a part was asked for."""


class Faults:
    """The faults that are staged, and the requests that were seen."""

    def __init__(self) -> None:
        self.staged: list[Fault] = []
        self.seen: deque[Seen] = deque(maxlen=100_000)
        self.fetched: Counter[str] = Counter()
        """Digest -> how often its bytes were asked for as a blob."""

    def add(self, fault: Fault) -> None:
        """From now on this goes wrong."""
        self.staged.append(fault)

    def clear(self) -> None:
        """Nothing is staged any more."""
        self.staged.clear()

    def count(self, method: str = "", path: str = "") -> int:
        """How many requests of that method had a path that matches."""
        return sum(s.method.startswith(method) and bool(re.search(path, s.path)) for s in self.seen)

    def take(self, request: web.BaseRequest) -> Fault | None:
        """The fault for this request, used up by one."""
        fault = next((f for f in self.staged if f.applies(request)), None)
        if fault is not None and fault.times is not None:
            fault.times -= 1
        return fault
