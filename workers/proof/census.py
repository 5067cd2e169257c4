"""Which nodes there are, and that they are the same ones at the end: one that came or booted anew was not held.

A node that joins finds the order to block, but nobody saw that it obeyed; one that boots has lost its firewall until
its agent runs again. Neither shows in the name alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from workers.adapters.cluster import Cluster
from workers.adapters.cluster_kinds import NODE, name_of

Census = Mapping[str, str]
"""Node name -> what changes when it is another machine or another boot of the same one."""


async def taken(cluster: Cluster) -> Census:
    """Every Node there is now, ready or not: one that is left out would be a hole."""
    found = {}
    for node in await cluster.list(NODE):
        info = (node.get("status") or {}).get("nodeInfo") or {}
        found[name_of(node)] = f"{node['metadata'].get('uid', '')}/{info.get('bootID', '')}"
    return dict(sorted(found.items()))


def changed(before: Census, now: Census) -> str | None:
    """What is different, in a line; None when nothing is."""
    said = [
        *(f"{name} joined" for name in now.keys() - before.keys()),
        *(f"{name} left" for name in before.keys() - now.keys()),
        *(f"{name} booted anew" for name in before.keys() & now.keys() if before[name] != now[name]),
    ]
    return ", ".join(sorted(said)) or None
