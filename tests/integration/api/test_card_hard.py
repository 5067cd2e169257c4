"""The card where nobody logs people in for it: a pasted token, a preflight that objects, a log that was replaced."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import anyio
import pytest
from api_bench import Door, door, running, settings
from browser import CHROMIUM, Watched, chromium
from playwright.async_api import Page, Route, expect
from pool_bench import doing

from events.envelope import data_of, read
from events.flow import SLUGS
from events.jetstream import JetStreamLog
from events.journal import Journal
from events.subjects import REQUESTED
from sandbox.oidc import CLIENT, VIEWER
from schemas import events as facts
from workers import admission
from workers.entrypoints.api import serve
from workers.pool import Pool
from workers.scribe import Scribe

if not CHROMIUM.exists():
    pytest.skip(f"NO CHROMIUM AT {CHROMIUM}: the console card is not tested", allow_module_level=True)

expect.set_options(timeout=30_000)
SOURCES = """
window.sources = [];
window.EventSource = class extends EventSource {
  constructor(...given) { super(...given); window.sources.push(this); }
};
"""
AWAKE = "dispatchEvent(new Event('online')); document.dispatchEvent(new Event('visibilitychange'));"
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
        (opened.issuer.token(realm_access={"roles": ["offline_access"]}), "no role that may read"),
    ):  # fmt: skip
        await paste(page, pasted)
        await expect(page.locator("#sign-in-why")).to_contain_text(said)
        await expect(page.locator("#card")).to_be_hidden()
    count = len(watched.asked)
    await page.evaluate(AWAKE)
    await anyio.sleep(1)
    assert len(watched.asked) == count  # whoever may not read is not asked about again and again
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


async def one_stream(opened: Door, page: Page) -> None:
    """A laptop wakes: its stream is gone, and the browser says so in many ways at once."""
    before = await page.evaluate("sources.length")
    await page.evaluate("sources.at(-1).close()")
    for _ in range(5):
        await page.evaluate(AWAKE)
    with anyio.fail_after(60):  # (what Playwright waits by is `eval`, which this page does not allow)
        while not await page.evaluate(f"sources.length > {before} && sources.at(-1).readyState === EventSource.OPEN"):
            await anyio.sleep(0.1)
    await anyio.sleep(1)  # for what else was begun
    assert await page.evaluate("sources.filter((s) => s.readyState !== EventSource.CLOSED).length") == 1


async def too_many(opened: Door, page: Page) -> None:
    """What the API says of a stream that it does not open is told, and it is tried again."""
    readers = opened.server.config.app.state.readers  # type: ignore[union-attr]
    most, readers.most_each = readers.most_each, 0
    await page.evaluate("sources.at(-1).close()")
    await page.evaluate(AWAKE)
    await expect(page.locator("#banner")).to_contain_text("The API answers: too many streams of events are open.")
    readers.most_each = most
    await expect(page.locator("#link")).to_have_attribute("data-link", "live")
    await expect(page.locator("#banner")).to_be_hidden()


async def renewed(opened: Door, directory: Path, watched: Watched) -> None:
    """A token that the API finds old is renewed at once; when the issuer gives none, the card asks to sign in."""
    chosen = settings(opened.bench, directory, opened.issuer)
    chosen = chosen.model_copy(update={"api": chosen.api.model_copy(update={"login_client": CLIENT})})
    server = serve.server(chosen, serve.opening(chosen, "127.0.0.1", False), insecure=False)
    grants: list[str] = []

    async def give(route: Route) -> None:
        grants.append(parse_qs(route.request.post_data or "")["grant_type"][0])
        old, refused = len(grants) == 1, len(grants) > 2
        token = opened.issuer.token(**({"exp": 1} if old else {}))
        body = {"access_token": token, "refresh_token": f"r{len(grants)}", "expires_in": 900}
        await route.fulfill(status=400 if refused else 200, json=body, headers={"Access-Control-Allow-Origin": "*"})

    async with running(server) as url:
        page = await watched.tab()
        await page.route("**/openid-connect/token", give)
        await page.goto(url)
        await page.get_by_role("button", name="Sign in with your account").click()
        await expect(page.locator("#link")).to_have_attribute("data-link", "live")
        assert grants == ["authorization_code", "refresh_token"]
        await page.route("**/status", lambda route: route.fulfill(status=401, json={"error": "unauthorized"}))
        await page.evaluate("sources.at(-1).close()")
        await page.evaluate(AWAKE)
        await expect(page.locator("#sign-in-why")).to_contain_text("Sign in again")
        await expect(page.locator("#card")).to_be_hidden()
        await page.close()


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
        await watched.context.add_init_script(SOURCES)
        async with working(opened):
            page = await sign_in(opened, watched)
            await one_stream(opened, page)
            await too_many(opened, page)
            await renewed(opened, tmp_path, watched)
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
