"""The console card in real Chromium: one whole journey on a Sovereign in a box, watched, and asked about afterwards.

The journey is made once: sign in, auto-fire armed by that and cancelled, a start by keyboard alone, a failing step and
its retry, a reload and a broker restart in mid-run, two tabs, the certificate, drift. Each test asks one thing of it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml
from acceptance_scene import HOLD, environment, in_one_task
from browser import CHROMIUM, Watched, chromium
from playwright.async_api import Page, expect

from events.envelope import Event, read
from events.flow import SLUGS
from events.jetstream import JetStreamLog
from events.subjects import JOURNAL
from sandbox.box import Box
from sandbox.crew import Crew
from sandbox.oidc import CLIENT, OPERATOR, Issuer
from workers.adapters.cluster import CONFIG_MAP, Cluster
from workers.adapters.cluster_kinds import HELM_REPOSITORY
from workers.entrypoints.settings import load

if not CHROMIUM.exists():
    pytest.skip(f"NO CHROMIUM AT {CHROMIUM}: the console card is not tested", allow_module_level=True)

pytestmark = pytest.mark.asyncio(loop_scope="module")
expect.set_options(timeout=30_000)
BROKEN = "harbor-prewarm"
HANDOVER = {"kind": "ConfigMap", "namespace": "flux-system", "name": "handover"}
Rows = dict[str, str]


@dataclass
class Film:
    """What was seen at each moment of the journey."""

    shots: Path
    watched: Watched
    steps: list[str] = field(default_factory=list)
    kept: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, Rows] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    journal: list[Event] = field(default_factory=list)

    def count(self, kind: str) -> int:
        return sum(event.kind == kind for event in self.journal)


@dataclass
class Stage:
    """An open box with workers, an issuer, and the front door as a process."""

    box: Box
    stream: JetStreamLog
    cluster: Cluster
    url: str


@asynccontextmanager
async def staged(directory: Path) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        box = await stack.enter_async_context(Box.open(directory, hold=HOLD))
        issuer = await stack.enter_async_context(Issuer.open())
        document = yaml.safe_load(box.settings_file.read_text())
        document |= {
            "pace": {"lease": 4.0},
            "auto_fire": {"enabled": True, "grace": 3600},
            "handover": HANDOVER,
            "api": {"identity": {"issuer": issuer.url}, "login_client": CLIENT},
        }
        document["nats"]["ack_wait"] = 5.0
        document["sovereign"]["proof"]["connect_timeout"] = 3.0  # a browser works on the same cores
        file = directory / "settings-console.yaml"
        file.write_text(yaml.safe_dump(document))
        stream = await stack.enter_async_context(JetStreamLog.open(load(file).nats))
        await stream.ensure()
        cluster = await stack.enter_async_context(Cluster.open(kubeconfig=box.kubeconfig, field_manager="test"))
        place = {"namespace": HANDOVER["namespace"], "name": HANDOVER["name"]}
        await cluster.create(CONFIG_MAP, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": place})
        await stack.enter_async_context(Crew.at_work(file, directory, 1))
        yield Stage(box, stream, cluster, await stack.enter_async_context(served(file, directory)))


@asynccontextmanager
async def served(settings: Path, directory: Path) -> AsyncIterator[str]:
    """`cutover serve` on a free port; its address."""
    command = [sys.executable, "-m", "workers.entrypoints.cli", "--config", str(settings), "serve", "--port", "0"]
    with (directory / "serve.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=log, env=environment(PYTHONUNBUFFERED="1")
        )
    assert process.stdout is not None
    try:
        yield (await asyncio.wait_for(process.stdout.readline(), 30)).decode().strip()
    finally:
        process.terminate()
        await process.wait()


# --- the journey ----------------------------------------------------------------------------------------------------


async def words(page: Page) -> Rows:
    """Step -> what its row says."""
    found: Rows = await page.eval_on_selector_all(
        "#steps li", "rows => Object.fromEntries(rows.map(r => [r.dataset.step, r.dataset.word]))"
    )
    return found


async def entered(watched: Watched, url: str) -> Page:
    """A new tab, signed in."""
    page = await watched.tab()
    await page.goto(url)
    await page.get_by_role("button", name="Sign in with your account").click()
    await expect(page.locator("#link")).to_have_attribute("data-link", "live")
    return page


async def journey(stage: Stage, film: Film) -> None:
    page = await arrive(stage, film)
    await stage.box.fail(BROKEN)
    await start_by_keyboard(stage, film, page)
    other = await fail_and_retry(stage, film, page)
    await reload_and_restart(stage, film, page, other)
    await finish(stage, film, page, other)
    await drift(stage, film, page)
    film.kept["said"] = await other.evaluate("window.said")
    film.kept["law"] = await page.evaluate(LAW)
    film.journal = [read(entry.raw) async for entry in stage.stream.read(JOURNAL)]


async def arrive(stage: Stage, film: Film) -> Page:
    """Sign in; that arms auto-fire; cancel it; look at the plan and the tethers."""
    page = await film.watched.tab()
    await page.goto(stage.url)
    await page.get_by_role("button", name="Sign in with your account").wait_for()
    film.kept["seen before sign-in"] = await page.locator("#card").is_visible()
    film.complaints += await film.watched.shoot(page, "sign-in", briefly=True)
    await page.get_by_role("button", name="Sign in with your account").click()
    await expect(page.locator("#fuse")).to_be_visible()
    film.kept["fuse"] = (
        await page.locator("#fuse-text").text_content(),
        await page.locator("#fuse-clock").text_content(),
    )
    film.kept["where"] = page.url
    film.kept["stored"] = await page.evaluate(
        "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
    )
    film.complaints += await film.watched.shoot(page, "auto-fire", briefly=True)
    await page.get_by_role("button", name="Cancel for good").click()
    await page.get_by_role("dialog").get_by_role("button", name="Cancel for good").click()
    await expect(page.locator("#fuse")).to_be_hidden()
    await expect(page.locator("#tethers li").first).to_be_visible()
    await expect(page.locator("#plan li").first).to_be_visible()
    film.kept["tethers"] = await page.locator("#tethers").inner_text()
    film.kept["plan"] = await page.locator("#plan-text").text_content()
    film.rows["before"] = await words(page)
    film.complaints += await film.watched.shoot(page, "before")
    return page


async def start_by_keyboard(stage: Stage, film: Film, page: Page) -> None:
    """Tab to the button, look at the question, leave it, come back and confirm; no mouse."""
    focused = "document.activeElement.id"
    for _ in range(12):
        await page.keyboard.press("Tab")
        if await page.evaluate(focused) == "start":
            break
    await page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Achieve True Sovereignty")
    await dialog.wait_for()
    film.kept["question"] = await dialog.inner_text()
    film.kept["first focus"] = await page.evaluate(focused)
    around = []
    for _ in range(5):
        await page.keyboard.press("Tab")
        around.append(await page.evaluate(f"document.activeElement === document.body ? '' : {focused}"))
    film.kept["focus in the dialog"] = set(around)
    film.complaints += await film.watched.shoot(page, "question")
    await page.keyboard.press("Escape")
    await dialog.wait_for(state="hidden")
    film.kept["focus after escape"] = await page.evaluate(focused)
    film.kept["asked after escape"] = [e async for e in stage.stream.read("catalyst.cutover.requested")]
    await page.keyboard.press("Enter")
    await page.keyboard.press("Tab")
    assert await page.evaluate(focused) == "confirm-yes"
    await page.keyboard.press("Enter")
    await expect(page.locator("#cancel")).to_be_visible()


async def fail_and_retry(stage: Stage, film: Film, page: Page) -> Page:
    """A second tab sees the same failure, and retries."""
    other = await entered(film.watched, stage.url)
    await expect(page.locator("#failure")).to_be_visible()
    await expect(other.locator("#failure")).to_be_visible()
    film.kept["failure"] = await page.locator("#failure").inner_text()
    film.rows["failed"], film.rows["failed, other tab"] = await words(page), await words(other)
    film.complaints += await film.watched.shoot(page, "failed")
    await stage.box.heal()
    await other.get_by_role("button", name="Retry step 3").click()
    await expect(page.locator("#failure")).to_be_hidden()
    return other


async def reload_and_restart(stage: Stage, film: Film, page: Page, other: Page) -> None:
    """In mid-run: reload one tab, then take the broker away from both."""
    await page.reload()
    await expect(page.locator("#link")).to_have_attribute("data-link", "live")
    film.rows["reloaded"] = await words(page)
    await expect(page.locator("li[aria-current=step]")).to_have_count(1)
    film.complaints += await film.watched.shoot(page, "running", briefly=True)
    await stage.box.broker.stop()
    for tab in (page, other):
        await expect(tab.locator("#banner")).to_contain_text("The broker does not answer")
    film.rows["broker away"] = await words(other)
    film.complaints += await film.watched.shoot(page, "broker-away", briefly=True)
    await stage.box.broker.restart()
    for tab in (page, other):
        await expect(tab.locator("#banner")).to_be_hidden()
        await expect(tab.locator("#link")).to_have_attribute("data-link", "live")
    film.rows["broker back"] = await words(other)


async def finish(stage: Stage, film: Film, page: Page, other: Page) -> None:
    """The hold's countdown, completion in both tabs, the certificate."""
    await expect(page.locator("#hold")).to_be_visible(timeout=60_000)
    film.kept["hold"] = await page.locator("#hold").inner_text()
    await page.screenshot(path=film.shots / "hold-desktop-light.png", full_page=True)
    for tab in (page, other):
        await expect(tab.locator("body")).to_have_attribute("data-phase", "sovereign", timeout=60_000)
    film.rows["done"], film.rows["done, other tab"] = await words(page), await words(other)
    async with page.expect_download() as download:
        await page.get_by_role("button", name="Download certificate").click()
    given = await download.value
    film.kept["certificate"] = Path(await given.path()).read_bytes()
    film.kept["certificate's name"] = given.suggested_filename
    await expect(page.locator("#drift-title")).to_have_text("No drift")
    await page.locator("#log summary").click()
    await expect(page.locator("#log-lines li").last).to_be_visible()
    film.kept["log"] = await page.locator("#log-lines").inner_text()
    film.complaints += await film.watched.shoot(page, "done")


