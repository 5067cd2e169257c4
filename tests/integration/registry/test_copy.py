"""Copies between registries: whole, byte for byte, each blob once, and honest about what goes wrong."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from sandbox import upstream
from sandbox.images import Publisher
from sandbox.registry import Fault, Store, Wrong
from sandbox.registry.store import OCI_INDEX
from tests.integration.registry.conftest import docker_registry
from tests.integration.registry.stage import QUICK
from workers.adapters.oci import CopyPlan, Meter, Patience, Reference, Registries, What, placed
from workers.errors import Stuck, Wait
from workers.sovereign import Sovereign

IMAGE = "ghcr.io/fluxcd/source-controller:v1.4.1"
ACCEPT = {"Accept": f"{OCI_INDEX}, application/vnd.docker.distribution.manifest.v2+json"}


async def quietly(done: int) -> None:
    """Nobody listens."""


async def copied(sovereign: Sovereign, references: Sequence[str], patience: Patience = QUICK) -> tuple[CopyPlan, Meter]:
    """Copy and prove the references."""
    async with Registries.open(sovereign, patience) as registries:
        copier = registries.copier()
        wanted = [placed(sovereign, Reference.parse(r), What.IMAGE) for r in references]
        plan = await copier.survey([w for w in wanted if w], quietly)
        meter = Meter(plan.bytes_to_move, len(plan.todo))
        await copier.copy(plan, meter)
        proof = await copier.prove(plan, quietly)
        if proof.lost:
            plan = await copier.survey(proof.lost, quietly, trusting=False)
            meter = Meter(plan.bytes_to_move, len(plan.todo))
            await copier.copy(plan, meter)
            await copier.prove(plan, quietly)
        return plan, meter


@asynccontextmanager
async def projects(site: Any, *names: str) -> AsyncIterator[None]:
    async with httpx.AsyncClient(base_url=site.harbor_url, auth=("admin", "Harbor12345-secret")) as http:
        for name in names:
            body = {"project_name": name, "metadata": {"public": "true"}}
            assert (await http.post("/api/v2.0/projects", json=body)).status_code == 201
        yield


@pytest.fixture
async def ready(site: Any) -> Any:
    """A site whose Harbor has the projects."""
    async with projects(site, "proxy-ghcr", "proxy-docker", "proxy-quay", "proxy-k8s"):
        return site


def publish(store: Store, reference: str) -> str:
    """Put an image upstream in the kind of an index with attestations, signature and SBOM; its digest."""
    _, repository, tag = upstream.place(reference)
    publisher = Publisher(store, repository)
    digest = publisher._index(reference, OCI_INDEX, tag, attested=True)
    publisher._cosign(digest)
    publisher._sbom(digest)
    return digest


async def test_an_index_arrives_whole_with_children_attestations_signatures_and_referrers(ready: Any) -> None:
    source = ready.upstream["ghcr.io"].store
    digest = publish(source, IMAGE)
    plan, meter = await copied(ready.sovereign(), [IMAGE])
    here = ready.harbor.store
    local = "proxy-ghcr/fluxcd/source-controller"
    assert here.tags(local)["v1.4.1"] == digest
    assert digest.replace(":", "-") + ".sig" in here.tags(local)
    there = {m.digest: m.content for m in source.manifests("fluxcd/source-controller")}
    assert {m.digest: m.content for m in here.manifests(local)} == there
    assert [m.digest for m in here.referrers(local, digest)] == [
        m.digest for m in source.referrers("fluxcd/source-controller", digest)
    ]
    assert meter.moved == meter.shown == plan.bytes_to_move


async def test_signatures_and_sboms_of_each_platform_come_along_and_what_refers_to_those(ready: Any) -> None:
    store = ready.upstream["ghcr.io"].store
    digest = publish(store, IMAGE)
    publisher = Publisher(store, "fluxcd/source-controller")
    child = store.manifest("fluxcd/source-controller", digest).document["manifests"][0]["digest"]
    publisher._cosign(child)
    publisher._sbom(child)
    [sbom] = store.referrers("fluxcd/source-controller", child)
    publisher._cosign(sbom.digest)
    await copied(ready.sovereign(), [IMAGE])
    local = "proxy-ghcr/fluxcd/source-controller"
    tags = ready.harbor.store.tags(local)
    assert {f"{d.replace(':', '-')}.sig" for d in (digest, child, sbom.digest)} <= set(tags)
    assert [m.digest for m in ready.harbor.store.referrers(local, child)] == [sbom.digest]


async def test_a_second_run_moves_nothing_and_asks_upstream_only_what_its_tag_is(ready: Any) -> None:
    publish(ready.upstream["ghcr.io"].store, IMAGE)
    await copied(ready.sovereign(), [IMAGE])
    asked = len(ready.upstream["ghcr.io"].faults.seen)
    plan, meter = await copied(ready.sovereign(), [IMAGE])
    assert (len(plan.todo), plan.bytes_to_move, meter.moved) == (0, 0, 0)
    assert {s.method for s in list(ready.upstream["ghcr.io"].faults.seen)[asked:] if "/v2/" in s.path} == {"HEAD"}


async def test_a_tag_that_upstream_moved_since_is_copied_anew_and_told(ready: Any) -> None:
    store = ready.upstream["ghcr.io"].store
    publish(store, IMAGE)
    await copied(ready.sovereign(), [IMAGE])
    other = publish(store, "ghcr.io/fluxcd/source-controller:v1.5.0")
    store.tag("fluxcd/source-controller", "v1.4.1", other)
    plan, _ = await copied(ready.sovereign(), [IMAGE])
    assert ready.harbor.store.tags("proxy-ghcr/fluxcd/source-controller")["v1.4.1"] == other
    assert any("copied anew" in notice for notice in plan.items[0].closure.notices)


async def test_half_an_image_that_somebody_pushed_under_the_tag_is_not_taken_for_it(ready: Any) -> None:
    digest, local = publish(ready.upstream["ghcr.io"].store, IMAGE), "proxy-ghcr/fluxcd/source-controller"
    await copied(ready.sovereign(), [IMAGE])
    child = ready.harbor.store.manifest(local, digest).document["manifests"][0]["digest"]
    ready.harbor.store.tag(local, "v1.4.1", child)
    await copied(ready.sovereign(), [IMAGE])
    assert ready.harbor.store.tags(local)["v1.4.1"] == digest


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500])
async def test_an_upstream_that_does_not_say_what_its_tag_is_is_not_needed_and_told(ready: Any, status: int) -> None:
    digest = publish(ready.upstream["ghcr.io"].store, IMAGE)
    await copied(ready.sovereign(), [IMAGE])
    ready.upstream["ghcr.io"].faults.add(Fault(Wrong.STATUS, path="/v2/", status=status, times=None))
    asked = ready.upstream["ghcr.io"].faults.count(path="^/v2/")
    async with Registries.open(ready.sovereign(), QUICK) as registries:
        wanted = placed(ready.sovereign(), Reference.parse(IMAGE), What.IMAGE)
        assert wanted is not None
        plan = await registries.copier().survey([wanted], quietly)
    again = ready.upstream["ghcr.io"].faults.count(path="^/v2/") - asked
    assert again == (2 if status == 401 else 1), "not patiently; a 401 is answered with a token, once"
    assert (plan.items[0].here, plan.items[0].closure.digest) == (True, digest)
    told = [n for n in plan.items[0].closure.notices if "did not say whether its tags have moved" in n]
    assert len(told) == (status != 404)


async def test_no_blob_is_fetched_twice_though_many_images_share_it(ready: Any) -> None:
    references = [f"ghcr.io/fluxcd/part-{n}:v1" for n in range(8)]
    for reference in references:
        publish(ready.upstream["ghcr.io"].store, reference)
    await copied(ready.sovereign(), references)
    fetched = ready.upstream["ghcr.io"].faults.fetched
    assert fetched
    assert set(fetched.values()) == {1}


async def test_a_blob_that_docker_io_gave_is_mounted_when_ghcr_needs_it_too(ready: Any) -> None:
    publish(ready.upstream["docker.io"].store, "docker.io/library/nats:2.10.22")
    publish(ready.upstream["ghcr.io"].store, "ghcr.io/mirrored/nats:2.10.22")
    await copied(ready.sovereign(), ["docker.io/library/nats:2.10.22"])
    before = ready.harbor.faults.count("PUT", "/blobs/uploads/")
    plan, _ = await copied(ready.sovereign(), ["ghcr.io/mirrored/nats:2.10.22", "nats:2.10.22"])
    uploads = ready.harbor.faults.count("PUT", "/blobs/uploads/") - before
    known = {b.digest for b in plan.items[1].closure.blobs}
    new = [b for b in plan.items[0].closure.blobs if b.digest not in known]
    assert uploads == len(new) < len(plan.items[0].closure.blobs)


async def test_a_digest_pin_is_kept_under_its_digest_and_under_a_tag_that_collectors_spare(ready: Any) -> None:
    digest = publish(ready.upstream["ghcr.io"].store, IMAGE)
    await copied(ready.sovereign(), [f"{IMAGE}@{digest}"])
    tags = ready.harbor.store.tags("proxy-ghcr/fluxcd/source-controller")
    assert tags[f"kept-{digest[7:47]}"] == digest
    assert "v1.4.1" not in tags, "the tag of a pin by digest says nothing"


@pytest.mark.parametrize(
    "fault",
    [
        Fault(Wrong.STATUS, path="/blobs/", status=429, retry_after="0", times=3),
        Fault(Wrong.STATUS, path="/blobs/", status=503, times=3),
        Fault(Wrong.RESET, path="/blobs/", times=2),
        Fault(Wrong.TRUNCATED, path="/blobs/", times=2),
        Fault(Wrong.BYTES, path="/blobs/", times=2),
        Fault(Wrong.STATUS, path="/manifests/", status=429, times=2),
        Fault(Wrong.BYTES, path="/manifests/", times=2, methods=("GET",)),
        Fault(Wrong.STATUS, path="/token", status=502, times=2),
    ],
    ids=lambda f: f"{f.wrong.value}-{f.status}-{f.path.strip('/')}",
)
async def test_trouble_that_passes_is_waited_out(ready: Any, fault: Fault) -> None:
    digest = publish(ready.upstream["ghcr.io"].store, IMAGE)
    ready.upstream["ghcr.io"].faults.add(fault)
    plan, meter = await copied(ready.sovereign(), [IMAGE])
    assert fault.times == 0, "the trouble did happen"
    assert ready.harbor.store.tags("proxy-ghcr/fluxcd/source-controller")["v1.4.1"] == digest
    assert meter.moved == plan.bytes_to_move


async def test_trouble_at_harbor_that_passes_is_waited_out(ready: Any) -> None:
    digest = publish(ready.upstream["ghcr.io"].store, IMAGE)
    for path in ("/blobs/uploads/", "/manifests/"):
        ready.harbor.faults.add(Fault(Wrong.STATUS, path=path, status=503, times=2))
        ready.harbor.faults.add(Fault(Wrong.RESET, path=path, times=1))
    await copied(ready.sovereign(), [IMAGE])
    assert ready.harbor.store.tags("proxy-ghcr/fluxcd/source-controller")["v1.4.1"] == digest


async def test_a_rate_limit_that_lasts_is_waited_for_as_long_as_it_says(ready: Any) -> None:
    publish(ready.upstream["ghcr.io"].store, IMAGE)
    fault = Fault(Wrong.STATUS, path="/manifests/", status=429, retry_after="600", times=None)
    ready.upstream["ghcr.io"].faults.add(fault)
    with pytest.raises(Wait, match="source-controller") as caught:
        await copied(ready.sovereign(), [IMAGE])
    assert (caught.value.reason, caught.value.after) == ("UpstreamUnavailable", 600)


async def test_wrong_bytes_that_stay_wrong_are_refused_and_nothing_is_kept(ready: Any) -> None:
    publish(ready.upstream["ghcr.io"].store, IMAGE)
    ready.upstream["ghcr.io"].faults.add(Fault(Wrong.BYTES, path="/blobs/", times=None))
    with pytest.raises(Stuck, match=r"DigestMismatch.*source-controller"):
        await copied(ready.sovereign(), [IMAGE])
    assert ready.harbor.store.tags("proxy-ghcr/fluxcd/source-controller") == {}
    assert list((ready.directory / "harbor/registry/uploads").iterdir()) == []


async def test_what_the_upstream_does_not_have_is_named(ready: Any) -> None:
    with pytest.raises(Stuck, match=r"ReferenceNotFound: ghcr\.io/no/such:1"):
        await copied(ready.sovereign(), ["ghcr.io/no/such:1"])


async def test_what_the_upstream_does_not_give_us_is_named(ready: Any) -> None:
    publish(ready.upstream["ghcr.io"].store, IMAGE)
    denied = Fault(Wrong.STATUS, path="/manifests/", status=403, times=None)
    ready.upstream["ghcr.io"].faults.add(denied)
    with pytest.raises(Stuck, match=r"UpstreamDenied: ghcr\.io/fluxcd/source-controller:v1\.4\.1.*login"):
        await copied(ready.sovereign(), [IMAGE])


async def test_an_upstream_that_is_down_is_waited_for(ready: Any) -> None:
    with pytest.raises(Wait, match=r"UpstreamUnavailable: registry\.k8s\.io"):
        await copied(ready.sovereign(), ["registry.k8s.io/pause:3.9"])


async def test_a_run_after_a_broken_one_moves_only_the_rest(ready: Any) -> None:
    publish(ready.upstream["ghcr.io"].store, IMAGE)
    await broken_copy(ready, "/manifests/sha256")
    faults = ready.upstream["ghcr.io"].faults
    before = sum(faults.fetched.values())
    plan, meter = await copied(ready.sovereign(), [IMAGE])
    assert meter.moved == plan.bytes_to_move == 0, "every blob had arrived before the manifests were refused"
    assert sum(faults.fetched.values()) == before
    assert len(plan.todo) == 1


async def broken_copy(site: Any, path: str) -> None:
    """A copy that fails where Harbor is told `path`."""
    site.harbor.faults.add(Fault(Wrong.STATUS, path=path, status=500, methods=("PUT",), times=None))
    with pytest.raises(Wait, match="HarborUnavailable"):
        await copied(site.sovereign(), [IMAGE])
    site.harbor.faults.clear()


async def test_a_blob_that_local_storage_lost_is_fetched_again(ready: Any) -> None:
    publish(ready.upstream["ghcr.io"].store, IMAGE)
    plan, _ = await copied(ready.sovereign(), [IMAGE])
    lost = plan.items[0].closure.blobs[0]
    ready.harbor.store.delete_blob("proxy-ghcr/fluxcd/source-controller", lost.digest)
    again, meter = await copied(ready.sovereign(), [IMAGE])
    assert (again.bytes_to_move, meter.moved) == (lost.size, lost.size)


async def test_a_blob_that_local_storage_lost_is_sent_for_another_image_of_its_repository(ready: Any) -> None:
    publish(ready.upstream["ghcr.io"].store, IMAGE)
    plan, _ = await copied(ready.sovereign(), [IMAGE])
    newer = "ghcr.io/fluxcd/source-controller:v1.4.2"
    publish(ready.upstream["ghcr.io"].store, newer)
    ready.upstream["ghcr.io"].store.tag("fluxcd/source-controller", "v1.4.2", plan.items[0].closure.digest)
    lost = plan.items[0].closure.blobs[0]
    ready.harbor.store.delete_blob("proxy-ghcr/fluxcd/source-controller", lost.digest)
    _, meter = await copied(ready.sovereign(), [IMAGE, newer])
    assert meter.moved == lost.size


async def test_a_copy_that_rots_in_local_storage_is_seen(ready: Any) -> None:
    publish(ready.upstream["ghcr.io"].store, IMAGE)
    plan, _ = await copied(ready.sovereign(), [IMAGE])
    rotten = ready.harbor.store.blob_path(plan.items[0].closure.blobs[1].digest)
    rotten.write_bytes(bytes(len(rotten.read_bytes())))
    with pytest.raises(Stuck, match="LocalCopyCorrupt"):
        await copied(ready.sovereign(), [IMAGE])


async def test_a_harbor_that_sends_readers_to_a_name_only_pods_resolve_is_no_mirror_for_nodes(ready: Any) -> None:
    publish(ready.upstream["ghcr.io"].store, IMAGE)
    await copied(ready.sovereign(), [IMAGE])
    storage = "http://seaweedfs-s3.seaweedfs.svc.cluster.local:8333/harbor/blob"
    sovereign = ready.sovereign()
    async with Registries.open(sovereign, QUICK) as registries:
        copier = registries.copier()
        wanted = placed(sovereign, Reference.parse(IMAGE), What.IMAGE)
        plan = await copier.survey([wanted] if wanted else [], quietly)
        ready.harbor.faults.add(Fault(Wrong.STATUS, path="/blobs/sha256", status=307, location=storage, times=None))
        with pytest.raises(Stuck, match=r"HarborRedirects.*disableRedirect: true"):
            await copier.prove(plan, quietly)


async def test_the_mothership_serves_blobs_first_and_the_canonical_registry_what_it_lacks(ready: Any) -> None:
    publish(ready.upstream["ghcr.io"].store, IMAGE)
    mothership = ready.upstream["harbor.openova.io"]
    publish(mothership.store, f"harbor.openova.io/proxy-ghcr/{IMAGE.partition('/')[2]}")
    other = "ghcr.io/stakater/reloader:v1.2.0"
    publish(ready.upstream["ghcr.io"].store, other)
    plan, _ = await copied(ready.sovereign(), [IMAGE, other])
    assert mothership.faults.fetched, "what the mothership has came from there"
    assert ready.harbor.store.tags("proxy-ghcr/stakater/reloader")
    assert len(plan.items) == 2


def trimmed(site: Any) -> str:
    """The mothership has one platform of the image, its index written anew, as Harbor's proxies do; its digest."""
    store, name = site.upstream["harbor.openova.io"].store, "proxy-ghcr/fluxcd/source-controller"
    publish(store, f"harbor.openova.io/{name}:v1.4.1")
    index = store.manifest(name, "v1.4.1").document
    content = json.dumps({**index, "manifests": index["manifests"][:1]}, indent=3).encode()
    return str(store.put_manifest(name, content, OCI_INDEX, "v1.4.1"))


