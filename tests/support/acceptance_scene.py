"""Whole runs: a Sovereign in a box, real workers as processes, the command line as a person types it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import yaml

from events import export
from events.envelope import Undecodable, data_of, read
from events.fold import State
from events.jetstream import JetStreamLog
from events.journal import Journal
from events.log import Entry
from events.subjects import ALL, JOURNAL, REJECTED
from sandbox.box import Box
from sandbox.crew import Crew
from schemas import events as facts
from workers.entrypoints.settings import Settings, load

ROOT = Path(__file__).resolve().parents[2]
HOLD = 3.0  # seconds


@dataclass(frozen=True)
class Said:
    """What a command said, and how it ended."""

    code: int
    text: str


def environment(**more: str) -> dict[str, str]:
    """A person's shell: our commands on the PATH, no settings of another Sovereign."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CUTOVER_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{inherited.get('PATH', '')}"
    return {**inherited, "PATH": path, "COLUMNS": "160", **more}


def cutover(*arguments: str, timeout: float = 400.0, cwd: Path = ROOT, **env: str) -> Said:
    """Type `cutover ...` and wait for its end."""
    done = subprocess.run(
        [sys.executable, "-m", "workers.entrypoints.cli", *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        cwd=cwd, env=environment(**env), timeout=timeout, check=False,
    )  # fmt: skip
    return Said(done.returncode, done.stdout.decode())


async def typed(*arguments: str, timeout: float = 400.0, cwd: Path = ROOT, **env: str) -> Said:
    """The same, from a test that is async itself."""
    return await asyncio.to_thread(lambda: cutover(*arguments, timeout=timeout, cwd=cwd, **env))


def exported(file: Path) -> list[Entry]:
    """Every message of an exported log."""
    return list(export.entries(file.read_bytes().splitlines(keepends=True)))


def kinds(entries: list[Entry], kind: type[Any]) -> list[Any]:
    """Data of every journal event of one kind, in order."""
    found = []
    for entry in entries:
        try:
            data = data_of(read(entry.raw))
        except Undecodable:
            continue
        if entry.subject == JOURNAL and isinstance(data, kind):
            found.append(data)
    return found


@dataclass
class Scene:
    """An open box, its log, and the workers in it."""

    box: Box
    settings_file: Path
    settings: Settings
    stream: JetStreamLog
    crew: Crew

    async def state(self) -> State:
        """The fold of the log as it stands."""
        return await Journal(self.stream).refresh()

    async def until(self, wanted: Callable[[State], bool], seconds: float = 200.0) -> State:
        """The first state for which `wanted` is true, by following the log."""
        from events.fold import evolve

        state = State()
        with anyio.fail_after(seconds):
            async for entry in self.stream.follow(0):
                state = evolve(state, entry)
                if wanted(state) and entry.seq >= await self.head():
                    return state
        raise AssertionError("the log ended")

    async def head(self) -> int:
        last = await self.stream.last()
        return last.seq if last else 0

    async def entries(self, subject: str = ALL, after: int = 0) -> list[Entry]:
        """Everything on a subject above a sequence."""
        return [entry async for entry in self.stream.read(subject, after)]

    async def rejection(self, seq: int, seconds: float = 60.0) -> facts.Rejected:
        """Why the message at `seq` was rejected."""
        with anyio.fail_after(seconds):
            async for entry in self.stream.read(REJECTED, seq, live=True):
                try:
                    data = data_of(read(entry.raw))
                except Undecodable:
                    continue  # garbage, published here by a test
                if isinstance(data, facts.Rejected) and data.sequence == seq:
                    return data
        raise AssertionError("the log ended")

    async def type(self, *arguments: str) -> Said:
        """`cutover ...` with the settings of this Sovereign."""
        return await typed("--config", str(self.settings_file), *arguments)


@asynccontextmanager
async def scene(directory: Path, *, workers: int, lease: float, ack_wait: float) -> AsyncIterator[Scene]:
    """A box with workers that notice a death soon."""
    async with Box.open(directory, hold=HOLD) as box:
        document = yaml.safe_load(box.settings_file.read_text())
        document["pace"] = {"lease": lease}
        document["nats"] = {**document["nats"], "ack_wait": ack_wait}
        file = directory / "settings-quick.yaml"
        file.write_text(yaml.safe_dump(document))
        settings = load(file)
        async with JetStreamLog.open(settings.nats) as stream:
            await stream.ensure()
            async with Crew.at_work(file, directory, workers) as crew:
                yield Scene(box, file, settings, stream, crew)


async def in_one_task(opened: Callable[[], Any]) -> tuple[Any, Callable[[], Awaitable[None]]]:
    """Enter and leave in the same task, as cancel scopes demand, though a fixture's two halves are run apart."""
    ready: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    leave = asyncio.Event()

    async def life() -> None:
        try:
            async with opened() as value:
                ready.set_result(value)
                await leave.wait()
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    task = asyncio.create_task(life())

    async def close() -> None:
        leave.set()
        await task

    return await ready, close


def status(directory: Path) -> dict[str, str]:
    """The status that a rehearsal left behind."""
    found: dict[str, str] = json.loads((directory / "status.json").read_text())
    return found


async def line_with(process: asyncio.subprocess.Process, words: str, seconds: float = 60.0) -> str:
    """The next line of output that has these words."""
    assert process.stdout is not None
    said = ""
    with anyio.fail_after(seconds):
        while words not in (line := (await process.stdout.readline()).decode()):
            said += line
            assert line, f"ended without saying {words!r}:\n{said}"
    return line
