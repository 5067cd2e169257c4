"""What the cluster declares, before the block: nothing of tethers 1 to 7 may be left, and all must be readable.

Sources with long intervals, and packages that are never fetched twice, would outlive any hold unnoticed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from workers.audit.finding import PROXY, VEILED, Finding, Severity
from workers.errors import Stuck, Wait
from workers.world import World

MOST = 8  # findings in one message


async def clean(world: World) -> Sequence[Finding]:
    """All findings. Raises Stuck naming what is left and what cuts it, Wait when something could not be read."""
    if world.survey is None:
        raise RuntimeError("a proof needs the audit's survey in its world")
    found = await world.survey(world)
    judge(found)
    return found


def proxies(found: Iterable[Finding], named: Iterable[str] = ()) -> tuple[str, ...]:
    """HOST:PORT of every proxy that a workload is told to use, and of those that its owner names: by these too nobody
    may get out."""
    return tuple(sorted({*named, *(f.host for f in found if f.title == PROXY.title)}))


def veiled(found: Iterable[Finding]) -> list[Finding]:
    """What no canary could try: a proxy of which nobody says where it is."""
    return [f for f in found if f.title == VEILED.title and f.severity is Severity.UNREADABLE]


def judge(found: Iterable[Finding]) -> None:
    """Raises Stuck for a tether or a proxy that no canary could try, Wait for what nobody could read; a tether comes
    first: it needs a person."""
    counting = [f for f in found if f.forbids]
    left = [f for f in counting if f.severity is not Severity.UNREADABLE]
    unread = [f for f in counting if f.severity is Severity.UNREADABLE]
    untold = f"what cannot be read may hold a tether: {told(unread)}"
    if left:
        # What was not read may be why something read counts as tied: a node's plan frees images.
        raise Stuck("TetherLeft", f"{untold + '; ' if unread else ''}still declared: {told(left)}")
    if hidden := veiled(unread):
        raise Stuck("ProxyUnknown", f"no canary can try these: {told(hidden)}")
    if unread:
        raise Wait("AuditUnreadable", untold)


def told(found: Sequence[Finding]) -> str:
    """The first of them, and what cuts each."""
    said = "; ".join(f"{f.place} {f.field}: {f.host} (cut by {f.cut_by})" for f in found[:MOST])
    return said + (f"; and {len(found) - MOST} more, see `cutover audit`" if len(found) > MOST else "")
