"""The commands over the API: the same words, the same pictures, and no credential of NATS."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from api_bench import Door, door
from click.testing import CliRunner, Result

from events.envelope import read
from events.subjects import REQUESTED
from workers.entrypoints.cli import main


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Door]:
    async with door(tmp_path) as made:
        yield made


async def types(*words: str, **env: str) -> Result:
    """`cutover ...`, in a thread: a command runs a loop of its own. No settings, no NATS."""
    clean = {"CUTOVER_CONFIG": "/nowhere", "COLUMNS": "160", **env}
    return await asyncio.to_thread(lambda: CliRunner().invoke(main, list(words), env=clean))


async def test_a_cutover_is_asked_for_and_watched_to_its_end_with_a_token_alone(opened: Door, tmp_path: Path) -> None:
    await opened.bench.worker()
    token = tmp_path / "token"
    token.write_text(opened.issuer.token() + "\n")
    api = ("--api", opened.url, "--token-file", str(token))
    asked = await types("request", *api, "--reason", "it is time", "--watch")
    assert asked.exit_code == 0, asked.output
    assert "8/8 egress-block-test" in asked.output
    assert read((await opened.bench.entries(REQUESTED))[0].raw).authtype == "user"
    status = await types("status", *api, "--output", "json")
    from events.picture import picture

    assert json.loads(status.output) == picture(await opened.bench.state())
    again = await types("cancel", *api)
    assert (again.exit_code, "no-active-run" in again.output) == (1, True)
    assert token.read_text().strip() not in asked.output + status.output + again.output


async def test_what_the_token_may_not_or_nobody_answers_ends_with_3(opened: Door, tmp_path: Path) -> None:
    nobody = await types("status", "--api", opened.url)
    assert (nobody.exit_code, "401" in nobody.output) == (3, True)
    from sandbox.oidc import VIEWER

    viewer = await types("request", "--api", opened.url, CUTOVER_API_TOKEN=opened.issuer.token(VIEWER))
    assert (viewer.exit_code, "403" in viewer.output) == (3, True)
    away = await types("status", "--api", "http://127.0.0.1:1")
    assert (away.exit_code, "does not answer" in away.output) == (3, True)


async def test_a_token_never_travels_in_the_clear_beyond_this_machine(opened: Door) -> None:
    told = await types("status", "--api", "http://console.sovereign.test", CUTOVER_API_TOKEN="x.y.z")
    assert (told.exit_code, "https only" in told.output) == (2, True)
    argv = await types("status", "--api", opened.url, "--token", "x.y.z")
    assert argv.exit_code == 2


async def test_who_asks_is_in_the_token_and_not_in_an_argument(opened: Door) -> None:
    told = await types("request", "--api", opened.url, "--operator", "somebody else")
    assert (told.exit_code, "the token says who asks" in told.output) == (2, True)
