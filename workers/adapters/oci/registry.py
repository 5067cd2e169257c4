"""What one registry can be asked for and told, each answer hashed before it is believed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp
import anyio
from yarl import URL

from workers.adapters.oci.manifest import ACCEPT, OCI_INDEX, BadManifest, Descriptor, Manifest, listed, typed
from workers.adapters.oci.streams import CHUNK, Heard, Passing, TooLong, followed_by, hashed, read_most
from workers.adapters.oci.trouble import (
    Missing,
    Patience,
    Refused,
    Unavailable,
    WireTrouble,
    WrongBytes,
    patiently,
)
from workers.adapters.oci.wire import Wire

LARGEST = 16 * 2**20
"""Bytes of a manifest; registries take 4 MiB (distribution spec, "Pushing Manifests")."""
PAGES = 100  # of one list of referrers
FAREWELL = 2.0  # seconds to take a half upload back, when the copy is being cancelled too


@dataclass(frozen=True, slots=True)
class Source:
    """One repository of one registry, to read from."""

    registry: Registry
    repository: str

    def __str__(self) -> str:
        return f"{self.registry.name}/{self.repository}"


class Registry:
    """One registry, patiently."""

    def __init__(self, wire: Wire, patience: Patience) -> None:
        self._wire = wire
        self._patience = patience
        self._lists_referrers = True

    @property
    def name(self) -> str:
        """As messages name it."""
        return self._wire.name

    # reading

    async def resolve(self, repository: str, reference: str, *, patience: Patience | None = None) -> str | None:
        """The digest that a tag or digest names now; None when the registry does not have it.

        By HEAD, which Docker Hub does not count. Without the header or HEAD (old registries) the body is hashed.
        """

        async def ask() -> str | None:
            try:
                async with self._wire.call(
                    "HEAD",
                    f"v2/{repository}/manifests/{reference}",
                    scope=_pull(repository),
                    headers={"Accept": ACCEPT},
                ) as response:
                    return response.headers.get("Docker-Content-Digest", "")
            except Missing:
                return None
            except Refused:
                return ""  # it has no HEAD (405): the body tells

        digest = await patiently(patience or self._patience, ask)
        if digest != "":
            return digest
        try:
            return (await self.manifest(repository, reference)).digest
        except Missing:
            return None

    async def remaining(self, repository: str, reference: str) -> int | None:
        """How many manifests the registry still gives us in its window; None when it sets no limit.

        `ratelimit-remaining: 20;w=21600`, by HEAD, which does not count (docs.docker.com/docker-hub/usage/pulls).
        """
        path = f"v2/{repository}/manifests/{reference}"
        headers = {"Accept": ACCEPT}
        try:
            async with self._wire.call("HEAD", path, scope=_pull(repository), headers=headers) as response:
                said = response.headers.get("ratelimit-remaining", "").partition(";")[0]
        except WireTrouble:
            return None  # whatever it is, reading the manifest will tell
        return int(said) if said.isdigit() else None

    async def manifest(self, repository: str, reference: str) -> Manifest:
        """The manifest, byte for byte. Raises Missing; WrongBytes when it is not the digest that was asked.

        Raises BadManifest for what is too large to be one, or of schema version 1.
        """

        async def ask() -> Manifest:
            async with self._wire.call(
                "GET",
                f"v2/{repository}/manifests/{reference}",
                scope=_pull(repository),
                headers={"Accept": ACCEPT},
            ) as response:
                found = typed(await _whole(response, f"{self.name}/{repository}:{reference}"), response.content_type)
                claimed = response.headers.get("Docker-Content-Digest", found.digest)
            wanted = reference if reference.startswith("sha256:") else claimed
            if found.digest != wanted:
                raise WrongBytes(f"{self.name}/{repository}@{wanted}: the body is {found.digest}")
            return found

        return await patiently(self._patience, ask)

    async def has_blob(self, repository: str, blob: Descriptor) -> bool:
        """Whether the repository serves the blob, in its size."""

        async def ask() -> bool:
            try:
                async with self._wire.call(
                    "HEAD", f"v2/{repository}/blobs/{blob.digest}", scope=_pull(repository)
                ) as response:
                    return response.content_length in (None, blob.size)
            except Missing:
                return False

        return await patiently(self._patience, ask)

    @asynccontextmanager
    async def blob(self, repository: str, blob: Descriptor) -> AsyncIterator[AsyncGenerator[bytes, None]]:
        """The blob's bytes as they come. The last chunk is held back until the hash is right.

        What breaks off goes on where it broke off, patiently; wrong bytes are the caller's to begin again.
        """
        said = f"{self.name}/{repository}@{blob.digest}"
        async with (
            aclosing(self._pieces(repository, blob, said)) as pieces,
            aclosing(hashed(pieces, blob, said)) as chunks,
        ):
            # Begun before anything is sent elsewhere: a source that does not give costs no upload.
            yield followed_by(await anext(chunks, b""), chunks)

    async def _pieces(self, repository: str, blob: Descriptor, said: str) -> AsyncGenerator[bytes, None]:
        path = f"v2/{repository}/blobs/{blob.digest}"
        done, attempt = 0, 1
        while True:
            before = done
            try:
                headers = {"Range": f"bytes={done}-"} if done else {}
                async with self._wire.call("GET", path, scope=_pull(repository), headers=headers) as response:
                    # A registry may ignore the range and send all again.
                    again = done if response.status == 200 else 0
                    async for chunk in response.content.iter_chunked(CHUNK):
                        fresh, again = chunk[again:], max(0, again - len(chunk))
                        done += len(fresh)
                        if fresh:
                            yield fresh
                if done >= blob.size:
                    return
                raise Unavailable(f"{said}: the body ends after {done} of {blob.size} bytes")
            except Unavailable as trouble:
                attempt = 1 if done > before else attempt
                pause = self._patience.pause(attempt, trouble.after)
                if pause is None:
                    trouble.reading = trouble.spent = True
                    raise
            except WireTrouble as trouble:
                if done and isinstance(trouble, Refused):
                    # 416: it has no more than what came. Begun again, all of it is read and hashed.
                    trouble = WrongBytes(f"{said}: ends after {done} of {blob.size} bytes: {trouble}")
                trouble.reading = True
                raise trouble
            await anyio.sleep(pause)
            attempt += 1

    async def read_blob(self, repository: str, blob: Descriptor) -> int:
        """Read the blob to its end and believe it only when hash and size are right; bytes read."""

        async def read() -> int:
            async with self.blob(repository, blob) as chunks:
                return sum([len(chunk) async for chunk in chunks])

        return await patiently(self._patience, read)

    async def get_bytes(self, repository: str, blob: Descriptor) -> bytes:
        """The whole blob in memory, hashed. For small ones: the caller looks at its size first."""

        async def read() -> bytes:
            async with self.blob(repository, blob) as chunks:
                return b"".join([chunk async for chunk in chunks])

        return await patiently(self._patience, read)

    async def redirect(self, repository: str, blob: Descriptor) -> str | None:
        """Host to which the registry sends readers of the blob; None when it gives the bytes itself."""

        async def ask() -> str | None:
            path = f"v2/{repository}/blobs/{blob.digest}"
            async with self._wire.call("HEAD", path, scope=_pull(repository), redirects=False) as response:
                location = response.headers.get("Location", "")
                return urlsplit(location).hostname if 300 <= response.status < 400 else None

        return await patiently(self._patience, ask)

    async def referrers(self, repository: str, digest: str) -> tuple[Descriptor, ...]:
        """Manifests that name this one as `subject`. Where the API is not served, the tag schema is asked."""

        path: str | None = f"v2/{repository}/referrers/{digest}"

        async def ask() -> tuple[tuple[Descriptor, ...], str | None]:
            async with self._wire.call(
                "GET", path or "", scope=_pull(repository), headers={"Accept": OCI_INDEX}
            ) as response:
                more = response.links.get("next")
                found = listed(await _whole(response, f"{self.name}/{path}"))
                return found, URL(str(more["url"])).raw_path_qs if more else None

        found: dict[Descriptor, None] = {}
        try:
            for _ in range(PAGES if self._lists_referrers else 0):
                page, path = await patiently(self._patience, ask)
                found |= dict.fromkeys(page)
                if path is None:
                    return tuple(found)
        except (Missing, Refused, BadManifest):
            # 404, or something that is no list: the API is not served (spec 1.1); not asked again.
            self._lists_referrers = False
        return (*found, *await self._tagged_referrers(repository, digest))

    async def _tagged_referrers(self, repository: str, digest: str) -> tuple[Descriptor, ...]:
        """Spec 1.1, "Referrers Tag Schema": an index under the digest with a dash."""
        tag = digest.replace(":", "-")
        if await self.resolve(repository, tag) is None:
            return ()
        return (await self.manifest(repository, tag)).children

    # writing

    async def mount(self, repository: str, blob: Descriptor, source: str) -> bool:
        """Serve the blob here as it is served in `source`; False when the registry would rather be sent it."""

        async def ask() -> bool:
            async with self._wire.call(
                "POST",
                f"v2/{repository}/blobs/uploads/",
                scope=f"{_push(repository)} {_pull(source)}",
                params={"mount": blob.digest, "from": source},
            ) as response:
                mounted, location = response.status == 201, response.headers.get("Location", "")
            if not mounted and location:
                await self._drop(repository, location)
            return mounted

        return await patiently(self._patience, ask)

    async def put_blob(self, repository: str, blob: Descriptor, source: Source, heard: Heard) -> None:
        """Stream the blob from the source: hashed on the way, kept nowhere. Tries again what is passing."""

        async def copy() -> None:
            heard(0)
            passing = Passing(heard)
            async with source.registry.blob(source.repository, blob) as chunks:
                location, whole = await self._begin(repository), False
                try:
                    await self._send(repository, location, blob, passing.through(chunks))
                    whole = True
                except WireTrouble as trouble:
                    # aiohttp tells of a body that failed as of a connection that failed; the cause is what counts.
                    raise passing.trouble or trouble from trouble
                finally:
                    if not whole:
                        with anyio.move_on_after(FAREWELL, shield=True):
                            await self._drop(repository, location)

        await patiently(self._patience, copy)

    async def put_bytes(self, repository: str, content: bytes, digest: str) -> Descriptor:
        """Keep bytes that were made here."""
        blob = Descriptor(digest, len(content))

        async def put() -> None:
            await self._send(repository, await self._begin(repository), blob, content)

        if not await self.has_blob(repository, blob):
            await patiently(self._patience, put)
        return blob

    async def put_manifest(self, repository: str, reference: str, manifest: Manifest) -> None:
        """Keep the manifest under this tag or digest, byte for byte."""

        async def put() -> None:
            async with self._wire.call(
                "PUT",
                f"v2/{repository}/manifests/{reference}",
                scope=_push(repository),
                headers={"Content-Type": manifest.media_type},
                data=manifest.content,
            ) as response:
                got = response.headers.get("Docker-Content-Digest", manifest.digest)
            if got != manifest.digest:
                raise Refused(f"{self.name}/{repository}:{reference} was kept as {got}, not {manifest.digest}")

        await self._sign_in(repository)
        await patiently(self._patience, put)

    async def _sign_in(self, repository: str) -> None:
        """Have a token for pushing before a body is sent: an upload that is begun and dropped brings it."""
        if not self._wire.ready(_push(repository)):
            await self._drop(repository, await patiently(self._patience, lambda: self._begin(repository)))

    async def _begin(self, repository: str) -> str:
        path = f"v2/{repository}/blobs/uploads/"
        async with self._wire.call("POST", path, scope=_push(repository)) as response:
            location = response.headers.get("Location")
        if not location:
            raise Refused(f"POST {self.name}/{path}: no Location")
        return location

    async def _send(self, repository: str, location: str, blob: Descriptor, body: bytes | AsyncIterator[bytes]) -> None:
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(blob.size)}
        async with self._wire.call(
            "PUT",
            location,
            scope=_push(repository),
            headers=headers,
            params={"digest": blob.digest},
            data=body,
        ):
            pass

    async def _drop(self, repository: str, location: str) -> None:
        """Leave no half upload behind; a registry that does not take it back purges it by itself."""
        try:
            async with self._wire.call("DELETE", location, scope=_push(repository)):
                pass
        except WireTrouble:
            return


async def _whole(response: aiohttp.ClientResponse, said: str) -> bytes:
    """The body, which is in memory. Raises BadManifest when it is too large for that."""
    try:
        return await read_most(response.content, LARGEST)
    except TooLong as error:
        raise BadManifest(f"{said} is {error}") from None


def _pull(repository: str) -> str:
    return f"repository:{repository}:pull"


def _push(repository: str) -> str:
    return f"repository:{repository}:pull,push"
