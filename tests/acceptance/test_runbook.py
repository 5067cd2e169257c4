"""Every shell command of the docs is run, on one Sovereign, in the order of the runbook."""

from __future__ import annotations

import asyncio
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from acceptance_scene import HOLD, ROOT, environment, typed

from sandbox.box import Box
from sandbox.crew import Crew

DOCS = sorted((ROOT / "docs").rglob("*.md"))
BEGINS = {
    "cutover audit": (1, "GitRepository"),
    "cutover plan": (0, "harbor-prewarm"),
    "cutover request": (0, "cutoverComplete=true"),
    "cutover watch": (0, "cutoverComplete=true"),
    "cutover status --check": (1, "rehearsal"),
    "cutover status": (0, "cutoverComplete=true"),
    "cutover log": (0, ""),
    "cutover cancel": (1, "no run is active"),
    "cutover certificate": (0, ""),
    "cutover verify": (0, "rehearsal"),
}
"""How each command of the runbook begins, its exit code in a Sovereign that is in order, and what it says."""


def commands(file: Path) -> list[str]:
    """Our own commands in the fenced shell blocks; tests/integration/chart/test_by_the_book.py types the others."""
    blocks = re.findall(r"^```sh\n(.*?)^```", file.read_text(encoding="utf-8"), re.M | re.S)
    return [line for block in blocks for line in block.splitlines() if line.startswith("cutover ")]


def test_only_the_runbook_has_commands_to_type() -> None:
    assert [file.name for file in DOCS if commands(file)] == ["runbook.md"]


def test_every_page_that_is_linked_is_there() -> None:
    broken = [
        f"{file.name}: {target}"
        for file in [*DOCS, ROOT / "README.md"]
        for target in re.findall(r"\]\(([^)#:]+)\)", file.read_text(encoding="utf-8"))
        if not (file.parent / target).exists()
    ]
    assert broken == []


async def test_every_command_of_the_runbook_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typing = commands(ROOT / "docs/runbook.md")
    assert [start for start in BEGINS if not any(line.startswith(start) for line in typing)] == []
    monkeypatch.chdir(tmp_path)
    async with Box.open(tmp_path / "box", hold=HOLD) as box, Crew.at_work(box.settings_file, box.directory, 1):
        for line in typing:
            code, words = next(ends for start, ends in BEGINS.items() if line.startswith(start))
            said = await typed(*split(line), cwd=tmp_path, CUTOVER_CONFIG=str(box.settings_file))
            assert said.code == code, f"{line}\n{said.text}"
            assert words in said.text, f"{line}\n{said.text}"
        assert await spoken(box, tmp_path) == SPOKEN


SPOKEN = {
    "cutover --help": 0,
    "cutover rehearse --help": 0,
    "cutover verify": 0,
    "cutover replay": 0,
    "cutover replay --write": 0,
    "cutover lift --kubeconfig ~/.kube/config": 0,
}
"""Commands that stand in the middle of a sentence and in no block, with their exit codes."""


async def spoken(box: Box, place: Path) -> dict[str, int]:
    """What each of them ends with, typed at once. The kubeconfig is this Sovereign's."""
    text = "".join(file.read_text(encoding="utf-8") for file in [*DOCS, ROOT / "README.md"])
    assert [line for line in SPOKEN if f"`{line}`" not in text] == []
    told = {line: line.replace("~/.kube/config", str(box.kubeconfig)) for line in SPOKEN}
    ends = await asyncio.gather(
        *(typed(*split(line), cwd=place, CUTOVER_CONFIG=str(box.settings_file)) for line in told.values())
    )
    return {line: said.code for line, said in zip(SPOKEN, ends, strict=True)}


def test_the_commands_beside_the_evidence_check_it(tmp_path: Path) -> None:
    """Its lines as they stand, in a copy of its folder."""
    folder = ROOT / "docs/evidence/hold-600s"
    lines = re.findall(r"^ {4}(\S.*)$", (folder / "README.md").read_text(encoding="utf-8"), re.M)
    assert [line.split()[0] for line in lines] == ["gunzip", "cutover"]
    shutil.copytree(folder, tmp_path / "evidence")
    done = subprocess.run(
        ["bash", "-euc", "\n".join(lines)], cwd=tmp_path / "evidence", env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "rehearsal" in done.stdout


def split(line: str) -> list[str]:
    """Arguments, without `cutover`."""
    return shlex.split(line)[1:]
