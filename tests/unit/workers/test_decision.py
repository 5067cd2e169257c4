"""What a trigger means, case by case."""

from __future__ import annotations

import pytest
from histories import accepted, chain, started, succeeded, whole_run
from pydantic import BaseModel

from events.flow import BY_NUMBER, FIRST
from events.fold import State, fold
from schemas import events as facts
from schemas.events import Trigger
from workers.decision import Adopt, Begin, Decision, Do, Hold, Refuse, Settled, decide


def chosen(history: list[BaseModel], number: int, seq: int, *, lease_over: bool = False, **trigger: object) -> Decision:
    state: State = fold(chain(history))
    return decide(state, BY_NUMBER[number], Trigger.model_validate(trigger), seq, lease_over=lease_over)


FAILED = facts.StepFailed(step="gitea-mirror", worker="w", token=2, reason="X", message="m")
RUNNING: list[BaseModel] = [accepted(), started("gitea-mirror", trigger=50)]
DONE_ONE: list[BaseModel] = [*RUNNING, succeeded("gitea-mirror", 2)]


@pytest.mark.parametrize(
    ("history", "number", "seq", "extra", "wanted"),
    [
        ([], 1, 5, {}, Begin),
        ([], 1, 5, {"run": "r1"}, Refuse),
        ([], 4, 5, {}, Refuse),
        ([accepted()], 1, 5, {"run": "r1", "after": 1}, Do),
        ([accepted()], 2, 5, {}, Refuse),
        (RUNNING, 1, 50, {"run": "r1", "after": 1}, Hold),
        (RUNNING, 1, 60, {}, Refuse),
        (RUNNING, 1, 60, {"after": 1, "run": "r1"}, Settled),
        (DONE_ONE, 1, 50, {"after": 1, "run": "r1"}, Adopt),
        (DONE_ONE, 1, 60, {}, Do),
        (DONE_ONE, 2, 60, {}, Do),
        (DONE_ONE, 3, 60, {}, Refuse),
        ([*RUNNING, FAILED], 1, 50, {}, Adopt),
        ([*RUNNING, FAILED], 1, 60, {"run": "r1"}, Do),
        ([*RUNNING, facts.Cancelled(operator="a", request=9)], 1, 50, {}, Settled),
        ([*DONE_ONE, facts.Cancelled(operator="a", request=9)], 2, 60, {}, Refuse),
        (DONE_ONE, 2, 60, {"run": "other"}, Refuse),
        (DONE_ONE, 2, 60, {"run": "other", "after": 7}, Settled),
        (DONE_ONE, 2, 60, {"step": "harbor-prewarm"}, Refuse),
        (whole_run(), 1, 60, {}, Begin),
        (whole_run(), 3, 60, {}, Do),
    ],
)
def test_each_case(history: list[BaseModel], number: int, seq: int, extra: dict[str, object], wanted: type) -> None:
    assert isinstance(chosen(history, number, seq, **extra), wanted)


def test_a_silent_lease_may_be_taken_over() -> None:
    assert chosen(RUNNING, 1, 50, lease_over=True) == Do(fold(chain(RUNNING)).run, 2)  # type: ignore[arg-type]


def test_a_broken_log_is_not_acted_upon() -> None:
    entries = chain(whole_run())
    state = fold(entries[:3] + entries[4:])
    refused = decide(state, FIRST, Trigger(), 99, lease_over=False)
    assert isinstance(refused, Refuse)
    assert refused.reason == "LogBroken"
