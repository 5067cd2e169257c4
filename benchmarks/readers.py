"""What it costs one process to tell a run to many readers. `--json`: one object, last.

A real `cutover serve` as a process of its own on a real broker, a run of eight steps that do nothing but say how far
they are, and so many readers of its events. Each must have seen every event in order. CPU and memory are the
process', as the kernel counts them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from pool_bench import opened  # noqa: E402
from readers_bench import readers, served, started, telling  # noqa: E402

from events.subjects import JOURNAL  # noqa: E402


async def measured(count: int, directory: Path) -> dict[str, float | int | bool]:
    """One run with so many readers."""
    async with opened(directory) as bench, served(bench, directory) as api:
        alone = api.memory()
        crowd = await readers(api.url, count)
        await asyncio.sleep(1)
        idle_from, idle_cpu = time.monotonic(), api.cpu()
        await asyncio.sleep(3)
        idle = (api.cpu() - idle_cpu) / (time.monotonic() - idle_from)
        connected = api.memory()
        before, begin = api.cpu(), time.monotonic()
        await bench.worker(telling(3, 0.3), lease=20.0)
        assert await asyncio.to_thread(started, api.url) == 202
        await asyncio.gather(*(reader.ended for reader in crowd))
        cpu, seconds = api.cpu() - before, time.monotonic() - begin
        events = [entry.seq for entry in await bench.entries(JOURNAL)]
        told = sum(len(reader.ids) for reader in crowd)
        found = {
            "readers": count,
            "events": len(events),
            "seconds": round(seconds, 1),
            "in_order": all(reader.ids == events[: len(reader.ids)] for reader in crowd),
            "told": told,
            "cpu_seconds": round(cpu, 2),
            "cpu_microseconds_per_event_and_reader": round(1e6 * cpu / told, 1),
            "cpu_share_idle": round(idle, 3),
            "bytes_each": sum(reader.size for reader in crowd) // count,
            "rss_alone_mib": round(alone / 2**20, 1),
            "rss_connected_mib": round(connected / 2**20, 1),
            "rss_after_mib": round(api.memory() / 2**20, 1),
            "kib_per_reader": round((api.memory() - alone) / 1024 / count, 1),
        }
        for reader in crowd:
            reader.transport.abort()
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readers", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        found = asyncio.run(measured(given.readers, Path(directory)))
    if given.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:<40} {value}")


if __name__ == "__main__":
    main()
