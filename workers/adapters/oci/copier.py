"""From upstream to local Harbor: whole indexes, bytes unchanged, each blob moved once, nothing on disk."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import anyio

from workers.adapters.oci import closure
from workers.adapters.oci.closure import Closure
from workers.adapters.oci.copying import (
    CopyPlan,
    Item,
    Meter,
    Wanted,
    local_verdict,
    over_budget,
    upstream_verdict,
)
from workers.adapters.oci.gather import Room, each
from workers.adapters.oci.manifest import BadManifest, Descriptor
from workers.adapters.oci.moved import TagsUpstream
from workers.adapters.oci.places import Origin
from workers.adapters.oci.proving import BLOBS, ITEMS, Prover, Told
from workers.adapters.oci.registry import Registry, Source
from workers.adapters.oci.trouble import Denied, Missing, Refused, Unavailable, WireTrouble
from workers.errors import Stuck, Wait

Chain = Callable[[Wanted], Sequence[tuple[Origin, Source]]]
"""Where to fetch from, in order."""
UNDER_WAY = 50
"""One part in so many of all that is to be moved may be on its way at once: it is lost when the worker is killed."""
LIMITED = "docker.io"
"""The registry that counts manifests: 100 in 6 hours for who has no login."""


class Copier(Prover):
    """Plans, copies and proves, for one local Harbor."""

    def __init__(self, local: Registry, chain: Chain) -> None:
        super().__init__(local)
        self._chain = chain
        self._homes: dict[str, set[str]] = defaultdict(set)
        """Blob -> local repositories that have it."""
        self._locks: dict[str, anyio.Lock] = defaultdict(anyio.Lock)
        self._room = Room(0)
        self._gives: dict[tuple[str, str], bool] = {}
        """(URL, repository) -> whether it has what is asked of it, once that is known: asked once for the run."""
        self._dead: dict[str, Unavailable] = {}
        """URLs that were tried patiently and did not answer, and what came instead; not asked again."""
        self._tags = TagsUpstream()

    # plan

    async def survey(self, wanted: Sequence[Wanted], told: Told, *, trusting: bool = True) -> CopyPlan:
        """See what is here, by one question to each side, and read what the rest is made of.

        A tag is written last, so a tag that is here, and is upstream's, stands for all of it: the proof will tell.
        Without `trusting` (after the proof has told otherwise) every part is looked for.
        """
        done = 0

        async def one(number: int) -> Item:
            nonlocal done
            digest = tags[number]
            one_wanted = wanted[number]
            here = digest is not None and trusting and not one_wanted.pulled
            if here and all_here:
                item = Item(one_wanted, Closure(digest or ""), here=True)
            elif here:
                item = await self._home(one_wanted, digest or "")
            else:
                item = await self._item(one_wanted, digest)
            done += 1
            await told(done)
            if notes[number]:
                item = replace(item, closure=replace(item.closure, notices=(*item.closure.notices, *notes[number])))
            return item

        notes: dict[int, list[str]] = {number: [] for number in range(len(wanted))}

        async def ours(number: int) -> str | None:
            tagged = await self._tagged(wanted[number])
            return await self._of_upstream(wanted[number], tagged, notes[number]) if tagged and trusting else tagged

        tags = await each(range(len(wanted)), ITEMS, ours)
        here = [n for n, digest in enumerate(tags) if digest is not None and trusting and not wanted[n].pulled]
        all_here = len(here) == len(wanted)
        rest = [n for n in range(len(wanted)) if n not in set(here)]
        postponed: list[Wait] = []
        absent: list[tuple[Wanted, str]] = []

        async def willing(number: int) -> Item | None:
            try:
                return await one(number)
            except Wait as wait:
                if wait.reason != "UpstreamUnavailable":
                    raise
                postponed.append(wait)
                return None
            except Stuck as stuck:
                # Only a 404 of all is an absence: who is denied knows nothing.
                if stuck.reason != "ReferenceNotFound" or not wanted[number].optional:
                    raise
                absent.append((wanted[number], stuck.message))
                await told(done)
                return None

        items: dict[int, Item | None] = dict(zip(here, await each(here, ITEMS, one), strict=True))
        items |= await self._sparingly(wanted, rest, postponed, willing)
        known = frozenset(d for d, homes in self._homes.items() if homes)
        return CopyPlan(tuple(i for _, i in sorted(items.items()) if i), known, tuple(postponed), tuple(absent))

    async def unplaced(self, wanted: Sequence[Wanted]) -> CopyPlan:
        """The plan for projects that are not there yet, where all is missing. Reads upstream and asks nothing here."""
        postponed: list[Wait] = []

        async def willing(number: int) -> Item | None:
            try:
                found = await self._upstream(wanted[number])
            except Wait as wait:
                postponed.append(wait)
                return None
            return Item(wanted[number], found, found.blobs)

        items = await self._sparingly(wanted, range(len(wanted)), postponed, willing)
        return CopyPlan(tuple(i for _, i in sorted(items.items()) if i), postponed=tuple(postponed))

    async def _sparingly(
        self, wanted: Sequence[Wanted], numbers: Sequence[int], postponed: list[Wait],
        read: Callable[[int], Awaitable[Item | None]],
    ) -> dict[int, Item | None]:  # fmt: skip
        """Read them, as far as the registry's rate limit has room. Docker Hub tells by HEAD how much that is.

        An index costs one for itself and one for each child. What is counted is therefore read one after the other:
        many half-read ones would use the limit up, and none of them could be copied, in this window or the next.
        """
        counted = [n for n in numbers if self._canonical(wanted[n]) == LIMITED]
        remaining = await self._remaining(wanted[counted[0]]) if counted else None
        if remaining is None:
            counted = []
        elif remaining < len(counted):
            first = wanted[counted[remaining]].reference
            postponed.append(over_budget(LIMITED, remaining, len(counted), first))
        others = [n for n in numbers if n not in set(counted)]
        items = dict(zip(others, await each(others, ITEMS, read), strict=True))
        for number in counted[:remaining]:
            items[number] = await read(number)
        return items

    async def _remaining(self, wanted: Wanted) -> int | None:
        source = self._chain(wanted)[-1][1]
        return await source.registry.remaining(source.repository, wanted.reference.pin)

    def _canonical(self, wanted: Wanted) -> str:
        chain = self._chain(wanted)
        return chain[-1][0].host if chain else ""

    async def _home(self, wanted: Wanted, digest: str) -> Item:
        """What is here has blobs that others may need: they are mounted from it."""
        try:
            read = await closure.read(self._here(wanted), digest, wanted.tag, followed=False)
        except Missing:
            return Item(wanted, Closure(digest), here=True)  # the proof will tell
        except (WireTrouble, BadManifest) as trouble:
            raise local_verdict(wanted.repository, trouble) from trouble
        for blob in read.blobs:
            self._homes[blob.digest].add(wanted.repository)
        return Item(wanted, read, here=True)

    async def _item(self, wanted: Wanted, digest: str | None) -> Item:
        here = await self._locally(wanted) if digest is not None else None
        if here is not None:
            return Item(wanted, here, await self._missing(wanted, here))
        if wanted.pulled:
            raise upstream_verdict(wanted.reference, [Missing("not there, asked through local Harbor")])
        found = await self._upstream(wanted)
        return Item(wanted, found, await self._missing(wanted, found))

    async def _tagged(self, wanted: Wanted) -> str | None:
        """The digest under the tag, if it is the one that is wanted."""
        pinned = wanted.reference.digest
        reference = pinned if wanted.pulled and pinned else wanted.tag
        try:
            found = await self._local.resolve(wanted.repository, reference)
        except WireTrouble as trouble:
            raise local_verdict(wanted.repository, trouble) from trouble
        return None if pinned is not None and found != pinned else found

    async def _of_upstream(self, wanted: Wanted, digest: str, notes: list[str]) -> str | None:
        """The digest that is here under a tag; None when upstream has another there."""
        chain = self._chain(wanted)
        if wanted.pulled or wanted.reference.digest or wanted.reference.host == self._local.name or not chain:
            return digest
        same, said = await self._tags.same(wanted, digest, chain[-1])
        if said:
            notes.append(said)
        return digest if same else None

    async def _locally(self, wanted: Wanted) -> Closure | None:
        pinned = wanted.reference.digest if wanted.pulled else None
        try:
            return await closure.read(self._here(wanted), pinned or wanted.tag, wanted.tag, followed=not wanted.pulled)
        except Missing:
            return None
        except (WireTrouble, BadManifest) as trouble:
            raise local_verdict(wanted.repository, trouble) from trouble

    async def _upstream(self, wanted: Wanted) -> Closure:
        """Manifests from the canonical registry, whose digests count: a proxy's index may be re-serialised.

        Such an index is believed only when it is pinned, or when whose digests count will not say more, which is told.
        """
        troubles: list[Exception] = []
        for origin, source in reversed(self._chain(wanted)):
            try:
                if known := self._dead.get(origin.url):
                    raise known
                found = await closure.read(source, wanted.reference.pin, wanted.tag)
            except (WireTrouble, BadManifest) as trouble:
                if isinstance(trouble, Unavailable):
                    self._dead.setdefault(origin.url, trouble)
                troubles.append(trouble)
            else:
                if not troubles or wanted.reference.digest or not found.parts[-1].manifest.is_index:
                    return found
                if any(isinstance(trouble, Unavailable) for trouble in troubles):
                    break  # whose digests count will yet say
                said = f"the index that {origin.host} gives is kept, in which platforms and signatures may lack"
                return replace(found, notices=(*found.notices, f"{wanted.reference}: {said}: {troubles[0]}"))
        if not troubles:
            troubles = [Missing("local Harbor does not have it, and it is not known where it came from")]
        raise upstream_verdict(wanted.reference, troubles) from troubles[0]

    async def _missing(self, wanted: Wanted, found: Closure) -> tuple[Descriptor, ...]:
        if wanted.pulled:
            return ()

        async def absent(blob: Descriptor) -> Descriptor | None:
            # Asked, though a manifest here may name it: that only tells from where it may be mounted.
            if await self._local.has_blob(wanted.repository, blob):
                self._homes[blob.digest].add(wanted.repository)
                return None
            self._homes[blob.digest].discard(wanted.repository)
            return blob

        try:
            blobs = await each(found.blobs, BLOBS, absent)
        except WireTrouble as trouble:
            raise local_verdict(wanted.repository, trouble) from trouble
        return tuple(b for b in blobs if b is not None)

    # copy

    async def copy(self, plan: CopyPlan, meter: Meter) -> None:
        """All of it is in local Harbor, under its tags. Raises Wait for what is postponed, when the rest is."""
        limiter = anyio.CapacityLimiter(BLOBS)
        self._room = Room(plan.bytes_to_move // UNDER_WAY)

        async def one(item: Item) -> None:
            async def blob(part: Descriptor) -> None:
                async with limiter:
                    await (self._through if item.wanted.pulled else self._blob)(item.wanted, part, meter)

            await each(item.closure.blobs if item.wanted.pulled else item.missing, BLOBS, blob)
            if not item.wanted.pulled:
                await self._manifests(item)
            meter.items_done += 1

        await each(plan.todo, ITEMS, one)
        if plan.postponed:
            raise max(plan.postponed, key=lambda wait: wait.after)

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
            try:
                mounted = await self._local.mount(wanted.repository, blob, home)
            except (Denied, Refused):
                mounted = False  # mounting alone is refused, perhaps: sending it will tell
            if not mounted:
                source = Source(self._local, home)
                await self._local.put_blob(wanted.repository, blob, source, lambda passed: None)
        except Missing:
            return False
        except WireTrouble as trouble:
            raise local_verdict(wanted.repository, trouble) from trouble
        return True

    async def _move(self, wanted: Wanted, blob: Descriptor, meter: Meter) -> None:
        troubles: list[Exception] = []
        for origin, source in self._chain(wanted):
            if troubles and origin.url in self._dead:
                continue
            try:
                if not await self._worth_asking(wanted, origin, source):
                    continue
                async with self._room.of(blob.size):
                    await self._local.put_blob(wanted.repository, blob, source, meter.heard(blob.digest))
            except WireTrouble as trouble:
                if not trouble.reading:
                    raise local_verdict(wanted.repository, trouble) from trouble
                self._gives[origin.url, source.repository] = False
                if isinstance(trouble, Unavailable):
                    self._dead[origin.url] = trouble
                troubles.append(trouble)
            else:
                meter.arrived(blob)
                return
        troubles = troubles or [Missing("it is not known where it came from")]
        raise upstream_verdict(f"{wanted.reference} (layer {blob.digest})", troubles) from troubles[0]

    async def _worth_asking(self, wanted: Wanted, origin: Origin, source: Source) -> bool:
        """Whether this place gives. The last one is always asked; others are asked once a repository, by HEAD."""
        if origin == self._chain(wanted)[-1][0]:
            return True
        if origin.url in self._dead:
            return False
        key = (origin.url, source.repository)
        async with self._locks[f"{origin.url} {source.repository}"]:
            if key not in self._gives:
                try:
                    named = await source.registry.resolve(source.repository, wanted.reference.pin)
                    self._gives[key] = named is not None
                except WireTrouble as trouble:
                    self._gives[key] = False
                    if isinstance(trouble, Unavailable):
                        self._dead[origin.url] = trouble
        return self._gives[key]

    async def _manifests(self, item: Item) -> None:
        repository = item.wanted.repository
        try:
            for part in item.closure.parts:
                for reference in part.tags or (part.manifest.digest,):
                    await self._local.put_manifest(repository, reference, part.manifest)
        except WireTrouble as trouble:
            raise local_verdict(repository, trouble) from trouble
