"""Means of closing the Pods' way out, behind one narrow interface; which one is found by looking.

Strongest first: Cilium with the world denied, Cilium with resolved addresses denied (a deny beats every allow),
ClusterNetworkPolicy (the Admin tier comes first), and NetworkPolicy, which only adds allowances and therefore holds
nothing where anybody else allows egress. None holds Pods on the host's network: these are the nodes' matter.
"""

from __future__ import annotations

from collections.abc import Sequence

from workers.adapters.cluster import Cluster
from workers.adapters.cluster_kinds import CONFIG_MAP
from workers.errors import Stuck
from workers.proof.means import cilium, cluster_policy, network_policy
from workers.proof.means.terms import PodMeans, Terms

MEANS: tuple[PodMeans, ...] = (cilium.MEANS, cilium.DENY, cluster_policy.MEANS, network_policy.MEANS)
KINDS = tuple(dict.fromkeys(means.kind for means in MEANS))

__all__ = ["KINDS", "MEANS", "PodMeans", "Terms", "choose"]


async def choose(cluster: Cluster, allow: tuple[str, ...], named: Sequence[str] = ()) -> PodMeans:
    """The strongest means that would hold here, of those `named` if any are. Raises Stuck, naming why none does."""
    await _enforced(cluster)
    reasons = []
    for means in MEANS:
        if named and means.name not in named:
            reasons.append(f"{means.name}: not among proof.means")
            continue
        why = await means.why_not(cluster, allow)
        if why is None:
            return means
        reasons.append(f"{means.name}: {why}")
    raise Stuck("CannotBlock", "no means would hold Pods back here: " + "; ".join(reasons))


async def _enforced(cluster: Cluster) -> None:
    """Cilium enforces all three kinds, unless it is told not to (cilium-config; nothing is blocked in audit mode)."""
    data = ((await cluster.get(CONFIG_MAP, "cilium-config", "kube-system")) or {}).get("data") or {}
    if str(data.get("policy-audit-mode", "false")).lower() == "true":
        raise Stuck("CannotBlock", "Cilium runs in policy-audit-mode: policies are accepted and nothing is denied")
    if str(data.get("enable-policy", "default")).lower() == "never":
        raise Stuck("CannotBlock", "Cilium runs with enable-policy=never: nothing is denied")
