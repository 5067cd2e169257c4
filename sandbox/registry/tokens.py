"""Bearer tokens as registries hand them out: for a scope, for a while, to anybody where reading is public.

The realm names the host that the client itself used, as Harbor and ghcr.io do, so that it works through a forwarder.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from aiohttp import web

from sandbox.clock import Clock

LIFETIME = timedelta(seconds=300)


@dataclass(frozen=True, slots=True)
class Grant:
    """Who holds a token, and what it allows."""

    user: str
    scopes: frozenset[tuple[str, str]]
    """(repository, action)."""
    until: datetime

    def allows(self, repository: str, action: str) -> bool:
        """Whether the token covers this."""
        return bool({(repository, action), (repository, "*")} & self.scopes)


def scopes(values: Iterable[str]) -> frozenset[tuple[str, str]]:
    """`repository:a/b:pull,push` -> {("a/b", "pull"), ("a/b", "push")}."""
    found: set[tuple[str, str]] = set()
    for value in (part for text in values for part in text.split()):
        kind, _, rest = value.partition(":")
        name, _, actions = rest.rpartition(":")
        if kind == "repository":
            found |= {(name, action) for action in actions.split(",")}
    return frozenset(found)


def basic(request: web.BaseRequest) -> tuple[str, str] | None:
    """User and password of a Basic authorization; ("", "") when it cannot be read; None without one."""
    kind, _, value = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() != "basic":
        return None
    try:
        user, _, password = base64.b64decode(value).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return user, password


def challenge(request: web.BaseRequest, realm: str, service: str, scope: str = "", *, host: str = "") -> dict[str, str]:
    """The header that tells the client where tokens are had: at the name that it asked for, or at `host`."""
    wanted = f',scope="{scope}"' if scope else ""
    value = f'Bearer realm="http://{host or request.host}{realm}",service="{service}"{wanted}'
    return {"WWW-Authenticate": value}


class Tokens:
    """The tokens that are out. They are lost with the process; clients ask again, as they must anyway."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._grants: dict[str, Grant] = {}

    def issue(self, user: str, granted: Iterable[tuple[str, str]]) -> dict[str, object]:
        """The token service's answer."""
        token = secrets.token_urlsafe(24)
        self._grants[token] = Grant(user, frozenset(granted), self._clock.now() + LIFETIME)
        issued = self._clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
        seconds = int(LIFETIME.total_seconds())
        return {"token": token, "access_token": token, "expires_in": seconds, "issued_at": issued}

    def grant(self, request: web.BaseRequest) -> Grant | None:
        """What the request's bearer token allows; None without a token that is valid now."""
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        found = self._grants.get(token) if kind.lower() == "bearer" else None
        return found if found is not None and found.until > self._clock.now() else None
