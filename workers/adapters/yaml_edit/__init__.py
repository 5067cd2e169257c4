"""Edits of YAML that change one scalar and leave every other byte as its author wrote it.

A dump would lose comments, quotes and order, and a person reads the commits that steps 5 to 7 make. So
the text is parsed for positions only and spliced; then it is parsed again and must mean what was asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from workers.adapters.yaml_edit.meaning import CannotEdit, Edit, Path, documents, drop, load, proven, put, words
from workers.adapters.yaml_edit.place import find
from workers.adapters.yaml_edit.splice import with_scalar, without

__all__ = ["CannotEdit", "Edit", "Path", "documents", "remove", "set_scalars"]


def set_scalars(text: str, edits: Sequence[Edit]) -> str:
    """The text with each edit made. A scalar that already has its value stays untouched, quotes and all.

    Raises CannotEdit where the path leads through an alias, past a scalar, or beyond a list's end.
    """
    by_document: dict[int, list[Edit]] = {}
    for edit in edits:
        by_document.setdefault(edit.document, []).append(edit)
    return _each_alone(text, {number: _setting(own) for number, own in by_document.items()})


def remove(text: str, document: int, path: Path) -> str:
    """The text without the key (or list item) at `path`, its whole lines gone. Absent already is fine.

    Comments inside what is removed go with it; those above it stay.
    """
    if not path:
        raise CannotEdit("a whole document is not removed by path")
    return _each_alone(text, {document: lambda piece, number: _removed(piece, number, path)})


Change = Callable[[str, int], str]
"""From a text, and the number of the document in it, to the text with that document edited."""


def _setting(edits: Sequence[Edit]) -> Change:
    def edited(piece: str, number: int) -> str:
        expected = load(piece)
        for edit in (replace(edit, document=number) for edit in edits):
            piece = with_scalar(piece, edit)
            put(expected, edit)
        return proven(piece, expected)

    return edited


def _removed(piece: str, document: int, path: Path) -> str:
    expected = load(piece)
    if not drop(expected, document, path):
        return piece
    place = find(piece, document, path)
    if place.missing:
        raise CannotEdit(f"{words(path)} comes out of a merge, it has no lines of its own")
    return proven(without(piece, place), expected)


# --- documents of a stream ------------------------------------------------------------------------------------

_MARK = re.compile(r"^---(?=[ \t\r\n]|\Z)", re.MULTILINE)
_NO_CONTENT = re.compile(r"(?:[ \t]*(?:#[^\n]*)?\r?(?:\n|\Z))*")
_DIRECTIVE_OR_END = re.compile(r"^(?:%|\.\.\.)", re.MULTILINE)


def _each_alone(text: str, edits: dict[int, Change]) -> str:
    """Each edit made in the text of its own document; all others are not even read."""
    if _DIRECTIVE_OR_END.search(text):
        for number, edit in edits.items():
            text = edit(text, number)
        return text
    pieces = _pieces(text)
    first = 1 if _NO_CONTENT.fullmatch(pieces[0]) else 0
    for number, edit in edits.items():
        at = number + first
        if not first <= at < len(pieces):
            raise CannotEdit(f"there is no document {number}")
        new = edit(pieces[at], 0)
        if len(_pieces(new)) != 1 or (at + 1 < len(pieces) and not new.endswith("\n")):
            raise CannotEdit("the edit would move the border between two documents")
        pieces[at] = new
    return "".join(pieces)


def _pieces(text: str) -> list[str]:
    """The documents' texts, each from its `---` on, which stands at a line's begin and nowhere inside a document.

    What comes before the first one may be no document, but comments only.
    """
    borders = (match.start() for match in _MARK.finditer(text))
    starts = [0, *(border for border in borders if border > 0)]
    return [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]
