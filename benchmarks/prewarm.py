"""Step 3's copier beside `skopeo copy --all`: the same corpus, the same kind of registries, one run. `--json`.

Ours counts from the start of its process until every tag is pushed, so does skopeo's (one process an image, as a
script would). What was moved and asked is read from the registries' own access logs. Reading everything back and
hashing it, which skopeo does not do, comes after and is told apart.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import corpus  # noqa: E402
from benchmarks.registries import Debian, docker_registry, far_away  # noqa: E402

HOST, PROJECT = "ghcr.io", "proxy-ghcr"
PEAK, PER_IMAGE = 120, 2  # MiB, requests


# the copy, in a process of its own


async def copy(order: dict[str, Any]) -> dict[str, float | int]:
    """What step 3 does between its list and its result."""
    from workers.adapters.oci import Meter, Reference, Registries, What, placed
    from workers.sovereign import Gitea, Harbor, Login, Sovereign, Upstream

    login = Login(username="bench", password_file=Path(order["password"]))
    sovereign = Sovereign(
        fqdn="bench.test",
        gitea=Gitea(url="http://127.0.0.1:9", login=login),
        harbor=Harbor(url=order["destination"], host="harbor.bench.test", scheme="http", login=login),
        upstreams=(Upstream(host=HOST, project=PROJECT, endpoint=order["source"]),),
    )
    found = [placed(sovereign, Reference.parse(f"{HOST}/{name}:v1"), What.IMAGE) for name in order["images"]]
    wanted = [w for w in found if w is not None]

    async def quietly(done: int) -> None:
        """Nobody listens."""

    async with Registries.open(sovereign) as registries:
        copier = registries.copier()
        plan = await copier.survey(wanted, quietly)
        surveyed = time.time()
        meter = Meter(plan.bytes_to_move, len(plan.todo))
        await copier.copy(plan, meter)
        copied = time.time()
        _mark(order)
        await copier.prove(plan, quietly)
    return {
        "survey_seconds": surveyed - order["started"],
        "seconds": copied - order["started"],
        "proof_seconds": time.time() - copied,
        "bytes_moved": meter.moved,
        "peak_rss_mib": peak_rss_mib(),
    }


def _mark(order: dict[str, Any]) -> None:
    """Where the access logs stand when the copy is done and the proof begins."""
    sizes = [Path(log).stat().st_size for log in order["logs"]]
    Path(order["mark"]).write_text(json.dumps(sizes))


def peak_rss_mib() -> float:
    """`ru_maxrss` would count what the parent held before exec (kernel/exec.c); VmHWM is ours alone."""
    status = Path("/proc/self/status").read_text()
    return round(int(status.partition("VmHWM:")[2].split()[0]) / 1024, 1)


# the measuring


async def ours(
    directory: Path, images: list[str], source_url: str, source: Debian, destination: Debian
) -> dict[str, Any]:
    """Copy in a fresh process; seconds, and what both registries were asked until the proof."""
    before = source.logged, destination.logged
    password, mark = directory / "password", directory / "mark"
    password.write_text("bench")
    order = {
        "images": images,
        "source": source_url,
        "destination": destination.url,
        "password": str(password),
        "logs": [str(source.log), str(destination.log)],
        "mark": str(mark),
        "started": time.time(),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(Path(__file__)), "--copy", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate(json.dumps(order).encode())
    if process.returncode != 0:
        raise SystemExit("the copy failed")
    result: dict[str, Any] = json.loads(out)
    ends = json.loads(mark.read_text())
    asked = [
        registry.seen(start, end) for registry, start, end in zip((source, destination), before, ends, strict=True)
    ]
    return {**result, "asked": asked, "proof": source.seen(ends[0]).requests + destination.seen(ends[1]).requests}


async def skopeo(images: list[str], source_port: int, destination: Debian) -> float:
    """Seconds of `skopeo copy --all`, image by image."""
    started = time.time()
    for name in images:
        process = await asyncio.create_subprocess_exec(
            "skopeo", "copy", "--all", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false",
            f"docker://127.0.0.1:{source_port}/{name}:v1", f"docker://127.0.0.1:{destination.port}/{PROJECT}/{name}:v1",
        )  # fmt: skip
        if await process.wait() != 0:
            raise SystemExit(f"skopeo failed at {name}")
    return time.time() - started


async def measure(size: int, latency_ms: float, directory: Path, beside: bool) -> dict[str, Any]:
    """Everything, on registries below the directory."""
    made = await asyncio.to_thread(corpus.write, directory / "source/data", size, time.time_ns())
    images = list(made.images)
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(docker_registry(directory / "source"))
        port = source.port
        if latency_ms:
            port = await stack.enter_async_context(far_away(port, latency_ms / 1000))
        url = f"http://127.0.0.1:{port}"
        async with docker_registry(directory / "ours") as destination:
            first = await ours(directory, images, url, source, destination)
            there = _digests(directory / "ours/data", made)
            again = await ours(directory, images, url, source, destination)
        await asyncio.to_thread(shutil.rmtree, directory / "ours")
        theirs = None
        if beside:
            async with docker_registry(directory / "skopeo") as destination:
                theirs = await skopeo(images, port, destination)
    return report(made, first, again, theirs, there, latency_ms)


def _digests(data: Path, made: corpus.Corpus) -> dict[str, str]:
    """Image -> digest that its tag has at the destination, from docker-registry's own files."""
    repositories = data / "docker/registry/v2/repositories" / PROJECT
    links = {name: repositories / name / "_manifests/tags/v1/current/link" for name in made.images}
    return {name: link.read_text() if link.exists() else "" for name, link in links.items()}


