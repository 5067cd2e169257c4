"""Every shell command of the docs is run, on one Sovereign, in the order of the runbook."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from acceptance_scene import HOLD, ROOT, typed

from sandbox.box import Box
from sandbox.crew import Crew

pytestmark = pytest.mark.timeout(300)
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
    """Lines of the fenced shell blocks."""
    blocks = re.findall(r"^```sh\n(.*?)^```", file.read_text(encoding="utf-8"), re.M | re.S)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


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


def split(line: str) -> list[str]:
    """Arguments, without `cutover`."""
    return shlex.split(line)[1:]
