"""A traceback, an assertion, a log line at debug: all of them print objects. None prints a secret by that."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
SECRET = re.compile(r"password|passphrase|secret|token|credential", re.IGNORECASE)
NAMES_ONLY = {"robot_secret", "pull_secret", "git_secret", "registry_secret"}
"""Names of Secrets, not what is in them."""
SHOWN = {"str", "str | None", "bytes", "bytes | None"}


def shown(tree: ast.AST) -> Iterator[str]:
    """`Class.field` of every field that holds text, is named as a secret is, and stands in the class's repr."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef) or any(getattr(n, "name", "") == "__repr__" for n in node.body):
            continue
        for field in node.body:
            if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
                continue
            hidden = field.value is not None and "repr=False" in ast.unparse(field.value)
            if SECRET.search(field.target.id) and ast.unparse(field.annotation) in SHOWN and not hidden:
                yield f"{node.name}.{field.target.id}"


def test_no_class_shows_a_secret_when_it_is_printed() -> None:
    files = [file for room in ("schemas", "events", "workers") for file in (ROOT / room).rglob("*.py")]
    assert len(files) > 100
    found = {name for file in files for name in shown(ast.parse(file.read_text(encoding="utf-8")))}
    assert {name for name in found if name.partition(".")[2] not in NAMES_ONLY} == set()


def test_the_search_sees_one() -> None:
    assert list(shown(ast.parse("class A:\n    token: str\n    password: str = field(repr=False)"))) == ["A.token"]
