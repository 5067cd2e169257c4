"""Everything that belongs to one reference: its index, all children, their blobs, and what refers to any of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from workers.adapters.oci.gather import each
from workers.adapters.oci.manifest import BadManifest, Descriptor, Manifest
from workers.adapters.oci.registry import Source
from workers.adapters.oci.trouble import Denied, Missing

COSIGN = ("sig", "att", "sbom")
"""Suffixes of cosign's tags beside an image: `sha256-<hex>.sig` (sigstore/cosign, specs/SIGNATURE_SPEC.md)."""
AT_ONCE = 4  # manifests of one artifact


@dataclass(frozen=True, slots=True)
class Part:
    """A manifest in the order of pushing, and the tags that it is to have."""

    manifest: Manifest
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Closure:
    """All of one reference. The parts are in the order of pushing: children first, the tagged one last."""

    digest: str
    parts: tuple[Part, ...] = ()
    """None: it has not been read."""
    notices: tuple[str, ...] = ()
    blobs: tuple[Descriptor, ...] = field(default=())

    @property
    def size(self) -> int:
        """Bytes of all that is in it, each thing once."""
        manifests = {p.manifest.digest: len(p.manifest.content) for p in self.parts}
        return sum(manifests.values()) + sum(b.size for b in self.blobs)


async def read(source: Source, reference: str, tag: str, *, followed: bool = True) -> Closure:
    """Read what a tag or digest names, and all that belongs to it.

    `tag` is what it is to be called here; it comes last, so that a tag here means that all is here. With `followed`,
    signatures, SBOMs and other referrers come along: of the top, of every child, and of themselves.
    """
    top = await source.registry.manifest(source.repository, reference)
    parts = {m.digest: Part(m) for m in await _tree(source, top)}
    notices: list[str] = []
    if followed:
        alone = len(parts)
        await _follow(source, parts, notices)
        followed = len(parts) > alone
    if not followed:
        # Harbor joins a signature to its subject only when that is there already; without one, the tag will do.
        del parts[top.digest]
    ordered = (*parts.values(), Part(top, (tag,)))
    for part in ordered:
        if hosts := part.manifest.elsewhere:
            said = f"layers that only {', '.join(hosts)} has (urls): they are not kept, and pulls still go there"
            notices.append(f"{source}@{part.manifest.digest} has {said}")
    blobs = tuple(dict.fromkeys(b for part in ordered for b in part.manifest.blobs))
    return Closure(top.digest, ordered, tuple(dict.fromkeys(notices)), blobs)


async def _tree(source: Source, manifest: Manifest) -> list[Manifest]:
    """The manifest's children, theirs before them, and the manifest last."""

    async def child(descriptor: Descriptor) -> list[Manifest]:
        return await _tree(source, await source.registry.manifest(source.repository, descriptor.digest))

    _ = manifest.blobs  # what is no manifest is told here, where it is known whose it is
    below = await each(manifest.children, AT_ONCE, child)
    return [m for branch in below for m in branch] + [manifest]


async def _follow(source: Source, parts: dict[str, Part], notices: list[str]) -> None:
    """Add what refers to the parts, until nothing new is found. Who may not be asked is said, not passed over."""
    asked: set[str] = set()
    while subjects := [digest for digest in parts if digest not in asked]:
        asked |= set(subjects)
        for found in await each(subjects, AT_ONCE, lambda digest: _about(source, digest, notices)):
            for part in found:
                known = parts.get(part.manifest.digest)
                tags = dict.fromkeys((*(known.tags if known else ()), *part.tags))
                parts[part.manifest.digest] = Part(part.manifest, tuple(tags))


async def _about(source: Source, digest: str, notices: list[str]) -> list[Part]:
    """What refers to one manifest: by API or tag schema, and by cosign's tags. One may be denied without the other."""
    found: list[Part] = []
    for look in (_referrers, _cosigned):
        try:
            found += await look(source, digest, notices)
        except Denied as denied:
            notices.append(f"signatures and referrers in {source} could not be read: {denied}")
    return found


async def _referrers(source: Source, digest: str, notices: list[str]) -> list[Part]:
    found: list[Part] = []
    for referrer in await source.registry.referrers(source.repository, digest):
        try:
            tree = await _tree(source, await source.registry.manifest(source.repository, referrer.digest))
        except (Missing, BadManifest) as trouble:
            notices.append(f"{source}@{digest} lists a referrer that cannot be kept: {trouble}")
            continue
        found += [Part(m) for m in tree]
    return found


async def _cosigned(source: Source, digest: str, notices: list[str]) -> list[Part]:
    registry, repository = source.registry, source.repository
    found: list[Part] = []
    tags = [f"{digest.replace(':', '-')}.{suffix}" for suffix in COSIGN]
    for tag, named in zip(tags, await each(tags, len(tags), lambda t: registry.resolve(repository, t)), strict=True):
        if named is None:
            continue
        try:
            tree = await _tree(source, await registry.manifest(repository, tag))
        except BadManifest as trouble:
            notices.append(f"{source}:{tag} cannot be kept: {trouble}")
            continue
        found += [*(Part(m) for m in tree[:-1]), Part(tree[-1], (tag,))]
    return found
