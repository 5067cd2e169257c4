"""The means: which is chosen where, what each says, and that evidence does not grow with the nodes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from sandbox.network import Host, Identity
from sandbox.policy import Policies, pod_may
from schemas.results import Canary
from workers.adapters.cluster_kinds import (
    CILIUM_CLUSTERWIDE_POLICY,
    CONFIG_MAP,
    CUSTOM_RESOURCE_DEFINITION,
    NAMESPACE,
    NETWORK_POLICY,
    Kind,
)
from workers.adapters.firewall import PRIVATE
from workers.errors import Stuck
from workers.proof import means
from workers.proof.canaries import Sample, posts
from workers.proof.means import cluster_policy, network_policy
from workers.proof.means.terms import Terms
from workers.sovereign import Proof

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TERMS = Terms("p", ("203.0.113.0/24",), NOW, 7, "m")
ALLOW_EGRESS: dict[str, Any] = {
    "metadata": {"name": "allow-egress", "namespace": "flux-system"},
    "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]},
}


class Serving:
    """A cluster that serves some kinds and holds some objects."""

    def __init__(
        self, *kinds: Kind, policies: tuple[Any, ...] = (), cilium: dict[str, str] | None = None, fields: Any = ()
    ) -> None:
        self._kinds, self._policies, self._cilium, self._fields = kinds, policies, cilium, fields

    async def served(self, kind: Kind) -> bool:
        return kind in self._kinds

    async def list(self, kind: Kind, *_: Any, **__: Any) -> list[Any]:
        return {NETWORK_POLICY: list(self._policies), NAMESPACE: [{"metadata": {"name": "a"}}]}[kind]

    async def get(self, kind: Kind, name: str, _namespace: str | None = None) -> Any:
        if kind is CUSTOM_RESOURCE_DEFINITION:
            spec = {"properties": {"spec": {"properties": {key: {} for key in self._fields}}}}
            version = {"name": "v2", "served": True, "schema": {"openAPIV3Schema": spec}}
            return {"spec": {"versions": [version]}}
        assert (kind, name) == (CONFIG_MAP, "cilium-config")
        return None if self._cilium is None else {"data": self._cilium}


async def chosen(cluster: Any) -> str:
    return (await means.choose(cluster, ())).kind.kind


async def test_the_strongest_means_that_is_served_is_taken() -> None:
    everything = (CILIUM_CLUSTERWIDE_POLICY, cluster_policy.CLUSTER_NETWORK_POLICY, NETWORK_POLICY)
    assert await chosen(Serving(*everything)) == "CiliumClusterwideNetworkPolicy"
    assert await chosen(Serving(*everything[1:])) == "ClusterNetworkPolicy"
    assert await chosen(Serving(*everything[2:])) == "NetworkPolicy"


async def test_a_deny_of_addresses_needs_the_field_that_keeps_the_rest_open() -> None:
    knows = Serving(CILIUM_CLUSTERWIDE_POLICY, fields=("egressDeny", "enableDefaultDeny"))
    assert (await means.choose(knows, (), ("cilium-deny",))) is means.cilium.DENY  # type: ignore[arg-type]
    with pytest.raises(Stuck, match="no enableDefaultDeny in its schema"):
        await means.choose(Serving(CILIUM_CLUSTERWIDE_POLICY, fields=("egressDeny",)), (), ("cilium-deny",))  # type: ignore[arg-type]


async def test_a_cilium_that_is_told_to_ignore_clusterwide_policies_is_passed_over() -> None:
    config = {means.cilium.SWITCH: "false"}
    assert await chosen(Serving(CILIUM_CLUSTERWIDE_POLICY, NETWORK_POLICY, cilium=config)) == "NetworkPolicy"


def test_resolved_addresses_are_denied_one_by_one_and_nothing_else_is_touched() -> None:
    policy = means.cilium.denial(Terms("p", (), NOW, 7, "m", ("198.51.100.10", "2001:db8::1")))
    assert policy["spec"]["egressDeny"] == [{"toCIDR": ["198.51.100.10/32", "2001:db8::1/128"]}]
    ours = Policies(clusterwide=(policy,))
    pod = Identity("pod", "a", "b")
    assert not pod_may(ours, pod, UPSTREAM)
    assert pod_may(ours, pod, LOCAL)
    assert pod_may(ours, pod, Host("elsewhere.example", 1, False, "198.51.100.11")), "and it says so: `uncovered`"
    assert means.cilium.DENY.uncovered


async def test_network_policies_hold_nothing_where_another_one_allows_egress() -> None:
    with pytest.raises(Stuck, match=r"CannotBlock.*flux-system/allow-egress"):
        await chosen(Serving(NETWORK_POLICY, policies=(ALLOW_EGRESS,)))


@pytest.mark.parametrize("config", [{"policy-audit-mode": "true"}, {"enable-policy": "never"}])
async def test_a_cilium_that_denies_nothing_is_no_means_at_all(config: dict[str, str]) -> None:
    with pytest.raises(Stuck, match="CannotBlock"):
        await chosen(Serving(CILIUM_CLUSTERWIDE_POLICY, NETWORK_POLICY, cilium=config))


def cnp(*rules: dict[str, Any], **more: Any) -> dict[str, Any]:
    spec = {"endpointSelector": {"matchLabels": {"app": "crm"}}, "egress": list(rules)}
    return {"metadata": {"name": "crm-out", "namespace": "t", **more}, "spec": spec}


class WithCilium(Serving):
    """Cilium is there too, with policies of others."""

    def __init__(self, *policies: dict[str, Any], clusterwide: tuple[dict[str, Any], ...] = (), **more: Any) -> None:
        kinds = (NETWORK_POLICY, means.cilium.NAMESPACED, CILIUM_CLUSTERWIDE_POLICY)
        super().__init__(*kinds, **more)
        self._found = {means.cilium.NAMESPACED: policies, CILIUM_CLUSTERWIDE_POLICY: clusterwide}

    async def list(self, kind: Kind, *_: Any, **__: Any) -> list[Any]:
        return list(self._found[kind]) if kind in self._found else await super().list(kind)


OUT: list[dict[str, Any]] = [
    {"toEntities": ["cluster", "world"]},
    {"toEntities": ["all"]},
    {"toCIDR": ["10.0.0.0/8", "198.51.100.0/24"]},
    {"toCIDRSet": [{"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}]},
    {"toCIDRSet": [{"cidrGroupRef": "partners"}]},
    {"toFQDNs": [{"matchPattern": "*"}]},
    {"toPorts": [{"ports": [{"port": "443"}]}]},
]
STAYS_IN: list[dict[str, Any]] = [
    {"toEntities": ["cluster", "kube-apiserver"]},
    {"toCIDR": ["10.1.0.0/16", "203.0.113.9/32"]},
    {"toEndpoints": [{}], "toPorts": [{"ports": [{"port": "443"}]}]},
    {},
]


@pytest.mark.parametrize("rule", OUT)
async def test_network_policies_hold_nothing_where_a_policy_of_ciliums_lets_pods_out(rule: dict[str, Any]) -> None:
    for there in (WithCilium(cnp(rule)), WithCilium(clusterwide=(cnp(rule),))):
        with pytest.raises(Stuck, match=r"CannotBlock.*t/crm-out allow egress anyway"):
            await means.choose(there, ("203.0.113.0/24",), ("network-policy",))  # type: ignore[arg-type]


async def test_policies_of_ciliums_that_stay_inside_or_are_ours_or_are_ignored_are_no_way_out() -> None:
    ours = cnp(OUT[0], labels={means.network_policy.LABEL: "true"})
    nodes = {"metadata": {"name": "n"}, "spec": {"nodeSelector": {}, "egress": [OUT[0]]}}
    assert await means.cilium.lets_out(WithCilium(*map(cnp, STAYS_IN), ours), (*PRIVATE, "203.0.113.0/24")) == []  # type: ignore[arg-type]
    assert await means.cilium.lets_out(WithCilium(clusterwide=(nodes,)), PRIVATE) == []  # type: ignore[arg-type]
    deaf = WithCilium(clusterwide=(cnp(OUT[0]),), cilium={means.cilium.SWITCH: "false"})
    assert await means.cilium.lets_out(deaf, PRIVATE) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("there", [WithCilium(cnp(OUT[0])), Serving(NETWORK_POLICY, policies=(ALLOW_EGRESS,))])
async def test_at_each_renewal_of_network_policies_somebody_elses_is_looked_for_again(there: Any) -> None:
    with pytest.raises(Stuck, match=r"CannotBlock.*allow egress anyway"):
        await network_policy.MEANS.objects(there, TERMS)
    assert len(await network_policy.MEANS.objects(Serving(NETWORK_POLICY), TERMS)) == 1  # type: ignore[arg-type]


def test_a_policy_is_wide_only_when_it_reaches_beyond_what_stays_open() -> None:
    def to(*cidrs: str) -> dict[str, Any]:
        rule = {"to": [{"ipBlock": {"cidr": c}} for c in cidrs]}
        return {"metadata": {"name": "x", "namespace": "y"}, "spec": {"egress": [rule]}}

    assert network_policy.lets_out([to("10.1.0.0/16")], PRIVATE) == []
    assert network_policy.lets_out([to("10.1.0.0/16", "0.0.0.0/0")], PRIVATE) == ["y/x"]
    assert network_policy.lets_out([to("::/0")], PRIVATE) == ["y/x"]
    assert network_policy.lets_out([network_policy.policy(TERMS, "y")], PRIVATE) == [], "our own is not another's"


UPSTREAM = Host("ghcr.io", 1, False, "198.51.100.10")
LOCAL = Host("gitea-http.gitea.svc.cluster.local:3000", 1, True, "10.43.0.11")


def test_network_policies_alone_hold_until_somebody_elses_is_added() -> None:
    pod = Identity("pod", "source-controller", "flux-system")
    ours = network_policy.policy(TERMS, "flux-system")
    assert not pod_may(Policies(network=(ours,)), pod, UPSTREAM)
    assert pod_may(Policies(network=(ours,)), pod, LOCAL)
    assert pod_may(Policies(network=(ours, ALLOW_EGRESS)), pod, UPSTREAM)


def test_the_cluster_policy_opens_before_it_denies_and_no_rule_is_too_long() -> None:
    many = Terms("p", tuple(f"203.0.113.{n}/32" for n in range(60)), NOW, 7, "m")
    rules = cluster_policy.policy(many)["spec"]["egress"]
    assert [r["action"] for r in rules[:-1]] == ["Accept"] * (len(rules) - 1)
    assert rules[-1] == {"name": "world", "action": "Deny", "to": [{"networks": ["0.0.0.0/0", "::/0"]}]}
    listed = [r["to"][0]["networks"] for r in rules if "networks" in r["to"][0]]
    assert max(map(len, listed)) <= 25
    assert {n for part in listed[:-1] for n in part} == {*PRIVATE, *many.allow}


def test_where_others_have_policies_a_canary_of_its_own_is_sent() -> None:
    sent = posts(("n1", "n2"), "home", ("flux-system", "home", "tenant"))
    assert [(p.node, p.network) for p in sent[:4]] == [("n1", "pod"), ("n1", "host"), ("n2", "pod"), ("n2", "host")]
    assert [(p.namespace, p.network) for p in sent[4:]] == [
        ("flux-system", "pod/flux-system"),
        ("tenant", "pod/tenant"),
    ]


def test_evidence_of_fifty_nodes_is_as_long_as_of_three() -> None:
    def counts(nodes: int) -> Any:
        found = tuple(
            Canary(node=f"n{n}", network=network, host=host, reached=(n == 0 and host == "h1"))
            for n in range(nodes)
            for network in ("pod", "host")
            for host in ("h1", "h2")
        )
        return Sample(found, ()).counts("bite")

    assert len(counts(50)) == len(counts(3)) == 4
    assert {(c.network, c.host): (c.asked, c.reached) for c in counts(50)}["pod", "h1"] == (50, 1)


@pytest.mark.parametrize(
    "given", ["*.openova.io", "0.0.0.0/0", "::/0", "128.0.0.0/1", "140.0.0.0/8", "2000::/3", "300.1.2.3"]
)
def test_an_exception_that_is_a_name_or_half_the_world_is_none(given: str) -> None:
    with pytest.raises(ValidationError, match="allow_cidrs"):
        Proof(allow_cidrs=(given,))


def test_exceptions_are_networks_in_their_one_spelling() -> None:
    given = ("203.0.113.7/24", "203.0.113.0/24", "2001:DB8::1", "10.0.0.0/8")
    assert Proof(allow_cidrs=given).allow_cidrs == ("203.0.113.0/24", "2001:db8::1/128", "10.0.0.0/8")
