"""Requests as browsers, proxies, hurried people and strangers send them; two replicas; a log that was replaced."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import pytest_asyncio
from acceptance_scene import in_one_task
from api_bench import BASE, Door, door, frames, running, settings
from pool_bench import doing, opened, result

from events.envelope import read
from events.flow import BY_SLUG, SLUGS
from events.subjects import ALL, JOURNAL, REQUESTED, trigger
from schemas.results import StepResult
from workers.entrypoints.api import serve
from workers.world import Order, Report


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Door]:
    async with door(tmp_path) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def quiet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    """One at which nobody works; nothing is ever published there."""
    made, close = await in_one_task(lambda: door(tmp_path_factory.mktemp("quiet")))
    yield made
    await close()


@asynccontextmanager
async def replica(first: Door, directory: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Another process at the same log, as far as one can have it in this one."""
    chosen = settings(first.bench, directory, first.issuer)
    server = serve.server(chosen, serve.opening(chosen, "127.0.0.1", False), insecure=False)
    async with running(server) as url, httpx.AsyncClient(base_url=url, timeout=30.0) as client:
        yield client


async def talked(url: str, *parts: bytes, close_early: bool = False) -> bytes:
    """What comes back for these bytes."""
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        if close_early:
            return b""
        async with asyncio.timeout(120):
            return await reader.read(1 << 16)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def until(met: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not met():
            await asyncio.sleep(0.05)


# --- half, twice, at once -----------------------------------------------------------------------------------------


@pytest.mark.asyncio(loop_scope="module")
async def test_half_a_request_asks_for_nothing(quiet: Door) -> None:
    """Whoever goes away before the end of what he wrote has not said what he wants; a start is not reversed."""
    head = (
        f"POST {BASE}/start HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {quiet.issuer.token()}\r\n"
        "Content-Type: application/json\r\n"
    )
    sized = "Content-Length: 30\r\n\r\n"
    for rest in (sized, sized + '{"reason"', "Transfer-Encoding: chunked\r\n\r\n2\r\n{"):
        await talked(quiet.url, (head + rest).encode(), close_early=True)
    answer = await quiet.get("/status")  # its turn came after theirs
    assert answer.status_code == 200
    await asyncio.sleep(0.3)
    assert await quiet.bench.entries(ALL) == []


async def test_two_people_at_two_replicas_at_once_begin_one_run_and_both_are_told_so(
    house: Door, tmp_path: Path
) -> None:
    gate = asyncio.Event()

    async def held(order: Order, report: Report) -> StepResult:
        await gate.wait()
        return result("gitea-mirror")

    await house.bench.worker({**doing(house.bench.done), "gitea-mirror": held})
    async with replica(house, tmp_path) as other:
        asked = [client.post(f"{BASE}/start", headers=house.headers()) for client in (house.client, other) * 3]
        answers = await asyncio.gather(*asked)
    began = [answer for answer in answers if answer.status_code == 202]
    assert len(began) == 1
    refused = [answer for answer in answers if answer.status_code == 409]
    assert len(refused) == len(answers) - 1
    run = began[0].json()["run"]
    for answer in refused:
        assert answer.json()["error"] == "cutover-in-progress"
        assert run in answer.json()["detail"]
    gate.set()
    await house.bench.until(lambda state: state.complete)
    kinds = [read(entry.raw).kind for entry in await house.bench.entries(JOURNAL)]
    assert kinds.count("accepted") == 1


async def test_one_click_that_is_sent_twice_is_one_request_at_whatever_replica(house: Door, tmp_path: Path) -> None:
    await house.bench.worker()
    headers = {**house.headers(), "Idempotency-Key": "click-1"}
    async with replica(house, tmp_path) as other:
        answers = await asyncio.gather(
            *(client.post(f"{BASE}/start", headers=headers) for client in (house.client, other) * 2)
        )
        await house.bench.until(lambda state: state.complete)
        late = await other.post(f"{BASE}/start", headers=headers)
    assert {answer.status_code for answer in [*answers, late]} == {202}
    assert len({answer.json()["run"] for answer in [*answers, late]}) == 1
    assert len(await house.bench.entries(REQUESTED)) == 1


async def test_a_step_that_did_not_fail_is_done_again_when_asked_and_the_reason_is_kept(house: Door) -> None:
    await house.bench.worker()
    run = (await house.post("/start")).json()["run"]
    await house.bench.until(lambda state: state.complete)
    house.bench.done.clear()
    again = await house.post("/steps/harbor-projects/retry", {"reason": "a project was deleted", "run": run})
    assert (again.status_code, again.json()["run"]) == (202, run)
    await house.bench.until(lambda state: state.complete and len(house.bench.done) == 7)
    assert [slug for slug, _ in house.bench.done] == list(SLUGS[1:])
    order = read((await house.bench.entries(trigger(BY_SLUG["harbor-projects"])))[-1].raw)
    assert order.data is not None
    assert order.data["reason"] == "a project was deleted"
    other = await house.post("/steps/harbor-projects/retry", {"run": "run-0"})
    assert (other.status_code, other.json()["error"]) == (409, "not-the-last-run")
    for slug in ("no-such", "Harbor-Projects", "harbor-projects%20", "2", "..", "%00"):
        answer = await house.post(f"/steps/{slug}/retry")
        assert answer.status_code in (404, 405), slug


async def test_what_cannot_be_read_of_the_cluster_is_said_and_is_no_defect(house: Door) -> None:
    for path in ("audit", "plan"):
        answer = await house.get(f"/{path}")
        assert (answer.status_code, answer.json()["error"]) == (503, f"{path}-failed")
        assert "service account" in answer.json()["detail"]
    before = await house.get("/certificate")
    assert (before.status_code, before.json()["error"]) == (404, "not-certifiable")
    await house.bench.worker()
    await house.post("/start")
    await house.bench.until(lambda state: state.complete)
    feed = house.server.config.app.state.front.feed  # type: ignore[union-attr]
    await until(lambda: feed.state.complete)
    after = await house.get("/certificate")
    assert (after.status_code, after.json()["error"]) == (503, "kubeconfig-unusable")


async def test_a_full_log_is_told_as_such_and_a_request_goes_through_when_there_is_room(house: Door) -> None:
    stream = house.bench.stream.js
    config = (await stream.stream_info("CATALYST_CUTOVER")).config
    room, config.max_bytes = config.max_bytes, 128
    await stream.update_stream(config)
    full = await house.post("/start")
    assert (full.status_code, full.json()["error"]) == (503, "log-full")
    assert (await house.get("/status")).status_code == 200
    config.max_bytes = room
    await stream.update_stream(config)
    await house.bench.worker()
    assert (await house.post("/start")).status_code == 202


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "name", ["a" * 300 + ".js", "a" * 5000, "%00.js", "..%2fapp.py", "%ff.css", ".", "card.js%2f", ""]
)
async def test_a_name_that_is_no_part_of_the_console_is_404_and_never_a_file(quiet: Door, name: str) -> None:
    answer = await quiet.client.get(f"/console/{name}")
    assert (answer.status_code, answer.json()["error"]) == (404, "not-found")


