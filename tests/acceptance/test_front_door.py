"""The API on a whole Sovereign in a box: its document holds whatever is sent, and the plan, the audit and the
certificate come through it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import pytest_asyncio
import schemathesis
from acceptance_scene import environment, in_one_task
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case

from events.flow import SLUGS
from events.jetstream import JetStreamLog
from sandbox.box import Box
from sandbox.crew import Crew, front_door
from sandbox.oidc import OPERATOR, VIEWER
from workers.entrypoints.cli import main
from workers.entrypoints.settings import load

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]
BASE = "/api/v1/sovereign/cutover"
EXAMPLES = 4


@dataclass
class House:
    box: Box
    url: str
    token_file: Path

    def get(self, path: str) -> bytes:
        """Blocking, for a thread."""
        headers = {"Authorization": f"Bearer {self.token_file.read_text()}"}
        with urlopen(Request(self.url + path, headers=headers), timeout=60) as answer:
            found: bytes = answer.read()
            return found


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[House]:
    async with Box.open(directory, hold=2.0) as box:
        async with JetStreamLog.open(load(box.settings_file).nats) as stream:
            await stream.ensure()
        token = directory / "token"
        token.write_text(box.issuer.token(OPERATOR))
        async with Crew.at_work(box.settings_file, directory, 1), front_door(box.settings_file, directory) as url:
            house = House(box, url, token)
            async with asyncio.timeout(60):
                while True:
                    try:
                        await asyncio.to_thread(house.get, "/readyz")
                        break
                    except OSError:
                        await asyncio.sleep(0.2)
            yield house


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    made, close = await in_one_task(lambda: opened(tmp_path_factory.mktemp("house")))
    yield made
    await close()


async def types(*words: str, **env: str) -> Result:
    """`cutover ...` with no settings and no NATS, in a thread: a command runs a loop of its own."""
    clean = {"CUTOVER_CONFIG": "/nowhere", **env}
    return await asyncio.to_thread(lambda: CliRunner().invoke(main, list(words), env=clean))


async def test_an_operator_without_nats_credentials_sees_the_plan_and_the_tethers(house: House) -> None:
    api = ("--api", house.url, "--token-file", str(house.token_file))
    plan = await types("plan", *api, "--output", "json")
    assert [step["step"] for step in json.loads(plan.output)] == list(SLUGS)
    audit = await types("audit", *api, "--output", "json")
    assert (audit.exit_code, json.loads(audit.output)["tethers"]["3"]) == (1, 38)
    certificate = await types("certificate", *api)
    assert (certificate.exit_code, "not-certifiable" in certificate.output) == (1, True)
    viewer = house.box.issuer.token(VIEWER)
    refused = await types("request", "--api", house.url, CUTOVER_API_TOKEN=viewer)
    assert (refused.exit_code, "403" in refused.output) == (3, True)
    assert viewer not in refused.output


async def test_schemathesis_finds_no_fault_of_ours_and_no_answer_that_is_not_documented(house: House) -> None:
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", f"{house.url}/openapi.json",
        "-H", f"Authorization: Bearer {house.token_file.read_text()}", "--exclude-path", f"{BASE}/events",
        "--phases", "coverage,fuzzing", "--max-examples", str(EXAMPLES), "--request-timeout", "60", "--no-color",
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=house.box.directory,
        env=environment(),
    )  # fmt: skip
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    assert b"13 passed" in said
    assert b" 5" not in said.partition(b"Failures:")[2]


async def test_whatever_is_asked_of_the_events_is_answered_as_documented(house: House) -> None:
    """Apart from the others: without `follow=false` they have no end."""
    document = json.loads(await asyncio.to_thread(house.get, "/openapi.json"))
    operation = schemathesis.openapi.from_dict(document)[f"{BASE}/events"]["GET"]
    headers = {"Authorization": f"Bearer {house.token_file.read_text()}"}

    @given(case=operation.as_strategy())
    @settings(
        max_examples=15, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def holds(case: Case) -> None:
        case.query = {**(case.query or {}), "follow": "false"}
        case.query.pop("ticket", None)
        answer = case.call(base_url=house.url, headers=headers, timeout=60)
        assert answer.status_code in (200, 400), answer.text
        case.validate_response(answer, headers=headers)

    await asyncio.to_thread(holds)
