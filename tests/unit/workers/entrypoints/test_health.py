"""What a worker answers the kubelet, and which class does what."""

from __future__ import annotations

from events import flow
from workers.entrypoints.classes import CLASSES, EVERYTHING
from workers.entrypoints.health import Health


def test_alive_asks_nobody_and_ready_says_why_not() -> None:
    health = Health()
    assert health.answer("/healthz") == (200, "ok")
    assert health.answer("/readyz") == (503, "starting")
    health.ready = lambda: "the broker is away"
    assert health.answer("/readyz") == (503, "the broker is away")
    assert health.answer("/healthz") == (200, "ok")
    health.ready = lambda: None
    assert health.answer("/readyz") == (200, "ok")


def test_nothing_else_is_there() -> None:
    assert Health().answer("/metrics")[0] == 404


def test_together_the_classes_do_everything_and_each_step_is_one_classes() -> None:
    steps = [slug for duties in CLASSES.values() for slug in duties.steps]
    assert sorted(steps) == sorted(flow.SLUGS)
    for duty in ("admit", "project", "watch", "drift", "found"):
        assert [name for name, duties in CLASSES.items() if getattr(duties, duty)] != [], duty
        assert getattr(EVERYTHING, duty)


def test_only_one_class_makes_the_stream_and_only_the_proof_and_control_may_sign() -> None:
    assert [name for name, duties in CLASSES.items() if duties.found] == ["control"]
    assert {name for name, duties in CLASSES.items() if duties.sign} == {"proof", "control"}
