"""Which paths of a repository a GitRepository's `spec.ignore` keeps from Flux. Pure.

Source: sourceignore of fluxcd/pkg, which is go-git's gitignore matcher: the last pattern that matches decides, a
pattern that matches a directory covers what is below it, and, other than with git itself, `!` brings back what lies
below a directory that was left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator


def hides(ignore: str, path: str) -> bool:
    """True when Flux would not see what is below this directory."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    hidden = False
    for pattern, back in _patterns(ignore):
        if _matches(pattern, parts):
            hidden = not back
    return hidden


def widened(ignore: str, paths: Iterable[str]) -> str:
    """The same, and after it a line for each path that shall be seen."""
    lines = [f"!/{path.strip('/')}" for path in dict.fromkeys(paths)]
    return "\n".join([*ignore.rstrip("\n").splitlines(), *lines]) + "\n"


def _patterns(ignore: str) -> Iterator[tuple[str, bool]]:
    for line in ignore.splitlines():
        text = line.rstrip()
        if text and not text.startswith("#"):
            yield (text[1:], True) if text.startswith("!") else (text, False)


def _matches(pattern: str, parts: list[str]) -> bool:
    """True when the pattern matches the path or a directory above it."""
    bare = pattern.rstrip("/")
    if "/" not in bare:
        return any(re.fullmatch(_glob(bare), part) for part in parts)
    anchored = bare.lstrip("/")
    return any(re.fullmatch(_glob(anchored), "/".join(parts[:n])) for n in range(1, len(parts) + 1))


def _glob(pattern: str) -> str:
    """A gitignore pattern as a regular expression: `**` crosses directories, `*` and `?` do not."""
    found = re.escape(pattern).replace(r"\*\*/", "(?:.*/)?").replace(r"/\*\*", "/.*").replace(r"\*\*", ".*")
    return found.replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
