"""A broker that comes back slowly: connections that did not come about are closed, each of them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

from events.jetstream import Broker as BrokerSettings
from events.jetstream import JetStreamLog
from sandbox.broker import Broker

WRONG = 3


class Gate:
    """Before the broker: lets the first caller through, garbles the next ones, and lets the rest through."""

    def __init__(self, port: int) -> None:
        self.port, self.called, self.closed = port, 0, 0
        self.first: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.called += 1
        if 1 < self.called <= 1 + WRONG:
            writer.write(b"HTTP/1.1 503 not yet\r\n")
            await reader.read()  # until the caller hangs up
            self.closed += 1
            writer.close()
            return
        far, out = await asyncio.open_connection("127.0.0.1", self.port)
        self.first += [writer, out]
        await asyncio.gather(pump(reader, out), pump(far, writer))


async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while part := await source.read(65536):
            sink.write(part)
    except ConnectionError:
        pass
    finally:
        sink.close()


async def until(gate: Gate) -> None:
    async with asyncio.timeout(60):
        while gate.closed < WRONG:
            await asyncio.sleep(0.05)


async def test_connections_that_came_to_nothing_are_closed_and_the_log_is_back(tmp_path: Path) -> None:
    async with Broker.start(tmp_path) as broker:
        gate = Gate(urlsplit(broker.url).port or 0)
        async with await asyncio.start_server(gate.serve, "127.0.0.1", 0) as front:
            port = front.sockets[0].getsockname()[1]
            async with JetStreamLog.open(BrokerSettings(url=f"nats://127.0.0.1:{port}")) as stream:
                await stream.ensure()
                for end in gate.first:
                    end.transport.abort()
                await until(gate)
                async with asyncio.timeout(60):
                    while not stream.connected:
                        await asyncio.sleep(0.05)
                assert await stream.last() is None
                assert gate.called == 1 + WRONG + 1
