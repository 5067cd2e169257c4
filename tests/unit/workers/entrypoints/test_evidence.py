"""The evidence of the 600 s hold that lies in docs/evidence: checked offline, by the command that anyone would use."""

from __future__ import annotations

import gzip
from datetime import datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from events import certificate, export
from workers.entrypoints.cli import main

PLACE = Path(__file__).parents[4] / "docs" / "evidence" / "hold-600s"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    file = tmp_path / "log.jsonl"
    file.write_bytes(gzip.decompress((PLACE / "log.jsonl.gz").read_bytes()))
    return file


def verified(log: Path) -> tuple[int, str]:
    files = ["--certificate", str(PLACE / "certificate.json"), "--key", str(PLACE / "certificate.pub")]
    said = CliRunner().invoke(main, ["verify", *files, "--log", str(log)])
    return said.exit_code, said.output


def test_certificate_and_log_of_the_whole_hold_belong_together(log: Path) -> None:
    code, text = verified(log)
    assert code == 0, text
    assert "rehearsal, 9 hosts blocked for 600" in text


def test_the_hold_was_whole_watched_and_lifted(log: Path) -> None:
    predicate = certificate.opened((PLACE / "certificate.json").read_bytes())["predicate"]
    egress = predicate["egress"]
    assert egress["held_seconds"] >= egress["required_seconds"] == 600
    stood = datetime.fromisoformat(egress["lifted_at"]) - datetime.fromisoformat(egress["blocked_at"])
    assert stood.total_seconds() >= 600
    assert (egress["restarts"], egress["exceptions"]) == (0, [])
    upstream = set(egress["blocked_hosts"])
    assert {c["reached"] for c in egress["during"] if c["host"] in upstream} == {0}
    assert all(c["reached"] == c["asked"] for c in (*egress["before"], *egress["after"]))
    assert {f["tether"] for f in predicate["tethers"]["before"]["findings"]} >= set(range(1, 8))
    assert predicate["tethers"]["after"] == {"clean": True, "findings": []}
    with log.open("rb") as lines:
        assert not export.check(export.entries(lines)).faults


def test_a_second_less_in_the_log_is_seen(log: Path) -> None:
    raw = log.read_bytes()
    held = b'"held_seconds": 600.'
    assert raw.count(held) == 1
    log.write_bytes(raw.replace(held, b'"held_seconds": 601.'))
    code, text = verified(log)
    assert code == 4, text
