"""What is asked of the API server about tokens that anybody can invent."""

from __future__ import annotations

import asyncio
import logging
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
from starlette.requests import Request

from workers.adapters.cluster import Cluster
from workers.entrypoints.api import reviews
from workers.entrypoints.api.identity import Doorkeeper
from workers.entrypoints.api.problems import Problem
from workers.entrypoints.api.reviews import Reviews
from workers.entrypoints.api.tokens import Tickets
from workers.entrypoints.settings import ServiceAccounts

FORGED = "eyJhbGciOiJSUzI1NiIsImtpZCI6IngifQ.eyJpc3MiOiJ4In0.AAAA"  # {"alg":"RS256","kid":"x"} . {"iss":"x"}


class ApiServer:
    """Knows the tokens that begin with `good`; answers when it is let."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.now = 0.0
        self.let = asyncio.Event()
        self.let.set()
        self.reviews = Reviews(self.ask, lambda: self.now)

    async def ask(self, token: str) -> str | None:
        self.asked.append(token)
        await self.let.wait()
        return token if token.startswith("good") else None


@pytest.mark.parametrize("token", ["good", "forged"])
async def test_one_token_is_asked_about_once_however_many_come_with_it_at_once(token: str) -> None:
    server = ApiServer()
    server.let.clear()
    crowd = [asyncio.ensure_future(server.reviews.name(token)) for _ in range(50)]
    await asyncio.sleep(0)
    crowd.pop().cancel()  # one of many goes away
    await asyncio.sleep(0)
    server.let.set()
    assert set(await asyncio.gather(*crowd)) == {token if token == "good" else None}
    assert server.asked == [token]


@pytest.mark.parametrize("token", ["good", "forged"])
async def test_a_no_is_kept_as_long_as_a_yes_and_no_longer(token: str) -> None:
    server = ApiServer()
    first = await server.reviews.name(token)
    server.now = reviews.BELIEVED - 0.1
    assert await server.reviews.name(token) == first
    assert server.asked == [token]
    server.now = reviews.BELIEVED
    assert await server.reviews.name(token) == first
    assert server.asked == [token, token]


async def test_more_unknown_tokens_at_once_are_told_to_come_back_and_who_was_known_is_let_through() -> None:
    server = ApiServer()
    await server.reviews.name("good")
    server.now = reviews.BELIEVED
    server.let.clear()
    flood = [asyncio.ensure_future(server.reviews.name(f"forged {n}")) for n in range(reviews.AT_ONCE)]
    await asyncio.sleep(0)
    with pytest.raises(Problem) as busy:
        await server.reviews.name("one more")
    assert (busy.value.status, busy.value.headers) == (503, {"Retry-After": "2"})
    known = asyncio.ensure_future(server.reviews.name("good"))
    await asyncio.sleep(0)
    server.let.set()
    assert await known == "good"
    await asyncio.gather(*flood)
    assert len(server.asked) == reviews.AT_ONCE + 2


async def test_forged_ones_push_out_no_good_one_and_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reviews, "KEPT", 5)
    server = ApiServer()
    await server.reviews.name("good")
    for n in range(20):
        await server.reviews.name(f"forged {n}")
    await server.reviews.name("good")
    assert server.asked.count("good") == 1
    assert len(server.reviews._bad) == 5


async def test_an_api_server_that_is_away_is_asked_again_by_the_next_one() -> None:
    server = ApiServer()

    async def away(token: str) -> str | None:
        server.asked.append(token)
        raise OSError("away")

    asking = Reviews(away, time.time)
    for _ in range(2):
        with pytest.raises(OSError, match="away"):
            await asking.name("good")
    assert server.asked == ["good", "good"]


async def test_a_flood_of_refusals_is_few_lines(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(time, "monotonic", lambda: 5.0)
    calls: list[str] = []

    async def review(token: str, audience: str) -> str | None:
        calls.append(token)
        return None

    cluster = cast(Cluster, SimpleNamespace(review_token=review))
    keeper = Doorkeeper(None, None, ServiceAccounts(audience="a"), cluster, Tickets(b"x" * 32))
    scope: dict[str, Any] = {"type": "http", "headers": [(b"authorization", f"Bearer {FORGED}".encode())]}
    for _ in range(100):
        with pytest.raises(Problem, match="not accepted"):
            await keeper.caller(Request(scope))
    assert calls == [FORGED]
    assert len([r for r in caplog.records if "refused a token" in r.getMessage()]) == 1
