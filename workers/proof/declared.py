"""What the cluster declares as its sources, before the block: nothing of tethers 1, 3, 4 and 6 may be left.

Sources with long intervals, and packages that are never fetched twice, would outlive any hold unnoticed.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from workers.adapters.cluster_kinds import (
    CONFIGURATION,
    DEPLOYMENT,
    FUNCTION,
    GIT_REPOSITORY,
    HELM_REPOSITORY,
    OCI_REPOSITORY,
    PROVIDER,
    Object,
    key_of,
)
from workers.sovereign import Sovereign
from workers.steps.helmrepo_patches.sources import resolved_locally
from workers.world import World


def is_local(url: str, sovereign: Sovereign) -> bool:
    """True for the Sovereign's own hosts, by exact name: a part of a name was mistaken twice in production."""
    host = urlsplit(url).netloc.rpartition("@")[2]
    own = {sovereign.harbor.host, urlsplit(sovereign.gitea.cluster_url).netloc}
    name = host.partition(":")[0]
    return host in own or name.endswith((".svc", ".svc.cluster.local"))


def foreign_sources(kind: str, objects: Iterable[Object], sovereign: Sovereign) -> list[str]:
    """Sources that lead elsewhere, one line each."""
    found = []
    for obj in objects:
        url = str((obj.get("spec") or {}).get("url", ""))
        if not is_local(url, sovereign):
            found.append(f"{kind} {'/'.join(key_of(obj))}: {_plain(url)}")
    return found


def foreign_packages(kind: str, objects: Iterable[Object], sovereign: Sovereign) -> list[str]:
    """Crossplane's packages that come from no local host. One without a host means Crossplane's own default.

    What an ImageConfig sends to local Harbor keeps its name, and Crossplane says where it came from.
    """
    found = []
    for obj in objects:
        if resolved_locally(obj, sovereign):
            continue
        package = str((obj.get("spec") or {}).get("package", ""))
        host = package.partition("/")[0]
        if not is_local(f"oci://{host}/", sovereign):
            found.append(f"{kind} {key_of(obj)[1]}: {package}")
    return found


def _plain(url: str) -> str:
    """Without user or password, which a URL may carry."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def foreign_api(deployment: Object | None, sovereign: Sovereign) -> list[str]:
    """catalyst-api's own idea of where its repository is. Absent is a finding, not a pass."""
    api = sovereign.catalyst_api
    where = f"Deployment {api.namespace}/{api.deployment}"
    if deployment is None:
        return [f"{where}: not found"]
    containers = deployment["spec"]["template"]["spec"]["containers"]
    values = [
        str(entry.get("value", ""))
        for container in containers
        if container["name"] == api.container
        for entry in container.get("env") or ()
        if entry["name"] == api.variable
    ]
    if not values:
        return [f"{where}: {api.variable} is not set; catalyst-api would use its built-in upstream"]
    return [f"{where}: {api.variable}={_plain(v)}" for v in values if not is_local(v, sovereign)]


async def tethers(world: World) -> list[str]:
    """Every declared tether of these kinds. What cannot be read raises."""
    cluster, sovereign = world.cluster, world.sovereign
    found: list[str] = []
    for kind in (GIT_REPOSITORY, HELM_REPOSITORY, OCI_REPOSITORY):
        if await cluster.served(kind):
            found += foreign_sources(kind.kind, await cluster.list(kind), sovereign)
    for kind in (PROVIDER, CONFIGURATION, FUNCTION):
        if await cluster.served(kind):
            found += foreign_packages(kind.kind, await cluster.list(kind), sovereign)
    api = sovereign.catalyst_api
    return found + foreign_api(await cluster.get(DEPLOYMENT, api.deployment, api.namespace), sovereign)