async def test_a_proxys_index_is_not_taken_while_the_registry_that_counts_may_yet_answer(ready: Any) -> None:
    digest = publish(ready.upstream["ghcr.io"].store, IMAGE)
    trimmed(ready)
    faults = ready.upstream["ghcr.io"].faults
    faults.add(Fault(Wrong.STATUS, path="/manifests/", status=429, retry_after="600", times=None))
    with pytest.raises(Wait, match=r"source-controller:v1\.4\.1: .*ghcr\.io") as caught:
        await copied(ready.sovereign(), [IMAGE])
    assert (caught.value.reason, caught.value.after) == ("UpstreamUnavailable", 600)
    faults.clear()
    await copied(ready.sovereign(), [IMAGE])
    assert ready.harbor.store.tags("proxy-ghcr/fluxcd/source-controller")["v1.4.1"] == digest


@pytest.mark.parametrize("status", [401, 404])
async def test_a_proxys_index_is_taken_and_told_when_the_registry_that_counts_gives_none(
    ready: Any, status: int
) -> None:
    publish(ready.upstream["ghcr.io"].store, IMAGE)
    digest = trimmed(ready)
    ready.upstream["ghcr.io"].faults.add(Fault(Wrong.STATUS, path="/manifests/", status=status, times=None))
    plan, _ = await copied(ready.sovereign(), [IMAGE])
    assert plan.items[0].closure.digest == digest
    said = rf"{IMAGE}: the index that harbor\.openova\.io gives is kept, .*may lack: GET ghcr\.io.*{status}"
    assert [n for n in plan.items[0].closure.notices if re.match(said, n)]


