"""Real Chromium for the console's tests: every page is watched for what it says and whom it asks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.async_api import BrowserContext, ConsoleMessage, Page, Request, async_playwright

CHROMIUM = Path("/usr/bin/chromium")
QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
)  # fmt: skip
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
SIZES = {"desktop": (1280, 900), "phone": (360, 780)}
BRIEF = {"desktop": ("light",), "phone": ("dark",)}

# What the live region says, line by line, since the page was opened.
LISTEN = """
window.said = [];
addEventListener('DOMContentLoaded', () => {
  const place = document.getElementById('say');
  new MutationObserver(() => { if (place.textContent) window.said.push(place.textContent); })
    .observe(place, { childList: true, characterData: true, subtree: true });
});
"""

INSPECT = (Path(__file__).parent / "inspection.js").read_text(encoding="utf-8")


@dataclass
class Watched:
    """One browser profile, and what all its tabs said and asked."""

    context: BrowserContext
    shots: Path
    errors: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    @property
    def strangers(self) -> list[str]:
        """Requests that left loopback."""
        return [url for url in self.asked if urlsplit(url).hostname not in LOOPBACK and not url.startswith("blob:")]

    async def tab(self) -> Page:
        """One more."""
        page = await self.context.new_page()
        page.set_default_timeout(30_000)
        return page

    async def shoot(self, page: Page, name: str, *, briefly: bool = False) -> list[str]:
        """The whole page, phone and desktop, light and dark; what an inspector complains of in any of them.

        `briefly`: two of the four, while the moment lasts."""
        wrong: list[str] = []
        for size, (width, height) in SIZES.items():
            await page.set_viewport_size({"width": width, "height": height})
            for scheme in BRIEF[size] if briefly else ("light", "dark"):
                await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
                await page.screenshot(path=self.shots / f"{name}-{size}-{scheme}.png", full_page=True)
                wrong += [f"{name}, {size}, {scheme}: {line}" for line in await page.evaluate(INSPECT)]
        await page.set_viewport_size({"width": 320, "height": 640})
        wide = await page.evaluate("document.documentElement.scrollWidth")
        if wide > 320:
            wrong.append(f"{name}: {wide} px wide on a screen of 320")
        await page.set_viewport_size({"width": 1280, "height": 900})
        await page.emulate_media(color_scheme="light", reduced_motion="no-preference")
        return wrong


@asynccontextmanager
async def chromium(shots: Path) -> AsyncIterator[Watched]:
    """A fresh profile until the block ends."""
    async with async_playwright() as engine:
        browser = await engine.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        try:
            context = await browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
            await context.add_init_script(LISTEN)
            watched = Watched(context, shots)

            def spoke(message: ConsoleMessage) -> None:
                if message.type in ("error", "warning"):
                    watched.errors.append(f"{message.type}: {message.text} ({message.location.get('url')})")

            def broke(error: Any) -> None:
                watched.errors.append(f"uncaught: {error.error}")

            def asked(request: Request) -> None:
                watched.asked.append(request.url)

            context.on("console", spoke)
            context.on("weberror", broke)
            context.on("request", asked)
            yield watched
        finally:
            await browser.close()
