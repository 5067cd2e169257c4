"""Whether a Pod is in order, and when one that is not fails the hold."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Any

from workers.adapters.cluster_kinds import Object
from workers.proof.conditions import condition, seconds
from workers.proof.lifter import PURPOSE
from workers.proof.pods import TRIES

FAILING = frozenset({"CrashLoopBackOff", "ErrImagePull", "ImagePullBackOff", "InvalidImageName"})
"""A container's reason for waiting that is a failure, not a slow start."""
BY_NODE = frozenset(
    {"Evicted", "NodeAffinity", "NodeLost", "NodeShutdown", "OutOfcpu", "OutOfmemory", "OutOfpods", "Preempting"}
    | {"Shutdown", "TaintToleration", "Terminated", "TopologyAffinityError", "UnexpectedAdmissionError"}
)
"""A failed Pod's reason when its node ended it or would not have it (kubelet): what replaces it is looked at."""


def red_pod(pod: Object, now: datetime, patience: float, baseline: Collection[str] = ()) -> str | None:
    """Why a Pod fails the hold; None when it does not.

    At once: a container that cannot be pulled or that ends again and again, a Pod that failed. When it lasts: one
    that is not Ready, whatever keeps it (its probe, a volume, the scheduler). `baseline`: uids of Pods that were not
    in order before the block; those fail by their containers only.
    """
    if why := failing(pod):
        return why
    if in_order(pod) or pod["metadata"].get("uid") in baseline:
        return None
    status = pod.get("status") or {}
    if failed(pod):
        return f"Failed: {status.get('reason') or ''} {status.get('message') or keeps(pod)}"[:300]
    lasted = seconds(pod, condition(pod, "Ready"), now)
    return f"not Ready: {keeps(pod)}"[:280] + f" (for {lasted:.0f} s)" if lasted > patience else None


def in_order(pod: Object) -> bool:
    """Ready, or through with its work, or none that says anything of the block."""
    phase = (pod.get("status") or {}).get("phase")
    ready = condition(pod, "Ready").get("status") == "True"
    return ready or phase == "Succeeded" or (phase == "Running" and _half_done(pod)) or _passed_over(pod)


def failed(pod: Object) -> bool:
    """Ended without success, by its own doing."""
    return (pod.get("status") or {}).get("phase") == "Failed" and not in_order(pod)


def stays(pod: Object, now: datetime, patience: float) -> bool:
    """True for one that is not in order and will hardly come to be: waiting for it would be in vain."""
    return not in_order(pod) and (failed(pod) or seconds(pod, condition(pod, "Ready"), now) > patience)


def _half_done(pod: Object) -> bool:
    """A one-shot of several containers is not Ready any more once the first has done its work."""
    if (pod.get("spec") or {}).get("restartPolicy", "Always") == "Always":
        return False
    states = list(_containers(pod))
    return bool(states) and all(each.get("ready") or ended.get("exitCode") == 0 for each, _, ended in states)


def _passed_over(pod: Object) -> bool:
    """Our own probes are made to fail; others end by somebody's will, or wait by it (`schedulingGates`)."""
    meta, status = pod["metadata"], pod.get("status") or {}
    if {TRIES, PURPOSE} & (meta.get("labels") or {}).keys() or "deletionTimestamp" in meta:
        return True
    disrupted = condition(pod, "DisruptionTarget").get("status") == "True"
    ended = status.get("phase") == "Failed" and (status.get("reason") in BY_NODE or disrupted)
    return ended or bool((pod.get("spec") or {}).get("schedulingGates"))


def _containers(pod: Object) -> Iterator[tuple[Object, dict[str, Any], dict[str, Any]]]:
    """Each container's status, with the states `waiting` and `terminated`."""
    status = pod.get("status") or {}
    for each in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        state = each.get("state") or {}
        yield each, state.get("waiting") or {}, state.get("terminated") or {}


def failing(pod: Object) -> str | None:
    """The container that cannot be pulled, or that ends again and again."""
    if _passed_over(pod):
        return None
    for each, waiting, _ in _containers(pod):
        if waiting.get("reason") in FAILING:
            ended = (each.get("lastState") or {}).get("terminated") or {}
            said = waiting.get("message") or ended.get("message") or ""
            return f"container {each['name']}: {waiting['reason']} {said}"[:300]
    return None


def keeps(pod: Object) -> str:
    """What keeps a Pod from being Ready: the scheduler's word, a container's, or else the condition's own."""
    if (scheduled := condition(pod, "PodScheduled")).get("status") == "False":
        return f"{scheduled.get('reason')}: {scheduled.get('message') or ''}"
    for each, waiting, ended in _containers(pod):
        if ended.get("exitCode"):
            return f"container {each['name']} ended with {ended['exitCode']}: {ended.get('message') or ''}"
        if waiting.get("reason", "PodInitializing") != "PodInitializing":
            return f"container {each['name']}: {waiting['reason']} {waiting.get('message') or ''}"
    said = condition(pod, "Ready")
    return f"{said.get('reason')}: {said.get('message') or ''}" if said else "no word yet"
