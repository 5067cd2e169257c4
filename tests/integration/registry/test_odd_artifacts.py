"""Artifacts and registries off the beaten track: kept byte for byte, or refused by name; never half and said done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from aiohttp import web

from sandbox.registry import Fault, Store, Wrong
from sandbox.registry.answers import Problem
from sandbox.registry.store import OCI_INDEX, sha256
from sandbox.serving import serving
from tests.integration.registry.conftest import docker_registry
from tests.integration.registry.test_copy import ACCEPT, IMAGE, copied, publish, ready
from workers.errors import Stuck, Wait

__all__ = ["ready"]

OCI = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
EMPTY = "application/vnd.oci.empty.v1+json"
REPOSITORY = "odd/thing"
LOCAL = f"proxy-ghcr/{REPOSITORY}"
REFERENCE = f"ghcr.io/{REPOSITORY}:v1"


def blob(store: Store, content: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": store.put_blob(REPOSITORY, content), "size": len(content), **more}


def put(store: Store, document: Mapping[str, Any], media_type: str, tag: str | None = None) -> dict[str, Any]:
    """Spaced as nobody else would: who writes it anew gets another digest."""
    content = json.dumps({"schemaVersion": 2, "mediaType": media_type, **document}, indent=7).encode() + b"\n"
    digest = store.put_manifest(REPOSITORY, content, media_type, tag)
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


def oddities(store: Store) -> str:
    """A list of lists of images and artifacts; its digest."""
    config = blob(store, b"{}", EMPTY, data="e30=")
    image = {
        "config": config,
        "layers": [
            blob(store, b"", "application/vnd.oci.image.layer.v1.tar"),
            blob(store, b"\x28\xb5\x2f\xfd zstd", "application/vnd.oci.image.layer.v1.tar+zstd"),
            blob(store, b"\x28\xb5\x2f\xfd zstd", "application/vnd.oci.image.layer.v1.tar+zstd"),
        ],
    }
    plain = put(store, image, OCI)
    old = put(store, {"config": config, "layers": []}, DOCKER)
    artifact = put(store, {"artifactType": "application/x.thing", "config": config, "layers": [config]}, OCI)
    inner = put(store, {"manifests": [plain, plain, old], "annotations": {"é": "\u2028"}}, OCI_INDEX)
    return str(put(store, {"manifests": [inner, artifact, old]}, OCI_INDEX, "v1")["digest"])


async def test_nested_indexes_artifacts_and_layers_of_every_kind_keep_their_digests(ready: Any) -> None:
    digest = oddities(ready.upstream["ghcr.io"].store)
    lists = put(ready.upstream["ghcr.io"].store, {"manifests": []}, DOCKER_LIST, "none")
    await copied(ready.sovereign(), [REFERENCE, f"ghcr.io/{REPOSITORY}:none"])
    assert ready.harbor.store.tags(LOCAL) == {"v1": digest, "none": lists["digest"]}


async def test_docker_registry_takes_them_too(site: Any) -> None:
    digest = oddities(site.upstream["ghcr.io"].store)
    async with docker_registry(site.directory / "debian") as url:
        site.harbor_url = url
        await copied(site.sovereign(), [REFERENCE])
        async with httpx.AsyncClient(base_url=url) as http:
            answer = await http.get(f"/v2/{LOCAL}/manifests/v1", headers=ACCEPT)
    assert sha256(answer.content) == digest == answer.headers["Docker-Content-Digest"]


async def test_layers_that_only_another_host_has_are_told(ready: Any) -> None:
    store = ready.upstream["ghcr.io"].store
    foreign = {"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "digest": sha256(b"windows")}
    layers = [{**foreign, "size": 7, "urls": ["https://mcr.microsoft.com/v2/windows/blobs/x"]}]
    put(store, {"config": blob(store, b"{}", EMPTY), "layers": layers}, DOCKER, "v1")
    ready.harbor._distribution.store.link_blob(LOCAL, foreign["digest"])  # Harbor does not look for such a layer
    ready.harbor.store.blob_path(foreign["digest"]).parent.mkdir(parents=True, exist_ok=True)
    ready.harbor.store.blob_path(foreign["digest"]).write_bytes(b"windows")
    plan, _ = await copied(ready.sovereign(), [REFERENCE])
    assert any("mcr.microsoft.com" in notice for notice in plan.items[0].closure.notices)


@pytest.mark.parametrize(
    ("document", "media_type", "words"),
    [
        ({"config": {"digest": "sha256:../../../api/v2.0/users", "size": 2}, "layers": []}, OCI, "no sha256 digest"),
        ({"config": {"digest": sha256(b""), "size": -1}, "layers": []}, OCI, "no sha256 digest"),
        ({"config": "x", "layers": []}, OCI, "lacks digest or size"),
        ({"config": {"digest": sha256(b""), "size": 0}, "layers": ["x"]}, OCI, "layers that are none"),
        ({"manifests": [], "layers": []}, OCI_INDEX, "both an index and an image"),
        ({"fsLayers": []}, "application/vnd.docker.distribution.manifest.v1+prettyjws", "schema version 1"),
    ],
)
async def test_what_is_no_manifest_is_refused_by_name(ready: Any, document: Any, media_type: str, words: str) -> None:
    put(ready.upstream["ghcr.io"].store, document, media_type, "v1")
    with pytest.raises(Stuck, match=rf"ManifestUnreadable: ghcr\.io/odd/thing:v1.*{words}"):
        await copied(ready.sovereign(), [REFERENCE])
    assert ready.harbor.store.tags(LOCAL) == {}


@pytest.mark.parametrize("status", [405, 501])
async def test_a_registry_without_head_is_asked_for_the_body(ready: Any, status: int) -> None:
    digest = publish(ready.upstream["ghcr.io"].store, IMAGE)
    ready.upstream["ghcr.io"].faults.add(Fault(Wrong.STATUS, methods=("HEAD",), status=status, times=None))
    ready.upstream["harbor.openova.io"].faults.add(Fault(Wrong.STATUS, methods=("HEAD",), status=status, times=None))
    await copied(ready.sovereign(), [IMAGE])
    tags = ready.harbor.store.tags("proxy-ghcr/fluxcd/source-controller")
    assert tags["v1.4.1"] == digest
    assert any(tag.endswith(".sig") for tag in tags)


async def test_a_harbor_that_refuses_to_mount_is_sent_the_bytes_again_and_upstream_is_not_asked(
    ready: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (f"ghcr.io/fluxcd/part-{n}:v1" for n in range(2))
    digests = [publish(ready.upstream["ghcr.io"].store, IMAGE)]
    for name in (first, second):
        repository = name.removeprefix("ghcr.io/").removesuffix(":v1")
        store = ready.upstream["ghcr.io"].store
        config = {"mediaType": EMPTY, "digest": store.put_blob(repository, b"{}"), "size": 2}
        layer = {"mediaType": EMPTY, "digest": store.put_blob(repository, b"shared"), "size": 6}
        content = json.dumps({"schemaVersion": 2, "config": config, "layers": [layer]}).encode()
        digests.append(store.put_manifest(repository, content, OCI, "v1"))

    async def refuses(request: web.Request, source: str) -> bool:
        raise Problem(403, "DENIED", "requested access to the resource is denied")

    monkeypatch.setattr(ready.harbor._distribution, "may_mount", refuses)
    await copied(ready.sovereign(), [first, second])
    assert [ready.harbor.store.tags(f"proxy-ghcr/fluxcd/part-{n}")["v1"] for n in range(2)] == digests[1:]
    assert set(ready.upstream["ghcr.io"].faults.fetched.values()) == {1}


async def test_a_blob_that_ends_for_good_before_its_size_is_refused(ready: Any) -> None:
    digest = publish(ready.upstream["ghcr.io"].store, IMAGE)
    store = ready.upstream["ghcr.io"].store
    child = store.manifest("fluxcd/source-controller", digest).document["manifests"][0]["digest"]
    layer = store.manifest("fluxcd/source-controller", child).document["layers"][0]["digest"]
    store.blob_path(layer).write_bytes(store.blob_path(layer).read_bytes()[:-10])
    with pytest.raises(Stuck, match=r"DigestMismatch.*ends after"):
        await copied(ready.sovereign(), [IMAGE])
    assert ready.harbor.store.tags("proxy-ghcr/fluxcd/source-controller") == {}


class Plain:
    """A registry that is a directory behind a web server: no tokens, no HEAD, `application/json` for everything."""

    def __init__(self, store: Store, top: str) -> None:
        self.store, self.top = store, top
        self.pages: list[str] = []
        self.endless = False
        self.asked: list[str] = []
        self.app = web.Application()
        self.app.router.add_get(f"/v2/{REPOSITORY}/{{kind}}/{{reference}}", self.answer)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        kind, reference = request.match_info["kind"], request.match_info["reference"]
        self.asked.append(request.path_qs)
        if request.method == "HEAD":
            return web.Response(status=405)
        if kind == "referrers":
            return self._page(request, reference)
        if kind == "blobs":
            return web.Response(body=self.store.blob_path(reference).read_bytes())
        if self.endless:
            return web.Response(body=b" " * (17 * 2**20), content_type="application/json")
        stored = self.store.manifest(REPOSITORY, reference)
        if stored is None:
            return web.Response(status=404)
        return web.Response(body=stored.content, content_type="application/json")

    def _page(self, request: web.Request, digest: str) -> web.Response:
        """One referrer of the top a page."""
        number = int(request.query.get("n", "0"))
        listed = self.pages[number : number + 1] if digest == self.top else []
        found = [self.store.manifest(REPOSITORY, d) for d in listed]
        manifests = [{"mediaType": OCI, "digest": m.digest, "size": len(m.content)} for m in found if m]
        headers = {"Link": f'<{request.path}?n={number + 1}>; rel="next"'} if number + 1 < len(self.pages) else {}
        body = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}
        return web.json_response(body, headers=headers)


async def test_a_server_of_plain_files_is_understood_and_every_page_of_referrers_is_read(ready: Any) -> None:
    store = ready.upstream["ghcr.io"].store
    plain = Plain(store, oddities(store))
    subject = {"mediaType": OCI_INDEX, "digest": plain.top, "size": 1}
    config = blob(store, b"{}", EMPTY)
    for number in range(3):
        about = {"config": config, "layers": [], "subject": subject, "annotations": {"n": str(number)}}
        plain.pages.append(put(store, about, OCI)["digest"])
    async with serving(plain.app) as port:
        ready.urls["ghcr.io"] = f"http://127.0.0.1:{port}"
        plan, _ = await copied(ready.sovereign(), [REFERENCE])
        assert ready.harbor.store.tags(LOCAL)["v1"] == plain.top
        assert all(ready.harbor.store.manifest(LOCAL, digest) is not None for digest in plain.pages)
        assert plan.items[0].closure.notices == ()
        plain.endless = True
        with pytest.raises(Stuck, match=r"ManifestUnreadable.*larger than"):
            await copied(ready.sovereign(), [f"ghcr.io/{REPOSITORY}:v2"])


async def test_a_referrer_of_a_kind_that_no_registry_keeps_is_told_and_the_image_is_kept(ready: Any) -> None:
    store = ready.upstream["ghcr.io"].store
    digest = oddities(store)
    kind = "application/vnd.oci.artifact.manifest.v1+json"
    content = json.dumps({"mediaType": kind, "subject": {"digest": digest, "size": 1}, "blobs": []}).encode()
    store.put_manifest(REPOSITORY, content, kind)
    plan, _ = await copied(ready.sovereign(), [REFERENCE])
    assert ready.harbor.store.tags(LOCAL)["v1"] == digest
    assert any("lists a referrer that cannot be kept" in notice for notice in plan.items[0].closure.notices)


async def test_a_manifest_that_changes_between_two_questions_is_kept_as_one_of_both(ready: Any) -> None:
    store = ready.upstream["ghcr.io"].store
    oddities(store)
    seen: list[str] = []
    manifest = store.manifest

    def moving(repository: str, reference: str) -> Any:
        if reference == "v1":
            config = blob(store, b"{}", EMPTY)
            seen.append(
                str(
                    put(store, {"config": config, "layers": [], "annotations": {"n": str(len(seen))}}, OCI, "v1")[
                        "digest"
                    ]
                )
            )
        return manifest(repository, reference)

    store.manifest = moving
    await copied(ready.sovereign(), [REFERENCE])
    kept = ready.harbor.store.tags(LOCAL)["v1"]
    assert kept in seen


async def test_an_upstream_that_answers_with_a_page_is_never_an_absence(ready: Any) -> None:
    publish(ready.upstream["ghcr.io"].store, IMAGE)
    ready.upstream["ghcr.io"].faults.add(Fault(Wrong.STATUS, path="/manifests/", status=200, times=None))
    with pytest.raises((Stuck, Wait)) as caught:
        await copied(ready.sovereign(), [IMAGE])
    assert caught.value.reason != "ReferenceNotFound"
    assert ready.harbor.store.tags("proxy-ghcr/fluxcd/source-controller") == {}
