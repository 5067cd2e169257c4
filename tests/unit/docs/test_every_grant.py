"""The table of docs/evidence/every-grant: what became of each grant's loss, held against what the chart grants now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from granted_scene import VALUES
from grants import grants, subjects

from sandbox import blueprint

EVIDENCE = Path(__file__).resolve().parents[3] / "docs" / "evidence" / "every-grant"
PARTS = ("kinds", "subjects")
pytestmark = pytest.mark.skipif(
    not all((EVIDENCE / f"{part}.json").exists() for part in PARTS), reason="no evidence: benchmarks/every_grant.py"
)
NEWER = 8
"""Grants that may be younger than the last sweep, which takes most of an hour: more of them, and it is due."""


def rows(part: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((EVIDENCE / f"{part}.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("part", PARTS)
def test_each_loss_was_named_and_nothing_succeeded_without_it(part: str) -> None:
    wrong = [row["grant"] for row in rows(part) if not row["named"] or row["complete"]]
    assert wrong == []


@pytest.mark.parametrize("part", PARTS)
def test_what_was_said_holds_the_grant(part: str) -> None:
    """Not only the sweep's own word for it."""
    for row in rows(part):
        if row["noticed"].startswith("not asked"):
            continue
        who, _, what = row["grant"].partition(": ")
        if part == "kinds":
            verb, _, rest = what.partition(" ")
            assert f"{verb} {rest.partition('/')[0].partition(' ')[0]}" in row["said"], row
            assert who in row["said"], row
        else:
            assert "permissions violation" in row["said"], row
            fixed = max(what.lower().split("*"), key=len).rstrip(">").rstrip(".")
            assert fixed in row["said"].lower(), row


def test_every_grant_that_the_chart_makes_was_taken_away_once() -> None:
    charter = blueprint.charter(VALUES)
    granted = {str(each) for each in grants(charter.objects)}
    granted |= {f"{user}: {subject}" for user, subject in subjects(charter.users)}
    met = {row["grant"] for part in PARTS for row in rows(part)}
    assert len(granted - met) <= NEWER, f"make every-grant is due: {sorted(granted - met)}"
