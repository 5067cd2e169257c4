"""The lifter: a Job that stands beside the block and lifts it when nobody renews it any more.

It is there before the block is, on a node, with its image pulled, and needs neither the log nor our workers:
an API server and the end that is written on the block are enough. It goes by the end; at the end of its own
time it lifts whatever stands.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import anyio

from workers.adapters.cluster import Cluster, Exists
from workers.adapters.cluster_answers import WaitedInVain
from workers.adapters.cluster_kinds import JOB, POD, Object, Seen, name_of
from workers.errors import Stuck, Trouble
from workers.proof.block import Placement, lift_at, standing
from workers.proof.pods import CLEAN_UP, OURS, PART_OF, TOKEN
from workers.sovereign import Sovereign
from workers.world import World

PURPOSE = "cutover.catalyst/lifts"
MARGIN = 120  # seconds that the Job may live longer than its watch
READY = 120.0  # seconds for the lifter's Pod to run
EVERY = 10.0  # seconds between two looks at the block's end


def job(sovereign: Sovereign, token: int, seconds: float) -> Object:
    """The Job. Its Pod goes through the Pod network, to the API server alone, which no block closes."""
    labels = {PART_OF: OURS, TOKEN: str(token), PURPOSE: "true"}
    place = Placement.of(sovereign)
    container = {
        "name": "lifter",
        "image": sovereign.nodes.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["cutover"],
        "args": ["lift", "--namespace", place.namespace, "--plan", place.config_map, "--after", f"{seconds:.0f}"],
        "resources": {"requests": {"cpu": "5m", "memory": "48Mi"}, "limits": {"memory": "192Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"cutover-lifter-{token}", "namespace": place.namespace, "labels": labels},
        "spec": {
            "backoffLimit": 20,
            "activeDeadlineSeconds": int(seconds) + MARGIN,
            "ttlSecondsAfterFinished": 3600,
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "restartPolicy": "OnFailure",
                    "serviceAccountName": sovereign.proof.lifter_account,
                    "tolerations": [{"operator": "Exists"}],
                    "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
                    "containers": [container],
                },
            },
        },
    }


@asynccontextmanager
async def beside(world: World, token: int, *, seconds: float) -> AsyncIterator[None]:
    """The lifter runs before the block begins, and goes when the block is gone. Raises Stuck when it does not."""
    cluster, namespace = world.cluster, world.sovereign.nodes.namespace
    await _sweep(cluster, namespace, token)
    wanted = job(world.sovereign, token, seconds)
    try:
        # It may exist: this attempt's own, made before an answer was lost.
        with contextlib.suppress(Exists):
            await cluster.create(JOB, wanted)
        await _running(cluster, namespace, token)
        yield
    finally:
        with anyio.move_on_after(CLEAN_UP, shield=True):
            # While anything stands the lifter is needed; it ends by itself, and the next attempt sweeps it.
            if not await standing(cluster, Placement.of(world.sovereign)):
                await cluster.delete(JOB, name_of(wanted), namespace)


async def _sweep(cluster: Cluster, namespace: str, token: int) -> None:
    for old in await cluster.list(JOB, namespace, f"{PURPOSE}=true"):
        if int(old["metadata"]["labels"].get(TOKEN, "0")) < token:
            await cluster.delete(JOB, name_of(old), namespace)


async def _running(cluster: Cluster, namespace: str, token: int) -> None:
    """Wait until the lifter's Pod runs: a block without one would outlive us if we all died."""

    def up(seen: Seen) -> bool:
        return any((p.get("status") or {}).get("phase") == "Running" for p in seen.values())

    try:
        await cluster.wait_all(POD, namespace, up, READY, labels=f"{PURPOSE}=true,{TOKEN}={token}")
    except WaitedInVain as late:
        said = [(p.get("status") or {}).get("phase", "no status") for p in late.seen.values()] or ["no Pod"]
        message = f"Job {namespace}/cutover-lifter-{token} does not run ({', '.join(said)}); nothing was blocked"
        raise Stuck("NoLifter", message) from None


async def watch(cluster: Cluster, place: Placement, seconds: float, every: float = EVERY) -> bool:
    """Lift what is over, again and again, until `seconds` have passed; then lift whatever stands.

    True when it lifted anything. An API server that is away is waited for: nothing else is left to do.
    """
    lifted = False
    ends = time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0:
        with contextlib.suppress(Trouble):
            lifted |= await lift_at(cluster, place, only_expired_at=datetime.now(UTC))
        await asyncio.sleep(min(every, left))
    return await lift_at(cluster, place) or lifted
