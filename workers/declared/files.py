"""Which file of a checkout declares an object, read as kustomize-controller reads the tree.

It applies `spec.path` of a Kustomization: by its kustomization.yaml, or without one every YAML file below
(kustomize-controller generates the list). Only reads; nothing is followed out of the checkout.
Nothing is built here: there is no kustomize in the image. What is looked at instead is every patch between a manifest
and the cluster (`overlays`), and, once Flux has applied the commit, the live object.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from workers.adapters.yaml_edit import CannotEdit, documents
from workers.adapters.yaml_quick import NotYaml, parsed
from workers.declared.changes import Change, Spot, edited
from workers.declared.overlays import Affix, Layer, Patch, Subject, layer_of, layer_of_flux, meets, overlaid
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

    Raises Stuck where a patch on the way to the cluster would undo a change, or could no longer be made after it:
    nothing is written then.
    """
    wanted = list(changes)
    found: dict[Path, list[tuple[Spot, Change]]] = {}
    declared: set[int] = set()
    texts: dict[Path, str | None] = {}
    for root in roots:
        ways = list(_ways(checkout, root))
        for way in ways:
            text = texts[way.file] = texts[way.file] if way.file in texts else _read(way.file, wanted, way.place)
            for spot, obj, change in _matches(way, text, wanted) if text is not None else ():
                declared.add(id(change))
                _add(found, way.file, (spot, change))
                for patch, pair in overlaid(_subject(obj, way.place), way.layers, obj, change):
                    _for_these_alone(patch, ways, wanted)
                    texts.setdefault(patch.path, read(patch.path))
                    _add(found, patch.path, pair)
    old = {file: text for file, text in texts.items() if text is not None}
    new = {file: _edited(file, old[file], pairs) for file, pairs in found.items()}
    return Edits(
        {file: text for file, text in new.items() if text != old[file]},
        tuple(change for change in wanted if id(change) not in declared),
    )


def _add(found: dict[Path, list[tuple[Spot, Change]]], file: Path, pair: tuple[Spot, Change]) -> None:
    """Raises Stuck where one place shall say two things: a patch that two objects share."""
    pairs = found.setdefault(file, [])
    spot, change = pair
    for other, known in pairs:
        if other == spot and (_clash(known, change) or _clash(change, known)):
            message = f"{file.name} says one thing for {known} and for {change}, which shall differ"
            raise Stuck("ManifestNotEditable", f"{message}; give each a patch of its own, then run the step again")
    if pair not in pairs:
        pairs.append(pair)


def _clash(one: Change, other: Change) -> bool:
    return any(other.fields.get(path, value) != value or path in other.absent for path, value in one.fields.items())


def _for_these_alone(patch: Patch, ways: Iterable[Way], wanted: list[Change]) -> None:
    """Raises Stuck where a patch file, that is to be edited, is also for objects that shall stay as they are."""
    if not patch.target:
        return  # then it names the one that it is for
    for way in ways:
        if patch.layer not in way.layers:
            continue
        for obj in _quickly(way.file):
            subject = _subject(obj, way.place)
            if meets(patch, subject, way.layers) and not any(declares(obj, way.place, change) for change in wanted):
                message = f"{patch.said_by} would have to change, and patches {subject.kind} {subject.raw} as well"
                raise Stuck("DeclaredElsewhere", f"{message}; give that a patch of its own, then run the step again")


def _quickly(file: Path) -> Iterator[Mapping[str, Any]]:
    try:
        found = [document for document in parsed(read(file)) if isinstance(document, Mapping)]
    except (NotYaml, UnicodeDecodeError):
        return  # it declares nothing that is known here; where it might, `_matches` has said so
    yield from (obj for _, obj in _objects(found))


def _mapping(said: Any) -> Mapping[str, Any]:
    return said if isinstance(said, Mapping) else {}


