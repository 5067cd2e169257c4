"""`cutover work` with nothing to do: all eight steps, admission, projector, watchman and the drift watch.

A whole rehearsal first, so that the drift watch has a complete cutover to watch; then CPU and memory of the worker
process, over a minute. `--json`: one object, last.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

import anyio
import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from events.envelope import data_of, read  # noqa: E402
from events.jetstream import JetStreamLog  # noqa: E402
from events.subjects import JOURNAL  # noqa: E402
from sandbox.box import Box  # noqa: E402
from sandbox.crew import Crew  # noqa: E402
from schemas.events import Completed, Failed, Requested  # noqa: E402
from workers.entrypoints import asking  # noqa: E402
from workers.entrypoints.settings import Settings, load  # noqa: E402

CPU, MEMORY = 1.0, 120.0  # percent of a core, MiB
QUIET = 20.0  # seconds after the last event until the measure begins: the drift watch has its first look
FLUX = 60.0  # seconds between two looks of Flux at Git, as on a real Sovereign


async def cut_over(settings: Settings, stream: JetStreamLog) -> None:
    """Ask, and wait for the end. The last look comes before it; the drift watch tells only what is new."""
    await asking.publish(settings, stream, Requested(operator="bench"))
    async for entry in stream.read(JOURNAL, live=True):
        data = data_of(read(entry.raw))
        if isinstance(data, Failed):
            raise SystemExit(f"the cutover failed at {data.step}: {data.reason}: {data.message}")
        if isinstance(data, Completed):
            return


async def measure(process: psutil.Process, seconds: float) -> dict[str, float]:
    """CPU time used, and the most memory that was seen."""
    begin, before = time.monotonic(), process.cpu_times()
    peak = 0.0
    while (left := begin + seconds - time.monotonic()) > 0:
        peak = max(peak, process.memory_info().rss / 2**20)
        await anyio.sleep(min(1.0, left))
    after, elapsed = process.cpu_times(), time.monotonic() - begin
    used = after.user + after.system - before.user - before.system
    return {"seconds": round(elapsed, 1), "cpu_percent": round(100 * used / elapsed, 3), "rss_mib": round(peak, 1)}


async def bench(seconds: float) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="idle-") as directory:
        async with Box.open(Path(directory), hold=3.0, interval=FLUX) as box:
            settings = load(box.settings_file)
            async with (
                JetStreamLog.open(settings.nats) as stream,
                Crew.at_work(box.settings_file, Path(directory), 1) as crew,
            ):
                await stream.ensure()
                with anyio.fail_after(300):
                    await cut_over(settings, stream)
                await anyio.sleep(QUIET)
                return await measure(psutil.Process(crew.members[0].pid), seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to measure; default 60")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    asked = parser.parse_args()
    found = asyncio.run(bench(asked.seconds))
    passed = found["cpu_percent"] < CPU and found["rss_mib"] < MEMORY
    if asked.json:
        print(json.dumps({"benchmark": "idle", **found, "cpu_limit": CPU, "rss_limit": MEMORY, "passed": passed}))
    else:
        print(f"{found['cpu_percent']} % of a core, {found['rss_mib']} MiB, over {found['seconds']} s")
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