async def test_signatures_under_tags_come_along_though_the_referrers_are_denied(ready: Any) -> None:
    digest = publish(ready.upstream["ghcr.io"].store, IMAGE)
    ready.upstream["ghcr.io"].faults.add(Fault(Wrong.STATUS, path="/referrers/", status=403, times=None))
    plan, _ = await copied(ready.sovereign(), [IMAGE])
    assert f"{digest.replace(':', '-')}.sig" in ready.harbor.store.tags("proxy-ghcr/fluxcd/source-controller")
    assert [n for n in plan.items[0].closure.notices if "could not be read" in n]


async def test_a_login_that_harbor_refuses_is_a_matter_for_a_person(ready: Any) -> None:
    publish(ready.upstream["ghcr.io"].store, IMAGE)
    sovereign = ready.sovereign()
    sovereign.harbor.login.password_file.write_text("not-the-password")
    with pytest.raises(Stuck, match=r"HarborDenied.*check harbor\.login") as caught:
        await copied(sovereign, [IMAGE])
    assert "not-the-password" not in str(caught.value)


async def test_a_missing_project_is_named(site: Any) -> None:
    publish(site.upstream["ghcr.io"].store, IMAGE)
    with pytest.raises(Stuck, match=r"HarborDenied.*that project proxy-ghcr exists"):
        await copied(site.sovereign(), [IMAGE])


