"""Named scenarios of steps 5 to 7: what wins over a live patch, what lies, and what is slow to be there."""

from __future__ import annotations

import asyncio
import copy
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sandbox import charts, openova, seed
from sandbox.catalogue import CHARTS, GITOPS_UPSTREAM, HARBOR_HOST
from sandbox.controllers.api import (
    CRDS,
    DEPLOYMENTS,
    GIT_REPOSITORIES,
    HELM_RELEASES,
    HELM_REPOSITORIES,
    IMAGE_CONFIGS,
    KUSTOMIZATIONS,
    NAMESPACES,
    PODS,
    SECRETS,
    Resource,
)
from sandbox.controllers.conditions import REQUESTED_AT, current, is_true
from sandbox.openova_slots import TEMPLATE
from sandbox.scenarios.scenario import Act, Scenario, until

if TYPE_CHECKING:
    from sandbox.box import Box

Object = dict[str, Any]
FLUX = "flux-system"
SOURCE = "openova"
PULL_SECRET = "ghcr-pull"
SOURCE_CONTROLLER = "source-controller"
CACHED = next(c for c in CHARTS if c.name == "bp-tempo")
TENANT = "tenant-acme"
TENANT_BRANCH = "org-tenants"
PLATFORM = charts.CATALYST_API
LOCAL = "http://gitea-http.gitea.svc.cluster.local:3000/openova/openova"
OWNED = "kustomize.toolkit.fluxcd.io/name"
NOWHERE = 9  # the discard port: nobody listens there

_LEFT: dict[str, Any] = {}
"""What an act took away, for the heal."""


def _merged(resource: Resource, name: str, body: Object, namespace: str = FLUX) -> Act:
    """Someone changes a live object."""

    async def act(box: Box) -> None:
        found = await box.api.get(resource, name, namespace)
        if found is not None:
            await box.api.merge(resource, found, copy.deepcopy(body), "someone")

    return act


async def _ask(box: Box, resource: Resource, name: str, namespace: str = FLUX) -> None:
    token = f"{name}-{box.clock.now().timestamp()}"
    await _merged(resource, name, {"metadata": {"annotations": {REQUESTED_AT: token}}}, namespace)(box)


# --- what wins ------------------------------------------------------------------------------------------------


async def _reverts(box: Box) -> None:
    """kustomize-controller looks twice a second: what is patched live only is undone before anyone sees it."""
    for kustomization in box.mirrors[KUSTOMIZATIONS]:
        await box.api.merge(KUSTOMIZATIONS, kustomization, {"spec": {"interval": "500ms"}}, "someone")


async def _reverts_no_more(box: Box) -> None:
    for kustomization in box.mirrors[KUSTOMIZATIONS]:
        await box.api.merge(KUSTOMIZATIONS, kustomization, {"spec": {"interval": "5s"}}, "someone")


async def _stranger(box: Box) -> None:
    """A controller of somebody's own knows better where the source is, and says so at once, each time."""

    def changed(_old: Object | None, new: Object | None) -> None:
        if new is not None and new["metadata"]["name"] == SOURCE and new["spec"]["url"] != GITOPS_UPSTREAM:
            tasks.append(asyncio.get_running_loop().create_task(back(new)))

    async def back(new: Object) -> None:
        await box.api.merge(GIT_REPOSITORIES, new, {"spec": {"url": GITOPS_UPSTREAM}}, "fleet-controller")

    tasks: list[asyncio.Task[None]] = []
    mirror = box.mirrors[GIT_REPOSITORIES]
    _LEFT["stranger"] = (listening := mirror.listening(changed)), tasks
    listening.__enter__()


async def _stranger_leaves(box: Box) -> None:
    if "stranger" not in _LEFT:
        return
    listening, tasks = _LEFT.pop("stranger")
    listening.__exit__(None, None, None)
    with suppress(Exception):
        await asyncio.gather(*tasks)


