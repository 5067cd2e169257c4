"""What every registry here must do alike. Where docker/distribution 2.8 and the specification differ, it says so."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import httpx
import pytest

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
EVERYTHING = {"Accept": f"{INDEX}, {LIST}, {MANIFEST}, {DOCKER}"}
NOWHERE = "sha256:" + "0" * 64


def sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


async def push_blob(server: Any, repository: str, content: bytes) -> str:
    started = await server.http.post(server.path(repository, "blobs/uploads/"))
    assert started.status_code == 202
    location = httpx.URL(started.headers["location"])
    location = location.copy_merge_params({"digest": sha256(content)})
    headers = {"Content-Type": "application/octet-stream"}
    done = await server.http.put(location, content=content, headers=headers)
    assert done.status_code == 201, done.text
    assert done.headers["docker-content-digest"] == sha256(content)
    return sha256(content)


def image(config: bytes, layer: bytes, media_type: str = MANIFEST) -> bytes:
    kind = "application/vnd.oci.image" if media_type == MANIFEST else "application/vnd.docker.container.image"
    document = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": {"mediaType": f"{kind}.config.v1+json", "digest": sha256(config), "size": len(config)},
        "layers": [
            {
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": sha256(layer),
                "size": len(layer),
            }
        ],
    }
    return json.dumps(document, indent=2).encode()


def index(*children: bytes) -> bytes:
    listed = [{"mediaType": MANIFEST, "digest": sha256(c), "size": len(c)} for c in children]
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}).encode() + b"\n"


async def put(server: Any, repository: str, reference: str, content: bytes, media_type: str) -> httpx.Response:
    headers = {"Content-Type": media_type}
    path = server.path(repository, f"manifests/{reference}")
    answer: httpx.Response = await server.http.put(path, content=content, headers=headers)
    return answer


async def push_image(server: Any, repository: str, tag: str, media_type: str = MANIFEST) -> bytes:
    config, layer = b'{"os":"linux"}', b"layer"
    await push_blob(server, repository, config)
    await push_blob(server, repository, layer)
    content = image(config, layer, media_type)
    answer = await put(server, repository, tag, content, media_type)
    assert answer.status_code == 201, answer.text
    assert answer.headers["docker-content-digest"] == sha256(content)
    return content


def code(answer: httpx.Response) -> str:
    return str(answer.json()["errors"][0]["code"])


async def test_it_says_that_it_speaks_version_2(server: Any) -> None:
    answer = await server.http.get("/v2/")
    assert answer.status_code == 200
    assert answer.headers["docker-distribution-api-version"] == "registry/2.0"


async def test_a_blob_comes_back_byte_for_byte_and_by_range(server: Any) -> None:
    content = bytes(range(256)) * 40
    path = server.path("a/b", f"blobs/{await push_blob(server, 'a/b', content)}")
    head = await server.http.head(path)
    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(len(content)), b"")
    assert head.headers["docker-content-digest"] == sha256(content)
    assert (await server.http.get(path)).content == content
    part = await server.http.get(path, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, content[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(content)}"


async def test_a_blob_may_come_in_chunks_and_the_range_says_how_far_it_is(server: Any) -> None:
    content = b"0123456789" * 100
    started = await server.http.post(server.path("a/b", "blobs/uploads/"))
    chunk = {"Content-Range": "0-399", "Content-Type": "application/octet-stream"}
    first = await server.http.patch(started.headers["location"], content=content[:400], headers=chunk)
    assert (first.status_code, first.headers["range"]) == (202, "0-399")
    where = await server.http.get(first.headers["location"])
    assert (where.status_code, where.headers["range"]) == (204, "0-399")
    chunk["Content-Range"] = "400-999"
    second = await server.http.patch(first.headers["location"], content=content[400:], headers=chunk)
    assert second.headers["range"] == "0-999"
    last = httpx.URL(second.headers["location"]).copy_merge_params({"digest": sha256(content)})
    assert (await server.http.put(last)).status_code == 201
    assert (await server.http.get(server.path("a/b", f"blobs/{sha256(content)}"))).content == content


async def test_an_upload_of_other_bytes_than_its_digest_is_refused_and_kept_nowhere(server: Any) -> None:
    started = await server.http.post(server.path("a/b", "blobs/uploads/"))
    location = httpx.URL(started.headers["location"]).copy_merge_params({"digest": sha256(b"right")})
    answer = await server.http.put(location, content=b"wrong")
    assert (answer.status_code, code(answer)) == (400, "DIGEST_INVALID")
    head = await server.http.head(server.path("a/b", f"blobs/{sha256(b'right')}"))
    assert head.status_code == 404


async def test_a_cancelled_upload_is_unknown(server: Any) -> None:
    started = await server.http.post(server.path("a/b", "blobs/uploads/"))
    assert (await server.http.delete(started.headers["location"])).status_code == 204
    answer = await server.http.get(started.headers["location"])
    assert (answer.status_code, code(answer)) == (404, "BLOB_UPLOAD_UNKNOWN")


async def test_a_blob_is_mounted_from_a_repository_that_has_it_and_else_an_upload_begins(server: Any) -> None:
    digest = await push_blob(server, "a/b", b"shared")
    query = {"mount": digest, "from": f"{server.prefix}a/b"}
    mounted = await server.http.post(server.path("c/d", "blobs/uploads/"), params=query)
    assert mounted.status_code == 201
    assert (await server.http.get(server.path("c/d", f"blobs/{digest}"))).content == b"shared"
    query["mount"] = NOWHERE
    assert (await server.http.post(server.path("c/d", "blobs/uploads/"), params=query)).status_code == 202


async def test_a_blob_of_one_repository_is_unknown_in_another(server: Any) -> None:
    digest = await push_blob(server, "a/b", b"only here")
    answer = await server.http.get(server.path("c/d", f"blobs/{digest}"))
    assert answer.status_code == 404
    assert code(answer) in {"BLOB_UNKNOWN", "NAME_UNKNOWN"}


@pytest.mark.parametrize("media_type", [MANIFEST, DOCKER])
async def test_a_manifest_comes_back_byte_for_byte_by_tag_and_by_digest(server: Any, media_type: str) -> None:
    content = await push_image(server, "a/b", "1.0", media_type)
    for reference in ("1.0", sha256(content)):
        path = server.path("a/b", f"manifests/{reference}")
        got = await server.http.get(path, headers=EVERYTHING)
        assert (got.content, got.headers["content-type"]) == (content, media_type)
        head = await server.http.head(path, headers=EVERYTHING)
        assert head.status_code == 200
        assert head.headers["docker-content-digest"] == sha256(content)
        assert head.headers["content-length"] == str(len(content))


async def test_an_index_comes_back_byte_for_byte_when_all_its_children_are_there(server: Any) -> None:
    child = await push_image(server, "a/b", "child")
    content = index(child)
    assert (await put(server, "a/b", "multi", content, INDEX)).status_code == 201
    got = await server.http.get(server.path("a/b", "manifests/multi"), headers=EVERYTHING)
    assert (got.content, got.headers["content-type"]) == (content, INDEX)


async def test_a_sparse_index_is_refused(server: Any) -> None:
    child = await push_image(server, "a/b", "child")
    answer = await put(server, "a/b", "sparse", index(child, b"not pushed"), INDEX)
    assert (answer.status_code, code(answer)) == (400, "MANIFEST_BLOB_UNKNOWN")
    head = await server.http.head(server.path("a/b", "manifests/sparse"), headers=EVERYTHING)
    assert head.status_code == 404


async def test_a_manifest_whose_blobs_are_missing_is_refused(server: Any) -> None:
    await push_blob(server, "a/b", b"config")
    answer = await put(server, "a/b", "1.0", image(b"config", b"missing"), MANIFEST)
    assert (answer.status_code, code(answer)) == (400, "MANIFEST_BLOB_UNKNOWN")


async def test_a_manifest_under_another_digest_is_refused(server: Any) -> None:
    content = await push_image(server, "a/b", "1.0")
    answer = await put(server, "a/b", sha256(content + b" "), content, MANIFEST)
    assert (answer.status_code, code(answer)) == (400, "DIGEST_INVALID")


@pytest.mark.parametrize(
    ("content", "media_type"), [(b"not json", MANIFEST), (b'"text"', MANIFEST), (b"{}", "text/plain")]
)
async def test_what_is_no_manifest_is_refused(server: Any, content: bytes, media_type: str) -> None:
    answer = await put(server, "a/b", "1.0", content, media_type)
    assert (answer.status_code, code(answer)) == (400, "MANIFEST_INVALID")


@pytest.mark.parametrize("accept", [None, MANIFEST, "*/*"])
async def test_an_oci_index_is_unknown_to_who_does_not_accept_it(server: Any, accept: str | None) -> None:
    content = index(await push_image(server, "a/b", "child"))
    await put(server, "a/b", "multi", content, INDEX)
    headers = {"Accept": accept} if accept else {}
    request = server.http.build_request("GET", server.path("a/b", "manifests/multi"), headers=headers)
    if accept is None:
        del request.headers["Accept"]
    answer = await server.http.send(request)
    assert (answer.status_code, code(answer)) == (404, "MANIFEST_UNKNOWN")


async def test_an_unknown_manifest_is_404(server: Any) -> None:
    await push_image(server, "a/b", "1.0")
    for reference in ("2.0", NOWHERE):
        answer = await server.http.get(server.path("a/b", f"manifests/{reference}"), headers=EVERYTHING)
        assert answer.status_code == 404
        assert code(answer) in {"MANIFEST_UNKNOWN", "NOT_FOUND"}, "Harbor's core says NOT_FOUND"


async def test_a_tag_moves_and_the_old_manifest_stays_under_its_digest(server: Any) -> None:
    old = await push_image(server, "a/b", "1.0")
    new = await push_image(server, "a/b", "1.0", DOCKER)
    head = await server.http.head(server.path("a/b", "manifests/1.0"), headers=EVERYTHING)
    assert head.headers["docker-content-digest"] == sha256(new)
    got = await server.http.get(server.path("a/b", f"manifests/{sha256(old)}"), headers=EVERYTHING)
    assert got.content == old


async def test_tags_are_listed_in_order_and_by_the_page(server: Any) -> None:
    for tag in ("b", "a", "c"):
        await push_image(server, "a/b", tag)
    whole = await server.http.get(server.path("a/b", "tags/list"))
    assert sorted(whole.json()["tags"]) == ["a", "b", "c"]
    if server.name == "docker-registry":
        return  # 2.8 neither sorts tags nor pages them; the specification asks for both
    assert whole.json() == {"name": f"{server.prefix}a/b", "tags": ["a", "b", "c"]}
    first = await server.http.get(server.path("a/b", "tags/list"), params={"n": 2})
    assert first.json()["tags"] == ["a", "b"]
    assert 'rel="next"' in first.headers["link"]


async def test_tags_of_an_unknown_repository_are_404(server: Any) -> None:
    answer = await server.http.get(server.path("no/where", "tags/list"))
    assert (answer.status_code, code(answer)) == (404, "NAME_UNKNOWN")


async def test_the_catalogue_lists_repositories(server: Any) -> None:
    await push_image(server, "a/b", "1.0")
    await push_image(server, "c/d", "1.0")
    answer = await server.http.get("/v2/_catalog", params={"n": 1})
    assert answer.json()["repositories"] == [f"{server.prefix}a/b"]
    assert 'rel="next"' in answer.headers["link"]


async def test_a_deleted_manifest_is_gone_with_its_tag(server: Any) -> None:
    content = await push_image(server, "a/b", "1.0")
    answer = await server.http.delete(server.path("a/b", f"manifests/{sha256(content)}"))
    assert answer.status_code == 202
    for reference in ("1.0", sha256(content)):
        head = await server.http.head(server.path("a/b", f"manifests/{reference}"), headers=EVERYTHING)
        assert head.status_code == 404


async def test_a_deleted_blob_is_gone(server: Any) -> None:
    digest = await push_blob(server, "a/b", b"to go")
    assert (await server.http.delete(server.path("a/b", f"blobs/{digest}"))).status_code == 202
    assert (await server.http.head(server.path("a/b", f"blobs/{digest}"))).status_code == 404


async def test_a_name_with_capitals_is_refused(server: Any) -> None:
    answer = await server.http.get("/v2/library/UPPER/manifests/1.0", headers=EVERYTHING)
    assert answer.status_code in {400, 404}


async def test_referrers_are_an_index_of_who_names_the_subject(server: Any) -> None:
    subject = await push_image(server, "a/b", "1.0")
    document = json.loads(image(b'{"os":"linux"}', b"layer"))
    document["subject"] = {"mediaType": MANIFEST, "digest": sha256(subject), "size": len(subject)}
    document["artifactType"] = "application/vnd.example.sbom"
    content = json.dumps(document).encode()
    assert (await put(server, "a/b", sha256(content), content, MANIFEST)).status_code == 201
    answer = await server.http.get(server.path("a/b", f"referrers/{sha256(subject)}"))
    if server.name == "docker-registry":
        assert answer.status_code == 404, "2.8 has no referrers: a client falls back to the tag schema"
        return
    assert answer.headers["content-type"].startswith(INDEX)
    [found] = answer.json()["manifests"]
    assert (found["digest"], found["artifactType"]) == (sha256(content), "application/vnd.example.sbom")
    none = await server.http.get(server.path("a/b", f"referrers/{NOWHERE}"))
    assert (none.status_code, none.json()["manifests"]) == (200, [])
