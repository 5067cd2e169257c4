"""What an error means."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workers.errors import Stuck, Wait
from workers.verdict import GiveUp, Limits, Retry, plainest, verdict

LIMITS = Limits(waits=10, blips=3, total=100, longest=20)


def test_stuck_is_final() -> None:
    assert verdict(Stuck("Denied", "401"), 1, 0, LIMITS) == GiveUp("Denied", "401")


def test_wait_is_tried_again_after_its_own_time() -> None:
    assert verdict(Wait("Busy", "503", after=7), 1, 0, LIMITS) == Retry(7, "Busy", "503")


@given(st.floats(0, 1e6), st.integers(1, 100), st.floats(0, 1e4))
def test_waiting_is_bounded_in_number_and_in_time(after: float, tries: int, elapsed: float) -> None:
    outcome = verdict(Wait("Busy", "503", after=after), tries, elapsed, LIMITS)
    assert isinstance(outcome, GiveUp) == (tries >= LIMITS.waits or elapsed >= LIMITS.total)
    if isinstance(outcome, Retry):
        assert outcome.after == min(after, LIMITS.total - elapsed)


def test_who_says_how_long_to_wait_is_asked_no_earlier() -> None:
    assert verdict(Wait("Busy", "429", after=600), 1, 0, Limits()) == Retry(600, "Busy", "429")
    late = verdict(KeyError("x"), 9, 0, Limits(blips=20, longest=2), lambda: 1.0)
    assert isinstance(late, Retry)
    assert late.after == 2, "who does not say is asked again before long"


def test_a_defect_is_tried_a_few_times_and_keeps_its_name() -> None:
    assert isinstance(verdict(KeyError("x"), 2, 0, LIMITS), Retry)
    last = verdict(KeyError("x"), 3, 0, LIMITS)
    assert isinstance(last, GiveUp)
    assert last.reason == "Unexpected"
    assert "KeyError" in last.message


def test_of_a_group_what_needs_a_person_counts_most() -> None:
    stuck, wait = Stuck("Denied", "401"), Wait("Busy", "503")
    assert plainest(ExceptionGroup("", [KeyError("x"), wait, ExceptionGroup("", [stuck])])) is stuck
    assert plainest(ExceptionGroup("", [KeyError("x"), wait])) is wait
