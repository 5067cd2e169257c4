"""Cilium, clusterwide: the world denied beside an allow list; or, weaker, resolved addresses denied alone."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Any

from workers.adapters.cluster import Cluster
from workers.adapters.cluster_kinds import (
    CILIUM_CLUSTERWIDE_POLICY,
    CONFIG_MAP,
    CUSTOM_RESOURCE_DEFINITION,
    Kind,
    Object,
    key_of,
)
from workers.adapters.firewall import within
from workers.errors import Stuck
from workers.proof.means.terms import LABEL, WORLD, Terms, outside, present

CILIUM_VERSIONS = frozenset(CILIUM_CLUSTERWIDE_POLICY.versions)
NAMESPACED = Kind("cilium.io", "CiliumNetworkPolicy", "ciliumnetworkpolicies", versions=("v2",))
SWITCH = "enable-cilium-clusterwide-network-policy"


def policy(terms: Terms) -> Object:
    """The policy.

    The deny is needed beside the allow list: Flux's own `allow-egress` (`egress: [{}]`) would let its Pods out
    of any allow list, and only a deny beats an allow (Cilium, policy/deny). The allow is needed beside the deny:
    a policy of denies alone cuts the API server and DNS too (cilium#14992).
    """
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumClusterwideNetworkPolicy",
        "metadata": terms.metadata(),
        "spec": {
            "description": "Sovereignty proof: no Pod reaches the outside. Safe to delete at any time.",
            "endpointSelector": {},
            "egress": [
                {"toEntities": ["cluster", "host", "remote-node", "kube-apiserver"]},
                {"toCIDR": list(terms.stays)},
            ],
            "egressDeny": [{"toCIDRSet": [outside(world, terms.stays) for world in WORLD]}],
        },
    }


class Cilium:
    """CiliumClusterwideNetworkPolicy."""

    kind = CILIUM_CLUSTERWIDE_POLICY
    name = "cilium"
    words = "CiliumClusterwideNetworkPolicy: default deny, world denied"
    uncovered = ""
    by_address = False

    async def why_not(self, cluster: Cluster, allow: tuple[str, ...]) -> str | None:
        """Only where its definition is missing, or the agent is told to ignore it."""
        if not await cluster.served(self.kind):
            return "not served"
        return await ignored(cluster)

    async def objects(self, cluster: Cluster, terms: Terms) -> list[Object]:
        """One for the whole cluster."""
        return [policy(terms)]


def denial(terms: Terms) -> Object:
    """The resolved addresses denied, and nothing else touched: `enableDefaultDeny` must be known to the API.

    A deny without it isolates every Pod, DNS and API server included (cilium#14992). Addresses are few, names many:
    a name that moves is closed at the next look, and canaries tell when that was too late.
    """
    closed = sorted({str(ipaddress.ip_network(a)) for a in terms.addresses})
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumClusterwideNetworkPolicy",
        "metadata": terms.metadata(),
        "spec": {
            "description": "Sovereignty proof: no Pod reaches these addresses. Safe to delete at any time.",
            "endpointSelector": {},
            "enableDefaultDeny": {"egress": False, "ingress": False},
            "egressDeny": [{"toCIDR": closed}],
        },
    }


class CiliumDeny:
    """CiliumClusterwideNetworkPolicy that denies what the upstream names resolve to; all else stays as it was."""

    kind = CILIUM_CLUSTERWIDE_POLICY
    name = "cilium-deny"
    words = "CiliumClusterwideNetworkPolicy: resolved addresses denied"
    uncovered = "addresses that no upstream name resolved to, on any node, at the latest look"
    by_address = True

    async def why_not(self, cluster: Cluster, allow: tuple[str, ...]) -> str | None:
        """Where the field is not in the definition's schema it would be pruned silently, and everything cut."""
        if not await cluster.served(self.kind):
            return "not served"
        if why := await ignored(cluster):
            return why
        name = f"{self.kind.plural}.{self.kind.group}"
        definition = await cluster.get(CUSTOM_RESOURCE_DEFINITION, name)
        return None if definition and knows_default_deny(definition) else "no enableDefaultDeny in its schema"

    async def objects(self, cluster: Cluster, terms: Terms) -> list[Object]:
        """One for the whole cluster. Raises Stuck when a name leads to what stays open."""
        if reopened := [a for a in terms.addresses if within(a, terms.stays)]:
            message = f"upstream names resolve to {', '.join(sorted(reopened)[:5])}, which must stay open"
            raise Stuck("CannotBlock", message)
        return [denial(terms)]


async def ignored(cluster: Cluster) -> str | None:
    """Whether the agents are told to leave clusterwide policies alone (cilium-config; absent means they do not)."""
    data = ((await cluster.get(CONFIG_MAP, "cilium-config", "kube-system")) or {}).get("data") or {}
    if str(data.get(SWITCH, "true")).lower() == "false":
        return f"cilium-config says {SWITCH}: false"
    return None


OUTSIDE = frozenset({"world", "world-ipv4", "world-ipv6", "all"})
"""Entities that are, or may be, outside."""
ANYWHERE = ("toFQDNs", "toGroups")
"""Peers outside by their nature."""


async def lets_out(cluster: Cluster, stays: Sequence[str]) -> list[str]:
    """Others' policies of Cilium that allow Pods egress beyond what stays open; none where they are not served."""
    found = await present(cluster, NAMESPACED)
    if await cluster.served(CILIUM_CLUSTERWIDE_POLICY) and not await ignored(cluster):
        found = [*found, *await present(cluster, CILIUM_CLUSTERWIDE_POLICY)]
    others = [p for p in found if (p["metadata"].get("labels") or {}).get(LABEL) != "true"]
    return ["/".join(filter(None, key_of(p))) for p in others if any(_wide(rule, stays) for rule in _egress(p))]


def _egress(policy: Object) -> Iterable[dict[str, Any]]:
    """Every rule that allows Pods something; a spec with a nodeSelector is about nodes."""
    for spec in (policy.get("spec"), *(policy.get("specs") or ())):
        if spec and "nodeSelector" not in spec:
            yield from spec.get("egress") or ()


def _wide(rule: dict[str, Any], stays: Sequence[str]) -> bool:
    """Ports alone mean any destination; an empty rule allows nothing. A group of CIDRs is not followed: it counts."""
    peers = {key for key in rule if key.startswith("to") and key != "toPorts"}
    if not peers:
        return bool(rule.get("toPorts") or rule.get("icmps"))
    blocks = [*(rule.get("toCIDR") or ()), *(str(each.get("cidr", "")) for each in rule.get("toCIDRSet") or ())]
    return (
        any(rule.get(key) for key in ANYWHERE)
        or not OUTSIDE.isdisjoint(rule.get("toEntities") or ())
        or any(not _inside(block, stays) for block in blocks)
    )


def _inside(block: str, stays: Iterable[str]) -> bool:
    if not block:
        return False
    # Cilium takes a bare address for a network too.
    network = ipaddress.ip_network(block, strict=False)
    known = (ipaddress.ip_network(n, strict=False) for n in stays)
    return any(network.version == n.version and network.subnet_of(n) for n in known)  # type: ignore[arg-type]


def knows_default_deny(definition: Object) -> bool:
    """True when every served version's schema has `spec.enableDefaultDeny` (Cilium 1.16)."""
    served = [v for v in definition["spec"]["versions"] if v.get("served") and v["name"] in CILIUM_VERSIONS]
    specs = [((v.get("schema") or {}).get("openAPIV3Schema") or {}).get("properties", {}).get("spec") for v in served]
    return bool(specs) and all("enableDefaultDeny" in ((s or {}).get("properties") or {}) for s in specs)


MEANS = Cilium()
DENY = CiliumDeny()
