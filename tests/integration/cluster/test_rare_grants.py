"""Grants that a run in a box has no use for, each used here: by the code that needs it, as the account that has it.

An API server with the chart's own roles, and with the kinds that some Sovereigns have and the box has not. The last
test holds what was asked against the list of rare grants: a reason that nothing exercises is no reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest
import pytest_asyncio
from acceptance_scene import in_one_task
from granted_scene import VALUES
from grants import grants
from rare_grants import RARE

from sandbox import blueprint
from sandbox.charter import Charter
from sandbox.clock import Clock
from sandbox.controllers.api import Api
from sandbox.kube import KubeApi
from sandbox.seed import apply
from workers import drift, needs
from workers.adapters.cluster import (
    CONFIGURATION,
    DEPLOYMENT,
    FUNCTION,
    GIT_REPOSITORY,
    HELM_CHART,
    HELM_RELEASE,
    HELM_REPOSITORY,
    KUSTOMIZATION,
    OCI_REPOSITORY,
    POD,
    PROVIDER,
    Cluster,
    Kind,
    Object,
)
from workers.audit import survey
from workers.declared.changes import Change
from workers.errors import Wait
from workers.proof import block, forced
from workers.proof.lifter import Placement
from workers.proof.means import cilium
from workers.sovereign import Flux, Gitea, Harbor, Login, Sovereign
from workers.steps import catalyst_api_env_patch, helmrepo_patches
from workers.steps.helmrepo_patches import packages
from workers.world import World

pytestmark = pytest.mark.asyncio(loop_scope="module")
OPTIONAL = (
    ("helm.cattle.io", "v1", "HelmChart", "helmcharts"),
    ("upgrade.cattle.io", "v1", "Plan", "plans"),
    ("source.toolkit.fluxcd.io", "v1", "Bucket", "buckets"),
    ("image.toolkit.fluxcd.io", "v1", "ImageRepository", "imagerepositories"),
    ("postgresql.cnpg.io", "v1", "Cluster", "clusters"),
    ("policy.networking.k8s.io", "v1alpha2", "ClusterNetworkPolicy", "clusternetworkpolicies"),
)
FLUX, API = "flux-system", "catalyst-system"
PACKAGES = ((PROVIDER, "v1"), (CONFIGURATION, "v1"), (FUNCTION, "v1beta1"))
PACKAGE = "xpkg.upbound.io/a/b:v1"
MAKES = {"containers": [{"name": "catalyst-api", "image": "i", "env": [
    {"name": "CATALYST_GITOPS_REPO_URL", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "url"}}},
]}]}  # fmt: skip


def definition(group: str, version: str, kind: str, plural: str) -> Object:
    """A kind without a schema."""
    loose = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    scope = "Cluster" if group.startswith("policy.") else "Namespaced"
    return {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group, "scope": scope,
            "names": {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"},
            "versions": [{"name": version, "served": True, "storage": True, "schema": loose}],
        },
    }  # fmt: skip


@dataclass
class House:
    kube: KubeApi
    charter: Charter
    directory: Path
    sovereign: Sovereign

    @asynccontextmanager
    async def as_(self, name: str) -> AsyncIterator[World]:
        """The world of a class, as far as the cluster goes: the rest has no grants."""
        kubeconfig = self.kube.kubeconfig(self.directory / name, self.charter.accounts[name])
        async with Cluster.open(kubeconfig=kubeconfig, field_manager="catalyst-cutover") as cluster:
            yield cast(World, SimpleNamespace(cluster=cluster, sovereign=self.sovereign))

    def used(self) -> set[str]:
        return {str(g) for g in grants(self.charter.objects) if g.used(self.kube.api.asked)}


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[House]:
    async with KubeApi.open(directory / "kube", Clock()) as kube:
        charter = blueprint.charter(VALUES)
        api = Api(kube.local)
        await apply(api, [definition(*each) for each in OPTIONAL])
        homes = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in (FLUX, API)]
        await apply(api, [*homes, *charter.objects])
        await apply(api, _objects())
        (directory / "word").write_text("x")
        login = Login(username="u", password_file=directory / "word")
        sovereign = Sovereign(
            fqdn="sovereign.test", gitea=Gitea(url="http://gitea.invalid", login=login), flux=Flux(timeout=1),
            harbor=Harbor(url="http://harbor.invalid", host="harbor.sovereign.test", login=login),
            secret_namespaces=charter.secret_namespaces,
        )  # fmt: skip
        yield House(kube, charter, directory, sovereign)


def _objects() -> list[Object]:
    source = {"interval": "1h", "secretRef": {"name": "s"}}
    meta = {"name": "x", "namespace": FLUX}
    api = {"name": "catalyst-api", "namespace": API}
    labels = {"matchLabels": {"app": "a"}}
    template = {"metadata": {"labels": {"app": "a"}}, "spec": MAKES}
    return [
        {"apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "HelmRepository", "metadata": meta,
         "spec": {"url": "https://charts.invalid", **source}},
        {"apiVersion": "source.toolkit.fluxcd.io/v1beta2", "kind": "OCIRepository", "metadata": meta,
         "spec": {"url": "oci://ghcr.io/openova-io/x", **source}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": api,
         "spec": {"selector": labels, "template": template}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings", "namespace": API},
         "data": {"url": "u"}},
        *({"apiVersion": f"pkg.crossplane.io/{version}", "kind": kind.kind, "metadata": {"name": "x"},
           "spec": {"package": PACKAGE}} for kind, version in PACKAGES),
    ]  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """One API server for all tests of this file."""
    found, close = await in_one_task(lambda: opened(tmp_path_factory.mktemp("rare")))
    yield found
    await close()


@pytest.mark.parametrize("name", ["supply", "proof", "control", "api"])
async def test_an_audit_reads_every_kind_that_may_name_the_mothership(house: House, name: str) -> None:
    async with house.as_(name) as world:
        seen = await survey.read(world)
    assert seen.unread == []
    assert {kind.resource for kind in seen.objects} > {f"{o[3]}.{o[0]}" for o in OPTIONAL[:4]}


@pytest.mark.parametrize("name", ["supply", "control", "api"])
async def test_databases_of_an_operator_are_listed(house: House, name: str) -> None:
    async with house.as_(name) as world:
        assert await needs._listed(world, needs.POSTGRES) == []


async def test_drift_watches_the_kinds_that_only_some_have(house: House) -> None:
    async with house.as_("control") as world:
        watch = drift._Watch(cast(Any, None), world, cast(Any, None), cast(Any, None))
        kinds = [kind for kind in drift.WATCHED if kind.plural in {o[3] for o in OPTIONAL}]
        assert len(kinds) >= 4
        tasks = [asyncio.create_task(watch._follow(kind)) for kind in kinds]
        try:
            with anyio.fail_after(120):
                while (
                    not {f"cutover-control: watch {k.resource}" for k in kinds if k.resource in _some()} <= house.used()
                ):
                    await anyio.sleep(0.05)
        finally:
            for task in tasks:
                task.cancel()


def _some() -> set[str]:
    return {f"{plural}.{group}" for group, _, _, plural in OPTIONAL}


@pytest.mark.parametrize("name", ["proof", "lifter"])
async def test_whoever_lifts_sees_a_block_by_whichever_means(house: House, name: str) -> None:
    async with house.as_(name) as world:
        assert not await block.standing(world.cluster, Placement.of(world.sovereign))


async def test_the_weaker_means_looks_into_ciliums_definition(house: House) -> None:
    async with house.as_("proof") as world:
        await cilium.DENY.why_not(world.cluster, ())


async def test_sources_with_an_interval_are_asked_to_fetch(house: House) -> None:
    async with house.as_("proof") as world:
        with suppress(Wait, Exception):  # nobody reconciles here
            await forced.sources(world, "t")
        for kind in (HELM_REPOSITORY, OCI_REPOSITORY):
            await world.cluster.request_reconcile(kind, "x", FLUX, "t")


async def test_what_no_git_declares_is_patched_where_it_is_and_read_back(house: House) -> None:
    async with house.as_("pivot") as world:
        for kind, field, place in (
            (HELM_REPOSITORY, "url", FLUX), (OCI_REPOSITORY, "url", FLUX),
            *((kind, "package", "") for kind, _ in PACKAGES),
        ):  # fmt: skip
            change = Change(kind, place, "x", {("spec", field): "oci://harbor.sovereign.test/x"})
            (obj,) = [o for o in await world.cluster.list(kind) if o["metadata"]["name"] == "x"]
            assert await helmrepo_patches._patch_live(world, [(change, obj)]) == 1
            await helmrepo_patches._read_back(world, change)


async def test_packages_and_their_rewriting_are_waited_for(house: House) -> None:
    async with house.as_("pivot") as world:
        for secret in ("one", "two"):  # made, then changed; what rewrites is of a newer Crossplane than this one
            login = {"registry": {"authentication": {"pullSecretRef": {"name": secret}}}}
            assert await packages.configure(world.cluster, [packages._config("xpkg.upbound.io/", login)]) == 1
        for kind, _ in PACKAGES:
            await _watched(world, kind, None)


async def test_catalyst_api_is_read_from_a_config_map_and_patched_when_nobody_declares_it(house: House) -> None:
    async with house.as_("pivot") as world:
        deployment = await catalyst_api_env_patch._deployment(world)
        found = await catalyst_api_env_patch._in(world, deployment["spec"]["template"], "CATALYST_GITOPS_REPO_URL")
        assert found == "u"
        change = Change(DEPLOYMENT, API, "catalyst-api", {("spec", "paused"): True})
        await catalyst_api_env_patch._patch(world, change, deployment)
        await _watched(world, DEPLOYMENT, API, "catalyst-api")


async def test_what_the_first_list_does_not_settle_is_followed(house: House) -> None:
    async with house.as_("pivot") as world:
        for kind in (POD, GIT_REPOSITORY, HELM_CHART, OCI_REPOSITORY, HELM_RELEASE, KUSTOMIZATION):
            await _watched(world, kind, None)


async def _watched(world: World, kind: Kind, namespace: str | None, name: str | None = None) -> None:
    """What is not as it must be when it is listed is followed."""
    with pytest.raises(Wait):
        await world.cluster.wait_all(kind, namespace, lambda _: False, 0.5, name=name)


async def test_every_rare_grant_was_used_here_and_none_was_refused(house: House) -> None:
    """Last: by now everything has happened that this file makes happen."""
    assert sorted(set(RARE) - house.used()) == []
    assert house.kube.api.denied == {}
    assert sorted(set(RARE) - {str(g) for g in grants(house.charter.objects)}) == [], "granted no more"
