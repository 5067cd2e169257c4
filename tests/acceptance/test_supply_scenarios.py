"""A proxy project with Harbor's retention left on, seven days later: images are gone, and the run says so."""

from __future__ import annotations

from pathlib import Path

from acceptance_scene import cutover, exported, kinds, status

from schemas import events as facts
from workers.audit.finding import Severity


def test_a_proxy_that_forgot_is_no_cutover(tmp_path: Path) -> None:
    directory = tmp_path / "box"
    arguments = ("--keep", str(directory), "--scenario", "proxy-forgets", "--hold", "1", "--no-heal")
    said = cutover("rehearse", *arguments)
    assert "Failed as staged, at egress-block-test: TethersLeft" in said.text, said.text
    log = exported(directory / "log.jsonl")
    (failed,) = kinds(log, facts.Failed)
    assert failed.reason == "TethersLeft"
    gone = {f["name"]: f for f in kinds(log, facts.Audited)[-1].findings}
    assert {"proxy-quay", "proxy-quay/cilium/cilium:v1.16.5"} <= set(gone)
    assert all(name.startswith("proxy-quay") for name in gone), "hosted projects hold everything"
    assert {f["severity"] for f in gone.values()} == {Severity.EXTERNAL}
    assert status(directory)["cutoverComplete"] == "false"
