"""All registries a Sovereign deals with: its own Harbor to write to, the upstreams to read from."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import aiohttp

from workers.adapters.oci import destination, probe
from workers.adapters.oci.closure import read
from workers.adapters.oci.copier import Copier
from workers.adapters.oci.copying import Wanted, local_verdict
from workers.adapters.oci.manifest import BadManifest, Descriptor, sha256
from workers.adapters.oci.places import Origin, origins
from workers.adapters.oci.proving import reachable
from workers.adapters.oci.reference import chart_tag
from workers.adapters.oci.registry import Registry, Source
from workers.adapters.oci.trouble import Missing, Patience, WireTrouble
from workers.adapters.oci.wire import Wire
from workers.errors import Stuck
from workers.sovereign import Login, Sovereign

CONNECT, SILENCE = 10.0, 60.0  # seconds until a connection stands, and between two pieces of a body


def session() -> aiohttp.ClientSession:
    """How registries are spoken to. No cookies: with one, Harbor wants a CSRF token; nothing is encoded."""
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=SILENCE),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        headers={"Accept-Encoding": "identity"},
    )


class Registries:
    """Local Harbor and its upstreams on the wire."""

    def __init__(self, sovereign: Sovereign, http: aiohttp.ClientSession, patience: Patience | None = None) -> None:
        self._sovereign = sovereign
        self._http = http
        self._patience = patience or Patience()
        self._registries: dict[str, Registry] = {}
        harbor = sovereign.harbor
        wire = Wire(http, harbor.url, harbor.host, harbor.login, eager=True)
        self._local = Registry(wire, self._patience)

    @classmethod
    @asynccontextmanager
    async def open(cls, sovereign: Sovereign, patience: Patience | None = None) -> AsyncIterator[Registries]:
        """For as long as the block lasts."""
        async with session() as http:
            yield cls(sovereign, http, patience)

    def reading_as(self, login: Login) -> Registries:
        """The same, where local Harbor is asked as somebody else."""
        harbor = self._sovereign.harbor.model_copy(update={"login": login})
        return Registries(self._sovereign.model_copy(update={"harbor": harbor}), self._http, self._patience)

    async def destination_ready(self, login: Login | None, repository: str) -> None:
        """Local Harbor answers where Flux, or nodes without a login, will ask.

        Raises Wait `DestinationNotReady`, Stuck `TokenRealm`, `RobotRefused`.
        """
        await destination.ready(self._sovereign.harbor, login, repository)

    # one thing in local Harbor

    async def local_digest(self, repository: str, reference: str) -> str | None:
        """The digest that local Harbor serves under this tag or digest; None when it does not."""
        try:
            return await self._local.resolve(repository, reference)
        except WireTrouble as trouble:
            raise local_verdict(repository, trouble) from trouble

    async def push_probe(self, repository: str, tag: str, content: bytes) -> str:
        """An image that exists only in local Harbor: one layer with `content`. Its digest."""
        layer, diff = probe.layer(content)
        config = probe.config(diff)
        try:
            for part in (config, layer):
                await self._local.put_bytes(repository, part, sha256(part))
            manifest = probe.manifest(config, layer)
            await self._local.put_manifest(repository, tag, manifest)
        except WireTrouble as trouble:
            raise local_verdict(repository, trouble) from trouble
        return manifest.digest

    async def probe_readers(self, repository: str) -> None:
        """Readers of local Harbor get bytes from Harbor itself. Raises Stuck when nodes could not follow it.

        Asked of a tiny image that is always the same; it is pushed when it is not there.
        """
        content, tag = b"can readers get this?", "readers"
        layer, _ = probe.layer(content)
        try:
            if await self._local.resolve(repository, tag) is None:
                await self.push_probe(repository, tag, content)
            await reachable(self._local, repository, Descriptor(sha256(layer), len(layer)))
        except WireTrouble as trouble:
            raise local_verdict(repository, trouble) from trouble

    async def packed(self, repository: str, reference: str, media_type: str, most: int) -> bytes | None:
        """The first layer of that type of what local Harbor serves, hashed; None without one, or a larger one.

        Raises Stuck `NotServed` when it is not there.
        """
        try:
            manifest = await self._local.manifest(repository, reference)
            layer = next((d for d in manifest.layers(media_type) if d.size <= most), None)
            return await self._local.get_bytes(repository, layer) if layer else None
        except (WireTrouble, BadManifest) as trouble:
            raise local_verdict(repository, trouble) from trouble

    async def pull_chart(self, repository: str, version: str) -> str:
        """Pull a chart as Flux would: manifest and blobs from local Harbor, each hashed. Its digest.

        Raises Stuck when local Harbor does not have it.
        """
        tag, source = chart_tag(version), Source(self._local, repository)
        try:
            found = await read(source, tag, tag, followed=False)
            for blob in found.blobs:
                await self._local.read_blob(repository, blob)
        except Missing as missing:
            raise Stuck("ChartMissing", f"local Harbor does not serve {repository}:{tag}: {missing}") from missing
        except (WireTrouble, BadManifest) as trouble:
            raise local_verdict(repository, trouble) from trouble
        return found.digest

    # everything

    def copier(self) -> Copier:
        """For one run: it remembers what it has seen."""
        return Copier(self._local, self._chain)

    def _chain(self, wanted: Wanted) -> Sequence[tuple[Origin, Source]]:
        places = origins(self._sovereign, wanted.reference, wanted.what)
        return [(origin, self._source(origin)) for origin in places]

    def _source(self, origin: Origin) -> Source:
        if origin.url not in self._registries:
            wire = Wire(self._http, origin.url, origin.host, origin.login)
            self._registries[origin.url] = Registry(wire, self._patience)
        return Source(self._registries[origin.url], origin.repository)