async def drift(stage: Stage, film: Film, page: Page) -> None:
    """Somebody adds a chart source outside, after the cutover."""
    await stage.cluster.create(
        HELM_REPOSITORY,
        {
            "apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "HelmRepository",
            "metadata": {"namespace": "flux-system", "name": "stray"},
            "spec": {"type": "oci", "url": "oci://ghcr.io/openova-io", "interval": "1h"},
        },
    )  # fmt: skip
    await expect(page.locator("#drift-title")).to_contain_text("Drift: 1 string leads outside again")
    await expect(page.locator("#drift-list li")).to_contain_text("stray")
    film.kept["drift"] = await page.locator("#drift-list").inner_text()
    film.complaints += await film.watched.shoot(page, "drift", briefly=True)


LAW = """
async () => {
  const { NOTHING, told, rows } = await import('/console/fold.js');
  const status = (streamSequence, runPhase) =>
    ({ kind: 'status', arrived: 0, status: { streamSequence, runPhase, steps: [] } });
  const event = (sequence, kind = 'step.started') =>
    ({ kind: 'event', event: { sequence, kind, step: 'gitea-mirror' } });
  const fold = (...messages) => messages.reduce(told, NOTHING);
  const late = fold(status(9, 'running'), status(4, ''));
  const twice = fold(event(1), event(2), event(1), event(2), event(3));
  const renewed = fold(event(1, 'step.progress'), event(2, 'step.progress'));
  return {
    late: late.status.streamSequence, twice: twice.lines.map((l) => l.sequence), renewed: renewed.lines.length,
    unknown: rows(null).map((r) => r.word), sparse: rows({ runPhase: '', steps: [] }).length,
  };
}
"""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def film(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Film]:
    shots = Path(os.environ.get("ARTIFACTS") or tmp_path_factory.mktemp("artifacts")) / "console"
    shots.mkdir(parents=True, exist_ok=True)

    @asynccontextmanager
    async def made() -> AsyncIterator[Film]:
        async with staged(tmp_path_factory.mktemp("console")) as stage, chromium(shots) as watched:
            film = Film(shots, watched)
            try:
                await journey(stage, film)
            except BaseException:
                for number, page in enumerate(watched.context.pages):
                    await page.screenshot(path=shots / f"broken-{number}.png", full_page=True)
                raise
        yield film

    value, close = await in_one_task(made)
    yield value
    await close()


