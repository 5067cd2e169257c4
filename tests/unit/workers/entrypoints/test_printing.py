"""What people see says what happened, in few words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from events.envelope import read
from events.flow import STEPS
from events.fold import Run, State, StepState
from events.types import type_of
from schemas.progress import Progress
from schemas.results import ProjectsReady
from workers.entrypoints import printing

AT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def event(kind: str, data: dict[str, Any], subject: str = "harbor-prewarm", **more: Any) -> Any:
    import orjson

    document = {"specversion": "1.0", "id": "1", "source": "s", "type": type_of(kind), "subject": subject,
                "time": AT.isoformat(), "data": data, **more}  # fmt: skip
    return read(orjson.dumps(document))


def text(state: State) -> str:
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(printing.table(state, AT + timedelta(seconds=90)))
        return console.export_text()


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 * 1024**2, "5.0 MiB"), (2**50, "1024.0 TiB")],
)
def test_sizes_are_said_in_binary_units(count: int, said: str) -> None:
    assert printing.size(count) == said


@pytest.mark.parametrize(("seconds", "said"), [(0.04, "0.0s"), (9.96, "10.0s"), (75.2, "1m15s"), (3725, "1h02m05s")])
def test_spans_are_said_in_the_units_that_matter(seconds: float, said: str) -> None:
    assert printing.span(seconds) == said


def test_progress_says_percent_items_bytes_rate_and_countdown() -> None:
    progress = Progress(message="m", percent=40, items_done=4, items_total=10, bytes_done=1024, bytes_total=2048,
                        bytes_per_second=512, hold_seconds_remaining=75)  # fmt: skip
    assert printing.measure(progress) == "40%, 4/10, 1.0 KiB of 2.0 KiB, 512 B/s, hold: 1m15s left"


def test_the_table_has_every_step_and_what_it_found() -> None:
    done = StepState(result="success", started_at=AT, finished_at=AT + timedelta(seconds=3),
                     outcome=ProjectsReady(changes=0, summary="nothing to do", projects=(), created=()))  # fmt: skip
    now = StepState(result="running", started_at=AT, progress=Progress(message="copying", percent=50))
    run = Run(
        "run-1", "ada", AT, 1, 1, steps={"harbor-projects": done, "harbor-prewarm": now}, current="harbor-prewarm"
    )
    shown = text(State(run=run))
    assert all(step.slug in shown for step in STEPS)
    assert "nothing to do" in shown
    assert "copying (50%)" in shown
    assert "1m30s" in shown


def test_a_failure_and_a_broken_chain_cannot_be_overlooked() -> None:
    run = Run("run-1", "ada", AT, 1, 1, phase="failed", failed_step="harbor-prewarm", reason="Denied", message="401")
    shown = text(State(run=run, broken="event 7 is missing"))
    assert "Failed at harbor-prewarm: Denied: 401" in shown
    assert "INTEGRITY BROKEN: event 7 is missing" in shown


def test_the_hold_counts_down_where_everyone_looks() -> None:
    progress = Progress(message="held", hold_seconds_remaining=7)
    run = Run("run-1", "ada", AT, 1, 1, current="egress-block-test",
              steps={"egress-block-test": StepState(result="running", started_at=AT, progress=progress)})  # fmt: skip
    assert "Egress is blocked; hold: 7.0s left" in text(State(run=run))


def test_a_rehearsal_is_never_called_the_proof() -> None:
    run = Run("run-1", "ada", AT, 1, 1, phase="succeeded")
    assert "not the proof" in printing.verdict(State(run=run, complete=True, rehearsal=True))
    assert printing.verdict(State(run=run, complete=True)) == "cutoverComplete=true"


def test_an_event_is_one_line_with_its_place_in_the_run() -> None:
    said = printing.line(event("step.failed", {"step": "harbor-prewarm", "worker": "w", "token": 1,
                                               "reason": "Denied", "message": "401"}), 12)  # fmt: skip
    assert said == "    12 12:00:00 3/8 harbor-prewarm           FAILED: Denied: 401"


def test_an_event_of_a_later_version_is_shown_and_not_understood() -> None:
    later = event("accepted", {}).model_copy(update={"type": "io.openova.catalyst.cutover.accepted.v9"})
    assert "not one of ours" in printing.line(later)


def test_a_renewal_without_news_is_not_worth_a_line() -> None:
    data = {"step": "s", "worker": "w", "token": 1, "progress": {"message": "copying", "percent": 41}}
    same = event("step.progress", data)
    assert printing.worth_a_line(same, None)
    assert not printing.worth_a_line(same, Progress(message="copying", percent=40))
    assert printing.worth_a_line(same, Progress(message="copying", percent=20))
    assert printing.worth_a_line(same, Progress(message="listing", percent=40))


def test_filters_select_by_run_step_and_kind() -> None:
    one = event("step.failed", {}, run="run-1")
    assert printing.selected(one, run=None, step=None, kinds=())
    assert printing.selected(one, run="run-1", step="harbor-prewarm", kinds=("step.failed",))
    assert not printing.selected(one, run="run-2", step=None, kinds=())
    assert not printing.selected(one, run=None, step="gitea-mirror", kinds=())
    assert not printing.selected(one, run=None, step=None, kinds=("accepted",))
