"""Means of closing the Pods' way out, behind one narrow interface; which one is found by looking.

Strongest first: Cilium (a deny beats every allow), ClusterNetworkPolicy (the Admin tier comes first), and
NetworkPolicy, which only adds allowances and therefore holds nothing where anybody else allows egress.
"""

from __future__ import annotations

from workers.adapters.cluster import Cluster
from workers.adapters.cluster_kinds import CONFIG_MAP
from workers.errors import Stuck
from workers.proof.means import cilium, cluster_policy, network_policy
from workers.proof.means.terms import PodMeans, Terms

MEANS: tuple[PodMeans, ...] = (cilium.MEANS, cluster_policy.MEANS, network_policy.MEANS)
KINDS = tuple(means.kind for means in MEANS)

__all__ = ["KINDS", "MEANS", "PodMeans", "Terms", "choose"]


async def choose(cluster: Cluster, allow: tuple[str, ...]) -> PodMeans:
    """The strongest means that would hold here. Raises Stuck, naming why each does not."""
    await _enforced(cluster)
    reasons = []
    for means in MEANS:
        why = await means.why_not(cluster, allow)
        if why is None:
            return means
        reasons.append(f"{means.kind.kind}: {why}")
    raise Stuck("CannotBlock", "no means would hold Pods back here: " + "; ".join(reasons))


async def _enforced(cluster: Cluster) -> None:
    """Cilium enforces all three kinds, unless it is told not to (cilium-config; nothing is blocked in audit mode)."""
    data = ((await cluster.get(CONFIG_MAP, "cilium-config", "kube-system")) or {}).get("data") or {}
    if str(data.get("policy-audit-mode", "false")).lower() == "true":
        raise Stuck("CannotBlock", "Cilium runs in policy-audit-mode: policies are accepted and nothing is denied")
    if str(data.get("enable-policy", "default")).lower() == "never":
        raise Stuck("CannotBlock", "Cilium runs with enable-policy=never: nothing is denied")
