"""Helm's whole life of a release on an API server, the sandbox's and a real one: nothing of anybody else's changes."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import helm_python
import pytest
import tls_front
import yaml
from chart_matrix import EMBEDDED
from helm_release import Helm

from sandbox.blueprint import NEEDED, merged, render
from sandbox.clock import Clock
from sandbox.kube import KubeApi

Object = dict[str, Any]
KUBECTL = Path(sys.executable).parent / "kubectl"
SYSTEMS = ("flux-system", "crossplane-system", "catalyst-system")
KINDS = "configmaps,secrets,serviceaccounts,services,deployments,daemonsets,statefulsets,persistentvolumeclaims,"
KINDS += "roles,rolebindings,clusterroles,clusterrolebindings,networkpolicies,poddisruptionbudgets,namespaces"
Key = tuple[str, str, str]


@dataclass
class Ground:
    """An API server, and a corner of it that no other test has."""

    kubeconfig: str
    corner: str
    shared: bool = False
    """Others are at work on this server too, with objects of their own."""

    @property
    def nodes(self) -> str:
        return f"{self.corner}-nodes"

    def values(self, more: Object | None = None) -> Object:
        nodes = {"sovereign": {"nodes": {"namespace": self.nodes}}}
        own = {"prefix": self.corner, "settings": nodes, "network": {"policies": "kubernetes"}}
        return merged(merged(own, EMBEDDED), more or {})

    async def kubectl(self, *arguments: str, text: str = "", check: bool = True) -> str:
        process = await asyncio.create_subprocess_exec(
            str(KUBECTL), "--kubeconfig", self.kubeconfig, *arguments,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate(text.encode())
        assert process.returncode == 0 or not check, err.decode()
        return out.decode()

    async def make(self, *objects: Object) -> None:
        await self.kubectl("create", "--filename", "-", text=yaml.safe_dump_all(objects))

    async def objects(self) -> dict[Key, Object]:
        """(kind, namespace, name) -> object, of every kind that the chart has, as far as they are no other test's."""
        found = json.loads(await self.kubectl("get", KINDS, "--all-namespaces", "--output", "json"))["items"]
        every = {(o["kind"], o["metadata"].get("namespace", ""), o["metadata"]["name"]): o for o in found}
        places = {self.corner, self.nodes}
        return {key: o for key, o in every.items() if not self.shared or key[1] in places or self.corner in key[2]}

    async def namespaces(self) -> set[str]:
        found = json.loads(await self.kubectl("get", "namespaces", "--output", "json"))["items"]
        return {each["metadata"]["name"] for each in found}


@pytest.fixture(params=["sandbox", "real"])
async def ground(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ground]:
    if not KUBECTL.exists():
        pytest.skip("no kubectl in this environment")
    corner = f"cutover-{secrets.token_hex(3)}"
    if request.param == "sandbox":
        async with KubeApi.open(tmp_path / "kube", Clock()) as kube, tls_front.front(kube.port, tmp_path) as port:
            config = tls_front.kubeconfig(tmp_path / "kubeconfig", port, kube.token())
            yield Ground(str(config), corner)
    elif named := os.environ.get("KUBECONFIG"):
        yield Ground(named, corner, shared=True)
    else:
        pytest.skip("KUBECONFIG names no API server")


def named(kind: str, namespace: str, name: str, **more: Any) -> Object:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": namespace}, **more}


def others(corner: str) -> list[Object]:
    """What the workers and the customer have: the picture, the signing key, logins, the broker's log."""
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "4Gi"}}}
    return [
        named("ConfigMap", "flux-system", f"{corner}-status", data={"cutoverComplete": "true"}),
        named("Secret", "flux-system", f"{corner}-certificate-key", stringData={"key": "x"}),
        named("Secret", corner, "cutover-gitea", stringData={"token": "x"}),
        named("ConfigMap", corner, "the-customers-own", data={"a": "b"}),
        named("PersistentVolumeClaim", corner, f"data-{corner}-nats-0", spec=claim),
    ]


def content(found: dict[Key, Object], keys: set[Key]) -> dict[Key, Object]:
    return {key: {k: v for k, v in found[key].items() if k != "metadata"} for key in keys}


async def test_install_upgrade_rollback_uninstall_and_install_again(ground: Ground) -> None:
    corner, helm = ground.corner, Helm(ground.kubeconfig, ground.corner)
    there = await ground.namespaces()
    for name in {corner, *SYSTEMS, "kube-system"} - there:
        await ground.kubectl("create", "namespace", name, check=False)  # another test may make it at the same time
    await ground.make(*others(corner))
    before = await ground.objects()

    await helm.install(ground.values())
    ours = {
        (o["kind"], o["metadata"].get("namespace", ""), o["metadata"]["name"])
        for o in render(ground.values(), namespace=corner)
    }
    installed = await ground.objects()
    assert ours <= set(installed)
    kept = {key for key in installed if key[0] == "Secret" and key[2].startswith("sh.helm.release.v1.cutover.")}
    made = {("ConfigMap", ground.nodes, "kube-root-ca.crt"), ("ServiceAccount", ground.nodes, "default")}
    assert set(installed) - set(before) - made == ours | kept  # those come with every namespace
    # What the workers write into the chart's own namespace for the nodes.
    await ground.make(named("ConfigMap", ground.nodes, "cutover-node-plan", data={"plan.json": "{}"}))
    plan = ("ConfigMap", ground.nodes, "cutover-node-plan")

    deployment = ("Deployment", corner, f"{corner}-proof")
    assert installed[deployment]["spec"]["replicas"] == 2
    await helm.upgrade(ground.values({"workers": {"proof": {"replicas": 1}}}))
    assert (await ground.objects())[deployment]["spec"]["replicas"] == 1
    await helm.rollback()
    assert (await ground.objects())[deployment]["spec"]["replicas"] == 2
    assert [each["status"] for each in await helm.history()] == ["superseded", "superseded", "deployed"]

    await helm.uninstall()
    left = await ground.objects()
    lifter = {key for key in ours if "lifter" in key[2]}
    assert {kind for kind, *_ in lifter} == {
        "ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"
    }  # fmt: skip
    assert set(left) & ours == {("Namespace", "", ground.nodes), *lifter}, (
        "a Job beside a block must be able to lift it"
    )
    assert plan in left
    assert content(left, set(before)) == content(before, set(before))

    with pytest.raises(helm_python.HelmError, match=r"not found"):
        await helm.history()
    await helm.install(ground.values())
    again = await ground.objects()
    assert ours <= set(again)
    assert content(again, {*before, plan}) == content({**before, plan: left[plan]}, {*before, plan})
    await helm.uninstall()
    await ground.kubectl("delete", "namespace", corner, ground.nodes, "--wait=false")
    for kind, namespace, name in lifter:
        if not namespace:
            await ground.kubectl("delete", kind, name)
    for obj in others(corner):
        await ground.kubectl("delete", obj["kind"], obj["metadata"]["name"], "--namespace", "flux-system", check=False)


async def test_wrong_values_leave_no_release_behind(ground: Ground) -> None:
    corner, helm = ground.corner, Helm(ground.kubeconfig, ground.corner)
    await ground.kubectl("create", "namespace", corner)
    with pytest.raises(helm_python.HelmError) as refusal:
        await helm.install(merged(ground.values(), {"image": {"digest": "latest"}}))
    assert "/image/digest" in str(refusal.value)
    assert not [key for key in await ground.objects() if key[1] == corner and key[2].startswith("sh.helm")]
    assert NEEDED["image"]["digest"] not in str(refusal.value)
    await ground.kubectl("delete", "namespace", corner, "--wait=false")
