"""How people spell an image in values and manifests. Pure: a document in, references out.

Whole (`image: ghcr.io/a/b:1`), in parts (`registry`, `repository`, `tag`, `digest`, under many names), and as text in
templates that nobody renders. What has neither tag nor digest is told, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

MOST = 50_000
"""Nodes of one document that are looked at: YAML's aliases can make a small text endless."""
_REPOSITORY = ("repository", "name", "image", "repo")
_REGISTRY = ("registry", "defaultRegistry", "hub")
_TAG = ("tag", "version")
_DIGEST = ("digest", "sha")
_HEX = re.compile(r"[0-9a-f]{64}")
_LINE = re.compile(r"""^\s*(?:-\s+)?["']?(?P<key>\w*[iI]mage)["']?\s*:\s*(?P<value>\S.*?)\s*$""")
_LISTED = re.compile(r"(?i)(?:^|\.)[\w-]*images$")
_WHOLE = re.compile(r"(?=[^/]*[.:])[\w.-]+(?::\d+)?/[^\s:@]+(?::[\w.-]+)?(?:@sha256:[0-9a-f]{64})?")
_COMMENT = re.compile(r"\s+#.*$")


@dataclass(slots=True)
class Spelled:
    """What one document names."""

    images: dict[str, str] = field(default_factory=dict)
    """Reference -> path of the key that names it."""
    loose: dict[str, str] = field(default_factory=dict)
    """The same, of plain texts below a key `...images` that begin with a host and end with a tag or digest."""
    untagged: list[str] = field(default_factory=list)
    """Paths of what has neither tag nor digest."""
    whole: bool = True
    """False: the document is too large, and the rest of it was not looked at."""


def spelled(values: Any, version: str = "") -> Spelled:
    """Every image that the values name. `version`: what an empty tag stands for (a chart's appVersion)."""
    found = Spelled()
    left = MOST
    todo: list[tuple[str, Any]] = [("", values)]
    default = _text(_part(values, "global", "imageRegistry")) or _text(_part(values, "global", "image", "registry"))
    while todo:
        left -= 1
        if left < 0:
            found.whole = False
            break
        path, value = todo.pop()
        if _LISTED.search(path):
            left -= _plain(found, path, value)
        if isinstance(value, list):
            todo += [(f"{path}[{n}]", each) for n, each in enumerate(value)]
        elif isinstance(value, Mapping):
            taken = _mapping(found, path, value, version, default)
            todo += [(f"{path}.{key}" if path else str(key), v) for key, v in value.items() if key not in taken]
    return found


def _mapping(found: Spelled, path: str, value: Mapping[Any, Any], version: str, registry: str) -> set[Any]:
    """Take the image that the mapping is, and those that its keys hold as text; the keys that are done with."""
    last = re.sub(r"\[\d+\]$", "", path).rpartition(".")[2].lower()
    if (repository := _first(value, "repository")) or (last.endswith("image") and _first(value, *_REPOSITORY)):
        name = repository or _first(value, *_REPOSITORY)
        pinned = any(_text(value.get(key)) for key in (*_TAG, *_DIGEST))
        if "://" not in name and (pinned or last.endswith("image") or "tag" in value):
            _add(found, path, _joined(value, name, version, registry))
            return {*_REPOSITORY, *_REGISTRY}
    taken: set[Any] = set()
    for key, text in value.items():
        word = str(key)
        prefix = re.match(r"(?i)^(.*image)(?:repository|name)$", word)
        if prefix and isinstance(text, str) and "/" in text and "://" not in text:
            flat = {p: value.get(f"{prefix.group(1)}{p.capitalize()}") for p in ("registry", "tag", "digest")}
            # CNPG's `imageName` is whole; a Harbor-like `imageRepository` has its tag beside it.
            _add(found, f"{path}.{word}".lstrip("."), _joined(flat, text, version, registry))
            taken.add(key)
        elif word.lower().endswith("image") and isinstance(text, str) and text and "://" not in text:
            beside = {p: _first(value, p, f"{word}{p.capitalize()}") for p in ("tag", "digest")}
            if any(beside.values()) or "/" in text or ":" in text:
                _add(found, f"{path}.{word}".lstrip("."), _joined({**beside, **_hub(value)}, text, "", registry))
            taken.add(key)
    name, text = _text(value.get("name")), value.get("value")
    if "IMAGE" in name and isinstance(text, str) and "/" in text and "://" not in text:
        _add(found, f"{path}.{name}".lstrip("."), text)  # an operator's environment: RELATED_IMAGE_...
    return taken


def _plain(found: Spelled, path: str, value: Any) -> int:
    """Texts of a list or map of images, and how many it looked at. Without a host or a tag they may be anything."""
    if not isinstance(value, (list, Mapping)):
        return 0
    for key in value if isinstance(value, Mapping) else range(len(value)):
        text = value[key]
        if isinstance(text, str) and _WHOLE.fullmatch(text) and ("@" in text or ":" in text.rpartition("/")[2]):
            found.loose.setdefault(text, f"{path}[{key}]" if isinstance(value, list) else f"{path}.{key}")
    return len(value)


def _hub(value: Mapping[Any, Any]) -> dict[str, str]:
    return {"registry": _text(value["hub"])} if "hub" in value else {}


def _add(found: Spelled, path: str, reference: str) -> None:
    name = reference.partition("@")[0]
    if "@" in reference or ":" in name.rpartition("/")[2]:
        found.images.setdefault(reference, path)
    elif reference:
        found.untagged.append(f"{path}: {reference}")


def _joined(value: Mapping[Any, Any], name: str, version: str, registry: str) -> str:
    """The parts as one reference."""
    if "@" in name:
        return name
    own = registry or _first(value, *_REGISTRY)
    whole = f"{own.rstrip('/')}/{name}" if own else name
    digest = _first(value, *_DIGEST) if value.get("useDigest", True) else ""
    tag = _first(value, *_TAG) or ("" if digest else version)
    if tag and ":" not in name.rpartition("/")[2]:
        whole += f":{tag}"
    if _HEX.fullmatch(digest):
        digest = f"sha256:{digest}"
    return f"{whole}@{digest}" if digest else whole


def _first(value: Mapping[Any, Any], *keys: str) -> str:
    return next((text for key in keys if (text := _text(value.get(key)))), "")


def _text(value: Any) -> str:
    """A tag may look like a number; a mapping or a flag is none."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return ""
    return str(value).strip()


def _part(value: Any, *path: str) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def lines(text: str) -> Iterator[tuple[int, str]]:
    """(number, value) of every line that says `image:`, as it stands: templates are read so, for they are no YAML."""
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) < 1000 and (match := _LINE.match(line)):
            value = _COMMENT.sub("", match["value"]).strip()
            yield number, value[1:-1] if value[:1] in "\"'" and value[-1:] == value[:1] else value
