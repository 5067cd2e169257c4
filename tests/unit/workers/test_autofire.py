"""Who may arm auto-fire, and what the fold makes of it. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from histories import START, accepted, chain
from hypothesis import given
from hypothesis import strategies as st

from events.envelope import Event
from events.fold import State, fold
from events.picture import picture
from schemas import events as facts
from workers.autofire.rule import Rule, armed, pending, why_not_arm

ON = Rule(True, 900.0, "sovereign-admin")
LOGIN = facts.Login(roles=("sovereign-admin",))
ARMED = facts.AutoFireArmed(login=3, operator="ann", login_at=START, grace_seconds=900, fires_at=START)
DISARMED = facts.AutoFireDisarmed(login=3, operator="bob", request=5)


def event(**more: Any) -> Event:
    who = {"authtype": "user", "authid": "ann", **more}
    return Event(specversion="1.0", id="l", source="s", type="io.openova.catalyst.cutover.login.v1", **who)


@pytest.mark.parametrize(
    ("state", "rule", "login", "said", "reason"),
    [
        (State(), ON, LOGIN, event(), None),
        (State(), Rule(), LOGIN, event(), ""),
        (State(broken="gap"), ON, LOGIN, event(), "LogBroken"),
        (fold(chain([ARMED])), ON, LOGIN, event(), ""),
        (fold(chain([ARMED, DISARMED])), ON, LOGIN, event(), ""),
        (fold(chain([accepted()])), ON, LOGIN, event(), ""),
        (State(), ON, LOGIN, event(authid=None), "NotEntitled"),
        (State(), ON, LOGIN, event(authtype=None), "NotEntitled"),
        (State(), ON, LOGIN, event(authtype="unauthenticated"), "NotEntitled"),
        (State(), ON, LOGIN, event(authtype="service_account"), "NotEntitled"),
        (State(), ON, facts.Login(), event(), "NotEntitled"),
        (State(), ON, facts.Login(roles=("sovereign-viewer",)), event(), "NotEntitled"),
    ],
)
def test_only_the_first_login_of_an_entitled_operator_arms(
    state: State, rule: Rule, login: facts.Login, said: Event, reason: str | None
) -> None:
    refusal = why_not_arm(state, rule, login, said)
    assert (refusal[0] if refusal else None) == reason


@given(delay=st.floats(0, 5000), grace=st.floats(1, 5000))
def test_the_grace_period_counts_from_the_login_unless_it_was_over_before_anyone_could_see_it(
    delay: float, grace: float
) -> None:
    stored = datetime(2026, 5, 4, tzinfo=UTC)
    now = stored + timedelta(seconds=delay)
    fact = armed(Rule(True, grace), 3, stored, now, "ann")
    assert fact.fires_at > now
    if delay < grace - 1e-3:
        assert fact.fires_at == stored + timedelta(seconds=grace)


def test_of_two_logins_the_first_one_counts_and_what_ended_it_is_not_undone() -> None:
    again = ARMED.model_copy(update={"login": 9, "operator": "eve"})
    state = fold(chain([ARMED, again, DISARMED, again, ARMED]))
    assert state.autofire is not None
    assert (state.autofire.operator, state.autofire.phase, state.autofire.by) == ("ann", "cancelled", "bob")
    assert pending(state) is None


def test_a_cancel_of_another_login_ends_nothing() -> None:
    state = fold(chain([ARMED, DISARMED.model_copy(update={"login": 4})]))
    assert pending(state) is not None


@pytest.mark.parametrize(("request_", "phase"), [(3, "fired"), (7, "superseded")])
def test_a_run_of_its_own_login_is_its_firing_and_any_other_takes_its_place(request_: int, phase: str) -> None:
    state = fold(chain([ARMED, accepted().model_copy(update={"request": request_})]))
    assert picture(state)["autoFire"] == phase
    assert pending(state) is None


def test_a_sovereign_without_auto_fire_shows_nothing_of_it() -> None:
    assert not any(key.startswith("autoFire") for key in picture(fold(chain([accepted()]))))


def test_an_armed_sovereign_shows_a_whole_picture_before_its_first_run() -> None:
    shown, running = picture(fold(chain([ARMED]))), picture(fold(chain([accepted()])))
    assert running.keys() <= shown.keys()
    assert (shown["autoFire"], shown["runPhase"], shown["cutoverComplete"]) == ("pending", "", "false")
    assert (shown["runId"], shown["cutoverLastAttemptStartedAt"]) == ("", "")
