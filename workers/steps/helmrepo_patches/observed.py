"""The cluster as it is now: every source of charts and packages, every chart and release, whoever made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from workers import flux
from workers.adapters.cluster import HELM_CHART, HELM_RELEASE, KUSTOMIZATION, Object, key_of
from workers.declared.reconcile import Key, each
from workers.steps.helmrepo_patches import packages
from workers.supply.sources import KINDS, PACKAGE_KINDS, REPOSITORIES
from workers.world import World

MORE = {kind.kind: kind for kind in (HELM_CHART, HELM_RELEASE, KUSTOMIZATION)}
FLUX_KINDS = frozenset(kind.kind for kind in REPOSITORIES)


@dataclass(frozen=True, slots=True)
class Seen:
    """The cluster as it is now."""

    sources: tuple[Object, ...]
    charts: Mapping[Key, Object]
    releases: Mapping[Key, Object]
    rewrites: bool
    """Crossplane can be told by ImageConfigs where packages come from."""

    @property
    def packages(self) -> list[Object]:
        """Crossplane's Providers, Configurations and Functions."""
        return self.of(*(kind.kind for kind in PACKAGE_KINDS))

    def of(self, *kinds: str) -> list[Object]:
        """The sources of these kinds."""
        return [obj for obj in self.sources if obj["kind"] in kinds]


async def observe(world: World) -> Seen:
    """Every source, chart and release of the cluster, whoever made it."""
    cluster = world.cluster
    found: dict[str, list[Object]] = {}

    async def look(kind_name: str) -> None:
        kind = KINDS.get(kind_name) or MORE[kind_name]
        found[kind_name] = await cluster.list(kind) if await cluster.served(kind) else []

    await each((*KINDS, *MORE), look)
    kustomizations = found[KUSTOMIZATION.kind]
    return Seen(
        sources=tuple(flux.by_inventory((obj for name in KINDS for obj in found[name]), kustomizations)),
        charts={key_of(chart): chart for chart in found[HELM_CHART.kind]},
        releases={key_of(obj): obj for obj in flux.by_inventory(found[HELM_RELEASE.kind], kustomizations)},
        rewrites=await packages.rewrites(cluster),
    )
