"""From trigger to next trigger with an empty step, beside the floor of the same broker. `--json`: one object, last.

The floor is what any worker on JetStream must pay for a hop: publish and its ack, delivery to a waiting pull,
confirmed ack. The hop is
what ours takes, by the broker's own timestamps of the two triggers: delivery, decision, claim (compare-and-set),
the empty step, and the atomic batch of its result and the next trigger.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import anyio

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from pool_bench import result  # noqa: E402

from events import subjects  # noqa: E402
from events.envelope import Draft  # noqa: E402
from events.flow import SLUGS, STEPS  # noqa: E402
from events.jetstream import Broker as BrokerSettings  # noqa: E402
from events.jetstream import JetStreamLog, step_durable  # noqa: E402
from events.journal import Journal  # noqa: E402
from events.log import Emit  # noqa: E402
from sandbox.broker import Broker  # noqa: E402
from schemas.events import Requested  # noqa: E402
from schemas.results import StepResult  # noqa: E402
from workers import admission  # noqa: E402
from workers.pool import Pool, Work  # noqa: E402
from workers.scribe import Scribe  # noqa: E402
from workers.world import Order, Report  # noqa: E402

LIMIT = 6.0
BODY = b"x" * 400  # bytes, about an event's size


def empty(slug: str) -> Work:
    """A step that does nothing."""
    done = result(slug)

    async def run(order: Order, report: Report) -> StepResult:
        return done

    return run


async def floor(stream: JetStreamLog, count: int) -> list[float]:
    """Seconds of `count` hops of the barest worker: publish until its ack, publish until a waiting pull has it,
    ack until it is confirmed; each measured by itself and added up, so that nothing overlaps."""
    seconds: list[float] = []
    deliveries = stream.deliveries(step_durable(len(STEPS)))
    subject = subjects.trigger(STEPS[-1])
    for number in range(count + 5):
        start = time.perf_counter()
        await stream.publish_raw(subjects.REJECTED, BODY, f"floor-{start}-{number}")
        acked = time.perf_counter() - start
        waiting = asyncio.ensure_future(anext(deliveries))
        await asyncio.sleep(0.003)  # the pull is at the server before the message is
        start = time.perf_counter()
        await stream.client.publish(subject, BODY)
        delivery = await waiting
        delivered = time.perf_counter() - start
        start = time.perf_counter()
        await delivery.settle()
        seconds.append(acked + delivered + time.perf_counter() - start)
    await deliveries.aclose()  # type: ignore[attr-defined]
    return seconds[5:]


async def run_once(stream: JetStreamLog, journal: Journal, number: int) -> None:
    """One whole run of empty steps."""
    draft = Draft(f"hop-{time.time_ns()}-{number}", "//bench", Requested(), "cutover", datetime.now(UTC))
    seq = await stream.publish(Emit(subjects.REQUESTED, draft))
    with anyio.fail_after(30):
        state = journal.state
        while not (state.run and state.run.request == seq and state.run.closed):
            state = await journal.moved(state.seq)


async def hops(stream: JetStreamLog, runs: int) -> list[float]:
    """Seconds from each trigger to the next, over `runs` runs."""
    journal, scribe = Journal(stream), Scribe("bench.test", "hop", lambda text: text)
    pool = Pool(stream, journal, scribe, {slug: empty(slug) for slug in SLUGS})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(journal.tail)
        tasks.start_soon(pool.serve)
        tasks.start_soon(admission.serve, stream, journal, scribe)
        tasks.start_soon(admission.Registrar(stream, scribe).serve)
        await run_once(stream, journal, -1)
        before = journal.state.seq
        for number in range(runs):
            await run_once(stream, journal, number)
        tasks.cancel_scope.cancel()
    seconds: list[float] = []
    times = await trigger_times(stream, before)
    for first, second in pairwise(times):
        if second[0] == first[0] + 1:
            seconds.append(second[1] - first[1])
    return seconds


async def trigger_times(stream: JetStreamLog, after: int) -> list[tuple[int, float]]:
    """(number of the step, the broker's time of its trigger) above a sequence, in order."""
    found: list[tuple[int, float]] = []
    pattern = f"{subjects.ROOT}.step.*"
    while True:
        body = json.dumps({"seq": after + 1, "next_by_subj": pattern}).encode()
        reply = await stream.client.request(f"$JS.API.STREAM.MSG.GET.{stream.broker.stream}", body, timeout=5)
        message = json.loads(reply.data).get("message")
        if message is None:
            return found
        after = int(message["seq"])
        step = subjects.step_of(message["subject"])
        if step is not None:
            found.append((step.number, seconds_of(message["time"])))


def seconds_of(text: str) -> float:
    """RFC 3339 with nanoseconds -> seconds since midnight; nanoseconds would not fit beside a date."""
    hours, minutes, rest = text.partition("T")[2].rstrip("Z").split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(rest)


def quantile(values: Sequence[float], percent: int) -> float:
    """In milliseconds."""
    return round(statistics.quantiles(values, n=100, method="inclusive")[percent - 1] * 1000, 3)


MEMORY = Path("/dev/shm")


def store() -> Path:
    """Where the broker keeps its files unless told: in memory where there is such a place.

    The server stages every batch in a new directory, so on a shared disk the figure is the disk's, not ours."""
    return MEMORY if os.access(MEMORY, os.W_OK) else Path(tempfile.gettempdir())


async def measure(runs: int, place: Path) -> dict[str, float | int | str]:
    with tempfile.TemporaryDirectory(prefix="hop-", dir=place) as directory:
        async with (
            Broker.start(Path(directory), sync=None) as broker,
            JetStreamLog.open(BrokerSettings(url=broker.url)) as stream,
        ):
            await stream.ensure()
            low = await floor(stream, runs * 4)
            took = await hops(stream, runs)
            low += await floor(stream, runs * 4)
    ratio = statistics.median(took) / statistics.median(low)
    return {
        "benchmark": "hop",
        "hops": len(took),
        "hop_p50_ms": quantile(took, 50),
        "hop_p99_ms": quantile(took, 99),
        "floor_p50_ms": quantile(low, 50),
        "floor_p99_ms": quantile(low, 99),
        "ratio_p50": round(ratio, 2),
        "limit": LIMIT,
        "sync_interval": "default",
        "store": str(place),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="only the JSON object")
    parser.add_argument("--runs", type=int, default=40, help="runs of eight empty steps")
    parser.add_argument("--store", type=Path, default=store(), help="directory of the broker's files (%(default)s)")
    options = parser.parse_args()
    found = asyncio.run(measure(options.runs, options.store))
    if not options.json:
        print(f"hop {found['hop_p50_ms']} ms, floor {found['floor_p50_ms']} ms: {found['ratio_p50']} times")
    print(json.dumps(found))
    sys.exit(float(found["ratio_p50"]) > LIMIT)


if __name__ == "__main__":
    main()
