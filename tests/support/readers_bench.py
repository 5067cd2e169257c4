"""Many readers of one process' events, as light as they can be: what is measured is the process, not they."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import psutil
import yaml
from api_bench import BASE, SOVEREIGN
from pool_bench import Bench, Step, result

from events.flow import SLUGS
from schemas.progress import Progress
from schemas.results import StepResult
from workers.world import Order, Report

_FRAME = re.compile(rb"(?:^|\n)id: (\d+)\nevent: ([a-z.]+)\n")


class Reader(asyncio.Protocol):
    """Notes every id in the order in which it comes."""

    def __init__(self, path: str, until: str = "completed") -> None:
        self.ids: list[int] = []
        self.kinds: list[str] = []
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._path, self._until, self._rest = path, until.encode(), b""
        self.size = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(f"GET {self._path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n".encode())

    def data_received(self, data: bytes) -> None:
        self.size += len(data)
        self._rest += data
        end = self._rest.rfind(b"\n\n")
        if end < 0:
            return
        whole, self._rest = self._rest[: end + 2], self._rest[end + 2 :]
        for number, kind in _FRAME.findall(whole.replace(b"\r", b"")):
            self.ids.append(int(number))
            self.kinds.append(kind.decode())
            if kind == self._until and not self.ended.done():
                self.ended.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(ConnectionError("cut off before the end"))


async def readers(url: str, count: int, path: str = f"{BASE}/events") -> list[Reader]:
    """So many, connected."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    place, loop = urlsplit(url), asyncio.get_running_loop()
    made: list[Reader] = []
    for _ in range(count):
        _, reader = await loop.create_connection(lambda: Reader(path), place.hostname, place.port)
        made.append(reader)
    return made


@dataclass
class Served:
    """`cutover serve` as a process."""

    url: str
    process: psutil.Process

    def cpu(self) -> float:
        """Seconds so far."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def memory(self) -> int:
        """Bytes."""
        return int(self.process.memory_info().rss)


@asynccontextmanager
async def served(bench: Bench, directory: Path) -> AsyncIterator[Served]:
    """On the bench's broker, asking nobody who they are."""
    file = directory / "api.yaml"
    document = {
        "nats": {"url": bench.broker.url}, "workspace": str(directory),
        "sovereign": SOVEREIGN.model_dump(mode="json", exclude_none=True),
    }  # fmt: skip
    password = directory / "password"
    password.write_text("unused")
    for part in ("gitea", "harbor"):
        document["sovereign"][part]["login"]["password_file"] = str(password)
    file.write_text(yaml.safe_dump(document))
    command = [sys.executable, "-m", "workers.entrypoints.cli", "--config", str(file), "serve", "--insecure-dev"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CUTOVER_")}
    with (directory / "api.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, "--port", "0", stdout=asyncio.subprocess.PIPE, stderr=log, env=environment
        )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            url = (await process.stdout.readline()).decode().strip()
        assert url.startswith("http://"), (directory / "api.log").read_text()
        async with asyncio.timeout(60):
            while await asyncio.to_thread(answered, f"{url}/readyz") != 200:
                await asyncio.sleep(0.1)
        yield Served(url, psutil.Process(process.pid))
    finally:
        process.terminate()
        await process.wait()


def started(url: str) -> int:
    """Ask for a cutover; the answer's status."""
    return answered(f"{url}{BASE}/start", method="POST")


def answered(url: str, method: str = "GET") -> int:
    """The status; blocking, for a thread."""
    try:
        with urlopen(Request(url, method=method), timeout=60) as answer:
            return int(answer.status)
    except HTTPError as error:
        with error:
            return error.code


def telling(count: int, pause: float) -> dict[str, Step]:
    """Eight steps that say so often how far they are."""

    def step(slug: str) -> Step:
        async def run(order: Order, report: Report) -> StepResult:
            for number in range(count):
                await report(Progress(message=f"{slug} {number}", percent=100 * number // count))
                await asyncio.sleep(pause)
            return result(slug)

        return run

    return {slug: step(slug) for slug in SLUGS}