# --- what a proxy or a browser makes of it ------------------------------------------------------------------------


@pytest.mark.asyncio(loop_scope="module")
async def test_head_options_and_old_http_are_answered_as_they_should(quiet: Door) -> None:
    for path in ("/", "/healthz", "/readyz", "/metrics", "/openapi.json", "/console/card.js"):
        got, head = await quiet.client.get(path), await quiet.client.head(path)
        assert (head.status_code, head.content) == (200, b""), path
        assert head.headers["content-type"] == got.headers["content-type"], path
    status = await quiet.client.head(f"{BASE}/status")
    assert status.status_code == 401
    events = await quiet.client.head(f"{BASE}/events", headers=quiet.headers())
    assert (events.status_code, events.headers["allow"]) == (405, "GET")
    old = await talked(quiet.url, b"GET /healthz HTTP/1.0\r\n\r\n")
    assert b" 200 OK" in old.split(b"\r\n")[0]
    assert old.endswith(b'{"status":"ok"}')
    assert (await quiet.get("/status/")).status_code == 404  # no redirect to whatever `Host` says
    start = await quiet.client.get(f"{BASE}/start", headers=quiet.headers())
    assert (start.status_code, start.headers["allow"]) == (405, "POST")


@pytest.mark.asyncio(loop_scope="module")
async def test_nobody_elses_page_is_ever_allowed_in_and_nothing_is_kept_or_guessed_at(quiet: Door) -> None:
    origin = {"Origin": "https://elsewhere.test"}
    asked = {**origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    preflight = await quiet.client.options(f"{BASE}/start", headers=asked)
    assert preflight.status_code == 405
    for answer in (preflight, await quiet.get("/status", **origin), await quiet.client.get("/", headers=origin)):
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert "set-cookie" not in answer.headers
        assert answer.headers["x-content-type-options"] == "nosniff"
    for path in (f"{BASE}/status", "/healthz", "/metrics", "/console.json", f"{BASE}/nowhere"):
        answer = await quiet.client.get(path, headers=quiet.headers())
        assert answer.headers["cache-control"] == "no-store", path
    card = (await quiet.client.get("/")).headers
    assert card["content-security-policy"].startswith("default-src 'self'")
    assert "unsafe" not in card["content-security-policy"]
    assert card["x-frame-options"] == "DENY"


@pytest.mark.asyncio(loop_scope="module")
async def test_a_cookie_or_a_token_in_the_url_is_nobody(quiet: Door) -> None:
    token = quiet.issuer.token()
    for answer in (
        await quiet.client.get(f"{BASE}/status", headers={"Cookie": f"catalyst_session={token}"}),
        await quiet.client.get(f"{BASE}/events?access_token={token}"),
        await quiet.client.get(f"{BASE}/status?ticket={token}"),
        await quiet.client.post(f"{BASE}/start?access_token={token}"),
    ):
        assert answer.status_code == 401


@pytest.mark.parametrize("unasked", [True, False])
async def test_where_nobody_is_asked_only_pages_of_loopback_are_heard(tmp_path: Path, unasked: bool) -> None:
    """Any page can send a plain POST to loopback, and a name can be made to resolve to it (DNS rebinding)."""
    async with opened(tmp_path) as bench:
        chosen = settings(bench, tmp_path)
        guard = serve.opening(chosen, "127.0.0.1", True)
        server = serve.server(chosen, guard, insecure=unasked)
        async with running(server) as url, httpx.AsyncClient(base_url=url, timeout=30.0) as client:
            port = urlsplit(url).port
            wrong: list[dict[str, str]] = [
                {"Origin": "https://elsewhere.test"}, {"Origin": "null"}, {"Origin": f"https://127.0.0.1:{port}"},
                {"Origin": f"http://127.0.0.1:{(port or 0) + 1}"}, {"Origin": "http://localhost.elsewhere.test"},
                {"Host": "elsewhere.test"}, {"Host": f"rebound.test:{port}"}, {"Host": "127.0.0.1.nip.io"},
                {"Host": "localhost.elsewhere.test"}, {"Host": "10.0.0.1"}, {"Host": "0.0.0.0"}, {"Host": "["},
                {"Host": "[::ffff:7f00:1]x"}, {"Host": "@127.0.0.1.elsewhere.test"},
            ]  # fmt: skip
            for headers in wrong:
                answer = await client.post(f"{BASE}/cancel", headers=headers)
                assert (answer.status_code == 403) is unasked, headers
            good: list[dict[str, str]] = [
                {}, {"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"}, {"Host": "[::1]:8080"},
                {"Origin": url},
            ]  # fmt: skip
            for headers in good:
                answer = await client.post(f"{BASE}/cancel", headers=headers)
                assert (answer.status_code, answer.json()["error"]) == (409, "no-active-run"), headers


# --- readers ------------------------------------------------------------------------------------------------------


async def heard(house: Door, query: str = "", **headers: str) -> list[tuple[int | None, str, Any]]:
    """Everything there is, from wherever the reader says it was."""
    path = f"{BASE}/events?follow=false{query}"
    answer = await house.client.get(path, headers={**house.headers(), **headers})
    assert answer.status_code == 200, answer.text
    return frames(answer.text)


async def test_a_place_that_is_none_is_refused_and_one_of_another_log_is_told_from_the_start(house: Door) -> None:
    await house.bench.worker()
    await house.post("/start")
    await house.bench.until(lambda state: state.complete)
    ids = [entry.seq for entry in await house.bench.entries(JOURNAL)]
    for garbage in ("abc", "-1", "1.5", "1,2", "0x10", "9" * 30, "null", "١"):
        answer = await house.client.get(
            f"{BASE}/events", headers=[*house.headers().items(), (b"Last-Event-ID", garbage.encode())]
        )
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid-request"), garbage
    for place in ({"Last-Event-ID": ""}, {}):
        told = await heard(house, **place)
        assert [number for number, _, _ in told if number is not None] == ids, place
    beyond = await heard(house, **{"Last-Event-ID": str(ids[-1] + 1000)})
    assert [number for number, _, _ in beyond if number is not None] == ids
    assert beyond[0][1] == "reset"
    at_end = await heard(house, **{"Last-Event-ID": str(ids[-1])})
    assert [kind for _, kind, _ in at_end] == ["status"]
    both = await heard(house, f"&lastEventId={ids[3]}", **{"Last-Event-ID": str(ids[-2])})
    assert [number for number, _, _ in both if number is not None] == [ids[-1]]


async def test_a_log_that_was_replaced_is_read_from_its_start_and_every_reader_is_told(house: Door) -> None:
    worker = await house.bench.worker()
    await house.post("/start")
    await house.bench.until(lambda state: state.complete)
    worker.cancel()
    feed = house.server.config.app.state.front.feed  # type: ignore[union-attr]
    await until(lambda: feed.state.complete)
    text = ""
    path = f"{BASE}/events?lastEventId={feed.state.seq}"
    async with house.client.stream("GET", path, headers=house.headers()) as answer, asyncio.timeout(60):
        await house.bench.stream.js.delete_stream("CATALYST_CUTOVER")
        await house.bench.stream.ensure()
        await until(lambda: feed.ready and feed.state.seq == 0)
        assert (await house.get("/status")).json()["cutoverComplete"] is False
        house.bench.done.clear()
        await house.bench.worker(name="w2")
        assert (await house.post("/start")).status_code == 202
        async for part in answer.aiter_text():
            text += part
            if "event: completed" in text and text.endswith("\n\n"):
                break
    told = frames(text)
    kinds = [kind for _, kind, _ in told]
    assert "reset" in kinds
    after = [number for number, _, _ in told[kinds.index("reset") :] if number is not None]
    assert after == [entry.seq for entry in await house.bench.entries(JOURNAL)][: len(after)]
    assert kinds[kinds.index("reset") :].count("completed") == 1
