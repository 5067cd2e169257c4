"""Under the block every source asks its host once more; one that is asleep, or has no host to ask, is left alone."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from sandbox.controllers.api import GIT_REPOSITORIES, HELM_REPOSITORIES, OCI_REPOSITORIES, Api, Resource
from workers.adapters.cluster_kinds import NAMESPACE
from workers.errors import Stuck
from workers.proof import forced

from .conftest import Cast

REQUESTED = "reconcile.fluxcd.io/requestedAt"
SOURCES: tuple[tuple[Resource, str, dict[str, Any]], ...] = (
    (GIT_REPOSITORIES, "tenant", {"url": "https://gitea/t", "interval": "6h"}),
    (HELM_REPOSITORIES, "classic", {"url": "https://charts.sovereign.test", "interval": "6h"}),
    (HELM_REPOSITORIES, "static", {"url": "oci://harbor/openova-io", "type": "oci"}),
    (OCI_REPOSITORIES, "images", {"url": "oci://harbor/x", "interval": "6h"}),
    (OCI_REPOSITORIES, "asleep", {"url": "oci://harbor/y", "interval": "6h", "suspend": True}),
)


async def declare(api: Api) -> None:
    for resource, name, spec in SOURCES:
        obj = {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": name, "namespace": "flux-system"},
            "spec": spec,
        }
        await api.apply(resource, obj, "test")


async def handle(api: Api, resource: Resource, name: str, ready: str = "True") -> bool:
    """As source-controller does, once asked; whether it was asked."""
    obj = await api.get(resource, name, "flux-system")
    assert obj is not None
    token = (obj["metadata"].get("annotations") or {}).get(REQUESTED)
    if token is None or (obj.get("status") or {}).get("lastHandledReconcileAt") == token:
        return token is not None
    generation = obj["metadata"]["generation"]
    said = {"type": "Ready", "status": ready, "reason": "Fetched" if ready == "True" else "GitOperationFailed"}
    said |= {"message": "i/o timeout", "observedGeneration": generation, "lastTransitionTime": "2026-01-01T00:00:00Z"}
    status = {"lastHandledReconcileAt": token, "observedGeneration": generation, "conditions": [said]}
    await api.merge(resource, obj, {"status": status}, "source-controller", sub="status")
    return True


async def controller(api: Api, failing: str = "") -> None:
    while True:
        for resource, name, _ in SOURCES:
            await handle(api, resource, name, "False" if name == failing else "True")
        await asyncio.sleep(0.05)


async def test_every_source_that_fetches_is_made_to_and_no_other_is_touched(cast_of: Cast) -> None:
    await cast_of.world.cluster.apply(
        NAMESPACE, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "flux-system"}}
    )
    await declare(cast_of.api)
    working = asyncio.create_task(controller(cast_of.api))
    try:
        assert await forced.sources(cast_of.world, "t1") == "3 sources asked local Gitea and Harbor again"
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    asked = {}
    for resource, name, _ in SOURCES:
        obj = await cast_of.api.get(resource, name, "flux-system")
        assert obj is not None
        asked[name] = (obj["metadata"].get("annotations") or {}).get(REQUESTED)
    assert asked == {"tenant": "t1", "classic": "t1", "static": None, "images": "t1", "asleep": None}

    flux = cast_of.world.sovereign.flux.model_copy(update={"timeout": 2.0})
    sovereign = cast_of.world.sovereign.model_copy(update={"flux": flux})
    hasty = replace(cast_of.world, sovereign=sovereign)
    working = asyncio.create_task(controller(cast_of.api, failing="classic"))
    try:
        with pytest.raises(Stuck, match=r"SourceNotFetched.*flux-system/classic .*i/o timeout"):
            await forced.sources(hasty, "t2")
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
