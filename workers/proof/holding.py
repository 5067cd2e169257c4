"""What a proof knows: what it found before the block, and what came to light while that stood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from schemas.results import Canary
from workers.proof.canaries import Sample, Ways
from workers.proof.census import Census
from workers.proof.health import FluxWatch
from workers.proof.hold import HoldClock, now

NAMED = 10  # Pods that were not in order before the block and are named


@dataclass(slots=True)
class Holding:
    """What came to light while the block stood."""

    clock: HoldClock
    bite: Sample
    last: Sample
    forced: list[str] = field(default_factory=list)
    forced_at: int = -1
    """How many gaps there had been when that work began: a later gap makes it worthless."""
    blind: str | None = None
    """What the canaries could not see at their last turn."""
    unwatched: str | None = None
    """Why nobody can tell whether the block stands."""
    stands: str | None = None
    """The gap at the last tick."""
    turns: int = 0
    odd: list[Canary] = field(default_factory=list)
    """Findings that were not as they had to be."""
    excused: Sequence[str] = ()
    """Pods that were not in order before the block, nor at any time since."""

    def gap(self, watch: FluxWatch) -> str | None:
        """Why the clock may not count now. Asked once a tick: what was missed is said once."""
        return watch.gap() or self.blind or self.unwatched

    def tick(self, gap: str | None) -> None:
        """One look at the clock."""
        self.stands = gap
        self.clock.tick(now(), gap)

    @property
    def done(self) -> bool:
        """Held long enough in one piece, and all work was forced within that piece."""
        return self.clock.done and self.forced_at == self.clock.gaps


@dataclass(frozen=True, slots=True)
class Ground:
    """What was found before the block, and must be so until its end."""

    nodes: Census
    before: Sample
    ways: Ways
    baseline: Mapping[str, str]
    """Pods that were not in order then, uid -> name: the block is not to blame for them."""

    @property
    def names(self) -> Sequence[str]:
        """The nodes' names."""
        return tuple(self.nodes)


def excused(pods: Sequence[str]) -> str:
    """The Pods that the proof says nothing of, in words that stay short."""
    if not pods:
        return ""
    more = f" and {len(pods) - NAMED} more" if len(pods) > NAMED else ""
    return f"; not in order before the block, nor since, so not held against it: Pods {', '.join(pods[:NAMED])}{more}"
