"""The status ConfigMap: a picture of the fold. Every value is a string, every byte follows from the journal."""

from __future__ import annotations

from datetime import UTC, datetime

from events.flow import BY_SLUG, SLUGS, STEPS
from events.fold import NEVER, AutoFire, Run, State, StepState
from schemas.results import EgressProven, GitMirrored, NodesPivoted, ProjectsReady

LONGEST = 8192
"""Characters of one value. Ours are shorter; a stranger's or an older version's event may hold more."""
_NO_RUN = Run(id="", operator="", started_at=NEVER, accepted=0, request=0)
_SHOWN = {"": "", "running": "running", "waiting": "running", "success": "success", "failed": "failed"}


def picture(state: State) -> dict[str, str]:
    """The ConfigMap's `data`, whole, keys in a fixed order. Empty before the first event."""
    if state.run is None and state.autofire is None:
        return {}
    run = state.run or _NO_RUN
    rows = {
        "cutoverComplete": _flag(state.complete),
        "cutoverStartedAt": _time(state.first_started_at),
        "cutoverLastAttemptStartedAt": _time(run.started_at if state.run else None),
        "cutoverFinishedAt": _time(state.completed_at) if state.complete else _time(run.finished_at),
        "currentStep": run.current,
        "currentStepIndex": str(_index(run)),
        "totalSteps": str(len(STEPS)),
        "progressPercent": str(percent(run)),
        "failedStep": run.failed_step,
        "lastError": f"{run.reason}: {run.message}" if run.reason else "",
        "runId": run.id,
        "runPhase": run.phase if state.run else "",
        "operator": run.operator,
        "rehearsal": _flag(state.rehearsal) if state.complete else "",
        "evidenceDigest": state.evidence_digest,
        "holdSecondsRemaining": _hold(run),
        "tethersFound": "" if state.tethers is None else str(state.tethers),
        "streamSequence": str(state.seq),
        "integrity": state.integrity,
        "integrityError": state.broken,
        "foreignMessages": str(state.foreign),
    }
    if state.autofire is not None:
        rows |= _autofire_rows(state.autofire)
    for step in STEPS:
        rows |= _step_rows(step.slug, run.step(step.slug))
    rows |= _known_elsewhere(run)
    for node, version in sorted(state.nodes.items()):
        rows[f"node.{node}.registriesYaml"] = version
    return {key: _fitting(value) for key, value in rows.items()}


def _known_elsewhere(run: Run) -> dict[str, str]:
    """Keys that earlier readers of the ConfigMap show when they are there (field lessons A1, A4)."""
    rows = {}
    for slug in SLUGS:
        match run.step(slug).outcome:
            case GitMirrored(local_sha=sha):
                rows["mirroredCommitSHA"] = sha
            case ProjectsReady(projects=projects):
                rows["harborProjectCount"] = str(len(projects))
            case NodesPivoted():
                rows["registriesYamlActive"] = "v2"
            case EgressProven():
                rows["egressTestPassed"] = "true"
    return rows


def _autofire_rows(armed: AutoFire) -> dict[str, str]:
    """Only where auto-fire was armed; `autoFire` is pending, fired, cancelled or superseded."""
    return {
        "autoFire": armed.phase,
        "autoFireAt": _time(armed.fires_at),
        "autoFireOperator": armed.operator,
        "autoFireCancelledBy": armed.by,
    }


def percent(run: Run) -> int:
    """Whole-run progress: finished steps, and the share of the current one. 100 only when all succeeded."""
    done = sum(1 for step in STEPS if run.succeeded(step))
    if done == len(STEPS):
        return 100
    current = run.step(run.current)
    share = (current.progress.percent or 0) if current.progress and current.result == "running" else 0
    return min(99, (100 * done + share) // len(STEPS))


def _index(run: Run) -> int:
    """Place of the current step; all of them once the run succeeded."""
    if run.phase == "succeeded":
        return len(STEPS)
    step = BY_SLUG.get(run.current)
    return step.number if step else 0


def _hold(run: Run) -> str:
    progress = run.step(run.current).progress
    if progress is None or progress.hold_seconds_remaining is None or run.phase != "running":
        return ""
    return str(int(min(max(progress.hold_seconds_remaining, 0), 1e9)))


def _step_rows(slug: str, step: StepState) -> dict[str, str]:
    rows = {
        f"step.{slug}.startedAt": _time(step.started_at),
        f"step.{slug}.finishedAt": _time(step.finished_at),
        f"step.{slug}.result": _SHOWN[step.result],
    }
    if step.outcome is not None:
        rows[f"step.{slug}.summary"] = step.outcome.summary
    return rows


def _fitting(value: str) -> str:
    """A ConfigMap holds 1 MiB: one text, whoever wrote it, must not keep all the others from being shown."""
    return value if len(value) <= LONGEST else f"{value[:LONGEST]}…"


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _time(at: datetime | None) -> str:
    """RFC 3339 in UTC; empty for none, and for what stands at the edge of the calendar."""
    try:
        return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z") if at else ""
    except OverflowError:
        return ""
