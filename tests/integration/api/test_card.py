"""The card's hard times in real Chromium, without a Sovereign: no broker, no API, hostile words in the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from api_bench import settings
from browser import CHROMIUM, chromium
from histories import accepted, draft, started
from playwright.async_api import Page, expect
from pool_bench import Bench, opened

from events.journal import Journal
from schemas import events as facts
from workers.entrypoints.api import serve
from workers.entrypoints.settings import Settings

if not CHROMIUM.exists():
    pytest.skip(f"NO CHROMIUM AT {CHROMIUM}: the console card is not tested", allow_module_level=True)

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
expect.set_options(timeout=30_000)


@asynccontextmanager
async def served(chosen: Settings, port: int = 0) -> AsyncIterator[int]:
    """The API on a port of its own, whether or not it can answer yet."""
    server = serve.server(chosen, serve.opening(chosen, "127.0.0.1", True), insecure=True)
    with serve.listening("127.0.0.1", port) as listener:
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await task


async def words(page: Page) -> list[str]:
    found: list[str] = await page.eval_on_selector_all("#steps li", "rows => rows.map(r => r.dataset.word)")
    return found


async def begun(bench: Bench, operator: str = "ann") -> Journal:
    """A run whose first step is under way, as a worker would tell it."""
    journal = Journal(bench.stream)
    await journal.append(draft(accepted().model_copy(update={"operator": operator}), 1))
    await journal.append(draft(started("gitea-mirror"), 2))
    return journal


async def test_what_is_not_known_is_not_shown_as_to_do_and_comes_by_itself(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        await begun(bench)
        await bench.broker.stop()
        async with served(settings(bench, tmp_path)) as port, chromium(tmp_path) as watched:
            page = await watched.tab()
            await page.goto(f"http://127.0.0.1:{port}/")
            await expect(page.locator("#banner")).to_contain_text("does not answer")
            assert await words(page) == ["unknown"] * 8
            assert not await page.locator("#start").is_visible()
            await bench.broker.restart()
            await expect(page.locator("#link")).to_have_attribute("data-link", "live")
            assert await words(page) == ["running", *["pending"] * 7]
            await expect(page.locator("#banner")).to_be_hidden()


async def test_an_api_that_restarts_is_found_again_and_nothing_is_missed_or_told_twice(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench, chromium(tmp_path) as watched:
        journal = await begun(bench)
        chosen = settings(bench, tmp_path)
        async with served(chosen) as port:
            page = await watched.tab()
            await page.goto(f"http://127.0.0.1:{port}/")
            await expect(page.locator("#log-count")).to_have_text("2 lines")
        await expect(page.locator("#banner")).to_contain_text("The API does not answer")
        assert await words(page) == ["running", *["pending"] * 7]
        failed = facts.StepFailed(step="gitea-mirror", worker="w", token=2, reason="GitDenied", message="403; log in")
        await journal.append(draft(failed, 3))
        async with served(chosen, port):
            await expect(page.locator("#failure-reason")).to_have_text("GitDenied")
            await expect(page.locator("#log-count")).to_have_text("3 lines")
            assert (await words(page))[0] == "failed"


async def test_what_the_log_says_is_text_and_never_markup(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench, chromium(tmp_path) as watched:
        journal = await begun(bench, HOSTILE)
        failed = facts.StepFailed(step="gitea-mirror", worker="w", token=2, reason="GitDenied", message=HOSTILE)
        await journal.append(draft(failed, 3))
        async with served(settings(bench, tmp_path)) as port:
            page = await watched.tab()
            await page.goto(f"http://127.0.0.1:{port}/")
            await expect(page.locator("#failure-message")).to_have_text(HOSTILE)
            await expect(page.locator("#facts")).to_contain_text(HOSTILE)
            await page.locator("#log summary").click()
            await expect(page.locator("#log-lines li").last).to_contain_text(HOSTILE)
            assert await page.locator("img").count() == 1  # our own
            assert await page.title() == "Achieve True Sovereignty"
            assert watched.strangers == []
