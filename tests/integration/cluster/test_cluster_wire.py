"""The API server in trouble: busy, away, forbidding, forgetful. Each answer becomes one of our words."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sandbox.broker import free_port
from sandbox.serving import serving
from workers.adapters.cluster import (
    CONFIG_MAP,
    GIT_REPOSITORY,
    HELM_REPOSITORY,
    SECRET,
    Cluster,
    Conflict,
    Exists,
)
from workers.errors import Stuck, Wait

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def status(code: int, reason: str = "", message: str = "", **headers: str) -> Callable[[], web.Response]:
    body = {"kind": "Status", "apiVersion": "v1", "code": code, "reason": reason, "message": message}
    return lambda: web.json_response(body, status=code, headers=headers)


def config_map(name: str, version: str = "1", **data: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "n", "resourceVersion": version}, "data": data}


def event(change: str, obj: dict[str, Any]) -> bytes:
    return json.dumps({"type": change, "object": obj}).encode() + b"\n"


class Server:
    """Discovery is true; everything else is answered by `answer`, and every request is kept."""

    def __init__(self) -> None:
        self.seen: list[web.Request] = []
        self.answer: Answer = self._nothing

    async def _nothing(self, request: web.Request) -> web.Response:
        return web.json_response(config_map("a"))

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/api/v1":
            names = ("configmaps", "secrets")
            return web.json_response({"resources": [{"name": name} for name in names]})
        if request.path == "/apis/source.toolkit.fluxcd.io":
            return web.json_response({"versions": [{"version": "v1beta2"}, {"version": "v9"}]})
        if request.path == "/apis/source.toolkit.fluxcd.io/v1beta2":
            return web.json_response({"resources": [{"name": "gitrepositories"}]})
        if request.path == "/apis/source.toolkit.fluxcd.io/v9":
            return web.json_response({"resources": [{"name": "helmrepositories"}]})
        self.seen.append(request)
        return await self.answer(request)


@asynccontextmanager
async def opened(server: Server, tmp_path: Path) -> AsyncIterator[Cluster]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    async with serving(app) as port:
        file = kubeconfig(tmp_path, port)
        async with Cluster.open(kubeconfig=file, field_manager="catalyst-cutover") as cluster:
            yield cluster


def kubeconfig(tmp_path: Path, port: int) -> Path:
    file = tmp_path / "kubeconfig"
    entry = {"name": "x", "cluster": {"server": f"http://127.0.0.1:{port}"}}
    context = {"name": "x", "context": {"cluster": "x", "user": "x"}}
    user = {"name": "x", "user": {"token": "t0ken"}}
    whole = {"clusters": [entry], "contexts": [context], "users": [user], "current-context": "x"}
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **whole}))
    return file


def in_turn(*answers: Callable[[], web.Response]) -> Answer:
    """These answers, one a request; the last one from then on."""
    left = list(answers)

    async def answer(_request: web.Request) -> web.Response:
        return (left.pop(0) if len(left) > 1 else left[0])()

    return answer


async def test_a_busy_server_is_asked_again_and_its_retry_after_is_kept(tmp_path: Path) -> None:
    server = Server()
    server.answer = in_turn(
        status(429, "TooManyRequests", **{"Retry-After": "0"}), status(503), lambda: web.json_response(config_map("a"))
    )
    async with opened(server, tmp_path) as cluster:
        assert await cluster.get(CONFIG_MAP, "a", "n") is not None
    assert len(server.seen) == 3


async def test_a_server_that_stays_busy_becomes_wait(tmp_path: Path) -> None:
    server = Server()
    server.answer = in_turn(status(503, message="etcd is behind", **{"Retry-After": "0"}))

    async with opened(server, tmp_path) as cluster:
        with pytest.raises(Wait, match=r"ApiServerUnavailable: get configmaps n/a.*etcd is behind"):
            await cluster.get(CONFIG_MAP, "a", "n")


async def test_a_server_that_is_away_becomes_wait(tmp_path: Path, unused_tcp_port: int) -> None:
    file = kubeconfig(tmp_path, unused_tcp_port)
    async with Cluster.open(kubeconfig=file, field_manager="m") as cluster:
        with pytest.raises(Wait, match="ApiServerUnavailable"):
            await cluster.list(CONFIG_MAP)


@pytest.fixture
def unused_tcp_port() -> int:
    return free_port()


async def test_a_missing_grant_is_named(tmp_path: Path) -> None:
    server = Server()
    said = 'secrets "x" is forbidden: User "system:serviceaccount:catalyst:cutover" cannot patch resource "secrets"'
    server.answer = in_turn(status(403, "Forbidden", said))
    async with opened(server, tmp_path) as cluster:
        with pytest.raises(Stuck) as raised:
            await cluster.apply(SECRET, {"metadata": {"name": "x", "namespace": "n"}})
    assert raised.value.reason == "ApiForbidden"
    assert "patch secrets n/x" in raised.value.message
    assert "grant system:serviceaccount:catalyst:cutover the verb patch" in raised.value.message


async def test_an_unknown_token_is_a_person_s_business_and_never_shown(tmp_path: Path) -> None:
    server = Server()
    server.answer = in_turn(status(401, "Unauthorized", "Unauthorized"))
    async with opened(server, tmp_path) as cluster:
        with pytest.raises(Stuck, match=r"ApiForbidden.*check the token") as raised:
            await cluster.get(CONFIG_MAP, "a", "n")
    assert "t0ken" not in str(raised.value)
    assert server.seen[0].headers["Authorization"] == "Bearer t0ken"


async def test_not_found_is_none_and_a_kind_that_is_not_served_is_not(tmp_path: Path) -> None:
    server = Server()
    server.answer = in_turn(status(404, "NotFound"))
    async with opened(server, tmp_path) as cluster:
        assert await cluster.get(GIT_REPOSITORY, "a", "n") is None
        assert "/v1beta2/" in server.seen[0].path
        assert not await cluster.delete(CONFIG_MAP, "a", "n")
        with pytest.raises(Stuck, match="ApiVersionUnknown"):
            await cluster.served(HELM_REPOSITORY)


async def test_the_two_conflicts_are_told_apart(tmp_path: Path) -> None:
    server = Server()
    async with opened(server, tmp_path) as cluster:
        server.answer = in_turn(status(409, "AlreadyExists"))
        with pytest.raises(Exists):
            await cluster.create(CONFIG_MAP, {"metadata": {"name": "a", "namespace": "n"}})
        server.answer = in_turn(status(409, "Conflict"))
        with pytest.raises(Conflict):
            await cluster.replace(CONFIG_MAP, config_map("a"))


async def test_every_write_says_its_field_manager_and_its_content_type(tmp_path: Path) -> None:
    server = Server()
    async with opened(server, tmp_path) as cluster:
        await cluster.apply(CONFIG_MAP, config_map("a"))
        await cluster.patch(CONFIG_MAP, "a", "n", {"data": {}})
        await cluster.replace(CONFIG_MAP, config_map("a"))
        await cluster.create(CONFIG_MAP, config_map("a"))
    types = ["apply-patch+yaml", "merge-patch+json", "json", "json"]
    assert [r.headers["Content-Type"] for r in server.seen] == [f"application/{t}" for t in types]
    assert {r.query["fieldManager"] for r in server.seen} == {"catalyst-cutover"}
    assert {r.headers["User-Agent"] for r in server.seen} == {"catalyst-cutover"}


async def test_a_watch_survives_expiry_and_tells_what_went_meanwhile(tmp_path: Path) -> None:
    server = Server()
    lists = [[config_map("a"), config_map("b")], [config_map("b", "9")]]
    expired = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}

    async def answer(request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            items = lists.pop(0)
            return web.json_response({"metadata": {"resourceVersion": "5"}, "items": items})
        stream = web.StreamResponse()
        await stream.prepare(request)
        bookmark = {"metadata": {"resourceVersion": "7"}}
        if lists:
            await stream.write(event("BOOKMARK", bookmark) + event("MODIFIED", config_map("b", "8"))[:20])
            await stream.write(event("MODIFIED", config_map("b", "8"))[20:] + event("ERROR", expired))
        else:
            await stream.write(event("DELETED", config_map("b", "10")))
        return stream

    server.answer = answer
    found: list[tuple[str, str]] = []
    async with opened(server, tmp_path) as cluster, aclosing(cluster.watch(CONFIG_MAP, "n")) as events:
        async for change, obj in events:
            found.append((change, obj["metadata"]["name"]))
            assert change != "ADDED" or obj["kind"] == "ConfigMap"
            if len(found) == 6:
                break
    assert found == [
        ("ADDED", "a"),
        ("ADDED", "b"),
        ("MODIFIED", "b"),
        ("DELETED", "a"),
        ("ADDED", "b"),
        ("DELETED", "b"),
    ]


async def test_a_watch_that_is_cut_goes_on_from_where_it_was(tmp_path: Path) -> None:
    server = Server()
    watches: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            return web.json_response({"metadata": {"resourceVersion": "5"}, "items": []})
        watches.append(request.query["resourceVersion"])
        stream = web.StreamResponse()
        await stream.prepare(request)
        await stream.write(event("ADDED" if len(watches) == 1 else "MODIFIED", config_map("a", f"{5 + len(watches)}")))
        if len(watches) == 1:
            assert request.transport is not None
            request.transport.abort()
        return stream

    server.answer = answer
    async with opened(server, tmp_path) as cluster:
        seen = await cluster.wait(CONFIG_MAP, "a", "n", lambda o: (o or {}) != {} and len(watches) == 2, 10)
    assert seen is not None
    assert watches == ["5", "6"]


async def test_a_wait_that_is_in_vain_says_how_things_stand(tmp_path: Path) -> None:
    server = Server()
    ready = {"type": "Ready", "status": "False", "reason": "AuthenticationFailed", "message": "401"}
    sick = {**config_map("a"), "status": {"conditions": [ready]}}

    async def answer(request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            return web.json_response({"metadata": {"resourceVersion": "5"}, "items": [sick]})
        stream = web.StreamResponse()
        await stream.prepare(request)
        await asyncio.sleep(5)
        return stream

    server.answer = answer
    async with opened(server, tmp_path) as cluster:
        with pytest.raises(Wait, match=r"ConfigMapTimeout: configmaps n/a: .*Ready=False AuthenticationFailed: 401"):
            await cluster.wait(CONFIG_MAP, "a", "n", lambda _: False, 0.3)
        with pytest.raises(Wait, match="ConfigMapTimeout"):
            await cluster.wait(CONFIG_MAP, "a", "n", lambda obj: obj is None, 0.3)


async def test_a_list_comes_whole_page_by_page_even_when_its_token_expires(tmp_path: Path) -> None:
    server = Server()
    expired = [True]

    async def answer(request: web.Request) -> web.StreamResponse:
        if "continue" not in request.query:
            meta = {"resourceVersion": "5", "continue": "t"}
            return web.json_response({"metadata": meta, "items": [config_map("a")]})
        if expired:
            expired.clear()
            return status(410, "Expired", "the token is too old")()
        return web.json_response({"metadata": {"resourceVersion": "5"}, "items": [config_map("b")]})

    server.answer = answer
    async with opened(server, tmp_path) as cluster:
        items = await cluster.list(CONFIG_MAP)
    assert [(o["kind"], o["metadata"]["name"]) for o in items] == [("ConfigMap", "a"), ("ConfigMap", "b")]
