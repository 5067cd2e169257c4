"""Each grant of the chart taken away by itself: kinds of objects at the API server, subjects at the broker.

Writes docs/evidence/every-grant/: what was lost, who noticed, in which words. Ends with 1 when a loss was not named,
or when a run was complete without what it needed. Less than an hour.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support"), str(ROOT / "tests" / "acceptance")]

from every_grant import Recorder, Row, Sweep, left  # noqa: E402
from every_subject import Subjects  # noqa: E402
from granted_scene import opened  # noqa: E402
from grants import Grant  # noqa: E402
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
        sweep.done |= {gone for gone in left(sweep) if str(gone) in {row.grant for row in rows}}
        await sweep.steps(calls)
        if not (await sweep.idle()).complete:
            run = (await sweep.idle()).run
            await sweep.order(run.failed_step if run is not None and run.phase == "failed" else SLUGS[0])
        await sweep.last_step()
        for part in (sweep.agents, sweep.control, sweep.supply, sweep.api):
            await part()
        rest = left(sweep)
    for number, gone in enumerate(rest):
        if why := RARE.get(str(gone), ""):
            rows.append(Row(gone.account, str(gone), "not asked for in this run", why, True))
        else:
            await whole(place.with_name(f"whole-{number}"), gone, rows)


async def whole(place: Path, gone: Grant, rows: list[Row]) -> None:
    """A grant that is asked for only when something is done for the first time: a Sovereign of its own."""
    async with opened(place) as ground:
        await ground.seal()
        await ground.by_hand()
        sweep = Sweep(ground, Journal(ground.stream), say, rows)
        ground.box.kube.api.denied.clear()
        async with ground.lacking(gone):
            run = await sweep.order(SLUGS[0])
        if run.phase == "failed":
            sweep.add(gone, f"step {run.failed_step}", f"{run.reason}: {run.message}")
        else:
            missed = sweep.missed(gone)
            sweep.add(gone, "nobody, though it was missed" if missed else "nobody asked for it", "", complete=missed)


def table(parts: dict[str, list[Row]]) -> str:
    """For people."""
    lines = [
        "# Every grant, taken away by itself", "",
        "Made by benchmarks/every_grant.py on a Sovereign in a box, with the chart's own grants "
        "enforced at its API server and at its nats-server, in as many sittings as it took. "
        "tests/unit/docs/test_every_grant.py holds it against what the chart grants.", "",
    ]  # fmt: skip
    for part, rows in parts.items():
        lines += [f"## {len(rows)} {part}", "", "| class | grant | noticed by | what was said |", "|---|---|---|---|"]
        for row in rows:
            said = row.said.replace("|", "/").replace("\n", " ")
            what = row.grant.partition(": ")[2]
            lines.append(f"| {row.account.rpartition(':')[2]} | `{what}` | {row.noticed} | {said} |")
        lines.append("")
    return "\n".join(lines)


def before(part: str) -> list[Row]:
    """What an earlier sweep found that broke off: it goes on from there. To begin anew, delete the files."""
    file = EVIDENCE / f"{part}.json"
    found = [Row(**row) for row in json.loads(file.read_text())] if file.exists() else []
    return [row for row in found if row.named and not row.complete]


def written(part: str, rows: list[Row]) -> None:
    """What was found so far, beside what the other part found before."""
    EVIDENCE.mkdir(parents=True, exist_ok=True)
    (EVIDENCE / f"{part}.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    found = {name: EVIDENCE / f"{name}.json" for name in PARTS}
    parts = {
        name: [Row(**row) for row in json.loads(file.read_text())] for name, file in found.items() if file.exists()
    }
    (EVIDENCE / "README.md").write_text(table(parts))


async def bench(only: str) -> int:
    """How many losses were not named."""
    bad: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="every-grant-") as directory:
        for part in [only] if only else PARTS:
            rows = before(part)
            try:
                await PARTS[part](Path(directory), rows)
            finally:
                written(part, rows)
            bad += [row for row in rows if not row.named or row.complete]
    for row in bad:
        say(f"NOT NAMED  {row.grant}: {row.noticed}: {row.said[:200]}")
    return len(bad)


async def all_kinds(place: Path, rows: list[Row]) -> None:
    """A run to learn the order of what is asked; then each grant on another Sovereign."""
    await kinds(place / "kinds", await recorded(place / "recorded"), rows)


async def all_subjects(place: Path, rows: list[Row]) -> None:
    """Short leases: whatever loses its broker is taken over soon."""
    async with opened(place / "subjects", grace=2.0, lease=4.0) as ground:
        sweep = Subjects(ground, Journal(ground.stream), say, rows)
        sweep.met |= {(user, subject) for user, _, subject in (row.grant.partition(": ") for row in rows)}
        await sweep.all()


PARTS = {"kinds": all_kinds, "subjects": all_subjects}

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was found is written down
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=tuple(PARTS), default="")
    sys.exit(1 if asyncio.run(bench(parser.parse_args().only)) else 0)