async def _secret_maker(box: Box) -> None:
    """Whoever makes the pull secret (External Secrets, Reflector) makes it anew as soon as it is another."""
    made = await box.api.get(SECRETS, PULL_SECRET, FLUX)
    assert made is not None

    async def anew() -> None:
        while True:
            found = await box.api.get(SECRETS, PULL_SECRET, FLUX)
            if found is not None and found["data"] != made["data"]:
                await box.api.merge(SECRETS, found, {"data": made["data"]}, "external-secrets")
            await asyncio.sleep(0.02)

    _LEFT["maker"] = asyncio.get_running_loop().create_task(anew())


async def _secret_maker_leaves(_: Box) -> None:
    if task := _LEFT.pop("maker", None):
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _drift_corrected(box: Box) -> None:
    """Helm takes drift back; and somebody has patched the Deployment already, so that all looks well."""
    await _merged(HELM_RELEASES, PLATFORM, {"spec": {"driftDetection": {"mode": "enabled"}}})(box)
    deployment = await box.api.get(DEPLOYMENTS, "catalyst-api", "catalyst-system")
    assert deployment is not None
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    for entry in container["env"]:
        if entry["name"] == "CATALYST_GITOPS_REPO_URL":
            entry["value"] = LOCAL
    template = {"spec": {"template": {"spec": {"containers": [container]}}}}
    await box.api.merge(DEPLOYMENTS, deployment, template, "kubectl-set")


# --- what lies ------------------------------------------------------------------------------------------------


def _runs(box: Box) -> bool:
    return any((p["metadata"].get("labels") or {}).get("app") == SOURCE_CONTROLLER for p in box.mirrors[PODS])


async def _source_controller_gone(box: Box) -> None:
    """Nobody fetches anything; and every source goes on saying Ready, of the day before."""
    while True:
        await until(lambda: _says_ready(box))
        await _merged(DEPLOYMENTS, SOURCE_CONTROLLER, {"spec": {"replicas": 0}})(box)
        await until(lambda: not _runs(box))
        await asyncio.sleep(0.2)
        if _says_ready(box):
            return
        await _source_controller_back(box)  # it went in the middle of a fetch, and said so


def _says_ready(box: Box) -> bool:
    source = _source(box)
    return bool(source) and current(source) and is_true(source)


async def _source_controller_back(box: Box) -> None:
    await _merged(DEPLOYMENTS, SOURCE_CONTROLLER, {"spec": {"replicas": 1}})(box)
    await until(lambda: _runs(box))


