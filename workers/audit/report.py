"""An audit for people: a verdict, a count for each tether, and every place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from workers.audit.finding import TETHERS, Audit, Finding, Severity


def verdict(audit: Audit) -> str:
    """One line that no one can misread."""
    if audit.unreadable:
        return f"not known: {len(audit.unreadable)} things could not be read, {_count(audit)}"
    if audit.clean:
        return "clean: no string ties this Sovereign to anybody outside"
    return f"tethered: {_count(audit)}"


def _count(audit: Audit) -> str:
    tied = [f for f in audit.counting if f.severity is not Severity.UNREADABLE]
    numbers = sorted({f.tether for f in tied if f.tether})
    which = f", tethers {', '.join(map(str, numbers))}" if numbers else ""
    return f"{len(tied)} strings still lead outside{which}"


def document(audit: Audit) -> dict[str, Any]:
    """For scripts."""
    return {
        "at": audit.at.isoformat(),
        "clean": audit.clean,
        "verdict": verdict(audit),
        "tethers": {str(t.number): len(audit.left(t.number)) for t in TETHERS},
        "findings": [f.model_dump(mode="json") for f in audit.findings],
    }


def markdown(audit: Audit, sovereign: str) -> str:
    """A report to keep and to hand on."""
    lines = [
        f"# Tether audit of {sovereign}",
        "",
        f"{audit.at:%Y-%m-%d %H:%M:%S} UTC. **{verdict(audit)[0].upper()}{verdict(audit)[1:]}.**",
        "",
        "| # | tether | puller | found | cut by |",
        "|---|---|---|---|---|",
    ]
    for tether in TETHERS:
        found = [f for f in audit.findings if f.tether == tether.number]
        row = (str(tether.number), tether.title, tether.puller, _found(found), tether.cut_by)
        lines.append(_row(row))
    others = [f for f in audit.findings if not f.tether]
    lines += [_row(("", "other external host", "", _found(others), "whoever owns it")), ""]
    return "\n".join([*lines, *_sections(audit)]) + "\n"


def _found(findings: list[Finding]) -> str:
    counts = {severity: sum(f.severity is severity for f in findings) for severity in Severity}
    return ", ".join(f"{count} {severity}" for severity, count in counts.items() if count) or "none"


def _sections(audit: Audit) -> Iterator[str]:
    for severity in (Severity.UNREADABLE, Severity.TETHER, Severity.EXTERNAL, Severity.NOTICE):
        found = [f for f in audit.findings if f.severity is severity]
        if found:
            yield f"## {str(severity).capitalize()} ({len(found)})"
            yield ""
            yield "| # | place | field | names | puller | owner | cut by |"
            yield "|---|---|---|---|---|---|---|"
            yield from (_row(cells(f)) for f in found)
            yield ""


def cells(found: Finding) -> tuple[str, ...]:
    """One finding as the columns of a table."""
    number = str(found.tether or "-")
    return number, found.place, found.field, found.host, found.puller, found.owner, found.cut_by


def _row(columns: Iterable[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in columns) + " |"
