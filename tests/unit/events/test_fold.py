"""Laws of the fold."""

from __future__ import annotations

import dataclasses

import pytest
from histories import accepted, chain, started, succeeded, whole_run
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from events.flow import PIVOTS, SLUGS
from events.fold import State, evolve, fold
from events.log import Entry
from events.picture import picture
from schemas import events as facts
from schemas.progress import Progress


def test_a_whole_run_is_complete() -> None:
    shown = picture(fold(chain(whole_run())))
    assert shown["cutoverComplete"] == "true"
    assert shown["rehearsal"] == "true"
    assert [shown[f"step.{slug}.result"] for slug in SLUGS] == ["success"] * 8


def after_completion(*more: BaseModel) -> bool:
    """Is it still complete when these facts came after it?"""
    return fold(chain([*whole_run(), *more])).complete


def failed(slug: str, token: int) -> facts.StepFailed:
    return facts.StepFailed(step=slug, worker="w", token=token, reason="RolloutFailed", message="")


TOKEN = len(whole_run()) + 1
"""Of what is started next."""


@pytest.mark.parametrize("slug", SLUGS)
def test_an_attempt_that_told_no_changes_takes_completion_back_where_it_may_have_changed_what_wins(slug: str) -> None:
    begun, quiet = started(slug, trigger=90), succeeded(slug, token=TOKEN + 1, changes=0)
    again = started(slug, trigger=90)
    assert after_completion(begun, succeeded(slug, token=TOKEN, changes=0)), "it told that it changed nothing"
    assert after_completion(begun, again, quiet) is (slug not in PIVOTS), "the first died and told nothing"
    assert after_completion(begun, facts.Cancelled(operator="ann", request=9)) is (slug not in PIVOTS)
    assert after_completion(begun, failed(slug, TOKEN)) is (slug not in (*PIVOTS, SLUGS[-1]))


@given(st.integers(0, 17), st.integers(1, 3))
def test_a_repeated_entry_changes_nothing(upto: int, times: int) -> None:
    entries = chain(whole_run())[:upto]
    assert fold(entries) == fold(entry for entry in entries for _ in range(times))


@given(st.integers(0, 17), st.integers(0, 17))
def test_folding_in_two_parts_is_folding_at_once(one: int, other: int) -> None:
    entries = chain(whole_run(3), gap=3)
    cut = min(one, other)
    assert fold(entries[cut:], fold(entries[:cut])) == fold(entries)


@given(st.integers(0, 16))
def test_a_dropped_event_shows_as_a_break(place: int) -> None:
    entries = chain(whole_run())
    state = fold(entries[:place] + entries[place + 1 :])
    assert state.integrity == "broken"


@given(st.integers(0, 16), st.integers(2, 40))
def test_a_changed_event_shows_as_a_break(place: int, byte: int) -> None:
    entries = chain(whole_run())
    raw = entries[place].raw.replace(b'"source": "//sov', b'"source": "//' + b"s" * byte)
    assert raw != entries[place].raw
    changed = dataclasses.replace(entries[place], raw=raw)
    assert fold([*entries[:place], changed, *entries[place + 1 :]]).integrity == "broken"


@given(st.integers(0, 15))
def test_two_swapped_events_show_as_a_break(place: int) -> None:
    entries = chain(whole_run())
    swapped = [
        dataclasses.replace(entries[place + 1], seq=entries[place].seq),
        dataclasses.replace(entries[place], seq=entries[place + 1].seq),
    ]
    assert fold([*entries[:place], *swapped, *entries[place + 2 :]]).integrity == "broken"


@given(st.binary(max_size=60), st.integers(0, 17))
def test_a_stranger_in_the_journal_is_counted_and_changes_no_history(raw: bytes, place: int) -> None:
    entries = chain(whole_run(2), gap=2)
    seq = entries[place - 1].seq + 1 if place else 1
    state = fold([*entries[:place], Entry(seq, "", raw), *entries[place:]])
    assert state.foreign == 1
    assert state.integrity == "ok"
    assert state.complete


