"""What travels between steps 4 and 8 and the agents on the nodes."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from schemas.base import Arrives, Travels

PLAN_KEY = "plan.json"
TURN_KEY = "turn.json"
BLOCK_KEY = "block.json"
"""Keys of the ConfigMap that the agents watch: a NodePlan, a Turn, and step 8's order to their firewalls."""


class Mirror(Travels):
    """One upstream host and where its images are served from now on."""

    host: str
    """As it stands in an image reference: `ghcr.io`, `docker.io`, `harbor.openova.io`."""
    endpoint: str
    """Local base URL with the project path: `https://harbor.sovereign.example/v2/proxy-ghcr`."""


class NodePlan(Travels):
    """The registry configuration every node shall have. Kept in a ConfigMap, so later nodes find it too."""

    registry: str
    """Host of local Harbor as nodes name it, port included."""
    mirrors: tuple[Mirror, ...]
    ca_file: str | None = None
    """Path on the node of the registry's CA, when somebody else puts it there."""
    ca: str | None = None
    """The CA itself (PEM): the agent puts it on the node."""


class Turn(Travels):
    """Which nodes may obey the plan by now. Kept beside it; only ever grows."""

    digest: str
    """Digest of the NodePlan that it is about: a turn for another plan is nobody's."""
    nodes: tuple[str, ...] = ()
    everyone: bool = False
    """All have had their turn, so a node that joins later need not wait for one."""

    def admits(self, node: str, digest: str) -> bool:
        """May this node obey the plan of this digest?"""
        return self.digest == digest and (self.everyone or node in self.nodes)


class NodeReport(Arrives):
    """One node's answer, the data of `catalyst.cutover.node.<node>`."""

    node: str
    digest: str
    """Digest of the NodePlan that the node holds now (`sha256:...`)."""
    result: Literal["v2", "failed"]
    message: str = ""
    at: datetime
