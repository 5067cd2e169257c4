"""What the upstream names resolve to, asked in a Pod's network and in the host's on every node; and who nodes ask.

A name is many addresses: by region, by resolver, by the minute. So every node is asked, again and again.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import TypeVar
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError

from schemas.canary import NAMES, RESOLVERS
from workers.adapters.cluster_kinds import Object, key_of
from workers.errors import Stuck, Wait
from workers.proof import pods
from workers.proof.canaries import START, targets
from workers.world import World

T = TypeVar("T")
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
        seen = await pods.settled(world.cluster, sent, pods.ended, START)
    found: dict[str, set[str]] = {urlsplit(url).netloc: set() for url in urls}
    for pod in sent:
        answer = seen.get((pod["metadata"]["namespace"], pod["metadata"]["name"]))
        for name, addresses in heard(answer, pod).items():
            found[name].update(addresses)
    if unknown := sorted(name for name, addresses in found.items() if not addresses):
        message = f"no node resolves {', '.join(unknown)}: what has no address cannot be closed by address"
        raise Stuck("NameNotResolved", message)
    return frozenset().union(*found.values())


async def resolvers(world: World, nodes: Sequence[str], token: int) -> frozenset[str]:
    """Every address at which a node asks for names, as its kubelet sees it. Raises Wait when one stays silent.

    Asked in a Pod that gets the node's own resolv.conf (dnsPolicy Default): the agent's names the cluster's resolver,
    and it has no path to the node's. On loopback nobody needs leave.
    """
    sent = [
        _sent(world, node, "resolvers", ["cutover", "canary", "--resolvers"], token, "before", dns="Default")
        for node in nodes
    ]
    async with pods.placed(world.cluster, sent):
        seen = await pods.settled(world.cluster, sent, pods.ended, START)
    said = [_told(seen.get(key_of(pod)), pod, RESOLVERS) for pod in sent]
    return frozenset(address for each in said for address in routed(each))


def routed(said: Iterable[str]) -> Iterable[str]:
    """Addresses that a packet leaves the node for; what is no address is passed over, as resolvers do."""
    for text in said:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            continue
        if not (address.is_loopback or address.is_unspecified):
            yield str(address)


def parted(urls: Sequence[str]) -> Iterable[Sequence[str]]:
    """As many at once as one answer can hold."""
    return (urls[at : at + AT_ONCE] for at in range(0, len(urls), AT_ONCE))


def _pod(world: World, node: str, network: str, urls: Sequence[str], number: int, token: int, turn: str) -> Object:
    args = ["cutover", "canary", "--names"]
    for url in urls:
        args += ["--target", url]
    host = network == "host"
    # What runs on the host's network finds upstream by the node's resolver: containerd does.
    dns = "Default" if host else ""
    return _sent(world, node, f"names-{network}{number}", args, token, turn, host_network=host, dns=dns)


def _sent(
    world: World,
    node: str,
    purpose: str,
    args: Sequence[str],
    token: int,
    turn: str,
    *,
    host_network: bool = False,
    dns: str = "",
) -> Object:
    return pods.manifest(
        namespace=world.sovereign.nodes.namespace,
        purpose=purpose,
        node=node,
        token=token,
        turn=turn,
        image=world.sovereign.nodes.image,
        pull="IfNotPresent",
        args=args,
        host_network=host_network,
        dns=dns,
        lifetime=180,
    )


def heard(answer: Object | None, pod: Object) -> dict[str, tuple[str, ...]]:
    """One Pod's answer. Silence is trouble: a name that was not looked up may lead anywhere."""
    return _told(answer, pod, NAMES)


def _told(answer: Object | None, pod: Object, form: TypeAdapter[T]) -> T:
    said = pods.container_state(answer).get("terminated", {}).get("message", "") if answer else ""
    try:
        return form.validate_json(said)
    except ValidationError:
        name, node = pod["metadata"]["name"], pod["spec"]["nodeName"]
        state = pods.container_state(answer) if answer else "never seen"
        raise Wait("CanarySilent", f"{name} on {node} said nothing that can be read: {state}"[:500]) from None
