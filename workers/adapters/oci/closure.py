"""Everything that belongs to one reference: its index, all children, their blobs, and what refers to it."""

from __future__ import annotations

from dataclasses import dataclass, field

from workers.adapters.oci.manifest import Descriptor, Manifest
from workers.adapters.oci.registry import Source
from workers.adapters.oci.trouble import Denied

COSIGN = ("sig", "att", "sbom")
"""Suffixes of cosign's tags beside an image: `sha256-<hex>.sig` (sigstore/cosign, specs/SIGNATURE_SPEC.md)."""


@dataclass(frozen=True, slots=True)
class Part:
    """A manifest in the order of pushing, and the tags that it is to have."""

    manifest: Manifest
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Closure:
    """All of one reference. The parts are in the order of pushing: children first, the tagged one last."""

    digest: str
    parts: tuple[Part, ...]
    notices: tuple[str, ...] = ()
    blobs: tuple[Descriptor, ...] = field(default=())

    @property
    def size(self) -> int:
        """Bytes of all that is in it, each thing once."""
        manifests = {p.manifest.digest: len(p.manifest.content) for p in self.parts}
        return sum(manifests.values()) + sum(b.size for b in self.blobs)


async def read(source: Source, reference: str, tag: str, *, followed: bool = True) -> Closure:
    """Read what a tag or digest names, and all that belongs to it.

    `tag` is what it is to be called here; it comes last, so that a tag here means that all is here.
    With `followed`, signatures, SBOMs and other referrers of the top come along.
    """
    top = await source.registry.manifest(source.repository, reference)
    parts: dict[str, Part] = {}
    await _descend(source, top, parts)
    notices: list[str] = []
    if followed:
        await _follow(source, top.digest, parts, notices)
    parts[f"tag {tag}"] = Part(top, (tag,))
    ordered = tuple(parts.values())
    blobs = tuple(dict.fromkeys(b for part in ordered for b in part.manifest.blobs))
    return Closure(top.digest, ordered, tuple(notices), blobs)


async def _descend(source: Source, manifest: Manifest, parts: dict[str, Part]) -> None:
    for child in manifest.children:
        if child.digest not in parts:
            await _descend(source, await source.registry.manifest(source.repository, child.digest), parts)
    parts.setdefault(manifest.digest, Part(manifest))


async def _follow(source: Source, digest: str, parts: dict[str, Part], notices: list[str]) -> None:
    """Referrers by API or tag schema, and cosign's tags. Who may not be asked is said, not passed over."""
    try:
        for referrer in await source.registry.referrers(source.repository, digest):
            await _descend(source, await source.registry.manifest(source.repository, referrer.digest), parts)
        for suffix in COSIGN:
            tag = f"{digest.replace(':', '-')}.{suffix}"
            if await source.registry.resolve(source.repository, tag) is not None:
                signature = await source.registry.manifest(source.repository, tag)
                await _descend(source, signature, parts)
                parts[signature.digest] = Part(signature, (tag,))
    except Denied as denied:
        notices.append(f"signatures and referrers of {source}@{digest} could not be read: {denied}")