async def test_copies_to_docker_registry_have_the_same_digest(site: Any) -> None:
    digest = publish(site.upstream["ghcr.io"].store, IMAGE)
    async with docker_registry(site.directory / "debian") as url:
        site.harbor_url = url
        plan, meter = await copied(site.sovereign(), [IMAGE])
        assert meter.moved == plan.bytes_to_move > 0
        async with httpx.AsyncClient(base_url=url) as http:
            path = f"/v2/proxy-ghcr/fluxcd/source-controller/manifests/{digest}"
            answer = await http.get(path, headers=ACCEPT)
        source = site.upstream["ghcr.io"].store.manifest("fluxcd/source-controller", "v1.4.1")
        assert answer.content == source.content
        again, meter = await copied(site.sovereign(), [IMAGE])
        assert (len(again.todo), meter.moved) == (0, 0)


async def test_copies_from_docker_registry_have_the_same_digest(ready: Any) -> None:
    digest = publish(ready.upstream["ghcr.io"].store, IMAGE)
    there = ready.urls["ghcr.io"]
    async with docker_registry(ready.directory / "debian") as url:
        local, ready.harbor_url = ready.harbor_url, url
        await copied(ready.sovereign(), [IMAGE])
        ready.harbor_url, ready.urls["ghcr.io"] = local, url
        # docker-registry now holds it as proxy-ghcr/fluxcd/...: an upstream of that path.
        await copied(ready.sovereign(), ["ghcr.io/proxy-ghcr/fluxcd/source-controller:v1.4.1"])
    ready.urls["ghcr.io"] = there
    tags = ready.harbor.store.tags("proxy-ghcr/proxy-ghcr/fluxcd/source-controller")
    assert tags["v1.4.1"] == digest
