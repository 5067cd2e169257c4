"""Worker processes for a rehearsal: the same command that runs in a cluster, each with its own log file."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

STARTUP = 60.0  # seconds until the API has an address
PATIENCE = 10.0  # seconds between asking to stop and making


class Lost(Exception):
    """No worker is left; the text has the end of the last one's log."""


class Crew:
    """Some `cutover work` processes."""

    def __init__(self, settings: Path, directory: Path, classes: Mapping[str, Path] | None = None) -> None:
        self._settings, self._directory = settings, directory
        self._classes = classes or {}
        self.members: list[asyncio.subprocess.Process] = []
        self.logs: list[Path] = []

    @classmethod
    @asynccontextmanager
    async def at_work(
        cls, settings: Path, directory: Path, count: int, classes: Mapping[str, Path] | None = None
    ) -> AsyncIterator[Crew]:
        """`count` of them, stopped at the end; with `classes` (name -> its settings) as many of each class."""
        crew = cls(settings, directory, classes)
        try:
            for _ in range(count):
                if not crew._classes:
                    await crew.hire()
                for name in crew._classes:
                    await crew.hire("--class", name)
            yield crew
        finally:
            with anyio.CancelScope(shield=True):
                await crew.dismiss()

    async def hire(self, *arguments: str) -> asyncio.subprocess.Process:
        """One more. Arguments go to `cutover work`."""
        log = self._directory / f"worker-{len(self.members) + 1}.log"
        named = arguments[1] if arguments[:1] == ("--class",) else ""
        settings = self._classes.get(named, self._settings)
        command = [sys.executable, "-m", "workers.entrypoints.cli", "--config", str(settings), "work", *arguments]
        # What the caller's environment says about another Sovereign is not for this one.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CUTOVER_")}
        with log.open("ab") as out:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=environment,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
                start_new_session=True,  # Ctrl-C is for the rehearsal, which then asks the workers to stop
            )
        self.members.append(process)
        self.logs.append(log)
        return process

    async def lost(self) -> None:
        """Return never while one works. Raises Lost when none is left."""
        await asyncio.gather(*(member.wait() for member in self.members))
        tail = self.logs[-1].read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        raise Lost(f"the workers have ended; {self.logs[-1]} says:\n  " + "\n  ".join(tail))

    async def dismiss(self) -> None:
        """Ask each to stop, wait, and make those stop that do not."""
        for member in self.members:
            if member.returncode is None:
                member.send_signal(signal.SIGTERM)
        for member in self.members:
            try:
                await asyncio.wait_for(member.wait(), PATIENCE)
            except TimeoutError:
                member.kill()
                await member.wait()


@asynccontextmanager
async def front_door(settings: Path, directory: Path) -> AsyncIterator[str]:
    """`cutover serve` as a process of its own; its URL. Raises Lost when it does not come up."""
    log = directory / "api.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CUTOVER_")}
    with log.open("ab") as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "workers.entrypoints.cli", "--config", str(settings), "serve",
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=out, env=environment,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None, start_new_session=True,
        )  # fmt: skip
    try:
        assert process.stdout is not None
        url = b""
        with anyio.move_on_after(STARTUP):
            url = await process.stdout.readline()
        if not url:
            raise Lost(f"the API did not come up; see {log}")
        yield url.decode().strip()
    finally:
        if process.returncode is None:
            process.terminate()
        with anyio.CancelScope(shield=True):
            await process.wait()


def _end_with_parent() -> None:
    """A rehearsal that is killed leaves no workers behind. prctl(2): PR_SET_PDEATHSIG is 1."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
