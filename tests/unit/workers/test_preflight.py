"""Before a run begins the whole plan is made; what stops it, and what does not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from schemas import events as facts
from workers import preflight
from workers.errors import Stuck, Trouble, Wait
from workers.plan import Passing, Preview, passes
from workers.world import World

WORLD = cast(World, SimpleNamespace(cluster=None))


def planning(monkeypatch: pytest.MonkeyPatch, outcome: list[Preview] | Exception) -> list[int]:
    made: list[int] = []

    async def preview(_world: World) -> list[Preview]:
        made.append(1)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(preflight, "preview", preview)
    return made


async def answer(**said: Any) -> tuple[str, str] | None:
    return await preflight.gate(None, WORLD)(facts.Requested(**said))


def troubled(*trouble: str) -> list[Preview]:
    return [Preview("harbor-projects"), Preview("registry-pivot", trouble=list(trouble))]


async def test_a_bare_request_is_refused_for_what_a_person_must_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    planning(monkeypatch, troubled("NoNodes: the API lists no Node"))
    assert await answer() == ("PreflightFailed", "registry-pivot: NoNodes: the API lists no Node")
    assert await answer(preflight=True) is not None


async def test_what_may_pass_stops_only_who_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    planning(monkeypatch, troubled(Passing("HarborUnhealthy: redis is down")))
    assert await answer() is None
    assert await answer(preflight=True) == ("PreflightFailed", "registry-pivot: HarborUnhealthy: redis is down")


async def test_who_leaves_it_out_is_asked_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = planning(monkeypatch, troubled("NoNodes: the API lists no Node"))
    assert await answer(preflight=False) is None
    assert made == []


@pytest.mark.parametrize(
    ("error", "bare", "asked"),
    [
        (Wait("GiteaUnavailable", "no answer"), False, True),
        (Stuck("ApiForbidden", "list secrets: 403; grant it"), False, True),
        (Stuck("GitAuthFailed", "the login is refused"), True, True),
        (KeyError("a defect of ours"), False, True),
    ],
)
async def test_a_plan_that_cannot_be_made(
    error: Exception, bare: bool, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks here is another account than the steps': what it may not read, they may."""
    planning(monkeypatch, error)
    assert (await answer() is not None) is bare
    assert (await answer(preflight=True) is not None) is asked


def test_what_the_steps_would_wait_for_may_pass() -> None:
    kinds: list[tuple[Trouble, bool]] = [
        (Wait("A", ""), True), (Stuck("ApiForbidden", ""), True), (Stuck("HostNotMapped", ""), False),
    ]  # fmt: skip
    assert all(passes(error) is so for error, so in kinds)


def test_an_older_request_that_says_nothing_of_it_means_the_default() -> None:
    assert facts.Requested.model_validate({}).preflight is None
