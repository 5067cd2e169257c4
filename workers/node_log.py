"""What each node acknowledged last, read from the log once: for whoever asks one question and goes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

import anyio

from events import subjects
from events.jetstream import Broker, JetStreamLog
from events.log import LogUnavailable, NotPermitted
from schemas.nodes import NodeReport
from workers.adapters.cluster_kinds import Object, name_of
from workers.errors import Stuck, Wait
from workers.inbox import note

SKEW = timedelta(seconds=60)
"""Between a node's clock and the API server's."""


class NodeLog:
    """Implements `workers.world.NodeReports` with a connection for each question."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def latest(self) -> Mapping[str, NodeReport]:
        """Node name -> its newest report. Raises Wait, Stuck: a silent log is not a silent node."""
        try:
            async with JetStreamLog.open(self._broker) as stream:
                return await reports(stream)
        except LogUnavailable as error:
            raise Wait("LogUnavailable", str(error)) from None
        except NotPermitted as error:
            raise Stuck("LogForbidden", str(error)) from None

    async def changed(self, timeout: float) -> None:
        """Nobody is listening; the time passes."""
        await anyio.sleep(timeout)


async def reports(stream: JetStreamLog) -> dict[str, NodeReport]:
    """The newest word of each node. Before the first run there is no stream, and no node was ever asked."""
    begun = await stream.last() is not None
    found: dict[str, NodeReport] = {}
    try:
        async for entry in stream.read(subjects.NODES):
            note(found, entry)
    except LogUnavailable:
        if begun:
            raise
    return found


def current(nodes: Iterable[Object], reports: Mapping[str, NodeReport]) -> dict[str, NodeReport]:
    """Reports of the machines that are there: one from before its Node was made is of another under that name."""
    born = {name_of(n): datetime.fromisoformat(at) for n in nodes if (at := n["metadata"].get("creationTimestamp"))}
    return {n: r for n, r in reports.items() if n not in born or r.at >= born[n] - SKEW}
