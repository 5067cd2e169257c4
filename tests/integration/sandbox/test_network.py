"""The sandbox's wires: whoever is ended while a route is opened leaves no socket behind."""

from __future__ import annotations

import asyncio

import psutil

from sandbox.network import Identity, Network


def listening() -> set[int]:
    """Ports on which this process listens."""
    return {c.laddr.port for c in psutil.Process().net_connections("tcp") if c.status == psutil.CONN_LISTEN}


async def test_a_caller_that_is_cancelled_while_its_route_opens_leaves_no_socket() -> None:
    before = listening()
    async with Network() as network:
        await network.attach("example.test", 9, local=False)
        for turns in range(12):
            asking = asyncio.create_task(network.route(Identity("pod", f"p{turns}"), "example.test"))
            for _ in range(turns):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
    await asyncio.sleep(0)
    assert listening() <= before


async def test_a_route_that_is_asked_for_at_the_end_is_closed_with_the_others() -> None:
    network = Network()
    await network.attach("example.test", 9, local=False)
    asking = asyncio.create_task(network.route(Identity("pod", "late"), "example.test"))
    await asyncio.sleep(0)
    await network.close()
    (port,) = await asyncio.gather(asking, return_exceptions=True)
    if isinstance(port, int):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return
        writer.transport.abort()
        raise AssertionError("it still listens")
    assert isinstance(port, LookupError)
