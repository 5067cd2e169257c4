"""Named scenarios of the proof: what is staged when step 8 is near, or while its block stands, and the honest verdict.

A verdict is the reason with which step 8 must fail; empty, when the proof must succeed in spite of it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from sandbox import charts, seed
from sandbox.catalogue import CHARTS
from sandbox.controllers.api import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    GIT_REPOSITORIES,
    HELM_RELEASES,
    NAMESPACES,
    PODS,
    PROVIDERS,
    SECRETS,
)
from sandbox.controllers.conditions import REQUESTED_AT
from sandbox.controllers.workloads import ready
from sandbox.kubelet import RESOLVER
from sandbox.policy import API_SERVER, CILIUM, CLUSTERWIDE
from sandbox.scenarios.scenario import LAST_WORK, Act, Scenario, until

if TYPE_CHECKING:
    from sandbox.box import Box

Object = dict[str, Any]
CALLED_HOME = "license.openova.io"
TENANT = "tenant-acme"
NEGATIVE = ("openova-io/cutover-negative", "upstream-only")
CACHED = next(c for c in CHARTS if c.name == "bp-loki")
UPGRADED = "bp-mimir"
AWAY = "quay.io"
OPEN_NODE = "worker-2"
SHARED_ADDRESS = "100.64.7.7"
"""In a range that the block leaves open (RFC 6598), as a provider's own proxies are."""


# --- the acts -------------------------------------------------------------------------------------------------


async def _calls_home(box: Box) -> None:
    await _tenant(box, {"command": ["call-home"], "args": [f"https://{CALLED_HOME}"]})


async def _asks_home(box: Box) -> None:
    """It runs on whatever it is told, and serves nobody while its licence cannot be checked."""
    await _tenant(box, {"readinessProbe": {"exec": {"command": ["call-home", f"https://{CALLED_HOME}"]}}})


