"""`cutover rehearse`, as a person types it: the whole way, again, through a failure, and on the real manifests."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from acceptance_scene import ROOT, Said, cutover, exported, kinds, status, typed

from events.flow import SLUGS
from sandbox.box import Box
from schemas import events as facts


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Said]:
    """A rehearsal that went all the way, and what it said."""
    directory = tmp_path_factory.mktemp("kept") / "box"
    return directory, cutover("rehearse", "--keep", str(directory), "--hold", "3")


def test_a_rehearsal_ends_complete_and_says_that_it_is_not_the_proof(kept: tuple[Path, Said]) -> None:
    directory, said = kept
    assert said.code == 0, said.text
    assert "cutoverComplete=true" in said.text
    assert "rehearsal, not the proof" in said.text
    shown = status(directory)
    assert shown["cutoverComplete"] == "true"
    assert shown["rehearsal"] == "true"
    assert [shown[f"step.{slug}.result"] for slug in SLUGS] == ["success"] * 8


def test_its_progress_is_seen_step_by_step(kept: tuple[Path, Said]) -> None:
    _, said = kept
    places = [said.text.index(f"{number}/8 {slug}") for number, slug in enumerate(SLUGS, 1)]
    assert places == sorted(places)


def test_the_log_that_it_leaves_is_named_whole_and_marks_the_rehearsal(kept: tuple[Path, Said]) -> None:
    directory, said = kept
    file = directory / "log.jsonl"
    assert str(file) in said.text
    assert cutover("verify", str(file)).code == 0
    (completed,) = kinds(exported(file), facts.Completed)
    assert completed.rehearsal
    proof = kinds(exported(file), facts.StepSucceeded)[-1]
    assert proof.step == "egress-block-test"
    assert proof.result["rehearsal"]


def test_it_leaves_a_certificate_that_says_rehearsal_and_checks_without_the_sovereign(
    kept: tuple[Path, Said], tmp_path: Path
) -> None:
    directory, said = kept
    names = ("certificate.json", "log.jsonl", "certificate.pub")
    certificate, log, key = (Path(shutil.copy(directory / name, tmp_path / name)) for name in names)
    check = ("verify", "--certificate", str(certificate), "--log", str(log), "--key", str(key))
    assert str(directory / "certificate.json") in said.text
    held = cutover(*check)
    assert held.code == 0, held.text
    assert "rehearsal" in held.text
    told = json.loads(cutover(*check, "--output", "json").text)["statement"]["predicate"]
    assert told["tethers"]["after"] == {"clean": True, "findings": []}
    log.write_bytes(log.read_bytes().replace(b'"operator": "', b'"operator": "not ', 1))
    assert cutover(*check).code == 4


def test_one_changed_word_in_any_fact_of_the_log_is_found(kept: tuple[Path, Said], tmp_path: Path) -> None:
    directory, _ = kept
    changed = tmp_path / "log.jsonl"
    lines = (directory / "log.jsonl").read_text().splitlines(keepends=True)
    accepted = next(number for number, line in enumerate(lines) if "cutover.accepted.v1" in line)
    lines[accepted] = lines[accepted].replace('"operator": "', '"operator": "not ')
    changed.write_text("".join(lines))
    assert changed.read_text() != (directory / "log.jsonl").read_text()
    assert cutover("verify", str(changed)).code == 4


def test_the_same_sovereign_again_has_nothing_to_do(kept: tuple[Path, Said]) -> None:
    directory, _ = kept
    said = cutover("rehearse", "--keep", str(directory), "--hold", "3")
    assert said.code == 0, said.text
    succeeded = kinds(exported(directory / "log.jsonl"), facts.StepSucceeded)
    assert len(succeeded) == 16
    again = {fact.step: fact.result for fact in succeeded[8:]}
    assert tuple(again) == SLUGS
    # The proof is made anew each time: that is its work, and it changes nothing that stays.
    assert {slug: again[slug]["changes"] for slug in SLUGS} == dict.fromkeys(SLUGS, 0)
    for slug in SLUGS[:-1]:
        assert re.search(r"nothing|already|no change", again[slug]["summary"], re.I), again[slug]["summary"]


def test_a_step_that_fails_says_what_to_do_stops_the_rest_and_is_healed(tmp_path: Path) -> None:
    directory = tmp_path / "box"
    said = cutover("rehearse", "--keep", str(directory), "--fail", "harbor-prewarm", "--no-heal")
    assert said.code == 1, said.text
    shown = status(directory)
    assert shown["failedStep"] == "harbor-prewarm"
    assert shown["cutoverComplete"] == "false"
    assert shown["step.harbor-prewarm.result"] == "failed"
    assert "postgres" in shown["lastError"], "the message names what was refused"
    assert [shown[f"step.{slug}.startedAt"] for slug in SLUGS[3:]] == [""] * 5
    # It still works: it opens, settles, and a second request completes.
    healed = cutover("rehearse", "--keep", str(directory), "--hold", "3")
    assert healed.code == 0, healed.text
    assert status(directory)["cutoverComplete"] == "true"
    assert status(directory)["failedStep"] == ""


async def test_every_helm_repository_of_the_real_manifests_is_pivoted(tmp_path: Path, shared_tree: Path) -> None:
    directory = tmp_path / "box"
    declared = {
        document["metadata"]["name"]
        for file in shared_tree.rglob("bootstrap-kit/*.yaml")
        for document in yaml.safe_load_all(file.read_text())
        if document and document["kind"] == "HelmRepository"
    }
    said = await typed("rehearse", "--keep", str(directory), "--hold", "3", "--tree", str(shared_tree))
    assert said.code == 0, said.text
    assert len(declared) == 35
    async with Box.open(directory) as box:
        code, found = await box.kube.local.request("GET", "/apis/source.toolkit.fluxcd.io/v1/helmrepositories")
    assert code == 200
    live = {item["metadata"]["name"]: item["spec"]["url"] for item in found["items"]}
    assert declared <= live.keys()
    assert {name: url for name, url in live.items() if "harbor.sovereign.test" not in url} == {}


def test_settings_of_another_sovereign_in_the_environment_are_not_touched(tmp_path: Path) -> None:
    said = cutover(
        "rehearse", "--keep", str(tmp_path), "--fail", "nonsense", CUTOVER_NATS__URL="nats://203.0.113.1:4222"
    )
    assert said.code == 2
    assert "gitea-mirror" in said.text


def test_the_makefile_rehearses_with_the_same_command() -> None:
    text = (ROOT / "Makefile").read_text()
    assert "cutover rehearse" in text
    assert json.loads('["KEEP","HOLD","REPO","TREE","FAIL","SCENARIO","WORKERS"]') == [
        word for word in ("KEEP", "HOLD", "REPO", "TREE", "FAIL", "SCENARIO", "WORKERS") if f"$({word})" in text
    ]
