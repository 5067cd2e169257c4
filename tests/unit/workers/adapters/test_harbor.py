"""The Harbor adapter's words, on another transport."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from workers.adapters.harbor import HarborApi
from workers.errors import Stuck, Wait


def harbor(answer: Callable[[httpx.Request], httpx.Response]) -> HarborApi:
    """A Harbor that answers so."""
    transport = httpx.MockTransport(answer)
    return HarborApi(httpx.AsyncClient(base_url="http://harbor/api/v2.0", transport=transport))


async def test_no_cookie_is_sent_back_or_harbor_would_want_a_csrf_token() -> None:
    cookies: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        cookies.append(request.headers.get("Cookie"))
        return httpx.Response(201, headers={"Set-Cookie": "sid=1; Path=/"})

    api = harbor(answer)
    for name in ("a", "b"):
        await api.create_project(name, public=True)
    assert cookies == [None, None]


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (401, Stuck, "HarborDenied"),
        (403, Stuck, "HarborDenied"),
        (400, Stuck, "HarborRefused"),
        (429, Wait, "HarborUnavailable"),
        (502, Wait, "HarborUnavailable"),
    ],
)
async def test_every_status_has_its_word_and_harbors_own(status: int, kind: type[Exception], reason: str) -> None:
    errors = {"errors": [{"code": "CODE", "message": "why"}]}
    with pytest.raises(kind, match=rf"{reason}.*{status} CODE: why"):
        await harbor(lambda request: httpx.Response(status, json=errors)).create_project("a", public=True)


async def test_a_harbor_that_cannot_be_reached_is_waited_for() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(Wait, match="HarborUnavailable"):
        await harbor(refuse).project("a")


async def test_an_ill_component_is_named() -> None:
    components = [{"name": "redis", "status": "unhealthy", "error": "timeout"}, {"name": "core", "status": "healthy"}]
    body = {"status": "unhealthy", "components": components}
    with pytest.raises(Wait, match=r"HarborUnhealthy.*redis: timeout"):
        await harbor(lambda request: httpx.Response(200, json=body)).check()


async def test_who_is_not_told_the_version_is_not_signed_in() -> None:
    body = {"status": "healthy", "components": []}
    with pytest.raises(Stuck, match="does not accept the login"):
        await harbor(lambda request: httpx.Response(200, json=body)).check()


async def test_a_registry_that_only_resembles_the_name_is_not_it() -> None:
    similar = [{"id": 1, "name": "proxy-ghcr-upstream-old", "url": "u", "type": "t"}]
    assert await harbor(lambda request: httpx.Response(200, json=similar)).endpoint("proxy-ghcr-upstream") is None
