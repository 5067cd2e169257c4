"""Patches that kustomize makes on the way from a manifest to the object: they win over what the manifest says.

A patch that lies in a file of its own is changed there. Any other that would undo a change, or that kustomize could no
longer make once the change is there (RFC 6902: an operation on a field that is gone, a `test` of what was), is told
before anything is pushed: Flux would apply the patch's word, or nothing at all (kustomize, `patches` and its older
spellings).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from workers.adapters.yaml_edit import CannotEdit
from workers.adapters.yaml_quick import NotYaml, parsed
from workers.declared.changes import Change, Named, Spot, plain
from workers.declared.changes import Path as Field
from workers.errors import Stuck

LISTED = ("patches", "patchesStrategicMerge", "patchesJson6902")
LABELS, ANNOTATIONS = ("commonLabels", "labels"), ("commonAnnotations",)
FLUX = "spec.patches of its Kustomization"


@dataclass(frozen=True, slots=True)
class Affix:
    """What kustomizations put before and after a name."""

    prefix: str = ""
    suffix: str = ""

    def off(self, name: str) -> str:
        """The name without it."""
        return name.removeprefix(self.prefix).removesuffix(self.suffix)


@dataclass(frozen=True, slots=True)
class Layer:
    """A kustomization between a manifest and the cluster: its patches, and what it and those above do to names."""

    file: Path | None
    """None for the Flux Kustomization itself."""
    said: Mapping[str, Any]
    affixes: tuple[Affix, ...]
    """What names get after this one's patches; and after this one as a whole."""
    patches: tuple[tuple[str, Path | None, Mapping[str, Any], tuple[Any, ...]], ...]


@dataclass(frozen=True, slots=True)
class Patch:
    """One patch: what it is for, what it says, and the file it lies in, if it has one."""

    layer: Layer
    said_by: str
    target: Mapping[str, Any]
    number: int
    document: Any
    """A mapping that is merged in, or a list of JSON patch operations."""
    file: Path | None

    @property
    def path(self) -> Path:
        """The file of a patch that has one."""
        if self.file is None:
            raise LookupError(self.said_by)
        return self.file


@dataclass(frozen=True, slots=True)
class Subject:
    """An object as a patch may name it: as its manifest does, as the cluster does, or in between."""

    kind: str
    group: str
    raw: str
    """Its name in the manifest."""
    name: str
    """Its name in the cluster."""
    namespaces: tuple[str, ...]
    """Of the manifest, and of the cluster; empty where nothing says one."""
    labels: Mapping[str, Any]
    annotations: Mapping[str, Any]
    """As the manifest has them."""


def layer_of_flux(patches: Iterable[Mapping[str, Any]], affix: Affix) -> Layer:
    """A Flux Kustomization, which kustomize-controller makes part of the kustomization.yaml below its path."""
    found = tuple((FLUX, None, each.get("target") or {}, _texts(each.get("patch"))) for each in patches)
    return Layer(None, {}, (Affix(), affix), found)


def layer_of(top: Path, listing: Path, said: Mapping[str, Any], affixes: tuple[Affix, ...]) -> Layer:
    """A kustomization.yaml below `top`, and what it says."""
    return Layer(listing, said, affixes, tuple(_of_listing(top, listing, said)))


def overlaid(
    subject: Subject, layers: Iterable[Layer], obj: Mapping[str, Any], change: Change
) -> Iterator[tuple[Patch, tuple[Spot, Change]]]:
    """What has to be changed in which patch file, for one object on its way.

    Raises Stuck for a patch that would undo a change, or could not be made after it, and lies in no file of its own.
    """
    layers = tuple(layers)
    for patch in (patch for layer in layers for patch in _patches(layer)):
        if not meets(patch, subject, layers) or not (undone := _undone(patch.document, obj, change)):
            continue
        if patch.file is None or not isinstance(patch.document, Mapping):
            paths = ", ".join(".".join(map(str, path)) for path in undone)
            message = f"{change}: {patch.said_by} patches {paths} on the way to the cluster"
            raise Stuck("DeclaredElsewhere", f"{message}; change that patch, then run the step again")
        fields = {path: value for path, value in change.fields.items() if path in undone}
        absent = tuple(path for path in change.absent if path in undone)
        yield patch, ((patch.number, ()), replace(change, fields=fields, absent=absent))


