"""Install, upgrade mid-run, rollback, uninstall, install again, by Helm itself: the run goes on, nothing is lost."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import anyio
import pytest
import tls_front
from helm_release import Helm

from events.fold import State, evolve
from events.jetstream import JetStreamLog
from sandbox.blueprint import NAMESPACE, RELEASE
from sandbox.box import Box
from sandbox.catalogue import CUTOVER_IMAGE
from sandbox.crew import Crew
from sandbox.puller import Image
from schemas.events import Requested
from workers.entrypoints import asking
from workers.entrypoints.settings import load

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]
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
    with anyio.fail_after(150):
        async for entry in stream.follow(0):
            state = evolve(state, entry)
            if state.seq <= since or state.run is None or state.run.accepted <= since:
                continue
            if not state.active or state.run.current in wanted:
                return state
    raise AssertionError("the log ended")


async def test_a_run_goes_on_through_all_that_helm_does_and_nothing_of_the_customers_goes(tmp_path: Path) -> None:
    async with Box.open(tmp_path, hold=3.0) as box, tls_front.front(box.kube.port, tmp_path) as port:
        helm = Helm(tls_front.kubeconfig(tmp_path / "helm-kubeconfig", port, box.kube.token()))
        settings, values = load(box.settings_file), beside(box)
        await box.kube.local.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        before = await customers(box)
        await helm.install(values)
        async with JetStreamLog.open(settings.nats) as stream, Crew.at_work(box.settings_file, tmp_path, 1):
            await stream.ensure()
            since = await asking.publish(settings, stream, Requested(operator="alice", reason="test"))
            await until(stream, since, {"harbor-prewarm", "registry-pivot"})
            await helm.upgrade({**values, "workers": {"proof": {"replicas": 1}}})
            await helm.rollback()
            done = await until(stream, since, ())
            assert done.run is not None
            assert done.run.phase == "succeeded", done.run.message
            with anyio.fail_after(60):
                while (await status(box)).get("cutoverComplete") != "true":
                    await anyio.sleep(0.2)
        complete = await status(box)
        await helm.upgrade({**values, "workers": {"supply": {"replicas": 2}}})
        assert await status(box) == complete
        await helm.uninstall()
        assert await status(box) == complete
        assert before - await customers(box) == set()
        await helm.install(values)
        assert await status(box) == complete
