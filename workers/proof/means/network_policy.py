"""NetworkPolicy, one a namespace: it can only add allowances, so it holds only where nobody else allows egress.

Where Cilium enforces it, Cilium's own policies are added up with it (docs.cilium.io, policy/kubernetes).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any

from workers.adapters.cluster import Cluster
from workers.adapters.cluster_kinds import NAMESPACE, NETWORK_POLICY, Object, key_of, name_of
from workers.adapters.firewall import PRIVATE
from workers.errors import Stuck
from workers.proof.means import cilium
from workers.proof.means.terms import LABEL, Terms


def policy(terms: Terms, namespace: str) -> Object:
    """Egress to Pods and to what stays open, and to nothing else."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {**terms.metadata(), "namespace": namespace},
        "spec": {
            "podSelector": {},
            "policyTypes": ["Egress"],
            "egress": [{"to": [{"namespaceSelector": {}}, *({"ipBlock": {"cidr": n}} for n in terms.stays)]}],
        },
    }


def lets_out(policies: Iterable[Object], stays: Iterable[str]) -> list[str]:
    """Policies of others that allow egress beyond what stays open: ours would be added to them in vain."""
    inside = [ipaddress.ip_network(n, strict=False) for n in stays]
    return [
        "/".join(key_of(p))
        for p in policies
        if (p["metadata"].get("labels") or {}).get(LABEL) != "true"
        and any(_wide(rule, inside) for rule in (p.get("spec") or {}).get("egress") or ())
    ]


def _wide(rule: dict[str, Any], inside: list[Any]) -> bool:
    peers = rule.get("to") or []
    if not peers:
        return True
    blocks = [ipaddress.ip_network(p["ipBlock"]["cidr"], strict=False) for p in peers if p.get("ipBlock")]
    return any(not any(b.version == n.version and b.subnet_of(n) for n in inside) for b in blocks)


async def vain(cluster: Cluster, stays: Iterable[str]) -> str | None:
    """Whose policies would let Pods out beside ours, NetworkPolicy's and Cilium's; None when nobody's do."""
    open_ = tuple(stays)
    wide = [*lets_out(await cluster.list(NETWORK_POLICY), open_), *await cilium.lets_out(cluster, open_)]
    return f"policies are added up, and {', '.join(wide[:5])} allow egress anyway" if wide else None


class NetworkPolicies:
    """NetworkPolicy in every namespace."""

    kind = NETWORK_POLICY
    name = "network-policy"
    uncovered = "Pods of a namespace made during the hold, until the next renewal"
    by_address = False
    words = "NetworkPolicy in every namespace: nothing but the cluster and private networks allowed"

    async def why_not(self, cluster: Cluster, allow: tuple[str, ...]) -> str | None:
        """Flux itself ships `allow-egress`: there this means holds nothing."""
        return await vain(cluster, (*PRIVATE, *allow))

    async def objects(self, cluster: Cluster, terms: Terms) -> list[Object]:
        """One for each namespace there is; one that comes later is closed at the next renewal.

        Raises Stuck when somebody lets Pods out by now: what is added later is not seen where ours are watched.
        """
        if why := await vain(cluster, terms.stays):
            raise Stuck("CannotBlock", why)
        return [policy(terms, name_of(n)) for n in await cluster.list(NAMESPACE)]


MEANS = NetworkPolicies()
