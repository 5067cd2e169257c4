"""Is handover finished? Read from the cluster, never written: whoever hands over seals an object, we look at it.

The production system sealed `secret/catalyst/tofu-phase0-archive` in OpenBao. What shows that in the cluster (an
ExternalSecret's Secret, a ConfigMap of catalyst-api) is named in the settings; there is no default that would be true
everywhere. A cutover that fired before it broke the bootstrap (facts: field lessons C8).
"""

from __future__ import annotations

import base64
import binascii
from typing import Literal

from pydantic import BaseModel, ConfigDict

from workers.adapters.cluster import CONFIG_MAP, SECRET, Cluster


class Handover(BaseModel):
    """The object that stands in the cluster once handover is finished."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["ConfigMap", "Secret"] = "Secret"
    namespace: str
    name: str
    key: str | None = None
    """Key of its data that must be there and not empty. Without one, the object is enough."""
    value: str | None = None
    """What stands under `key`, exactly. Do not name a secret here."""

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" + (f", key {self.key}" if self.key else "")


async def sealed(cluster: Cluster, place: Handover) -> bool:
    """Is handover finished? Raises Wait or Stuck when that cannot be read: not known is not finished."""
    kind = SECRET if place.kind == "Secret" else CONFIG_MAP
    found = await cluster.get(kind, place.name, place.namespace)
    if found is None or "deletionTimestamp" in found["metadata"]:
        return False
    if place.key is None:
        return True
    text = (found.get("data") or {}).get(place.key) or ""
    if place.kind == "Secret":
        try:
            text = base64.b64decode(text, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return place.value is None
    return bool(text) if place.value is None else text == place.value
