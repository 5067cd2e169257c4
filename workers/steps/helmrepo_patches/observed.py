"""The cluster as it is now: every source of charts and packages, every chart and release, whoever made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from workers.adapters.cluster import HELM_CHART, HELM_RELEASE, Object, key_of
from workers.declared.reconcile import Key, each
from workers.steps.helmrepo_patches import packages
from workers.supply.sources import KINDS, PACKAGE_KINDS, REPOSITORIES
from workers.world import World

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
        kind = KINDS.get(kind_name) or {"HelmChart": HELM_CHART, "HelmRelease": HELM_RELEASE}[kind_name]
        found[kind_name] = await cluster.list(kind) if await cluster.served(kind) else []

    await each((*KINDS, "HelmChart", "HelmRelease"), look)
    return Seen(
        sources=tuple(obj for name in KINDS for obj in found[name]),
        charts={key_of(chart): chart for chart in found["HelmChart"]},
        releases={key_of(release): release for release in found["HelmRelease"]},
        rewrites=await packages.rewrites(cluster),
    )
