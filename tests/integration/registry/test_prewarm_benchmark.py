"""Step 3's copier between two of Debian's docker-registries: what the benchmark promises, and `kill -9`."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from benchmarks import corpus, prewarm
from benchmarks.registries import Debian, docker_registry, far_away

ROOT = Path(__file__).parents[3]
KILLS = 10
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
pytestmark = pytest.mark.skipif(shutil.which("docker-registry") is None, reason="docker-registry is not installed")


@pytest.mark.timeout(600)
async def test_every_byte_is_moved_once_and_a_second_run_asks_each_side_one_question_an_image(tmp_path: Path) -> None:
    found = await prewarm.measure(6_000_000, 5, tmp_path, beside=False)
    assert found["broken"] == []
    assert (found["bytes_ratio"], found["asked_twice"], found["rerun_blob_bytes"]) == (1.0, 0, 0)
    assert (found["images"], found["indexes"]) == (40, 14)
    assert found["rerun_requests"] <= 2
    assert 0 < found["peak_rss_mib"] <= prewarm.PEAK


def test_what_is_out_of_bounds_is_named() -> None:
    good = {
        "bytes_ratio": 1.0,
        "asked_twice": 0,
        "digests_unequal": [],
        "rerun_blob_bytes": 0,
        "rerun_requests": 2,
        "peak_rss_mib": 120,
        "vs_skopeo": 1.0,
    }
    assert prewarm.broken(good) == []
    bad = {"bytes_ratio": 1.01, "asked_twice": 1, "digests_unequal": ["x"], "rerun_blob_bytes": 1}
    worse = {"rerun_requests": 2.1, "peak_rss_mib": 121, "vs_skopeo": 1.1}
    assert prewarm.broken(bad | worse) == list(bad | worse)


async def test_the_way_is_as_long_as_was_asked_for(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(docker_registry(tmp_path))
        port = await stack.enter_async_context(far_away(source.port, 0.1))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        started = time.monotonic()
        writer.write(b"GET /v2/ HTTP/1.0\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        assert answer.startswith(b"HTTP/1.0 200")
        assert time.monotonic() - started >= 0.1


async def begin(order: dict[str, Any]) -> asyncio.subprocess.Process:
    """Step 3's copy in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "benchmarks/prewarm.py"),
        "--copy",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=ENVIRONMENT,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps({**order, "started": time.time()}).encode())
    process.stdin.close()
    return process


def order(directory: Path, images: list[str], source: Debian, destination: Debian) -> dict[str, Any]:
    (directory / "password").write_text("x")
    return {
        "images": images,
        "source": source.url,
        "destination": destination.url,
        "password": str(directory / "password"),
        "logs": [],
        "mark": str(directory / "mark"),
    }


def state(data: Path) -> set[str]:
    """Every link of every repository, uploads left out: they are the registry's own to purge."""
    top = data / "docker/registry/v2/repositories"
    return {str(p.relative_to(top)) for p in top.rglob("link") if "_uploads" not in p.parts}


def kept(data: Path) -> int:
    """How many blobs and manifests are there."""
    return sum(1 for _ in (data / "docker/registry/v2/blobs/sha256").glob("*/*/data"))


@pytest.mark.timeout(600)
async def test_killed_at_ten_random_moments_it_ends_as_if_undisturbed_and_moves_little_twice(tmp_path: Path) -> None:
    made = await asyncio.to_thread(corpus.write, tmp_path / "source/data", 12_000_000, 7)
    images, everything = list(made.images), len(made.blobs) + made.manifests
    moments = sorted(random.sample(range(everything), KILLS))
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(docker_registry(tmp_path / "source"))
        calm = await stack.enter_async_context(docker_registry(tmp_path / "calm"))
        wild = await stack.enter_async_context(docker_registry(tmp_path / "wild"))
        process = await begin(order(tmp_path, images, source, calm))
        await process.communicate()
        assert process.returncode == 0
        before, killed = source.logged, 0
        for moment in moments:
            process = await begin(order(tmp_path, images, source, wild))
            while await asyncio.to_thread(kept, tmp_path / "wild/data") <= moment and process.returncode is None:
                await asyncio.sleep(0.02)
            if process.returncode is None:
                process.kill()
                killed += 1
            await process.communicate()
        last = await begin(order(tmp_path, images, source, wild))
        out, _ = await last.communicate()
        assert last.returncode == 0, out
        await asyncio.sleep(0.2)  # the registry logs a request when it has ended
        assert killed == KILLS, "it was disturbed"
        assert state(tmp_path / "wild/data") == state(tmp_path / "calm/data")
        moved = source.seen(before).blob_bytes
        assert made.unique_bytes <= moved <= 1.2 * made.unique_bytes, f"{moved / made.unique_bytes:.2f}"
        print(f"killed {killed} times, moved {moved / made.unique_bytes:.3f} of the unique bytes")
