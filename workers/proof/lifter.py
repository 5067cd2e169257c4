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
from workers.adapters.cluster_kinds import CONFIG_MAP, JOB, POD, Kind, Object, Seen, name_of
from workers.errors import Stuck, Trouble
from workers.proof import means
from workers.proof.block import Placement, lift_at, standing
from workers.proof.pods import CLEAN_UP, HARDENED, OURS, PART_OF, TOKEN
from workers.sovereign import Sovereign
from workers.world import World

PURPOSE = "cutover.catalyst/lifts"
MARGIN = 120  # seconds that the Job may live longer than its watch
READY = 120.0  # seconds for the lifter's Pod to run
EVERY = 10.0  # seconds between two looks at the block's end


def job(sovereign: Sovereign, token: int, seconds: float, kind: Kind) -> Object:
    """The Job. Its Pod goes through the Pod network, to the API server alone, which no block closes.

    It runs only when a first container has found that its account may lift objects of `kind`.
    """
    labels = {PART_OF: OURS, TOKEN: str(token), PURPOSE: "true"}
    where = ["lift", "--namespace", (place := Placement.of(sovereign)).namespace, "--plan", place.config_map]
    able = ["--able", kind.plural, "--policy", sovereign.proof.policy]
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
                    "initContainers": [_container(sovereign, "able", [*where, *able])],
                    "containers": [_container(sovereign, "lifter", [*where, "--after", f"{seconds:.0f}"])],
                },
            },
        },
    }


def _container(sovereign: Sovereign, name: str, args: list[str]) -> Object:
    return {
        "name": name,
        "image": sovereign.nodes.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["cutover"],
        "args": args,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "resources": {"requests": {"cpu": "5m", "memory": "48Mi"}, "limits": {"memory": "192Mi"}},
        "securityContext": dict(HARDENED),
    }


@asynccontextmanager
async def beside(world: World, token: int, *, seconds: float, kind: Kind) -> AsyncIterator[None]:
    """The lifter runs before the block begins, and goes when the block is gone. Raises Stuck when it does not."""
    cluster, namespace = world.cluster, world.sovereign.nodes.namespace
    await _sweep(cluster, namespace, token)
    wanted = job(world.sovereign, token, seconds, kind)
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

    def over(seen: Seen) -> bool:
        return up(seen) or any(_unable(pod) for pod in seen.values())

    where = f"Job {namespace}/cutover-lifter-{token}"
    try:
        seen = await cluster.wait_all(POD, namespace, over, READY, labels=f"{PURPOSE}=true,{TOKEN}={token}")
    except WaitedInVain as late:
        said = [(p.get("status") or {}).get("phase", "no status") for p in late.seen.values()] or ["no Pod"]
        raise Stuck("NoLifter", f"{where} does not run ({', '.join(said)}); nothing was blocked") from None
    if not up(seen):
        why = "; ".join(filter(None, map(_unable, seen.values())))
        raise Stuck("NoLifter", f"{where} could not lift a block, so nothing was blocked: {why}")


def _unable(pod: Object) -> str:
    """What the container that tries the account's rights said, once it has failed."""
    for status in (pod.get("status") or {}).get("initContainerStatuses") or ():
        for state in (status.get("state") or {}, status.get("lastState") or {}):
            ended = state.get("terminated") or {}
            if ended.get("exitCode"):
                return str(ended.get("message") or f"exit code {ended['exitCode']}").strip()
    return ""


async def able(cluster: Cluster, place: Placement, plural: str, policy: str) -> None:
    """May this account lift a block? It looks, deletes a policy that is not there, and patches nothing.

    While a block stands (the Pod was moved to another node) only the look is taken. Raises what lifting would.
    """
    if await standing(cluster, place):
        return
    for kind in means.KINDS:
        if kind.plural == plural:
            await cluster.delete(kind, policy, place.namespace if kind.namespaced else None)
    await cluster.patch(CONFIG_MAP, place.config_map, place.namespace, {})


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
