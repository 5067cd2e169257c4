"""100,000 events read from the broker and folded, as `cutover replay` does it. `--json`: one object, last."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from events.envelope import GENESIS, Draft  # noqa: E402
from events.flow import SLUGS  # noqa: E402
from events.fold import fold  # noqa: E402
from events.jetstream import Broker as BrokerSettings  # noqa: E402
from events.jetstream import JetStreamLog  # noqa: E402
from events.picture import picture  # noqa: E402
from events.subjects import JOURNAL  # noqa: E402
from sandbox.broker import Broker  # noqa: E402
from schemas.events import Accepted, StepProgress, StepStarted  # noqa: E402
from schemas.progress import Progress  # noqa: E402

LIMIT = 8.0  # seconds
START = datetime(2026, 1, 1, tzinfo=UTC)
TOKEN = 2


def history(count: int) -> Iterator[bytes]:
    """A run that has been copying for a very long time: a chain of `count` events."""
    import hashlib

    previous = GENESIS
    for number in range(1, count + 1):
        data: Accepted | StepStarted | StepProgress
        if number == 1:
            data = Accepted(operator="bench", request=1, steps=SLUGS)
        elif number == TOKEN:
            data = StepStarted(step=SLUGS[0], worker="w", trigger=1, lease_seconds=20)
        else:
            progress = Progress(message="copying", percent=number * 100 // count, bytes_done=number << 20)
            data = StepProgress(step=SLUGS[0], worker="w", token=TOKEN, progress=progress)
        draft = Draft(
            f"run-1.{number}",
            "//bench/cutover",
            data,
            SLUGS[0],
            START + timedelta(seconds=number),
            run="run-1",
            attempt=1,
        )
        raw = draft.sealed(number, previous).encode()
        previous = hashlib.sha256(raw).hexdigest()
        yield raw


async def fill(stream: JetStreamLog, raws: list[bytes]) -> None:
    """Put them into the journal as fast as the broker takes them."""
    for first in range(0, len(raws), 500):
        async with anyio.create_task_group() as tasks:
            # Only the last of a burst is waited for: messages of one connection are stored in order.
            burst = raws[first : first + 500]
            for raw in burst[:-1]:
                await stream.client.publish(JOURNAL, raw)
            tasks.start_soon(stream.publish_raw, JOURNAL, burst[-1])


async def measure(count: int) -> dict[str, float | int | str]:
    raws = list(history(count))
    with tempfile.TemporaryDirectory(prefix="replay-") as directory:
        async with (
            Broker.start(Path(directory)) as broker,
            JetStreamLog.open(BrokerSettings(url=broker.url, budget=60.0)) as stream,
        ):
            await stream.ensure()
            await fill(stream, raws)
            start = time.perf_counter()
            entries = await stream.since(0)
            read = time.perf_counter()
            state = fold(entries)
            shown = picture(state)
            done = time.perf_counter()
    assert len(entries) == count, len(entries)
    assert not state.broken, state.broken
    assert state.length == count
    assert shown["streamSequence"] == str(count)
    return {
        "benchmark": "replay",
        "events": count,
        "seconds": round(done - start, 3),
        "read_seconds": round(read - start, 3),
        "fold_seconds": round(done - read, 3),
        "limit": LIMIT,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="only the JSON object")
    parser.add_argument("--events", type=int, default=100_000)
    options = parser.parse_args()
    found = asyncio.run(measure(options.events))
    if not options.json:
        print(f"{found['events']} events in {found['seconds']} s")
    print(json.dumps(found))
    sys.exit(float(found["seconds"]) > LIMIT)


if __name__ == "__main__":
    main()