async def _tenant(box: Box, more: Object) -> None:
    await box.network.attach(CALLED_HOME, box.kube.port, local=False)
    await box.api.apply(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": TENANT}}, "tenant")
    workload = seed.deployment("crm", TENANT, seed.PAUSE)
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    container |= more
    await box.api.apply(DEPLOYMENTS, workload, "tenant")
    await until(lambda: any(_runs(p) for p in box.mirrors[PODS]))


def _runs(pod: Object) -> bool:
    return pod["metadata"]["namespace"] == TENANT and ready(pod)


async def _tenant_leaves(box: Box) -> None:
    await box.api.delete(DEPLOYMENTS, "crm", TENANT)
    await until(lambda: not any(p["metadata"]["namespace"] == TENANT for p in box.mirrors[PODS]))


async def _deaf(box: Box) -> None:
    box.enforcer.deaf = True


async def _hears(box: Box) -> None:
    box.enforcer.deaf = False


FORBIDDEN = {(verb, CLUSTERWIDE.group, CLUSTERWIDE.plural) for verb in ("create", "patch", "update")}


async def _forbid(box: Box) -> None:
    box.kube.api.refused |= FORBIDDEN


async def _permit(box: Box) -> None:
    box.kube.api.refused -= FORBIDDEN


async def _audit_mode(box: Box) -> None:
    box.enforcer.audit = True
    config = {"metadata": {"name": "cilium-config", "namespace": "kube-system"}, "data": {"policy-audit-mode": "true"}}
    await box.api.apply(CONFIG_MAPS, {"apiVersion": "v1", "kind": "ConfigMap", **config}, "cilium")


async def _enforce_mode(box: Box) -> None:
    box.enforcer.audit = False
    await box.api.delete(CONFIG_MAPS, "cilium-config", "kube-system")


async def _allow_all(box: Box) -> None:
    policy = {
        "apiVersion": CILIUM.api_version,
        "kind": CILIUM.kind,
        "metadata": {"name": "let-everything-out", "namespace": "flux-system"},
        "spec": {"endpointSelector": {}, "egress": [{"toEntities": ["all"]}]},
    }
    await box.api.apply(CILIUM, policy, "platform-team")


async def _allow_no_more(box: Box) -> None:
    await box.api.delete(CILIUM, "let-everything-out", "flux-system")


async def _node_open(box: Box) -> None:
    box.blocks.open.add(OPEN_NODE)


async def _node_closes(box: Box) -> None:
    box.blocks.open.discard(OPEN_NODE)


_LEFT: dict[str, Any] = {}
"""What an act took away, for the heal."""


async def _vanish(box: Box) -> None:
    _LEFT[AWAY] = box.network.hosts.pop(AWAY)


async def _come_back(box: Box) -> None:
    if AWAY in _LEFT:
        box.network.hosts[AWAY] = _LEFT.pop(AWAY)


def _outside(host: str, address: str) -> tuple[Act, Act]:
    """One of the Sovereign's own that lives beyond the fence."""

    async def out(box: Box) -> None:
        _LEFT[host] = box.network.move(host, address=address, local=False)

    async def back(box: Box) -> None:
        box.network.hosts[host] = _LEFT.pop(host)

    return out, back


async def _revoke(box: Box) -> None:
    """Somebody rotates Flux's token in Gitea and forgets the Secret."""
    source = await box.api.get(GIT_REPOSITORIES, "openova", "flux-system")
    assert source is not None
    name = source["spec"]["secretRef"]["name"]
    secret = await box.api.get(SECRETS, name, "flux-system")
    assert secret is not None
    _LEFT["secret"] = {k: secret[k] for k in ("data",)}, secret
    await box.api.merge(SECRETS, secret, {"data": {"password": "d3Jvbmc="}}, "operator")
    await _ask(box, "revoked")


async def _restore(box: Box) -> None:
    if "secret" in _LEFT:
        data, secret = _LEFT.pop("secret")
        await box.api.merge(SECRETS, secret, data, "operator")
        await _ask(box, "restored")
        await _source_is(box, "True")


async def _ask(box: Box, word: str) -> None:
    source = await box.api.get(GIT_REPOSITORIES, "openova", "flux-system")
    assert source is not None
    token = f"{word}-{box.clock.now().timestamp()}"
    await box.api.merge(GIT_REPOSITORIES, source, {"metadata": {"annotations": {REQUESTED_AT: token}}}, "operator")


async def _source_is(box: Box, status: str) -> None:
    def so() -> bool:
        found = box.mirrors[GIT_REPOSITORIES].get("openova", "flux-system") or {}
        conditions = (found.get("status") or {}).get("conditions") or []
        return any(c["type"] == "Ready" and c["status"] == status for c in conditions)

    await until(so)


async def _flap(box: Box) -> None:
    """Not Ready for less than a look takes, and Ready again."""
    source = await box.api.get(GIT_REPOSITORIES, "openova", "flux-system")
    assert source is not None
    good = source["status"]["conditions"]
    bad = [{**c, "status": "False", "reason": "GitOperationFailed", "message": "i/o timeout"} for c in good]
    for conditions in (bad, good):
        await box.api.merge(GIT_REPOSITORIES, source, {"status": {"conditions": conditions}}, "flap", sub="status")


async def _blink(box: Box) -> None:
    """The API server forgets its history and ends every watch: whoever watched must list anew."""
    box.kube.store.compact()
    box.kube.store.hang_up()


async def _rotate(box: Box) -> None:
    _LEFT["address"] = box.network.move(AWAY, address=SHARED_ADDRESS)


async def _rotate_back(box: Box) -> None:
    if "address" in _LEFT:
        box.network.hosts[AWAY] = _LEFT.pop("address")


async def _stray_package(box: Box) -> None:
    provider = {
        "apiVersion": PROVIDERS.api_version,
        "kind": PROVIDERS.kind,
        "metadata": {"name": "provider-by-hand"},
        "spec": {"package": "xpkg.upbound.io/crossplane-contrib/provider-hcloud:v0.4.0"},
    }
    await box.api.apply(PROVIDERS, provider, "operator")

    def settled() -> bool:
        found = box.mirrors[PROVIDERS].get("provider-by-hand") or {}
        conditions = (found.get("status") or {}).get("conditions") or []
        return any(c["type"] == "Installed" and c["status"] == "True" for c in conditions)

    await until(settled)


async def _package_leaves(box: Box) -> None:
    await box.api.delete(PROVIDERS, "provider-by-hand")
    await box.api.delete(DEPLOYMENTS, "provider-by-hand", "crossplane-system")


async def _lose_chart(box: Box) -> None:
    repository = f"openova-io/{CACHED.name}"
    for stored in list(box.harbor.store.manifests(repository)):
        box.harbor.store.delete_manifest(repository, stored.digest)


async def _chart_again(box: Box) -> None:
    box.publish_chart(CACHED, charts.archive(CACHED))
    await asyncio.sleep(0)


async def _no_negative(box: Box) -> None:
    store = box.registries["ghcr.io"].store
    stored = store.manifest(*NEGATIVE)
    assert stored is not None
    _LEFT["negative"] = stored.digest
    store.untag(*NEGATIVE)


async def _negative_again(box: Box) -> None:
    box.registries["ghcr.io"].store.tag(*NEGATIVE, _LEFT.pop("negative"))


async def _remove_policy(box: Box) -> None:
    found, _ = await box.api.list(CLUSTERWIDE)
    for policy in found:
        await box.api.delete(CLUSTERWIDE, policy["metadata"]["name"])


async def _upgrade(box: Box) -> None:
    release = await box.api.get(HELM_RELEASES, UPGRADED, "flux-system")
    assert release is not None
    values = {**(release["spec"].get("values") or {}), "note": f"an operator's own, {box.clock.now().timestamp()}"}
    await box.api.merge(HELM_RELEASES, release, {"spec": {"values": values}}, "operator")


_dns_out, _dns_back = _outside(RESOLVER, "203.0.113.53")
_api_out, _api_back = _outside(API_SERVER, "203.0.113.64")

SCENARIOS: dict[str, Scenario] = {
    "hidden-tether": Scenario(
        f"a tenant's workload calls {CALLED_HOME} and dies without it", "NotGreenUnderBlock", _calls_home,
        heal=_tenant_leaves),
    "hidden-readiness": Scenario(
        f"a tenant's workload runs on and is not Ready without {CALLED_HOME}", "NotGreenUnderBlock", _asks_home,
        heal=_tenant_leaves),
    "policy-not-applied": Scenario(
        "the policy is accepted and no agent programs it", "EgressNotBlocked", _deaf, heal=_hears),
    "policy-forbidden": Scenario("writing the policy is forbidden (403)", "ApiForbidden", _forbid, heal=_permit),
    "policy-audit-mode": Scenario(
        "Cilium runs in policy-audit-mode and says so", "CannotBlock", _audit_mode, heal=_enforce_mode),
    "another-policy-allows": Scenario(
        "another policy lets flux-system out; a deny beats it", "", _allow_all, heal=_allow_no_more),
    "node-open": Scenario(
        f"the firewall of {OPEN_NODE} closes nothing", "EgressNotBlocked", _node_open, heal=_node_closes),
    "offline-already": Scenario(f"{AWAY} is out of reach anyway", "OfflineAlready", _vanish, heal=_come_back),
    "outage-during-hold": Scenario(
        f"{AWAY} goes down during the hold and stays down", "StillOffline", during=_vanish, heal=_come_back),
    "block-cuts-dns": Scenario(
        "the cluster's resolver lives outside and is not listed", "BlockCutsTooMuch", _dns_out, heal=_dns_back),
    "block-cuts-apiserver": Scenario(
        "the API server is reached over a public address", "BlockCutsTooMuch", _api_out, heal=_api_back),
    "reconcile-fails-in-minute-9": Scenario(
        "late in the hold Flux's token is revoked", "NotGreenUnderBlock", during=_revoke, heal=_restore, at=LAST_WORK),
    "flapping-source": Scenario(
        "a source fails for a moment and recovers", "NotGreenUnderBlock", during=_flap),
    "watch-gap": Scenario("every watch breaks during the hold; the clock starts anew", "", during=_blink),
    "cdn-address-rotates": Scenario(
        f"{AWAY} moves to an address that the block leaves open", "EgressNotBlocked", during=_rotate,
        heal=_rotate_back),
    "crossplane-tether": Scenario(
        "a package was declared upstream by hand", "TetherLeft", _stray_package, heal=_package_leaves),
    "chart-cache-hides-failure": Scenario(
        f"local Harbor lost {CACHED.name}, Flux still shows it from its cache", "NotGreenUnderBlock", _lose_chart,
        heal=_chart_again),
    "negative-image-missing": Scenario(
        "the image that must be refused exists nowhere", "NegativeMissing", _no_negative, heal=_negative_again),
    "policy-removed": Scenario("somebody deletes the policy during the hold", "BlockLost", during=_remove_policy),
    "helm-upgrade-during-hold": Scenario("an operator upgrades a release during the hold", "", during=_upgrade),
}  # fmt: skip
"""Name -> scenario, all of step 8."""
