"""Live pulls on every node: one that only local Harbor can answer, one that only upstream could."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from urllib.parse import urlsplit

from pydantic import ValidationError

from schemas.canary import Asked
from workers.adapters.cluster_kinds import Object, Seen, key_of
from workers.errors import Stuck, Wait
from workers.proof import pods
from workers.proof.canaries import ANSWERS_AT, START, targets
from workers.sovereign import Sovereign
from workers.world import World

REFUSED = frozenset({"ErrImagePull", "ImagePullBackOff"})
AFTER_PULL = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
"""The kubelet creates the container only after it has the image (kuberuntime startContainer)."""
ASKED_AT = re.compile(r"https?://([^/\s\"'?\\]+)", re.I)
BEGUN = re.compile(
    r"no match for platform|failed to (?:copy|extract layer|prepare extraction)|failed commit on ref|"
    r"failed size validation|mismatched image rootfs"
)
"""containerd's words when a pull fails after the reference was resolved: somebody gave it the image."""
SILENT = re.compile(r'Back-off pulling image "[^"]*"')
"""What kubelets before 1.32 say between two tries: nothing of who refused."""
ASKING = 50.0
"""Seconds beside a Pod's start until it has asked upstream: with tokens, repeats and a slow answer."""


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
        said = str(waiting.get("message", ""))
        # The next try says more.
        return Outcome.PENDING if SILENT.fullmatch(said) else Outcome.REFUSED, f"{reason}: {said}"
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
    refusals = _check_upstream(seen, refused, negative, outside(sovereign))
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


async def negative_exists(world: World, node: str, token: int) -> None:
    """The upstream-only image is really upstream, and for anybody: else its refusal on a node would prove nothing.

    Asked on a node and without a login, as a node that still goes upstream would ask: of what is private, upstream
    itself refuses it. Raises Stuck `NegativeMissing`, `NegativeNotPublic`; Wait when upstream cannot be asked.
    """
    image, nodes = world.sovereign.nodes.upstream_only, world.sovereign.nodes
    host = image.partition("/")[0]
    url = f"https://{ANSWERS_AT.get(host, host)}"
    pod = pods.manifest(
        namespace=nodes.namespace,
        purpose="exists",
        node=node,
        token=token,
        turn="before",
        image=nodes.image,
        pull="IfNotPresent",
        args=["cutover", "canary", "--image", image, "--target", url],
        host_network=True,
        dns="Default",
        lifetime=180,
    )
    async with pods.placed(world.cluster, [pod]):
        seen = await pods.settled(world.cluster, [pod], pods.ended, START + ASKING)
    _check_exists(seen.get(key_of(pod)), image, node)


def _check_exists(pod: Object | None, image: str, node: str) -> None:
    said = pods.container_state(pod).get("terminated", {}).get("message", "") if pod else ""
    try:
        asked = Asked.model_validate_json(said)
    except ValidationError:
        state = pods.container_state(pod) if pod else "never seen"
        message = f"a look for {image} on {node} said nothing that can be read: {state}"
        raise Wait("CanarySilent", message[:500]) from None
    mend = "name one that anybody can pull in nodes.upstream_only"
    if asked.trouble:
        raise Wait("UpstreamUnreadable", f"{image}, asked for on {node}: {asked.trouble}")
    if asked.refused:
        # ghcr.io says the same of what is private and of what is not there.
        message = f"upstream gives {image} to nobody without a login, so no node could pull it in any case: "
        raise Stuck("NegativeNotPublic", f"{message}make it public, or {mend} ({asked.refused})")
    if not asked.digest:
        raise Stuck("NegativeMissing", f"{image} is not upstream, so no node could pull it in any case; {mend}")


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


def outside(sovereign: Sovereign) -> frozenset[str]:
    """Hosts that no node has to ask any more, by the names that images carry and those that answer."""
    names = targets(sovereign).upstream
    return frozenset(urlsplit(url).hostname or url for url in names) | frozenset(
        n.partition(":")[0] for n in names.values()
    )


def asked_outside(words: str, hosts: Iterable[str]) -> str:
    """The upstream host, or one below it (auth.docker.io), whose URL stands in a kubelet's words; empty without one.

    containerd names the URL that it asked, mirror or not: `unexpected status from HEAD request to https://...`, and
    `failed to do request: Head "https://..."`. A mirror's has the upstream host too, but behind `?ns=`.
    """
    for found in ASKED_AT.findall(words):
        name = found.rpartition("@")[2].partition(":")[0].lower()
        if any(name == host or name.endswith(f".{host}") for host in hosts):
            return str(name)
    return ""


def _check_upstream(seen: Seen, refused: Sequence[Object], image: str, hosts: Iterable[str] = ()) -> dict[str, str]:
    verdicts = {_node_of(p): _outcome_of(seen, p) for p in refused}
    leaks = [node for node, (result, words) in verdicts.items() if result is Outcome.PULLED or BEGUN.search(words)]
    if leaks:
        message = f"{image}, which only upstream has, was pulled on {', '.join(leaks)}"
        raise Stuck("PullsStillUpstream", message)
    # Whatever upstream's reason is today: who was refused there has asked there.
    asked = {node: asked_outside(words, hosts) for node, (_, words) in verdicts.items()}
    if found := [f"{node} at {host} ({verdicts[node][1][:300]})" for node, host in asked.items() if host]:
        message = f"{image} was refused by upstream itself, not by local Harbor: {'; '.join(found)}"
        raise Stuck("PullsStillUpstream", message)
    silent = [node for node, (result, _) in verdicts.items() if result is Outcome.PENDING]
    if silent:
        # Not pulled is not refused: a Pod that never ran proves nothing.
        raise Wait("NegativePullUndecided", f"{image}: no verdict yet on {', '.join(silent)}")
    return {node: words[:400] for node, (_, words) in verdicts.items()}
