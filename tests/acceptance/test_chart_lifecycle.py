"""Install, upgrade mid-run, rollback, uninstall, install again, by Helm itself: the run goes on, nothing is lost."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import anyio
import pytest
import tls_front
from helm_release import Helm

from events.fold import State, evolve
from events.jetstream import JetStreamLog
from sandbox.blueprint import NAMESPACE, RELEASE, merged
from sandbox.box import Box
from sandbox.catalogue import CUTOVER_IMAGE
from sandbox.controllers.api import PODS
from sandbox.crew import Crew
from sandbox.puller import Image
from schemas.events import Requested
from workers.entrypoints import asking
from workers.entrypoints.classes import CLASSES
from workers.entrypoints.settings import load

pytestmark = [pytest.mark.timeout(600)]
Object = dict[str, Any]
STATUS = "/api/v1/namespaces/flux-system/configmaps/self-sovereign-cutover-status"
CUSTOMERS = ("configmaps", "secrets", "pods", "namespaces", "serviceaccounts")


def beside(box: Box) -> Object:
    """Values for a release beside the stand-in that the box's own Git installs, with an image that can be pulled."""
    image = Image.parse(CUTOVER_IMAGE)
    digest = box.registries[image.host].store.tags(image.repository)[image.reference]
    return {
        "prefix": "real",
        "image": {"digest": digest},
        "settings": {"sovereign": {"nodes": {"namespace": "real-cutover-nodes"}}},
    }


async def customers(box: Box) -> set[tuple[str, str, str]]:
    """What is not of this chart: (kind, namespace, name)."""
    found = set()
    for kind in CUSTOMERS:
        _, answer = await box.kube.local.request("GET", f"/api/v1/{kind}")
        found |= {(kind, *_key(obj)) for obj in answer["items"] if not _ours(obj) and kind != "pods"}
    for path in ("source.toolkit.fluxcd.io/v1/helmrepositories", "helm.toolkit.fluxcd.io/v2/helmreleases"):
        _, answer = await box.kube.local.request("GET", f"/apis/{path}")
        found |= {(path, *_key(obj)) for obj in answer["items"]}
    return found


def _key(obj: Object) -> tuple[str, str]:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _ours(obj: Object) -> bool:
    return bool((obj["metadata"].get("annotations") or {}).get("meta.helm.sh/release-name") == RELEASE)


async def status(box: Box) -> Object:
    _, answer = await box.kube.local.request("GET", STATUS)
    found: Object = answer.get("data") or {}
    return found


async def until(stream: JetStreamLog, since: int, over: Iterable[str]) -> State:
    """The state once the run that began after `since` has reached one of these steps, or ended."""
    state, wanted = State(), set(over)
    with anyio.fail_after(240):
        async for entry in stream.follow(0):
            state = evolve(state, entry)
            if state.seq <= since or state.run is None or state.run.accepted <= since:
                continue
            if not state.active or state.run.current in wanted:
                return state
    raise AssertionError("the log ended")


class Pods:
    """What a node would run: a process for each worker's Pod of the release, asked to stop when its Pod goes."""

    def __init__(self, box: Box, crew: Crew) -> None:
        self._box, self._crew = box, crew
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self.began: list[str] = []
        """Class of each process, in order."""

    async def follow(self) -> None:
        while True:
            wanted = self._wanted()
            for uid in self._running.keys() - wanted.keys():
                process = self._running.pop(uid)
                if process.returncode is None:
                    process.send_signal(signal.SIGTERM)
            for uid in wanted.keys() - self._running.keys():
                self._running[uid] = await self._crew.hire("--class", wanted[uid])
                self.began.append(wanted[uid])
            await anyio.sleep(0.1)

    def _wanted(self) -> dict[str, str]:
        found = {}
        for pod in self._box.mirrors[PODS]:
            meta = pod["metadata"]
            name = (meta.get("labels") or {}).get("app.kubernetes.io/component")
            running = (pod.get("status") or {}).get("phase") == "Running" and "deletionTimestamp" not in meta
            if meta["namespace"] == NAMESPACE and name in CLASSES and running:
                found[str(meta["uid"])] = str(name)
        return found

    async def until(self, count: int) -> None:
        """Once so many processes run."""
        with anyio.fail_after(90):
            while sum(p.returncode is None for p in self._running.values()) != count:
                await anyio.sleep(0.1)


ONE_EACH: Object = {"workers": {name: {"replicas": 1} for name in CLASSES}}
ANOTHER: Object = {"settings": {"log_level": "DEBUG"}}
"""A value that every process is told: all Pods are made anew."""


async def test_a_run_goes_on_through_all_that_helm_does_and_nothing_of_the_customers_goes(tmp_path: Path) -> None:
    async with (
        Box.open(tmp_path, hold=3.0) as box,
        tls_front.front(box.kube.port, tmp_path) as port,
        Crew.at_work(box.settings_file, tmp_path, 0) as crew,
        JetStreamLog.open(load(box.settings_file).nats) as stream,
        anyio.create_task_group() as tasks,
    ):
        helm = Helm(tls_front.kubeconfig(tmp_path / "helm-kubeconfig", port, box.kube.token()))
        settings, values, pods = load(box.settings_file), merged(beside(box), ONE_EACH), Pods(box, crew)
        tasks.start_soon(pods.follow)
        await box.kube.local.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        before = await customers(box)
        await helm.install(values)
        await pods.until(len(CLASSES))
        await stream.await_ensured(lambda _: None)
        since = await asking.publish(settings, stream, Requested(operator="alice", reason="test"))
        await until(stream, since, {"harbor-prewarm", "registry-pivot"})
        await helm.upgrade(merged(values, ANOTHER))
        await until(stream, since, {"helmrepo-patches", "catalyst-api-env-patch", "egress-block-test"})
        await helm.rollback()
        done = await until(stream, since, ())
        assert done.run is not None
        assert done.run.phase == "succeeded", done.run.message
        with anyio.fail_after(60):
            while (await status(box)).get("cutoverComplete") != "true":
                await anyio.sleep(0.2)
        # Each class dies twice and comes back: the run was none of these processes'.
        with anyio.fail_after(90):
            while min(pods.began.count(name) for name in CLASSES) < 3:
                await anyio.sleep(0.2)
        complete = await status(box)
        await helm.uninstall()
        await pods.until(0)
        assert await status(box) == complete
        assert before - await customers(box) == set()
        await helm.install(values)
        await pods.until(len(CLASSES))
        assert await status(box) == complete
        tasks.cancel_scope.cancel()
