"""The commands over the API, when what answers is cut off, is somebody else, or knows nobody by this token."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from api_bench import BASE
from click.testing import CliRunner, Result

from events.fold import State
from workers.entrypoints import cli_remote
from workers.entrypoints.cli import main
from workers.entrypoints.cli_remote import Foreign, Remote, Standing, Unreachable, folded

pytestmark = pytest.mark.asyncio(loop_scope="module")
PAGE = b"<!doctype html>\n<title>Console</title>\n<div id=root></div>\n"
BARE = b'{"specversion":"1.0"}'


def told(number: int, event: bytes = BARE) -> bytes:
    """One fact as the API sends it."""
    return b'id: %d\nevent: accepted\ndata: {"sequence":%d,"event":%s}\n\n' % (number, number, event)


def state(number: int, live: bool = True) -> bytes:
    return b'event: status\ndata: {"streamSequence":%d,"live":%s}\n\n' % (number, b"true" if live else b"false")


@dataclass
class Stranger:
    """Whoever listens at the address that was given as the API's."""

    url: str = ""
    body: bytes = PAGE
    media: str = "text/html"
    status: int = 200
    good: set[str] = field(default_factory=set)
    """Tokens that are let in; all of them when there are none."""
    asked: list[str] = field(default_factory=list)
    answers: dict[str, bytes] = field(default_factory=dict)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        word = request.headers.get("Authorization", "").removeprefix("Bearer ")
        self.asked.append(word)
        if self.good and word not in self.good:
            return web.json_response({"error": "unauthorized", "detail": "it has expired"}, status=401)
        path = request.path.removeprefix(BASE)
        if path in self.answers:
            media = "text/event-stream" if path == "/events" else "application/json"
            return web.Response(body=self.answers[path], content_type=media)
        return web.Response(body=self.body, content_type=self.media, status=self.status)


@pytest_asyncio.fixture(loop_scope="module")
async def stranger() -> AsyncIterator[Stranger]:
    made = Stranger()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


async def types(*words: str, **env: str) -> Result:
    """`cutover ...`, in a thread, with no settings; it ends, whatever is answered."""
    clean = {"CUTOVER_CONFIG": "/nowhere", "COLUMNS": "160", **env}
    async with asyncio.timeout(60):
        return await asyncio.to_thread(lambda: CliRunner().invoke(main, list(words), env=clean))


# --- an answer that is not whole --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b": here\nretry: 2000\n\n",
        told(1) + told(2),
        told(1) + state(1) + told(2),
        told(1) + b"id: 2\nevent: acc",
        told(1) + b'id: 2\nevent: accepted\ndata: {"sequence":2,"event":{"specv',
        told(1) + state(2),
    ],
)
async def test_an_answer_that_was_cut_is_never_taken_for_the_whole_log(stranger: Stranger, body: bytes) -> None:
    stranger.answers["/events"] = body
    status = await types("status", "--api", stranger.url, "--output", "json")
    assert (status.exit_code, "ended its answer early" in status.output) == (3, True), status.output


async def test_what_an_api_without_its_broker_remembers_is_not_told_as_how_it_stands(stranger: Stranger) -> None:
    stranger.answers["/events"] = told(1) + state(1, live=False)
    status = await types("status", "--api", stranger.url)
    assert (status.exit_code, "does not reach the broker" in status.output) == (3, True), status.output


async def test_an_empty_log_is_told_whole(stranger: Stranger) -> None:
    stranger.answers["/events"] = b": here\nretry: 2000\n\n" + state(0)
    assert await folded(Remote(stranger.url, None, None)) == State()


async def test_an_event_keeps_its_bytes_whatever_ends_of_lines_unicode_knows(stranger: Stranger) -> None:
    raw = '{"specversion":"1.0","data":{"reason":"a\u2028b\u0085c"}}'.encode()
    stranger.answers["/events"] = told(7, raw) + state(7)
    assert [entry.raw async for entry in Remote(stranger.url, None, None).read(0, live=False)] == [raw]


