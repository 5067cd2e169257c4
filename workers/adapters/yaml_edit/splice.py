"""The splices: characters in, characters out, at places that the parser gave."""

from __future__ import annotations

from collections.abc import Sequence

from yaml import MappingNode, ScalarNode, SequenceNode

from workers.adapters.yaml_edit.meaning import CannotEdit, Edit, words
from workers.adapters.yaml_edit.place import (
    PROPERTIES,
    Place,
    Step,
    after_colon,
    content,
    end_of,
    entries_of,
    entry_end,
    find,
    line_end,
    vacant,
)
from workers.adapters.yaml_edit.spelling import scalar


def with_scalar(text: str, edit: Edit) -> str:
    if not edit.path:
        raise CannotEdit("a scalar needs a path")
    place = find(text, edit.document, edit.path)
    if place.missing:
        return _insert(text, place, edit)
    node = place.node
    if not isinstance(node, ScalarNode):
        raise CannotEdit(f"{words(edit.path)} is not a scalar")
    if node.tag == "tag:yaml.org,2002:str" and node.value == edit.value:
        return text
    start, end = _span(text, place.steps[-1])
    flow = place.steps[-1].flow
    if PROPERTIES.match(text, node.start_mark.index) and "!" in text[node.start_mark.index : start]:
        raise CannotEdit(f"{words(edit.path)} carries a tag of its own")
    new = scalar(edit.value, node.style, flow)
    gap = " " if start == end and text[start - 1 : start] not in (" ", "\t") else ""
    return text[:start] + gap + new + text[end:]


def _span(text: str, step: Step) -> tuple[int, int]:
    """What to replace when the scalar at this step gets another value."""
    if not vacant(step.value):
        start, _ = content(text, step.value)
        return start, end_of(text, step.value)
    if not isinstance(step.parent, MappingNode):
        raise CannotEdit("an empty list item has no place of its own")
    colon = after_colon(text, step.parent.value[step.entry][0])
    return colon, colon


def _insert(text: str, place: Place, edit: Edit) -> str:
    keys = [part for part in place.missing if isinstance(part, str)]
    if len(keys) != len(place.missing):
        raise CannotEdit(f"{words(edit.path)}: a list does not grow by path")
    node = place.node
    if isinstance(node, MappingNode):
        if len(keys) > 1 and any(key.value == "<<" for key, _ in node.value):
            raise CannotEdit(f"{words(edit.path)} may lie in a merged mapping")
        if node.flow_style:
            return _insert_flow(text, node, keys, edit.value)
        return _insert_block(text, node.value[0][0].start_mark.column, end_of(text, node), keys, edit.value)
    empty = isinstance(node, ScalarNode) and node.tag == "tag:yaml.org,2002:null" and place.steps
    if not empty:
        raise CannotEdit(f"{words(edit.path)} leads past something that is not a mapping")
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
    at = line_end(text, after)
    if text[at - 1 : at] == "\r":
        at -= 1
    lines = [" " * (column + 2 * depth) + scalar(key, None, False) + ":" for depth, key in enumerate(keys)]
    lines[-1] += " " + scalar(value, None, False)
    return text[:at] + "".join(newline + line for line in lines) + text[at:]


def _insert_flow(text: str, node: MappingNode, keys: list[str], value: str) -> str:
    if not node.value:
        at = text.index("{", node.start_mark.index) + 1
        return f"{text[:at]}{_flow(keys, value)}{text[at:]}"
    at = entry_end(text, node.value[-1])
    return f"{text[:at]}, {_flow(keys, value)}{text[at:]}"


def _flow(keys: Sequence[str], value: str) -> str:
    head, *rest = keys
    inner = f"{{{_flow(rest, value)}}}" if rest else scalar(value, None, True)
    return f"{scalar(head, None, True)}: {inner}"


def without(text: str, place: Place) -> str:
    step = place.steps[-1]
    entries = list(entries_of(text, step.parent))
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
    return text[:line] + text[min(line_end(text, end) + 1, len(text)) :]
