"""Debian's docker-registry on loopback with its access log read back, and a proxy that makes it far away."""

from __future__ import annotations

import asyncio
import re
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

CONFIG = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: false}}}}
storage: {{filesystem: {{rootdirectory: {root}}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""
_LINE = re.compile(rb'"(?P<method>[A-Z]+) (?P<path>\S+) HTTP/[\d.]+" (?P<status>\d+) (?P<size>\d+)')
_BLOB = re.compile(r"/blobs/(sha256:[0-9a-f]{64})$")
WINDOW = 4 * 2**20  # bytes under way in one direction, as a tuned TCP window over a long line


@dataclass
class Seen:
    """What a registry was asked, by its own access log."""

    requests: int = 0
    blob_bytes: int = 0
    blobs: Counter[str] = field(default_factory=Counter)
    """Digest -> how often its bytes were asked for."""


@dataclass(frozen=True)
class Debian:
    """A docker-registry that runs."""

    url: str
    port: int
    log: Path

    def seen(self, after: int = 0, until: int | None = None) -> Seen:
        """What was asked while the log grew from `after` bytes to `until`."""
        found = Seen()
        for match in _LINE.finditer(self.log.read_bytes()[after:until]):
            found.requests += 1
            blob = _BLOB.search(match["path"].decode())
            if blob and match["method"] == b"GET":
                found.blobs[blob[1]] += 1
                found.blob_bytes += int(match["size"])
        return found

    @property
    def logged(self) -> int:
        """How long the log is now."""
        return self.log.stat().st_size


@asynccontextmanager
async def docker_registry(directory: Path) -> AsyncIterator[Debian]:
    """Serve what is below `directory/data`, on a free loopback port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    directory.mkdir(parents=True, exist_ok=True)
    config, log = directory / "config.yml", directory / "access.log"
    config.write_text(CONFIG.format(root=directory / "data", port=port))
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            "docker-registry", "serve", str(config), stdout=out, stderr=asyncio.subprocess.DEVNULL
        )
    try:
        await _answers(port)
        yield Debian(f"http://127.0.0.1:{port}", port, log)
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _answers(port: int) -> None:
    for _ in range(200):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
            continue
        writer.close()
        await writer.wait_closed()
        return
    raise TimeoutError("docker-registry does not answer")


@asynccontextmanager
async def far_away(port: int, seconds: float) -> AsyncIterator[int]:
    """A loopback port that leads to `port` with a round trip of `seconds` added; as many bytes a second as before."""
    links: set[asyncio.Task[None]] = set()

    async def link(near_reader: asyncio.StreamReader, near_writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            links.add(task)
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            await asyncio.gather(
                _delayed(near_reader, far_writer, seconds / 2), _delayed(far_reader, near_writer, seconds / 2)
            )
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            for writer in (near_writer, far_writer):
                writer.close()
                with suppress(ConnectionError):
                    await writer.wait_closed()
            if task is not None:
                links.discard(task)

    server = await asyncio.start_server(link, "127.0.0.1", 0, limit=WINDOW)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tuple(links):
            task.cancel()
        await asyncio.gather(*links, return_exceptions=True)
        await server.wait_closed()


async def _delayed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    """Pass everything on, each piece `seconds` after it came."""
    loop = asyncio.get_running_loop()
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=WINDOW // 65536)

    async def receive() -> None:
        while piece := await reader.read(65536):
            await under_way.put((loop.time() + seconds, piece))
        await under_way.put((loop.time() + seconds, b""))

    receiving = asyncio.ensure_future(receive())
    try:
        while True:
            due, piece = await under_way.get()
            if (wait := due - loop.time()) > 0:
                await asyncio.sleep(wait)
            if not piece:
                break
            writer.write(piece)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    finally:
        receiving.cancel()
        with suppress(asyncio.CancelledError, ConnectionError):
            await receiving
