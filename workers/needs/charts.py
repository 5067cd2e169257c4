"""A chart opened, packed or as a directory in Git, and the images that it names by default. Nothing is rendered.

Read are values.yaml (with what the release sets, merged as Helm does), subcharts that are not switched off, image
lists in Chart.yaml's annotations, and `image:` lines of templates as far as they only look values up. What would
need rendering is counted and told. Bounded: a chart is a text of strangers.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from workers.adapters.oci import What
from workers.adapters.yaml_quick import NotYaml, parsed
from workers.needs.need import Need, Needs, Object
from workers.needs.spellings import lines, spelled

PACKED = 20 * 2**20
"""Bytes of an archive; Helm's own limit for what is in it is 100 MiB (helm.sh/helm/v4, loader/archive)."""
UNPACKED = 60 * 2**20  # bytes of one chart, all its files together
FILE = 2 * 2**20  # bytes of one file; of a larger one it is told that nobody looked
FILES = 5000  # in one chart
DEPTH = 3  # subcharts inside subcharts
_WANTED = re.compile(r"(?:Chart\.yaml|requirements\.yaml|values\.yaml|templates/.+\.(?:ya?ml|tpl))")
_CALL = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}")
_WORD = re.compile(r'"[^"]*"|\$?\.[\w.-]+|\w+')


class NotAChart(ValueError):
    """The bytes are no chart, or one that is too large to look into."""


@dataclass(slots=True)
class Chart:
    """What of a chart is read: its own files by path, and its subcharts by name of directory."""

    files: dict[str, str] = field(default_factory=dict)
    below: dict[str, Chart] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    """Files that are too large to look into, by path."""

    def document(self, name: str) -> dict[str, Any]:
        """The first document of a file; {} when there is none. Raises NotYaml."""
        documents = parsed(self.files.get(name, ""))
        return documents[0] if documents and isinstance(documents[0], dict) else {}


def unpacked(archive: bytes, depth: int = 0) -> Chart:
    """A chart's archive, opened in memory. Raises NotAChart."""
    if len(archive) > PACKED or depth > DEPTH:
        raise NotAChart(f"{len(archive)} bytes, {depth} deep: too large to look into")
    chart, size, count = Chart(), 0, 0
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r|gz") as tar:
            for member in tar:
                size, count = size + member.size, count + 1
                if size > UNPACKED or count > FILES:
                    raise NotAChart(f"more than {UNPACKED} bytes or {FILES} files in it")
                path = member.name.partition("/")[2]
                if not member.isfile():
                    continue
                if member.size > FILE:
                    chart.unread += [path] if _wanted(path) else []
                elif (file := tar.extractfile(member)) is not None:
                    put(chart, path, file.read(), depth)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        if isinstance(error, NotAChart):
            raise
        raise NotAChart(f"{type(error).__name__}: {error}") from error
    if "Chart.yaml" not in chart.files:
        raise NotAChart("there is no Chart.yaml in it")
    return chart


def _wanted(path: str) -> bool:
    """Would it be looked into, here or in a subchart that lies unpacked?"""
    while path.startswith("charts/") and path.count("/") > 1:
        path = path.split("/", 2)[2]
    return _WANTED.fullmatch(path) is not None or (path.startswith("charts/") and path.endswith(".tgz"))


def put(chart: Chart, path: str, content: bytes, depth: int = 0) -> None:
    """Add a file of the chart, by its path below the chart's directory. Raises NotAChart for a bad subchart."""
    first, _, rest = path.partition("/")
    name, _, inner = rest.partition("/")
    if first == "charts" and inner:
        put(chart.below.setdefault(name, Chart()), inner, content, depth)
    elif first == "charts" and name.endswith(".tgz"):
        chart.below[re.sub(r"-v?\d[^/]*\.tgz$", "", name)] = unpacked(content, depth + 1)
    elif _WANTED.fullmatch(path):
        chart.files[path] = content.decode("utf-8", errors="replace")


def needs_of_chart(chart: Chart, reason: str, values: Object) -> Needs:
    """Every image that the chart names by default, with the release's own values. All are optional."""
    found: dict[str, str] = {}
    loose: dict[str, str] = {}
    unseen: list[str] = []
    notices = list(_look(chart, values, "", found, loose, unseen))
    if unseen:
        shown = ", ".join(unseen[:3]) + (f" and {len(unseen) - 3} more" if len(unseen) > 3 else "")
        notices.append(f"{len(unseen)} image lines of its templates need rendering and were not seen: {shown}")
    needs = [Need(What.IMAGE, image, f"{reason}, {where}", optional=True) for image, where in found.items()]
    needs += [Need(What.IMAGE, image, f"{reason}, {at}", optional=True, loose=True) for image, at in loose.items()]
    return Needs(tuple(needs), tuple(f"{reason}: {notice}" for notice in notices))


