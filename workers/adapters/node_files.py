"""A node's files, changed together: whoever is killed when, each is the old one or the new one.

Before the first change all that is there is kept (`before/`), once and for good. Before every change the texts
that it takes away are put into `undo.json`; that file stands until the change is `commit`ted or `undo`ne, so
the next start knows that one was under way, and what was there when a node last worked.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.errors import Stuck

PART = ".cutover-part"
FILE_MODE, FOLDER_MODE = 0o600, 0o700
"""As k3s makes them: registries.yaml may hold passwords."""


class Disk:
    """Every change on the node's disk is one of these calls, so a test can stop at each of them."""

    def write(self, path: Path, text: str) -> None:
        """A file that nobody looks at yet, whole and on the disk."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def move(self, source: Path, target: Path) -> None:
        """Under its real name, at once: a reader sees what was there before or this."""
        source.replace(target)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def make(self, folder: Path) -> None:
        """A folder and those above it."""
        folder.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)

    def remove(self, path: Path) -> None:
        """A file that may be there."""
        path.unlink(missing_ok=True)

    def clear(self, path: Path) -> None:
        """A file or a whole folder that nobody looks at any more."""
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def read(path: Path) -> str | None:
    """The text, byte for byte even when it is none; None when there is no file. Raises OSError, Stuck."""
    try:
        return path.read_bytes().decode("utf-8", errors="surrogateescape")
    except FileNotFoundError:
        if path.is_symlink():
            # There is a file, on the node: only its folder is seen from here.
            raise linked(path) from None
        return None


def linked(path: Path) -> Stuck:
    """What to say of a link that leads out of what is seen of the node."""
    return Stuck(
        "NodeFileIsLink",
        f"{path} is a link to {path.readlink()}, and the agent sees nothing but this folder: what the node has there "
        "would be lost. Put a copy of it in the link's place, or link to a file in this folder, by a relative path",
    )


@dataclass(frozen=True, slots=True)
class Was:
    """What stood at a path."""

    text: str | None
    folder: bool
    """Its folder was there: an empty one hides `_default` from containerd, so a restored one matters."""


class NodeFiles:
    """Changes files below some folders, with its own notes in `home`."""

    def __init__(self, home: Path, disk: Disk | None = None) -> None:
        self._home, self._disk = home, disk or Disk()

    @property
    def _undo_file(self) -> Path:
        return self._home / "undo.json"

    @property
    def pending(self) -> bool:
        """A change was begun and neither committed nor undone."""
        return self._undo_file.exists()

    def keep(self, files: Mapping[str, Path]) -> None:
        """Copies of these, taken once: name below `before/` -> file. What the first cutover found stays there."""
        kept = self._home / "before"
        if kept.exists():
            return
        part = _part(kept)
        self._disk.clear(part)
        self._disk.make(part)
        for name, path in files.items():
            if (text := read(path)) is not None:
                self._disk.make((part / name).parent)
                self._disk.write(part / name, text)
        self._disk.move(part, kept)

    def begin(self, wanted: Mapping[Path, str | None]) -> int:
        """Make each path hold its text (None: nothing there), in this order; how many changed.

        What an interrupted change took away is remembered on top: that was the last state known to work.
        """
        changed = {path: text for path, text in wanted.items() if read(path) != text}
        if not changed:
            return 0
        undo = self._undo()
        missing = {p: Was(read(p), p.parent.exists()) for p in changed if p not in undo}
        if missing:
            self._note({**undo, **missing})
        for path, text in changed.items():
            self._put(path, text)
        return len(changed)

    def commit(self) -> None:
        """The new state is the state."""
        if not self.pending:
            return
        self._tidy()
        self._disk.remove(self._undo_file)

    def undo(self) -> None:
        """Everything as it was before the change, in the opposite order."""
        for path, was in reversed(self._undo().items()):
            if read(path) != was.text or path.parent.exists() != was.folder:
                self._put(path, was.text, keep_folder=was.folder)
        self.commit()

    def _undo(self) -> dict[Path, Was]:
        text = read(self._undo_file)
        noted: dict[str, dict[str, Any]] = json.loads(text) if text else {}
        return {Path(path): Was(**was) for path, was in noted.items()}

    def _note(self, undo: Mapping[Path, Was]) -> None:
        noted = {str(path): {"text": was.text, "folder": was.folder} for path, was in undo.items()}
        self._put(self._undo_file, json.dumps(noted))

    def _put(self, path: Path, text: str | None, *, keep_folder: bool = False) -> None:
        if text is None:
            self._take(path, keep_folder=keep_folder)
        elif path.parent.exists():
            self._disk.write(_part(path), text)
            self._disk.move(_part(path), path)
        else:
            # A folder without its file would already count (containerd takes the first that exists): both at once.
            self._disk.make(path.parent.parent)
            part = _part(path.parent)
            self._disk.clear(part)
            self._disk.make(part)
            self._disk.write(part / path.name, text)
            self._disk.move(part, path.parent)

    def _take(self, path: Path, *, keep_folder: bool) -> None:
        if not path.parent.exists():
            return
        others = [p for p in path.parent.iterdir() if p != path and p.name != _part(path).name]
        if keep_folder or others:
            self._disk.remove(path)
        else:
            self._disk.clear(_part(path.parent))
            self._disk.move(path.parent, _part(path.parent))
            self._disk.clear(_part(path.parent))

    def _tidy(self) -> None:
        """No half-made file stays of whoever was killed."""
        for left in self._left_over():
            self._disk.clear(left)

    def _left_over(self) -> Iterator[Path]:
        for path in self._undo():
            yield from (p for p in (_part(path), _part(path.parent)) if p.exists())
        if self._home.exists():
            yield from (p for p in self._home.iterdir() if p.name.endswith(PART))


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}{PART}")
