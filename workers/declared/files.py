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
from workers.declared.changes import Change, Spot, edited
from workers.declared.overlays import overlaid
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
    patches: tuple[Mapping[str, Any], ...] = ()
    """`spec.patches`: made to what Git declares, before it is applied."""


@dataclass(frozen=True, slots=True)
class Edits:
    """New text of files, and the changes for which no manifest was found."""

    texts: Mapping[Path, str]
    undeclared: tuple[Change, ...]


def plan_edits(checkout: Path, roots: Iterable[Root], changes: Iterable[Change]) -> Edits:
    """The files to write so that Git declares every change. A file that says so already is not among them.

    Raises Stuck where Git would still not build to what was asked: nothing is written then.
    """
    wanted = list(changes)
    found: dict[Path, list[tuple[Spot, Change]]] = {}
    texts: dict[Path, str | None] = {}
    patched: dict[Path, list[tuple[Spot, Change]]] = {}
    for root in roots:
        for file, place in manifests(checkout, root):
            text = texts[file] = texts[file] if file in texts else _read(file, wanted, place)
            for pair in _matches(file, text, place, wanted) if text is not None else ():
                if pair not in (pairs := found.setdefault(file, [])):
                    pairs.append(pair)
        for file, pair in overlaid(checkout, listings(checkout, root), root.patches, wanted):
            texts.setdefault(file, read(file))
            patched.setdefault(file, []).append(pair)
    declared = {id(change) for pairs in found.values() for _, change in pairs}
    for file, pairs in patched.items():
        found.setdefault(file, []).extend(pairs)
    old = {file: text for file, text in texts.items() if text is not None}
    new = {file: _edited(file, old[file], pairs) for file, pairs in found.items()}
    return Edits(
        {file: text for file, text in new.items() if text != old[file]},
        tuple(change for change in wanted if id(change) not in declared),
    )


def read(file: Path) -> str:
    """The text with its line ends as they are: Python's own reading would make every CRLF another byte."""
    return file.read_bytes().decode("utf-8")


def _read(file: Path, wanted: Iterable[Change], place: Root) -> str | None:
    """None for what is no text and names none of the objects."""
    try:
        return read(file)
    except UnicodeDecodeError as error:
        raw = file.read_bytes()
        if any(_core(change.name, place).encode() in raw for change in wanted):
            message = f"{file.name}, which Flux applies, is not UTF-8 ({error.reason})"
            raise Stuck("ManifestUnreadable", message) from None
        return None


def _edited(file: Path, text: str, pairs: list[tuple[Spot, Change]]) -> str:
    try:
        return edited(text, pairs)
    except CannotEdit as error:
        who = ", ".join(str(change) for _, change in pairs)
        raise Stuck("ManifestNotEditable", f"{file.name}, which declares {who}: {error}; edit it by hand") from error


def _matches(file: Path, text: str, place: Root, wanted: list[Change]) -> Iterator[tuple[Spot, Change]]:
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
    for spot, obj in _objects(parsed):
        for change in wanted if templated else near:
            if declares(obj, place, change):
                yield (spot, change)


def _objects(parsed: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Spot, Mapping[str, Any]]]:
    """Every object of a manifest; those of a List one by one, as kustomize takes them."""
    for number, document in enumerate(parsed):
        items = document.get("items")
        if str(document.get("kind", "")).endswith("List") and isinstance(items, list):
            yield from (((number, ("items", n)), item) for n, item in enumerate(items) if isinstance(item, Mapping))
        else:
            yield (number, ()), document


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
    return ((file, place) for file, place, said in _walk(checkout, root) if said is None)


def listings(checkout: Path, root: Root) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Every kustomization.yaml on the way, and what it says."""
    return ((file, said) for file, _, said in _walk(checkout, root) if said is not None)


Step = tuple[Path, Root, Mapping[str, Any] | None]
"""A manifest, or a kustomization.yaml with what it says."""


def _walk(checkout: Path, root: Root) -> Iterator[Step]:
    start = (checkout / root.path).resolve()
    if start.is_dir() and start.is_relative_to(checkout.resolve()):
        yield from _directory(checkout.resolve(), start, root, frozenset())


def _directory(top: Path, directory: Path, place: Root, above: frozenset[Path]) -> Iterator[Step]:
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
    yield listing, place, said
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


def _entry(top: Path, entry: Path, place: Root, above: frozenset[Path]) -> Iterator[Step]:
    if not entry.is_relative_to(top):
        return
    if entry.is_dir():
        yield from _directory(top, entry, place, above)
    elif entry.is_file() and entry.suffix in (".yaml", ".yml"):
        yield entry, place, None


def _listing(file: Path) -> dict[str, Any]:
    try:
        parsed = documents(read(file))
    except (CannotEdit, UnicodeDecodeError) as error:
        raise Stuck("ManifestUnreadable", f"{file.parent.name}/{file.name}: {error}") from error
    return parsed[0] if parsed else {}