def _patches(layer: Layer) -> Iterator[Patch]:
    for said_by, file, target, documents in layer.patches:
        for number, document in enumerate(documents):
            yield Patch(layer, said_by, target, number, document, file)


def _of_listing(
    top: Path, listing: Path, said: Mapping[str, Any]
) -> Iterator[tuple[str, Path | None, Mapping[str, Any], tuple[Any, ...]]]:
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
            yield where, file, entry.get("target") or {}, _texts(text)


def _is_file(listing: Path, entry: Any) -> bool:
    try:
        return "\n" not in str(entry) and (listing.parent / str(entry)).is_file()
    except (OSError, ValueError):
        return False  # longer than any name is: the patch itself, in one line


def _texts(text: Any) -> tuple[Any, ...]:
    try:
        return tuple(parsed(str(text))) if text else ()
    except NotYaml:
        return ()


def meets(patch: Patch, subject: Subject, layers: Iterable[Layer]) -> bool:
    """True when the patch is for the object: by its target, else by the name in it.

    Kustomize takes a name and a namespace as the manifest has them, or as they are when the patch's turn comes. Labels
    are given on the way too: a selector is taken for fulfilled if it is with any of those.
    """
    layers = tuple(layers)
    names = {subject.raw, *(affix.off(subject.name) for affix in patch.layer.affixes)}
    said = (str(layer.said["namespace"]) for layer in layers if layer.said.get("namespace"))
    namespaces = {*filter(None, subject.namespaces), *said}
    if patch.target:
        wanted = {"kind": {subject.kind}, "group": {subject.group}, "name": names, "namespace": namespaces}
        return (
            all(_selects(patch.target.get(key), found) for key, found in wanted.items())
            and _fulfils(patch.target.get("labelSelector"), subject.labels, _given(layers, *LABELS))
            and _fulfils(patch.target.get("annotationSelector"), subject.annotations, _given(layers, *ANNOTATIONS))
        )
    document = patch.document
    meta = document.get("metadata") if isinstance(document, Mapping) else None
    if not isinstance(meta, Mapping) or document.get("kind") != subject.kind or meta.get("name") not in names:
        return False
    group = str(document.get("apiVersion") or "").rpartition("/")[0]
    return group in ("", subject.group) and (not (said_ := meta.get("namespace")) or _in(str(said_), namespaces))


def _in(namespace: str, found: Iterable[str]) -> bool:
    """What nothing says a namespace of may be in any."""
    return not (known := set(found)) or namespace in known


def _selects(pattern: Any, found: Iterable[str]) -> bool:
    """Targets are anchored regular expressions; one that says nothing selects all, and so does what nobody knows."""
    known = [text for text in found if text]
    try:
        return not pattern or not known or any(re.fullmatch(str(pattern), text) for text in known)
    except re.error:
        return str(pattern) in known


_TERM = re.compile(r"\s*(!?)\s*([\w./-]+)\s*(?:(==?|!=)\s*([\w.-]*)|(in|notin)\s*\(([^)]*)\))?\s*(?:,|$)")


def _given(layers: Iterable[Layer], *keys: str) -> dict[str, Any]:
    """Labels (or annotations) that kustomizations on the way give to what they list."""
    found: dict[str, Any] = {}
    for said in (layer.said.get(key) for layer in layers for key in keys):
        pairs = [each.get("pairs") for each in said if isinstance(each, Mapping)] if isinstance(said, list) else [said]
        found.update(pair for each in pairs if isinstance(each, Mapping) for pair in each.items())
    return found


