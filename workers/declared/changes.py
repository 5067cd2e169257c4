"""What shall be different in one object, said once: for its manifest, for a live patch, and for looking again."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from workers.adapters.cluster_kinds import Kind, Object
from workers.adapters.yaml_edit import CannotEdit, Edit, documents, remove, set_scalars


@dataclass(frozen=True, slots=True)
class Named:
    """The item of a list that has this `name`: its number differs between a manifest and the live object."""

    name: str

    def __str__(self) -> str:
        return self.name


Path = tuple[str | int | Named, ...]
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
    for path, value in [*((p, None) for p in change.absent), *change.fields.items()]:
        depth = next((n for n, part in enumerate(path) if not isinstance(part, str)), len(path))
        if value is None and depth < len(path):
            _drop(new, path)
        else:
            _put(new, path, value)
        _put(body, path[:depth], at(new, path[:depth]))
    return body


def _put(obj: Any, path: Path, value: Any) -> None:
    for part in path[:-1]:
        if isinstance(part, Named):
            obj = _item(obj, part)
        else:
            obj = obj.setdefault(part, [] if _lists(path, part) else {}) if isinstance(obj, dict) else obj[part]
    obj[path[-1]] = value


def _lists(path: Path, part: str | int) -> bool:
    return isinstance(path[path.index(part) + 1], Named)


def _item(items: list[Any], named: Named) -> Any:
    """The last item of that name, which is the one that counts; a new one when there is none."""
    found = [item for item in items if isinstance(item, dict) and item.get("name") == named.name]
    if not found:
        items.append({"name": named.name})
    return found[-1] if found else items[-1]


def _drop(obj: Any, path: Path) -> None:
    above = at(obj, path[:-1])
    if isinstance(above, dict):
        above.pop(path[-1], None)


def at(obj: Any, path: Path) -> Any:
    """What stands at a path; None when nothing does."""
    for part in path:
        if isinstance(part, Named):
            items = obj if isinstance(obj, list) else []
            obj = next((i for i in reversed(items) if isinstance(i, dict) and i.get("name") == part.name), None)
        elif isinstance(obj, Mapping):
            obj = obj.get(part)
        elif isinstance(obj, list) and isinstance(part, int) and part < len(obj):
            obj = obj[part]
        else:
            return None
    return obj


def plain(obj: Any, path: Path) -> tuple[str | int, ...]:
    """The path with numbers in place of names, as the document has them. Raises CannotEdit where it has none."""
    found: list[str | int] = []
    for part in path:
        if isinstance(part, Named):
            items = obj if isinstance(obj, list) else []
            numbers = [n for n, item in enumerate(items) if isinstance(item, dict) and item.get("name") == part.name]
            if not numbers:
                raise CannotEdit(f"it has no {part.name} in {'.'.join(map(str, found))}")
            found.append(numbers[-1])
        else:
            found.append(part)
        obj = at(obj, (found[-1],))
    return tuple(found)


Spot = tuple[int, tuple[str | int, ...]]
"""Number of a document, and where in it the object stands: nowhere deeper, or below `items` of a List."""


def edited(text: str, changes: Iterable[tuple[Spot, Change]]) -> str:
    """A manifest with changes made to its objects; every other byte as it was.

    Raises CannotEdit where the layout forbids it.
    """
    pairs = list(changes)
    parsed = documents(text)
    words: dict[str, str] = {}
    edits: list[Edit] = []
    for (document, inside), change in pairs:
        obj = at(parsed[document], inside)
        for path in change.absent:
            if at(obj, path) is not None:
                text = remove(text, document, (*inside, *plain(obj, path)))
        for path, value in change.fields.items():
            if at(obj, path) == value:
                continue
            # The editor writes strings; any other value is spelled in place of a word, none of which begins another.
            word = value if isinstance(value, str) else f"cutoverValue{len(words)}."
            if not isinstance(value, str):
                words[word] = json.dumps(value)
            edits.append(Edit(document, (*inside, *plain(obj, path)), word))
    text = set_scalars(text, edits) if edits else text
    for word, spelling in words.items():
        text = text.replace(word, spelling)
    parsed = documents(text) if words else parsed
    for (document, inside), change in pairs:
        if words and not holds(change, at(parsed[document], inside)):
            raise CannotEdit(f"{change} would not be as asked after the edit")
    return text
