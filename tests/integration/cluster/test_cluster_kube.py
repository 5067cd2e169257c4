"""The adapter against an API server that behaves: ownership, preconditions, expiry, grants."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from sandbox.clock import Clock
from sandbox.kube import KubeApi
from workers.adapters.cluster import (
    CONFIG_MAP,
    GIT_REPOSITORY,
    HELM_REPOSITORY,
    NAMESPACE,
    PROVIDER,
    SERVICE_ACCOUNT,
    Cluster,
    Conflict,
    Exists,
    Kind,
)
from workers.errors import Stuck, Wait

ABSENT = Kind("absent.example", "Nothing", "nothings")


@pytest.fixture
async def kube(tmp_path: Path) -> AsyncIterator[KubeApi]:
    """An API server of its own, with the administrator's kubeconfig beside it."""
    async with KubeApi.open(tmp_path / "kube", Clock()) as kube:
        yield kube


@pytest.fixture
async def cluster(kube: KubeApi, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with Cluster.open(
        kubeconfig=kube.kubeconfig(tmp_path / "admin"), field_manager="catalyst-cutover"
    ) as cluster:
        await cluster.create(NAMESPACE, {"metadata": {"name": "n"}})
        yield cluster


def config_map(name: str = "a", **data: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "n"}, "data": data}


def repository(name: str = "bp-x", **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "n"},
        "spec": {"url": "oci://ghcr.io/openova-io", "type": "oci", "interval": "15m", **spec},
    }


async def test_what_is_served_is_told_from_what_is_not(cluster: Cluster) -> None:
    assert await cluster.served(GIT_REPOSITORY)
    assert await cluster.served(PROVIDER)
    assert not await cluster.served(ABSENT)
    assert await cluster.get(HELM_REPOSITORY, "bp-x", "n") is None
    with pytest.raises(Stuck, match="KindNotServed"):
        await cluster.list(ABSENT)


async def test_a_name_is_taken_once_and_deleted_once(cluster: Cluster) -> None:
    await cluster.create(CONFIG_MAP, config_map())
    with pytest.raises(Exists):
        await cluster.create(CONFIG_MAP, config_map())
    assert await cluster.delete(CONFIG_MAP, "a", "n")
    assert not await cluster.delete(CONFIG_MAP, "a", "n")


async def test_a_stale_reader_does_not_overwrite_a_newer_writer(cluster: Cluster) -> None:
    old = await cluster.create(CONFIG_MAP, config_map(k="1"))
    await cluster.patch(CONFIG_MAP, "a", "n", {"data": {"k": "2"}})
    with pytest.raises(Conflict):
        await cluster.replace(CONFIG_MAP, {**old, "data": {"k": "3"}})
    stale = {"metadata": {"resourceVersion": old["metadata"]["resourceVersion"]}, "data": {"k": "3"}}
    with pytest.raises(Conflict):
        await cluster.patch(CONFIG_MAP, "a", "n", stale)
    now = await cluster.get(CONFIG_MAP, "a", "n")
    assert now is not None
    assert now["data"] == {"k": "2"}


async def test_apply_owns_its_fields_under_our_name(kube: KubeApi, cluster: Cluster, tmp_path: Path) -> None:
    admin = kube.kubeconfig(tmp_path / "admin")
    async with Cluster.open(kubeconfig=admin, field_manager="kustomize-controller") as other:
        await other.apply(HELM_REPOSITORY, repository())
        ours = repository(url="oci://harbor.sov.test/openova-io")
        with pytest.raises(Conflict):
            await cluster.apply(HELM_REPOSITORY, ours, force=False)
        written = await cluster.apply(HELM_REPOSITORY, ours)
        owners = {
            entry["manager"] for entry in written["metadata"]["managedFields"] if "f:url" in entry["fieldsV1"]["f:spec"]
        }
        assert owners == {"catalyst-cutover"}
        reverted = await other.apply(HELM_REPOSITORY, repository())
    assert reverted["spec"]["url"] == "oci://ghcr.io/openova-io"


async def test_a_list_over_all_namespaces_comes_with_kind_and_version(cluster: Cluster) -> None:
    await cluster.create(NAMESPACE, {"metadata": {"name": "m"}})
    for namespace in ("n", "m"):
        await cluster.apply(HELM_REPOSITORY, {**repository(), "metadata": {"name": "bp-x", "namespace": namespace}})
    found = await cluster.list(HELM_REPOSITORY)
    assert sorted(obj["metadata"]["namespace"] for obj in found) == ["m", "n"]
    assert {obj["kind"] for obj in found} == {"HelmRepository"}
    assert len(await cluster.list(HELM_REPOSITORY, "m")) == 1


async def test_a_wait_ends_with_the_change_it_waited_for(cluster: Cluster) -> None:
    async with anyio.create_task_group() as group:

        async def later() -> None:
            await anyio.sleep(0.2)
            await cluster.create(CONFIG_MAP, config_map(k="1"))
            await cluster.patch(CONFIG_MAP, "a", "n", {"data": {"k": "2"}})

        group.start_soon(later)
        seen = await cluster.wait(CONFIG_MAP, "a", "n", lambda o: bool(o and o["data"]["k"] == "2"), 10)
    assert seen is not None
    async with anyio.create_task_group() as group:

        async def away() -> None:
            await anyio.sleep(0.2)
            await cluster.delete(CONFIG_MAP, "a", "n")

        group.start_soon(away)
        assert await cluster.wait(CONFIG_MAP, "a", "n", lambda o: o is None, 10) is None
    with pytest.raises(Wait, match=r"ConfigMapTimeout.*does not exist"):
        await cluster.wait(CONFIG_MAP, "a", "n", lambda o: o is not None, 0.3)


async def test_a_request_is_an_annotation_that_flux_reads(cluster: Cluster) -> None:
    await cluster.apply(HELM_REPOSITORY, repository())
    written = await cluster.request_reconcile(HELM_REPOSITORY, "bp-x", "n", "t1")
    assert written["metadata"]["annotations"] == {"reconcile.fluxcd.io/requestedAt": "t1"}


async def test_a_service_account_is_told_which_grant_it_lacks(kube: KubeApi, cluster: Cluster, tmp_path: Path) -> None:
    await cluster.create(SERVICE_ACCOUNT, {"metadata": {"name": "worker", "namespace": "n"}})
    await cluster.apply(HELM_REPOSITORY, repository())
    user = "system:serviceaccount:n:worker"
    async with Cluster.open(kubeconfig=kube.kubeconfig(tmp_path / "worker", user), field_manager="m") as bare:
        with pytest.raises(Stuck, match=f"ApiForbidden.*grant {user} the verb get") as raised:
            await bare.get(HELM_REPOSITORY, "bp-x", "n")
        assert "helmrepositories.source.toolkit.fluxcd.io n/bp-x" in raised.value.message
        with pytest.raises(Stuck, match=r"ApiForbidden.*the verb (list|watch)"):
            await bare.wait(HELM_REPOSITORY, "bp-x", "n", lambda _: True, 5)
