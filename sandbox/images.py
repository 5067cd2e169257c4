"""Images as upstream publishes them: small, real in shape, and the same bytes for the same reference, always.

Most are OCI indexes of two platforms with an attestation for each; some are Docker manifest lists, some a
single Docker manifest. Layers are gzipped tar archives; a few base layers are shared by all.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tarfile
from collections.abc import Iterable
from functools import cache
from typing import Any

from sandbox.registry.store import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Store

Json = dict[str, Any]
Part = tuple[str, bytes, Json]
"""Media type, content, and what else its descriptor says."""
PLATFORMS = ("amd64", "arm64")
_BASES = ("debian", "alpine", "distroless")
_EPOCH = "2026-04-30T00:00:00Z"
_OCI = ("application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar+gzip")
_DOCKER = (
    "application/vnd.docker.container.image.v1+json",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
)


def number(seed: str, below: int) -> int:
    """A number that follows from the text alone."""
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8]) % below


@cache
def layer(name: str, size: int) -> tuple[bytes, str]:
    """A layer with one file of `size` bytes that do not compress, and its diff id."""
    content = random.Random(name).randbytes(size)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        member = tarfile.TarInfo(f"opt/{name.replace(':', '_').rpartition('/')[2]}")
        member.size, member.mode = size, 0o755
        tar.addfile(member, io.BytesIO(content))
    raw = archive.getvalue()
    return gzip.compress(raw, compresslevel=1, mtime=0), "sha256:" + hashlib.sha256(raw).hexdigest()


class Publisher:
    """Writes images into one repository of a store."""

    def __init__(self, store: Store, repository: str) -> None:
        self._store = store
        self._repository = repository

    def image(self, reference: str, tag: str) -> str:
        """The image of this reference, in the kind that its name decides; returns the tag's digest."""
        match number(f"kind {reference}", 6):
            case 0:
                return str(self._platform(reference, "amd64", docker=True, tag=tag)["digest"])
            case 1:
                return self._index(reference, DOCKER_LIST, tag, attested=False)
            case _:
                digest = self._index(reference, OCI_INDEX, tag, attested=True)
        if number(f"signed {reference}", 3) == 0:
            self._cosign(digest)
        if number(f"sbom {reference}", 4) == 0:
            self._sbom(digest)
        return digest

    def chart(self, name: str, version: str, archive: bytes) -> str:
        """A Helm chart as an OCI artifact (helm.sh/docs/topics/registries)."""
        config = json.dumps({"apiVersion": "v2", "name": name, "version": version}).encode()
        document = self._manifest(
            ("application/vnd.cncf.helm.config.v1+json", config),
            [("application/vnd.cncf.helm.chart.content.v1.tar+gzip", archive, {})],
        )
        return str(self._put(document, OCI_MANIFEST, version.replace("+", "_"))["digest"])

    def package(self, reference: str, tag: str) -> str:
        """A Crossplane package: an image of two platforms whose first layer is marked as the package."""
        return self._index(reference, OCI_INDEX, tag, attested=False, marks={"io.crossplane.xpkg": "base"})

    # parts

    def _index(self, reference: str, media_type: str, tag: str, *, attested: bool, marks: Json | None = None) -> str:
        docker = media_type == DOCKER_LIST
        children = [self._platform(reference, a, docker=docker, marks=marks) for a in PLATFORMS]
        attestations = [self._attestation(c) for c in children] if attested else []
        document: Json = {"schemaVersion": 2, "mediaType": media_type, "manifests": children + attestations}
        if not docker:
            document["annotations"] = {"org.opencontainers.image.created": _EPOCH}
        return str(self._put(document, media_type, tag)["digest"])

    def _platform(
        self,
        reference: str,
        architecture: str,
        *,
        docker: bool,
        tag: str | None = None,
        marks: Json | None = None,
    ) -> Json:
        base = _BASES[number(f"base {reference}", len(_BASES))]
        own = 4096 + number(f"size {reference}", 48 * 1024)
        layers = [layer(f"{reference}-{architecture}", own), layer(f"{base}-{architecture}", 80 * 1024)]
        platform = {"architecture": architecture, "os": "linux"}
        config = {
            **platform,
            "created": _EPOCH,
            "config": {"Entrypoint": ["/opt/run"], "Labels": {"org.opencontainers.image.ref.name": reference}},
            "rootfs": {"type": "layers", "diff_ids": [diff for _, diff in layers]},
        }
        config_type, layer_type = _DOCKER if docker else _OCI
        media_type = DOCKER_MANIFEST if docker else OCI_MANIFEST
        parts: list[Part] = [(layer_type, content, {}) for content, _ in layers]
        if marks:
            parts[0] = (layer_type, layers[0][0], {"annotations": marks})
        document = self._manifest((config_type, json.dumps(config).encode()), parts, media_type)
        return {**self._put(document, media_type, tag), "platform": platform}

    def _attestation(self, child: Json) -> Json:
        """BuildKit's form: a manifest of platform unknown/unknown that names what it attests."""
        statement = {
            "_type": "https://in-toto.io/Statement/v0.1",
            "predicateType": "https://slsa.dev/provenance/v0.2",
            "subject": [{"digest": {"sha256": child["digest"].removeprefix("sha256:")}}],
        }
        part: Part = ("application/vnd.in-toto+json", json.dumps(statement).encode(), {})
        document = self._manifest((_OCI[0], b'{"architecture":"unknown","os":"unknown"}'), [part])
        return {
            **self._put(document, OCI_MANIFEST, None),
            "platform": {"architecture": "unknown", "os": "unknown"},
            "annotations": {
                "vnd.docker.reference.type": "attestation-manifest",
                "vnd.docker.reference.digest": child["digest"],
            },
        }

    def _cosign(self, digest: str) -> None:
        """A signature under cosign's tag (`sha256-<hex>.sig`)."""
        payload = json.dumps({"critical": {"image": {"docker-manifest-digest": digest}}}).encode()
        part: Part = ("application/vnd.dev.cosign.simplesigning.v1+json", payload, {})
        self._put(self._manifest((_OCI[0], b"{}"), [part]), OCI_MANIFEST, digest.replace(":", "-") + ".sig")

    def _sbom(self, digest: str) -> None:
        """An SBOM that refers to the image by `subject`."""
        sbom = json.dumps({"spdxVersion": "SPDX-2.3", "name": digest}).encode()
        kind = "application/spdx+json"
        document = self._manifest(("application/vnd.oci.empty.v1+json", b"{}"), [(kind, sbom, {})])
        subject = self._store.manifest(self._repository, digest)
        size = len(subject.content) if subject else 0
        document |= {
            "artifactType": kind,
            "subject": {"mediaType": OCI_INDEX, "digest": digest, "size": size},
        }
        self._put(document, OCI_MANIFEST, None)

    def _manifest(self, config: tuple[str, bytes], layers: Iterable[Part], media_type: str = OCI_MANIFEST) -> Json:
        return {
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": self._blob(*config),
            "layers": [{**self._blob(kind, content), **more} for kind, content, more in layers],
        }

    def _blob(self, media_type: str, content: bytes) -> Json:
        digest = self._store.put_blob(self._repository, content)
        return {"mediaType": media_type, "digest": digest, "size": len(content)}

    def _put(self, document: Json, media_type: str, tag: str | None) -> Json:
        content = json.dumps(document, indent=2).encode()
        digest = self._store.put_manifest(self._repository, content, media_type, tag)
        return {"mediaType": media_type, "digest": digest, "size": len(content)}
