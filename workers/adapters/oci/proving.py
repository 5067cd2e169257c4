"""The proof of a copy: every manifest and blob read back from local Harbor, and hashed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from workers.adapters.oci import closure
from workers.adapters.oci.copying import CopyPlan, Item, Proof, Wanted, local_verdict
from workers.adapters.oci.gather import each
from workers.adapters.oci.manifest import BadManifest, Descriptor
from workers.adapters.oci.registry import Registry, Source
from workers.adapters.oci.trouble import Missing, WireTrouble, WrongBytes
from workers.errors import Stuck

Told = Callable[[int], Awaitable[None]]
"""Told how many items are done."""
ITEMS, BLOBS = 12, 16  # at once


class Prover:
    """Reads back what one local Harbor was given."""

    def __init__(self, local: Registry) -> None:
        self._local = local

    async def prove(self, plan: CopyPlan, told: Told) -> Proof:
        """Every manifest and blob was read back from local Harbor and is its digest. Raises Wait or Stuck.

        What was copied now must be there; what was here before may have been lost, and is told.
        """
        hashed: set[str] = set()
        lost: list[Wanted] = []
        done = 0

        async def one(item: Item) -> Item:
            nonlocal done
            try:
                item = await self._prove_item(item, hashed)
            except Missing as missing:
                if not item.here:
                    raise local_verdict(item.wanted.repository, missing) from missing
                lost.append(item.wanted)
            except (WireTrouble, BadManifest) as trouble:
                raise local_verdict(item.wanted.repository, trouble) from trouble
            done += 1
            await told(done)
            return item

        items = await each(plan.items, ITEMS, one)
        return Proof(tuple(i for i in items if i.wanted not in lost), tuple(lost))

    async def _prove_item(self, item: Item, hashed: set[str]) -> Item:
        """The item, read whole."""
        wanted = item.wanted
        if item.here:
            read = await closure.read(self._here(wanted), wanted.tag, wanted.tag)
            if read.digest != item.closure.digest:
                raise WrongBytes(f"{wanted.repository}:{wanted.tag} is {read.digest}, not {item.closure.digest}")
            item = replace(item, closure=replace(read, notices=(*item.closure.notices, *read.notices)))
        else:
            await self._prove_manifests(item)
        await each(item.closure.blobs, BLOBS, lambda blob: self._prove_blob(wanted.repository, blob, hashed))
        return item

    async def _prove_manifests(self, item: Item) -> None:
        repository = item.wanted.repository
        for part in item.closure.parts:
            manifest = part.manifest
            if item.wanted.pulled and (manifest.is_index or part.tags):
                continue  # a proxy project rewrites indexes; the step asks Harbor's database instead
            for reference in (manifest.digest, *part.tags):
                read = await self._local.manifest(repository, reference)
                if read.digest != manifest.digest:
                    raise WrongBytes(f"{repository}:{reference} is {read.digest}, not {manifest.digest}")

    async def _prove_blob(self, repository: str, blob: Descriptor, hashed: set[str]) -> None:
        if blob.digest in hashed:
            if not await self._local.has_blob(repository, blob):
                raise Missing(f"blob {blob.digest}")
            return
        first = not hashed
        hashed.add(blob.digest)
        if first:
            await reachable(self._local, repository, blob)
        await self._local.read_blob(repository, blob)

    def _here(self, wanted: Wanted) -> Source:
        return Source(self._local, wanted.repository)


async def reachable(local: Registry, repository: str, blob: Descriptor) -> None:
    """Raises Stuck when Harbor sends readers on to a name that only Pods resolve (goharbor/harbor#13037)."""
    target = await local.redirect(repository, blob)
    if target is not None and _only_in_cluster(target):
        raise Stuck(
            "HarborRedirects",
            f"{repository}: local Harbor sends blob readers to {target}, which nodes cannot resolve; "
            "set persistence.imageChartStorage.disableRedirect: true",
        )


def _only_in_cluster(host: str) -> bool:
    """Is it a Service's name? `name.namespace` looks like any name elsewhere: whether nodes know it, their own pulls
    tell (step 4). An IPv6 address has no dots either."""
    labels = host.lower().rstrip(".").split(".")
    return (len(labels) == 1 and ":" not in host) or "svc" in labels[1:] or labels[-2:] == ["cluster", "local"]
