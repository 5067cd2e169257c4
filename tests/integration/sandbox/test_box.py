from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from sandbox.box import Box
from sandbox.catalogue import CHARTS, FQDN
from sandbox.controllers import api as kinds
from sandbox.controllers.api import Object, Resource
from sandbox.controllers.conditions import REQUESTED_AT, find, is_true
from sandbox.controllers.workloads import settled
from sandbox.nodes import NAMES

pytestmark = pytest.mark.asyncio(loop_scope="module")
FLUX = "flux-system"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def box(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Box]:
    async with Box.open(tmp_path_factory.mktemp("sovereign"), interval=2.0) as opened:
        yield opened


async def until(
    box: Box, resource: Resource, name: str, holds: Callable[[Object], bool], namespace: str = FLUX, limit: float = 60
) -> Object:
    """The object once it is as wanted; an AssertionError with its last state when it never was."""
    deadline = time.monotonic() + limit
    last: Object | None = None
    while time.monotonic() < deadline:
        last = await box.api.get(resource, name, namespace if resource.namespaced else "")
        if last is not None and holds(last):
            return last
        await asyncio.sleep(0.05)
    raise AssertionError(f"{resource.kind} {name} never was as wanted: {last}")


async def patch(box: Box, resource: Resource, name: str, body: Object, namespace: str = FLUX) -> Object:
    found = await box.api.get(resource, name, namespace)
    assert found is not None
    patched = await box.api.merge(resource, found, body, "someone")
    assert patched is not None
    return patched


def asks(token: str) -> Object:
    return {"metadata": {"annotations": {REQUESTED_AT: token}}}


def handled(token: str) -> Callable[[Object], bool]:
    return lambda o: bool((o.get("status") or {}).get("lastHandledReconcileAt") == token)


async def test_an_open_box_has_settled(box: Box) -> None:
    releases, _ = await box.api.list(kinds.HELM_RELEASES)
    assert {r["metadata"]["name"] for r in releases} == {c.name for c in CHARTS}
    assert all(is_true(r) for r in releases)
    deployments, _ = await box.api.list(kinds.DEPLOYMENTS)
    assert all(settled(d) for d in deployments)
    source = await box.api.get(kinds.GIT_REPOSITORIES, "openova", FLUX)
    assert source is not None
    for name in ("bootstrap-kit", "infrastructure-config"):
        applied = await until(box, kinds.KUSTOMIZATIONS, name, is_true)
        assert applied["status"]["lastAppliedRevision"] == source["status"]["artifact"]["revision"]
    namespace = await box.api.get(kinds.NAMESPACES, "gitea")
    assert namespace is not None
    assert FQDN in namespace["metadata"]["labels"].values()


async def test_catalyst_api_runs_and_names_the_mothership(box: Box) -> None:
    pods, _ = await box.api.list(kinds.PODS, "catalyst-system")
    [pod] = [p for p in pods if p["metadata"]["labels"].get("app") == "catalyst-api"]
    assert pod["status"]["phase"] == "Running"
    env = {e["name"]: e.get("value") for e in pod["spec"]["containers"][0]["env"]}
    assert env["CATALYST_GITOPS_REPO_URL"] == "https://github.com/openova-io/openova"


async def test_every_node_runs_an_agent(box: Box) -> None:
    pods, _ = await box.api.list(kinds.PODS, "catalyst-cutover-nodes")
    agents = [p for p in pods if p["metadata"]["labels"].get("app") == "cutover-node-agent"]
    assert sorted(p["spec"]["nodeName"] for p in agents) == sorted(NAMES)


async def test_a_live_patch_of_what_git_holds_is_reverted(box: Box) -> None:
    patched = await patch(box, kinds.HELM_REPOSITORIES, "bp-gitea", {"spec": {"url": "oci://elsewhere.test/x"}})
    assert patched["spec"]["url"] == "oci://elsewhere.test/x"
    await until(
        box, kinds.HELM_REPOSITORIES, "bp-gitea", lambda o: bool(o["spec"]["url"] == "oci://ghcr.io/openova-io")
    )


async def test_a_field_that_git_does_not_hold_survives(box: Box) -> None:
    await patch(box, kinds.HELM_REPOSITORIES, "bp-loki", {"spec": {"suspend": True}})
    before = await box.api.get(kinds.KUSTOMIZATIONS, "bootstrap-kit", FLUX)
    assert before is not None
    await patch(box, kinds.KUSTOMIZATIONS, "bootstrap-kit", asks("survives"))
    await until(box, kinds.KUSTOMIZATIONS, "bootstrap-kit", handled("survives"))
    after = await box.api.get(kinds.HELM_REPOSITORIES, "bp-loki", FLUX)
    assert after is not None
    assert after["spec"]["suspend"] is True
    await patch(box, kinds.HELM_REPOSITORIES, "bp-loki", {"spec": {"suspend": None}})