async def test_what_the_api_left_out_for_the_slow_is_asked_for_again(
    stranger: Stranger, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger.answers["/events"] = told(1) + b'id: 9\nevent: lagged\ndata: {"to":9}\n\n' + state(9)

    async def pause(_: float) -> None:
        stranger.answers["/events"] = told(2) + told(9) + state(9)

    monkeypatch.setattr(cli_remote.anyio, "sleep", pause)
    assert [entry.seq async for entry in Remote(stranger.url, None, None).read(0, live=False)] == [1, 2, 9]


# --- somebody else ----------------------------------------------------------------------------------------------

COMMANDS = [("status",), ("request",), ("cancel",), ("plan",), ("audit",), ("certificate",), ("watch", "--plain")]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("media", "body", "code"),
    [
        ("text/html", PAGE, 200),
        ("text/html", PAGE, 404),
        ("application/json", b"{}", 200),
        ("application/json", b"[]", 200),
        ("application/json", b'"ok"', 200),
        ("application/json", b"<html>", 200),
    ],
)
async def test_somebody_else_is_told_from_the_api(
    stranger: Stranger, command: tuple[str, ...], media: str, body: bytes, code: int
) -> None:
    stranger.media, stranger.body, stranger.status = media, body, code
    said = await types(*command, "--api", stranger.url)
    assert (said.exit_code, "not the cutover's API" in said.output) == (3, True), said.output


# --- a token that is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [("watch", "--plain"), ("watch", "--from-start", "--plain"), ("status",)])
async def test_a_token_that_is_refused_ends_with_the_words(stranger: Stranger, command: tuple[str, ...]) -> None:
    stranger.good = {"another"}
    said = await types(*command, "--api", stranger.url, CUTOVER_API_TOKEN="old")
    assert (said.exit_code, "401: unauthorized: it has expired" in said.output) == (3, True), said.output
    assert stranger.asked == ["old"]


async def test_a_watch_whose_token_ends_half_way_ends_with_the_words(stranger: Stranger) -> None:
    stranger.answers = {"/events": told(1) + state(1)}
    remote = Remote(stranger.url, None, "old", Standing())
    reading = remote.read(0, live=True)
    assert (await anext(reading)).seq == 1
    stranger.good = {"another"}
    with pytest.raises(Unreachable, match="401"):
        await anext(reading)


async def test_a_token_that_its_file_has_no_longer_is_no_refusal(stranger: Stranger, tmp_path: Path) -> None:
    stranger.good, stranger.answers = {"new"}, {"/status": b'{"streamSequence":4}'}
    file = tmp_path / "token"
    file.write_text("old\n")
    words = iter(["old", "new", "new"])

    class Renewed(Remote):
        def word(self) -> str:  # renewed between the question and its answer
            file.write_text(next(words))
            return super().word()

    last = await Renewed(stranger.url, file, None).last()
    assert last is not None
    assert (last.seq, stranger.asked) == (4, ["old", "new"])


async def test_a_file_with_ever_other_tokens_is_not_tried_for_ever(stranger: Stranger, tmp_path: Path) -> None:
    stranger.good = {"good"}
    numbers = iter(range(1000))

    class Changing(Remote):
        def word(self) -> str:
            return f"t{next(numbers)}"

    with pytest.raises(Unreachable, match="401"):
        await anext(Changing(stranger.url, tmp_path / "token", None).read(0, live=True))
    assert len(stranger.asked) <= cli_remote.TRIES


async def test_a_file_that_holds_no_token_is_told_so(stranger: Stranger, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("two\nlines")
    said = await types("status", "--api", stranger.url, "--token-file", str(tmp_path / "token"))
    assert (said.exit_code, "no access token" in said.output) == (2, True), said.output


# --- a watch goes on --------------------------------------------------------------------------------------------


async def test_what_a_watch_waits_for_is_said_once_and_its_end_too(stranger: Stranger) -> None:
    said: list[str] = []
    stranger.media, stranger.body, stranger.status = "application/json", json.dumps({}).encode(), 503
    remote = Remote(stranger.url, None, None, Standing(said.append))
    reading = aiter(remote.read(0, live=True))
    coming = asyncio.ensure_future(anext(reading))
    async with asyncio.timeout(60):
        while len(stranger.asked) < 2:
            await asyncio.sleep(0.05)
    assert said == ["the API answers 503: Service Unavailable; trying again"]
    stranger.answers["/events"] = told(1)
    assert (await coming).seq == 1
    assert said[1:] == ["the API is back"]
    await reading.aclose()  # type: ignore[attr-defined]


async def test_an_api_in_whose_place_a_page_stands_for_a_while_is_waited_for(stranger: Stranger) -> None:
    said: list[str] = []
    stranger.answers["/events"] = told(1)

    def say(words: str) -> None:
        said.append(words)
        stranger.answers["/events"] = told(2)

    async with asyncio.timeout(60):
        async for entry in Remote(stranger.url, None, None, Standing(say)).read(0, live=True):
            if entry.seq == 2:
                break
            stranger.answers = {}
    assert said == [f"{stranger.url} answers, and this is not the cutover's API; trying again", "the API is back"]
    stranger.answers = {}
    with pytest.raises(Foreign):  # before anything was read, there is nothing to wait for
        await Remote(stranger.url, None, None).last()