def report(
    made: corpus.Corpus,
    first: dict[str, Any],
    again: dict[str, Any],
    theirs: float | None,
    there: dict[str, str],
    latency_ms: float,
) -> dict[str, Any]:
    """The figures, and which of the bounds they break."""
    source, re_source, re_destination = first["asked"][0], *again["asked"]
    unequal = sorted(name for name, digest in made.images.items() if there[name] != digest)
    rerun = re_source.requests + re_destination.requests
    found: dict[str, Any] = {
        "benchmark": "prewarm",
        "images": len(made.images),
        "indexes": len(made.indexes),
        "unique_bytes": made.unique_bytes,
        "latency_ms": latency_ms,
        "bytes_ratio": round(source.blob_bytes / made.unique_bytes, 4),
        "vs_skopeo": round(first["seconds"] / theirs, 3) if theirs else None,
        "peak_rss_mib": max(first["peak_rss_mib"], again["peak_rss_mib"]),
        "rerun_requests": round(rerun / len(made.images), 2),
        "rerun_requests_total": rerun,
        "rerun_blob_bytes": re_source.blob_bytes + re_destination.blob_bytes + again["bytes_moved"],
        "rerun_seconds": round(again["seconds"], 2),
        "rerun_proof_requests": again["proof"],
        "seconds": round(first["seconds"], 2),
        "survey_seconds": round(first["survey_seconds"], 2),
        "proof_seconds": round(first["proof_seconds"], 2),
        "skopeo_seconds": round(theirs, 2) if theirs else None,
        "source_requests": source.requests,
        "destination_requests": first["asked"][1].requests,
        "asked_twice": sum(count > 1 for count in source.blobs.values()),
        "digests_unequal": unequal,
    }
    return {**found, "broken": broken(found)}


def broken(found: dict[str, Any]) -> list[str]:
    """Names of the figures that are out of bounds."""
    bounds = {
        "bytes_ratio": found["bytes_ratio"] == 1.0,
        "asked_twice": found["asked_twice"] == 0,
        "digests_unequal": not found["digests_unequal"],
        "rerun_blob_bytes": found["rerun_blob_bytes"] == 0,
        "rerun_requests": found["rerun_requests"] <= PER_IMAGE,
        "peak_rss_mib": found["peak_rss_mib"] <= PEAK,
        "vs_skopeo": found["vs_skopeo"] is None or found["vs_skopeo"] <= 1.0,
    }
    return [name for name, holds in bounds.items() if not holds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="only the JSON object")
    parser.add_argument("--size", type=float, default=1120, help="unique megabytes of the corpus")
    parser.add_argument("--latency-ms", type=float, default=0, help="round trip added before the source")
    parser.add_argument("--alone", action="store_true", help="without skopeo beside it")
    parser.add_argument("--copy", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.copy:
        print(json.dumps(asyncio.run(copy(json.load(sys.stdin)))))
        return
    needed = ["docker-registry"] if options.alone else ["docker-registry", "skopeo"]
    if absent := [name for name in needed if shutil.which(name) is None]:
        sys.exit(f"{' and '.join(absent)} not installed: .ci/run installs them")
    with tempfile.TemporaryDirectory(prefix="prewarm-") as name:
        # skopeo remembers where blobs were; here it shall know nothing and leave nothing.
        os.environ["XDG_DATA_HOME"] = name
        size = int(options.size * 1e6)
        found = asyncio.run(measure(size, options.latency_ms, Path(name), not options.alone))
    if not options.json:
        print(f"{found['seconds']} s, skopeo {found['skopeo_seconds']} s; {found['bytes_ratio']} of the unique bytes")
    print(json.dumps(found))
    sys.exit(bool(found["broken"]))


if __name__ == "__main__":
    main()
