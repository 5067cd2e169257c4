"""Who asks, and what they may. Roles are two: to read, and to act."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from starlette.requests import Request


@dataclass(frozen=True, slots=True)
class Caller:
    """Someone whose word was checked."""

    authtype: str
    """CloudEvents auth context: `user`, `service_account` or `unauthenticated`."""
    authid: str
    """Who, as it stands in the log."""
    may_read: bool = False
    may_act: bool = False
    until: float | None = None
    """Unix time at which the token ends; None when there is none."""
    roles: tuple[str, ...] = ()


class Doorman(Protocol):
    """Who decides whether somebody is somebody."""

    async def caller(self, request: Request) -> Caller:
        """Who sends this request. Raises Problem 401, or 503 when that cannot be found out."""
        ...

    async def ticket(self, caller: Caller) -> tuple[str, float]:
        """A word that opens one stream of events soon, and the Unix time at which it ends."""
        ...

    async def bearer_of(self, ticket: str) -> Caller:
        """Whose ticket this is; it opens nothing again. Raises Problem 401."""
        ...


class EverybodyMay:
    """`--insecure-dev`: for a rehearsal on one's own machine, on loopback only."""

    _somebody = Caller("unauthenticated", "insecure-dev", may_read=True, may_act=True)

    async def caller(self, request: Request) -> Caller:
        return self._somebody

    async def ticket(self, caller: Caller) -> tuple[str, float]:
        import time

        return "insecure-dev", time.time() + 30

    async def bearer_of(self, ticket: str) -> Caller:
        return self._somebody
