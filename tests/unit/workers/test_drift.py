"""When the drift watch looks, what it takes for a change, and when two audits say the same."""

from __future__ import annotations

import histories
import pytest

from events.fold import State, fold
from schemas.events import Audited, Completed
from workers.adapters.cluster_kinds import DEPLOYMENT, HELM_REPOSITORY, NODE, SECRET
from workers.drift import mark, same, settled, told


def completed() -> State:
    history = histories.whole_run()[:-1]
    run = fold(histories.chain(history)).run
    assert run is not None
    return fold(histories.chain([*history, Completed(evidence_digest=run.digest, rehearsal=True)]))


def test_only_a_complete_and_quiet_sovereign_is_watched() -> None:
    assert settled(completed())
    assert not settled(State())
    assert not settled(fold(histories.chain(histories.whole_run()[:-1])))
    assert not settled(completed()._replace(broken="event 3 is missing"))


@pytest.mark.parametrize("kind", [DEPLOYMENT, HELM_REPOSITORY])
def test_a_status_is_no_change_and_a_spec_is(kind: object) -> None:
    obj = {"metadata": {"uid": "u", "generation": 1}, "status": {"observed": 1}}
    assert mark(kind, obj) == mark(kind, {**obj, "status": {"observed": 2}})  # type: ignore[arg-type]
    assert mark(kind, obj) != mark(kind, {"metadata": {"uid": "u", "generation": 2}})  # type: ignore[arg-type]


def test_a_heartbeat_of_a_node_is_no_change_and_another_node_of_its_name_is() -> None:
    node = {"metadata": {"uid": "u", "name": "n"}, "status": {"conditions": [1]}}
    assert mark(NODE, node) == mark(NODE, {**node, "status": {"conditions": [2]}})
    assert mark(NODE, node) != mark(NODE, {"metadata": {"uid": "v", "name": "n"}})


def test_the_data_of_a_secret_matter_and_do_not_show() -> None:
    one = {"metadata": {"uid": "u"}, "data": {"a": "hidden-word"}}
    assert mark(SECRET, one) != mark(SECRET, {"metadata": {"uid": "u"}, "data": {"a": "other"}})
    assert "hidden-word" not in mark(SECRET, one)


def test_audits_are_the_same_whoever_signs() -> None:
    finding = {"kind": "HelmRepository", "name": "x", "field": "spec.url", "host": "ghcr.io"}
    one = Audited(findings=(finding,), clean=False, signer="sha256:a")
    assert same(one, Audited(findings=(finding,), clean=False))
    assert not same(one, Audited(findings=(), clean=True))
    assert told(one) == "HelmRepository x spec.url: ghcr.io"
