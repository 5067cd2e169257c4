"""An export keeps every byte, and its check finds what was changed, dropped, moved or added."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from events import export
from events.envelope import Draft
from events.export import Rewritten
from events.flow import FIRST, SLUGS
from events.journal import Journal
from events.log import Emit, Entry
from events.memory import MemoryLog
from events.subjects import JOURNAL, REQUESTED, trigger
from schemas import events as facts

AT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def draft(id: str, data: Any, **more: Any) -> Draft:
    return Draft(id=id, source="//s/cutover", data=data, subject="cutover", time=AT, run="run-1", **more)


async def history() -> list[Entry]:
    """A request, its run, a trigger and a failure, as the log would keep them."""
    log = MemoryLog()
    await log.publish(Emit(REQUESTED, draft("r", facts.Requested())))
    journal = Journal(log)
    accepted = facts.Accepted(operator="ada", request=1, steps=SLUGS)
    await journal.append(draft("a", accepted), Emit(trigger(FIRST), draft("t", facts.Trigger(run="run-1"))))
    failed = facts.Failed(step="gitea-mirror", reason="GiteaDown", message="no answer")
    await journal.append(draft("f", failed))
    return log.stream


async def test_an_export_gives_back_every_byte() -> None:
    entries = await history()
    lines = [export.line(entry) for entry in entries]
    assert list(export.entries(line + b"\n" for line in lines)) == entries
    assert all(orjson.loads(line)["seq"] for line in lines)


@given(
    raw=st.binary(max_size=200),
    seq=st.integers(min_value=1, max_value=2**64 - 1),
    subject=st.text(min_size=1, max_size=30),
)
def test_garbage_survives_an_export_too(raw: bytes, seq: int, subject: str) -> None:
    entry = Entry(seq, subject, raw)
    line = export.line(entry)
    assert b"\n" not in line
    assert export.entry(line) == entry


@given(value=st.dictionaries(st.text(), st.integers(-(2**63), 2**63 - 1) | st.text() | st.floats(allow_nan=False)))
def test_json_stands_in_the_line_as_it_was_stored(value: dict[str, Any]) -> None:
    raw = orjson.dumps(value)
    assert export.line(Entry(1, "s", raw)) == b'{"seq":1,"subject":"s","event":' + raw + b"}"


async def test_a_whole_history_has_no_fault_and_its_head_is_the_last_events_hash() -> None:
    entries = await history()
    finding = export.check(entries)
    assert finding.faults == ()
    assert (finding.messages, finding.events) == (4, 2)
    assert finding.head == hashlib.sha256(entries[-1].raw).hexdigest()


async def test_a_changed_event_breaks_the_chain() -> None:
    entries = await history()
    changed = [replace(entry, raw=entry.raw.replace(b"ada", b"eve")) for entry in entries]
    assert export.check(changed).faults


async def test_a_dropped_event_is_missed() -> None:
    entries = await history()
    assert export.check([*entries[:1], *entries[2:]]).faults


async def test_a_message_that_was_dropped_beside_the_journal_is_missed_too() -> None:
    entries = await history()
    assert "message 1 is missing" in export.check(entries[1:]).faults


async def test_two_events_that_changed_places_are_found() -> None:
    entries = await history()
    assert export.check([entries[0], entries[3], entries[2], entries[1]]).faults


async def test_a_stranger_on_the_journal_is_counted_and_harms_nothing() -> None:
    entries = await history()
    finding = export.check([*entries, Entry(5, JOURNAL, b"garbage")])
    assert (finding.faults, finding.foreign) == ((), 1)


async def test_evidence_of_another_run_is_found() -> None:
    log = MemoryLog()
    journal = Journal(log)
    await journal.append(draft("a", facts.Accepted(operator="ada", request=1, steps=SLUGS)))
    await journal.append(draft("c", facts.Completed(evidence_digest="0" * 64, rehearsal=False)))
    assert any("carries evidence" in fault for fault in export.check(log.stream).faults)


async def test_an_export_that_another_program_wrote_again_is_refused() -> None:
    line = export.line((await history())[0])
    with pytest.raises(Rewritten, match="line 7"):
        export.entry(orjson.dumps(orjson.loads(line), option=orjson.OPT_INDENT_2).replace(b"\n", b""), 7)


@pytest.mark.parametrize("text", [b"", b"{}", b"[1]", b'{"seq":"x","subject":"s","event":{}}', b"nonsense"])
def test_a_line_that_is_none_is_refused(text: bytes) -> None:
    with pytest.raises(Rewritten):
        export.entry(text)
