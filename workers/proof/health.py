"""What the cluster says of itself during the hold, watched: sources, releases, packages, Pods."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import aclosing
from datetime import UTC, datetime

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
from workers.proof.conditions import condition, seconds
from workers.proof.pod_health import failed, failing, in_order, keeps, red_pod, stays

FLUX = (GIT_REPOSITORY, HELM_CHART, KUSTOMIZATION, HELM_RELEASE, OCI_REPOSITORY, HELM_REPOSITORY)
PACKAGES = (PROVIDER, CONFIGURATION, FUNCTION)
WATCHED = (*FLUX, *PACKAGES, POD)
WAITING_FOR_SOURCE = frozenset({"SourceNotReady", "ArtifactFailed", "DependencyNotReady"})
"""helm-controller's and kustomize-controller's words while a source is fetched anew: bounded, not red."""
MOST_KEPT = 50
BEHIND = 10.0  # seconds that a watch may be behind a list until it counts as one that tells nothing


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
    lasted = seconds(obj, ready, now)
    words = f"Ready={ready.get('status', 'Unknown')}: {ready.get('reason')}: {ready.get('message', '')}"[:300]
    if ready.get("status") == "False" and ready.get("reason") not in WAITING_FOR_SOURCE:
        return words
    return f"{words} (for {lasted:.0f} s)" if lasted > patience else None


def red_package(obj: Object, now: datetime, patience: float) -> str | None:
    """A package that Crossplane could not fetch is red at once; an unhealthy one when that lasts."""
    installed, healthy = condition(obj, "Installed"), condition(obj, "Healthy")
    if installed.get("status") == "False":
        return f"Installed=False: {installed.get('reason')}: {installed.get('message', '')}"[:300]
    if healthy.get("status") == "False" and seconds(obj, healthy, now) > patience:
        return f"Healthy=False: {healthy.get('reason')}: {healthy.get('message', '')}"[:300]
    return None


def judged(kind: Kind, obj: Object, now: datetime, patience: float, baseline: Collection[str] = ()) -> str | None:
    """Why the object fails the hold. `baseline`: uids of Pods that were not in order before the block."""
    if kind is POD:
        return red_pod(obj, now, patience, baseline)
    return red_package(obj, now, patience) if kind in PACKAGES else red(obj, now, patience)


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


def settled(kind: Kind, obj: Object, baseline: Collection[str] = ()) -> bool:
    """Green, for any kind. A package without conditions has no Crossplane that looks at it."""
    if kind is POD:
        return not failing(obj) and (in_order(obj) or uid(obj) in baseline)
    if kind in PACKAGES:
        return all(condition(obj, c).get("status", "True") == "True" for c in ("Installed", "Healthy"))
    return green(obj)


def uid(obj: Object) -> str:
    """Which object it is, whatever is made under its name later."""
    return str(obj["metadata"].get("uid"))


def name(kind: Kind, obj: Object) -> str:
    """As people name it."""
    return f"{kind.kind} {'/'.join(filter(None, key_of(obj)))}"


Which = tuple[Kind, tuple[str, str]]
"""Kind and key of one object."""


class FluxWatch:
    """All watched objects, kept current. `run` in the background.

    What was red for a moment stays red: an object that failed and recovered between two looks did fail. A watch
    that broke, or had to list anew, may have missed such a moment, and says so once (`gap`).

    `baseline`: uid -> name of Pods that were not in order before the block. One that is seen in order is held to it.
    """

    def __init__(self, cluster: Cluster, patience: float, baseline: Mapping[str, str] | None = None) -> None:
        self._cluster, self._patience = cluster, patience
        self.baseline = dict(baseline or {})
        self._seen: dict[Kind, dict[tuple[str, str], Object]] = {}
        self._blind: dict[Kind, str] = {}
        self._missed: dict[Kind, str] = {}
        self._failed: dict[str, None] = {}
        self._told: dict[Kind, set[tuple[str, str]]] = {}
        self._awaited: set[Which] = set()
        self._excused: set[str] = set()
        self._confirming = asyncio.Lock()
        self.changed = asyncio.Event()

    async def look(self) -> None:
        """List everything once. Raises what the cluster raises."""
        for kind in WATCHED:
            if await self._cluster.served(kind):
                self._seen[kind] = {key_of(o): o for o in await self._cluster.list(kind)}
                self._blind[kind] = "not watched yet"
        for pod in self._pods():
            self._in_order(pod)

    def _pods(self) -> Collection[Object]:
        return self._seen.get(POD, {}).values()

    def _in_order(self, pod: Object) -> None:
        if in_order(pod):
            self.baseline.pop(uid(pod), None)

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
        if kind is POD:
            self._in_order(obj)
        if settled(kind, obj, self._excused):
            self._awaited.discard((kind, key_of(obj)))
        why = judged(kind, obj, datetime.now(UTC), self._patience, self.baseline)
        if why and len(self._failed) < MOST_KEPT:
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
        return list(dict.fromkeys([*self._failed, *self._red_now().values()]))

    def _every(self) -> Iterator[tuple[Which, Object]]:
        return (((kind, key), obj) for kind, seen in self._seen.items() for key, obj in seen.items())

    def _red_now(self) -> dict[Which, str]:
        now = datetime.now(UTC)
        found = (
            (which, obj, judged(which[0], obj, now, self._patience, self.baseline)) for which, obj in self._every()
        )
        return {which: f"{name(which[0], obj)}: {why}" for which, obj, why in found if why}

    def expect(self, excused: Iterable[str]) -> None:
        """From now on each is to be seen settled once. `excused`: uids of Pods that need not be in order."""
        self._excused = set(excused)
        self._awaited = {which for which, obj in self._every() if not settled(which[0], obj, self._excused)}

    def unsettled(self) -> list[str]:
        """What was not seen settled since `expect`, not for a moment.

        Each by itself: where many reconcile every minute there may be no moment in which all are settled. What is
        there no longer is not waited for.
        """
        return list(self._unsettled().values())

    def _unsettled(self) -> dict[Which, str]:
        left = ((which, obj) for which, obj in self._every() if which in self._awaited)
        return {which: _why(which[0], obj) for which, obj in left if not settled(which[0], obj, self._excused)}

    async def settle(self, timeout: float) -> list[str]:
        """Wait until each was settled and none is red; what is amiss when the time is over. Needs `run` beside it.

        Pods that are not in order are waited for too, as they may be about to start. What stays so is no fault: it is
        the `baseline` of what follows.
        """
        now = datetime.now(UTC)
        self.baseline = self._named(lambda pod: not in_order(pod))
        self.expect(self._named(lambda pod: stays(pod, now, self._patience)))
        try:
            async with asyncio.timeout(timeout):
                while self._amiss():
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            self._excused |= self.baseline.keys()
        return list(self._amiss().values())

    def _amiss(self) -> dict[Which, str]:
        """Before the block: a Pod that failed by now is none of its doing."""
        ended = self._named(failed)
        self.baseline |= ended
        self._excused |= ended.keys()
        return self._unsettled() | self._red_now()

    def _named(self, wanted: Callable[[Object], bool]) -> dict[str, str]:
        return {uid(pod): "/".join(key_of(pod)) for pod in self._pods() if wanted(pod)}


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
        said = keeps(obj)
    else:
        ready = condition(obj, "Ready") or condition(obj, "Installed")
        said = str(ready.get("message") or "no word yet")
    return f"{name(kind, obj)}: {said}"[:200]
