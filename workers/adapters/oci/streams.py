"""Bodies as they pass: whole up to a size, hashed on the way, counted."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from aiohttp import StreamReader

from workers.adapters.oci.manifest import Descriptor
from workers.adapters.oci.trouble import WireTrouble, WrongBytes

CHUNK = 256 * 1024  # bytes
Heard = Callable[[int], None]
"""Told how many bytes of a blob have passed in this attempt; 0 when one begins."""


class TooLong(Exception):
    """More than anybody should send here."""


async def read_most(body: StreamReader, most: int) -> bytes:
    """A whole body. Raises TooLong when it is longer than `most` bytes, and reads no further."""
    content = bytearray()
    async for chunk in body.iter_chunked(CHUNK):
        content += chunk
        if len(content) > most:
            raise TooLong(f"larger than {most} bytes")
    return bytes(content)


async def hashed(chunks: AsyncIterator[bytes], blob: Descriptor, said: str) -> AsyncGenerator[bytes, None]:
    """The chunks, the last one only when all of them are the digest: what is wrong is never whole elsewhere."""
    digest, size, held = hashlib.sha256(), 0, b""
    async for chunk in chunks:
        digest.update(chunk)
        size += len(chunk)
        if held:
            yield held
        held = chunk
    if size != blob.size or f"sha256:{digest.hexdigest()}" != blob.digest:
        wrong = WrongBytes(f"{said}: the body is sha256:{digest.hexdigest()}, {size} bytes")
        wrong.reading = True
        raise wrong
    yield held


async def followed_by(first: bytes, rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    yield first
    async for chunk in rest:
        yield chunk


class Passing:
    """Counts the chunks that pass, and remembers what stopped them."""

    def __init__(self, heard: Heard) -> None:
        self._heard = heard
        self.trouble: WireTrouble | None = None

    async def through(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The same chunks."""
        passed = 0
        try:
            async for chunk in chunks:
                passed += len(chunk)
                self._heard(passed)
                yield chunk
        except WireTrouble as trouble:
            trouble.reading = True
            self.trouble = trouble
            raise
