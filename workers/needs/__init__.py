"""What the cluster needs to be served by a registry, and why: read from live objects, Git, charts and the description.

Pure but for `gather` and `boot_strap`. Steps 2 and 3 ask: which projects must exist, and what must be in them.
"""

from __future__ import annotations

from collections.abc import Iterable

from anyio import to_thread

from workers.adapters.cluster import CONFIG_MAP, NODE, Kind
from workers.adapters.git import Remote
from workers.adapters.oci import What
from workers.needs.boot import boot
from workers.needs.charts import PACKED, NotAChart, needs_of_chart, unpacked
from workers.needs.listing import Listed, listing
from workers.needs.need import Need, Needs, Object
from workers.needs.objects import LIVE, POSTGRES, images, needs_of
from workers.needs.tree import read_tree
from workers.world import World

__all__ = [
    "LIVE", "PACKED", "Listed", "Need", "Needs", "NotAChart", "boot", "boot_strap", "gather", "images", "listing",
    "needs_of", "needs_of_chart", "read_tree", "unpacked",
]  # fmt: skip

VOLUME_HELPER = ("kube-system", "local-path-config")
"""ConfigMap in which k3s says what Pod makes a volume's directory: it runs for a moment and no template shows it."""


async def gather(world: World) -> Needs:
    """Everything that live objects, manifests in local Gitea, and the description name."""
    live = [obj for kind in LIVE if await world.cluster.served(kind) for obj in await _listed(world, kind)]
    beside = await _beside(world)
    sovereign, gitea = world.sovereign, world.sovereign.gitea
    url = f"{gitea.url.rstrip('/')}/{gitea.organisation}/{gitea.repository}.git"
    remote = Remote(url, gitea.login.username, gitea.login.password())
    async with world.git.checkout(remote, sovereign.upstream_git.branch) as worktree:
        substitutions = {"SOVEREIGN_FQDN": sovereign.fqdn}
        own = [path.format(fqdn=sovereign.fqdn) for path in sovereign.flux.own_paths]
        declared = await to_thread.run_sync(read_tree, worktree.path, sovereign.tree, substitutions, own)
    described = [Need(What.IMAGE, i, "extra_images") for i in sovereign.extra_images]
    described.append(Need(What.IMAGE, sovereign.nodes.image, "nodes.image"))
    return needs_of(live, "live") + beside + declared + Needs(tuple(described))


async def boot_strap(world: World, needs: Iterable[Need]) -> Needs:
    """What of these, and what beside them, local Harbor needs to come up. Raises Wait, Stuck: what nodes hold that
    may not be looked at would be missed only after the cut."""
    nodes = await world.cluster.list(NODE) if await world.cluster.served(NODE) else []
    # The kubelet tells of the fifty largest (nodeStatusMaxImages), by tag and by digest.
    held = [i for node in nodes for i in (node.get("status") or {}).get("images") or ()]
    names = [str(name) for image in held for name in image.get("names") or ()]
    return boot(world.sovereign, needs, [n for n in names if "@" not in n])


async def _beside(world: World) -> Needs:
    """What has images and is no workload: databases of CloudNativePG, k3s's volume helper. Raises Wait, Stuck."""
    objects: list[Object] = []
    if await world.cluster.served(POSTGRES):
        objects += await _listed(world, POSTGRES)
    if await world.cluster.served(CONFIG_MAP):
        namespace, name = VOLUME_HELPER
        helper = await world.cluster.get(CONFIG_MAP, name, namespace)
        objects += [{**helper, "kind": CONFIG_MAP.kind}] if helper else []
    return needs_of(objects, "live")


async def _listed(world: World, kind: Kind) -> list[Object]:
    """List items carry no kind of their own (Kubernetes API conventions)."""
    return [{**obj, "kind": kind.kind} for obj in await world.cluster.list(kind)]
