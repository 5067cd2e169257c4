"""Which file of a checkout declares an object, read as kustomize-controller reads the tree.

It applies `spec.path` of a Kustomization: by its kustomization.yaml, or without one every YAML file below
(kustomize-controller generates the list). Only reads; nothing is followed out of the checkout.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from workers.adapters.yaml_edit import CannotEdit, documents
from workers.declared.changes import Change, edited
from workers.errors import Stuck

KUSTOMIZATION_FILES = ("kustomization.yaml", "kustomization.yml", "Kustomization")


@dataclass(frozen=True, slots=True)
class Root:
    """What one Flux Kustomization applies: `spec.path`, and what it does to names on the way."""

    path: str
    namespace: str | None = None
    """`spec.targetNamespace`."""
    substitute: Mapping[str, str] = field(default_factory=dict)
    """`spec.postBuild.substitute`."""
    prefix: str = ""
    suffix: str = ""


@dataclass(frozen=True, slots=True)
class Edits:
    """New text of files, and the changes for which no manifest was found."""

    texts: Mapping[Path, str]
    undeclared: tuple[Change, ...]


def plan_edits(checkout: Path, roots: Iterable[Root], changes: Iterable[Change]) -> Edits:
    """The files to write so that Git declares every change. A file that says so already is not among them."""
    wanted = list(changes)
    found: dict[Path, list[tuple[int, Change]]] = {}
    texts: dict[Path, str] = {}
    for root in roots:
        for file, place in manifests(checkout, root):
            text = texts.setdefault(file, file.read_text(encoding="utf-8"))
            for number, change in _matches(file, text, place, wanted):
                if (number, change) not in (pairs := found.setdefault(file, [])):
                    pairs.append((number, change))
    new = {file: _edited(file, texts[file], pairs) for file, pairs in found.items()}
    declared = {id(change) for pairs in found.values() for _, change in pairs}
    return Edits(
        {file: text for file, text in new.items() if text != texts[file]},
        tuple(change for change in wanted if id(change) not in declared),
    )


def _edited(file: Path, text: str, pairs: list[tuple[int, Change]]) -> str:
    try:
        return edited(text, pairs)
    except CannotEdit as error:
        who = ", ".join(str(change) for _, change in pairs)
        raise Stuck("ManifestNotEditable", f"{file.name}, which declares {who}: {error}; edit it by hand") from error


def _matches(file: Path, text: str, place: Root, wanted: list[Change]) -> Iterator[tuple[int, Change]]:
    # Parsing is slow; a file that holds none of the names cannot declare any of the objects.
    near = [c for c in wanted if _core(c.name, place) in text]
    templated = re.search(r"name:.*\$\{", text) is not None
    if not near and not templated:
        return
    try:
        parsed = documents(text)
    except CannotEdit as error:
        if not near:
            return
        raise Stuck("ManifestUnreadable", f"{file.name}, which Flux applies: {error}") from error
    for number, document in enumerate(parsed):
        for change in wanted if templated else near:
            if declares(document, place, change):
                yield number, change


def _core(name: str, place: Root) -> str:
    return name.removeprefix(place.prefix).removesuffix(place.suffix)


def declares(document: Mapping[str, Any], place: Root, change: Change) -> bool:
    """True when this document, as it is applied, is the object that shall change."""
    meta = document.get("metadata") or {}
    if document.get("kind") != change.kind.kind or not isinstance(meta, Mapping):
        return False
    group = str(document.get("apiVersion", "")).rpartition("/")[0]
    name = place.prefix + substituted(str(meta.get("name", "")), place.substitute) + place.suffix
    namespace = place.namespace or substituted(str(meta.get("namespace") or ""), place.substitute)
    if group != change.kind.group or name != change.name:
        return False
    return not change.kind.namespaced or namespace in ("", change.namespace)


def substituted(text: str, values: Mapping[str, str]) -> str:
    """`${NAME}` and `${NAME:=default}` replaced, as postBuild does; an unknown name becomes empty."""
    return re.sub(r"\$\{(\w+)(?::?[=-]([^}]*))?\}", lambda m: values.get(m[1], m[2] or ""), text)


def manifests(checkout: Path, root: Root) -> Iterator[tuple[Path, Root]]:
    """Every manifest below a root, each once a way, with what happens to its names on that way."""
    start = (checkout / root.path).resolve()
    if start.is_dir() and start.is_relative_to(checkout.resolve()):
        yield from _directory(checkout.resolve(), start, root, frozenset())


def _directory(top: Path, directory: Path, place: Root, above: frozenset[Path]) -> Iterator[tuple[Path, Root]]:
    if directory in above:
        return
    above = above | {directory}
    listing = next((directory / n for n in KUSTOMIZATION_FILES if (directory / n).is_file()), None)
    if listing is None:
        for entry in sorted(directory.iterdir()):
            if not entry.name.startswith("."):
                yield from _entry(top, entry.resolve(), place, above)
        return
    said = _listing(listing)
    inner = replace(
        place,
        namespace=place.namespace or said.get("namespace"),
        prefix=place.prefix + str(said.get("namePrefix") or ""),
        suffix=str(said.get("nameSuffix") or "") + place.suffix,
    )
    for key in ("resources", "bases", "components"):
        for name in said.get(key) or []:
            if "://" not in str(name):
                yield from _entry(top, (directory / str(name)).resolve(), inner, above)


def _entry(top: Path, entry: Path, place: Root, above: frozenset[Path]) -> Iterator[tuple[Path, Root]]:
    if not entry.is_relative_to(top):
        return
    if entry.is_dir():
        yield from _directory(top, entry, place, above)
    elif entry.is_file() and entry.suffix in (".yaml", ".yml"):
        yield entry, place


def _listing(file: Path) -> dict[str, Any]:
    try:
        parsed = documents(file.read_text(encoding="utf-8"))
    except CannotEdit as error:
        raise Stuck("ManifestUnreadable", f"{file.parent.name}/{file.name}: {error}") from error
    return parsed[0] if parsed else {}
