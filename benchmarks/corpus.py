"""Images for copy benchmarks, written straight into the storage of docker-registry (distribution 2.8).

40 images, 14 of them indexes of two platforms. Four bases are shared by many; every image has layers of its own.
Random bytes, so that nothing compresses; another seed is another corpus, unknown to every cache.
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OCI = "application/vnd.oci.image"
IMAGES, INDEXES, BASES = 40, 14, 4
OWN_LAYERS = (3, 6)
BASE_SHARE = 0.15
"""Part of all unique bytes that is in the shared bases; with it every image names about half of its bytes there."""


@dataclass
class Corpus:
    """What was written."""

    images: dict[str, str] = field(default_factory=dict)
    """Repository -> digest of its tag `v1`."""
    indexes: set[str] = field(default_factory=set)
    """Repositories whose tag is an index."""
    blobs: dict[str, int] = field(default_factory=dict)
    """Digest -> size, config and layers."""
    manifests: int = 0

    @property
    def unique_bytes(self) -> int:
        """Bytes of all blobs, each once."""
        return sum(self.blobs.values())


class Storage:
    """The filesystem driver's layout (registry/storage/paths.go)."""

    def __init__(self, root: Path) -> None:
        self._root = root / "docker/registry/v2"

    def blob(self, repository: str, content: bytes) -> str:
        """Keep the bytes and link them into the repository; their digest."""
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        hexadecimal = digest.removeprefix("sha256:")
        data = self._root / "blobs/sha256" / hexadecimal[:2] / hexadecimal / "data"
        if not data.exists():
            data.parent.mkdir(parents=True, exist_ok=True)
            data.write_bytes(content)
        self.link(repository, digest)
        return digest

    def link(self, repository: str, digest: str) -> None:
        """The repository serves a blob that is there."""
        self._point(repository, f"_layers/sha256/{digest.removeprefix('sha256:')}", digest)

    def manifest(self, repository: str, document: dict[str, Any], tag: str | None) -> dict[str, Any]:
        """Keep the manifest; its descriptor."""
        content = json.dumps(document).encode()
        digest = self.blob(repository, content)
        self._point(repository, f"_manifests/revisions/sha256/{digest.removeprefix('sha256:')}", digest)
        if tag is not None:
            self._point(repository, f"_manifests/tags/{tag}/current", digest)
        return {"mediaType": document["mediaType"], "digest": digest, "size": len(content)}

    def _point(self, repository: str, path: str, digest: str) -> None:
        link = self._root / "repositories" / repository / path / "link"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.write_text(digest)


class _Writer:
    def __init__(self, root: Path, size: int, seed: int) -> None:
        self.corpus = Corpus()
        self._storage = Storage(root)
        self._random = random.Random(seed)
        platforms = IMAGES + INDEXES
        self._own = int(size * (1 - BASE_SHARE) / platforms)
        self._base_size = int(size * BASE_SHARE / (BASES * 2))
        self._bases: dict[tuple[int, str], dict[str, Any]] = {}

    def image(self, number: int) -> None:
        repository = f"bench/image-{number:02}"
        if number < INDEXES:
            children = [self._platform(repository, number, a, None) for a in ("amd64", "arm64")]
            document = {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": children}
            top = self._storage.manifest(repository, document, "v1")
            self.corpus.manifests += 1
            self.corpus.indexes.add(repository)
        else:
            top = self._platform(repository, number, "amd64", "v1")
        self.corpus.images[repository] = top["digest"]

    def _platform(self, repository: str, number: int, architecture: str, tag: str | None) -> dict[str, Any]:
        base = self._base(repository, number % BASES, architecture)
        shares = [self._random.uniform(0.2, 1.0) for _ in range(self._random.randint(*OWN_LAYERS))]
        own = [self._layer(repository, int(self._own * s / sum(shares))) for s in shares]
        platform = {"architecture": architecture, "os": "linux"}
        config = json.dumps({**platform, "config": {"Labels": {"image": repository}}}).encode()
        document = {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.manifest.v1+json",
            "config": self._blob(repository, f"{OCI}.config.v1+json", config),
            "layers": [base, *own],
        }
        self.corpus.manifests += 1
        return {**self._storage.manifest(repository, document, tag), "platform": platform}

    def _base(self, repository: str, base: int, architecture: str) -> dict[str, Any]:
        key = (base, architecture)
        if key not in self._bases:
            self._bases[key] = self._layer(repository, self._base_size)
        self._storage.link(repository, self._bases[key]["digest"])
        return self._bases[key]

    def _layer(self, repository: str, size: int) -> dict[str, Any]:
        return self._blob(repository, f"{OCI}.layer.v1.tar+gzip", self._random.randbytes(max(size, 64)))

    def _blob(self, repository: str, media_type: str, content: bytes) -> dict[str, Any]:
        digest = self._storage.blob(repository, content)
        self.corpus.blobs[digest] = len(content)
        return {"mediaType": media_type, "digest": digest, "size": len(content)}


def write(root: Path, size: int, seed: int) -> Corpus:
    """A corpus of about `size` unique bytes in docker-registry's storage below `root`."""
    writer = _Writer(root, size, seed)
    for number in range(IMAGES):
        writer.image(number)
    return writer.corpus
