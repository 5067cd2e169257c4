"""The block: a Cilium policy for Pods, a firewall order for nodes, both with an end written on them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pydantic import ValidationError

from workers.adapters.cluster_kinds import CILIUM_CLUSTERWIDE_POLICY, CONFIG_MAP, NODE, Object
from workers.adapters.firewall import PRIVATE, NodeBlock
from workers.entrypoints.node_agent import BLOCK_KEY
from workers.errors import Stuck
from workers.proof.pods import TOKEN

if TYPE_CHECKING:
    from workers.world import World

EXPIRES = "cutover.catalyst/expires-at"
LABEL = "cutover.catalyst/egress-block"
LEASE = timedelta(seconds=60)
"""How long the block outlives the last time it was renewed."""
RENEW = 15.0  # seconds
WORLD = ("0.0.0.0/0", "::/0")
MEANS = ("CiliumClusterwideNetworkPolicy: default deny, world denied", "node firewall with expiring entries")


def cilium_policy(name: str, allow: Sequence[str], expires_at: datetime, token: int, manager: str) -> Object:
    """Default deny with an allow list, and the world denied outright.

    The deny is needed beside it: Flux's own `allow-egress` (`egress: [{}]`) would let its Pods out of any
    allow list, and only a deny beats an allow (Cilium, policy/deny). The allow is needed beside the deny:
    a policy of denies alone cuts the API server and DNS too (cilium#14992).
    """
    stays = [*PRIVATE, *allow]
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumClusterwideNetworkPolicy",
        "metadata": {
            "name": name,
            "labels": {LABEL: "true", "app.kubernetes.io/managed-by": manager},
            "annotations": {EXPIRES: expires_at.isoformat(), TOKEN: str(token)},
        },
        "spec": {
            "description": "Sovereignty proof: no Pod reaches the outside. Safe to delete at any time.",
            "endpointSelector": {},
            "egress": [
                {"toEntities": ["cluster", "host", "remote-node", "kube-apiserver"]},
                {"toCIDR": stays},
            ],
            "egressDeny": [{"toCIDRSet": [_except(world, stays) for world in WORLD]}],
        },
    }


def _except(world: str, stays: Iterable[str]) -> Object:
    version = ipaddress.ip_network(world).version
    inside = [n for n in stays if ipaddress.ip_network(n, strict=False).version == version]
    return {"cidr": world, "except": inside}


def open_addresses(nodes: Iterable[Object], allow: Iterable[str]) -> tuple[str, ...]:
    """What a node must still reach: every node, every Pod range, and what the description lists."""
    found: list[str] = []
    for node in nodes:
        found += [str(c) for c in (node.get("spec") or {}).get("podCIDRs") or ()]
        for address in (node.get("status") or {}).get("addresses") or ():
            if address["type"] in {"InternalIP", "ExternalIP"}:
                found.append(str(ipaddress.ip_network(address["address"])))
    return tuple(dict.fromkeys([*found, *allow]))


class Block:
    """One attempt's block. `apply`, `renew` while it is needed, and `lift` on every path."""

    def __init__(self, world: World, token: int) -> None:
        self._world, self._token = world, token
        self._proof, self._nodes = world.sovereign.proof, world.sovereign.nodes
        self._open: tuple[str, ...] = ()

    async def possible(self) -> None:
        """Raise Stuck when there is no means to block Pods or nodes here."""
        if not await self._world.cluster.served(CILIUM_CLUSTERWIDE_POLICY):
            message = "the cluster serves no CiliumClusterwideNetworkPolicy, the one means known to this step"
            raise Stuck("CannotBlock", message)
        where = self._nodes
        if await self._world.cluster.get(CONFIG_MAP, where.plan_config_map, where.namespace) is None:
            message = f"ConfigMap {where.namespace}/{where.plan_config_map} is missing; run registry-pivot first"
            raise Stuck("CannotBlock", message)

    async def apply(self) -> datetime:
        """Close Pods' and nodes' way out until now + lease."""
        self._open = open_addresses(await self._world.cluster.list(NODE), self._proof.allow_cidrs)
        await self.renew()
        return datetime.now(UTC)

    async def renew(self) -> None:
        """Move the end further away."""
        until = datetime.now(UTC) + LEASE
        manager = self._world.sovereign.field_manager
        policy = cilium_policy(self._proof.policy, self._proof.allow_cidrs, until, self._token, manager)
        await self._world.cluster.apply(CILIUM_CLUSTERWIDE_POLICY, policy)
        order = NodeBlock(deny=WORLD, allow=self._open, expires_at=until)
        await _order_nodes(self._world, order)


async def _order_nodes(world: World, order: NodeBlock | None) -> None:
    where = world.sovereign.nodes
    text = None if order is None else order.model_dump_json()
    body: Object = {"data": {BLOCK_KEY: text}}
    await world.cluster.patch(CONFIG_MAP, where.plan_config_map, where.namespace, body)


def expired(policy: Object, now: datetime) -> bool:
    """True when the policy's own end is past, or cannot be read: a block without an end must not stay."""
    text = (policy["metadata"].get("annotations") or {}).get(EXPIRES, "")
    try:
        return datetime.fromisoformat(text) <= now
    except (ValueError, TypeError):
        return True


def _newer(policy: Object, token: int | None) -> bool:
    text = (policy["metadata"].get("annotations") or {}).get(TOKEN, "")
    return token is not None and text.isdigit() and int(text) > token


async def lift(world: World, *, token: int | None = None, only_expired_at: datetime | None = None) -> bool:
    """Open the way out again. False when nothing was closed, or when it is not ours to open.

    `token`: leave a block of an attempt that fenced us off. `only_expired_at`: leave one that still has time.
    """
    where, cluster = world.sovereign.nodes, world.cluster
    name = world.sovereign.proof.policy
    policy = None
    if await cluster.served(CILIUM_CLUSTERWIDE_POLICY):
        policy = await cluster.get(CILIUM_CLUSTERWIDE_POLICY, name)
    known = await cluster.get(CONFIG_MAP, where.plan_config_map, where.namespace)
    order = str(((known or {}).get("data") or {}).get(BLOCK_KEY, ""))
    if policy is not None and _newer(policy, token):
        return False
    if only_expired_at is not None and _alive(policy, order, only_expired_at):
        return False
    lifted = policy is not None and await cluster.delete(CILIUM_CLUSTERWIDE_POLICY, name)
    if order:
        await _order_nodes(world, None)
    if policy is not None and await cluster.get(CILIUM_CLUSTERWIDE_POLICY, name) is not None:
        raise Stuck("BlockNotLifted", f"{name} is still there after it was deleted; delete it by hand")
    return lifted or bool(order)


def _alive(policy: Object | None, order: str, now: datetime) -> bool:
    """True while somebody's renewal of either part is not over."""
    if policy is not None and not expired(policy, now):
        return True
    try:
        return bool(order) and NodeBlock.model_validate_json(order).remaining(now) > 0
    except ValidationError:
        return False