def test_a_change_after_the_proof_makes_it_too_old() -> None:
    history = whole_run()
    history += [started("harbor-prewarm", trigger=90), succeeded("harbor-prewarm", token=len(history) + 1)]
    assert not fold(chain(history)).complete


def test_a_re_run_that_changes_nothing_leaves_the_proof_standing() -> None:
    history = whole_run()
    history += [started("harbor-prewarm", trigger=90), succeeded("harbor-prewarm", len(history) + 1, changes=0)]
    state = fold(chain(history))
    assert state.complete
    assert state.run is not None
    assert state.run.step("registry-pivot").result == ""


def test_a_fenced_workers_success_counts_for_nothing() -> None:
    history = [
        accepted(),
        started("gitea-mirror"),
        started("gitea-mirror", worker="other"),
        succeeded("gitea-mirror", 2),
    ]
    run = fold(chain(history)).run
    assert run is not None
    assert run.step("gitea-mirror").result == "running"
    assert run.step("gitea-mirror").worker == "other"


def waiting(slug: str, token: int, tries: int = 1) -> facts.StepWaiting:
    return facts.StepWaiting(
        step=slug, worker="w", token=token, reason="Busy", message="503", after_seconds=600, tries=tries
    )


def at_work(token: int, done: int, total: int | None) -> facts.StepProgress:
    progress = Progress(message="copying", bytes_done=done, bytes_total=total)
    return facts.StepProgress(step="harbor-prewarm", worker="w", token=token, progress=progress)


def test_patience_is_counted_from_the_first_wait_since_the_step_last_moved_something() -> None:
    slug = "harbor-prewarm"
    history: list[BaseModel] = [accepted(), started(slug), at_work(2, 50, 100), waiting(slug, 2)]

    def troubled(*more: BaseModel) -> int:
        run = fold(chain([*history, *more])).run
        assert run is not None
        return run.step(slug).troubled

    assert troubled() == 4, "what it worked before is no waiting"
    again = (started(slug), at_work(5, 50, 100), waiting(slug, 5, 2))
    assert troubled(*again) == 4, "nothing has moved since"
    assert troubled(started(slug), at_work(5, 0, 50), at_work(5, 1, 50)) == 0
    assert troubled(started(slug), at_work(5, 0, 50), at_work(5, 1, 50), waiting(slug, 5, 2)) == 8
    assert troubled(started(slug), at_work(5, 60, None)) == 4, "of no known number: it may be the same once more"
    assert troubled(started(slug, trigger=5)) == 0, "another trigger has its own"


def test_the_first_start_is_never_overwritten() -> None:
    first = fold(chain([accepted()])).first_started_at
    assert fold(chain([*whole_run(), accepted()])).first_started_at == first


@pytest.mark.parametrize("place", range(1, 9))
def test_percent_never_reaches_a_hundred_before_the_end(place: int) -> None:
    shown = picture(fold(chain(whole_run()[: 1 + 2 * place])))
    assert (shown["progressPercent"] == "100") is (place == 8)


def test_nothing_is_shown_of_an_empty_log() -> None:
    assert picture(State()) == {}


def test_an_unknown_kind_keeps_the_chain_whole() -> None:
    entries = chain([accepted()])
    raw = entries[0].raw.replace(b"cutover.accepted.v1", b"cutover.later-word.v1", 1)
    state = evolve(State(), Entry(1, "", raw))
    assert state.length == 1
    assert state.run is None


def test_a_cancelled_run_shows_no_running_step() -> None:
    history = [accepted(), started("gitea-mirror"), facts.Cancelled(operator="ann", request=9)]
    state = fold(chain(history))
    assert not state.active
    assert picture(state)["step.gitea-mirror.result"] == ""
