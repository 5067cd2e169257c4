"""What source-controller keeps on disk: an emptyDir, so a new Pod begins with nothing.

Source: `/data` in config/manager/deployment.yaml, fluxcd/source-controller.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
from datetime import datetime
from pathlib import Path

from sandbox.controllers.api import Object
from sandbox.controllers.conditions import stamp

SERVED_AT = "http://source-controller.flux-system.svc.cluster.local."


class Storage:
    """Artifacts below one directory, at the paths that statuses name."""

    def __init__(self, directory: Path) -> None:
        self._root = directory / "data"
        self._owner = directory / "pod"
        self._root.mkdir(parents=True, exist_ok=True)

    def claim(self, pod_uid: str) -> bool:
        """Belong to this Pod. True when it is a new one, and everything is gone."""
        if self._owner.exists() and self._owner.read_text() == pod_uid:
            return False
        shutil.rmtree(self._root, ignore_errors=True)
        self._root.mkdir(parents=True)
        self._owner.write_text(pod_uid)
        return True

    def path(self, kind: str, namespace: str, name: str, file: str = "") -> Path:
        return self._root / kind / namespace / name / file

    def of(self, obj: Object) -> Path | None:
        """The file (or tree) that an object's artifact names, if it is here."""
        relative = ((obj.get("status") or {}).get("artifact") or {}).get("path")
        if not relative:
            return None
        path = self._root / relative
        return path if path.exists() else None

    def keep_file(self, path: Path, content: bytes) -> None:
        """Store one artifact and drop what the object had before."""
        _only(path)
        path.write_bytes(content)

    def keep_tree(self, path: Path, tar: bytes) -> None:
        """Store one artifact, unpacked."""
        _only(path)
        path.mkdir()
        with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
            archive.extractall(path, filter="data")

    def artifact(self, path: Path, revision: str, content: bytes, now: datetime) -> Object:
        """The artifact as a status describes it."""
        relative = path.relative_to(self._root).as_posix()
        return {
            "path": relative,
            "url": f"{SERVED_AT}/{relative}",
            "revision": revision,
            "digest": "sha256:" + hashlib.sha256(content).hexdigest(),
            "size": len(content),
            "lastUpdateTime": stamp(now),
        }

    def forget(self, kind: str, namespace: str, name: str) -> None:
        """Drop what a deleted object had."""
        shutil.rmtree(self.path(kind, namespace, name), ignore_errors=True)


def _only(path: Path) -> None:
    shutil.rmtree(path.parent, ignore_errors=True)
    path.parent.mkdir(parents=True)
