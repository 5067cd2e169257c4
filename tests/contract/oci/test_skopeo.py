"""A client that nobody here wrote reads and writes the same servers: skopeo, whole indexes included."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from typing import Any

import pytest

from sandbox.images import Publisher
from sandbox.registry import Store

pytestmark = pytest.mark.skipif(
    shutil.which("skopeo") is None, reason="skopeo is not installed: no foreign client was tried in this run"
)


async def skopeo(*arguments: str) -> bytes:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec("skopeo", "--insecure-policy", *arguments, stdout=pipe, stderr=pipe)
    out, error = await process.communicate()
    assert process.returncode == 0, error.decode()
    return out


async def test_skopeo_copies_a_whole_image_in_and_reads_the_same_digest(server: Any, tmp_path: Any) -> None:
    archive = tmp_path / "layout"
    made = Publisher(Store(tmp_path / "made"), "a/b")
    digest = made.package("ghcr.io/a/b:1.0", "1.0")
    _as_layout(Store(tmp_path / "made"), archive, digest)
    where = f"docker://{server.http.base_url.netloc.decode()}/{server.prefix}a/b:1.0"
    login = ("--dest-creds", "admin:Harbor12345", "--dest-tls-verify=false")
    await skopeo("copy", "--all", "--preserve-digests", *login, f"oci:{archive}", where)
    raw = await skopeo("inspect", "--raw", "--creds", "admin:Harbor12345", "--tls-verify=false", where)
    assert f"sha256:{hashlib.sha256(raw).hexdigest()}" == digest


def _as_layout(store: Store, directory: Any, digest: str) -> None:
    """The image as an OCI layout on disk."""
    (directory / "blobs").mkdir(parents=True)
    shutil.copytree(store.root / "blobs" / "sha256", directory / "blobs" / "sha256")
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    index = store.manifest("a/b", digest)
    assert index is not None
    entry = f'{{"mediaType": "{index.media_type}", "digest": "{digest}", "size": {len(index.content)}}}'
    (directory / "index.json").write_text(f'{{"schemaVersion": 2, "manifests": [{entry}]}}')
