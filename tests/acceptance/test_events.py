"""One Sovereign, two worker processes with an admission and a projector each, and everything that goes wrong.

The tests share the Sovereign and run in this order.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import nats
import pytest
import pytest_asyncio
from acceptance_scene import Scene, exported, in_one_task, scene

from events.envelope import Event, Undecodable, read
from events.flow import SLUGS
from events.fold import State
from events.picture import picture
from events.subjects import JOURNAL

pytestmark = pytest.mark.asyncio(loop_scope="module")

ACK_WAIT, LEASE = 8.0, 9.0  # seconds: a death is noticed soon
REQUEST = b'{"specversion":"1.0","id":"1","source":"me","type":"io.openova.catalyst.cutover.requested.v1","data":{}}'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    directory = tmp_path_factory.mktemp("stage") / "box"
    opened, close = await in_one_task(lambda: scene(directory, workers=2, lease=LEASE, ack_wait=ACK_WAIT))
    yield opened
    await close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def arguments(stage: Scene) -> AsyncIterator[set[str]]:
    """Every command line that any process of this machine had while these tests ran."""
    seen: set[str] = set()

    def look() -> None:
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                seen.add(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue  # it has ended

    async def watch() -> None:
        while True:
            await asyncio.to_thread(look)
            await asyncio.sleep(0.02)

    task = asyncio.create_task(watch())
    yield seen
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def by_hand(stage: Scene, subject: str, raw: bytes) -> int:
    """Publish with plain nats-py, as anyone may; the stream sequence."""
    client = await nats.connect(stage.box.nats_url)
    try:
        return int((await client.jetstream().publish(subject, raw)).seq)
    finally:
        await client.close()


def trigger(**data: Any) -> bytes:
    return json.dumps({"specversion": "1.0", "id": "t", "source": "me", "data": data,
                       "type": "io.openova.catalyst.cutover.step.trigger.v1"}).encode()  # fmt: skip


def ended(after: int) -> Any:
    """The run that began after a sequence is over."""
    return lambda state: state.run is not None and state.run.request >= after and state.run.closed


def doing(slug: str, after: int = 0) -> Any:
    """The step is under way in a run that began after a sequence."""
    return lambda state: (
        state.run is not None and state.run.request >= after and state.run.step(slug).result == "running"
    )


async def journal(stage: Scene) -> list[tuple[int, Event]]:
    """Events of the journal with their sequences; what strangers put there is passed over."""
    found = []
    for entry in await stage.entries(JOURNAL):
        with contextlib.suppress(Undecodable):
            found.append((entry.seq, read(entry.raw)))
    return found


async def successes(stage: Scene, run: str) -> list[str | None]:
    """Steps of a run that succeeded, in the log's order, repeats included."""
    return [event.subject for _, event in await journal(stage) if event.kind == "step.succeeded" and event.run == run]


async def same_as_replay(stage: Scene) -> None:
    """The projected ConfigMap is the fold of the log, byte for byte, up to its end."""
    with anyio.fail_after(60):
        while True:
            said = await stage.type("replay", "--output", "json")
            found = json.loads(said.text.splitlines()[0])
            assert found["same"], said.text
            if found["head"] == found["shown"]:
                assert said.code == 0
                return
            await anyio.sleep(0.3)


async def test_a_request_typed_by_hand_runs_each_step_once_whatever_else_is_published(
    stage: Scene, arguments: set[str]
) -> None:
    seq = await by_hand(stage, "catalyst.cutover.requested", REQUEST)
    await stage.until(doing("gitea-mirror", seq))

    second = await by_hand(stage, "catalyst.cutover.requested", REQUEST)
    assert (await stage.rejection(second)).reason == "RunActive"
    early = await by_hand(stage, "catalyst.cutover.step.5", trigger())
    refused = await stage.rejection(early)
    assert refused.reason == "OutOfOrder"
    assert "harbor-prewarm" in refused.message

    for subject in (
        "requested",
        "cancel",
        "step.4",
        "step.99",
        "journal",
        "node.worker-1",
        "nonsense.deep",
        "rejected",
    ):
        garbage = f"garbage for {subject} \xff\x00".encode("latin-1")
        place = await by_hand(stage, f"catalyst.cutover.{subject}", garbage)
        if subject == "rejected":
            continue  # it is there already
        kept = await stage.rejection(place)
        assert kept.reason
        assert base64.b64decode(kept.original_base64) == garbage

    state = await stage.until(ended(seq), seconds=200)
    assert state.run is not None
    assert state.run.phase == "succeeded", (state.run.failed_step, state.run.reason, state.run.message)
    assert state.complete
    assert not state.broken
    assert await successes(stage, state.run.id) == list(SLUGS)


async def test_the_projected_config_map_is_the_replay_byte_for_byte(stage: Scene) -> None:
    await same_as_replay(stage)


