"""A proxy project with Harbor's retention left on, seven days later: gone, said, and mended by asking again."""

from __future__ import annotations

from pathlib import Path

import pytest
from acceptance_scene import cutover, exported, kinds, status

from schemas import events as facts
from workers.audit.finding import Severity

pytestmark = pytest.mark.timeout(240)


def test_a_proxy_that_forgot_is_no_cutover_until_it_is_filled_again(tmp_path: Path) -> None:
    directory = tmp_path / "box"
    said = cutover(
        "rehearse", "--keep", str(directory), "--scenario", "proxy-forgets", "--hold", "2", timeout=220
    )  # fmt: skip
    assert said.code == 0, said.text
    assert "Failed as staged, at egress-block-test: TethersLeft" in said.text
    log = exported(directory / "log.jsonl")
    (failed,) = kinds(log, facts.Failed)
    assert failed.reason == "TethersLeft"
    # Before the first step, at the end of the first run, before the second, at its end.
    first, forgotten, still, clean = kinds(log, facts.Audited)[:4]
    assert not first.clean
    gone = {f["name"]: f for f in forgotten.findings}
    assert "proxy-quay" in gone
    assert "proxy-quay/cilium/cilium:v1.16.5" in gone
    assert all(name.startswith("proxy-quay") for name in gone), "hosted projects hold everything"
    assert {f["severity"] for f in gone.values()} == {Severity.EXTERNAL}
    assert {f["name"] for f in still.findings} == set(gone)
    assert clean.clean
    assert status(directory)["cutoverComplete"] == "true"