def _subject(document: Mapping[str, Any], place: Root) -> Subject:
    """The object as the patches on its way may name it."""
    meta = _mapping(document.get("metadata"))
    raw, namespace = str(meta.get("name", "")), str(meta.get("namespace") or "")
    return Subject(
        kind=str(document.get("kind", "")),
        group=str(document.get("apiVersion", "")).rpartition("/")[0],
        raw=raw,
        name=place.prefix + substituted(raw, place.substitute) + place.suffix,
        namespaces=(namespace, place.namespace or substituted(namespace, place.substitute)),
        labels=_mapping(meta.get("labels")),
        annotations=_mapping(meta.get("annotations")),
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


def _matches(way: Way, text: str, wanted: list[Change]) -> Iterator[tuple[Spot, Mapping[str, Any], Change]]:
    place = way.place
    # Parsing is slow; a file that holds none of the names cannot declare any of the objects.
    near = [c for c in wanted if _core(c.name, place) in text]
    templated = re.search(r"name:.*\$\{", text) is not None
    if not near and not templated:
        return
    try:
        found = documents(text)
    except CannotEdit as error:
        if not near:
            return
        raise Stuck("ManifestUnreadable", f"{way.file.name}, which Flux applies: {error}") from error
    for spot, obj in _objects(found):
        for change in wanted if templated else near:
            if declares(obj, place, change):
                yield spot, obj, change


def _objects(found: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Spot, Mapping[str, Any]]]:
    """Every object of a manifest; those of a List one by one, as kustomize takes them."""
    for number, document in enumerate(found):
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
    return ((way.file, way.place) for way in _ways(checkout, root))


def listings(checkout: Path, root: Root) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Every kustomization.yaml on the way, and what it says."""
    return ((step.file, step.said) for step in _walk(checkout, root) if isinstance(step, Layer) and step.file)


@dataclass(frozen=True, slots=True)
class Way:
    """A manifest, what happens to its names on the way to the cluster, and who may patch it there, outermost first."""

    file: Path
    place: Root
    layers: tuple[Layer, ...]


def _ways(checkout: Path, root: Root) -> Iterator[Way]:
    return (step for step in _walk(checkout, root) if isinstance(step, Way))


def _walk(checkout: Path, root: Root) -> Iterator[Way | Layer]:
    start = (checkout / root.path).resolve()
    if start.is_dir() and start.is_relative_to(checkout.resolve()):
        layers = (layer_of_flux(root.patches, Affix(root.prefix, root.suffix)),)
        yield from _directory(checkout.resolve(), start, Way(start, root, layers), frozenset())


def _directory(top: Path, directory: Path, way: Way, above: frozenset[Path]) -> Iterator[Way | Layer]:
    if directory in above:
        return
    above = above | {directory}
    listing = _listed_in(directory)
    if listing is None:
        for entry in sorted(directory.iterdir()):
            if not entry.name.startswith("."):
                yield from _entry(top, entry.resolve(), way, above)
        return
    said, place = _listing(listing), way.place
    inner = replace(
        place,
        namespace=place.namespace or said.get("namespace"),
        prefix=place.prefix + str(said.get("namePrefix") or ""),
        suffix=str(said.get("nameSuffix") or "") + place.suffix,
    )
    outside, inside = Affix(place.prefix, place.suffix), Affix(inner.prefix, inner.suffix)
    here = layer_of(top, listing, said, (outside, inside))
    yield here
    # A component patches what its includer lists, not only what it brings along.
    own = (here, *_components(top, directory, said, inside, above))
    below = Way(directory, inner, (*way.layers, *(layer for layer in own if layer not in way.layers)))
    for key in ("resources", "bases", "components"):
        for name in said.get(key) or []:
            if "://" not in str(name):
                yield from _entry(top, (directory / str(name)).resolve(), below, above)


def _components(
    top: Path, directory: Path, said: Mapping[str, Any], affix: Affix, above: frozenset[Path]
) -> Iterator[Layer]:
    for name in said.get("components") or []:
        entry = (directory / str(name)).resolve()
        listing = _listed_in(entry) if entry.is_relative_to(top) and entry not in above and entry.is_dir() else None
        if listing is None:
            continue
        mine = _listing(listing)
        inside = Affix(
            affix.prefix + str(mine.get("namePrefix") or ""), str(mine.get("nameSuffix") or "") + affix.suffix
        )
        yield layer_of(top, listing, mine, (affix, inside))
        yield from _components(top, entry, mine, inside, above | {entry})


def _listed_in(directory: Path) -> Path | None:
    return next((directory / name for name in KUSTOMIZATION_FILES if (directory / name).is_file()), None)


def _entry(top: Path, entry: Path, way: Way, above: frozenset[Path]) -> Iterator[Way | Layer]:
    if not entry.is_relative_to(top):
        return
    if entry.is_dir():
        yield from _directory(top, entry, way, above)
    elif entry.is_file() and entry.suffix in (".yaml", ".yml"):
        yield replace(way, file=entry)


def _listing(file: Path) -> dict[str, Any]:
    try:
        found = documents(read(file))
    except (CannotEdit, UnicodeDecodeError) as error:
        raise Stuck("ManifestUnreadable", f"{file.parent.name}/{file.name}: {error}") from error
    return found[0] if found else {}
