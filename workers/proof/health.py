"""What the cluster says of itself during the hold, watched: sources, releases, packages, Pods."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

from workers.adapters.cluster import LOST, SYNCED, Cluster
from workers.adapters.cluster_kinds import (
    CONFIGURATION,
    FUNCTION,
    GIT_REPOSITORY,
    HELM_CHART,
    HELM_RELEASE,
    HELM_REPOSITORY,
    KUSTOMIZATION,
    OCI_REPOSITORY,
    POD,
    PROVIDER,
    Kind,
    Object,
    key_of,
)
from workers.errors import Wait
from workers.proof.pods import TRIES

FLUX = (GIT_REPOSITORY, HELM_CHART, KUSTOMIZATION, HELM_RELEASE, OCI_REPOSITORY, HELM_REPOSITORY)
PACKAGES = (PROVIDER, CONFIGURATION, FUNCTION)
WATCHED = (*FLUX, *PACKAGES, POD)
WAITING_FOR_SOURCE = frozenset({"SourceNotReady", "ArtifactFailed", "DependencyNotReady"})
"""helm-controller's and kustomize-controller's words while a source is fetched anew: bounded, not red."""
FAILING = frozenset({"CrashLoopBackOff", "ErrImagePull", "ImagePullBackOff", "InvalidImageName"})
"""A container's reason for waiting that is a failure, not a slow start."""
MOST_KEPT = 50
BEHIND = 10.0  # seconds that a watch may be behind a list until it counts as one that tells nothing


def condition(obj: Object, kind: str) -> dict[str, Any]:
    """One of the object's conditions; empty when it has none of that type."""
    conditions = (obj.get("status") or {}).get("conditions") or []
    return next((c for c in conditions if c.get("type") == kind), {})


def red(obj: Object, now: datetime, patience: float) -> str | None:
    """Why a Flux object fails the hold; None when it does not.

    During each reconcile Ready goes Unknown (kustomize-controller, all versions), so that is red only when it
    lasts. Ready=False is red at once, unless it only says that a source is being fetched.
    """
    if idle(obj):
        return None
    stalled, ready = condition(obj, "Stalled"), condition(obj, "Ready")
    if stalled.get("status") == "True":
        return f"Stalled: {stalled.get('reason')}: {stalled.get('message', '')}"[:300]
    if ready.get("status") == "True":
        return None
    lasted = _lasted(obj, ready, now)
    words = f"Ready={ready.get('status', 'Unknown')}: {ready.get('reason')}: {ready.get('message', '')}"[:300]
    if ready.get("status") == "False" and ready.get("reason") not in WAITING_FOR_SOURCE:
        return words
    return f"{words} (for {lasted:.0f} s)" if lasted > patience else None


def red_package(obj: Object, now: datetime, patience: float) -> str | None:
    """A package that Crossplane could not fetch is red at once; an unhealthy one when that lasts."""
    installed, healthy = condition(obj, "Installed"), condition(obj, "Healthy")
    if installed.get("status") == "False":
        return f"Installed=False: {installed.get('reason')}: {installed.get('message', '')}"[:300]
    if healthy.get("status") == "False" and _lasted(obj, healthy, now) > patience:
        return f"Healthy=False: {healthy.get('reason')}: {healthy.get('message', '')}"[:300]
    return None


