"""What kustomize-controller builds from a directory: pure but for reading the files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from sandbox.controllers.api import Object

_VARIABLE = re.compile(r"\$?\$\{([A-Za-z_][A-Za-z0-9_]*)(?:(:=|:-)([^}]*))?\}")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FIRST = ("CustomResourceDefinition", "Namespace")


class BuildFailed(Exception):
    """The directory does not build."""


def substitute(text: str, variables: Mapping[str, str]) -> str:
    """`${VAR}`, `${VAR:=default}` and `${VAR:-default}`; an unknown variable is empty, `$${VAR}` is kept."""

    def value(match: re.Match[str]) -> str:
        if match.group(0).startswith("$$"):
            return match.group(0)[1:]
        name, default = match.group(1), match.group(3)
        return variables.get(name) or (default if match.group(2) else "")

    return _VARIABLE.sub(value, text)


def build(root: Path, path: str, variables: Mapping[str, str] | None) -> list[Object]:
    """Every object below `path`, definitions and Namespaces first. Raises BuildFailed."""
    base = (root / path).resolve()
    if not base.is_relative_to(root.resolve()) or not base.is_dir():
        raise BuildFailed(f"kustomization path not found: {path}")
    objects: list[Object] = []
    for file in _files(base):
        text = file.read_text(encoding="utf-8")
        try:
            found = list(_documents(substitute(text, variables) if variables else text))
        except yaml.YAMLError as error:
            raise BuildFailed(f"{file.name}: {type(error).__name__}") from error
        for obj in found:
            if not isinstance(obj, dict) or "kind" not in obj or "metadata" not in obj:
                raise BuildFailed(f"{file.name}: not a Kubernetes object")
            objects.append(obj)
    return sorted(objects, key=lambda o: _FIRST.index(o["kind"]) if o["kind"] in _FIRST else len(_FIRST))


def entry(obj: Object) -> dict[str, str]:
    """One line of status.inventory: `<namespace>_<name>_<group>_<kind>`, and the version."""
    group, _, version = obj["apiVersion"].rpartition("/")
    meta = obj["metadata"]
    return {"id": f"{meta.get('namespace', '')}_{meta['name']}_{group}_{obj['kind']}", "v": version}


def stale(before: Iterable[Mapping[str, str]], now: Iterable[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """Inventory lines that are no longer wanted."""
    wanted = {line["id"] for line in now}
    return [line for line in before if line["id"] not in wanted]


def _documents(text: str) -> Iterator[Any]:
    return (d for d in yaml.load_all(text, Loader=_LOADER) if d)


def _files(base: Path) -> Iterator[Path]:
    listing = base / "kustomization.yaml"
    if not listing.exists():
        yield from sorted(p for p in base.rglob("*.yaml") if p.name != "kustomization.yaml")
        return
    for name in (yaml.load(listing.read_text(encoding="utf-8"), Loader=_LOADER) or {}).get("resources") or []:
        target = base / name
        if target.is_dir():
            yield from _files(target)
        elif target.is_file():
            yield target
        else:
            raise BuildFailed(f"accumulating resources: {name}: no such file or directory")
