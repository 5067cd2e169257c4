"""The card where nobody logs people in for it: a pasted token, a preflight that objects, a log that was replaced."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from api_bench import Door, door
from browser import CHROMIUM, Watched, chromium
from playwright.async_api import Page, expect
from pool_bench import doing

from events.envelope import data_of, read
from events.flow import SLUGS
from events.jetstream import JetStreamLog
from events.journal import Journal
from events.subjects import REQUESTED
from sandbox.oidc import VIEWER
from schemas import events as facts
from workers import admission
from workers.pool import Pool
from workers.scribe import Scribe

if not CHROMIUM.exists():
    pytest.skip(f"NO CHROMIUM AT {CHROMIUM}: the console card is not tested", allow_module_level=True)

expect.set_options(timeout=30_000)
OBJECTION = "gitea-mirror: <b>Gitea</b> refuses our login"


async def gate(data: facts.Requested) -> tuple[str, str] | None:
    """What `workers.preflight` says of a Sovereign that is not fit, to those who ask."""
    return ("PreflightFailed", OBJECTION) if data.preflight else None


@asynccontextmanager
async def working(opened: Door, name: str = "w") -> AsyncIterator[None]:
    async with JetStreamLog.open(opened.bench.settings) as stream, anyio.create_task_group() as tasks:
        await stream.ensure()
        journal, scribe = Journal(stream), Scribe("sovereign.test", name, str)
        tasks.start_soon(journal.tail)
        tasks.start_soon(Pool(stream, journal, scribe, doing(opened.bench.done), lease_seconds=30.0).serve)
        tasks.start_soon(lambda: admission.serve(stream, journal, scribe, gate=gate))
        yield
        tasks.cancel_scope.cancel()


async def paste(page: Page, token: str) -> None:
    await expect(page.locator("#sign-in-token")).to_be_visible()
    await page.get_by_label("Access token").fill(token)
    await page.get_by_role("button", name="Sign in").last.click()


async def asked(opened: Door) -> list[dict[str, Any]]:
    return [data_of(read(entry.raw)).model_dump() for entry in await opened.bench.entries(REQUESTED)]


async def sign_in(opened: Door, watched: Watched) -> Page:
    """Words that are no token, one that is not good, one that may only read, and in another tab a good one."""
    page = await watched.tab()
    await page.goto(opened.url)
    await expect(page.locator("#card")).to_be_hidden()
    for pasted, said in (
        ("so etwas wie ein Schlüssel", "no access token"), ("abc", "not accepted"),
        (opened.issuer.token(exp=1), "expired"), (opened.issuer.token(aud="account"), "not for catalyst-api"),
    ):  # fmt: skip
        await paste(page, pasted)
        await expect(page.locator("#sign-in-why")).to_contain_text(said)
        await expect(page.locator("#card")).to_be_hidden()
    await paste(page, opened.issuer.token(VIEWER))
    await expect(page.locator("#link")).to_have_attribute("data-link", "live")
    await page.locator("#start").click()
    await page.locator("#confirm-yes").click()
    await expect(page.locator("#confirm-trouble")).to_contain_text("no role that may do this")
    assert await asked(opened) == []
    await page.reload()  # the token was in memory only
    await paste(page, f"  Bearer {opened.issuer.token()}\n")
    await expect(page.locator("#link")).to_have_attribute("data-link", "live")
    return page


async def start_anyway(opened: Door, page: Page) -> None:
    """The preflight objects; leaving the question and coming back asks it anew."""
    for _ in range(2):
        await page.locator("#start").click()
        await expect(page.locator("#confirm-yes")).to_have_text("Start the cutover")
        await page.locator("#confirm-yes").click()
        await expect(page.locator("#confirm-trouble")).to_have_text(OBJECTION)
        await expect(page.locator("#confirm-yes")).to_have_text("Start anyway")
        await expect(page.locator("#confirm-yes")).to_be_enabled()
        await page.keyboard.press("Escape")
        await expect(page.locator("#confirm")).to_be_hidden()
    assert [row["preflight"] for row in await asked(opened)] == [True, True]
    await page.locator("#start").click()
    await page.locator("#confirm-yes").click()
    await expect(page.locator("#confirm-yes")).to_have_text("Start anyway")
    await page.locator("#confirm-yes").click()
    await expect(page.locator("#confirm")).to_be_hidden()
    await expect(page.locator("body")).to_have_attribute("data-phase", "sovereign")
    assert [row["preflight"] for row in await asked(opened)] == [True, True, True, False]


async def replaced(opened: Door, page: Page) -> None:
    """Somebody made the stream anew: the card shows that one, and not what it remembers."""
    await opened.bench.stream.js.delete_stream("CATALYST_CUTOVER")
    async with working(opened, "w2"):
        await expect(page.locator("body")).to_have_attribute("data-phase", "tethered")
        await expect(page.locator("#log-count")).to_have_text("")
        rows = await page.eval_on_selector_all("#steps li", "rows => rows.map(r => r.dataset.word)")
        assert rows == ["pending"] * len(SLUGS)
        assert (await opened.post("/start")).status_code == 202
        await expect(page.locator("body")).to_have_attribute("data-phase", "sovereign")
        await expect(page.locator("#log-count")).not_to_have_text("")


async def test_a_pasted_token_an_objection_overruled_and_a_log_replaced(tmp_path: Path) -> None:
    async with door(tmp_path) as opened, chromium(tmp_path) as watched:
        async with working(opened):
            page = await sign_in(opened, watched)
            await start_anyway(opened, page)
        await replaced(opened, page)
        stored = await page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
        assert "eyJ" not in stored
        assert "eyJ" not in await page.content()
        tokens = [url for url in watched.asked if "eyJ" in url and "events?ticket=" not in url]
        assert (tokens, watched.strangers) == ([], [])
        # What a browser says by itself of an answer that is no success, and nothing else.
        refusals = ("the server responded with a status of",)
        assert [line for line in watched.errors if not any(words in line for words in refusals)] == []
