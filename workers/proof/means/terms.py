"""What every means is given, what it must say, and the marks that every object of a block carries."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from workers.adapters.cluster import Cluster
from workers.adapters.cluster_kinds import Kind, Object
from workers.adapters.firewall import PRIVATE
from workers.errors import Wait
from workers.proof.pods import TOKEN

EXPIRES = "cutover.catalyst/expires-at"
LABEL = "cutover.catalyst/egress-block"
WORLD = ("0.0.0.0/0", "::/0")


@dataclass(frozen=True, slots=True)
class Terms:
    """What a block is called, what stays open, until when, and for whom."""

    name: str
    allow: tuple[str, ...]
    expires_at: datetime
    token: int
    manager: str
    addresses: tuple[str, ...] = ()
    """What the upstream names resolve to, for a means that closes addresses."""

    @property
    def stays(self) -> tuple[str, ...]:
        """Networks that are never closed."""
        return (*PRIVATE, *self.allow)

    def annotations(self) -> dict[str, str]:
        """The marks that tell whose block this is and when it is over."""
        return {EXPIRES: self.expires_at.isoformat(), TOKEN: str(self.token)}

    def metadata(self) -> dict[str, Any]:
        """Name and marks."""
        labels = {LABEL: "true", "app.kubernetes.io/managed-by": self.manager}
        return {"name": self.name, "labels": labels, "annotations": self.annotations()}


class PodMeans(Protocol):
    """One way to close the Pods' way out."""

    kind: Kind
    name: str
    """As settings spell it (`proof.means`)."""
    words: str
    """For the evidence."""
    uncovered: str
    """What it leaves open, said in the evidence; beside Pods on the host's network, which are the nodes' matter."""
    by_address: bool
    """It closes what the upstream names resolve to, so these must be looked up again and again."""

    async def why_not(self, cluster: Cluster, allow: tuple[str, ...]) -> str | None:
        """Why it would not hold here; None when it would. What cannot be read raises."""
        ...

    async def objects(self, cluster: Cluster, terms: Terms) -> list[Object]:
        """What must stand in the API for the block to stand."""
        ...


async def present(cluster: Cluster, kind: Kind, labels: str | None = None) -> list[Object]:
    """Every object of a kind that may not be served, or not any more: then there is none."""
    if not await cluster.served(kind):
        return []
    try:
        return await cluster.list(kind, labels=labels)
    except Wait as error:
        if error.reason == "KindVanished" and not await cluster.served(kind):
            return []
        raise


def outside(world: str, stays: Iterable[str]) -> Object:
    """A whole address family but for what stays open, as Cilium and NetworkPolicy spell it."""
    version = ipaddress.ip_network(world).version
    inside = [n for n in stays if ipaddress.ip_network(n, strict=False).version == version]
    return {"cidr": world, "except": inside}
