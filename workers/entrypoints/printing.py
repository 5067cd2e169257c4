"""What people see: the eight steps as a table, and one line for each event. Pure: state in, text out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from events.envelope import Event, Undecodable, data_of
from events.flow import BY_SLUG, LAST, STEPS
from events.fold import Run, State, StepState
from events.picture import percent
from schemas import events as facts
from schemas.progress import Progress
from schemas.results import EgressProven

MARKS = {"": "·", "running": "▶", "waiting": "…", "success": "✓", "failed": "✗"}
STYLES = {"": "dim", "running": "bold cyan", "waiting": "yellow", "success": "green", "failed": "bold red"}
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size(count: float) -> str:
    """`1536` -> `1.5 KiB`."""
    for unit in _UNITS:
        if count < 1024 or unit == _UNITS[-1]:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")


def span(seconds: float) -> str:
    """`75.2` -> `1m15s`; below ten seconds one decimal."""
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m{rest:02d}s"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def measure(progress: Progress) -> str:
    """Percent, items, bytes, rate and countdown, as far as the step counts them."""
    parts = []
    if progress.percent is not None:
        parts.append(f"{progress.percent}%")
    if progress.items_done is not None and progress.items_total is not None:
        parts.append(f"{progress.items_done}/{progress.items_total}")
    if progress.bytes_done is not None:
        whole = f" of {size(progress.bytes_total)}" if progress.bytes_total is not None else ""
        parts.append(f"{size(progress.bytes_done)}{whole}")
    if progress.bytes_per_second is not None:
        parts.append(f"{size(progress.bytes_per_second)}/s")
    if progress.hold_seconds_remaining is not None:
        parts.append(f"hold: {span(progress.hold_seconds_remaining)} left")
    return ", ".join(parts)


def detail(step: StepState) -> str:
    """What there is to say about a step in one line."""
    if step.result == "success" and step.outcome is not None:
        return step.outcome.summary
    if step.result == "failed":
        return f"{step.reason}: {step.message}"
    if step.result == "waiting":
        return f"will try again (try {step.tries}): {step.reason}: {step.message}"
    if step.result == "running" and step.progress is not None:
        counted = measure(step.progress)
        return f"{step.progress.message} ({counted})" if counted else step.progress.message
    return ""


def elapsed(step: StepState, now: datetime) -> str:
    """How long the step took, or has been at it."""
    if step.started_at is None:
        return ""
    end = step.finished_at or (now if step.result in ("running", "waiting") else None)
    return span((end - step.started_at).total_seconds()) if end else ""


def table(state: State, now: datetime, *, note: str = "") -> RenderableType:
    """The whole picture: header, overall bar, eight rows, and what a person should know."""
    run = state.run
    if run is None:
        return Text(note or "No run yet: waiting for catalyst.cutover.requested", style="dim")
    rows = Table(box=None, pad_edge=False, show_header=False, expand=True)
    rows.add_column(width=1)
    rows.add_column(width=1)
    rows.add_column(no_wrap=True)
    rows.add_column(ratio=1, overflow="fold")
    rows.add_column(justify="right", no_wrap=True)
    for step in STEPS:
        at = run.step(step.slug)
        style = STYLES[at.result]
        rows.add_row(
            Text(MARKS[at.result], style),
            Text(str(step.number), style),
            Text(step.slug, style),
            Text(detail(at) or (step.title if at.result in ("", "running") else ""), "" if at.result else "dim"),
            Text(elapsed(at, now), "dim"),
        )
    bar = Table.grid(expand=True, padding=(0, 1))
    bar.add_column(ratio=1)
    bar.add_column(justify="right", width=4)
    bar.add_row(ProgressBar(total=100, completed=percent(run)), f"{percent(run)}%")
    return Group(_header(run, now), bar, rows, *[Text(text, style) for text, style in remarks(state, note)])


def _header(run: Run, now: datetime) -> Text:
    since = span(((run.finished_at or now) - run.started_at).total_seconds())
    return Text.assemble(("Cutover ", "bold"), (run.id, "dim"), f"  {run.phase}, asked by {run.operator}, {since}")


def remarks(state: State, note: str = "") -> list[tuple[str, str]]:
    """What stands below the table: countdown, trouble, doubts; each with a style."""
    run = state.run
    lines: list[tuple[str, str]] = []
    if run is not None and run.phase == "running":
        progress = run.step(run.current).progress
        if progress is not None and progress.hold_seconds_remaining is not None:
            lines.append((f"Egress is blocked; hold: {span(progress.hold_seconds_remaining)} left", "bold magenta"))
    if run is not None and run.failed_step:
        lines.append((f"Failed at {run.failed_step}: {run.reason}: {run.message}", "bold red"))
    if state.broken:
        lines.append((f"INTEGRITY BROKEN: {state.broken}", "bold red reverse"))
    if state.foreign:
        lines.append((f"{state.foreign} message(s) on the journal are not ours and were ignored", "yellow"))
    if note:
        lines.append((note, "yellow"))
    return lines


def _kind(run: Run) -> str:
    """What makes it a rehearsal: the shortened hold, or else where it was held."""
    proof = run.step(LAST.slug).outcome
    if isinstance(proof, EgressProven) and proof.held_seconds >= proof.required_seconds:
        return " (a rehearsal: held in full, on a Sovereign in a box, so this is not the proof)"
    return " (a rehearsal: the hold was shortened, so this is not the proof)"


def verdict(state: State) -> str:
    """How the newest run ended, or where it stands, in one sentence."""
    run = state.run
    if run is None:
        return "No cutover has been requested on this Sovereign."
    if run.phase == "succeeded":
        return f"cutoverComplete={str(state.complete).lower()}{_kind(run) if state.rehearsal else ''}"
    if run.phase == "failed":
        return (
            f"cutoverComplete={str(state.complete).lower()}: failed at {run.failed_step}: {run.reason}: {run.message}"
        )
    if run.phase == "cancelled":
        why = f": {run.message}" if run.message else ""
        return f"cutoverComplete={str(state.complete).lower()}: cancelled{why}"
    return f"cutoverComplete={str(state.complete).lower()}: running {run.current or 'soon'} ({percent(run)}%)"


def line(event: Event, seq: int | None = None, *, full: bool = False) -> str:
    """One event as one line: time, place, what happened."""
    at = event.time.astimezone(UTC).strftime("%H:%M:%S") if event.time else "--:--:--"
    step = BY_SLUG.get(event.subject or "")
    place = f"{step.number}/{len(STEPS)} {step.slug}" if step else (event.subject or "")
    where = f"{seq:>6} " if seq is not None else ""
    who = f" [run {event.run}]" if full and event.run else ""
    return f"{where}{at} {place:<28} {said(event)}{who}".rstrip()


def said(event: Event) -> str:
    """What the event says, for people."""
    try:
        data = data_of(event)
    except Undecodable as error:
        return f"{event.type}: {error}"
    match data:
        case facts.Accepted():
            return f"accepted, asked by {data.operator}" + (f": {data.reason}" if data.reason else "")
        case facts.StepStarted():
            return f"started by {data.worker}" + (f" (attempt {event.attempt})" if (event.attempt or 1) > 1 else "")
        case facts.StepProgress():
            counted = measure(data.progress)
            return f"{data.progress.message} ({counted})" if counted else data.progress.message
        case facts.StepWaiting():
            return f"waiting {span(data.after_seconds)} (try {data.tries}): {data.reason}: {data.message}"
        case facts.StepSucceeded():
            return f"succeeded: {data.result.get('summary', '')}"
        case facts.StepFailed() | facts.Failed():
            return f"FAILED: {data.reason}: {data.message}"
        case facts.Cancelled():
            return f"cancelled by {data.operator}" + (f": {data.reason}" if data.reason else "")
        case facts.Completed():
            rehearsal = ", a rehearsal and not the proof" if data.rehearsal else ""
            return f"completed, evidence sha256:{data.evidence_digest}{rehearsal}"
        case facts.Rejected():
            return f"rejected {data.subject} #{data.sequence}: {data.reason}: {data.message}"
        case facts.Requested():
            return f"requested by {event.authid or data.operator or event.source}"
        case facts.CancelRequested():
            return f"cancel requested by {event.authid or data.operator or event.source}"
        case facts.Login():
            return f"login of {event.authid or data.operator or event.source}"
        case facts.AutoFireArmed():
            return f"auto-fire armed by the login of {data.operator}; it fires at {data.fires_at:%H:%M:%S}"
        case facts.AutoFireDisarmed():
            return f"auto-fire cancelled by {data.operator}" + (f": {data.reason}" if data.reason else "")
        case facts.Trigger():
            return "trigger" + (f" for run {data.run}" if data.run else "")
        case facts.Audited():
            return "audited: clean" if data.clean else f"audited: {len(data.findings)} finding(s)"
        case _:
            return event.kind or event.type


def worth_a_line(event: Event, last: Progress | None) -> bool:
    """False for a renewal that says nothing new: a log on a screen is read by people."""
    if event.kind != "step.progress":
        return True
    data = data_of(event)
    if not isinstance(data, facts.StepProgress) or last is None:
        return True
    new = data.progress
    if new.message != last.message:
        return True
    if new.hold_seconds_remaining is not None and last.hold_seconds_remaining is not None:
        return last.hold_seconds_remaining - new.hold_seconds_remaining >= 5
    return (new.percent or 0) - (last.percent or 0) >= 10


def selected(event: Event, *, run: str | None, step: str | None, kinds: Sequence[str]) -> bool:
    """True when the event passes the filters of `cutover log`; an absent filter lets everything pass."""
    if run is not None and event.run != run:
        return False
    if step is not None and event.subject != step:
        return False
    return not kinds or event.kind in kinds
