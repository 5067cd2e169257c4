"""What goes wrong on the wire, in four words; and patience with what passes by itself."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

import anyio

Result = TypeVar("Result")
NO_SPACE = "no space left on device"
OVER_QUOTA = "exceed the configured upper limit"
"""In the words of Harbor's 403 when a project's quota is used up (goharbor/harbor, src/pkg/quota/util.go)."""


class WireTrouble(Exception):
    """A request that did not give what was asked. The text names registry and path, never a secret."""

    reading: bool = False
    """While a blob is copied: the source failed, not the destination."""
    spent: bool = False
    """It was tried again already, as often as is worth it."""


class Missing(WireTrouble):
    """404: the registry does not have it."""


class Denied(WireTrouble):
    """401 or 403: the registry does not give it to us."""


class Refused(WireTrouble):
    """Another 4xx: the request is not to the registry's liking, now and later."""


class Unavailable(WireTrouble):
    """429, 5xx, a broken connection, a timeout, a body that ends early: later it may work."""

    def __init__(self, message: str, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after
        """Seconds that the registry asks us to wait."""


class WrongBytes(WireTrouble):
    """The body is not what its digest says."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How often, and how long between. What lasts longer is the pool's to wait for."""

    attempts: int = 5
    first: float = 0.5
    """Seconds before the second attempt; doubled each time, with jitter."""
    longest: float = 20.0
    """Never wait longer than this in here."""

    def pause(self, attempt: int, after: float | None) -> float | None:
        """Seconds before the next attempt; None when it is not worth waiting here."""
        if attempt >= self.attempts or (after is not None and after > self.longest):
            return None
        backoff = min(self.longest, self.first * 2.0 ** (attempt - 1))
        return max(after or 0.0, backoff * random.uniform(0.5, 1.0))  # noqa: S311  jitter, no secret


async def patiently(patience: Patience, attempt: Callable[[], Awaitable[Result]]) -> Result:
    """Try again what is only unavailable, and wrong bytes too: a proxy in between may have cut them."""
    number = 1
    while True:
        try:
            return await attempt()
        except (Unavailable, WrongBytes) as trouble:
            after = trouble.after if isinstance(trouble, Unavailable) else None
            pause = patience.pause(number, after)
            if trouble.spent or pause is None:
                raise
        await anyio.sleep(pause)
        number += 1


def retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds that `Retry-After` says, which may be a number or a date; None when it says nothing."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())
