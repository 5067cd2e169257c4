"""Every command in the README does what the README says."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import sys
from pathlib import Path

import anyio
import nats
from acceptance_scene import ROOT, environment, exported, line_with
from nats.aio.msg import Msg

from events.subjects import JOURNAL
from sandbox.broker import free_port

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """Fenced blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def commands() -> list[str]:
    """Every shell line, without its comment."""
    return [re.sub(r"\s+# .*", "", line) for block in blocks("sh") for line in block.splitlines() if line.strip()]


async def shell(script: str, cwd: Path, **env: str) -> str:
    """Run a script to its end; what it printed. Fails the test when it fails."""
    process = await asyncio.create_subprocess_exec(
        "bash", "-euc", script, cwd=cwd, env=environment(**env), stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == 0, f"{script}\n{out.decode()}"
    return out.decode()


def test_every_shell_command_is_one_that_these_tests_type() -> None:
    ours = (
        "make rehearsal KEEP=box", "make test", "cutover verify box/log.jsonl", "cutover rehearse --keep box --by-hand",
        "export NATS_URL=", "export CUTOVER_CONFIG=", "nats sub ", "nats pub catalyst.cutover.requested ",
        "cutover request --watch", "cutover status", "cutover log --step harbor-prewarm", "cutover replay",
        "cutover serve --insecure-dev", "cutover watch --api ", "cutover audit", "cutover plan --no-diff",
        "cutover certificate ", "cutover verify --certificate ",
    )  # fmt: skip
    assert [line for line in commands() if not line.startswith(ours)] == []
    assert [start for start in ours if not any(line.startswith(start) for line in commands())] == []


def test_the_request_of_the_nats_command_is_the_one_of_the_snippet() -> None:
    (published,) = [line for line in commands() if line.startswith("nats pub")]
    request = published.partition("'")[2].rstrip("'")
    assert json.loads(request)["type"] == "io.openova.catalyst.cutover.requested.v1"
    assert f"b'{request}'" in blocks("python")[0]


async def over_http(tmp_path: Path) -> None:
    """Serve, and watch through it; the port is one that is free here."""
    serve, watch = next(block for block in blocks("sh") if "cutover serve" in block).splitlines()
    port = str(free_port())
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-u", "-m", "workers.entrypoints.cli", *serve.replace("8080", port).split()[1:], cwd=tmp_path,
        env=environment(PYTHONPATH=str(ROOT), CUTOVER_CONFIG="box/settings.yaml"), stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        await line_with(process, port, 400)
        said = await shell(watch.replace("8080", port), tmp_path, PYTHONPATH=str(ROOT))
        assert "cutoverComplete=true" in said
    finally:
        process.terminate()
        await process.communicate()


async def test_by_hand_with_nats_and_with_our_own_words_and_again(tmp_path: Path) -> None:
    by_hand = next(line for line in commands() if line.endswith("--by-hand")).split()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-u", "-m", "workers.entrypoints.cli", *by_hand[1:], "--hold", "3", cwd=tmp_path,
        env=environment(PYTHONPATH=str(ROOT)), stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    heard: list[str] = []

    async def hear(message: Msg) -> None:
        heard.append(message.subject)

    try:
        url = (await line_with(process, "export NATS_URL=", 400)).strip().partition("=")[2]
        await line_with(process, "Waiting for catalyst.cutover.requested", 400)
        client = await nats.connect(url)
        await client.subscribe("catalyst.cutover.>", cb=hear)  # what `nats sub` does
        if shutil.which("nats"):
            published = next(line for line in commands() if line.startswith("nats pub"))
            await shell(published, tmp_path, NATS_URL=url)
        else:
            print("nats CLI is not installed: its message is published by the Python snippet only")
            snippet = tmp_path / "snippet.py"
            snippet.write_text(blocks("python")[0])
            await shell(f"{sys.executable} snippet.py", tmp_path, NATS_URL=url)
        await line_with(process, "cutoverComplete=true", 400)
        await client.close()
        assert {"catalyst.cutover.requested", JOURNAL, *(f"catalyst.cutover.step.{n}" for n in range(1, 9))} <= {*heard}

        own = next(block for block in blocks("sh") if "CUTOVER_CONFIG" in block)
        said = await shell(own, tmp_path, PYTHONPATH=str(ROOT))
        assert said.count("cutoverComplete=true") == 2, said
        assert "3/8 harbor-prewarm" in said
        assert "same: the ConfigMap is the fold of the log" in said
        await over_http(tmp_path)
        proved = next(block for block in blocks("sh") if "cutover audit" in block)
        said = await shell(proved, tmp_path, PYTHONPATH=str(ROOT), CUTOVER_CONFIG="box/settings.yaml")
        assert "rehearsal" in said.splitlines()[-1], said
        process.send_signal(signal.SIGINT)
        with anyio.fail_after(60):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()

    verified = await shell("cutover verify box/log.jsonl", tmp_path)
    assert "whole:" in verified
    assert len(exported(tmp_path / "box" / "log.jsonl")) > 2 * 8, "a claim and a result of each step, at least"
    # `install` has been made: these tests run from it.
    again = await shell(f"make -o install rehearsal KEEP={tmp_path}/box HOLD=3 BIN={Path(sys.executable).parent}", ROOT)
    assert "cutoverComplete=true" in again
