"""One thing that the cluster needs, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from workers.adapters.oci import What

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Need:
    """One reference as it is spelled, what it is used as, and who needs it."""

    what: What
    spelled: str
    reason: str
    optional: bool = False
    """Named by defaults alone: nobody is known to use it. What its upstream does not have is told, no error."""
    values: Object = field(default_factory=dict, compare=False)
    """Of a chart: the values that its release sets."""
    loose: bool = False
    """No more than a text in a list or map of images: it counts where its host is one that somebody mapped."""


@dataclass(frozen=True, slots=True)
class Needs:
    """All needs, and what could not be read as one."""

    found: tuple[Need, ...] = ()
    notices: tuple[str, ...] = ()

    def __add__(self, other: Needs) -> Needs:
        return Needs((*self.found, *other.found), (*self.notices, *other.notices))
