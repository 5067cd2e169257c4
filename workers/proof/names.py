"""What the upstream names resolve to, asked in a Pod's network and in the host's on every node.

A name is many addresses: by region, by resolver, by the minute. So every node is asked, again and again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from pydantic import ValidationError

from schemas.canary import NAMES
from workers.adapters.cluster_kinds import Object
from workers.errors import Stuck, Wait
from workers.proof import pods
from workers.proof.canaries import START, targets
from workers.world import World

AT_ONCE = 5
"""Names a Pod: with their addresses they must fit into the 4096 bytes of a termination message."""


async def resolved(world: World, nodes: Sequence[str], token: int, turn: str) -> frozenset[str]:
    """Every address of every upstream name. Raises Wait when a node stays silent, Stuck for a name nobody knows."""
    urls = tuple(targets(world.sovereign).upstream)
    sent = [
        _pod(world, node, network, part, number, token, turn)
        for node in nodes
        for network in ("pod", "host")
        for number, part in enumerate(parted(urls))
    ]
    async with pods.placed(world.cluster, sent):
        seen = await pods.settled(world.cluster, sent, _ended, START)
    found: dict[str, set[str]] = {urlsplit(url).netloc: set() for url in urls}
    for pod in sent:
        answer = seen.get((pod["metadata"]["namespace"], pod["metadata"]["name"]))
        for name, addresses in heard(answer, pod).items():
            found[name].update(addresses)
    if unknown := sorted(name for name, addresses in found.items() if not addresses):
        message = f"no node resolves {', '.join(unknown)}: what has no address cannot be closed by address"
        raise Stuck("NameNotResolved", message)
    return frozenset().union(*found.values())


def parted(urls: Sequence[str]) -> Iterable[Sequence[str]]:
    """As many at once as one answer can hold."""
    return (urls[at : at + AT_ONCE] for at in range(0, len(urls), AT_ONCE))


def _pod(world: World, node: str, network: str, urls: Sequence[str], number: int, token: int, turn: str) -> Object:
    args = ["cutover", "canary", "--names"]
    for url in urls:
        args += ["--target", url]
    return pods.manifest(
        namespace=world.sovereign.nodes.namespace,
        purpose=f"names-{network}{number}",
        node=node,
        token=token,
        turn=turn,
        image=world.sovereign.nodes.image,
        pull="IfNotPresent",
        args=args,
        host_network=network == "host",
        lifetime=180,
    )


def _ended(pod: Object) -> bool:
    return "terminated" in pods.container_state(pod)


def heard(answer: Object | None, pod: Object) -> dict[str, tuple[str, ...]]:
    """One Pod's answer. Silence is trouble: a name that was not looked up may lead anywhere."""
    said = pods.container_state(answer).get("terminated", {}).get("message", "") if answer else ""
    try:
        return NAMES.validate_json(said)
    except ValidationError:
        name, node = pod["metadata"]["name"], pod["spec"]["nodeName"]
        raise Wait("CanarySilent", f"{name} on {node} said no names that can be read") from None
