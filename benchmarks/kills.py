"""The proof, with worker, watchman, broker and API server ended at each phase, in every combination.

Short leases: a block's is 6 s. Ends with 1 when one block stood longer than its lease plus 60 s, or when a proof passed
that was not held in one piece. Some twenty minutes. `--json`: one object, last.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from kill_sweep import BLOCK_LEASE, PHASES, VICTIMS, Case, sweeping  # noqa: E402

CASES: tuple[Case, ...] = tuple(
    (phase, victims)
    for phase in PHASES
    for count in range(1, len(VICTIMS) + 1)
    for victims in itertools.combinations(VICTIMS, count)
)


async def bench(cases: tuple[Case, ...], keep: Path | None) -> dict[str, float]:
    """Case -> seconds to the lifting."""
    took: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="kills-") as directory:
        async with sweeping(keep or Path(directory)) as sweep:
            for case in cases:
                found = await sweep.all_of([case])
                took[f"{case[0]}: {', '.join(case[1])}"] = round(found[case], 1)
                print(f"{found[case]:5.1f} s  {case[0]}: {', '.join(case[1])}", file=sys.stderr, flush=True)
            if (await sweep.proof()).result in ("success", "failed"):
                await sweep.again()
            assert await sweep.ended(240) == "success"
            await sweep.honest()
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--keep", type=Path, help="a new directory for the box and the workers' logs")
    asked = parser.parse_args()
    took = asyncio.run(bench(CASES, asked.keep))
    longest, limit = max(took.values()), BLOCK_LEASE + 60
    if asked.json:
        print(json.dumps({"benchmark": "kills", "cases": took, "longest": longest, "limit": limit}))
    else:
        print(f"{len(took)} cases; the block was gone after {longest} s at the latest, {limit} s are allowed")
    sys.exit(0 if longest <= limit else 1)


if __name__ == "__main__":
    main()
