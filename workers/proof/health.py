"""Flux's own word on its objects, watched during the hold: what is red, and for how long."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

from workers.adapters.cluster import Cluster
from workers.adapters.cluster_kinds import (
    GIT_REPOSITORY,
    HELM_CHART,
    HELM_RELEASE,
    KUSTOMIZATION,
    OCI_REPOSITORY,
    Kind,
    Object,
    key_of,
)
from workers.errors import Wait

WATCHED = (GIT_REPOSITORY, HELM_CHART, KUSTOMIZATION, HELM_RELEASE, OCI_REPOSITORY)
WAITING_FOR_SOURCE = frozenset({"SourceNotReady", "ArtifactFailed", "DependencyNotReady"})
"""helm-controller's and kustomize-controller's words while a source is fetched anew: bounded, not red."""


def condition(obj: Object, kind: str) -> dict[str, Any]:
    """One of the object's conditions; empty when it has none of that type."""
    conditions = (obj.get("status") or {}).get("conditions") or []
    return next((c for c in conditions if c.get("type") == kind), {})


def red(obj: Object, now: datetime, patience: float) -> str | None:
    """Why the object fails the hold; None when it does not.

    During each reconcile Ready goes Unknown (kustomize-controller, all versions), so that is red only when it
    lasts. Ready=False is red at once, unless it only says that a source is being fetched.
    """
    if (obj.get("spec") or {}).get("suspend"):
        return None
    stalled, ready = condition(obj, "Stalled"), condition(obj, "Ready")
    if stalled.get("status") == "True":
        return f"Stalled: {stalled.get('reason')}: {stalled.get('message', '')}"[:300]
    if ready.get("status") == "True":
        return None
    since = _time(ready.get("lastTransitionTime") or obj["metadata"].get("creationTimestamp"), now)
    lasted = (now - since).total_seconds()
    words = f"Ready={ready.get('status', 'Unknown')}: {ready.get('reason')}: {ready.get('message', '')}"[:300]
    if ready.get("status") == "False" and ready.get("reason") not in WAITING_FOR_SOURCE:
        return words
    return f"{words} (for {lasted:.0f} s)" if lasted > patience else None


def _time(text: str | None, otherwise: datetime) -> datetime:
    return datetime.fromisoformat(text) if text else otherwise


def green(obj: Object) -> bool:
    """True when it says Ready for the generation that is asked for, or is not asked to do anything."""
    if (obj.get("spec") or {}).get("suspend"):
        return True
    observed = (obj.get("status") or {}).get("observedGeneration", -1)
    current = observed == obj["metadata"].get("generation", observed)
    return current and condition(obj, "Ready").get("status") == "True"


def name(kind: Kind, obj: Object) -> str:
    """As people name it."""
    namespace, own = key_of(obj)
    return f"{kind.kind} {namespace}/{own}"


class FluxWatch:
    """All watched objects, kept current. `run` in the background; `gap` says what is not being seen."""

    def __init__(self, cluster: Cluster, patience: float) -> None:
        self._cluster, self._patience = cluster, patience
        self._seen: dict[Kind, dict[tuple[str, str], Object]] = {}
        self._blind: dict[Kind, str] = {}
        self.changed = asyncio.Event()

    async def look(self) -> None:
        """List everything once. Raises what the cluster raises."""
        for kind in WATCHED:
            if await self._cluster.served(kind):
                self._seen[kind] = {key_of(o): o for o in await self._cluster.list(kind)}

    async def run(self) -> None:
        """Follow every kind until cancelled."""
        async with asyncio.TaskGroup() as group:
            for kind in self._seen:
                group.create_task(self._follow(kind))

    async def _follow(self, kind: Kind) -> None:
        while True:
            try:
                async with aclosing(self._cluster.watch(kind)) as events:
                    async for change, obj in events:
                        self._blind.pop(kind, None)
                        if change == "DELETED":
                            self._seen[kind].pop(key_of(obj), None)
                        else:
                            self._seen[kind][key_of(obj)] = obj
                        self.changed.set()
            except Wait as error:
                self._blind[kind] = str(error)
                await asyncio.sleep(min(1.0, error.after))

    def gap(self) -> str | None:
        """What cannot be seen at present."""
        return "; ".join(f"{k.kind}: {why}" for k, why in self._blind.items()) or None

    def red(self) -> list[str]:
        """Everything that fails the hold now."""
        now = datetime.now(UTC)
        return [
            f"{name(kind, obj)}: {why}"
            for kind, objects in self._seen.items()
            for obj in objects.values()
            if (why := red(obj, now, self._patience))
        ]

    def not_green(self) -> list[str]:
        """Everything that is not settled."""
        return [
            f"{name(kind, obj)}: {condition(obj, 'Ready').get('message', 'no word yet')}"[:200]
            for kind, objects in self._seen.items()
            for obj in objects.values()
            if not green(obj)
        ]

    async def settle(self, timeout: float) -> list[str]:
        """Wait until all are green; what is not when the time is over. Needs `run` beside it."""
        try:
            async with asyncio.timeout(timeout):
                while self.not_green():
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            pass
        return self.not_green()
