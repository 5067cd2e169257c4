"""docs/reasons.md and the code name the same reasons."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
REASON = re.compile(r"[A-Z][a-z]+(?:[A-Z][A-Za-z]+)*")
RAISES = {"Stuck", "Wait", "Refuse", "GiveUp"}


def raised() -> Iterator[str]:
    """The first argument of every Stuck, Wait and Refuse in the workers, where it is written out."""
    for file in sorted((ROOT / "workers").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in RAISES and node.args:
                yield from written(node.args[0])
            if isinstance(node, ast.Assign) and "reason" in map(str, names(node.targets)):
                yield from written(node.value)


def names(targets: list[ast.expr]) -> Iterator[str]:
    for target in targets:
        for part in ast.walk(target):
            if isinstance(part, ast.Name):
                yield part.id


def written(node: ast.expr) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str) and REASON.fullmatch(part.value):
            yield part.value


def documented() -> set[str]:
    """Every word in the first column of a table."""
    text = (ROOT / "docs/reasons.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`[^|]*) \|", text, re.M)
    return {word for cell in cells for word in re.findall(r"`(\w+)`", cell)}


def test_every_reason_that_a_worker_can_give_is_explained() -> None:
    assert sorted(set(raised()) - documented()) == []


def test_no_reason_is_explained_that_no_worker_gives() -> None:
    files = [file for room in ("events", "workers") for file in (ROOT / room).rglob("*.py")]
    code = "".join(file.read_text(encoding="utf-8") for file in files)
    assert sorted(word for word in documented() if word not in code) == []
