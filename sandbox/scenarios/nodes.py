"""Named scenarios of the nodes, step 4: who is late, silent, broken or new, and the honest verdict."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sandbox import seed
from sandbox.catalogue import HARBOR_HOST
from sandbox.controllers.api import CONFIG_MAPS, DEPLOYMENTS, NAMESPACES, NODES, PODS, SECRETS
from sandbox.controllers.oci import Credentials
from sandbox.description import GHCR_USER, PULL_LOGIN
from sandbox.nodes import provision
from sandbox.scenarios.scenario import Scenario, until

if TYPE_CHECKING:
    from sandbox.box import Box

STEP = "registry-pivot"
LATE = "worker-2"
"""Not the one that goes first."""
NEWCOMER = "worker-3"
LAG = 2.0  # seconds after its turn
PLACE = ("cutover-node-plan", "catalyst-cutover-nodes")
SHOP = ("shop", "tenant-acme")
SHOP_SECRET = "ghcr-pull-secret"
SHOP_IMAGE = "ghcr.io/kyverno/kyverno:v1.13.2"
"""Runs elsewhere too, so it is copied; here it is pulled with the vendor's login."""


async def turn(box: Box) -> dict[str, Any]:
    """Whose turn it is by now; empty before the plan is there."""
    found = await box.api.get(CONFIG_MAPS, *PLACE)
    text = ((found or {}).get("data") or {}).get("turn.json")
    return dict(json.loads(text)) if text else {}


async def _comes(box: Box, wanted: Callable[[dict[str, Any]], bool]) -> None:
    while not wanted(await turn(box)):
        await asyncio.sleep(0.05)


async def _sleeps(box: Box) -> None:
    box.kubelets.silence(LATE)


async def _wakes(box: Box) -> None:
    box.kubelets.wake(LATE)


async def _wakes_late(box: Box) -> None:
    """The others have answered by then, and the step says who has not."""
    await _comes(box, lambda t: bool(t.get("everyone")))
    await asyncio.sleep(LAG)
    box.kubelets.wake(LATE)


def _soon(settings: dict[str, Any]) -> None:
    settings["sovereign"]["nodes"]["timeout"] = 8.0


async def _broken(box: Box) -> None:
    """By hand or by a tool: one file is no TOML, one has no host table. containerd only logs, and goes upstream."""
    for node, host, text in (
        (LATE, "ghcr.io", "server = https://harbor.openova.io\n"),
        ("cp-1", "docker.io", 'server = "https://harbor.openova.io"\n'),
        (LATE, "registry.acme.test", "not toml ["),
    ):
        folder = box.node(node).containerd.certs / host
        folder.mkdir(exist_ok=True)
        (folder / "hosts.toml").write_text(text, encoding="utf-8")


async def _falls_back(box: Box) -> None:
    box.kubelets.puller(LATE).falls_back = True


async def _obeys(box: Box) -> None:
    box.kubelets.puller(LATE).falls_back = False


async def joins(box: Box) -> None:
    """The autoscaler's new node, with cloud-init's files of the first day."""
    node = provision(box.directory / "nodes", (*(n.name for n in box.nodes), NEWCOMER))[-1]
    box.nodes.append(node)
    await box.kubelets.join(node)


async def _joins_meanwhile(box: Box) -> None:
    await _comes(box, lambda t: bool(t.get("nodes")))
    await joins(box)


async def leaves(box: Box) -> None:
    """It is scaled down again."""
    await box.api.delete(NODES, NEWCOMER)
    await until(lambda: not any(p["spec"].get("nodeName") == NEWCOMER for p in box.mirrors[PODS]))
    box.nodes[:] = [n for n in box.nodes if n.name != NEWCOMER]


async def _opens_shop(box: Box) -> None:
    """A tenant runs one of the vendor's images with a copy of the vendor's pull secret."""
    name, namespace = SHOP
    login = {"ghcr.io": Credentials(GHCR_USER, box.keyring.get(PULL_LOGIN))}
    await box.api.apply(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}, name)
    await box.api.apply(SECRETS, seed.pull_secret(SHOP_SECRET, namespace, login), name)
    workload = seed.deployment(name, namespace, SHOP_IMAGE)
    spec = workload["spec"]["template"]["spec"]
    spec["imagePullSecrets"] = [{"name": SHOP_SECRET}]
    spec["containers"][0]["imagePullPolicy"] = "Always"
    await box.api.apply(DEPLOYMENTS, workload, name)
    await until(lambda: len(running(box)) == 1)


def running(box: Box) -> set[str]:
    """Uids of the shop's Pods that run."""
    return {
        str(p["metadata"]["uid"])
        for p in box.mirrors[PODS]
        if p["metadata"]["namespace"] == SHOP[1] and (p.get("status") or {}).get("phase") == "Running"
    }


async def _rolls_shop(box: Box) -> None:
    """Once every node is pivoted its Pod is replaced: the new one pulls with that secret, from local Harbor."""
    files = [n.containerd.certs / "ghcr.io/hosts.toml" for n in box.nodes]
    await until(lambda: all(HARBOR_HOST in f.read_text(encoding="utf-8") for f in files), 60)
    before = running(box)
    for pod in [p for p in box.mirrors[PODS] if p["metadata"]["namespace"] == SHOP[1]]:
        await box.api.delete(PODS, pod["metadata"]["name"], SHOP[1])
    await until(lambda: bool(running(box) - before), 60)


async def _closes_shop(box: Box) -> None:
    await box.api.delete(DEPLOYMENTS, *SHOP)
    await box.api.delete(SECRETS, SHOP_SECRET, SHOP[1])
    await until(lambda: not any(p["metadata"]["namespace"] == SHOP[1] for p in box.mirrors[PODS]))


SCENARIOS: dict[str, Scenario] = {
    "node-lags": Scenario(
        f"{LATE} is late, and answers", "", _sleeps, during=_wakes_late, heal=_wakes, step=STEP),
    "node-never-answers": Scenario(
        f"the agent of {LATE} is silent", "NodesSilent", _sleeps, heal=_wakes, described=_soon, step=STEP),
    "hosts-toml-broken": Scenario(
        "files that containerd ignores lie on two nodes; the agents write them anew", "", _broken, step=STEP),
    "silent-fallback": Scenario(
        f"containerd on {LATE} goes to the original registry in spite of its files", "PullsStillUpstream",
        _falls_back, heal=_obeys, step=STEP),
    "new-node-joins": Scenario(
        f"{NEWCOMER} joins while the first node is pivoted, with the files of the first day", "",
        during=_joins_meanwhile, heal=leaves, step=STEP),
    "ghcr-pull-secret-refused": Scenario(
        "a tenant pulls with the vendor's login, which local Harbor refuses; its entry is replaced", "",
        _opens_shop, during=_rolls_shop, heal=_closes_shop, step=STEP),
}  # fmt: skip
"""Name -> scenario."""
