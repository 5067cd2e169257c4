"""Answers to the kubelet's probes, in a few lines of HTTP: a worker has no other use for a server.

`/healthz` is answered by the same loop that does the work: when that hangs, nothing answers. It asks nobody, so a
broker or an API server that is away restarts no worker. `/readyz` says whether work could be taken now.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

PATIENCE = 5.0  # seconds for a request to arrive


class Health:
    """What this process says of itself. `ready` gives None, or why not."""

    def __init__(self) -> None:
        self.ready: Callable[[], str | None] = lambda: "starting"

    def answer(self, path: str) -> tuple[int, str]:
        """Status and text for a path."""
        match path:
            case "/healthz":
                return 200, "ok"
            case "/readyz":
                why = self.ready()
                return (503, why) if why else (200, "ok")
        return 404, "only /healthz and /readyz are here"

    @asynccontextmanager
    async def at(self, host: str, port: int | None) -> AsyncIterator[int | None]:
        """Answers until the block ends; the port, which 0 leaves to the system. None answers nothing."""
        if port is None:
            yield None
            return
        server = await asyncio.start_server(self._serve, host, port)
        async with server:
            yield int(server.sockets[0].getsockname()[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await asyncio.wait_for(reader.readline(), PATIENCE)
            path = line.decode("latin-1").split(" ")[1].partition("?")[0]
            code, text = self.answer(path)
            body = f"{text}\n".encode()
            head = f"HTTP/1.1 {code} {'OK' if code == 200 else 'No'}\r\nContent-Type: text/plain\r\n"
            writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
            await writer.drain()
        except (OSError, TimeoutError, IndexError, ValueError):
            pass  # whoever asked like that needs no answer
        finally:
            writer.close()
