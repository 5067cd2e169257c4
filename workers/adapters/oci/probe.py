"""A tiny image that is made here and exists nowhere else. Pure."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile

import orjson

from workers.adapters.oci.manifest import OCI_MANIFEST, Manifest, sha256

CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def layer(content: bytes) -> tuple[bytes, str]:
    """A gzipped tar archive with the content as its only file, and its diff id."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        member = tarfile.TarInfo("probe")
        member.size, member.mode = len(content), 0o755
        tar.addfile(member, io.BytesIO(content))
    raw = archive.getvalue()
    return gzip.compress(raw, mtime=0), "sha256:" + hashlib.sha256(raw).hexdigest()


def config(diff_id: str) -> bytes:
    """What a container runtime needs to know to unpack it."""
    return orjson.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": ["/probe"]},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        }
    )


def manifest(config_bytes: bytes, layer_bytes: bytes) -> Manifest:
    """A manifest and not an index: containerd takes the target of a tag on any platform."""
    content = orjson.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": _descriptor(CONFIG, config_bytes),
            "layers": [_descriptor(LAYER, layer_bytes)],
        }
    )
    return Manifest(content, OCI_MANIFEST)


def _descriptor(media_type: str, content: bytes) -> dict[str, str | int]:
    return {"mediaType": media_type, "digest": sha256(content), "size": len(content)}
