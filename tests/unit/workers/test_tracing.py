"""Traces are computed from the log: one for a run, one span for each attempt, the same ids whoever computes them."""

from __future__ import annotations

from collections.abc import Iterable

from histories import START, accepted, chain, started, succeeded, whole_run
from pydantic import BaseModel

from events.envelope import data_of, read
from events.flow import SLUGS
from schemas import events as facts
from workers.tracing import Span, Traces, context


def told(history: Iterable[BaseModel]) -> list[Span]:
    traces, spans = Traces(), []
    for entry in chain(history):
        event = read(entry.raw)
        spans += traces.hear(event, data_of(event))
    return spans


def test_a_whole_run_is_one_trace_with_a_span_for_each_step_below_that_of_the_run() -> None:
    *steps, run = told(whole_run())
    assert [span.name for span in steps] == list(SLUGS)
    assert run.name == "cutover"
    assert {span.trace for span in steps} == {run.trace}
    assert {span.parent for span in steps} == {run.id}
    assert len({span.id for span in (*steps, run)}) == 9
    assert run.begin == START.replace(second=1)
    assert all(span.begin < span.end for span in steps)


def test_whoever_computes_them_gets_the_same_spans() -> None:
    assert told(whole_run()) == told(whole_run())


def test_a_failed_step_says_why_and_so_does_its_run() -> None:
    slug = SLUGS[0]
    failed = facts.StepFailed(step=slug, worker="w", token=2, reason="GiteaDenied", message="401")
    ended = facts.Failed(step=slug, reason="GiteaDenied", message="401")
    step, run = told([accepted(), started(slug), failed, ended])
    assert step.trouble == run.trouble == "GiteaDenied: 401"


def test_an_attempt_that_waits_ends_and_the_next_one_is_a_span_of_its_own() -> None:
    slug = SLUGS[0]
    waits = facts.StepWaiting(
        step=slug, worker="w", token=2, reason="GiteaUnavailable", message="503", after_seconds=1, tries=1
    )
    first, second = told([accepted(), started(slug), waits, started(slug), succeeded(slug, 4)])
    assert (first.trouble, second.trouble) == ("GiteaUnavailable", "")
    assert first.id != second.id
    assert first.moments[0].attributes["message"] == "503"


def test_a_worker_that_died_leaves_a_span_that_says_so() -> None:
    slug = SLUGS[0]
    first, second = told([accepted(), started(slug, worker="a"), started(slug, worker="b"), succeeded(slug, 3)])
    assert first.trouble == "another worker took over"
    assert second.attributes["cutover.worker"] == "b"


def test_the_callers_trace_goes_on_and_a_broken_one_is_replaced() -> None:
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    assert context(f"00-{trace}-{parent}-01", "r1") == (int(trace, 16), int(parent, 16))
    for broken in (None, "", "00-xyz-1-01", f"00-{'0' * 32}-{parent}-01"):
        made, none = context(broken, "r1")
        assert made > 0
        assert none is None


def test_renewals_that_say_the_same_are_told_once() -> None:
    slug = SLUGS[0]
    again = [
        facts.StepProgress(step=slug, worker="w", token=2, progress={"message": "copying"})  # type: ignore[arg-type]
        for _ in range(3)
    ]
    (span,) = told([accepted(), started(slug), *again, succeeded(slug, 2)])
    assert [moment.name for moment in span.moments] == ["copying"]
