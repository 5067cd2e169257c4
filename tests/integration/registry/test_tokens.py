"""To whom a login and a token are shown on the wire: the registry and its own token service, and nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import pytest
from aiohttp import web
from pydantic import SecretStr

from sandbox.serving import serving
from workers.adapters.oci.trouble import Denied, Unavailable, WireTrouble
from workers.adapters.oci.wire import Wire
from workers.supply.pull_secrets import Lent

LOGIN = Lent(username="ann", secret=SecretStr("hunter2"))


@dataclass
class Service:
    """A registry that wants a token, and its token service; both remember what they were shown."""

    realm: str = "/token"
    body: str = '{"access_token": "t0ken", "expires_in": 300}'
    location: str = "/upload"
    shown: list[tuple[str, str]] = field(default_factory=list)

    def app(self) -> web.Application:
        async def token(request: web.Request) -> web.Response:
            self.shown.append((f"token {request.query_string}", request.headers.get("Authorization", "")))
            return web.Response(text=self.body)

        async def registry(request: web.Request) -> web.Response:
            self.shown.append((request.method, request.headers.get("Authorization", "")))
            if request.headers.get("Authorization") == "Bearer t0ken":
                return web.Response(status=202, headers={"Location": self.location})
            realm = self.realm if "://" in self.realm else f"http://{request.host}{self.realm}"
            challenge = f'Basic realm="a, b", BEARER service="s",realm="{realm}"'
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})

        app = web.Application()
        app.add_routes([web.get("/token", token), web.route("*", "/{rest:.*}", registry)])
        return app


@asynccontextmanager
async def wired(service: Service, login: Lent | None) -> AsyncIterator[Wire]:
    """Asked at 127.0.0.1; as `localhost` the same server is somebody else."""
    async with serving(service.app()) as port, aiohttp.ClientSession() as http:
        for name in ("realm", "location"):
            setattr(service, name, getattr(service, name).replace("PORT", str(port)))
        yield Wire(http, f"http://127.0.0.1:{port}", "ghcr.io", login)


async def ask(wire: Wire, method: str = "GET", path: str = "v2/x") -> str:
    async with wire.call(method, path, scope="repository:x:pull") as answer:
        return answer.headers.get("Location", "")


async def test_the_registrys_own_token_service_is_told_the_login_and_keeps_its_query() -> None:
    service = Service(realm="/token?account=7")
    async with wired(service, LOGIN) as wire:
        await ask(wire)
    (first, second, third) = service.shown
    assert first == ("GET", "")
    assert second[0] == "token account=7&service=s&scope=repository:x:pull"
    assert second[1].startswith("Basic ")
    assert third == ("GET", "Bearer t0ken")


async def test_a_token_service_of_somebody_else_is_not_told_the_login() -> None:
    service = Service(realm="http://localhost:PORT/token")
    async with wired(service, LOGIN) as wire:
        with pytest.raises(Denied, match=r"ghcr\.io asks for its login at http://localhost:\d+, .* not sent"):
            await ask(wire)
    assert service.shown == [("GET", "")]
    async with wired(Service(realm="http://localhost:PORT/token"), None) as wire:
        assert await ask(wire) == "/upload", "nobody's token is had there all the same"


async def test_a_location_that_leads_to_somebody_else_is_not_shown_the_token() -> None:
    service = Service(location="http://localhost:PORT/upload")
    async with wired(service, LOGIN) as wire:
        location = await ask(wire, "POST")
        service.shown.clear()
        with pytest.raises(WireTrouble):
            await ask(wire, "DELETE", location)
    assert service.shown == [("DELETE", "")]


@pytest.mark.parametrize("body", ["<html>", '{"token": null}', "[]", '{"token": "' + "x" * (1 << 20) + '"}'])
async def test_an_answer_that_is_no_token_is_waited_for_and_not_repeated(body: str) -> None:
    async with wired(Service(body=body), LOGIN) as wire:
        with pytest.raises(Unavailable, match=r"a token for ghcr\.io: .*no token") as caught:
            await ask(wire)
    assert len(str(caught.value)) < 200
