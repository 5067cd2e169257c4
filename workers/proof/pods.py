"""Short-lived Pods that try something on one node, and what became of them."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio

from workers.adapters.cluster import Cluster
from workers.adapters.cluster_answers import WaitedInVain
from workers.adapters.cluster_kinds import NAMESPACE, POD, Object, key_of, name_of

PART_OF = "app.kubernetes.io/part-of"
TOKEN = "cutover.catalyst/token"  # noqa: S105  a label
TRIES = "cutover.catalyst/tries"
TURN = "cutover.catalyst/turn"
OURS = "catalyst-cutover"
SELECTOR = f"{PART_OF}={OURS},{TRIES}"
ADMITS = "pod-security.kubernetes.io/enforce"
CLEAN_UP = 20.0  # seconds

HARDENED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "capabilities": {"drop": ["ALL"]},
}
"""The container's securityContext that the `restricted` Pod Security Standard wants, and files that nobody writes."""


def pod_name(purpose: str, node: str, token: int, turn: str) -> str:
    """Short, stable and unique: node names may be as long as a name can be."""
    short = hashlib.sha256(node.encode()).hexdigest()[:8]
    return f"cutover-{purpose}-{token}-{turn}-{short}"


def manifest(
    *,
    namespace: str,
    purpose: str,
    node: str,
    token: int,
    turn: str,
    image: str,
    pull: str,
    args: Sequence[str] = (),
    host_network: bool = False,
    dns: str = "",
    lifetime: int = 600,
) -> Object:
    """A Pod bound to one node: no scheduler, no mounts, no token, gone at the latest after `lifetime`.

    `dns`: its dnsPolicy, when that is not the cluster's own resolver; `Default` asks as the node does.
    """
    container: dict[str, Any] = {
        "name": "try",
        "image": image,
        "imagePullPolicy": pull,
        "resources": {"requests": {"cpu": "5m", "memory": "16Mi"}, "limits": {"memory": "128Mi"}},
        "securityContext": dict(HARDENED),
    }
    if args:
        container["command"] = list(args)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name(purpose, node, token, turn),
            "namespace": namespace,
            "labels": {PART_OF: OURS, TOKEN: str(token), TRIES: purpose, TURN: turn},
        },
        "spec": {
            "nodeName": node,
            "restartPolicy": "Never",
            "activeDeadlineSeconds": lifetime,
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "tolerations": [{"operator": "Exists"}],
            "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
            # A host-network Pod would else ask the node's resolver, which knows no cluster name.
            **({"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"} if host_network else {}),
            **({"dnsPolicy": dns} if dns else {}),
            "containers": [container],
        },
    }


async def ensure_namespace(cluster: Cluster, name: str) -> None:
    """The namespace of agents and probes; agents need host paths, so it is labelled for that."""
    known = await cluster.get(NAMESPACE, name)
    if known is not None and (known["metadata"].get("labels") or {}).get(ADMITS) == "privileged":
        return
    await cluster.apply(
        NAMESPACE,
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": {ADMITS: "privileged"}},
        },
    )


async def sweep(cluster: Cluster, namespace: str | None, token: int) -> int:
    """Delete Pods that an attempt up to `token` left behind; never those of one that fenced us off."""
    left = [p for p in await cluster.list(POD, namespace, SELECTOR) if _token(p) <= token]
    for pod in left:
        await cluster.delete(POD, name_of(pod), pod["metadata"]["namespace"])
    return len(left)


def _token(pod: Object) -> int:
    text = str((pod["metadata"].get("labels") or {}).get(TOKEN, "0"))
    return int(text) if text.isdigit() else 0


@asynccontextmanager
async def placed(cluster: Cluster, pods: Iterable[Object]) -> AsyncIterator[None]:
    """The Pods, for as long as the block lasts; deleted on every path."""
    made: list[Object] = []
    try:
        for pod in pods:
            made.append(pod)
            await cluster.apply(POD, pod)
        yield
    finally:
        with anyio.move_on_after(CLEAN_UP, shield=True):
            for pod in made:
                await cluster.delete(POD, name_of(pod), pod["metadata"]["namespace"])


async def settled(
    cluster: Cluster,
    pods: Sequence[Object],
    done: Callable[[Object], bool],
    timeout: float,
) -> Mapping[tuple[str, str], Object]:
    """The Pods as last seen, once `done` holds for each, or when the time is over."""
    names = {key_of(p) for p in pods}
    turn = pods[0]["metadata"]["labels"][TURN]

    def ours(seen: Mapping[tuple[str, str], Object]) -> dict[tuple[str, str], Object]:
        return {key: obj for key, obj in seen.items() if key in names}

    def finished(seen: Mapping[tuple[str, str], Object]) -> bool:
        found = ours(seen)
        return len(found) == len(names) and all(done(p) for p in found.values())

    labels = f"{SELECTOR},{TURN}={turn}"
    try:
        return ours(await cluster.wait_all(POD, None, finished, timeout, labels=labels))
    except WaitedInVain as late:
        return ours(late.seen)


def container_state(pod: Object) -> Mapping[str, Any]:
    """State of the Pod's one container; empty while there is none."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    return (statuses[0].get("state") or {}) if statuses else {}


def ended(pod: Object) -> bool:
    """Its one container has ended, and said what it had to say."""
    return "terminated" in container_state(pod)
