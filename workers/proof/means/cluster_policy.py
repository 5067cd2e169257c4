"""ClusterNetworkPolicy (network-policy-api v0.2, v1alpha2): the Admin tier is judged before anything else.

`networks` matches in-cluster addresses too, so what stays open is accepted first; a rule holds at most 25 items.
"""

from __future__ import annotations

from workers.adapters.cluster import Cluster
from workers.adapters.cluster_kinds import Kind, Object
from workers.proof.means.terms import WORLD, Terms

CLUSTER_NETWORK_POLICY = Kind(
    "policy.networking.k8s.io",
    "ClusterNetworkPolicy",
    "clusternetworkpolicies",
    namespaced=False,
    versions=("v1alpha2",),
)
MOST = 25  # items in one rule


def policy(terms: Terms) -> Object:
    """Accept what stays, then deny the world."""
    stays = list(terms.stays)
    accepted = [stays[at : at + MOST] for at in range(0, len(stays), MOST)]
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": terms.metadata(),
        "spec": {
            "tier": "Admin",
            "priority": 0,
            "subject": {"namespaces": {}},
            "egress": [
                {"name": "inside", "action": "Accept", "to": [{"namespaces": {}}]},
                *(
                    {"name": f"open-{number}", "action": "Accept", "to": [{"networks": part}]}
                    for number, part in enumerate(accepted)
                ),
                {"name": "world", "action": "Deny", "to": [{"networks": list(WORLD)}]},
            ],
        },
    }


class ClusterPolicy:
    """ClusterNetworkPolicy, where its definition is installed."""

    kind = CLUSTER_NETWORK_POLICY
    name = "cluster-network-policy"
    words = "ClusterNetworkPolicy: Admin tier, world denied"
    uncovered = ""
    by_address = False

    async def why_not(self, cluster: Cluster, allow: tuple[str, ...]) -> str | None:
        """Whether the network plugin enforces it only the canaries can tell."""
        return None if await cluster.served(self.kind) else "not served"

    async def objects(self, cluster: Cluster, terms: Terms) -> list[Object]:
        """One for the whole cluster."""
        return [policy(terms)]


MEANS = ClusterPolicy()