async def test_an_oci_repository_has_no_status_and_answers_no_request(box: Box) -> None:
    await patch(box, kinds.HELM_REPOSITORIES, "bp-mimir", asks("nobody listens"))
    await asyncio.sleep(0.5)
    found = await box.api.get(kinds.HELM_REPOSITORIES, "bp-mimir", FLUX)
    assert found is not None
    assert not found.get("status")


async def test_a_request_to_a_suspended_source_is_acknowledged_and_nothing_is_fetched(box: Box) -> None:
    await patch(box, kinds.GIT_REPOSITORIES, "openova", {"spec": {"suspend": True}})
    before = await until(
        box,
        kinds.GIT_REPOSITORIES,
        "openova",
        lambda o: bool(o["status"]["observedGeneration"] == o["metadata"]["generation"]),
    )
    box.sources.refuse(True)
    try:
        await patch(box, kinds.GIT_REPOSITORIES, "openova", asks("while suspended"))
        after = await until(box, kinds.GIT_REPOSITORIES, "openova", handled("while suspended"))
        assert after["status"]["artifact"] == before["status"]["artifact"]
        assert is_true(after)
    finally:
        box.sources.refuse(False)
        await patch(box, kinds.GIT_REPOSITORIES, "openova", {"spec": {"suspend": None}})


async def test_a_source_that_cannot_be_fetched_says_so_and_keeps_its_artifact(box: Box) -> None:
    box.sources.refuse(True)
    try:
        await patch(box, kinds.GIT_REPOSITORIES, "openova", asks("while refused"))
        failed = await until(
            box,
            kinds.GIT_REPOSITORIES,
            "openova",
            lambda o: handled("while refused")(o) and find(o, "FetchFailed") is not None,
        )
        assert failed["status"]["artifact"]["revision"].startswith("main@sha1:")
        assert failed["status"]["conditions"][0]["status"] == "False"
    finally:
        box.sources.refuse(False)
    await until(box, kinds.GIT_REPOSITORIES, "openova", is_true)


def fetched_since(then: str, chart: Object) -> bool:
    return bool(chart["status"].get("artifact", {}).get("lastUpdateTime", "") > then)


def chart_requests(box: Box, name: str) -> int:
    return box.registries["ghcr.io"].faults.count(path=f"/v2/openova-io/{name}")


async def test_a_pinned_chart_is_asked_for_again_only_when_it_was_deleted(box: Box) -> None:
    name = f"{FLUX}-bp-tempo"
    asked = chart_requests(box, "bp-tempo/")
    await patch(box, kinds.HELM_CHARTS, name, asks("from the cache"))
    before = await until(box, kinds.HELM_CHARTS, name, handled("from the cache"))
    assert chart_requests(box, "bp-tempo/") == asked
    await box.api.delete(kinds.HELM_CHARTS, name, FLUX)
    await patch(box, kinds.HELM_RELEASES, "bp-tempo", asks("afresh"))
    after = await until(box, kinds.HELM_CHARTS, name, is_true)
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    assert after["status"]["artifact"]["digest"] == before["status"]["artifact"]["digest"]
    assert chart_requests(box, "bp-tempo/") > asked
    release = await until(box, kinds.HELM_RELEASES, "bp-tempo", lambda o: handled("afresh")(o) and is_true(o))
    assert len(release["status"]["history"]) == 1


async def test_a_secret_without_the_new_host_stops_the_chart(box: Box) -> None:
    await patch(box, kinds.KUSTOMIZATIONS, "bootstrap-kit", {"spec": {"suspend": True}})
    try:
        await patch(
            box, kinds.HELM_REPOSITORIES, "bp-alloy", {"spec": {"url": "oci://harbor.sovereign.test/openova-io"}}
        )
        await box.api.delete(kinds.HELM_CHARTS, f"{FLUX}-bp-alloy", FLUX)
        await patch(box, kinds.HELM_RELEASES, "bp-alloy", asks("new host"))
        chart = await until(box, kinds.HELM_CHARTS, f"{FLUX}-bp-alloy", lambda o: find(o, "FetchFailed") is not None)
        failed = find(chart, "FetchFailed")
        assert failed is not None
        assert failed["reason"] == "AuthenticationFailed"
        assert "no auth config for 'harbor.sovereign.test'" in failed["message"]
        release = await until(box, kinds.HELM_RELEASES, "bp-alloy", handled("new host"))
        ready = find(release, "Ready")
        assert ready is not None
        assert ready["reason"] == "SourceNotReady"
    finally:
        await patch(box, kinds.KUSTOMIZATIONS, "bootstrap-kit", {"spec": {"suspend": None}})
    await until(box, kinds.HELM_RELEASES, "bp-alloy", is_true)


