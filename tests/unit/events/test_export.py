"""An exported log is byte for byte the log."""

from __future__ import annotations

import pytest
from histories import chain, whole_run
from hypothesis import given
from hypothesis import strategies as st

from events.export import Rewritten, entries, line
from events.fold import fold
from events.log import Entry


def test_a_log_comes_back_as_it_was() -> None:
    log = chain(whole_run(), gap=3)
    assert list(entries(line(entry) + b"\n" for entry in log)) == log
    assert fold(entries(map(line, log))).integrity == "ok"


@given(st.binary(max_size=80) | st.sampled_from([b'{"a": 1}', b'{"a":\n1}', b" {} ", b"1}", b'"x"']))
def test_any_message_comes_back_as_it_was(raw: bytes) -> None:
    entry = Entry(7, "catalyst.cutover.x", raw)
    assert list(entries([line(entry)])) == [entry]


def test_a_changed_export_shows_as_a_break() -> None:
    lines = [line(entry) for entry in chain(whole_run())]
    lines[4] = lines[4].replace(b'"operator"', b'"oparator"').replace(b'"changes"', b'"changed"')
    assert fold(entries(lines)).integrity == "broken"


def test_a_line_that_is_no_entry_is_named() -> None:
    with pytest.raises(Rewritten, match="line 2"):
        list(entries([line(Entry(1, "s", b"{}")), b"{oops"]))
