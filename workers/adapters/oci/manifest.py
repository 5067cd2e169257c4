"""A manifest: its bytes, which are what counts, and what they name."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import orjson

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
INDEXES = frozenset({OCI_INDEX, DOCKER_LIST})
KNOWN = INDEXES | {OCI_MANIFEST, DOCKER_MANIFEST}
SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+"
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
ACCEPT = f"{OCI_INDEX}, {DOCKER_LIST}, {OCI_MANIFEST}, {DOCKER_MANIFEST}, */*;q=0.1"
"""All of them, always: docker-registry 2.8 answers 404 to who does not accept an OCI index."""


class BadManifest(ValueError):
    """The bytes are no manifest that can be copied."""


def sha256(content: bytes) -> str:
    """The digest as OCI writes it."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A blob or manifest that a manifest names."""

    digest: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """The bytes as they came, never encoded again."""

    content: bytes
    media_type: str

    @cached_property
    def digest(self) -> str:
        """Of the bytes."""
        return sha256(self.content)

    @property
    def is_index(self) -> bool:
        """Whether it lists manifests."""
        return self.media_type in INDEXES

    @cached_property
    def children(self) -> tuple[Descriptor, ...]:
        """Manifests of an index, all platforms and attestations: a registry refuses an index without them."""
        return _descriptors(self._document.get("manifests")) if self.is_index else ()

    @cached_property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Config and layers, each once. Foreign layers (`urls`) are not kept in registries."""
        if self.is_index:
            return ()
        layers = [d for d in self._layers if not d.get("urls")]
        return tuple(dict.fromkeys(_descriptors([self._document.get("config"), *layers])))

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """Hosts from which whoever pulls this gets its foreign layers: no registry has those."""
        named = [] if self.is_index else [str(u) for d in self._layers for u in d.get("urls") or ()]
        return tuple(dict.fromkeys(urlsplit(url).hostname or url for url in named))

    def layers(self, media_type: str) -> tuple[Descriptor, ...]:
        """Layers of one type."""
        return _descriptors([d for d in self._layers if d.get("mediaType") == media_type])

    @property
    def _layers(self) -> list[dict[str, Any]]:
        layers = self._document.get("layers") or []
        if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
            raise BadManifest(f"{self.digest} has layers that are none")
        return layers

    @cached_property
    def _document(self) -> dict[str, Any]:
        try:
            document = orjson.loads(self.content)
        except orjson.JSONDecodeError as error:
            raise BadManifest(f"{self.digest} is not JSON: {error}") from error
        if not isinstance(document, dict) or document.get("schemaVersion") != 2:
            raise BadManifest(f"{self.digest} ({self.media_type}) is no manifest of schema version 2")
        if "manifests" in document and ("layers" in document or "config" in document):
            # One reader would take it for an image and another for an index (CVE-2021-41190).
            raise BadManifest(f"{self.digest} is both an index and an image")
        return document


def typed(content: bytes, said: str) -> Manifest:
    """The manifest that came with this Content-Type. Servers of plain files say `application/json`, or nothing.

    Raises BadManifest for schema version 1, whose digest is not that of its bytes.
    """
    if said.startswith(SCHEMA_1):
        raise BadManifest(f"it is of schema version 1 ({said}), which registries no longer take; push it anew")
    if said in KNOWN:
        return Manifest(content, said)
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        return Manifest(content, said)
    if document.get("mediaType") in KNOWN:
        return Manifest(content, str(document["mediaType"]))
    plain = OCI_INDEX if "manifests" in document else OCI_MANIFEST if "layers" in document else said
    return Manifest(content, plain)


def listed(content: bytes) -> tuple[Descriptor, ...]:
    """Manifests in an index that is only a list, as the referrers API gives it."""
    return Manifest(content, OCI_INDEX).children


def _descriptors(values: Any) -> tuple[Descriptor, ...]:
    try:
        found = [Descriptor(str(v["digest"]), int(v["size"])) for v in values or []]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadManifest(f"a descriptor lacks digest or size: {error!r}") from error
    # It becomes a part of URLs that our login goes with.
    if odd := next((d for d in found if not DIGEST.fullmatch(d.digest) or d.size < 0), None):
        raise BadManifest(f"a descriptor names {odd.digest[:100]!r}, {odd.size} bytes: no sha256 digest of anything")
    return tuple(found)
