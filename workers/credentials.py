"""The Secrets that may hold a login at the mothership: read where we were told to look, and nowhere else.

A worker that may list every Secret of a cluster owns the cluster. So the description names the namespaces, the
chart grants exactly those, and a pull secret that something uses elsewhere is told as unread, never passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from workers.adapters.cluster_kinds import SECRET, Object, Objects, key_of
from workers.declared.reconcile import each
from workers.sovereign import Sovereign
from workers.world import World

NOT_HELM = "owner!=helm"
"""Helm keeps whole releases in Secrets, a megabyte each; they are no credentials."""


def places(sovereign: Sovereign) -> tuple[str | None, ...]:
    """Namespaces to look into; None is all of them."""
    return tuple(dict.fromkeys(sovereign.secret_namespaces)) or (None,)


async def secrets(world: World) -> Objects:
    """Every Secret in those namespaces. Raises Wait, Stuck when one of them cannot be read."""
    found: Objects = []

    async def look(namespace: str | None) -> None:
        found.extend(await world.cluster.list(SECRET, namespace, NOT_HELM))

    await each(places(world.sovereign), look)
    return found


def overlooked(
    sovereign: Sovereign, specs: Iterable[tuple[Object, Mapping[str, Any]]], sources: Iterable[Object]
) -> list[str]:
    """`namespace/name` of pull secrets that are used where nobody looks: by Pods (object, Pod spec) and sources."""
    listed = sovereign.secret_namespaces
    if not listed:
        return []
    used = {(key_of(obj)[0], str(ref.get("name"))) for obj, spec in specs for ref in spec.get("imagePullSecrets") or ()}
    used |= {
        (key_of(obj)[0], str(name))
        for obj in sources
        if (name := ((obj.get("spec") or {}).get("secretRef") or {}).get("name"))
    }
    return sorted("/".join(key) for key in used if key[0] not in listed)