def _look(
    chart: Chart, values: Object, at: str, found: dict[str, str], loose: dict[str, str], unseen: list[str]
) -> Iterator[str]:
    """Look into one chart and those below; yields what was not seen."""
    try:
        meta = chart.document("Chart.yaml")
        own = merged(chart.document("values.yaml"), values)
    except NotYaml as error:
        yield f"{at or 'chart'}: values or Chart.yaml not read: {error}"
        return
    version = str(meta.get("appVersion") or "")
    # A subchart's part of the values is its own: an empty tag there means its version, not ours.
    theirs = {str(d.get("alias") or d.get("name")) for d in _dependencies(meta)} | chart.below.keys()
    said = spelled({key: value for key, value in own.items() if key not in theirs}, version)
    for image, path in said.images.items():
        found.setdefault(image, f"default value {at}{path}")
    for image, path in said.loose.items():
        loose.setdefault(image, f"default value {at}{path}")
    if not said.whole:
        yield f"{at}values.yaml is too large, the rest of it was not looked at"
    yield from (f"{at}{path} is larger than {FILE} bytes and was not looked at" for path in chart.unread)
    for listed in _annotated(meta):
        if isinstance(listed, NotYaml):
            yield f"{at}Chart.yaml: a list of images in it was not read: {listed}"
        else:
            found.setdefault(listed, f"{at}Chart.yaml")
    scope = {"Values": own, "Chart": {"AppVersion": version, "Version": str(meta.get("version") or "")}}
    for path in sorted(p for p in chart.files if p.startswith("templates/")):
        for number, line in lines(chart.files[path]):
            said_there = looked_up(line, scope)
            if said_there is None:
                unseen.append(f"{at}{path}:{number}")
            elif "/" in said_there or ":" in said_there:
                found.setdefault(said_there, f"{at}{path}:{number}")
    for name, below in chart.below.items():
        yield from _below(name, below, meta, own, at, found, loose, unseen)


def _below(
    name: str, below: Chart, meta: Object, own: Object, at: str, found: dict[str, str], loose: dict[str, str],
    unseen: list[str],
) -> Iterator[str]:  # fmt: skip
    declared = [d for d in _dependencies(meta) if d.get("name") == name]
    for dependency in declared or [{}]:
        if (switch := _switched_off(dependency, own)) is not None:
            yield f"{at}{name}: switched off by {switch}, not opened"
            continue
        alias = str(dependency.get("alias") or name)
        theirs = own.get(alias) if isinstance(own.get(alias), Mapping) else {}
        scope = {**(theirs or {}), **({"global": own["global"]} if "global" in own else {})}
        yield from _look(below, scope, f"{at}{alias}/", found, loose, unseen)


def _dependencies(meta: Object) -> list[Object]:
    listed = meta.get("dependencies")
    return [d for d in listed if isinstance(d, Mapping)] if isinstance(listed, list) else []


def _switched_off(dependency: Object, own: Object) -> str | None:
    """The condition that switches a subchart off; the first one that is set decides, as in Helm."""
    for condition in str(dependency.get("condition") or "").split(","):
        value = lookup(own, condition.strip())
        if isinstance(value, bool):
            return None if value else condition.strip()
    return None


def _annotated(meta: Object) -> Iterator[str | NotYaml]:
    """Image lists that packagers write down: `artifacthub.io/images`, and Bitnami's `images`; what is no list, told."""
    annotations = meta.get("annotations")
    if not isinstance(annotations, Mapping):
        return
    for key in ("artifacthub.io/images", "images"):
        try:
            documents = parsed(str(annotations.get(key) or ""))
        except NotYaml as error:
            yield error
            continue
        for entry in documents[0] if documents and isinstance(documents[0], list) else ():
            if isinstance(entry, Mapping) and isinstance(entry.get("image"), str):
                yield entry["image"]


# values


def merged(base: Object, over: Object) -> dict[str, Any]:
    """Helm's coalescing: maps merge, everything else is replaced, null removes."""
    whole = dict(base)
    for key, value in over.items():
        if value is None:
            whole.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(whole.get(key), Mapping):
            whole[key] = merged(whole[key], value)
        else:
            whole[key] = value
    return whole


def lookup(scope: Any, path: str) -> Any:
    """What stands at a dotted path; None when nothing does."""
    for key in filter(None, path.split(".")):
        scope = scope.get(key) if isinstance(scope, Mapping) else None
    return scope


def looked_up(text: str, scope: Object) -> str | None:
    """The text with its expressions replaced by values, as far as they only look up; None when one does more."""
    whole = True

    def replaced(match: re.Match[str]) -> str:
        nonlocal whole
        value = _value(match.group(1), scope)
        whole = whole and value is not None
        return value or ""

    text = _CALL.sub(replaced, text).strip().strip("\"'")
    return text if whole and "{{" not in text else None


def _value(expression: str, scope: Object) -> str | None:
    """`.Values.a | default .Chart.AppVersion | quote`, `default .Chart.AppVersion .Values.a`; None for all else."""
    value = ""
    for number, part in enumerate(expression.split("|")):
        words = _WORD.findall(part)
        if not words or "".join(words) != re.sub(r"\s+", "", part):
            return None
        name, *rest = words
        if name in ("quote", "squote", "toString", "trim") and not rest and number:
            continue
        if name == "default" and len(rest) == 2 - bool(number):
            value = (_atom(rest[1], scope) if not number else value) or _atom(rest[0], scope) or ""
        elif not rest and not number and (name.startswith(('"', ".", "$."))):
            value = _atom(name, scope) or ""
        else:
            return None
    return value or None


def _atom(word: str, scope: Object) -> str | None:
    if word.startswith('"'):
        return word[1:-1]
    found = lookup(scope, word.removeprefix("$").removeprefix("."))
    return str(found) if isinstance(found, (str, int, float)) and not isinstance(found, bool) else None
