"""Edits of YAML that change one scalar and leave every other byte as its author wrote it.

A dump would lose comments, quotes and order, and a person reads the commits that steps 5 to 7 make. So
the text is parsed for positions only and spliced; then it is parsed again and must mean what was asked.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml
from yaml import MappingNode, Node, ScalarNode, SequenceNode, YAMLError

from workers.adapters.yaml_spelling import scalar

Path = tuple[str | int, ...]


class CannotEdit(ValueError):
    """The text cannot be parsed, or the edit cannot be made without touching something else."""


@dataclass(frozen=True, slots=True)
class Edit:
    """`value`, as a string, at `path` of one document; documents count from 0, empty ones included."""

    document: int
    path: Path
    value: str


def documents(text: str) -> list[dict[str, Any]]:
    """Every document of a stream, parsed; an empty one is {}. Raises CannotEdit on anything else."""
    parsed = [{} if document is None else document for document in _load(text)]
    for number, document in enumerate(parsed):
        if not isinstance(document, dict):
            raise CannotEdit(f"document {number} is a {type(document).__name__}, not a mapping")
    return parsed


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
        expected = _load(piece)
        for edit in (replace(edit, document=number) for edit in edits):
            piece = _set(piece, edit)
            _put(expected, edit)
        return _proven(piece, expected)

    return edited


def _removed(piece: str, document: int, path: Path) -> str:
    expected = _load(piece)
    if not _drop(expected, document, path):
        return piece
    place = _find(piece, document, path)
    if place.missing:
        raise CannotEdit(f"{_words(path)} comes out of a merge, it has no lines of its own")
    return _proven(_without(piece, place), expected)


# --- documents -------------------------------------------------------------------------------------------

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


# --- meaning ---------------------------------------------------------------------------------------------


_MARKS_DIFFER = re.compile("[\ufeff\x85\u2028\u2029]")
"""libyaml counts these otherwise than Python does: such a text is parsed by PyYAML's own parser, slowly."""


def _loader(text: str) -> Any:
    return yaml.SafeLoader if _MARKS_DIFFER.search(text) else getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _load(text: str) -> list[Any]:
    try:
        _compose(text)
        return list(yaml.load_all(text, Loader=_loader(text)))
    except (YAMLError, ValueError, RecursionError) as error:
        raise CannotEdit(f"not YAML: {' '.join(str(error).split())[:300]}") from error


def _compose(text: str) -> list[Any]:
    try:
        roots = list(yaml.compose_all(text, Loader=_loader(text)))
    except (YAMLError, ValueError, RecursionError) as error:
        raise CannotEdit(f"not YAML: {' '.join(str(error).split())[:300]}") from error
    for root in roots:
        _unambiguous(root)
    return roots


