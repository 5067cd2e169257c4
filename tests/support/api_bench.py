"""The API on a real broker with a real issuer, served by real uvicorn on loopback; steps are the test's own."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from pool_bench import Bench, opened

from events.jetstream import Broker as BrokerSettings
from sandbox.oidc import Issuer
from workers.entrypoints.api import serve
from workers.entrypoints.settings import Api, ApiLimits, Identity, Settings
from workers.sovereign import Gitea, Harbor, Login, Sovereign

BASE = "/api/v1/sovereign/cutover"
LOGIN = Login(username="u", password_file=Path("/absent"))
SOVEREIGN = Sovereign(
    fqdn="sovereign.test",
    gitea=Gitea(url="http://127.0.0.1:1", login=LOGIN),
    harbor=Harbor(url="http://127.0.0.1:2", host="harbor.sovereign.test", login=LOGIN),
)


@dataclass
class Door:
    """One served API, and who asks it."""

    bench: Bench
    issuer: Issuer
    url: str
    client: httpx.AsyncClient
    server: serve.Server

    def headers(self, token: str | None = None) -> dict[str, str]:
        """A good operator's, unless a token is given."""
        return {"Authorization": f"Bearer {token if token is not None else self.issuer.token()}"}

    async def get(self, path: str, token: str | None = None, **more: str) -> httpx.Response:
        return await self.client.get(BASE + path, headers={**self.headers(token), **more})

    async def post(self, path: str, body: Any = None, token: str | None = None, **more: str) -> httpx.Response:
        return await self.client.post(BASE + path, json=body, headers={**self.headers(token), **more})


def settings(bench: Bench, directory: Path, issuer: Issuer | None = None, **limits: Any) -> Settings:
    """Of a Sovereign that has only a broker and an issuer."""
    identity = Identity(issuer=issuer.url, refresh=0.2, cooldown=0.2, leeway=1.0) if issuer else None
    return Settings(
        nats=BrokerSettings(url=bench.broker.url, budget=5.0), sovereign=SOVEREIGN, workspace=directory,
        api=Api(identity=identity, limits=ApiLimits(**{"answer": 8.0, **limits})),
    )  # fmt: skip


@asynccontextmanager
async def running(server: serve.Server, send_buffer: int | None = None) -> AsyncIterator[str]:
    """The server in a task of this process; its URL."""
    with serve.listening("127.0.0.1", 0) as listener:
        if send_buffer:  # of each connection: what the kernel keeps for a reader that does not read
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with httpx.AsyncClient(base_url=url) as client:
            while True:
                try:
                    if (await client.get("/readyz")).status_code == 200:
                        break
                except httpx.TransportError:
                    assert not task.done(), task.result()
                await asyncio.sleep(0.05)
        try:
            yield url
        finally:
            server.should_exit = True
            await task


@asynccontextmanager
async def door(directory: Path, send_buffer: int | None = None, **limits: Any) -> AsyncIterator[Door]:
    """Broker, issuer, API; no worker yet."""
    async with opened(directory) as bench, Issuer.open() as issuer:
        chosen = settings(bench, directory, issuer, **limits)
        server = serve.server(chosen, serve.opening(chosen, "127.0.0.1", False), insecure=False)
        async with running(server, send_buffer) as url, httpx.AsyncClient(base_url=url, timeout=60.0) as client:
            yield Door(bench, issuer, url, client, server)


def frames(text: str) -> list[tuple[int | None, str, Any]]:
    """Server-sent events as (id, event, data); comments are left out."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith(":"))
        if "data" in fields:
            number = int(fields["id"]) if "id" in fields else None
            found.append((number, fields.get("event", "message"), json.loads(fields["data"])))
    return found
