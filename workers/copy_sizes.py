"""How much there is to copy, image by image: from the manifests alone, before a byte is moved. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from workers.adapters.oci import CopyPlan, Wanted


@dataclass(frozen=True, slots=True)
class Measure:
    """Bytes of one reference: all platforms, all that refers to it."""

    whole: int
    unique: int
    """Of blobs that no other reference of the list has."""
    missing: int
    """Of blobs that no local repository has."""

    def __str__(self) -> str:
        return f"{self.whole} bytes, {self.unique} of them in no other, {self.missing} not here yet"


def measured(plan: CopyPlan) -> Iterator[tuple[Wanted, Measure]]:
    """Each reference with its measure."""
    owners = Counter(digest for item in plan.items for digest in {b.digest for b in item.closure.blobs})
    for item in plan.items:
        blobs = {b.digest: b.size for b in item.closure.blobs}
        unique = sum(size for digest, size in blobs.items() if owners[digest] == 1)
        missing = {b.digest: b.size for b in item.missing if b.digest not in plan.known}
        yield item.wanted, Measure(item.closure.size, unique, sum(missing.values()))


def total(plan: CopyPlan) -> str:
    """One line for all: shared blobs count once."""
    distinct = {b.digest: b.size for item in plan.items for b in item.closure.blobs}
    return (
        f"{plan.bytes_to_move} bytes to move for {len(plan.items)} references, each blob once; "
        f"{sum(distinct.values())} bytes in all"
    )