def _unambiguous(root: Any) -> None:
    """Raises CannotEdit where a key stands twice in one mapping: readers differ in which one they take."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, MappingNode):
            keys = [key.value for key, _ in node.value if isinstance(key, ScalarNode) and key.value != "<<"]
            if len(keys) != len(set(keys)):
                double = next(key for key in keys if keys.count(key) > 1)
                raise CannotEdit(f"not YAML: the key {double} stands twice in one mapping")
            waiting.extend(child for pair in node.value for child in pair)
        elif isinstance(node, SequenceNode):
            waiting.extend(node.value)


def _proven(text: str, expected: list[Any]) -> str:
    """The text, if it means exactly what is expected, in every document."""
    if _load(text) != expected:
        raise CannotEdit("the edited text would not mean what was asked; the layout is one we do not know")
    return text


def _put(parsed: list[Any], edit: Edit) -> None:
    """Make the edit in parsed documents. Shared (aliased) parts were refused before, so copies are safe."""
    parsed[edit.document] = here = copy.deepcopy(parsed[edit.document])
    *parents, last = edit.path
    try:
        for part in parents:
            if isinstance(here, dict) and here.get(part) is None:
                here[part] = {}
            here = here[part]
        here[last] = edit.value
    except (TypeError, KeyError, IndexError) as error:
        raise CannotEdit(f"{_words(edit.path)} leads past something that is not a mapping") from error


def _drop(parsed: list[Any], document: int, path: Path) -> bool:
    """Remove the path from parsed documents; False when it is not there."""
    if not 0 <= document < len(parsed):
        raise CannotEdit(f"there is no document {document}")
    parsed[document] = here = copy.deepcopy(parsed[document])
    for number, part in enumerate(path):
        in_mapping = isinstance(here, dict) and isinstance(part, str) and part in here
        if not in_mapping and not (isinstance(here, list) and isinstance(part, int) and 0 <= part < len(here)):
            return False
        if number == len(path) - 1:
            del here[part]
            return True
        here = here[part]
    return False


# --- place -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Step:
    """One step down: the collection, the number of its entry, where key and value stand in the text."""

    parent: Any
    entry: int
    start: int
    value: Any
    flow: bool


@dataclass(frozen=True, slots=True)
class _Place:
    """How far the path leads: the last node there is, the steps to it, the parts that are missing."""

    node: Any
    steps: tuple[_Step, ...]
    missing: Path


def _find(text: str, document: int, path: Path) -> _Place:
    roots = _compose(text)
    if not 0 <= document < len(roots):
        raise CannotEdit(f"there is no document {document}")
    node = roots[document]
    shared = _shared(node)
    steps: list[_Step] = []
    flow = False
    for number, part in enumerate(path):
        if not isinstance(node, MappingNode | SequenceNode):
            break
        flow = flow or bool(node.flow_style)
        step = _descend(node, part, flow)
        if step is None:
            break
        if id(step.value) in shared:
            raise CannotEdit(f"{_words(path[: number + 1])} is shared through an anchor")
        steps.append(step)
        node = step.value
    return _Place(node, tuple(steps), path[len(steps) :])


def _descend(node: Node, part: str | int, flow: bool) -> _Step | None:
    if isinstance(node, MappingNode):
        for number, (key, value) in enumerate(node.value):
            if isinstance(part, str) and isinstance(key, ScalarNode) and key.value == part:
                return _Step(node, number, key.start_mark.index, value, flow)
    elif isinstance(part, int) and 0 <= part < len(node.value):
        value = node.value[part]
        return _Step(node, part, value.start_mark.index, value, flow)
    return None


def _shared(root: Node) -> set[int]:
    """Nodes that stand in more than one place: an anchor with at least one alias."""
    seen: set[int] = set()
    twice: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            twice.add(id(node))
            continue
        seen.add(id(node))
        if isinstance(node, MappingNode):
            waiting.extend(child for pair in node.value for child in pair)
        elif isinstance(node, SequenceNode):
            waiting.extend(node.value)
    return twice


_PROPERTIES = re.compile(r"(?:[&!][^\s,\[\]{}]*(?:[ \t]+|(?=[\r\n]|$)))+")


def _content(text: str, node: ScalarNode) -> tuple[int, int]:
    """Where the scalar's own characters stand: past anchor and tag, without what trails a block scalar."""
    start, end = node.start_mark.index, node.end_mark.index
    if properties := _PROPERTIES.match(text, start, end):
        start = properties.end()
    if node.style in ("|", ">"):
        end = start + len(text[start:end].rstrip("\r\n"))
    return start, max(start, end)


def _end(text: str, node: Node) -> int:
    """Where a node's own content ends; comments and blank lines after it are not its own.

    The parser's end of a block collection lies beyond those.
    """
    if isinstance(node, ScalarNode):
        return _block_end(text, node) if node.style in ("|", ">") else _content(text, node)[1]
    if not isinstance(node, MappingNode | SequenceNode) or node.flow_style or not node.value:
        return int(node.end_mark.index)
    return _entry_end(text, node.value[-1])


def _entry_end(text: str, entry: Any) -> int:
    """Where an entry of a collection ends: a (key, value) pair, or a list's item."""
    if not isinstance(entry, tuple):
        return len(text[: _end(text, entry)].rstrip()) if _vacant(entry) else _end(text, entry)
    key, value = entry
    colon = _after_colon(text, key)
    if value.start_mark.index < colon:
        # An alias carries the marks of its anchor, far above.
        alias = _ALIAS.match(text, colon)
        return alias.end() if alias else colon
    return colon if _vacant(value) else _end(text, value)


_ALIAS = re.compile(r"\s*\*[^\s,\[\]{}]+")
_COLON = re.compile(r"\s*:")


def _after_colon(text: str, key: Node) -> int:
    colon = _COLON.match(text, key.end_mark.index)
    return colon.end() if colon else int(key.end_mark.index)


def _vacant(node: Node) -> bool:
    """Nothing is written there at all. The parser then gives the place of whatever comes next."""
    return isinstance(node, ScalarNode) and node.start_mark.index == node.end_mark.index


def _block_end(text: str, node: ScalarNode) -> int:
    """The end of a literal or folded scalar: its last line that is not blank and not outside of it."""
    start = _content(text, node)[0]
    line_start = text.rfind("\n", 0, start) + 1
    header = text[line_start:start]
    lead = re.compile(r" *(?:- +)*").match(header)
    # Content is indented more than its key, or than its dash when it has no key.
    outer = lead.end() if lead and lead.end() < len(header) else header.rfind("-")
    end = position = _line_end(text, start)
    while position < len(text):
        following = _line_end(text, position + 1)
        line = text[position + 1 : following]
        if line.strip() and len(line) - len(line.lstrip(" ")) <= outer:
            break
        if line.strip():
            end = following
        position = following
    return end


def _line_end(text: str, position: int) -> int:
    found = text.find("\n", position)
    return len(text) if found < 0 else found


# --- splices ---------------------------------------------------------------------------------------------


