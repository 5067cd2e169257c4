"""Who may arm auto-fire, and when it fires. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from events.envelope import Draft, Event
from events.fold import AutoFire, State
from schemas import events as facts
from workers.scribe import Scribe

PEOPLE = frozenset({"user", "app_user"})
"""CloudEvents auth context: who of those that `authtype` knows is somebody that logs in."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What the settings say of auto-fire."""

    enabled: bool = False
    grace: float = 900.0
    """Seconds from the login to the cutover."""
    role: str = "sovereign-admin"
    """Realm role that makes a login an operator's."""


def why_not_arm(state: State, rule: Rule, login: facts.Login, event: Event) -> tuple[str, str] | None:
    """Why a login starts no grace period: (reason, message); an empty reason when nobody need know.

    Only the first one does, on a Sovereign where nobody has asked for a cutover. Whoever may start a cutover by hand
    may start one by logging in, and nobody else.
    """
    if not rule.enabled:
        return "", "auto-fire is off"
    if state.broken:
        return "LogBroken", f"the log's chain does not hold: {state.broken}; run `cutover verify`"
    if state.autofire is not None:
        return "", f"auto-fire is {state.autofire.phase} already"
    if state.run is not None:
        return "", "a cutover was asked for before"
    if not event.authid or event.authtype not in PEOPLE:
        return "NotEntitled", "the login names no person (authtype, authid): it arms nothing"
    if rule.role not in login.roles:
        return "NotEntitled", f"{event.authid} has logged in without role {rule.role}: that arms nothing"
    return None


def armed(rule: Rule, login: int, stored_at: datetime, now: datetime, who: str) -> facts.AutoFireArmed:
    """The grace period of the login at stream sequence `login`, counted from when the broker stored it.

    A login that nobody served until its grace was over gets a whole one from now on: a countdown that nobody could
    see could not be cancelled either.
    """
    grace = timedelta(seconds=rule.grace)
    fires_at = stored_at + grace
    return facts.AutoFireArmed(
        login=login, operator=who, login_at=stored_at, grace_seconds=rule.grace,
        fires_at=fires_at if now < fires_at else now + grace,
    )  # fmt: skip


def pending(state: State) -> AutoFire | None:
    """The grace period that is under way; None when there is none, or it has been ended in any way."""
    fuse = state.autofire
    return fuse if fuse is not None and fuse.phase == "pending" and state.run is None else None


def arming(scribe: Scribe, fact: facts.AutoFireArmed, event: Event) -> Draft:
    """The journal's event of it. Of many who write it, the log keeps one."""
    return scribe.aside(f"autofire.{fact.login}.armed", fact, event)


def disarming(
    scribe: Scribe, fuse: AutoFire, who: str, reason: str | None, request: int | None, event: Event | None
) -> Draft:
    """The journal's event that ends it for ever."""
    fact = facts.AutoFireDisarmed(login=fuse.login, operator=who, reason=reason, request=request)
    return scribe.aside(f"autofire.{fuse.login}.disarmed.{request or 'off'}", fact, event)
