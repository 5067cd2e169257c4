"""Whether a tag that is here is the one that upstream has: asked once for a run, by HEAD, and without insisting."""

from __future__ import annotations

from dataclasses import dataclass, field

from workers.adapters.oci.copying import Wanted
from workers.adapters.oci.manifest import BadManifest
from workers.adapters.oci.places import Origin
from workers.adapters.oci.registry import Source
from workers.adapters.oci.trouble import Patience, WireTrouble

HASTY = Patience(attempts=1)


@dataclass(slots=True)
class TagsUpstream:
    """What upstream's tags name now. An upstream that does not say, or does not have it any more, changes nothing:
    after the cutover what is here is all there is."""

    _silent: set[str] = field(default_factory=set)
    """URLs that did not say; not asked again."""
    _known: dict[tuple[str, str, str], str | None] = field(default_factory=dict)

    async def same(self, wanted: Wanted, digest: str, place: tuple[Origin, Source]) -> tuple[bool, str]:
        """False when upstream has another there: half an image that somebody pushed here, or a tag that moved.

        And what is to be told of it. `place` is the registry whose digests count.
        """
        now, said = await self._now(wanted, *place)
        if now is None or now == digest:
            return True, said
        return False, f"{wanted.reference} is {now} upstream and was {digest} in local Harbor: copied anew"

    async def _now(self, wanted: Wanted, origin: Origin, source: Source) -> tuple[str | None, str]:
        pin = wanted.reference.pin
        key = (origin.url, source.repository, pin)
        if origin.url not in self._silent and key not in self._known:
            try:
                self._known[key] = await source.registry.resolve(source.repository, pin, patience=HASTY)
            except (WireTrouble, BadManifest):
                self._silent.add(origin.url)
        if key in self._known:
            return self._known[key], ""
        return None, f"{origin.host} did not say whether its tags have moved: what is here under them is kept"