async def test_a_trigger_for_one_finished_step_runs_it_again(stage: Scene) -> None:
    before = await stage.state()
    assert before.run is not None
    seq = await by_hand(stage, "catalyst.cutover.step.2", trigger())

    def again(state: State) -> bool:
        return state.run is not None and state.run.step("harbor-projects").trigger == seq and state.run.closed

    state = await stage.until(again, seconds=200)
    assert state.run is not None
    assert state.run.id == before.run.id
    assert state.run.phase == "succeeded"
    assert state.run.step("harbor-projects").attempt == 2
    assert state.run.step("gitea-mirror").attempt == 1
    assert await successes(stage, state.run.id) == [*SLUGS, *SLUGS[1:]]


async def test_a_bare_trigger_of_step_one_begins_a_run_and_its_working_process_may_be_killed(stage: Scene) -> None:
    before = await stage.state()
    assert before.run is not None
    seq = await by_hand(stage, "catalyst.cutover.step.1", trigger())
    state = await stage.until(doing("egress-block-test", seq))
    assert state.run is not None
    assert state.run.id != before.run.id

    claimed = state.run.step("egress-block-test")
    victim = next(m for m in stage.crew.members if f"-{m.pid}-" in claimed.worker)
    os.kill(victim.pid, signal.SIGKILL)
    state = await stage.until(ended(seq), seconds=200)
    assert state.run is not None
    taken = state.run.step("egress-block-test")
    assert state.run.phase == "succeeded", (state.run.failed_step, state.run.reason, state.run.message)
    assert taken.worker != claimed.worker
    assert taken.attempt == claimed.attempt + 1
    assert await successes(stage, state.run.id) == list(SLUGS)

    times = {seq: event.time for seq, event in await journal(stage) if event.time}
    last_word = max(seq for seq in times if claimed.token <= seq < taken.token)
    waited = (times[taken.token] - times[last_word]).total_seconds()
    assert waited < ACK_WAIT + LEASE + 10, f"taken over after {waited:.1f} s"


async def test_killing_and_restarting_the_broker_in_the_middle_of_a_run_loses_nothing(stage: Scene) -> None:
    await stage.crew.hire()
    head = await stage.head()
    said = await stage.type("request", "--reason", "with a broker that dies", "--wait", "20")
    assert said.code == 0, said.text
    await stage.until(lambda state: doing("harbor-prewarm", head)(state) or doing("registry-pivot", head)(state))
    await stage.box.broker.kill()
    await anyio.sleep(1.5)
    await stage.box.broker.restart()
    state = await stage.until(ended(head), seconds=200)
    assert state.run is not None
    assert state.run.phase == "succeeded", (state.run.failed_step, state.run.reason, state.run.message)
    assert await successes(stage, state.run.id) == list(SLUGS)
    verified = await stage.type("verify")
    assert verified.code == 0, verified.text
    await same_as_replay(stage)


async def test_status_and_config_map_say_the_same_to_scripts(stage: Scene) -> None:
    said = await stage.type("status", "--output", "json")
    assert json.loads(said.text) == picture(await stage.state())
    checked = await stage.type("status", "--check")
    assert checked.code == 1, "a rehearsal is not the proof"


async def test_no_secret_is_in_any_event_log_argument_or_git_config(stage: Scene, arguments: set[str]) -> None:
    kept = stage.box.directory / "secrets"
    secrets = {file.name: file.read_text().strip() for file in kept.iterdir() if file.is_file()}
    assert len(secrets) >= 3, "the token of Gitea, the password of Harbor, the token for ghcr.io"
    forms = {
        name: [value, base64.b64encode(value.encode()).decode().rstrip("=")] for name, value in secrets.items() if value
    }

    def without(where: str, text: str) -> None:
        for name, spellings in forms.items():
            assert not any(spelling in text for spelling in spellings), f"{name} is in {where}"

    file = stage.box.directory / "log-for-secrets.jsonl"
    said = await stage.type("log", "--export", str(file))
    assert said.code == 0, said.text
    assert len(exported(file)) > 100
    for entry in exported(file):
        without(f"message {entry.seq}", entry.raw.decode(errors="replace"))
        if b"original_base64" in entry.raw:
            data = json.loads(entry.raw).get("data", {})
            without(f"message {entry.seq}", base64.b64decode(data.get("original_base64", "")).decode(errors="replace"))
    logs = list(stage.box.directory.glob("*.log")) + list(stage.box.directory.glob("nats/*.log"))
    assert any(log.stat().st_size for log in logs if log.name.startswith("worker-"))
    for log in logs:
        without(log.name, log.read_text(errors="replace"))
    assert any("cutover" in words or "workers.entrypoints" in words for words in arguments)
    assert any(words.startswith("git ") or "/git " in words for words in arguments), "git was seen at work"
    without("a process's arguments", "\n".join(arguments))
    configs = [
        file for file in stage.box.directory.rglob("config") if file.is_file() and b"[core]" in file.read_bytes()
    ]
    assert configs
    for file in configs:
        without(str(file), file.read_text(errors="replace"))
    without("the settings", stage.settings_file.read_text())
