"""Cilium, clusterwide: default deny with an allow list, and the world denied outright."""

from __future__ import annotations

from workers.adapters.cluster import Cluster
from workers.adapters.cluster_kinds import CILIUM_CLUSTERWIDE_POLICY, Object
from workers.proof.means.terms import WORLD, Terms, outside


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
    words = "CiliumClusterwideNetworkPolicy: default deny, world denied"

    async def why_not(self, cluster: Cluster, allow: tuple[str, ...]) -> str | None:
        """Only where its definition is missing."""
        return None if await cluster.served(self.kind) else "not served"

    async def objects(self, cluster: Cluster, terms: Terms) -> list[Object]:
        """One for the whole cluster."""
        return [policy(terms)]


MEANS = Cilium()
