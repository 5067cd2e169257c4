"""What travels between step 4 and the agents on the nodes."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from schemas.base import Arrives, Travels


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


class NodeReport(Arrives):
    """One node's answer, the data of `catalyst.cutover.node.<node>`."""

    node: str
    digest: str
    """Digest of the NodePlan that the node holds now (`sha256:...`)."""
    result: Literal["v2", "failed"]
    message: str = ""
    at: datetime
