"""From upstream to local Harbor: whole indexes, bytes unchanged, each blob moved once, nothing on disk."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

import anyio

from workers.adapters.oci import closure
from workers.adapters.oci.closure import Closure
from workers.adapters.oci.copying import (
    CopyPlan,
    Item,
    Meter,
    Wanted,
    local_verdict,
    upstream_verdict,
)
from workers.adapters.oci.gather import each
from workers.adapters.oci.manifest import BadManifest, Descriptor
from workers.adapters.oci.places import Origin
from workers.adapters.oci.registry import Registry, Source
from workers.adapters.oci.trouble import Missing, WireTrouble, WrongBytes
from workers.errors import Stuck, Trouble

Chain = Callable[[Wanted], Sequence[tuple[Origin, Source]]]
"""Where to fetch from, in order."""
Told = Callable[[int], Awaitable[None]]
"""Told how many items are done."""
ITEMS, BLOBS = 6, 8  # at once


class Copier:
    """Plans, copies and proves, for one local Harbor."""

    def __init__(self, local: Registry, chain: Chain) -> None:
        self._local = local
        self._chain = chain
        self._homes: dict[str, set[str]] = defaultdict(set)
        """Blob -> local repositories that have it."""
        self._locks: dict[str, anyio.Lock] = defaultdict(anyio.Lock)
        self._avoided: set[tuple[str, str]] = set()
        """(URL, repository) that did not give; not asked again while others do."""

    # plan

    async def survey(self, wanted: Sequence[Wanted], told: Told) -> CopyPlan:
        """Read what every reference is made of, and see what of it is here."""
        done = 0

        async def one(one_wanted: Wanted) -> Item:
            nonlocal done
            item = await self._item(one_wanted)
            done += 1
            await told(done)
            return item

        items = await each(wanted, ITEMS, one)
        return CopyPlan(tuple(items), frozenset(d for d, homes in self._homes.items() if homes))

    async def _item(self, wanted: Wanted) -> Item:
        """From local Harbor when its tag is here: the tag is written last, so then the upstream is not needed."""
        here = await self._locally(wanted)
        if here is not None:
            missing = await self._missing(wanted, here)
            return Item(wanted, here, missing, here=not missing and not wanted.pulled)
        if wanted.pulled:
            raise upstream_verdict(wanted.reference, [Missing("not there, asked through local Harbor")])
        found = await self._upstream(wanted)
        return Item(wanted, found, await self._missing(wanted, found))

    async def _locally(self, wanted: Wanted) -> Closure | None:
        pinned = wanted.reference.digest
        reference = pinned if wanted.pulled and pinned else wanted.tag
        try:
            if wanted.pulled:
                return await closure.read(self._here(wanted), reference, wanted.tag, followed=False)
            found = await self._local.resolve(wanted.repository, reference)
            if found is None or (pinned is not None and found != pinned):
                return None
            return await closure.read(self._here(wanted), reference, wanted.tag)
        except Missing:
            return None
        except (WireTrouble, BadManifest) as trouble:
            raise local_verdict(wanted.repository, trouble) from trouble

    async def _upstream(self, wanted: Wanted) -> Closure:
        """Manifests from the canonical registry, whose digests count: a proxy's index may be re-serialised."""
        troubles: list[Exception] = []
        for _, source in reversed(self._chain(wanted)):
            try:
                return await closure.read(source, wanted.reference.pin, wanted.tag)
            except (WireTrouble, BadManifest) as trouble:
                troubles.append(trouble)
        if not troubles:
            troubles = [Missing("local Harbor does not have it, and it is not known where it came from")]
        raise upstream_verdict(wanted.reference, troubles) from troubles[0]

    async def _missing(self, wanted: Wanted, found: Closure) -> tuple[Descriptor, ...]:
        if wanted.pulled:
            return ()

        async def absent(blob: Descriptor) -> Descriptor | None:
            if wanted.repository in self._homes[blob.digest]:
                return None
            if await self._local.has_blob(wanted.repository, blob):
                self._homes[blob.digest].add(wanted.repository)
                return None
            return blob

        try:
            blobs = await each(found.blobs, BLOBS, absent)
        except WireTrouble as trouble:
            raise local_verdict(wanted.repository, trouble) from trouble
        return tuple(b for b in blobs if b is not None)

    # copy

    async def copy(self, plan: CopyPlan, meter: Meter) -> None:
        """All of it is in local Harbor, under its tags."""
        limiter = anyio.CapacityLimiter(BLOBS)

        async def one(item: Item) -> None:
            async def blob(part: Descriptor) -> None:
                async with limiter:
                    await (self._through if item.wanted.pulled else self._blob)(item.wanted, part, meter)

            await each(item.closure.blobs if item.wanted.pulled else item.missing, BLOBS, blob)
            if not item.wanted.pulled:
                await self._manifests(item)
            meter.items_done += 1

        await each(plan.todo, ITEMS, one)

    async def _blob(self, wanted: Wanted, blob: Descriptor, meter: Meter) -> None:
        """Here, mounted or moved. One at a time for each digest, so that two images never fetch it twice."""
        async with self._locks[blob.digest]:
            homes = self._homes[blob.digest]
            if wanted.repository in homes:
                return
            if not homes or not await self._mounted(wanted, blob, min(homes)):
                await self._move(wanted, blob, meter)
            homes.add(wanted.repository)

    async def _through(self, wanted: Wanted, blob: Descriptor, meter: Meter) -> None:
        """A proxy project keeps what is pulled through it."""
        try:
            await self._local.read_blob(wanted.repository, blob)
        except WireTrouble as trouble:
            raise local_verdict(wanted.repository, trouble) from trouble

    async def _mounted(self, wanted: Wanted, blob: Descriptor, home: str) -> bool:
        """From another local repository: mounted, or copied inside Harbor where mounting is refused."""
        try:
            if not await self._local.mount(wanted.repository, blob, home):
                source = Source(self._local, home)
                await self._local.put_blob(wanted.repository, blob, source, lambda passed: None)
        except Missing:
            return False
        except WireTrouble as trouble:
            raise local_verdict(wanted.repository, trouble) from trouble
        return True

    async def _move(self, wanted: Wanted, blob: Descriptor, meter: Meter) -> None:
        troubles: list[Exception] = []
        for origin, source in self._willing(wanted):
            try:
                await self._local.put_blob(wanted.repository, blob, source, meter.heard(blob.digest))
            except WireTrouble as trouble:
                if not trouble.reading:
                    raise local_verdict(wanted.repository, trouble) from trouble
                self._avoided.add((origin.url, source.repository))
                troubles.append(trouble)
            else:
                meter.arrived(blob)
                return
        troubles = troubles or [Missing("it is not known where it came from")]
        raise upstream_verdict(f"{wanted.reference} (layer {blob.digest})", troubles) from troubles[0]

    def _willing(self, wanted: Wanted) -> Sequence[tuple[Origin, Source]]:
        chain = self._chain(wanted)
        willing = [(o, s) for o, s in chain if (o.url, s.repository) not in self._avoided]
        return willing or chain

    async def _manifests(self, item: Item) -> None:
        repository = item.wanted.repository
        try:
            for part in item.closure.parts:
                for reference in part.tags or (part.manifest.digest,):
                    await self._local.put_manifest(repository, reference, part.manifest)
        except WireTrouble as trouble:
            raise local_verdict(repository, trouble) from trouble

    # prove

    async def prove(self, plan: CopyPlan, told: Told) -> None:
        """Every manifest and blob was read back from local Harbor and is its digest. Raises Wait or Stuck."""
        hashed: set[str] = set()
        done = 0

        async def one(item: Item) -> None:
            nonlocal done
            try:
                await self._prove_item(item, hashed)
            except (WireTrouble, BadManifest) as trouble:
                raise local_verdict(item.wanted.repository, trouble) from trouble
            done += 1
            await told(done)

        await each(plan.items, ITEMS, one)

    async def _prove_item(self, item: Item, hashed: set[str]) -> None:
        repository = item.wanted.repository
        for part in item.closure.parts:
            manifest = part.manifest
            if item.wanted.pulled and (manifest.is_index or part.tags):
                continue  # a proxy project rewrites indexes; the step asks Harbor's database instead
            for reference in (manifest.digest, *part.tags):
                read = await self._local.manifest(repository, reference)
                if read.digest != manifest.digest:
                    raise WrongBytes(f"{repository}:{reference} is {read.digest}, not {manifest.digest}")
        for blob in item.closure.blobs:
            if blob.digest not in hashed:
                if not hashed:
                    await self._reachable(repository, blob)
                hashed.add(blob.digest)
                await self._local.read_blob(repository, blob)
            elif not await self._local.has_blob(repository, blob):
                raise Missing(f"blob {blob.digest}")

    async def _reachable(self, repository: str, blob: Descriptor) -> None:
        """Harbor may send readers on to its object store, by a name that only Pods resolve (harbor#13037)."""
        target = await self._local.redirect(repository, blob)
        if target is not None and ".svc" in f"{target}.":
            raise harbor_redirects(repository, target)

    def _here(self, wanted: Wanted) -> Source:
        return Source(self._local, wanted.repository)


def harbor_redirects(repository: str, target: str) -> Trouble:
    """Nodes cannot follow Harbor to a Service's name."""
    return Stuck(
        "HarborRedirects",
        f"{repository}: local Harbor sends blob readers to {target}, which nodes cannot resolve; "
        "set persistence.imageChartStorage.disableRedirect: true",
    )
