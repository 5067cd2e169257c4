"""Step 3 against the sandbox's Harbor and upstreams: everything that is needed, once, proven, and why."""

from __future__ import annotations

import pytest

from sandbox import upstream
from sandbox.harbor import Harbor
from sandbox.registry import Fault, Wrong
from tests.integration.registry.stage import (
    API,
    NATS,
    NEGATIVE,
    NEW_API,
    OURS,
    PACKAGE,
    PASSWORD,
    PAUSE,
    TREE,
    Stage,
    as_proxy,
    pod,
    prewarmed,
    provider,
    source,
)
from workers.errors import Stuck, Wait


async def test_everything_the_cluster_needs_is_in_harbor_with_the_upstream_digest_and_why(stage: Stage) -> None:
    await stage.projects()
    result = await stage.prewarm()
    held = {
        API: ("ghcr.io", "proxy-ghcr/openova-io/openova/catalyst-api"),
        NEW_API: ("harbor.openova.io", "proxy-dockerhub/calciumion/new-api"),
        NATS: ("docker.io", "proxy-docker/library/nats"),
        PACKAGE: ("xpkg.upbound.io", "proxy-xpkg/crossplane-contrib/provider-hcloud"),
        "ghcr.io/openova-io/bp-cilium:1.1.1": ("ghcr.io", "openova-io/bp-cilium"),
        "ghcr.io/openova-io/bp-gitea:1.1.2": ("ghcr.io", "openova-io/bp-gitea"),
        OURS: ("ghcr.io", "proxy-ghcr/openova-io/catalyst-cutover"),
        PAUSE: ("docker.io", "proxy-docker/rancher/mirrored-pause"),
    }
    spelled = {NATS: "nats:2.10.22-alpine"}
    for reference, (host, local) in held.items():
        _, repository, tag = upstream.place(reference)
        digest = stage.site.upstream[host].store.tags(repository)[tag]
        assert stage.site.harbor.store.tags(local)[tag] == digest
        assert result.references[spelled.get(reference, reference)] == digest
    assert result.reasons[API] == ("live: Pod apps/api",)
    assert result.reasons["ghcr.io/openova-io/bp-gitea:1.1.2"] == ("Git: HelmRelease flux-system/bp-gitea",)
    assert result.artifacts == result.changes == len(held)
    assert result.bytes_moved > 0


async def test_what_must_exist_only_upstream_is_never_copied(stage: Stage) -> None:
    stage.cluster.objects.append(pod("negative", NEGATIVE))
    await stage.projects()
    result = await stage.prewarm()
    assert NEGATIVE not in result.references
    assert not stage.site.harbor.store.exists("proxy-ghcr/openova-io/cutover-negative")


async def test_progress_never_runs_backwards_and_ends_with_everything(stage: Stage) -> None:
    await stage.projects()
    stage.progress.clear()
    for registry in stage.site.upstream.values():
        registry.faults.add(Fault(Wrong.TRUNCATED, path="/blobs/", times=3))
    result = await stage.prewarm()
    percents = [p.percent for p in stage.progress if p.percent is not None]
    done = [p.bytes_done for p in stage.progress if p.bytes_done is not None]
    assert percents == sorted(percents)
    assert done == sorted(done)
    assert (percents[-1], done[-1]) == (100, result.bytes_moved)


async def test_a_second_run_moves_nothing_says_so_and_needs_no_upstream(stage: Stage) -> None:
    await stage.projects()
    first = await stage.prewarm()
    for registry in stage.site.upstream.values():
        registry.faults.add(Fault(Wrong.STATUS, status=503, times=None))
    again = await stage.prewarm()
    assert (again.changes, again.bytes_moved) == (0, 0)
    assert "nothing to move, 0 bytes" in again.summary
    assert again.references == first.references


async def test_after_the_cutover_the_local_urls_are_proven_and_no_upstream_is_needed(stage: Stage) -> None:
    await stage.projects()
    first = await stage.prewarm()
    for registry in stage.site.upstream.values():
        registry.faults.add(Fault(Wrong.STATUS, status=503, times=None))
    harbor = stage.sovereign.harbor.host
    stage.cluster.objects[3] = source(f"oci://{harbor}/openova-io")
    stage.cluster.objects[5] = provider(f"{harbor}/proxy-xpkg/crossplane-contrib/provider-hcloud:v0.4.0")
    stage.cluster.objects.append(pod("provider", f"{harbor}/proxy-xpkg/crossplane-contrib/provider-hcloud:v0.4.0"))
    tree = stage.tree / "clusters/_template/bootstrap-kit/10-gitea.yaml"
    tree.write_text(TREE.replace("ghcr.io", "harbor.${SOVEREIGN_FQDN}"))
    again = await stage.prewarm()
    assert (again.changes, again.bytes_moved) == (0, 0)
    assert (
        again.references[f"{harbor}/openova-io/bp-gitea:1.1.2"] == first.references["ghcr.io/openova-io/bp-gitea:1.1.2"]
    )