# --- what it showed -------------------------------------------------------------------------------------------------


async def test_the_journey_goes_from_a_click_to_the_certificate(film: Film) -> None:
    assert film.rows["before"] == dict.fromkeys(SLUGS, "pending")
    assert film.rows["done"] == film.rows["done, other tab"] == dict.fromkeys(SLUGS, "done")
    envelope = json.loads(film.kept["certificate"])
    statement = json.loads(base64.b64decode(envelope["payload"]))
    run = next(event.run for event in film.journal if event.kind == "accepted")
    assert film.kept["certificate's name"] == f"certificate-{run}.json"
    assert any(run in subject["name"] for subject in statement["subject"])
    assert (film.count("accepted"), film.count("completed")) == (1, 1)


async def test_nobody_sees_the_card_before_signing_in_and_the_log_names_who_asked(film: Film) -> None:
    assert not film.kept["seen before sign-in"]
    asked = next(event for event in film.journal if event.kind == "accepted")
    assert asked.authtype == "user"
    assert OPERATOR in (asked.authid or "")


async def test_the_token_stays_in_memory(film: Film) -> None:
    assert "eyJ" not in film.kept["stored"]  # how every JWT begins
    assert "?" not in film.kept["where"]
    tickets = [url.partition("events?ticket=")[2] for url in film.watched.asked if "eyJ" in url]
    assert tickets
    for ticket in tickets:  # good for one stream and soon over; what the issuer signed is never in a URL
        header, payload = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in ticket.split(".")[:2])
        assert header["alg"] == "HS256"
        assert "realm_access" not in payload


