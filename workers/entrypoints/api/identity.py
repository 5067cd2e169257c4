"""Who asks: an operator by an access token of Keycloak, or a Pod by its ServiceAccount's token."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from secrets import token_bytes
from typing import Any

from starlette.requests import Request

from workers.adapters.cluster import Cluster
from workers.adapters.keycloak import Keys, KeysUnavailable
from workers.entrypoints import wiring
from workers.entrypoints.api import tokens
from workers.entrypoints.api.problems import Problem
from workers.entrypoints.api.reviews import Reviews
from workers.entrypoints.api.tokens import Claims, Refused, Tickets
from workers.entrypoints.api.who import Caller
from workers.entrypoints.settings import Identity, ServiceAccounts, Settings
from workers.errors import Trouble

log = logging.getLogger("cutover.api")


def unauthorized(why: str) -> Problem:
    """401."""
    return Problem(401, "unauthorized", why, {"WWW-Authenticate": 'Bearer realm="cutover"'})


class Doorkeeper:
    """Asks everybody. Implements `who.Doorman`."""

    def __init__(
        self, identity: Identity | None, keys: Keys | None, accounts: ServiceAccounts | None, cluster: Cluster | None,
        tickets: Tickets, clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._identity, self._keys, self._accounts, self._cluster = identity, keys, accounts, cluster
        self._tickets, self._clock = tickets, clock
        self._reviews = Reviews(self._reviewed, clock)
        self._told, self._since = float("-inf"), 0

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings) -> AsyncIterator[Doorkeeper]:
        """As the settings say. Raises Trouble when the cluster must be asked and cannot be reached at all."""
        api = settings.api
        async with AsyncExitStack() as stack:
            keys = cluster = None
            if (identity := api.identity) is not None:
                keys = await stack.enter_async_context(
                    Keys.open(
                        identity.issuer, identity.jwks_url, identity.ca_file,
                        refresh=identity.refresh, cooldown=identity.cooldown,
                    )
                )  # fmt: skip
            if api.service_accounts is not None:
                cluster = await stack.enter_async_context(wiring.cluster(settings))
            yield cls(identity, keys, api.service_accounts, cluster, Tickets(ticket_key(settings)))

    async def caller(self, request: Request) -> Caller:
        """Raises Problem 401, 503."""
        given = request.headers.getlist("authorization")
        if not given:
            raise unauthorized("send Authorization: Bearer <token>")
        scheme, _, token = given[0].partition(" ")
        if len(given) > 1 or scheme.lower() != "bearer" or not token.strip():
            raise unauthorized("send one Authorization: Bearer <token>")
        try:
            return await self._known(token.strip())
        except Refused as why:
            self._tell(why)
            raise unauthorized(f"the token is not accepted: {why}") from None

    def _tell(self, why: Refused) -> None:
        """Once a second at most: a flood must not become a flood of lines."""
        self._since += 1
        if (now := time.monotonic()) - self._told >= 1.0:
            log.info("refused a token: %s; %d since this was said last", why, self._since)
            self._told, self._since = now, 0

    async def _known(self, token: str) -> Caller:
        issuer = tokens.issuer_of(token)
        if self._accounts is not None and (self._identity is None or issuer != self._identity.issuer):
            if issuer is None:
                raise Refused("it is no signed token")  # nor is the API server bothered with it
            return await self._pod(token)
        if self._identity is None:
            raise Refused("nobody here knows its issuer")
        return await self._operator(token, self._identity)

    async def _operator(self, token: str, identity: Identity) -> Caller:
        assert self._keys is not None  # noqa: S101  there where an identity is
        rule = tokens.Rule(
            identity.issuer, identity.audience, identity.algorithms, identity.authorized_parties, identity.leeway
        )
        try:
            claims = await tokens.verified(token, rule, self._keys.find, self._clock())
        except KeysUnavailable as error:
            raise Problem(503, "identity-unavailable", str(error), {"Retry-After": "10"}) from None
        given = tokens.roles(claims, identity.roles_client)
        acts = not given.isdisjoint(identity.action_roles)
        return Caller(
            "user", named(claims), may_read=acts or not given.isdisjoint(identity.reader_roles), may_act=acts,
            until=tokens.moment(claims, "exp") + identity.leeway, roles=tuple(sorted(given)),
        )  # fmt: skip

    async def _pod(self, token: str) -> Caller:
        """Known by the API server."""
        assert self._accounts is not None  # noqa: S101  asked only then
        name = await self._reviews.name(token)
        if name is None:
            raise Refused("the API server does not know it, or it is for another audience")
        acts = name in self._accounts.may_act
        return Caller(
            "service_account", name, may_read=acts or name in self._accounts.may_read, may_act=acts,
            until=tokens.ends(token),
        )  # fmt: skip

    async def _reviewed(self, token: str) -> str | None:
        assert self._accounts is not None  # noqa: S101  asked only then
        assert self._cluster is not None  # noqa: S101
        try:
            return await self._cluster.review_token(token, self._accounts.audience)
        except Trouble as error:
            raise Problem(503, "token-review-failed", str(error), {"Retry-After": "5"}) from None

    async def ticket(self, caller: Caller) -> tuple[str, float]:
        """For one stream of events."""
        return self._tickets.issue({"sub": caller.authid, "at": caller.authtype, "until": caller.until})

    async def bearer_of(self, ticket: str) -> Caller:
        """Raises Problem 401."""
        try:
            claims = self._tickets.use(ticket)
        except Refused as why:
            raise unauthorized(f"the ticket is not accepted: {why}") from None
        return Caller(str(claims["at"]), str(claims["sub"]), may_read=True, until=claims["until"])


def named(claims: Claims) -> str:
    """Who, for the record: the name for people, and the id that nobody else gets later."""
    name, sub = claims.get("preferred_username"), claims["sub"]
    return f"{_plain(name)} ({_plain(sub)})" if isinstance(name, str) and name and name != sub else _plain(sub)


def _plain(text: Any) -> str:
    """One line, not long: it stands in logs and on screens."""
    return "".join(c if c.isprintable() else "?" for c in str(text))[:200]


def ticket_key(settings: Settings) -> bytes:
    """What all replicas share; a random one for a single replica. Raises ValueError for one that is too short."""
    file = settings.api.ticket_key_file
    if file is None:
        return token_bytes(32)
    key = file.read_bytes().strip()
    if len(key) < 32:
        raise ValueError(f"api.ticket_key_file: {file} has fewer than 32 bytes")
    return key
