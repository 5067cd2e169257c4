"""The verdict: Cilium's and Kubernetes' rules added up, nodes judged by their own firewall."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sandbox.network import Host, Identity
from sandbox.policy import Policies, identity_of, pod_may, selects, verdict
from workers.adapters.firewall import NodeBlock

UPSTREAM = Host("ghcr.io", 1, False, "198.51.100.10")
API = Host("kubernetes.default.svc", 1, True, "10.43.0.10")
GITEA = Host("gitea-http.gitea.svc.cluster.local:3000", 1, True, "10.43.0.11")
POD = Identity("pod", "a", "apps", (("app", "a"),))
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def clusterwide(**spec: Any) -> Policies:
    return Policies(clusterwide=({"metadata": {"name": "p"}, "spec": {"endpointSelector": {}, **spec}},))


def network(*specs: dict[str, Any], namespace: str = "apps") -> Policies:
    return Policies(network=tuple({"metadata": {"name": "n", "namespace": namespace}, "spec": s} for s in specs))


def test_without_policies_everything_is_open() -> None:
    assert pod_may(Policies(), POD, UPSTREAM)


def test_a_policy_of_denies_alone_cuts_everything() -> None:
    policies = clusterwide(egressDeny=[{"toCIDR": ["198.51.100.0/24"]}])
    assert not pod_may(policies, POD, UPSTREAM)
    assert not pod_may(policies, POD, API)


def test_default_deny_switched_off_leaves_the_rest_open() -> None:
    policies = clusterwide(egressDeny=[{"toCIDR": ["198.51.100.0/24"]}], enableDefaultDeny={"egress": False})
    assert not pod_may(policies, POD, UPSTREAM)
    assert pod_may(policies, POD, API)


def test_an_empty_egress_rule_denies_everything() -> None:
    assert not pod_may(clusterwide(egress=[{}]), POD, API)


def test_addresses_never_match_what_is_inside_the_cluster() -> None:
    assert not pod_may(clusterwide(egress=[{"toCIDR": ["10.0.0.0/8"]}]), POD, GITEA)
    assert pod_may(clusterwide(egress=[{"toEntities": ["cluster"]}]), POD, GITEA)


def test_exceptions_of_a_denied_network_stay_reachable() -> None:
    world = {"cidr": "0.0.0.0/0", "except": ["198.51.100.10/32"]}
    policies = clusterwide(egress=[{"toEntities": ["all"]}], egressDeny=[{"toCIDRSet": [world]}])
    assert pod_may(policies, POD, UPSTREAM)


def test_names_can_be_allowed() -> None:
    policies = clusterwide(egress=[{"toFQDNs": [{"matchPattern": "*.io"}]}])
    assert pod_may(policies, POD, UPSTREAM)
    assert not pod_may(policies, POD, API)


def test_a_policy_holds_only_for_what_it_selects() -> None:
    policies = clusterwide(egress=[{}], endpointSelector={"matchLabels": {"k8s:app": "b"}})
    assert pod_may(policies, POD, UPSTREAM)
    assert selects({"matchLabels": {"k8s:io.kubernetes.pod.namespace": "apps"}}, POD)
    assert selects({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["b"]}]}, POD)


def test_network_policies_add_up_and_cannot_deny_what_another_allows() -> None:
    only_dns = {"podSelector": {}, "policyTypes": ["Egress"], "egress": []}
    everything = {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]}
    assert not pod_may(network(only_dns), POD, UPSTREAM)
    assert pod_may(network(only_dns, everything), POD, UPSTREAM)
    assert pod_may(network(only_dns, namespace="other"), POD, UPSTREAM)


def test_ports_are_part_of_a_rule() -> None:
    rule = {"toEntities": ["cluster"], "toPorts": [{"ports": [{"port": "3000", "protocol": "TCP"}]}]}
    assert pod_may(clusterwide(egress=[rule]), POD, GITEA)
    assert not pod_may(clusterwide(egress=[rule]), POD, API)


def test_no_policy_reaches_a_node_only_its_own_firewall_does() -> None:
    hosts = {h.name: h for h in (UPSTREAM, API)}
    node, other = Identity("node", "n1"), Identity("node", "n2")
    block = NodeBlock(deny=("0.0.0.0/0", "::/0"), expires_at=NOW + timedelta(seconds=30))
    judge = verdict(clusterwide(egress=[{}]), {"n1": block}, hosts, lambda: NOW)
    assert not judge(node, "ghcr.io")
    assert judge(node, API.name)
    assert judge(other, "ghcr.io")
    assert not judge(POD, "ghcr.io")


def test_a_name_is_out_of_reach_only_when_both_its_families_are() -> None:
    hosts = {UPSTREAM.name: UPSTREAM}
    four = NodeBlock(deny=("0.0.0.0/0",), expires_at=NOW + timedelta(seconds=30))
    assert verdict(Policies(), {"n1": four}, hosts, lambda: NOW)(Identity("node", "n1"), "ghcr.io")


def test_the_admin_tier_decides_by_its_first_rule_before_any_other_policy() -> None:
    def tier(*rules: tuple[str, dict[str, Any]], priority: int = 0) -> dict[str, Any]:
        egress = [{"action": action, "to": [to]} for action, to in rules]
        return {"spec": {"tier": "Admin", "priority": priority, "subject": {"namespaces": {}}, "egress": egress}}

    everything = {"networks": ["0.0.0.0/0", "::/0"]}
    inside_first = tier(("Accept", {"namespaces": {}}), ("Deny", everything))
    assert pod_may(Policies(cluster=(inside_first,)), POD, GITEA)
    assert not pod_may(Policies(cluster=(inside_first,)), POD, UPSTREAM)
    assert not pod_may(Policies(cluster=(tier(("Deny", everything)),)), POD, GITEA), "networks match inside, too"
    allowed = clusterwide(egress=[{"toEntities": ["all"]}])
    denied = Policies(clusterwide=allowed.clusterwide, cluster=(inside_first,))
    assert not pod_may(denied, POD, UPSTREAM)
    passed = tier(("Pass", everything), priority=-1)
    assert pod_may(Policies(clusterwide=allowed.clusterwide, cluster=(passed,)), POD, UPSTREAM)


def test_a_node_block_lifts_itself_when_its_time_is_over() -> None:
    block = NodeBlock(deny=("0.0.0.0/0",), expires_at=NOW + timedelta(seconds=30))
    later = verdict(Policies(), {"n1": block}, {"ghcr.io": UPSTREAM}, lambda: NOW + timedelta(seconds=30))
    assert later(Identity("node", "n1"), "ghcr.io")


def test_a_host_network_pod_is_its_node() -> None:
    pod = {"metadata": {"name": "a", "namespace": "b"}, "spec": {"nodeName": "n1", "hostNetwork": True}}
    assert identity_of(pod) == Identity("node", "n1")
    del pod["spec"]["hostNetwork"]
    assert identity_of(pod).kind == "pod"
