from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from sandbox.controllers import conditions as c

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LATER = datetime(2026, 1, 1, 13, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("5s", 5), ("1h30m", 5400), ("250ms", 0.25), ("1.5m", 90), ("", 7), (None, 7), ("5", 7), ("soon", 7)],
)
def test_go_durations_are_read_and_what_is_not_one_is_the_default(text: str | None, expected: float) -> None:
    assert c.seconds(text, 7) == expected


def test_a_transition_time_moves_only_when_the_status_does() -> None:
    first = c.settle([], [c.condition("Ready", "True", "A", "")], 1, NOON)
    same = c.settle(first, [c.condition("Ready", "True", "B", "")], 2, LATER)
    other = c.settle(same, [c.condition("Ready", "False", "B", "")], 2, LATER)
    assert [x[0]["lastTransitionTime"][11:13] for x in (first, same, other)] == ["12", "12", "13"]
    assert same[0]["observedGeneration"] == 2


def made(generation: int = 1, token: str | None = None, uid: str = "u") -> dict[str, Any]:
    marks = {c.REQUESTED_AT: token} if token else {}
    return {"metadata": {"generation": generation, "uid": uid, "annotations": marks}, "spec": {}}


def test_flux_looks_again_on_a_new_generation_or_request_and_not_on_status() -> None:
    assert c.asks_again(None, made())
    assert c.asks_again(made(1), made(2))
    assert c.asks_again(made(), made(token="t"))
    assert c.asks_again(made(), made(uid="v"))
    assert not c.asks_again(made(), {**made(), "status": {"x": 1}})


def test_ready_of_an_older_generation_is_not_ready() -> None:
    ready = [{"type": "Ready", "status": "True"}]
    assert c.is_true({**made(2), "status": {"observedGeneration": 2, "conditions": ready}})
    assert not c.is_true({**made(2), "status": {"observedGeneration": 1, "conditions": ready}})