async def test_the_login_armed_auto_fire_and_its_cancel_is_for_good(film: Film) -> None:
    text, clock = film.kept["fuse"]
    assert OPERATOR in text
    assert clock.startswith(("59:", "1:00:"))
    assert [event.kind for event in film.journal[:2]] == ["autofire.armed", "autofire.disarmed"]
    assert film.count("autofire.armed") == 1


async def test_the_question_says_what_will_happen_and_that_it_is_not_reversed(film: Film) -> None:
    for words in ("copied", "credentials are taken away", "Every way out is blocked", "It is not reversed"):
        assert words in film.kept["question"]


async def test_the_keyboard_alone_starts_it_and_escape_asks_for_nothing(film: Film) -> None:
    assert film.kept["first focus"] == "confirm-no"
    assert film.kept["focus in the dialog"] <= {"confirm-no", "confirm-yes", ""}  # "": the browser's own bars
    assert film.kept["focus after escape"] == "start"
    assert film.kept["asked after escape"] == []


async def test_a_failing_step_says_why_and_what_to_do_and_is_retried(film: Film) -> None:
    for words in (
        "Step 3 stopped",
        "UpstreamDenied",
        "docker.io/library/postgres",
        "login that may pull it",
        "Retry step 3",
    ):
        assert words in film.kept["failure"]
    wanted = dict.fromkeys(SLUGS[:2], "done") | {BROKEN: "failed"} | dict.fromkeys(SLUGS[3:], "pending")
    assert film.rows["failed"] == film.rows["failed, other tab"] == wanted
    assert film.count("step.failed") == 1


@pytest.mark.parametrize("moment", ["reloaded", "broker away", "broker back"])
async def test_no_row_falls_back_in_mid_run(film: Film, moment: str) -> None:
    rows = film.rows[moment]
    assert [rows[slug] for slug in SLUGS[:2]] == ["done", "done"]
    assert sum(word in ("running", "waiting") for word in rows.values()) == 1
    assert "unknown" not in rows.values()
    order = ("done", "running", "waiting", "pending")
    assert sorted(rows.values(), key=order.index) == [rows[slug] for slug in SLUGS]


async def test_what_ties_it_and_what_would_change_stand_there_before(film: Film) -> None:
    for words in ("Chart sources", "38 strings", "Crossplane packages", "Pull credentials"):
        assert words in film.kept["tethers"]
    assert film.kept["plan"].endswith("Nothing known stands in the way.")


async def test_the_hold_counts_down_and_drift_is_told(film: Film) -> None:
    assert "Egress is blocked" in film.kept["hold"]
    assert "00:0" in film.kept["hold"]
    assert "ghcr.io" in film.kept["drift"]


async def test_the_log_is_there_for_people(film: Film) -> None:
    for words in ("FAILED: UpstreamDenied", "succeeded", "completed"):
        assert words in film.kept["log"]


async def test_a_screen_reader_is_told_of_steps_and_never_of_progress(film: Film) -> None:
    said = film.kept["said"]
    assert any("Step 3 of 8" in line for line in said)
    assert said[-1].endswith("Sovereign")
    assert not any("%" in line for line in said)
    assert len(said) < 40


async def test_no_page_complains_and_no_request_leaves_loopback(film: Film) -> None:
    assert film.watched.errors == []
    assert film.watched.strangers == []
    assert len(film.watched.asked) > 30


async def test_names_headings_contrast_and_width_are_right_on_phone_and_desktop_light_and_dark(film: Film) -> None:
    assert film.complaints == []
    assert len(list(film.shots.glob("*.png"))) == 4 * 4 + 5 * 2 + 1


async def test_the_card_is_a_fold_that_repeats_and_late_messages_cannot_set_back(film: Film) -> None:
    assert film.kept["law"] == {
        "late": 9, "twice": [1, 2, 3], "renewed": 1, "unknown": ["unknown"] * 8, "sparse": 8,
    }  # fmt: skip
