"""The Harbor adapter's words, on another transport."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

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


@pytest.mark.parametrize("body", [b"<html>Welcome to nginx</html>", b"[]", b'"up"', b'{"errors": []}', b"\x1f\x8b"])
async def test_a_page_where_harbor_should_answer_is_waited_for(body: bytes) -> None:
    api = harbor(lambda _request: httpx.Response(200, content=body, headers={"Content-Encoding": "identity"}))
    for ask in (api.check(), api.project("p"), api.quota("p"), api.deletes(1)):
        with pytest.raises(Wait) as caught:
            await ask
        assert caught.value.reason == "HarborUnavailable"
    if body != b"[]":
        for ask in (api.robot("r", ["p"]), api.endpoint("e")):
            with pytest.raises(Wait):
                await ask


async def test_a_body_that_cannot_be_unpacked_is_waited_for() -> None:
    api = harbor(lambda _request: httpx.Response(200, stream=Packed(), headers={"Content-Encoding": "gzip"}))
    with pytest.raises(Wait, match="HarborUnavailable"):
        await api.check()


class Packed(httpx.AsyncByteStream):
    """Says that it is gzip and is not."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"plain"


@pytest.mark.parametrize(
    ("said", "after"),
    [("7", 7.0), ("Mon, 01 Jan 2001 00:00:00 GMT", 0.0), ("Fri, 31 Dec 9999 23:59:59 GMT", 300.0), ("soon", 10.0)],
)
async def test_retry_after_is_a_number_or_a_date_and_followed_within_reason(said: str, after: float) -> None:
    api = harbor(lambda _request: httpx.Response(429, headers={"Retry-After": said}))
    with pytest.raises(Wait) as caught:
        await api.check()
    assert caught.value.after == after


@pytest.mark.parametrize(
    ("status", "body", "there"),
    [(200, '{"digest": "sha256:1"}', True), (404, "{}", False), (200, "{}", False), (200, "<html>", None)],
)
async def test_a_gateways_page_is_no_artifact(status: int, body: str, there: bool | None) -> None:
    api = harbor(lambda request: httpx.Response(status, text=body))
    if there is None:
        with pytest.raises(Wait, match="HarborUnavailable"):
            await api.has_artifact("p/a/b", "sha256:1")
    else:
        assert await api.has_artifact("p/a/b", "sha256:1") is there
