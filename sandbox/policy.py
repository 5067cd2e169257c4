"""Who may reach what: policy objects and node blocks, turned into one verdict.

Cilium puts its own and Kubernetes' policies into one rule set: selecting a Pod with any egress rule denies
by default, allows add up, a deny beats every allow (docs/security/policy/deny.rst). Host-network Pods and
nodes are not selected by any of them. `toCIDR` never matches what is inside the cluster.
"""

from __future__ import annotations

import asyncio
import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sandbox.clock import Clock
from sandbox.controllers.api import Api, Resource
from sandbox.controllers.mirror import Mirror
from sandbox.network import Host, Identity, Network, Verdict
from sandbox.nodes import NodeBlocks
from workers.adapters.firewall import NodeBlock, within

Object = dict[str, Any]
API_SERVER = "kubernetes.default.svc"
INSIDE = frozenset({"cluster", "all"})
API_ENTITIES = frozenset({"host", "remote-node", "kube-apiserver"})


@dataclass(frozen=True)
class Policies:
    """The policy objects as the API holds them."""

    clusterwide: tuple[Object, ...] = ()
    cilium: tuple[Object, ...] = ()
    network: tuple[Object, ...] = ()
    cluster: tuple[Object, ...] = ()


CLUSTERWIDE = Resource(
    "cilium.io",
    "v2",
    "ciliumclusterwidenetworkpolicies",
    "CiliumClusterwideNetworkPolicy",
    namespaced=False,
)
CILIUM = Resource("cilium.io", "v2", "ciliumnetworkpolicies", "CiliumNetworkPolicy")
NETWORK = Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
CLUSTER = Resource(
    "policy.networking.k8s.io", "v1alpha2", "clusternetworkpolicies", "ClusterNetworkPolicy", namespaced=False
)


class Enforcer:
    """Keeps the Network's verdict as the API and the nodes' firewalls say. `audit` switches policies off,
    as Cilium's `policy-audit-mode` does: they are accepted, and nothing is denied."""

    def __init__(self, api: Api, network: Network, blocks: NodeBlocks, clock: Clock) -> None:
        self._network, self._blocks, self._clock = network, blocks, clock
        self._mirrors = {r: Mirror(api, r) for r in (CLUSTERWIDE, CILIUM, NETWORK, CLUSTER)}
        self.audit = False
        self.deaf = False
        """Clusterwide policies are accepted by the API and reach no datapath: the agents do not see them."""

    def judge(self) -> None:
        """Take the state as it is now into the Network."""
        found = Policies() if self.audit else Policies(*(tuple(m) for m in self._mirrors.values()))
        found = replace(found, clusterwide=()) if self.deaf else found
        hosts, blocks = self._network.hosts, dict(self._blocks.current)
        self._network.set_verdict(verdict(found, blocks, hosts, self._clock.now))

    async def run(self) -> None:
        """Until cancelled."""
        self._blocks.listen(self.judge)
        for mirror in self._mirrors.values():
            mirror.listen(lambda _old, _new: self.judge())
        async with asyncio.TaskGroup() as group:
            for mirror in self._mirrors.values():
                group.create_task(mirror.run())
            group.create_task(self._expiring())

    async def _expiring(self) -> None:
        while True:
            await asyncio.sleep(0.25)
            now = self._clock.now()
            self._blocks.expire(now)


def identity_of(pod: Object) -> Identity:
    """Who a Pod is on the network: itself, or its node when it uses the host's network."""
    spec, meta = pod["spec"], pod["metadata"]
    if spec.get("hostNetwork"):
        return Identity("node", str(spec["nodeName"]))
    labels = tuple(sorted((meta.get("labels") or {}).items()))
    return Identity("pod", str(meta["name"]), str(meta.get("namespace", "")), labels)


def verdict(
    policies: Policies,
    blocks: Mapping[str, NodeBlock],
    hosts: Mapping[str, Host],
    now: Callable[[], datetime],
) -> Verdict:
    """May `who` reach `host`, by these policies and blocks."""

    def judge(who: Identity, host: str) -> bool:
        target = hosts.get(host)
        if target is None:
            return False
        # A name with several addresses is out of reach only when all of them are.
        return any(_one(who, replace(target, address=a)) for a in target.addresses)

    def _one(who: Identity, target: Host) -> bool:
        if who.kind == "node":
            block = blocks.get(who.name)
            return block is None or not block.denies(target.address, now())
        return pod_may(policies, who, target)

    return judge


def pod_may(policies: Policies, who: Identity, target: Host) -> bool:
    """The verdict for one with a network of its own."""
    if (decided := _admin(policies.cluster, target)) is not None:
        return decided
    isolated, allowed = False, False
    for spec in _cilium_specs(policies, who):
        if any(_cilium_rule(rule, target) for rule in spec.get("egressDeny") or ()):
            return False
        has_rules = bool(spec.get("egress") or spec.get("egressDeny"))
        isolated |= (spec.get("enableDefaultDeny") or {}).get("egress", has_rules)
        allowed |= any(_cilium_rule(rule, target) for rule in spec.get("egress") or ())
    for spec in _network_specs(policies.network, who):
        isolated = True
        allowed |= any(_network_rule(rule, target, who.namespace) for rule in spec.get("egress") or ())
    return allowed or not isolated


