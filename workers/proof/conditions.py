"""What an object says of itself in its conditions, and for how long."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from workers.adapters.cluster_kinds import Object


def condition(obj: Object, kind: str) -> dict[str, Any]:
    """One of the object's conditions; empty when it has none of that type."""
    conditions = (obj.get("status") or {}).get("conditions") or []
    return next((c for c in conditions if c.get("type") == kind), {})


def seconds(obj: Object, said: dict[str, Any], now: datetime) -> float:
    """How long it says so, by the cluster's clock; since it was made, when it does not say since when."""
    since = said.get("lastTransitionTime") or obj["metadata"].get("creationTimestamp")
    return (now - datetime.fromisoformat(since)).total_seconds() if since else 0.0
