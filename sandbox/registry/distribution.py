"""The OCI distribution API over a store, with the manners of docker/distribution 2.8.

What bites there and is kept: an OCI index or manifest for which `Accept` does not ask is 404 MANIFEST_UNKNOWN
(registry/handlers/manifests.go), and an index whose children are not all there is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from sandbox.registry import answers
from sandbox.registry.answers import Problem
from sandbox.registry.store import (
    DIGEST,
    DOCKER_LIST,
    INDEXES,
    MANIFESTS,
    NAME,
    OCI_INDEX,
    OCI_MANIFEST,
    Store,
    Stored,
    sha256,
)

VERSION = {"Docker-Distribution-Api-Version": "registry/2.0"}
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_PLACES = (
    ("base", re.compile(r"/v2/?")),
    ("catalog", re.compile(r"/v2/_catalog")),
    ("tags", re.compile(r"/v2/(?P<repository>.+)/tags/list")),
    ("manifest", re.compile(r"/v2/(?P<repository>.+)/manifests/(?P<reference>[^/]+)")),
    ("uploads", re.compile(r"/v2/(?P<repository>.+)/blobs/uploads/?")),
    ("upload", re.compile(r"/v2/(?P<repository>.+)/blobs/uploads/(?P<reference>[^/]+)")),
    ("blob", re.compile(r"/v2/(?P<repository>.+)/blobs/(?P<reference>[^/]+)")),
    ("referrers", re.compile(r"/v2/(?P<repository>.+)/referrers/(?P<reference>[^/]+)")),
)


@dataclass(frozen=True, slots=True)
class Target:
    """What a request is about."""

    kind: str
    repository: str = ""
    reference: str = ""


def target_of(path: str) -> Target:
    """Read the path. Raises Problem when it is no path of this API."""
    for kind, pattern in _PLACES:
        if match := pattern.fullmatch(path):
            target = Target(kind, **match.groupdict())
            if target.repository and not NAME.fullmatch(target.repository):
                raise Problem(400, "NAME_INVALID", "invalid repository name")
            return target
    raise Problem(404, "NOT_FOUND", "404 page not found")


def accepted(values: Iterable[str]) -> frozenset[str]:
    """Media types that `Accept` names; wildcards count for nothing, as in docker/distribution."""
    return frozenset(part.split(";")[0].strip() for value in values for part in value.split(","))


def missing(document: Mapping[str, Any], is_index: bool, store: Store, repository: str) -> list[str]:
    """Digests that the manifest names and the repository does not have. Foreign layers (`urls`) are exempt."""
    if is_index:
        wanted = [str(m["digest"]) for m in document.get("manifests") or []]
        return [d for d in wanted if store.manifest(repository, d) is None]
    parts = [document.get("config") or {}, *(document.get("layers") or [])]
    wanted = [str(p.get("digest", "")) for p in parts if not p.get("urls")]
    return [d for d in wanted if not store.has_blob(repository, d)]


class Distribution:
    """The handlers. A registry with rules of its own overrides `authorise` and what it needs."""

    def __init__(self, store: Store, *, referrers: bool = True) -> None:
        self.store = store
        self._referrers = referrers
        self._handlers: dict[tuple[str, str], Callable[[web.Request, Target], Awaitable[web.StreamResponse]]] = {
            ("base", "GET"): self._base,
            ("base", "HEAD"): self._base,
            ("catalog", "GET"): self._catalog,
            ("tags", "GET"): self._tags,
            ("manifest", "GET"): self.get_manifest,
            ("manifest", "HEAD"): self.get_manifest,
            ("manifest", "PUT"): self.put_manifest,
            ("manifest", "DELETE"): self.delete_manifest,
            ("blob", "GET"): self.get_blob,
            ("blob", "HEAD"): self.get_blob,
            ("blob", "DELETE"): self._delete_blob,
            ("uploads", "POST"): self._begin,
            ("upload", "GET"): self._upload_status,
            ("upload", "PATCH"): self._patch,
            ("upload", "PUT"): self._finish,
            ("upload", "DELETE"): self._cancel,
            ("referrers", "GET"): self.get_referrers,
        }

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request below /v2."""
        target = target_of(request.path)
        await self.authorise(request, target)
        handler = self._handlers.get((target.kind, request.method))
        if handler is None:
            raise Problem(405, "UNSUPPORTED", "The operation is unsupported.")
        return await handler(request, target)

    async def authorise(self, request: web.Request, target: Target) -> None:
        """Raise Problem when the caller may not do this."""

    # reading

    async def _base(self, request: web.Request, target: Target) -> web.StreamResponse:
        return web.json_response({}, headers=VERSION)

    async def _catalog(self, request: web.Request, target: Target) -> web.StreamResponse:
        names, link = page(self.store.repositories(), request, "/v2/_catalog")
        return web.json_response({"repositories": names}, headers={**VERSION, **link})

    async def _tags(self, request: web.Request, target: Target) -> web.StreamResponse:
        if not self.store.exists(target.repository):
            detail = {"name": target.repository}
            raise Problem(404, "NAME_UNKNOWN", "repository name not known to registry", detail=detail)
        tags, link = page(list(self.store.tags(target.repository)), request, request.path)
        body = {"name": target.repository, "tags": tags or None}
        return web.json_response(body, headers={**VERSION, **link})

    async def get_manifest(self, request: web.Request, target: Target) -> web.StreamResponse:
        """HEAD and GET of a manifest that is here."""
        stored = self.store.manifest(target.repository, target.reference)
        if stored is None:
            raise self.manifest_unknown(target)
        return await self.send_manifest(request, target, stored)

    async def send_manifest(self, request: web.Request, target: Target, stored: Stored) -> web.StreamResponse:
        """The manifest, if `Accept` allows it."""
        accepts = accepted(request.headers.getall("Accept", []))
        for media_type, words in ((OCI_MANIFEST, "OCI manifest"), (OCI_INDEX, "OCI index")):
            if stored.media_type == media_type and media_type not in accepts:
                raise Problem(404, "MANIFEST_UNKNOWN", f"{words} found, but accept header does not support it")
        by_tag = not target.reference.startswith("sha256:")
        if by_tag and stored.media_type == DOCKER_LIST and DOCKER_LIST not in accepts:
            stored = self._default_platform(target, stored)
        headers = {
            **VERSION,
            "Content-Type": stored.media_type,
            "Docker-Content-Digest": stored.digest,
            "Etag": f'"{stored.digest}"',
        }
        return await answers.send(request, stored.content, headers)

    def _default_platform(self, target: Target, listing: Stored) -> Stored:
        """A client that cannot read lists is given linux/amd64."""
        for child in listing.document["manifests"]:
            if child["platform"] == {"architecture": "amd64", "os": "linux"}:
                found = self.store.manifest(target.repository, child["digest"])
                if found is not None:
                    return found
        raise self.manifest_unknown(target)

    def manifest_unknown(self, target: Target) -> Problem:
        """404 in this registry's words."""
        return Problem(404, "MANIFEST_UNKNOWN", "manifest unknown", detail=f"unknown tag={target.reference}")

    async def get_blob(self, request: web.Request, target: Target) -> web.StreamResponse:
        """HEAD and GET of a blob that is here, ranges included."""
        _digest(target.reference)
        if not self.store.has_blob(target.repository, target.reference):
            raise Problem(404, "BLOB_UNKNOWN", "blob unknown to registry", detail=target.reference)
        headers = {
            **VERSION,
            "Content-Type": "application/octet-stream",
            "Docker-Content-Digest": target.reference,
        }
        return await answers.send_file(request, self.store.blob_path(target.reference), headers)

    async def get_referrers(self, request: web.Request, target: Target) -> web.StreamResponse:
        """Spec 1.1: an index of those who name this digest as `subject`; empty when nobody does."""
        if not self._referrers:
            raise Problem(404, "NOT_FOUND", "404 page not found")
        _digest(target.reference)
        listed = [_descriptor(m) for m in self.store.referrers(target.repository, target.reference)]
        headers = dict(VERSION)
        if kind := request.query.get("artifactType"):
            listed = [d for d in listed if d.get("artifactType") == kind]
            headers["OCI-Filters-Applied"] = "artifactType"
        body = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed}
        return web.Response(text=json.dumps(body), content_type=OCI_INDEX, headers=headers)

    # writing

    async def put_manifest(self, request: web.Request, target: Target) -> web.StreamResponse:
        """Kept byte for byte, if everything that it names is here."""
        content = await request.read()
        media_type = request.headers.get("Content-Type", "")
        document = _read(content, media_type)
        by_digest = target.reference.startswith("sha256:")
        if by_digest and sha256(content) != target.reference:
            raise Problem(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        if not by_digest and not TAG.fullmatch(target.reference):
            raise Problem(400, "TAG_INVALID", "manifest tag did not match URI")
        if absent := missing(document, media_type in INDEXES, self.store, target.repository):
            detail = {"digest": absent[0]}
            raise Problem(400, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry", detail=detail)
        tag = None if by_digest else target.reference
        digest = self.store.put_manifest(target.repository, content, media_type, tag)
        headers = {**VERSION, "Location": f"/v2/{target.repository}/manifests/{digest}"}
        headers["Docker-Content-Digest"] = digest
        if subject := document.get("subject", {}).get("digest"):
            headers["OCI-Subject"] = subject
        return web.Response(status=201, headers=headers)

    async def delete_manifest(self, request: web.Request, target: Target) -> web.StreamResponse:
        """By digest: the manifest and its tags."""
        if not target.reference.startswith("sha256:"):
            raise Problem(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        if not self.store.delete_manifest(target.repository, target.reference):
            raise Problem(404, "MANIFEST_UNKNOWN", "manifest unknown")
        return web.Response(status=202, headers=VERSION)

    async def _delete_blob(self, request: web.Request, target: Target) -> web.StreamResponse:
        if not self.store.delete_blob(target.repository, target.reference):
            raise Problem(404, "BLOB_UNKNOWN", "blob unknown to registry")
        return web.Response(status=202, headers=VERSION)

    async def _begin(self, request: web.Request, target: Target) -> web.StreamResponse:
        digest, source = request.query.get("mount"), request.query.get("from")
        if digest and source and await self.may_mount(request, source):
            _digest(digest)
            if self.store.has_blob(source, digest):
                self.store.link_blob(target.repository, digest)
                return _created(target.repository, digest)
        upload = self.store.begin_upload(target.repository)
        if whole := request.query.get("digest"):
            await self._receive(request, target.repository, upload)
            return self._commit(target.repository, upload, whole)
        return _progress(target.repository, upload, 0)

    async def may_mount(self, request: web.Request, source: str) -> bool:
        """Whether the caller may read the repository that it mounts from."""
        return True

    async def _upload_status(self, request: web.Request, target: Target) -> web.StreamResponse:
        return _progress(target.repository, target.reference, self._size(target), status=204)

    async def _patch(self, request: web.Request, target: Target) -> web.StreamResponse:
        self._in_order(request, target)
        await self._receive(request, target.repository, target.reference)
        return _progress(target.repository, target.reference, self._size(target))

    async def _finish(self, request: web.Request, target: Target) -> web.StreamResponse:
        self._in_order(request, target)
        await self._receive(request, target.repository, target.reference)
        return self._commit(target.repository, target.reference, request.query.get("digest", ""))

    async def _cancel(self, request: web.Request, target: Target) -> web.StreamResponse:
        self._size(target)
        self.store.drop_upload(target.reference)
        return web.Response(status=204, headers=VERSION)

    def _in_order(self, request: web.Request, target: Target) -> None:
        """A chunk that does not begin where the last one ended is 416 (spec, "Pushing a blob in chunks")."""
        size = self._size(target)
        span = re.match(r"(\d+)-", request.headers.get("Content-Range", f"{size}-"))
        if span is None or int(span[1]) != size:
            raise Problem(416, "BLOB_UPLOAD_INVALID", "blob upload invalid", headers={"Range": f"0-{size - 1}"})

    async def _receive(self, request: web.Request, repository: str, upload: str) -> None:
        path = self.store.upload_path(repository, upload)
        if path is None:
            raise Problem(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
        with path.open("ab") as file:
            async for chunk in request.content.iter_any():
                file.write(chunk)

    def _commit(self, repository: str, upload: str, digest: str) -> web.Response:
        if not DIGEST.fullmatch(digest) or not self.store.commit_upload(repository, upload, digest):
            raise Problem(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        return _created(repository, digest)

    def _size(self, target: Target) -> int:
        path = self.store.upload_path(target.repository, target.reference)
        if path is None:
            raise Problem(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
        return path.stat().st_size


def page(names: list[str], request: web.Request, path: str) -> tuple[list[str], dict[str, str]]:
    """The part of the list that `n` and `last` ask for, and the `Link` to the next one."""
    rest = [n for n in names if n > request.query.get("last", "")]
    size = int(request.query.get("n") or len(rest) or 1)
    more = len(rest) > size
    link = {"Link": f'<{path}?last={rest[size - 1]}&n={size}>; rel="next"'} if more else {}
    return rest[:size], link


def _digest(text: str) -> None:
    if not DIGEST.fullmatch(text):
        raise Problem(400, "DIGEST_INVALID", "provided digest did not match uploaded content", detail=text)


def _read(content: bytes, media_type: str) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except ValueError:
        raise Problem(400, "MANIFEST_INVALID", "manifest invalid") from None
    stated = document.get("mediaType", media_type) if isinstance(document, dict) else ""
    if media_type not in INDEXES | MANIFESTS or stated != media_type:
        raise Problem(400, "MANIFEST_INVALID", "manifest invalid", detail={"mediaType": media_type})
    if not isinstance(document.get("manifests" if media_type in INDEXES else "config"), list | dict):
        raise Problem(400, "MANIFEST_INVALID", "manifest invalid")
    parsed: dict[str, Any] = document
    return parsed


def _descriptor(stored: Stored) -> dict[str, Any]:
    document = stored.document
    kind = document.get("artifactType") or document.get("config", {}).get("mediaType")
    found = {"mediaType": stored.media_type, "digest": stored.digest, "size": len(stored.content)}
    extra = {"artifactType": kind, "annotations": document.get("annotations")}
    return found | {k: v for k, v in extra.items() if v}


def _created(repository: str, digest: str) -> web.Response:
    headers = {"Location": f"/v2/{repository}/blobs/{digest}", "Docker-Content-Digest": digest}
    return web.Response(status=201, headers={**VERSION, **headers})


def _progress(repository: str, upload: str, size: int, status: int = 202) -> web.Response:
    headers = {
        "Location": f"/v2/{repository}/blobs/uploads/{upload}",
        "Docker-Upload-UUID": upload,
        "Range": f"0-{max(size - 1, 0)}",
    }
    return web.Response(status=status, headers={**VERSION, **headers})
