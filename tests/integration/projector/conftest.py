"""An API server with the namespace in which the picture of the log stands."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandbox.clock import Clock
from sandbox.kube import KubeApi
from workers.adapters.cluster import NAMESPACE, Cluster


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with KubeApi.open(tmp_path, Clock()) as kube:
        kube.kubeconfig(tmp_path / "kubeconfig")
        async with Cluster.open(kubeconfig=tmp_path / "kubeconfig", field_manager="catalyst-cutover") as api:
            await api.apply(NAMESPACE, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "flux-system"}})
            yield api
