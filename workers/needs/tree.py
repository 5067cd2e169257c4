"""What the mirrored tree names: manifests that Flux applies, charts in source form, and everything else in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from workers.adapters.yaml_quick import NotYaml, parsed
from workers.needs.charts import Chart, NotAChart, needs_of_chart, put
from workers.needs.need import Needs, Object
from workers.needs.objects import needs_of

LARGEST = 4 * 2**20  # bytes of one file
MOST = 20_000  # files
_VARIABLE = re.compile(r"\$\{(\w+)(?::?[-=]([^}]*))?\}")


def read_tree(root: Path, tree: str, substitutions: Mapping[str, str]) -> Needs:
    """Needs of every manifest and chart in the repository; those of other clusters are theirs.

    What stands beside or below the path that Flux applies must be there; what only lies in the repository is optional.
    """
    start = (root / tree).parent
    applied: list[Object] = []
    others: list[Object] = []
    notices: list[str] = []
    charts: dict[Path, Chart] = {}
    for number, path in enumerate(_files(root, start)):
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
        elif path.suffix in (".yaml", ".yml"):
            try:
                found = _objects(path, substitutions)
            except NotYaml as error:
                if start in path.parents:
                    notices.append(f"{name}: not read: {error}")
            else:
                (applied if start in path.parents else others).extend(found)
    read = needs_of(applied, "Git") + needs_of(others, "Git, not applied", optional=True)
    for chart, opened in sorted(charts.items()):
        read += needs_of_chart(opened, f"Git: chart {chart.relative_to(root)}", {})
    return Needs(read.found, (*notices, *read.notices))


def _files(root: Path, start: Path) -> Iterator[Path]:
    """Every file; of directories beside the cluster's own, which are other clusters', none; nothing hidden."""
    foreign = {p for p in start.parent.iterdir() if p != start} if start != root and start.parent != root else set()
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if any(part.startswith(".") for part in parts) or foreign.intersection((path, *path.parents)):
            continue
        if path.is_file() and not path.is_symlink():
            yield path


def _chart_of(path: Path, root: Path) -> Path | None:
    """The outermost directory with a Chart.yaml that the file is in."""
    inside = [p for p in path.parents if p != root and root in p.parents and (p / "Chart.yaml").is_file()]
    return inside[-1] if inside else None


def _objects(path: Path, substitutions: Mapping[str, str]) -> list[Object]:
    """Kubernetes objects in a file; other YAML (values, pipelines) is none."""
    text = path.read_text(encoding="utf-8", errors="replace")
    text = _VARIABLE.sub(lambda m: substitutions.get(m[1]) or (m[2] if m[2] is not None else m[0]), text)
    documents = [d for d in parsed(text) if isinstance(d, dict)]
    if path.name in ("kustomization.yaml", "kustomization.yml"):
        documents = [{"kind": "Kustomization", "metadata": {"name": path.parent.name}, **d} for d in documents]
    return [d for document in documents for d in _single(document) if d.get("kind")]


def _single(document: Object) -> Iterator[Object]:
    """A List's items; anything else is itself."""
    if document.get("kind") == "List":
        yield from (item for item in document.get("items") or () if isinstance(item, dict))
    else:
        yield document
