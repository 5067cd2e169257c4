"""Every command in README, docs and the chart's notes is one that a test types: which test, stands here."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
README, RUNBOOK = "tests/acceptance/test_readme.py", "tests/acceptance/test_runbook.py"
BOOK, NFT = "tests/integration/chart/test_by_the_book.py", "tests/integration/nodes/test_nft.py"
TYPED = {
    "make rehearsal": README,
    "make test": ".ci/run",
    "make help": "tests/unit/docs/test_commands.py",
    "make check": ".ci/run",
    "make schemas": "Makefile",  # `make check` runs it with --check
    "cutover rehearse": README,
    "cutover verify box/log.jsonl": README,
    "cutover serve": README,
    "cutover watch": README,
    "cutover --help": RUNBOOK,
    "cutover audit": RUNBOOK,
    "cutover plan": RUNBOOK,
    "cutover request": RUNBOOK,
    "cutover status": RUNBOOK,
    "cutover log": RUNBOOK,
    "cutover cancel": RUNBOOK,
    "cutover certificate": RUNBOOK,
    "cutover replay": RUNBOOK,
    "cutover lift": RUNBOOK,
    "cutover verify": RUNBOOK,
    "gunzip --keep log.jsonl.gz": RUNBOOK,
    "nats sub 'catalyst.cutover.>'": README,
    "nats pub catalyst.cutover.requested": README,
    "nats pub catalyst.cutover.step.N": "tests/acceptance/test_events.py",
    "export NATS_URL=": README,
    "export CUTOVER_CONFIG=": README,
    "nft delete table inet catalyst_cutover": NFT,
    "helm install cutover": BOOK,
    "helm uninstall cutover": BOOK,
    "kubectl ": BOOK,
}
"""How a command begins -> the file that types it; the longest beginning counts."""
WORDS = {
    "helm template", "helm install", "helm uninstall", "helm upgrade", "helm rollback", "nats pub", "nats sub",
    "git http-backend",
}  # fmt: skip
"""Commands that are spoken of, not to be typed as they stand."""
PROGRAMS = re.compile(r"^(cutover|make|helm|kubectl|nats|nft|gunzip|export|docker|flux|curl|git|pip|python3?)\b[ =]")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "chart/templates/NOTES.txt"]


def commands(text: str) -> set[str]:
    """What could be typed: lines of shell blocks, indented lines, and what stands in backticks."""
    fenced = [line for block in re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S) for line in block.splitlines()]
    indented = [line.strip() for line in text.splitlines() if re.match(r" {2,}\S", line)]
    inline = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    lines = {re.sub(r"\s+# .*", "", line).strip() for line in (*fenced, *(i for i in indented if PROGRAMS.match(i)))}
    return {line for line in (*lines, *(i for i in inline if PROGRAMS.match(i))) if line} - WORDS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_is_typed_by_a_test(page: Path) -> None:
    assert [c for c in sorted(commands(page.read_text(encoding="utf-8"))) if not c.startswith(tuple(TYPED))] == []


def test_nothing_is_said_to_be_typed_that_no_page_has_and_every_file_is_there() -> None:
    written = {c for page in PAGES for c in commands(page.read_text(encoding="utf-8"))}

    def begins(command: str) -> str:
        return max((b for b in TYPED if command.startswith(b)), key=len)

    assert set(TYPED) - {begins(c) for c in written} == set()
    assert [place for place in TYPED.values() if not (ROOT / place).is_file()] == []


def test_a_command_that_nobody_types_is_found() -> None:
    text = "Type `helm delete it`.\n\n```sh\ncutover fly   # away\nrm -rf /\n```\n\n    nats purge\n"
    found = commands(text)
    assert found == {"helm delete it", "cutover fly", "rm -rf /", "nats purge"}
    assert [c for c in found if c.startswith(tuple(TYPED))] == []


def test_make_help_lists_targets_that_are_there() -> None:
    said = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    listed = set(re.findall(r"^make ([a-z-]+)", said, re.M))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert {"install", "rehearsal", "test"} <= listed <= targets


def test_languages_of_blocks_are_those_that_tests_read() -> None:
    """A block of another language would be read by none of them."""
    found = {
        (page.name, language)
        for page in PAGES
        for language in re.findall(r"^```(\w*)\n.*?^```", page.read_text(encoding="utf-8"), re.M | re.S)
    }
    assert found == {
        ("README.md", "sh"), ("README.md", ""), ("README.md", "python"), ("runbook.md", "sh"), ("runbook.md", "yaml"),
    }  # fmt: skip
