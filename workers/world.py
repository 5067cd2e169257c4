"""What a step is handed: the order, the world it may touch, and a way to say how far it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from schemas.nodes import NodeReport
from schemas.progress import Progress
from schemas.results import Prewarmed, StepResult
from workers.sovereign import Sovereign

if TYPE_CHECKING:
    from workers.adapters.cluster import Cluster
    from workers.adapters.git import Git
    from workers.adapters.gitea import GiteaApi
    from workers.adapters.harbor import HarborApi
    from workers.adapters.oci import Registries
    from workers.audit.finding import Finding

Report = Callable[[Progress], Awaitable[None]]
"""Tell the log how far the step is. Cheap: the pool writes at most a few a second."""


@dataclass(frozen=True, slots=True)
class Order:
    """One attempt at one step of one run."""

    run: str
    step: str
    attempt: int
    token: int
    """Fencing token: the journal sequence of this attempt's `step.started`. Put it into names of Jobs, Pods
    and annotations, so that a late write of an earlier attempt can be told apart."""
    requested_at: datetime
    results: Mapping[str, StepResult]
    """Results of the earlier steps of this run, by slug."""


class NodeReports(Protocol):
    """The newest answer of each node's agent."""

    async def latest(self) -> Mapping[str, NodeReport]:
        """Node name -> its newest report."""
        ...

    async def changed(self, timeout: float) -> None:
        """Return when a report arrived since the last `latest`, or after `timeout` seconds."""
        ...


class Copied(Protocol):
    """What the log says was copied into local Harbor."""

    async def latest(self) -> Prewarmed | None:
        """The newest success of harbor-prewarm, of whichever run; None before the first. Raises Wait, Stuck."""
        ...


class NothingCopied:
    """For whoever has no log at hand: nobody says that anything was copied."""

    async def latest(self) -> Prewarmed | None:
        """Nothing."""
        return None


Survey = Callable[["World"], Awaitable[Sequence["Finding"]]]


@dataclass(frozen=True, slots=True)
class World:
    """The outside systems, one adapter each, and the description they share."""

    sovereign: Sovereign
    cluster: Cluster
    git: Git
    gitea: GiteaApi
    harbor: HarborApi
    registries: Registries
    nodes: NodeReports
    survey: Survey | None = None
    """The audit's look at what the cluster declares now. Handed in: it knows the steps, so no step imports it."""
    copied: Copied = field(default_factory=NothingCopied)