async def test_a_new_pod_of_source_controller_begins_with_an_empty_disk(box: Box) -> None:
    def times(charts: list[Object]) -> dict[str, str]:
        return {c["metadata"]["name"]: c["status"]["artifact"]["lastUpdateTime"] for c in charts}

    charts, _ = await box.api.list(kinds.HELM_CHARTS)
    before, asked = times(charts), chart_requests(box, "bp-")
    pods, _ = await box.api.list(kinds.PODS, FLUX)
    [pod] = [p for p in pods if p["metadata"]["labels"].get("app") == "source-controller"]
    await asyncio.sleep(1.1)
    await box.api.delete(kinds.PODS, pod["metadata"]["name"], FLUX)
    for name, then in before.items():
        await until(box, kinds.HELM_CHARTS, name, partial(fetched_since, then))
    assert chart_requests(box, "bp-") > asked + len(before)


async def test_a_changed_template_rolls_the_pods(box: Box) -> None:
    def app(pods: list[Object]) -> dict[str, Any]:
        return {p["metadata"]["name"]: p for p in pods if p["metadata"]["labels"].get("app") == "grafana"}

    pods, _ = await box.api.list(kinds.PODS, "grafana")
    [old] = app(pods)
    body = {"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}}}}
    patched = await patch(box, kinds.DEPLOYMENTS, "grafana", body, "grafana")
    generation = patched["metadata"]["generation"]
    rolled = await until(
        box,
        kinds.DEPLOYMENTS,
        "grafana",
        lambda o: bool(o["status"]["observedGeneration"] >= generation) and settled(o),
        "grafana",
    )
    pods, _ = await box.api.list(kinds.PODS, "grafana")
    [new] = app(pods)
    assert new != old
    owners = app(pods)[new]["metadata"]["ownerReferences"]
    assert owners[0]["kind"] == "ReplicaSet"
    assert rolled["status"]["updatedReplicas"] == 1


async def test_a_provider_is_pulled_once_and_runs_its_package(box: Box) -> None:
    provider = await until(box, kinds.PROVIDERS, "provider-hcloud", lambda o: is_true(o, "Healthy"))
    assert provider["status"]["currentIdentifier"] == provider["spec"]["package"]
    deployment = await until(box, kinds.DEPLOYMENTS, "provider-hcloud", settled, "crossplane-system")
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == provider["spec"]["package"]


async def test_a_job_runs_to_completion(box: Box) -> None:
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "once", "namespace": "default"},
        "spec": {
            "template": {
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [{"name": "once", "image": "docker.io/library/postgres:16.6"}],
                }
            }
        },
    }
    await box.api.create(kinds.JOBS, job, "test")
    done = await until(box, kinds.JOBS, "once", lambda o: find(o, "Complete") is not None, "default")
    assert done["status"]["succeeded"] == 1


async def test_no_secret_stands_in_the_settings_or_the_log(box: Box) -> None:
    written = box.settings_file.read_text() + (box.directory / "sandbox.log").read_text()
    files = list((box.directory / "secrets").iterdir())
    assert len(files) >= 3
    for file in files:
        assert file.read_text().strip() not in written
        assert file.stat().st_mode & 0o077 == 0


async def test_nothing_is_lost_when_a_box_is_closed_and_opened_again(tmp_path: Path) -> None:
    async with Box.open(tmp_path) as first:
        charts, _ = await first.api.list(kinds.HELM_CHARTS)
        before = {c["metadata"]["uid"]: c["status"]["artifact"] for c in charts}
        secret = first.keyring.get("harbor-admin")
        began = time.monotonic()
    assert time.monotonic() - began < 30
    async with Box.open(tmp_path) as again:
        charts, _ = await again.api.list(kinds.HELM_CHARTS)
        assert {c["metadata"]["uid"]: c["status"]["artifact"] for c in charts} == before
        assert chart_requests(again, "bp-") == 0
        assert again.keyring.get("harbor-admin") == secret
