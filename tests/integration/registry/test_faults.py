"""What goes wrong while copying, one at a time: waited out, gone around, or refused; never reported as done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from time import monotonic
from typing import Any

import pytest

from sandbox.registry import Fault, Wrong
from tests.integration.registry.stage import QUICK
from tests.integration.registry.test_copy import IMAGE, copied, projects, publish
from workers.adapters.oci import Meter, Patience, Reference, Registries, What, placed
from workers.errors import Stuck, Wait

LOCAL = "proxy-ghcr/fluxcd/source-controller"
HUB = [f"docker.io/library/part-{n}:v1" for n in range(5)]


@pytest.fixture
async def ready(site: Any) -> Any:
    """A site whose Harbor has the projects."""
    async with projects(site, "proxy-ghcr", "proxy-docker"):
        return site


def arrived(site: Any, digest: str) -> bool:
    """Whether local Harbor serves the image under its tag."""
    return bool(site.harbor.store.tags(LOCAL).get("v1.4.1") == digest)


async def test_a_blob_that_breaks_off_goes_on_where_it_broke_off(ready: Any) -> None:
    digest = publish(ready.upstream["ghcr.io"].store, IMAGE)
    faults = ready.upstream["ghcr.io"].faults
    faults.add(Fault(Wrong.TRUNCATED, path="/blobs/", times=2))
    plan, meter = await copied(ready.sovereign(), [IMAGE])
    assert arrived(ready, digest)
    spans = [s.span for s in faults.seen if s.span]
    assert len(spans) == 2
    assert "bytes=0-" not in spans
    assert meter.moved == plan.bytes_to_move


@pytest.mark.parametrize(("status", "retry_after"), [(429, "1"), (429, None), (500, None)])
async def test_a_refusal_that_passes_is_waited_out(ready: Any, status: int, retry_after: str | None) -> None:
    digest = publish(ready.upstream["ghcr.io"].store, IMAGE)
    fault = Fault(Wrong.STATUS, path="/blobs/", status=status, retry_after=retry_after, times=2)
    ready.upstream["ghcr.io"].faults.add(fault)
    started = monotonic()
    await copied(ready.sovereign(), [IMAGE], Patience(attempts=4, first=0.01, longest=5))
    assert fault.times == 0
    assert monotonic() - started >= float(retry_after or 0), "as long as it says"
    assert arrived(ready, digest)


async def test_a_refusal_that_lasts_is_a_wait_and_leaves_no_tag(ready: Any) -> None:
    publish(ready.upstream["ghcr.io"].store, IMAGE)
    ready.upstream["ghcr.io"].faults.add(Fault(Wrong.STATUS, path="/blobs/", status=500, times=None))
    with pytest.raises(Wait, match="UpstreamUnavailable"):
        await copied(ready.sovereign(), [IMAGE])
    assert ready.harbor.store.tags(LOCAL) == {}


async def test_tokens_that_expire_in_the_middle_are_asked_for_again(ready: Any) -> None:
    references = [f"ghcr.io/fluxcd/part-{n}:v1" for n in range(3)]
    digests = [publish(ready.upstream["ghcr.io"].store, r) for r in references]
    sovereign = ready.sovereign()

    async def later(done: int) -> None:
        ready.clock.skip(timedelta(minutes=10))

    async with Registries.open(sovereign, QUICK) as registries:
        copier = registries.copier()
        wanted = [placed(sovereign, Reference.parse(r), What.IMAGE) for r in references]
        plan = await copier.survey([w for w in wanted if w], later)
        await copier.copy(plan, Meter(plan.bytes_to_move, len(plan.todo)))
    refused = [s for s in ready.upstream["ghcr.io"].faults.seen if s.status == 401 and "/blobs/" in s.path]
    assert refused, "tokens did expire"
    assert [ready.harbor.store.tags(f"proxy-ghcr/fluxcd/part-{n}")["v1"] for n in range(3)] == digests


async def test_a_mothership_that_is_dead_is_gone_around_and_not_asked_for_every_blob(ready: Any) -> None:
    digest = publish(ready.upstream["ghcr.io"].store, IMAGE)
    mothership = ready.upstream["harbor.openova.io"].faults
    mothership.add(Fault(Wrong.STATUS, status=502, times=None))
    await copied(ready.sovereign(), [IMAGE])
    assert arrived(ready, digest)
    assert mothership.count() <= QUICK.attempts


async def test_a_mothership_without_the_image_is_asked_once(ready: Any) -> None:
    publish(ready.upstream["ghcr.io"].store, IMAGE)
    await copied(ready.sovereign(), [IMAGE])
    assert ready.upstream["harbor.openova.io"].faults.count(path="^/v2/.*(blobs|manifests)") <= 2, "a 401 and a 404"


async def test_an_upstream_that_is_dead_keeps_nothing_back_that_others_give(ready: Any) -> None:
    digest = publish(ready.upstream["ghcr.io"].store, IMAGE)
    ready.urls["docker.io"] = "http://127.0.0.1:9"
    with pytest.raises(Wait, match=r"UpstreamUnavailable: docker\.io/library/part-0"):
        await copied(ready.sovereign(), [HUB[0], IMAGE])
    assert arrived(ready, digest)


async def test_a_rate_limit_is_read_before_and_what_is_beyond_it_waits(ready: Any) -> None:
    hub = ready.upstream["docker.io"]
    for reference in HUB:
        publish(hub.store, reference)
    hub.pulls_left = 3
    with pytest.raises(Wait, match=r"UpstreamBudget.*docker\.io gives 3 more manifests for now, and 5 images need"):
        await copied(ready.sovereign(), HUB)
    hub.pulls_left = None
    plan, _ = await copied(ready.sovereign(), HUB)
    assert len(plan.items) == 5


async def test_each_window_of_a_rate_limit_brings_whole_images_though_an_index_costs_many(ready: Any) -> None:
    hub = ready.upstream["docker.io"]
    for reference in HUB:
        publish(hub.store, reference)  # an index, its children, signature and SBOM
    windows = 0
    while sum(ready.harbor.store.exists(f"proxy-docker/library/part-{n}") for n in range(5)) < 5:
        windows += 1
        assert windows < 5, "each moved at least one"
        hub.pulls_left = 20
        with suppress(Wait):
            await copied(ready.sovereign(), HUB)
    assert windows > 1, "one was not enough"


async def test_a_project_over_its_quota_is_a_matter_for_a_person(ready: Any) -> None:
    publish(ready.upstream["ghcr.io"].store, IMAGE)
    ready.harbor._core.state.projects["proxy-ghcr"].storage_limit = 1000
    with pytest.raises(Stuck, match=r"HarborFull.*exceed the configured upper limit.*more room"):
        await copied(ready.sovereign(), [IMAGE])
    assert ready.harbor.store.tags(LOCAL) == {}


async def test_a_disk_that_is_full_is_a_matter_for_a_person(ready: Any) -> None:
    publish(ready.upstream["ghcr.io"].store, IMAGE)
    ready.harbor.faults.add(Fault(Wrong.FULL, path="/blobs/uploads/", methods=("PUT",), times=None))
    with pytest.raises(Stuck, match=r"HarborFull.*no space left on device"):
        await copied(ready.sovereign(), [IMAGE])
    assert ready.harbor.store.tags(LOCAL) == {}


async def test_an_index_whose_child_is_missing_upstream_is_refused_by_name(ready: Any) -> None:
    store = ready.upstream["ghcr.io"].store
    digest = publish(store, IMAGE)
    child = store.manifest("fluxcd/source-controller", digest).document["manifests"][1]["digest"]
    store.delete_manifest("fluxcd/source-controller", child)
    with pytest.raises(Stuck, match=rf"ReferenceNotFound: ghcr\.io/fluxcd/source-controller:v1\.4\.1.*{child}"):
        await copied(ready.sovereign(), [IMAGE])
    assert ready.harbor.store.tags(LOCAL) == {}


async def lose_a_child(site: Any, digest: str) -> None:
    """Between its children and the index, a child is taken away."""
    child = site.upstream["ghcr.io"].store.manifest("fluxcd/source-controller", digest).document["manifests"][0]
    site.harbor.store.delete_manifest(LOCAL, child["digest"])


async def test_an_index_that_the_destination_finds_sparse_is_never_done(ready: Any, monkeypatch: Any) -> None:
    digest = publish(ready.upstream["ghcr.io"].store, IMAGE)
    await _with_loss(ready, monkeypatch, lambda: lose_a_child(ready, digest))
    with pytest.raises(Stuck, match=r"HarborRefused.*MANIFEST_BLOB_UNKNOWN"):
        await copied(ready.sovereign(), [IMAGE])
    assert "v1.4.1" not in ready.harbor.store.tags(LOCAL)


async def _with_loss(site: Any, monkeypatch: Any, lose: Callable[[], Awaitable[None]]) -> None:
    distribution = site.harbor._distribution
    put = type(distribution).put_manifest

    async def putting(self: Any, request: Any, target: Any) -> Any:
        if "image.index" in request.headers.get("Content-Type", ""):
            await lose()
        return await put(self, request, target)

    monkeypatch.setattr(type(distribution), "put_manifest", putting)
    distribution._handlers["manifest", "PUT"] = distribution.put_manifest
