"""What a YAML text means, and what it shall mean once an edit is made: the proof that a splice did just that."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from typing import Any

import yaml
from yaml import MappingNode, ScalarNode, SequenceNode, YAMLError

from workers.adapters.yaml_quick import EXACT, QUICK

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
    parsed = [{} if document is None else document for document in load(text)]
    for number, document in enumerate(parsed):
        if not isinstance(document, dict):
            raise CannotEdit(f"document {number} is a {type(document).__name__}, not a mapping")
    return parsed


_MARKS_DIFFER = re.compile("[\ufeff\x85\u2028\u2029]")
"""libyaml counts these otherwise than Python does: such a text is parsed by PyYAML's own parser, slowly."""


def _loader(text: str) -> Any:
    return EXACT if _MARKS_DIFFER.search(text) else QUICK


def load(text: str) -> list[Any]:
    try:
        compose(text)
        return list(yaml.load_all(text, Loader=_loader(text)))
    except (YAMLError, ValueError, RecursionError) as error:
        raise CannotEdit(f"not YAML: {' '.join(str(error).split())[:300]}") from error


def compose(text: str) -> list[Any]:
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


def proven(text: str, expected: list[Any]) -> str:
    """The text, if it means exactly what is expected, in every document."""
    if load(text) != expected:
        raise CannotEdit("the edited text would not mean what was asked; the layout is one we do not know")
    return text


def put(parsed: list[Any], edit: Edit) -> None:
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
        raise CannotEdit(f"{words(edit.path)} leads past something that is not a mapping") from error


def drop(parsed: list[Any], document: int, path: Path) -> bool:
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


def words(path: Path) -> str:
    return ".".join(str(part) for part in path)
