"""When a Sovereign has settled: everything that Git and cloud-init asked for is there and works."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from sandbox.controllers.api import DAEMON_SETS, DEPLOYMENTS, HELM_RELEASES, KUSTOMIZATIONS, PROVIDERS, Object
from sandbox.controllers.conditions import is_true
from sandbox.controllers.mirror import Mirrors
from sandbox.controllers.workloads import settled

WATCHED = (HELM_RELEASES, DEPLOYMENTS, DAEMON_SETS, KUSTOMIZATIONS, PROVIDERS)
SAY_EVERY = 0.5  # seconds


class Unsettled(Exception):
    """The Sovereign did not come up; the text says what is missing."""


@dataclass(frozen=True)
class Standing:
    """How far a Sovereign is."""

    releases: int
    releases_ready: int
    workloads: int
    workloads_ready: int
    missing: tuple[str, ...]

    def line(self) -> str:
        """For people."""
        return (
            f"{self.releases_ready} of {self.releases} releases ready, "
            f"{self.workloads_ready} of {self.workloads} workloads running"
        )


def standing(mirrors: Mirrors, releases: int) -> Standing:
    """How far it is now. `releases`: how many HelmReleases Git holds."""
    ready = [r for r in mirrors[HELM_RELEASES] if is_true(r)]
    workloads = [*mirrors[DEPLOYMENTS], *mirrors[DAEMON_SETS]]
    up = [w for w in workloads if _up(w)]
    missing = [_named(r) for r in mirrors[HELM_RELEASES] if not is_true(r)]
    missing += [_named(w) for w in workloads if not _up(w)]
    missing += [_named(k) for k in mirrors[KUSTOMIZATIONS] if not is_true(k)]
    missing += [_named(p) for p in mirrors[PROVIDERS] if not is_true(p, "Healthy")]
    found = max(releases, len(list(mirrors[HELM_RELEASES])))
    if len(ready) < found or not list(mirrors[KUSTOMIZATIONS]):
        missing.append(f"{found - len(ready)} HelmReleases")
    return Standing(found, len(ready), len(workloads), len(up), tuple(missing))


async def settle(mirrors: Mirrors, releases: int, say: Callable[[str], None], limit: float) -> None:
    """Return when nothing is missing. Raises Unsettled after `limit` seconds."""
    changed = asyncio.Event()

    def note(_old: Object | None, _new: Object | None) -> None:
        changed.set()

    loop = asyncio.get_running_loop()
    deadline, told = loop.time() + limit, 0.0
    with ExitStack() as stack:
        for resource in WATCHED:
            stack.enter_context(mirrors[resource].listening(note))
        while (now := standing(mirrors, releases)).missing:
            if loop.time() > deadline:
                raise Unsettled(f"after {limit:.0f} s: {now.line()}; missing: {', '.join(now.missing[:12])}")
            if loop.time() - told > SAY_EVERY:
                told = loop.time()
                say(now.line())
            changed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), 1.0)
            # A burst of changes is looked at once.
            await asyncio.sleep(0.05)
    say(standing(mirrors, releases).line())


def _up(workload: Object) -> bool:
    if workload["kind"] == DEPLOYMENTS.kind:
        return settled(workload)
    status = workload.get("status") or {}
    wanted = status.get("desiredNumberScheduled")
    return bool(wanted) and status.get("numberReady") == wanted == status.get("updatedNumberScheduled")


def _named(obj: Object) -> str:
    return f"{obj['kind']} {obj['metadata']['name']}"
