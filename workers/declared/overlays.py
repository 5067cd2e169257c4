"""Patches that kustomize makes on the way from a manifest to the object: they win over what the manifest says.

A patch that lies in a file of its own is changed there. Any other that would undo a change is told before anything is
pushed: Flux would apply the patch's word, whatever the manifest says (kustomize, `patches` and its older spellings).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from workers.adapters.yaml_quick import NotYaml, parsed
from workers.declared.changes import Change, Spot, at
from workers.declared.changes import Path as Field
from workers.errors import Stuck

LISTED = ("patches", "patchesStrategicMerge", "patchesJson6902")


@dataclass(frozen=True, slots=True)
class Patch:
    """One patch: what it is for, what it says, and the file it lies in, if it has one."""

    said_by: str
    target: Mapping[str, Any]
    documents: tuple[Any, ...]
    """A mapping that is merged in, or a list of JSON patch operations."""
    file: Path | None


def overlaid(
    checkout: Path,
    listings: Iterable[tuple[Path, Mapping[str, Any]]],
    of_flux: Iterable[Mapping[str, Any]],
    wanted: Iterable[Change],
) -> Iterator[tuple[Path, tuple[Spot, Change]]]:
    """What has to be changed in which patch file. Raises Stuck for a patch that would undo a change and has none."""
    wanted = list(wanted)
    top = checkout.resolve()
    for patch in (*_of_flux(of_flux), *(p for file, said in listings for p in _of_listing(top, file, said))):
        for number, document in enumerate(patch.documents):
            for change in wanted:
                if not _meant(patch, document, change) or not (undone := _undone(document, change)):
                    continue
                if patch.file is None or not isinstance(document, Mapping):
                    paths = ", ".join(".".join(map(str, path)) for path in undone)
                    message = f"{change}: {patch.said_by} patches {paths} on the way to the cluster"
                    raise Stuck("DeclaredElsewhere", f"{message}; change that patch, then run the step again")
                fields = {path: value for path, value in change.fields.items() if path in undone}
                absent = tuple(path for path in change.absent if path in undone)
                yield patch.file, ((number, ()), replace(change, fields=fields, absent=absent))


def _of_flux(patches: Iterable[Mapping[str, Any]]) -> Iterator[Patch]:
    for each in patches:
        yield Patch("spec.patches of its Kustomization", each.get("target") or {}, _texts(each.get("patch")), None)


def _of_listing(top: Path, listing: Path, said: Mapping[str, Any]) -> Iterator[Patch]:
    name = f"{listing.parent.name}/{listing.name}"
    for key in LISTED:
        for each in said.get(key) or []:
            entry = (
                each if isinstance(each, Mapping) else {"path": each} if _is_file(listing, each) else {"patch": each}
            )
            file = (listing.parent / str(entry["path"])).resolve() if entry.get("path") else None
            if file is not None and not (file.is_relative_to(top) and file.is_file()):
                continue
            text = file.read_bytes().decode("utf-8", "replace") if file is not None else entry.get("patch")
            where = f"{file.name}, which {name} lists," if file is not None else f"{name}, in {key},"
            yield Patch(where, entry.get("target") or {}, _texts(text), file)


def _is_file(listing: Path, entry: Any) -> bool:
    return "\n" not in str(entry) and (listing.parent / str(entry)).is_file()


def _texts(text: Any) -> tuple[Any, ...]:
    try:
        return tuple(parsed(str(text))) if text else ()
    except NotYaml:
        return ()


def _meant(patch: Patch, document: Any, change: Change) -> bool:
    """True when the patch is for the object: by its target, else by the name in it."""
    target = patch.target
    if not target:
        if not isinstance(document, Mapping):
            return False
        meta = document.get("metadata") or {}
        target = {"kind": document.get("kind"), "name": meta.get("name"), "namespace": meta.get("namespace")}
        if not target["name"] or target["kind"] != change.kind.kind:
            return False
    if any(target.get(key) for key in ("labelSelector", "annotationSelector")):
        # Labels are given on the way too: taken for meant, for what it says of our fields would win.
        target = {key: value for key, value in target.items() if not key.endswith("Selector")}
    said = {"kind": change.kind.kind, "name": change.name, "namespace": change.namespace, "group": change.kind.group}
    return all(_like(str(target[key]), value) for key, value in said.items() if target.get(key) and value)


def _like(pattern: str, text: str) -> bool:
    """Targets are anchored regular expressions; a name may still get its prefix."""
    try:
        return re.fullmatch(pattern, text) is not None or text.endswith(pattern)
    except re.error:
        return pattern == text


def _undone(document: Any, change: Change) -> tuple[Field, ...]:
    """The fields of a change that the patch says otherwise."""
    wanted: dict[Field, Any] = {**dict.fromkeys(change.absent), **change.fields}
    if isinstance(document, Mapping):
        return tuple(p for p, v in wanted.items() if (said := at(document, p)) is not None and said != v)
    operations = [op for op in document if isinstance(op, Mapping)] if isinstance(document, list) else []
    return tuple(p for p, v in wanted.items() if any(_operates(op, p, v) for op in operations))


def _operates(operation: Mapping[str, Any], path: Field, wanted: Any) -> bool:
    parts = [part.replace("~1", "/").replace("~0", "~") for part in str(operation.get("path", "")).split("/")[1:]]
    words = [str(part) for part in path]
    if operation.get("op") not in ("add", "replace") or not parts or words[: len(parts)] != parts:
        return False
    said = at(operation.get("value"), path[len(parts) :])
    return said is not None and said != wanted
