"""Two processes never share a Git directory, and the one that comes after finds its predecessor's cache."""

from __future__ import annotations

from pathlib import Path

from workers.entrypoints.wiring import desk


def test_each_process_has_a_desk_of_its_own_and_leaves_it_as_it_was(tmp_path: Path) -> None:
    with desk(tmp_path) as first, desk(tmp_path) as second:
        assert first != second
    with desk(tmp_path) as again:
        assert again == first
