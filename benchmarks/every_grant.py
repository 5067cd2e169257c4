"""Each grant of the chart taken away by itself: kinds of objects at the API server, subjects at the broker.

Writes docs/evidence/every-grant/: what was lost, who noticed, in which words. Ends with 1 when a loss was not named,
or when a run was complete without what it needed. Less than an hour.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support"), str(ROOT / "tests" / "acceptance")]

from every_grant import Recorder, Row, Sweep, left  # noqa: E402
from granted_scene import opened  # noqa: E402
from rare_grants import RARE  # noqa: E402

from events.flow import SLUGS  # noqa: E402
from events.journal import Journal  # noqa: E402
from sandbox.kube.access import Ask  # noqa: E402

EVIDENCE = ROOT / "docs" / "evidence" / "every-grant"
Calls = list[tuple[str, Ask, str]]


def say(line: str) -> None:
    """To whoever waits."""
    print(line, file=sys.stderr, flush=True)


async def recorded(place: Path) -> Calls:
    """What a whole run asks of the API server: account, ask, step."""
    async with opened(place) as ground:
        await ground.seal()
        await ground.by_hand()
        journal = Journal(ground.stream)

        def stage() -> str:
            run = journal.state.run
            return (run.current or SLUGS[-1]) if run is not None else ""

        recorder = Recorder(stage)
        ground.box.kube.api.asked = recorder
        tail = asyncio.create_task(journal.tail())
        state = await ground.run()
        await asyncio.sleep(2)
        tail.cancel()
        assert state.complete, state.run
        return list(recorder.calls)


async def kinds(place: Path, calls: Calls, rows: list[Row]) -> None:
    """Grants at the API server."""
    async with opened(place) as ground:
        await ground.seal()
        await ground.by_hand()
        sweep = Sweep(ground, Journal(ground.stream), say, rows)
        await sweep.steps(calls)
        if not (await sweep.idle()).complete:
            run = (await sweep.idle()).run
            await sweep.order(run.failed_step if run is not None and run.phase == "failed" else SLUGS[0])
        await sweep.last_step()
        for part in (sweep.agents, sweep.control, sweep.supply, sweep.api):
            await part()
        say(f"not missed: {', '.join(map(str, left(sweep)))}")
        for gone in left(sweep):
            why = RARE.get(str(gone), "")
            rows.append(Row(gone.account, str(gone), "not asked for in this run", why, bool(why)))


def table(rows: list[Row], minutes: float) -> str:
    """For people."""
    head = [
        "# Every grant, taken away by itself", "",
        "Made by `make every-grant` (benchmarks/every_grant.py) in a box with the chart's own grants enforced; "
        f"{len(rows)} grants, {minutes:.0f} minutes. `make test` holds it against what the chart grants now.", "",
        "| class | grant | noticed by | what was said |", "|---|---|---|---|",
    ]  # fmt: skip
    lines = [
        f"| {row.account.rpartition(':')[2]} | `{row.grant.partition(': ')[2]}` | {row.noticed} | "
        f"{row.said.replace('|', '/').replace(chr(10), ' ')} |"
        for row in rows
    ]
    return "\n".join([*head, *lines]) + "\n"


async def bench(only: str) -> int:
    """How many losses were not named."""
    began, rows = time.monotonic(), list[Row]()
    with tempfile.TemporaryDirectory(prefix="every-grant-") as directory:
        place = Path(directory)
        if only in ("", "kinds"):
            await kinds(place / "kinds", await recorded(place / "recorded"), rows)
        if only in ("", "subjects"):
            from every_subject import Subjects

            async with opened(place / "subjects", grace=2.0, lease=4.0) as ground:
                await Subjects(ground, Journal(ground.stream), say, rows).all()
    EVIDENCE.mkdir(parents=True, exist_ok=True)
    name = f"{only or 'all'}"
    (EVIDENCE / f"{name}.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    (EVIDENCE / f"{name}.md").write_text(table(rows, (time.monotonic() - began) / 60))
    bad = [row for row in rows if not row.named or row.complete]
    for row in bad:
        say(f"NOT NAMED  {row.grant}: {row.noticed}: {row.said[:200]}")
    return len(bad)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("kinds", "subjects"), default="")
    sys.exit(1 if asyncio.run(bench(parser.parse_args().only)) else 0)