async def _static(box: Box) -> None:
    """A repository that nothing uses: `type: oci`, so no controller will ever say a word about it."""
    await box.api.apply(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": TENANT}}, "tenant")
    await box.api.apply(HELM_REPOSITORIES, _repository("by-hand"), "tenant")


async def _static_leaves(box: Box) -> None:
    await box.api.delete(HELM_REPOSITORIES, "by-hand", TENANT)


def _repository(name: str) -> Object:
    return {
        "apiVersion": HELM_REPOSITORIES.api_version,
        "kind": HELM_REPOSITORIES.kind,
        "metadata": {"name": name, "namespace": TENANT},
        "spec": {"type": "oci", "interval": "15m", "url": "oci://ghcr.io/openova-io"},
    }


async def _lose_layer(box: Box) -> None:
    """Harbor's garbage collection took the chart's only layer: tag and manifest are there, Flux has its cache."""
    repository = f"openova-io/{CACHED.name}"
    stored = box.harbor.store.manifest(repository, CACHED.version)
    assert stored is not None
    for layer in stored.document["layers"]:
        box.harbor.store.delete_blob(repository, layer["digest"])


async def _layer_again(box: Box) -> None:
    box.publish_chart(CACHED, charts.archive(CACHED))


# --- what is slow ---------------------------------------------------------------------------------------------


async def _gateway_down(box: Box) -> None:
    _LEFT["gateway"] = box.network.hosts[HARBOR_HOST]
    box.network.hosts[HARBOR_HOST] = replace(box.network.hosts[HARBOR_HOST], port=NOWHERE)


async def _gateway_up(box: Box) -> None:
    if "gateway" in _LEFT:
        box.network.hosts[HARBOR_HOST] = _LEFT.pop("gateway")


# --- other layouts --------------------------------------------------------------------------------------------

SOURCES = f"""\
# Written by the tenant's own platform team.
apiVersion: source.toolkit.fluxcd.io/v1
kind: HelmRepository
metadata:
  name: acme-charts
  namespace: {TENANT}
spec:
  type: oci
  interval: 15m
  url: oci://ghcr.io/openova-io
"""


async def _tenant(box: Box) -> None:
    """A tenant's sources stand on a branch of their own in the same repository, applied by nobody else."""
    openova.commit(
        box.sources.repository, TENANT_BRANCH, {"tenants/acme/sources.yaml": SOURCES}, "Acme", base=box.sources.branch
    )
    await box.api.apply(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": TENANT}}, "tenant")
    source = seed.git_repository(5.0, TENANT_BRANCH)
    source["metadata"]["name"] = "tenants"
    del source["spec"]["ignore"]
    await box.api.apply(GIT_REPOSITORIES, source, seed.MANAGER)
    await box.api.apply(KUSTOMIZATIONS, seed.kustomization("tenants", "./tenants", 5.0, "tenants"), seed.MANAGER)
    await until(lambda: box.mirrors[HELM_REPOSITORIES].get("acme-charts", TENANT) is not None)


async def _tenant_leaves(box: Box) -> None:
    await box.api.delete(KUSTOMIZATIONS, "tenants", FLUX)
    await box.api.delete(GIT_REPOSITORIES, "tenants", FLUX)
    await box.api.delete(HELM_REPOSITORIES, "acme-charts", TENANT)


SYNC = f"""\
# This manifest was generated by flux. DO NOT EDIT.
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata:
  name: {SOURCE}
  namespace: {FLUX}
spec:
  interval: 5s
  ref:
    branch: main
  url: {GITOPS_UPSTREAM}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata:
  name: flux-system
  namespace: {FLUX}
spec:
  interval: 1s
  path: ./{TEMPLATE}/flux-system
  prune: true
  sourceRef:
    kind: GitRepository
    name: {SOURCE}
"""
LISTED = """\
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources:
  - gotk-sync.yaml
"""


async def _bootstrapped(box: Box) -> None:
    """As `flux bootstrap` leaves it: the source is declared in the repository that it fetches, and owned by that."""
    place = f"{TEMPLATE}/flux-system"
    sync = SYNC.replace("branch: main", f"branch: {box.sources.branch}")
    files = {f"{place}/gotk-sync.yaml": sync, f"{place}/kustomization.yaml": LISTED}
    openova.commit(box.sources.repository, box.sources.branch, files, "Flux manages itself")
    await _ask(box, GIT_REPOSITORIES, SOURCE)
    wanted = seed.kustomization("flux-system", f"./{place}", 1.0, SOURCE)
    await box.api.apply(KUSTOMIZATIONS, wanted, "flux-bootstrap")
    await until(lambda: OWNED in ((_source(box).get("metadata") or {}).get("labels") or {}))


def _source(box: Box) -> Object:
    return box.mirrors[GIT_REPOSITORIES].get(SOURCE, FLUX) or {}


async def _bootstrapped_no_more(box: Box) -> None:
    found = await box.api.get(KUSTOMIZATIONS, "flux-system", FLUX)
    if found is not None:
        await box.api.delete(KUSTOMIZATIONS, "flux-system", FLUX)
        gone = {OWNED: None, "kustomize.toolkit.fluxcd.io/namespace": None}
        # What the manifest did not say went with it, and cloud-init had said it.
        await _merged(GIT_REPOSITORIES, SOURCE, {"metadata": {"labels": gone}, "spec": {"ignore": seed.IGNORE}})(box)


async def _rewrites(box: Box) -> None:
    """Crossplane 1.20: the schema of ImageConfig has `rewriteImage`."""
    definition = await box.api.get(CRDS, "imageconfigs.pkg.crossplane.io")
    assert definition is not None
    _LEFT["schema"] = copy.deepcopy(definition["spec"]["versions"])
    for version in definition["spec"]["versions"]:
        spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
        prefix = {"type": "object", "required": ["prefix"], "properties": {"prefix": {"type": "string"}}}
        spec["properties"]["rewriteImage"] = prefix
    await box.api.merge(CRDS, definition, {"spec": {"versions": definition["spec"]["versions"]}}, "crossplane")


async def _rewrites_no_more(box: Box) -> None:
    for config in box.mirrors[IMAGE_CONFIGS]:
        await box.api.delete(IMAGE_CONFIGS, config["metadata"]["name"])
    definition = await box.api.get(CRDS, "imageconfigs.pkg.crossplane.io")
    if definition is not None and "schema" in _LEFT:
        await box.api.merge(CRDS, definition, {"spec": {"versions": _LEFT.pop("schema")}}, "crossplane")


_suspend = _merged(GIT_REPOSITORIES, SOURCE, {"spec": {"suspend": True}})
_resume = _merged(GIT_REPOSITORIES, SOURCE, {"spec": {"suspend": None}})
_drift_left_alone = _merged(HELM_RELEASES, PLATFORM, {"spec": {"driftDetection": None}})

GIT, SOURCE_STEP, CHARTS_STEP, API = (
    "gitea-mirror", "flux-gitrepository-patch", "helmrepo-patches", "catalyst-api-env-patch",
)  # fmt: skip

SCENARIOS: dict[str, Scenario] = {
    "flux-revert": Scenario(
        "Flux applies Git twice a second: what is patched live only is undone at once", "", _reverts,
        heal=_reverts_no_more, step=CHARTS_STEP),
    "stranger-reverts": Scenario(
        "somebody's own controller writes the source's url back within a moment", "SourceReverted", _stranger,
        heal=_stranger_leaves, waits=True, step=SOURCE_STEP),
    "stale-ready": Scenario(
        "source-controller is gone, and the source still says Ready=True, of before", "GitRepositoryNotReady",
        _source_controller_gone, heal=_source_controller_back, waits=True, step=SOURCE_STEP),
    "suspended-source": Scenario(
        "someone suspended the GitRepository: requests are acknowledged and nothing is fetched", "SourceSuspended",
        _suspend, heal=_resume, step=SOURCE_STEP),
    "oci-repository-has-no-status": Scenario(
        "a HelmRepository of type oci, which no controller ever says a word about", "", _static, heal=_static_leaves,
        step=CHARTS_STEP),
    "chart-cache-hides-loss": Scenario(
        f"local Harbor lost the layer of {CACHED.name}, whose HelmChart is Ready from its cache", "HelmChartNotReady",
        _lose_layer, heal=_layer_again, waits=True, step=CHARTS_STEP),
    "tenant-branch": Scenario(
        f"a tenant's sources stand on branch {TENANT_BRANCH}, followed by a GitRepository of its own", "", _tenant,
        heal=_tenant_leaves, step=GIT),
    "bootstrap-self-managed": Scenario(
        "flux bootstrap's layout: the GitRepository is declared in the repository that it fetches", "",
        _bootstrapped, heal=_bootstrapped_no_more, step=GIT),
    "pull-secret-restored": Scenario(
        "whoever makes the pull secret puts the mothership's login back at once", "PullSecretRestored", _secret_maker,
        heal=_secret_maker_leaves, waits=True, step=CHARTS_STEP),
    "gateway-not-ready": Scenario(
        "the gateway before local Harbor does not answer yet", "DestinationNotReady", _gateway_down, heal=_gateway_up,
        waits=True, step=CHARTS_STEP),
    "helm-owned-env": Scenario(
        "catalyst-api was patched live, and Helm corrects drift: the patch goes, the value must stay", "",
        _drift_corrected, heal=_drift_left_alone, step=API),
    "crossplane-old": Scenario(
        "Crossplane 1.18 has no ImageConfig.rewriteImage: packages are renamed", "", step=CHARTS_STEP),
    "crossplane-new": Scenario(
        "Crossplane 1.20 has ImageConfig.rewriteImage: packages keep their names", "", _rewrites,
        heal=_rewrites_no_more, step=CHARTS_STEP),
}  # fmt: skip
"""Name -> scenario, of steps 5 to 7."""
