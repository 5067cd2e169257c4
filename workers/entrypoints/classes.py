"""Classes of workers: what each is charged with, so that each can have an identity that may do just that.

The chart has a Deployment, a service account and a broker user for each. One process without a class does all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from events import flow


@dataclass(frozen=True, slots=True)
class Duties:
    """What one process does."""

    steps: tuple[str, ...] = ()
    admit: bool = False
    """Takes requests and cancels, and keeps strays."""
    project: bool = False
    """Keeps the status ConfigMap."""
    watch: bool = False
    """Lifts a block that was left behind."""
    drift: bool = False
    """Looks for tethers that came back after completion."""
    found: bool = False
    """Makes the stream and its consumers; whoever does not waits until they are there."""
    sign: bool = False
    """May read the key that signs certificates, and names it in what it finds."""


def _steps(first: int, last: int) -> tuple[str, ...]:
    return tuple(step.slug for step in flow.STEPS if first <= step.number <= last)


EVERYTHING: Final = Duties(flow.SLUGS, admit=True, project=True, watch=True, drift=True, found=True, sign=True)
CLASSES: Final[dict[str, Duties]] = {
    "supply": Duties(_steps(1, 3)),
    "pivot": Duties(_steps(4, 7)),
    "proof": Duties(_steps(8, 8), watch=True, sign=True),
    "control": Duties(admit=True, project=True, drift=True, found=True, sign=True),
}
