"""Live pulls on every node: one that only local Harbor can answer, one that only upstream could."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from workers.adapters.cluster_kinds import Object, Seen, key_of
from workers.errors import Stuck, Wait
from workers.proof import pods
from workers.sovereign import Sovereign
from workers.world import World

REFUSED = frozenset({"ErrImagePull", "ImagePullBackOff"})
AFTER_PULL = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
"""The kubelet creates the container only after it has the image (kuberuntime startContainer)."""


class Outcome(Enum):
    """What became of a pull."""

    PENDING = "pending"
    PULLED = "pulled"
    REFUSED = "refused"


def outcome(pod: Object) -> tuple[Outcome, str]:
    """Judge one Pod by its container's state; the message is the kubelet's own."""
    state = pods.container_state(pod)
    if "running" in state or "terminated" in state:
        return Outcome.PULLED, ""
    waiting = state.get("waiting") or {}
    reason = str(waiting.get("reason", ""))
    if reason in AFTER_PULL:
        return Outcome.PULLED, reason
    if reason in REFUSED:
        return Outcome.REFUSED, f"{reason}: {waiting.get('message', '')}"[:400]
    return Outcome.PENDING, reason or str((pod.get("status") or {}).get("reason", "no answer"))


@dataclass(frozen=True, slots=True)
class Probe:
    """An artifact that exists only in local Harbor, and how nodes ask for it in upstream's name."""

    repository: str
    tag: str
    image: str


def probe(sovereign: Sovereign, tag: str) -> Probe:
    """Where the probe is put, so that only a node that goes through local Harbor can pull it.

    It is spelled with the host of `nodes.upstream_only`, so both pulls ask the same mirror entry.
    """
    host = sovereign.nodes.upstream_only.partition("/")[0]
    project = sovereign.project_of(host)
    if project is None:
        raise Stuck("HostNotMapped", f"no local project stands in for {host}; set sovereign.upstreams")
    path = sovereign.nodes.probe_repository
    return Probe(f"{project}/{path}", tag, f"{host}/{path}:{tag}")


@dataclass(frozen=True, slots=True)
class Pulls:
    """What was pulled and refused on every node."""

    local_only: str
    upstream_only: str
    refusals: Mapping[str, str]
    """Node -> the kubelet's words."""
    by_digest: str = ""
    """A second one, pulled by its digest; empty when none was asked for."""


async def prove(world: World, nodes: Sequence[str], token: int, turn: str, *, by_digest: bool = False) -> Pulls:
    """Pull both on every node. Raises Stuck naming the nodes that still reach past local Harbor."""
    sovereign = world.sovereign
    place = probe(sovereign, f"{token}-{turn}-{secrets.token_hex(4)}")
    negative = sovereign.nodes.upstream_only
    await _not_mirrored(world, negative)
    await world.registries.push_probe(place.repository, place.tag, secrets.token_bytes(64))
    namespace = sovereign.nodes.namespace

    def on_all(purpose: str, image: str) -> list[Object]:
        return [
            pods.manifest(
                namespace=namespace,
                purpose=purpose,
                node=node,
                token=token,
                turn=turn,
                image=image,
                pull="Always",
            )
            for node in nodes
        ]

    pinned = await _pinned(world, place) if by_digest else ""
    wanted, refused = on_all("local", place.image), on_all("upstream", negative)
    also = on_all("digest", pinned) if pinned else []
    async with pods.placed(world.cluster, [*wanted, *also, *refused]):
        seen = await pods.settled(world.cluster, [*wanted, *also, *refused], _decided, sovereign.nodes.timeout)
    _check_local(seen, wanted, place.image)
    _check_local(seen, also, pinned)
    refusals = _check_upstream(seen, refused, negative)
    return Pulls(place.image, negative, refusals, pinned)


async def _pinned(world: World, place: Probe) -> str:
    """Another artifact that no node has, spelled with its digest: containerd resolves that on another way."""
    digest = await world.registries.push_probe(place.repository, f"{place.tag}-pinned", secrets.token_bytes(64))
    return f"{place.image.removesuffix(f':{place.tag}')}@{digest}"


async def _not_mirrored(world: World, image: str) -> None:
    host, _, rest = image.partition("/")
    repository, _, tag = rest.rpartition(":")
    local = f"{world.sovereign.project_of(host)}/{repository}"
    if await world.registries.local_digest(local, tag) is not None:
        message = f"{image} must not be in local Harbor, but {local}:{tag} is there; delete it"
        raise Stuck("NegativeIsMirrored", message)


async def negative_exists(world: World) -> None:
    """The upstream-only image is really upstream: a refusal of what does not exist anywhere proves nothing."""
    image = world.sovereign.nodes.upstream_only
    if await world.registries.upstream_digest(image) is None:
        message = f"{image} is not upstream, so no node could pull it in any case; set sovereign.nodes.upstream_only"
        raise Stuck("NegativeMissing", message)


def _decided(pod: Object) -> bool:
    """A local pull that is refused may yet succeed; an upstream one is decided by its first refusal."""
    result = outcome(pod)[0]
    purpose = pod["metadata"]["labels"][pods.TRIES]
    return result is Outcome.PULLED or (purpose == "upstream" and result is Outcome.REFUSED)


def _node_of(pod: Object) -> str:
    return str(pod["spec"]["nodeName"])


def _check_local(seen: Seen, wanted: Sequence[Object], image: str) -> None:
    verdicts = {_node_of(p): _outcome_of(seen, p) for p in wanted}
    late = [f"{node} ({words})" for node, (result, words) in verdicts.items() if result is not Outcome.PULLED]
    if late:
        message = f"{image}, which only local Harbor has, was not pulled on {'; '.join(late)}"
        raise Stuck("LocalPullFailed", message)


def _outcome_of(seen: Seen, pod: Object) -> tuple[Outcome, str]:
    found = seen.get(key_of(pod))
    return outcome(found) if found else (Outcome.PENDING, "never seen")


def _check_upstream(seen: Seen, refused: Sequence[Object], image: str) -> dict[str, str]:
    verdicts = {_node_of(p): _outcome_of(seen, p) for p in refused}
    leaks = [node for node, (result, _) in verdicts.items() if result is Outcome.PULLED]
    if leaks:
        message = f"{image}, which only upstream has, was pulled on {', '.join(leaks)}"
        raise Stuck("PullsStillUpstream", message)
    silent = [node for node, (result, _) in verdicts.items() if result is Outcome.PENDING]
    if silent:
        # Not pulled is not refused: a Pod that never ran proves nothing.
        raise Wait("NegativePullUndecided", f"{image}: no verdict yet on {', '.join(silent)}")
    return {node: words for node, (_, words) in verdicts.items()}
