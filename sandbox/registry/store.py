"""Blobs, manifests, tags and uploads of a registry, as files: what was pushed is served byte for byte.

Laid out like docker/distribution: blobs once for all repositories, and links that say which repository has which.
Names that begin with `_` cannot be part of a repository's name, so they are free for our own directories.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
INDEXES = frozenset({OCI_INDEX, DOCKER_LIST})
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})


def sha256(content: bytes) -> str:
    """The digest as OCI writes it."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


@dataclass(frozen=True, slots=True)
class Stored:
    """A manifest as it was pushed."""

    digest: str
    media_type: str
    content: bytes

    @property
    def document(self) -> dict[str, Any]:
        """The manifest, read."""
        parsed: dict[str, Any] = json.loads(self.content)
        return parsed

    @property
    def is_index(self) -> bool:
        """Whether it lists other manifests."""
        return self.media_type in INDEXES


class Store:
    """Everything one registry holds, below one directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = root / "blobs" / "sha256"
        self._repositories = root / "repositories"
        self._uploads = root / "uploads"
        for directory in (self._blobs, self._repositories, self._uploads):
            directory.mkdir(parents=True, exist_ok=True)

    # blobs

    def blob_path(self, digest: str) -> Path:
        """Where the blob's bytes are, whether or not they are there."""
        return self._blobs / digest.removeprefix("sha256:")

    def has_blob(self, repository: str, digest: str) -> bool:
        """Whether this repository may serve the blob."""
        return self._link(repository, "_layers", digest).exists() and self.blob_path(digest).exists()

    def link_blob(self, repository: str, digest: str) -> None:
        """This repository serves the blob from now on."""
        _write(self._link(repository, "_layers", digest), b"")

    def put_blob(self, repository: str, content: bytes) -> str:
        """Keep the bytes; returns their digest."""
        digest = sha256(content)
        if not self.blob_path(digest).exists():
            _write(self.blob_path(digest), content)
        self.link_blob(repository, digest)
        return digest

    def delete_blob(self, repository: str, digest: str) -> bool:
        """Take the blob from this repository; False when it was not there."""
        return _unlink(self._link(repository, "_layers", digest))

    def linked_bytes(self, repository: str) -> int:
        """Bytes of the blobs that the repository serves."""
        links = (self._repositories / repository / "_layers").glob("*")
        return sum(path.stat().st_size for link in links if (path := self._blobs / link.name).exists())

    # uploads

    def begin_upload(self, repository: str) -> str:
        """An empty upload; returns its id."""
        upload = uuid.uuid4().hex
        _write(self._uploads / upload, b"")
        _write(self._uploads / f"{upload}.repository", repository.encode())
        return upload

    def upload_path(self, repository: str, upload: str) -> Path | None:
        """The upload's file; None when there is no such upload in this repository."""
        owner = self._uploads / f"{upload}.repository"
        if not re.fullmatch(r"[0-9a-f]{32}", upload) or not owner.exists():
            return None
        return self._uploads / upload if owner.read_text() == repository else None

    def commit_upload(self, repository: str, upload: str, digest: str) -> bool:
        """The upload becomes a blob. False, and the upload is gone, when its bytes are not that digest."""
        path = self._uploads / upload
        with path.open("rb") as file:
            found = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
        if found != digest:
            self.drop_upload(upload)
            return False
        os.replace(path, self.blob_path(digest))
        self.link_blob(repository, digest)
        self.drop_upload(upload)
        return True

    def drop_upload(self, upload: str) -> None:
        """Forget the upload."""
        _unlink(self._uploads / upload)
        _unlink(self._uploads / f"{upload}.repository")

    # manifests

    def put_manifest(self, repository: str, content: bytes, media_type: str, tag: str | None = None) -> str:
        """Keep the manifest as it is; returns its digest."""
        digest = self.put_blob(repository, content)
        _write(self._link(repository, "_manifests", digest), media_type.encode())
        if tag is not None:
            self.tag(repository, tag, digest)
        return digest

    def manifest(self, repository: str, reference: str) -> Stored | None:
        """The manifest that a tag or digest names."""
        digest = reference if reference.startswith("sha256:") else self.tags(repository).get(reference)
        if digest is None or not DIGEST.fullmatch(digest):
            return None
        link = self._link(repository, "_manifests", digest)
        if not link.exists():
            return None
        return Stored(digest, link.read_text(), self.blob_path(digest).read_bytes())

    def manifests(self, repository: str) -> Iterator[Stored]:
        """Every manifest of the repository, tagged or not."""
        directory = self._repositories / repository / "_manifests"
        for link in sorted(directory.glob("*")) if directory.is_dir() else ():
            if stored := self.manifest(repository, f"sha256:{link.name}"):
                yield stored

    def delete_manifest(self, repository: str, digest: str) -> bool:
        """The manifest and its tags are gone; False when it was not there."""
        for tag, target in self.tags(repository).items():
            if target == digest:
                self.untag(repository, tag)
        return _unlink(self._link(repository, "_manifests", digest))

    # tags

    def tag(self, repository: str, tag: str, digest: str) -> None:
        """The tag names this manifest from now on."""
        _write(self._repositories / repository / "_tags" / tag, digest.encode())

    def untag(self, repository: str, tag: str) -> bool:
        """The tag is gone; False when it was not there."""
        return _unlink(self._repositories / repository / "_tags" / tag)

    def tags(self, repository: str) -> dict[str, str]:
        """Tag -> digest."""
        directory = self._repositories / repository / "_tags"
        if not directory.is_dir():
            return {}
        return {path.name: path.read_text() for path in sorted(directory.iterdir())}

    # repositories

    def repositories(self, below: str = "") -> list[str]:
        """Names of the repositories that ever held something, in order."""
        start = self._repositories / below
        found = {str(d.parent.relative_to(self._repositories)) for d in start.rglob("_*") if d.is_dir()}
        return sorted(found)

    def exists(self, repository: str) -> bool:
        """Whether anything was ever pushed here."""
        return any((self._repositories / repository / d).is_dir() for d in ("_manifests", "_layers"))

    def delete_repository(self, repository: str) -> None:
        """Nothing of the repository is left; blobs stay, others may use them."""
        for part in ("_manifests", "_layers", "_tags"):
            shutil.rmtree(self._repositories / repository / part, ignore_errors=True)

    def referrers(self, repository: str, digest: str) -> list[Stored]:
        """Manifests whose `subject` is this digest."""
        return [m for m in self.manifests(repository) if m.document.get("subject", {}).get("digest") == digest]

    def _link(self, repository: str, kind: str, digest: str) -> Path:
        return self._repositories / repository / kind / digest.removeprefix("sha256:")


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.draft") if content else path
    draft.write_bytes(content)
    if draft is not path:
        os.replace(draft, path)


def _unlink(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True
