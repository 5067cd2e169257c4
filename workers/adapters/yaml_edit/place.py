"""Where in the text a path of a document stands: marks of the parser, corrected to what its author wrote."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from yaml import MappingNode, Node, ScalarNode, SequenceNode

from workers.adapters.yaml_edit.meaning import CannotEdit, Path, compose, words


@dataclass(frozen=True, slots=True)
class Step:
    """One step down: the collection, the number of its entry, where key and value stand in the text."""

    parent: Any
    entry: int
    start: int
    value: Any
    flow: bool


@dataclass(frozen=True, slots=True)
class Place:
    """How far the path leads: the last node there is, the steps to it, the parts that are missing."""

    node: Any
    steps: tuple[Step, ...]
    missing: Path


def find(text: str, document: int, path: Path) -> Place:
    roots = compose(text)
    if not 0 <= document < len(roots):
        raise CannotEdit(f"there is no document {document}")
    node = roots[document]
    shared = _shared(node)
    steps: list[Step] = []
    flow = False
    for number, part in enumerate(path):
        if not isinstance(node, MappingNode | SequenceNode):
            break
        flow = flow or bool(node.flow_style)
        step = _descend(node, part, flow)
        if step is None:
            break
        if id(step.value) in shared:
            raise CannotEdit(f"{words(path[: number + 1])} is shared through an anchor")
        steps.append(step)
        node = step.value
    return Place(node, tuple(steps), path[len(steps) :])


def _descend(node: Node, part: str | int, flow: bool) -> Step | None:
    if isinstance(node, MappingNode):
        for number, (key, value) in enumerate(node.value):
            if isinstance(part, str) and isinstance(key, ScalarNode) and key.value == part:
                return Step(node, number, key.start_mark.index, value, flow)
    elif isinstance(part, int) and 0 <= part < len(node.value):
        value = node.value[part]
        return Step(node, part, value.start_mark.index, value, flow)
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


PROPERTIES = re.compile(r"(?:[&!][^\s,\[\]{}]*(?:[ \t]+|(?=[\r\n]|$)))+")


def content(text: str, node: ScalarNode) -> tuple[int, int]:
    """Where the scalar's own characters stand: past anchor and tag, without what trails a block scalar."""
    start, end = node.start_mark.index, node.end_mark.index
    if properties := PROPERTIES.match(text, start, end):
        start = properties.end()
    if node.style in ("|", ">"):
        end = start + len(text[start:end].rstrip("\r\n"))
    return start, max(start, end)


def end_of(text: str, node: Node) -> int:
    """Where a node's own content ends; comments and blank lines after it are not its own.

    The parser's end of a block collection lies beyond those.
    """
    if isinstance(node, ScalarNode):
        return _block_end(text, node) if node.style in ("|", ">") else content(text, node)[1]
    if not isinstance(node, MappingNode | SequenceNode) or node.flow_style or not node.value:
        return int(node.end_mark.index)
    return entry_end(text, node.value[-1])


def entry_end(text: str, entry: Any) -> int:
    """Where an entry of a collection ends: a (key, value) pair, or a list's item."""
    if not isinstance(entry, tuple):
        return len(text[: end_of(text, entry)].rstrip()) if vacant(entry) else end_of(text, entry)
    key, value = entry
    colon = after_colon(text, key)
    if value.start_mark.index < colon:
        # An alias carries the marks of its anchor, far above.
        alias = _ALIAS.match(text, colon)
        return alias.end() if alias else colon
    return colon if vacant(value) else end_of(text, value)


_ALIAS = re.compile(r"\s*\*[^\s,\[\]{}]+")
_COLON = re.compile(r"\s*:")


def after_colon(text: str, key: Node) -> int:
    colon = _COLON.match(text, key.end_mark.index)
    return colon.end() if colon else int(key.end_mark.index)


def vacant(node: Node) -> bool:
    """Nothing is written there at all. The parser then gives the place of whatever comes next."""
    return isinstance(node, ScalarNode) and node.start_mark.index == node.end_mark.index


def _block_end(text: str, node: ScalarNode) -> int:
    """The end of a literal or folded scalar: its last line that is not blank and not outside of it."""
    start = content(text, node)[0]
    line_start = text.rfind("\n", 0, start) + 1
    header = text[line_start:start]
    lead = re.compile(r" *(?:- +)*").match(header)
    # Content is indented more than its key, or than its dash when it has no key.
    outer = lead.end() if lead and lead.end() < len(header) else header.rfind("-")
    end = position = line_end(text, start)
    while position < len(text):
        following = line_end(text, position + 1)
        line = text[position + 1 : following]
        if line.strip() and len(line) - len(line.lstrip(" ")) <= outer:
            break
        if line.strip():
            end = following
        position = following
    return end - (text[end - 1 : end] == "\r")


def line_end(text: str, position: int) -> int:
    found = text.find("\n", position)
    return len(text) if found < 0 else found


def entries_of(text: str, node: Node) -> Iterator[tuple[int, int]]:
    for entry in node.value:
        first = entry[0] if isinstance(entry, tuple) else entry
        yield first.start_mark.index, entry_end(text, entry)