async def test_a_chart_that_local_harbor_lost_after_the_cutover_is_traced_back_to_its_origin(stage: Stage) -> None:
    await stage.projects()
    stage.cluster.objects[3] = source(f"oci://{stage.sovereign.harbor.host}/openova-io")
    await stage.prewarm()
    digest = stage.site.upstream["ghcr.io"].store.tags("openova-io/bp-cilium")["1.1.1"]
    assert stage.site.harbor.store.tags("openova-io/bp-cilium")["1.1.1"] == digest


async def test_an_unmapped_host_is_named_with_its_reference_before_anything_moves(stage: Stage) -> None:
    stage.cluster.objects.append(pod("odd", "cgr.dev/chainguard/kubectl:latest-dev", "DaemonSet"))
    await stage.projects()
    with pytest.raises(Stuck, match=r"UnmappedHost.*cgr\.dev/chainguard/kubectl:latest-dev.*DaemonSet apps/odd"):
        await stage.prewarm()
    assert stage.site.harbor.store.repositories() == ["openova-io/cutover-readers"], "step 2's own probe"


async def test_the_boot_strap_loop_is_named_and_what_is_not_seen_of_it_is_told(stage: Stage) -> None:
    stage.cluster.objects.append(pod("harbor", "docker.io/goharbor/harbor-core:v2.14.3"))
    upstream.seed(stage.site.upstream, [], ["docker.io/goharbor/harbor-core:v2.14.3"], [])
    await stage.projects()
    result = await stage.prewarm()
    assert result.reasons["docker.io/goharbor/harbor-core:v2.14.3"][-1] == "boot-strap: Harbor serves its own images"
    assert "boot-strap" in result.reasons[PAUSE][0]
    assert "boot-strap: the cutover itself" in result.reasons[OURS]
    assert any("boot-strap: cluster DNS: no such image is seen" in n for n in result.notices)


async def test_what_a_node_says_it_holds_is_listed_and_who_may_not_look_stops(stage: Stage) -> None:
    pause = "registry.k8s.io/pause:3.10"
    await stage.site.add_upstream("registry.k8s.io")
    stage.sovereign = stage.site.sovereign()
    upstream.seed(stage.site.upstream, [], [pause], [])
    images = [{"names": [f"registry.k8s.io/pause@sha256:{'a' * 64}", pause]}]
    stage.cluster.objects.append({"kind": "Node", "metadata": {"name": "n"}, "status": {"images": images}})
    await stage.projects()
    result = await stage.prewarm()
    assert "held by a node" in result.reasons[pause][0]
    assert PAUSE not in result.references
    stage.cluster.forbidden = "Node"
    with pytest.raises(Stuck):
        await stage.prewarm()


async def test_a_reference_that_cannot_be_read_is_left_out_aloud(stage: Stage) -> None:
    stage.cluster.objects.append(pod("templated", "ghcr.io/x/y:${TAG}"))
    await stage.projects()
    result = await stage.prewarm()
    assert any("apps/templated" in n and "left out" in n for n in result.notices)


async def test_a_proxy_project_is_filled_by_pulling_and_its_broken_promise_is_said(stage: Stage) -> None:
    as_proxy(stage, "xpkg.upbound.io")
    await stage.projects()
    result = await prewarmed(stage)
    local = "proxy-xpkg/crossplane-contrib/provider-hcloud"
    assert any("keeps the index rewritten" in n for n in result.notices)
    assert stage.site.harbor.store.tags(local)["v0.4.0"] != result.references[PACKAGE]


async def test_what_a_proxy_served_and_has_not_stored_is_waited_for(stage: Stage) -> None:
    as_proxy(stage, "xpkg.upbound.io")
    await stage.projects()
    await prewarmed(stage)
    stage.site.harbor.faults.add(Fault(Wrong.STATUS, path="/artifacts/", status=404))
    with pytest.raises(Wait, match="ProxyNotStored"):
        await stage.prewarm()


async def test_a_probe_exists_only_in_local_harbor_and_a_chart_is_pulled_from_there(stage: Stage) -> None:
    await stage.projects()
    await stage.prewarm()
    async with stage.world() as world:
        digest = await world.registries.push_probe("openova-io/cutover-probe", "run-7", b"unique")
        assert await world.registries.local_digest("openova-io/cutover-probe", "run-7") == digest
        assert await world.registries.local_digest("openova-io/cutover-probe", "run-8") is None
        pulled = await world.registries.pull_chart("openova-io/bp-cilium", "1.1.1")
        assert pulled == stage.site.upstream["ghcr.io"].store.tags("openova-io/bp-cilium")["1.1.1"]
        with pytest.raises(Stuck, match=r"ChartMissing.*openova-io/bp-cilium:9\.9\.9"):
            await world.registries.pull_chart("openova-io/bp-cilium", "9.9.9")
        assert await world.harbor.is_public("openova-io")
        assert not await world.harbor.is_public("no-such")


async def test_a_harbor_that_is_opened_again_has_what_it_had(stage: Stage) -> None:
    await stage.projects()
    await stage.prewarm()
    await stage.site.stack.aclose()
    again = Harbor.open(
        stage.site.directory / "harbor", "harbor.sovereign.test", stage.site.clock, PASSWORD, lambda host: ""
    )
    assert again.store.tags("openova-io/bp-cilium")
    assert "proxy-ghcr" in again._core.state.projects
