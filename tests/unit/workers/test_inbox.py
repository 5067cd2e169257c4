"""The newest word of each node: its own, and never an older one in place of one that cannot be read."""

from __future__ import annotations

from datetime import UTC, datetime

from events import subjects
from events.envelope import Draft
from events.log import Entry
from schemas.nodes import NodeReport
from workers.inbox import note

AT = datetime(2026, 11, 23, tzinfo=UTC)


def said(node: str, seq: int, *, on: str | None = None, digest: str = "sha256:1") -> Entry:
    data = NodeReport(node=node, digest=digest, result="v2", at=AT)
    draft = Draft(id=f"{node}.{seq}", source=f"//sov.test/node/{node}", data=data, subject=node, time=AT)
    return Entry(seq, subjects.node(on or node), draft.encode())


def test_the_newest_report_of_a_node_counts_and_nobody_reports_for_another() -> None:
    reports: dict[str, NodeReport] = {}
    assert note(reports, said("a.b", 1))
    assert note(reports, said("a.b", 2, digest="sha256:2"))
    assert not note(reports, said("a.b", 3, on="evil", digest="sha256:3"))
    assert [(n, r.digest) for n, r in reports.items()] == [("a.b", "sha256:2")]


def test_a_newest_report_that_cannot_be_read_is_not_replaced_by_an_older_one() -> None:
    reports: dict[str, NodeReport] = {}
    note(reports, said("n1", 1))
    note(reports, said("n2", 2))
    later = said("n1", 3)
    assert note(reports, Entry(3, later.subject, later.raw.replace(b'"v2"', b'"v9"')))
    assert (reports["n1"].result, reports["n2"].result) == ("failed", "v2")
    assert "entry 3 of the log, cannot be read" in reports["n1"].message
    assert note(reports, said("n1", 4))
    assert reports["n1"].result == "v2"


def test_noise_of_a_node_that_never_reported_is_no_report() -> None:
    reports: dict[str, NodeReport] = {}
    assert not note(reports, Entry(1, subjects.node("n1"), b"noise"))
    assert reports == {}