def _fulfils(selector: Any, own: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    """True when a selector (kubernetes.io, labels and selectors) may select; one that cannot be read does."""
    text, terms = str(selector or "").strip(), []
    while text:
        if (term := _TERM.match(text)) is None:
            return True
        terms.append(term)
        text = text[term.end() :]
    return any(all(_holds(term, labels) for term in terms) for labels in (own, {**own, **given}))


def _holds(term: re.Match[str], labels: Mapping[str, Any]) -> bool:
    absent, key, compared, value, among, values = term.groups()
    have = str(labels[key]) if key in labels else None
    if compared or among:
        wanted = {value} if compared else {each.strip() for each in values.split(",")}
        return (have in wanted) == (compared != "!=" and among != "notin")
    return (have is None) == bool(absent)


# --- what a patch does to a change -----------------------------------------------------------------------------

NOT_SAID = object()


def _undone(document: Any, obj: Mapping[str, Any], change: Change) -> tuple[Field, ...]:
    """The fields of a change that the patch says otherwise, or that it needs as they were."""
    wanted: dict[Field, Any] = {**dict.fromkeys(change.absent), **change.fields}
    if isinstance(document, Mapping):
        return tuple(path for path, value in wanted.items() if _merged_away(document, path, value))
    operations = [op for op in document if isinstance(op, Mapping)] if isinstance(document, list) else []
    return tuple(
        path for path, value in wanted.items() if any(_operates(op, _words(obj, path), value) for op in operations)
    )


def _merged_away(document: Mapping[str, Any], path: Field, wanted: Any) -> bool:
    """True when a merge of the document leaves something else than wanted at the path."""
    here: Any = document
    for depth, part in enumerate(path):
        if isinstance(here, Mapping) and here.get("$patch") in ("delete", "replace"):
            return wanted is not None and bool(_said(here, path[depth:]) != wanted)
        here = _said(here, (part,))
        if here is NOT_SAID:
            return False
    return bool(here != wanted)


def _said(value: Any, path: Field) -> Any:
    """What a value has at a path; None where it says null, there or above; NOT_SAID where it says nothing."""
    for part in path:
        if value is None:
            return None
        if isinstance(part, Named):
            items = value if isinstance(value, list) else []
            named = [item for item in items if isinstance(item, Mapping) and item.get("name") == part.name]
            value = named[-1] if named else NOT_SAID
        elif isinstance(value, Mapping):
            value = value.get(part, NOT_SAID)
        elif isinstance(value, list) and isinstance(part, int):
            value = value[part] if part < len(value) else NOT_SAID
        else:
            return NOT_SAID
        if value is NOT_SAID:
            return NOT_SAID
    return value


def _words(obj: Mapping[str, Any], path: Field) -> tuple[Field, list[str]]:
    """A path, and how a JSON pointer spells it in this object."""
    try:
        return path, [str(part) for part in plain(obj, path)]
    except CannotEdit:
        return path, [str(part) for part in path]


def _operates(operation: Mapping[str, Any], field: tuple[Field, list[str]], wanted: Any) -> bool:
    """True when an operation of RFC 6902 undoes what is wanted, or fails once it is there."""
    path, words = field
    kind, parts, start = operation.get("op"), _pointer(operation, "path"), _pointer(operation, "from")
    below = wanted is None and len(parts) > len(words) and parts[: len(words)] == words
    above = words[: len(parts)] == parts
    if kind in ("move", "copy"):
        gone = wanted is None and start[: len(words)] == words
        return above or below or gone or (kind == "move" and words[: len(start)] == start)
    if kind == "remove":
        # What is gone already cannot be removed: then nothing is built any more.
        return above or below
    if kind not in ("add", "replace", "test") or not above:
        return below
    said = _said(operation.get("value"), path[len(parts) :])
    return bool((None if wanted is None and said is NOT_SAID else said) != wanted)


def _pointer(operation: Mapping[str, Any], key: str) -> list[str]:
    return [part.replace("~1", "/").replace("~0", "~") for part in str(operation.get(key) or "").split("/")[1:]]