def _admin(policies: Iterable[Object], target: Host) -> bool | None:
    """What ClusterNetworkPolicy's Admin tier decides: the first rule that matches, by priority; None passes on."""
    mine = [p["spec"] for p in policies if p["spec"].get("tier") == "Admin" and "namespaces" in p["spec"]["subject"]]
    for spec in sorted(mine, key=lambda s: int(s["priority"])):
        for rule in spec.get("egress") or ():
            if any(_cluster_peer(peer, target) for peer in rule["to"]):
                return None if rule["action"] == "Pass" else rule["action"] == "Accept"
    return None


def _cluster_peer(peer: Object, target: Host) -> bool:
    """`networks` matches what is inside the cluster, too."""
    return ("namespaces" in peer and target.local) or within(target.address, peer.get("networks") or ())


def _cilium_specs(policies: Policies, who: Identity) -> Iterable[Object]:
    own = [p for p in policies.cilium if p["metadata"].get("namespace") == who.namespace]
    for policy in (*policies.clusterwide, *own):
        for spec in [policy.get("spec"), *(policy.get("specs") or [])]:
            if spec and "endpointSelector" in spec and selects(spec["endpointSelector"] or {}, who):
                yield spec


def selects(selector: Object, who: Identity) -> bool:
    """A label selector over a Pod's labels; Cilium's source prefixes and namespace label understood."""
    labels = {**dict(who.labels), "io.kubernetes.pod.namespace": who.namespace}
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(_bare(key)) != value:
            return False
    return all(_expression(e, labels) for e in selector.get("matchExpressions") or ())


def _bare(key: str) -> str:
    for source in ("k8s:", "any:", "k8s."):
        if key.startswith(source):
            return key.removeprefix(source)
    return key


def _expression(expression: Object, labels: Mapping[str, str]) -> bool:
    have, values = labels.get(_bare(expression["key"])), expression.get("values") or []
    match expression["operator"]:
        case "In":
            return have in values
        case "NotIn":
            return have not in values
        case "Exists":
            return have is not None
        case _:
            return have is None


def _cilium_rule(rule: Object, target: Host) -> bool:
    if not _ports(rule.get("toPorts"), target):
        return False
    peers = [key for key in rule if key.startswith("to") and key != "toPorts"]
    if not peers:
        # Ports alone mean any destination; an empty rule selects nothing and only denies by default.
        return bool(rule.get("toPorts"))
    return any(_cilium_peer(key, rule[key] or [], target) for key in peers)


def _cilium_peer(key: str, values: Sequence[Any], target: Host) -> bool:
    match key:
        case "toEntities":
            return any(_entity(e, target) for e in values)
        case "toCIDR":
            return not target.local and within(target.address, values)
        case "toCIDRSet":
            return not target.local and any(_block(v, target.address) for v in values)
        case "toFQDNs":
            return not target.local and any(_fqdn(v, target.name) for v in values)
        case "toEndpoints":
            return target.local and any(_endpoint(v, target) for v in values)
        case _:
            return False


def _entity(entity: str, target: Host) -> bool:
    if entity == "world":
        return not target.local
    if entity in API_ENTITIES:
        return target.local and target.name.startswith(API_SERVER)
    return entity == "all" or (entity in INSIDE and target.local)


def _block(block: Object, address: str) -> bool:
    return within(address, [block["cidr"]]) and not within(address, block.get("except") or ())


def _fqdn(rule: Object, name: str) -> bool:
    return name == rule.get("matchName") or fnmatch.fnmatch(name, rule.get("matchPattern") or "\0")


def _endpoint(selector: Object, target: Host) -> bool:
    """By namespace, the only label we know of what stands behind a service name."""
    parts = target.name.split(":")[0].split(".")
    namespace = parts[1] if len(parts) > 2 and parts[2] == "svc" else ""
    return selects(selector, Identity("pod", parts[0], namespace))


def _ports(rules: Any, target: Host) -> bool:
    if not rules:
        return True
    served = {target.name.split(":")[1]} if ":" in target.name else {"80", "443"}
    wanted = {str(port["port"]) for rule in rules for port in rule.get("ports") or ()}
    return not wanted or bool(served & wanted)


def _network_specs(policies: Iterable[Object], who: Identity) -> Iterable[Object]:
    for policy in policies:
        spec = policy.get("spec") or {}
        kinds = spec.get("policyTypes") or (["Egress"] if "egress" in spec else [])
        if (
            "Egress" in kinds
            and policy["metadata"].get("namespace") == who.namespace
            and selects(spec.get("podSelector") or {}, who)
        ):
            yield spec


def _network_rule(rule: Object, target: Host, own_namespace: str) -> bool:
    ports = [{"ports": rule.get("ports") or []}] if rule.get("ports") else None
    if not _ports(ports, target):
        return False
    peers = rule.get("to")
    return not peers or any(_network_peer(p, target, own_namespace) for p in peers)


def _network_peer(peer: Object, target: Host, own_namespace: str) -> bool:
    if block := peer.get("ipBlock"):
        return not target.local and _block(block, target.address)
    if not target.local:
        return False
    namespaces = peer.get("namespaceSelector")
    if namespaces is None:
        return _endpoint({"matchLabels": {"io.kubernetes.pod.namespace": own_namespace}}, target)
    name = (namespaces.get("matchLabels") or {}).get("kubernetes.io/metadata.name")
    return name is None or _endpoint({"matchLabels": {"io.kubernetes.pod.namespace": name}}, target)