def red_pod(pod: Object) -> str | None:
    """A container that cannot be pulled, or that ends again and again. Our own probes are made to fail."""
    if TRIES in (pod["metadata"].get("labels") or {}) or "deletionTimestamp" in pod["metadata"]:
        return None
    status = pod.get("status") or {}
    for each in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (each.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in FAILING:
            ended = (each.get("lastState") or {}).get("terminated") or {}
            said = waiting.get("message") or ended.get("message") or ""
            return f"container {each['name']}: {waiting['reason']} {said}"[:300]
    return None


def judged(kind: Kind, obj: Object, now: datetime, patience: float) -> str | None:
    """Why the object fails the hold."""
    if kind is POD:
        return red_pod(obj)
    return red_package(obj, now, patience) if kind in PACKAGES else red(obj, now, patience)


def _lasted(obj: Object, said: dict[str, Any], now: datetime) -> float:
    since = said.get("lastTransitionTime") or obj["metadata"].get("creationTimestamp")
    return (now - datetime.fromisoformat(since)).total_seconds() if since else 0.0


def idle(obj: Object) -> bool:
    """True for what does nothing and says nothing: suspended, or a HelmRepository of an OCI registry."""
    spec = obj.get("spec") or {}
    return bool(spec.get("suspend")) or (obj.get("kind") == "HelmRepository" and spec.get("type") == "oci")


def green(obj: Object) -> bool:
    """True when it says Ready for the generation that is asked for, or is not asked to do anything."""
    if idle(obj):
        return True
    observed = (obj.get("status") or {}).get("observedGeneration", -1)
    current = observed == obj["metadata"].get("generation", observed)
    return current and condition(obj, "Ready").get("status") == "True"


def settled(kind: Kind, obj: Object) -> bool:
    """Green, for any kind. A package without conditions has no Crossplane that looks at it."""
    if kind is POD:
        return red_pod(obj) is None
    if kind in PACKAGES:
        return all(condition(obj, c).get("status", "True") == "True" for c in ("Installed", "Healthy"))
    return green(obj)


def name(kind: Kind, obj: Object) -> str:
    """As people name it."""
    return f"{kind.kind} {'/'.join(filter(None, key_of(obj)))}"


class FluxWatch:
    """All watched objects, kept current. `run` in the background.

    What was red for a moment stays red: an object that failed and recovered between two looks did fail. A watch
    that broke, or had to list anew, may have missed such a moment, and says so once (`gap`).
    """

    def __init__(self, cluster: Cluster, patience: float) -> None:
        self._cluster, self._patience = cluster, patience
        self._seen: dict[Kind, dict[tuple[str, str], Object]] = {}
        self._blind: dict[Kind, str] = {}
        self._missed: dict[Kind, str] = {}
        self._failed: dict[str, None] = {}
        self._told: dict[Kind, set[tuple[str, str]]] = {}
        self._confirming = asyncio.Lock()
        self.changed = asyncio.Event()

    async def look(self) -> None:
        """List everything once. Raises what the cluster raises."""
        for kind in WATCHED:
            if await self._cluster.served(kind):
                self._seen[kind] = {key_of(o): o for o in await self._cluster.list(kind)}
                self._blind[kind] = "not watched yet"

    async def run(self) -> None:
        """Follow every kind until cancelled."""
        async with asyncio.TaskGroup() as group:
            for kind in self._seen:
                group.create_task(self._follow(kind))

    async def _follow(self, kind: Kind) -> None:
        whole = False
        while True:
            there: set[tuple[str, str]] | None = set()  # what a new watch begins with; None once it is known
            try:
                async with aclosing(self._cluster.follow(kind)) as events:
                    async for change, obj in events:
                        if change == LOST:
                            self._missed[kind] = "the watch broke"
                        elif change == SYNCED:
                            if whole:
                                self._missed[kind] = "the watch had to list anew"
                            if there is not None:  # a new watch does not tell what went before it began
                                self._seen[kind] = {k: o for k, o in self._seen[kind].items() if k in there}
                            whole, there = True, None
                            self._blind.pop(kind, None)
                        else:
                            self._take(kind, change, obj)
                            if there is not None:
                                there.add(key_of(obj))
                        self.changed.set()
            except Wait as error:
                self._blind[kind] = str(error)
                await asyncio.sleep(min(1.0, error.after))

    def _take(self, kind: Kind, change: str, obj: Object) -> None:
        self._told.setdefault(kind, set()).add(key_of(obj))
        if change == "DELETED":
            self._seen[kind].pop(key_of(obj), None)
            return
        self._seen[kind][key_of(obj)] = obj
        if (why := judged(kind, obj, datetime.now(UTC), self._patience)) and len(self._failed) < MOST_KEPT:
            self._failed[f"{name(kind, obj)}: {why}"] = None

    async def confirm(self) -> None:
        """Compare what the watches told with a list made now: a connection that died silently tells nothing at all.

        Equal versions of every object mean that nothing was missed, not even what came and went. What is behind, and
        stays behind, is a gap.
        """
        async with self._confirming:
            await asyncio.gather(*(self._confirm(kind) for kind in self._seen))

    async def _confirm(self, kind: Kind) -> None:
        told = self._told[kind] = set()
        try:
            listed = _versions(await self._cluster.list(kind))
        except Wait as error:
            self._missed[kind] = str(error)
            return
        deadline = time.monotonic() + BEHIND
        while silent(listed, _versions(self._seen[kind].values()), told):
            if time.monotonic() > deadline:
                self._missed[kind] = "the watch does not tell what a list shows"
                return
            await asyncio.sleep(0.1)

    def gap(self) -> str | None:
        """What cannot be seen at present, or was not seen for a moment since the last call."""
        found, self._missed = {**self._missed, **self._blind}, {}
        return "; ".join(f"{k.kind}: {why}" for k, why in found.items()) or None

    def red(self) -> list[str]:
        """Everything that fails the hold: what did since `run`, and what does now."""
        now = datetime.now(UTC)
        current = (
            f"{name(kind, obj)}: {why}"
            for kind, objects in self._seen.items()
            for obj in objects.values()
            if (why := judged(kind, obj, now, self._patience))
        )
        return list(dict.fromkeys([*self._failed, *current]))

    def not_green(self) -> list[str]:
        """Everything that is not settled."""
        return [
            f"{name(kind, obj)}: {_why(kind, obj)}"[:200]
            for kind, objects in self._seen.items()
            for obj in objects.values()
            if not settled(kind, obj)
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


Versions = Mapping[tuple[str, str], str]


def _versions(objects: Iterable[Object]) -> Versions:
    return {key_of(o): str(o["metadata"].get("resourceVersion")) for o in objects}


def silent(listed: Versions, watched: Versions, told: Collection[tuple[str, str]]) -> bool:
    """True while the watch has not told all that the list shows. Versions are compared for equality only.

    What the watch told of since the list was asked for (`told`) is fresh enough: the list may be the older of the two.
    """
    return any(watched.get(key) != listed.get(key) for key in (listed.keys() | watched.keys()) - set(told))


def _why(kind: Kind, obj: Object) -> str:
    if kind is POD:
        return red_pod(obj) or ""
    said = condition(obj, "Ready") or condition(obj, "Installed")
    return str(said.get("message") or "no word yet")
