"""Named scenarios of the means of blocking, and of the Sovereign's own services while the block stands."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sandbox import seed
from sandbox.catalogue import GITEA_HOST, HARBOR_HOST
from sandbox.controllers.api import GIT_REPOSITORIES, HELM_CHARTS, HELM_RELEASES, Resource
from sandbox.controllers.conditions import REQUESTED_AT
from sandbox.policy import CLUSTER, NETWORK
from sandbox.scenarios.proof import CACHED
from sandbox.scenarios.scenario import Act, Scenario

if TYPE_CHECKING:
    from sandbox.box import Box

Object = dict[str, Any]
DEFINITIONS = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
CILIUMS = ("ciliumclusterwidenetworkpolicies.cilium.io", "ciliumnetworkpolicies.cilium.io")
CLUSTER_POLICIES: Object = {
    "apiVersion": DEFINITIONS.api_version,
    "kind": DEFINITIONS.kind,
    "metadata": {"name": f"{CLUSTER.plural}.{CLUSTER.group}"},
    "spec": {
        "group": CLUSTER.group,
        "scope": "Cluster",
        "names": {"kind": CLUSTER.kind, "plural": CLUSTER.plural, "listKind": f"{CLUSTER.kind}List"},
        "versions": [
            {
                "name": CLUSTER.version,
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}
NOBODY = 9  # a port on which nothing listens
_LEFT: dict[str, Any] = {}


async def _no_cilium(box: Box) -> None:
    for name in CILIUMS:
        if (definition := await box.api.get(DEFINITIONS, name)) is not None:
            _LEFT[name] = {k: definition[k] for k in ("apiVersion", "kind", "spec")} | {"metadata": {"name": name}}
            await box.api.delete(DEFINITIONS, name)
    box.kube.store.hang_up()


async def _cilium_again(box: Box) -> None:
    for name in CILIUMS:
        if name in _LEFT:
            await box.api.apply(DEFINITIONS, _LEFT.pop(name), "helm")
    box.kube.store.hang_up()


async def _other_plugin(box: Box) -> None:
    await _no_cilium(box)
    await box.api.apply(DEFINITIONS, CLUSTER_POLICIES, "helm")


async def _cilium_instead(box: Box) -> None:
    await box.api.delete(DEFINITIONS, CLUSTER_POLICIES["metadata"]["name"])
    await _cilium_again(box)


async def _walls_only(box: Box) -> None:
    await _no_cilium(box)
    await box.api.delete(NETWORK, "allow-egress", "flux-system")


async def _allow_egress_again(box: Box) -> None:
    await box.api.apply(NETWORK, seed.allow_egress(), "flux")
    await _cilium_again(box)


def _down(host: str) -> tuple[Act, Act]:
    """One of the Sovereign's own goes down, and comes back."""

    async def out(box: Box) -> None:
        _LEFT[host] = box.network.hosts[host]
        box.network.hosts[host] = replace(box.network.hosts[host], port=NOBODY)

    async def back(box: Box) -> None:
        if host in _LEFT:
            box.network.hosts[host] = _LEFT.pop(host)

    return out, back


_gitea_out, _gitea_back = _down(GITEA_HOST)
_harbor_out, _harbor_back = _down(HARBOR_HOST)


async def _gitea_missed(box: Box) -> None:
    """Down, and Flux asks it at once: its next look might come after the hold."""
    await _gitea_out(box)
    for source in box.mirrors[GIT_REPOSITORIES]:
        asked = {"metadata": {"annotations": {REQUESTED_AT: f"wanted-{box.clock.now().timestamp()}"}}}
        await box.api.merge(GIT_REPOSITORIES, source, asked, "operator")


async def _harbor_missed(box: Box) -> None:
    """Down, and a chart is wanted: else it might not be missed before the hold is over."""
    await _harbor_out(box)
    release = await box.api.get(HELM_RELEASES, CACHED.name, "flux-system")
    assert release is not None
    asked = {"metadata": {"annotations": {REQUESTED_AT: f"wanted-{box.clock.now().timestamp()}"}}}
    await box.api.delete(HELM_CHARTS, f"flux-system-{CACHED.name}", "flux-system")
    await box.api.merge(HELM_RELEASES, release, asked, "operator")


SCENARIOS: dict[str, Scenario] = {
    "cluster-network-policy": Scenario(
        "no Cilium; the network plugin knows ClusterNetworkPolicy", "", _other_plugin, heal=_cilium_instead),
    "network-policy-alone": Scenario(
        "no Cilium, and nobody else allows egress: NetworkPolicy holds", "", _walls_only, heal=_allow_egress_again),
    "network-policy-in-vain": Scenario(
        "no Cilium, and Flux's own allow-egress lets its Pods out", "CannotBlock", _no_cilium, heal=_cilium_again),
    "gitea-outage": Scenario(
        "local Gitea goes down during the hold", "NotGreenUnderBlock", during=_gitea_missed, heal=_gitea_back),
    "harbor-outage": Scenario(
        "local Harbor goes down during the hold", "NotGreenUnderBlock", during=_harbor_missed, heal=_harbor_back),
}  # fmt: skip
"""Name -> scenario, all of step 8."""
