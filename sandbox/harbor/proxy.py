"""A proxy project's vices, as in goharbor/harbor 2.14.3 (controller/proxy, middleware/repoproxy):

- every pull by tag asks the upstream, and an upstream that answers 404 has the local copy deleted;
- an index is stored re-serialised, so its digest changes; its original bytes live for seven days, in Redis;
- what was pulled by digest stays untagged, and what nobody pulls for seven days is deleted (core.retain).
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import aiohttp
from aiohttp import web

from sandbox.harbor.core import Core
from sandbox.harbor.endpoints import upstream_host
from sandbox.harbor.state import CachedIndex, PendingIndex, Project
from sandbox.registry.answers import Problem
from sandbox.registry.store import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Stored, sha256

_ACCEPT = ", ".join((OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST))
_CACHE = timedelta(days=7)
_PATIENCE = timedelta(seconds=400)
"""20 polls of 20 s for the children of an index (manifestcache.go)."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    digest: str = ""
    media_type: str = ""
    content: bytes = b""


class Proxy:
    """Asks the upstream for what proxy projects do not have."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._tasks: set[asyncio.Task[None]] = set()

    async def running(self, app: web.Application) -> AsyncIterator[None]:
        """For `cleanup_ctx`: background work ends with the application."""
        yield
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._core.save()

    async def settled(self) -> None:
        """Return when no background work is under way."""
        while self._tasks:
            await asyncio.gather(*tuple(self._tasks), return_exceptions=True)

    async def manifest(self, project: Project, repository: str, reference: str) -> Stored | None:
        """The upstream's manifest; None when the local copy is to be served.

        Raises 404 when the upstream says so, 429 when it says so and there is no local copy.
        """
        self._settle()
        local = self._core.store.manifest(repository, reference)
        if reference.startswith("sha256:") and local is not None:
            return None
        try:
            head = await self._ask(project, repository, "HEAD", f"manifests/{reference}")
        except (aiohttp.ClientError, TimeoutError):
            return None
        if head.status == 404:
            if local is not None:
                self._core.delete_artifact(repository, local.digest)
            raise Problem(404, "NOT_FOUND", f"repo {repository}, tag {reference} not found")
        if head.status == 429 and local is None:
            raise Problem(429, "TOOMANYREQUESTS", "too many requests to the upstream registry")
        if head.status != 200 or (local is not None and local.digest == head.digest):
            return None
        return self._cached(repository, head.digest) or await self._fetch(project, repository, reference)

    async def blob(self, project: Project, repository: str, digest: str) -> None:
        """Fill the local store from upstream. Raises 404 when it cannot be had."""
        try:
            answer = await self._ask(project, repository, "GET", f"blobs/{digest}")
        except (aiohttp.ClientError, TimeoutError):
            answer = _Answer(503)
        if answer.status != 200 or sha256(answer.content) != digest:
            raise Problem(404, "NOT_FOUND", f"blob {digest} not found, upstream answered {answer.status}")
        self._core.store.put_blob(repository, answer.content)

    async def _fetch(self, project: Project, repository: str, reference: str) -> Stored | None:
        try:
            answer = await self._ask(project, repository, "GET", f"manifests/{reference}")
        except (aiohttp.ClientError, TimeoutError):
            return None
        if answer.status != 200:
            return None
        stored = Stored(answer.digest or sha256(answer.content), answer.media_type, answer.content)
        if stored.is_index:
            self._remember(repository, reference, stored)
        else:
            self._start(self._keep(project, repository, reference, stored))
        return stored

    # what is kept

    async def _keep(self, project: Project, repository: str, reference: str, stored: Stored) -> None:
        document = stored.document
        for part in [document["config"], *document.get("layers", [])]:
            if not self._core.store.has_blob(repository, part["digest"]):
                try:
                    await self.blob(project, repository, part["digest"])
                except Problem:
                    return
        self._store(repository, reference, stored.content, stored.media_type)
        self._settle()

    def _store(self, repository: str, reference: str, content: bytes, media_type: str) -> None:
        tag = None if reference.startswith("sha256:") else reference
        digest = self._core.store.put_manifest(repository, content, media_type, tag)
        self._core.pulled(repository, digest)

    def _remember(self, repository: str, reference: str, stored: Stored) -> None:
        now = self._core.clock.now()
        self._core.state.cache[f"{repository}@{stored.digest}"] = CachedIndex(
            content=base64.b64encode(stored.content).decode(),
            media_type=stored.media_type,
            digest=stored.digest,
            until=now + _CACHE,
        )
        waiting = PendingIndex(repository=repository, reference=reference, digest=stored.digest, until=now + _PATIENCE)
        self._core.state.pending.append(waiting)
        self._core.changed()

    def _cached(self, repository: str, digest: str) -> Stored | None:
        found = self._core.state.cache.get(f"{repository}@{digest}")
        if found is None or found.until < self._core.clock.now():
            return None
        return Stored(found.digest, found.media_type, base64.b64decode(found.content))

    def _settle(self) -> None:
        """Store each index whose children are all here, or, when time is up, with those that are."""
        for waiting in tuple(self._core.state.pending):
            original = self._cached(waiting.repository, waiting.digest)
            children = original.document["manifests"] if original else []
            here = [c for c in children if self._core.store.manifest(waiting.repository, c["digest"])]
            if len(here) < len(children) and self._core.clock.now() < waiting.until:
                continue
            self._core.state.pending.remove(waiting)
            if original is not None and here:
                content = reserialised(original, here)
                self._store(waiting.repository, waiting.reference, content, original.media_type)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # the upstream

    async def _ask(self, project: Project, repository: str, method: str, path: str) -> _Answer:
        registry = self._core.state.registries[project.registry_id or 0]
        wire = await self._core.wire(upstream_host(registry.url))
        remote = repository.partition("/")[2]
        if upstream_host(registry.url) == "docker.io" and "/" not in remote:
            remote = f"library/{remote}"
        timeout = aiohttp.ClientTimeout(total=15)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            _authorised(session, method, f"{wire}/v2/{remote}/{path}", remote) as response,
        ):
            content = await response.read() if response.status == 200 else b""
            digest = response.headers.get("Docker-Content-Digest", "")
            return _Answer(response.status, digest, response.content_type, content)


@asynccontextmanager
async def _authorised(
    session: aiohttp.ClientSession, method: str, url: str, repository: str
) -> AsyncIterator[aiohttp.ClientResponse]:
    headers = {"Accept": _ACCEPT}
    async with session.request(method, url, headers=headers) as response:
        if response.status != 401:
            yield response
            return
        realm = response.headers["WWW-Authenticate"].partition('realm="')[2].partition('"')[0]
    async with session.get(realm, params={"scope": f"repository:{repository}:pull"}) as answer:
        headers["Authorization"] = f"Bearer {(await answer.json())['token']}"
    async with session.request(method, url, headers=headers) as response:
        yield response


def reserialised(original: Stored, children: list[dict[str, object]]) -> bytes:
    """As manifestlist.FromDescriptors writes it: three spaces, no annotations of the index, no subject."""
    document = {"schemaVersion": 2, "mediaType": original.media_type, "manifests": children}
    return json.dumps(document, indent=3).encode()
