"""Step 3 opens charts: what they name is copied, or told, and never wrongly taken for absent."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox import charts, upstream
from sandbox.catalogue import Chart
from sandbox.images import Publisher
from sandbox.registry import Fault, Wrong
from schemas.progress import Progress
from tests.integration.registry.stage import Stage, pod, release
from workers.errors import Stuck, Wait

PODINFO = "ghcr.io/stefanprodan/podinfo:6.7.1"


def open_chart(stage: Stage, **values: Any) -> None:
    """bp-cilium is a real chart upstream, with these values."""
    chart = Chart("bp-cilium", "1.1.1", "kube-system", values)
    store = stage.site.upstream["ghcr.io"].store
    Publisher(store, "openova-io/bp-cilium").chart("bp-cilium", "1.1.1", charts.archive(chart, {}))


async def test_a_chart_is_opened_once_and_what_it_names_is_copied_with_the_chart_as_reason(stage: Stage) -> None:
    open_chart(stage, image={"registry": "ghcr.io", "repository": "stefanprodan/podinfo", "tag": "6.7.1"})
    upstream.seed(stage.site.upstream, [], [PODINFO], [])
    await stage.projects()
    result = await stage.prewarm()
    assert result.reasons[PODINFO] == ("chart ghcr.io/openova-io/bp-cilium:1.1.1, default value image",)
    assert stage.site.harbor.store.exists("proxy-ghcr/stefanprodan/podinfo")
    seen = [s for s in stage.site.upstream["ghcr.io"].faults.seen if s.status == 200]
    blobs = [s.path for s in seen if "bp-cilium/blobs" in s.path]
    assert len(blobs) == len(set(blobs)) == 2, "config and chart, each once"
    assert any("bp-gitea:1.1.2: not opened, its images are not seen" in n for n in result.notices)
    for registry in stage.site.upstream.values():
        registry.faults.add(Fault(Wrong.STATUS, status=503, times=None))
    again = await stage.prewarm()
    assert (again.changes, again.references) == (0, result.references)


async def test_what_only_a_chart_names_and_nobody_has_is_told_and_no_error(stage: Stage) -> None:
    open_chart(stage, image="ghcr.io/gone/for-good:1")
    await stage.projects()
    result = await stage.prewarm()
    assert "ghcr.io/gone/for-good:1" not in result.references
    [notice] = [n for n in result.notices if "for-good" in n]
    assert "chart ghcr.io/openova-io/bp-cilium:1.1.1" in notice
    assert "nobody is known to use it" in notice
    stage.cluster.objects.append(pod("user", "ghcr.io/gone/for-good:1"))
    with pytest.raises(Stuck, match=r"ReferenceNotFound.*for-good"):
        await stage.prewarm()


async def test_a_chart_that_still_runs_and_is_gone_upstream_is_told_and_no_error(stage: Stage) -> None:
    history = [{"chartVersion": "1.0.0", "status": "deployed"}]
    stage.cluster.objects[4] = {**release("bp-cilium", "1.1.1"), "status": {"history": history}}
    await stage.projects()
    result = await stage.prewarm()
    assert "ghcr.io/openova-io/bp-cilium:1.1.1" in result.references
    assert any("bp-cilium:1.0.0 (live: HelmRelease flux-system/bp-cilium, deployed)" in n for n in result.notices)


@pytest.mark.parametrize(("status", "kind"), [(401, Stuck), (403, Stuck), (429, Wait), (500, Wait)])
async def test_what_only_a_chart_names_is_never_taken_for_absent_when_it_is_refused(
    stage: Stage, status: int, kind: type[Exception]
) -> None:
    open_chart(stage, image=PODINFO)
    for registry in stage.site.upstream.values():
        registry.faults.add(Fault(Wrong.STATUS, path="/podinfo/", status=status, times=None))
    await stage.projects()
    with pytest.raises(kind, match="podinfo"):
        await stage.prewarm()


async def test_what_only_a_chart_names_is_not_absent_because_its_registrys_token_service_is(stage: Stage) -> None:
    named = "quay.io/stefanprodan/podinfo:6.7.1"
    open_chart(stage, image=named)
    upstream.seed(stage.site.upstream, [], [named], [])
    stage.site.upstream["quay.io"].faults.add(Fault(Wrong.STATUS, path="^/token", status=404, times=None))
    await stage.projects()
    with pytest.raises(Wait, match=r"podinfo:6\.7\.1: GET token of quay\.io at .*404"):
        await stage.prewarm()


async def test_what_local_harbor_lost_is_fetched_again_though_something_optional_is_nowhere(stage: Stage) -> None:
    open_chart(stage, image="ghcr.io/gone/for-good:1")
    await stage.projects()
    first = await stage.prewarm()
    store, repository = stage.site.harbor.store, "proxy-ghcr/openova-io/openova/catalyst-api"
    lost = next(m.document["layers"] for m in store.manifests(repository) if m.document.get("layers"))[-1]["digest"]
    assert store.delete_blob(repository, lost)
    again = await stage.prewarm()
    assert store.has_blob(repository, lost)
    assert again.references == first.references


async def test_a_host_without_a_project_that_a_chart_names_is_an_error_that_names_the_chart(stage: Stage) -> None:
    open_chart(stage, image="cgr.dev/chainguard/kubectl:latest-dev")
    await stage.projects()
    with pytest.raises(
        Stuck, match=r"UnmappedHost.*cgr\.dev/chainguard/kubectl:latest-dev \(chart ghcr\.io/.*bp-cilium"
    ):
        await stage.prewarm()
    stage.sovereign = stage.sovereign.model_copy(update={"not_needed": ("cgr.dev/*",)})
    assert any("not_needed" in n for n in (await stage.prewarm()).notices)


async def test_a_project_that_only_a_chart_names_is_made(stage: Stage) -> None:
    image = "harbor.openova.io/proxy-other/a/b:1"
    open_chart(stage, image=image)
    upstream.seed(stage.site.upstream, [], [image], [])
    await stage.projects()
    assert image in (await stage.prewarm()).references
    async with stage.api() as api:
        project = (await api.get("/projects/proxy-other")).json()
    assert (project["metadata"]["public"], project.get("registry_id")) == ("true", None)


async def test_charts_that_cannot_be_had_now_hold_up_nothing_else_and_are_waited_for(stage: Stage) -> None:
    await stage.projects()
    for registry in stage.site.upstream.values():
        registry.faults.add(Fault(Wrong.STATUS, path="/bp-cilium/blobs", status=503, times=None))
    with pytest.raises(Wait, match=r"UpstreamUnavailable.*bp-cilium"):
        await stage.prewarm()
    assert stage.site.harbor.store.exists("proxy-docker/library/nats")


async def test_a_chart_that_came_too_late_to_be_opened_is_no_success(stage: Stage) -> None:
    await stage.projects()
    faults = stage.site.harbor.faults
    away = Fault(Wrong.STATUS, path="/openova-io/bp-cilium/blobs/uploads", status=503, times=None)
    faults.add(away)
    tell = stage.tell

    async def and_then_it_works(progress: Progress) -> None:
        if progress.message == "reading manifests" and away in faults.staged:
            faults.staged.remove(away)
        await tell(progress)

    stage.tell = and_then_it_works  # type: ignore[method-assign]
    with pytest.raises(Wait, match=r"HarborUnavailable.*bp-cilium"):
        await stage.prewarm()
    assert stage.site.harbor.store.exists("openova-io/bp-cilium"), "it is here, and nobody knows what it names"
    assert "ghcr.io/openova-io/bp-cilium:1.1.1" in (await stage.prewarm()).references
