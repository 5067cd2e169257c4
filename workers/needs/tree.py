"""What the mirrored tree names: manifests that Flux applies, charts in source form, and everything else in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from workers.adapters.yaml_quick import NotYaml, parsed
from workers.needs.charts import Chart, NotAChart, needs_of_chart, put
from workers.needs.need import Need, Needs, Object
from workers.needs.objects import in_values, needs_of

LARGEST = 4 * 2**20  # bytes of one file
MOST = 20_000  # files
_VARIABLE = re.compile(r"\$\{(\w+)(?::?[-=]([^}]*))?\}")


def read_tree(root: Path, tree: str, substitutions: Mapping[str, str], own: Iterable[str] = ()) -> Needs:
    """Needs of every manifest and chart in the repository; those of other clusters are theirs.

    What stands beside or below the path that Flux applies, or below one of the Sovereign's `own`, must be there; what
    only lies in the repository is optional.
    """
    start = (root / tree).parent
    ours = {start, *(root / path for path in own)}
    applied: list[Object] = []
    others: list[Object] = []
    notices: list[str] = []
    charts: dict[Path, Chart] = {}
    values: list[tuple[Path, Object]] = []
    """Beside what is applied: values of charts and patches, of which Kustomize makes ConfigMaps and changes."""
    for number, path in enumerate(_files(root, start, ours)):
        if number >= MOST:
            notices.append(f"Git: more than {MOST} files; images in the rest are not seen")
            break
        name = path.relative_to(root)
        if path.stat().st_size > LARGEST:
            notices.append(f"{name}: larger than {LARGEST} bytes, not read")
            continue
        if chart := _chart_of(path, root):
            try:
                put(charts.setdefault(chart, Chart()), path.relative_to(chart).as_posix(), path.read_bytes())
            except NotAChart as error:
                notices.append(f"{name}: not read: {error}")
        elif path.suffix in (".yaml", ".yml", ".json"):
            try:
                found, plain = _objects(path, substitutions)
            except NotYaml as error:
                if ours.intersection(path.parents):
                    notices.append(f"{name}: not read: {error}")
                continue
            (applied if ours.intersection(path.parents) else others).extend(found)
            if ours.intersection(path.parents):
                values += [(name, document) for document in plain]
    read = needs_of(applied, "Git") + needs_of(others, "Git, not applied", optional=True)
    for name, document in values:
        said = list(in_values(document, f"Git: {name}", optional=True))
        read += Needs(tuple(n for n in said if isinstance(n, Need)), tuple(n for n in said if isinstance(n, str)))
    for chart, opened in sorted(charts.items()):
        read += needs_of_chart(opened, f"Git: chart {chart.relative_to(root)}", {})
    return Needs(read.found, (*notices, *read.notices))


def _files(root: Path, start: Path, ours: set[Path]) -> Iterator[Path]:
    """Every file; of directories beside the cluster's own, which are other clusters', none; nothing hidden."""
    foreign = {p for p in start.parent.iterdir() if p != start} if start != root and start.parent != root else set()
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if any(part.startswith(".") for part in parts):
            continue
        if foreign.intersection((path, *path.parents)) and not ours.intersection(path.parents):
            continue
        if path.is_file() and not path.is_symlink():
            yield path


def _chart_of(path: Path, root: Path) -> Path | None:
    """The outermost directory with a Chart.yaml that the file is in."""
    inside = [p for p in path.parents if p != root and root in p.parents and (p / "Chart.yaml").is_file()]
    return inside[-1] if inside else None


def _objects(path: Path, substitutions: Mapping[str, str]) -> tuple[list[Object], list[Object]]:
    """Kubernetes objects in a file, and what is none (values, pipelines)."""
    text = path.read_text(encoding="utf-8", errors="replace")
    text = _VARIABLE.sub(lambda m: substitutions.get(m[1]) or (m[2] if m[2] is not None else m[0]), text)
    documents = [d for d in (_json(text) if path.suffix == ".json" else parsed(text)) if isinstance(d, dict)]
    if path.name in ("kustomization.yaml", "kustomization.yml"):
        documents = [{"kind": "Kustomization", "metadata": {"name": path.parent.name}, **d} for d in documents]
    objects = [d for document in documents for d in _single(document) if isinstance(d.get("kind"), str)]
    return objects, [d for d in documents if "kind" not in d]


def _json(text: str) -> list[Any]:
    """Its one document; tabs, which YAML does not take, are usual in it."""
    try:
        return [json.loads(text)]
    except (ValueError, RecursionError) as error:
        raise NotYaml(str(error)) from error


def _single(document: Object) -> Iterator[Object]:
    """A List's items; anything else is itself."""
    if document.get("kind") == "List":
        items = document.get("items")
        yield from (item for item in items if isinstance(item, dict)) if isinstance(items, list) else ()
    else:
        yield document
