"""Answers of the node agents, as they stand in the stream: the newest of each node."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import anyio

from events import subjects
from events.envelope import Draft, Undecodable, admit
from events.jetstream import JetStreamLog
from events.log import Entry
from schemas.nodes import NodeReport


class Inbox:
    """Implements `workers.world.NodeReports` on the log. Run `follow` beside the steps."""

    def __init__(self, stream: JetStreamLog) -> None:
        self._stream = stream
        self._reports: dict[str, NodeReport] = {}
        self._arrived = anyio.Event()

    async def follow(self) -> None:
        """Read reports for ever."""
        async for entry in self._stream.read(subjects.NODES, live=True):
            if note(self._reports, entry):
                self._arrived.set()
                self._arrived = anyio.Event()

    async def latest(self) -> Mapping[str, NodeReport]:
        """Node name -> its newest report."""
        return dict(self._reports)

    async def changed(self, timeout: float) -> None:
        """Return when a report arrives, or after `timeout` seconds."""
        with anyio.move_on_after(timeout):
            await self._arrived.wait()


def note(reports: dict[str, NodeReport], entry: Entry) -> bool:
    """Put a node's newest word in its place; False when it is none.

    One that cannot be read is a word all the same: what stood there before is not what the node says now.
    """
    try:
        _, data = admit(entry.raw, "node.reported")
    except Undecodable as error:  # the registrar keeps it in `rejected`
        known = [name for name in reports if subjects.node(name) == entry.subject]
        why = f"its newest report, entry {entry.seq} of the log, cannot be read: {error}"
        for name in known:
            reports[name] = NodeReport(node=name, digest="", result="failed", message=why, at=datetime.now(UTC))
        return bool(known)
    assert isinstance(data, NodeReport)  # noqa: S101  admit() checked the kind
    if subjects.node(data.node) != entry.subject:  # nobody reports for another node
        return False
    reports[data.node] = data
    return True


async def publish_report(stream: JetStreamLog, fqdn: str, report: NodeReport) -> int:
    """One node's answer, as a CloudEvent on the node's own subject."""
    at = report.at.astimezone(UTC)
    draft = Draft(
        id=f"{report.node}.{report.digest}.{at.isoformat()}", source=f"//{fqdn}/node/{report.node}", data=report,
        subject=report.node, time=datetime.now(UTC),
    )  # fmt: skip
    # Not `publish`: an agent may not read the stream.
    return await stream.publish_raw(subjects.node(report.node), draft.encode(), draft.id)
