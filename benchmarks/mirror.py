"""Step 1's mirror beside plain `git fetch` and `git push` of the same heads and tags, over HTTP, in one run. `--json`.

Both begin with nothing and end in a Gitea's repository of their own; the order changes each round and the quickest of
each counts. Ours lists both sides before and reads the local side back after. Then ours again, with nothing to do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from pydantic import SecretStr

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from sandbox.gitea import Gitea  # noqa: E402
from sandbox.githost import GitHost  # noqa: E402
from sandbox.serving import serving  # noqa: E402
from workers.adapters.git import Git, Remote  # noqa: E402

LIMIT, RERUN = 1.15, 2.0  # times, seconds
SPECS = ("refs/heads/*:refs/heads/*", "refs/tags/*:refs/tags/*")
QUIET = {"PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1", "HOME": "/nonexistent", "GIT_TERMINAL_PROMPT": "0"}


def generate(bare: Path, refs: int, megabytes: float) -> None:
    """A repository with so many heads and tags, two thirds heads, and as many `refs/pull/*` again."""
    bare.mkdir(parents=True)
    subprocess.run(["git", "init", "--quiet", "--bare", "-b", "main", str(bare)], check=True, env=QUIET)
    dice, heads = random.Random(7), refs * 2 // 3
    size = int(megabytes * 1e6 / heads)
    parts: list[bytes] = []
    for number in range(heads):
        content = dice.randbytes(size)
        name = "main" if number == 0 else f"topic/{number:05}"
        origin = "" if number == 0 else f"from :{max(1, number - number % 20)}\n"
        parts.append(
            f"commit refs/heads/{name}\nmark :{number + 1}\ncommitter A <a@b.invalid> 1777600000 +0000\n"
            f"data 2\nup\n{origin}M 644 inline files/{number % 500}/{number}\ndata {size}\n".encode()
            + content
            + b"\n"
        )
    parts += [f"reset refs/tags/v{n}\nfrom :{n + 1}\n\n".encode() for n in range(refs - heads)]
    parts += [f"reset refs/pull/{n}/head\nfrom :{n % heads + 1}\n\n".encode() for n in range(refs)]
    subprocess.run(
        ["git", "-C", str(bare), "fast-import", "--quiet", "--done"], input=b"".join([*parts, b"done\n"]), check=True,
        env=QUIET,
    )  # fmt: skip


async def command(at: Path, *arguments: str, header: str = "") -> None:
    """One git command, as one would type it; the login as a header through the environment."""
    extra = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "http.extraHeader", "GIT_CONFIG_VALUE_0": header}
    process = await asyncio.create_subprocess_exec(
        "git", "-C", str(at), *arguments, env=QUIET | (extra if header else {}), stderr=asyncio.subprocess.DEVNULL
    )
    if await process.wait() != 0:
        raise SystemExit(f"git {arguments[0]} failed")


async def plain(directory: Path, upstream: str, local: str, token: str) -> float:
    """Seconds of fetch and push."""
    directory.mkdir()
    started = time.perf_counter()
    await command(directory, "init", "--quiet", "--bare")
    await command(directory, "fetch", "--quiet", "--no-tags", upstream, *(f"+{spec}" for spec in SPECS))
    await command(directory, "push", "--quiet", local, *SPECS, header=f"Authorization: token {token}")
    return time.perf_counter() - started


async def measure(refs: int, megabytes: float, rounds: int, directory: Path) -> dict[str, Any]:
    generate(directory / "upstream/openova-io/openova.git", refs, megabytes)
    ours: list[float] = []
    theirs: list[float] = []
    async with AsyncExitStack() as stack:
        gitea = await stack.enter_async_context(Gitea.open(directory / "gitea", password="not-for-git"))
        host = GitHost(directory / "upstream")
        source = f"http://127.0.0.1:{await stack.enter_async_context(serving(host.app))}/openova-io/openova"
        port, token = await stack.enter_async_context(serving(gitea.app)), gitea.token()

        def place(name: str) -> str:
            gitea.create("openova", name)
            return f"http://127.0.0.1:{port}/openova/{name}.git"

        for number in range(rounds):
            mirror = Git(directory / f"ours-{number}")
            remote = Remote(place(f"ours-{number}"), "gitea_admin", SecretStr(token), name="Gitea")

            async def mine(mirror: Git = mirror, remote: Remote = remote) -> None:
                started = time.perf_counter()
                await mirror.mirror(Remote(source, name="Upstream"), remote)
                ours.append(time.perf_counter() - started)

            async def plainly(number: int = number) -> None:
                local = place(f"plain-{number}")
                theirs.append(await plain(directory / f"plain-{number}", source, local, token))

            for act in (mine, plainly) if number % 2 else (plainly, mine):
                await act()
        same = gitea.refs("openova", "ours-0") == gitea.refs("openova", "plain-0")
        started = time.perf_counter()
        again = await mirror.mirror(Remote(source, name="Upstream"), remote)
        rerun = time.perf_counter() - started
    found = {
        "benchmark": "mirror",
        "refs": again.refs,
        "seconds": round(min(ours), 2),
        "plain_seconds": round(min(theirs), 2),
        "ratio": round(min(ours) / min(theirs), 3),
        "rerun_seconds": round(rerun, 2),
        "rerun_changed": len(again.changed),
        "same_refs": same,
    }
    bounds = {
        "ratio": found["ratio"] <= LIMIT,
        "rerun_seconds": rerun < RERUN,
        "rerun_changed": not again.changed,
        "same_refs": same,
    }
    return {**found, "broken": [name for name, holds in bounds.items() if not holds]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="only the JSON object")
    parser.add_argument("--refs", type=int, default=3000, help="heads and tags")
    parser.add_argument("--size", type=float, default=60, help="megabytes of files")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mirror-") as name:
        found = asyncio.run(measure(options.refs, options.size, options.rounds, Path(name)))
    if not options.json:
        print(f"{found['seconds']} s, plain git {found['plain_seconds']} s; again {found['rerun_seconds']} s")
    print(json.dumps(found))
    sys.exit(bool(found["broken"]))


if __name__ == "__main__":
    main()