def _set(text: str, edit: Edit) -> str:
    if not edit.path:
        raise CannotEdit("a scalar needs a path")
    place = _find(text, edit.document, edit.path)
    if place.missing:
        return _insert(text, place, edit)
    node = place.node
    if not isinstance(node, ScalarNode):
        raise CannotEdit(f"{_words(edit.path)} is not a scalar")
    if node.tag == "tag:yaml.org,2002:str" and node.value == edit.value:
        return text
    start, end = _span(text, place.steps[-1])
    flow = place.steps[-1].flow
    if _PROPERTIES.match(text, node.start_mark.index) and "!" in text[node.start_mark.index : start]:
        raise CannotEdit(f"{_words(edit.path)} carries a tag of its own")
    new = scalar(edit.value, node.style, flow)
    gap = " " if start == end and text[start - 1 : start] not in (" ", "\t") else ""
    return text[:start] + gap + new + text[end:]


def _span(text: str, step: _Step) -> tuple[int, int]:
    """What to replace when the scalar at this step gets another value."""
    if not _vacant(step.value):
        start, _ = _content(text, step.value)
        return start, _end(text, step.value)
    if not isinstance(step.parent, MappingNode):
        raise CannotEdit("an empty list item has no place of its own")
    colon = _after_colon(text, step.parent.value[step.entry][0])
    return colon, colon


def _insert(text: str, place: _Place, edit: Edit) -> str:
    keys = [part for part in place.missing if isinstance(part, str)]
    if len(keys) != len(place.missing):
        raise CannotEdit(f"{_words(edit.path)}: a list does not grow by path")
    node = place.node
    if isinstance(node, MappingNode):
        if len(keys) > 1 and any(key.value == "<<" for key, _ in node.value):
            raise CannotEdit(f"{_words(edit.path)} may lie in a merged mapping")
        if node.flow_style:
            return _insert_flow(text, node, keys, edit.value)
        return _insert_block(text, node.value[0][0].start_mark.column, _end(text, node), keys, edit.value)
    empty = isinstance(node, ScalarNode) and node.tag == "tag:yaml.org,2002:null" and place.steps
    if not empty:
        raise CannotEdit(f"{_words(edit.path)} leads past something that is not a mapping")
    step = place.steps[-1]
    start, end = _span(text, step)
    if start == end and not step.flow and isinstance(step.parent, MappingNode):
        column = step.parent.value[0][0].start_mark.column + 2
        return _insert_block(text, column, start, keys, edit.value)
    gap = " " if start == end else ""
    return f"{text[:start]}{gap}{{{_flow(keys, edit.value)}}}{text[end:]}"


def _insert_block(text: str, column: int, after: int, keys: list[str], value: str) -> str:
    """New lines below the line on which the mapping's content ends."""
    newline = "\r\n" if "\r\n" in text else "\n"
    at = _line_end(text, after)
    if text[at - 1 : at] == "\r":
        at -= 1
    lines = [" " * (column + 2 * depth) + scalar(key, None, False) + ":" for depth, key in enumerate(keys)]
    lines[-1] += " " + scalar(value, None, False)
    return text[:at] + "".join(newline + line for line in lines) + text[at:]


def _insert_flow(text: str, node: MappingNode, keys: list[str], value: str) -> str:
    if not node.value:
        at = text.index("{", node.start_mark.index) + 1
        return f"{text[:at]}{_flow(keys, value)}{text[at:]}"
    at = _entry_end(text, node.value[-1])
    return f"{text[:at]}, {_flow(keys, value)}{text[at:]}"


def _flow(keys: Sequence[str], value: str) -> str:
    head, *rest = keys
    inner = f"{{{_flow(rest, value)}}}" if rest else scalar(value, None, True)
    return f"{scalar(head, None, True)}: {inner}"


def _without(text: str, place: _Place) -> str:
    step = place.steps[-1]
    entries = list(_entries(text, step.parent))
    start, end = entries[step.entry]
    if step.flow:
        if step.entry:
            start = entries[step.entry - 1][1]
        elif len(entries) > 1:
            end = entries[1][0]
        return text[:start] + text[end:]
    line = text.rfind("\n", 0, start) + 1
    lead = text[line:start]
    if isinstance(step.parent, SequenceNode):
        dash = line + lead.rfind("-")
        if len(entries) == 1 or not text[line:dash].strip():
            start = dash
        lead = text[line:start]
    if len(entries) == 1:
        empty = "[]" if isinstance(step.parent, SequenceNode) else "{}"
        # An empty list may stand at its key's own column, an empty flow list may not.
        pad = "  " if isinstance(step.parent, SequenceNode) and not lead.strip() else ""
        return text[:start] + pad + empty + text[end:]
    if lead.strip():
        # The first entry inside a list item shares its line with the dash.
        following = entries[step.entry + 1][0]
        return text[:start] + text[following:]
    return text[:line] + text[min(_line_end(text, end) + 1, len(text)) :]


def _entries(text: str, node: Node) -> Iterator[tuple[int, int]]:
    for entry in node.value:
        first = entry[0] if isinstance(entry, tuple) else entry
        yield first.start_mark.index, _entry_end(text, entry)


def _words(path: Path) -> str:
    return ".".join(str(part) for part in path)
