"""What shall be different in one object, said once: for its manifest, for a live patch, and for looking again."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from workers.adapters.cluster_kinds import Kind, Object
from workers.adapters.yaml_edit import CannotEdit, Edit, documents, remove, set_scalars

Path = tuple[str | int, ...]
Value = str | bool


@dataclass(frozen=True, slots=True)
class Change:
    """Fields that one object shall have, and fields that it shall not have."""

    kind: Kind
    namespace: str
    name: str
    fields: Mapping[Path, Value] = field(default_factory=dict)
    absent: tuple[Path, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind.kind} {self.name}"


def holds(change: Change, obj: Object | None) -> bool:
    """True when the object is as it shall be."""
    if obj is None:
        return False
    wanted = all(at(obj, path) == value for path, value in change.fields.items())
    return wanted and all(at(obj, path) is None for path in change.absent)


def merge_patch(change: Change, obj: Object) -> Object:
    """The change as a merge patch (RFC 7386), valid only for the object as it was read.

    Such a patch cannot reach into a list: then the whole list is given, as it shall be.
    """
    new = copy.deepcopy(obj)
    body: Object = {"metadata": {"resourceVersion": obj["metadata"]["resourceVersion"]}}
    for path, value in [*change.fields.items(), *((p, None) for p in change.absent)]:
        _put(new, path, value)
        depth = next((n for n, part in enumerate(path) if isinstance(part, int)), len(path))
        _put(body, path[:depth], at(new, path[:depth]))
    return body


def _put(obj: Any, path: Path, value: Any) -> None:
    for part in path[:-1]:
        obj = obj.setdefault(part, {}) if isinstance(obj, dict) else obj[part]
    obj[path[-1]] = value


def at(obj: Any, path: Sequence[str | int]) -> Any:
    """What stands at a path; None when nothing does."""
    for part in path:
        if isinstance(obj, Mapping):
            obj = obj.get(part)
        elif isinstance(obj, list) and isinstance(part, int) and part < len(obj):
            obj = obj[part]
        else:
            return None
    return obj


def edited(text: str, changes: Iterable[tuple[int, Change]]) -> str:
    """A manifest with changes made to its documents; every other byte as it was.

    Raises CannotEdit where the layout forbids it.
    """
    pairs = list(changes)
    parsed = documents(text)
    words: dict[str, str] = {}
    edits: list[Edit] = []
    for document, change in pairs:
        for path in change.absent:
            if at(parsed[document], path) is not None:
                text = remove(text, document, path)
        for path, value in change.fields.items():
            if at(parsed[document], path) == value:
                continue
            # The editor writes strings; any other value is spelled in place of a word.
            word = value if isinstance(value, str) else f"cutoverValue{len(words)}"
            if not isinstance(value, str):
                words[word] = json.dumps(value)
            edits.append(Edit(document, path, word))
    text = set_scalars(text, edits) if edits else text
    for word, spelling in words.items():
        text = text.replace(word, spelling)
    parsed = documents(text) if words else parsed
    for document, change in pairs:
        if words and not holds(change, parsed[document]):
            raise CannotEdit(f"{change} would not be as asked after the edit")
    return text
