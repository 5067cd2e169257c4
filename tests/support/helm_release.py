"""Helm's own library at work on an API server: its releases are kept in Secrets, as `helm` and Flux keep them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import helm_python

from sandbox.blueprint import CHART, NAMESPACE, NEEDED, RELEASE, merged

Object = dict[str, Any]


class Helm:
    """One release. Each command opens a connection of its own: what it knows is what the cluster keeps."""

    def __init__(self, kubeconfig: Path | str, namespace: str = NAMESPACE) -> None:
        self._kubeconfig, self._namespace = kubeconfig, namespace

    async def install(self, values: Object | None = None) -> Object:
        """What Helm says of the release, its manifest included. Raises helm_python.HelmError."""
        given = merged(NEEDED, values or {})
        return await self._do(lambda helm: helm.install(CHART, RELEASE, given, namespace=self._namespace))

    async def upgrade(self, values: Object) -> Object:
        return await self._do(lambda helm: helm.upgrade(CHART, RELEASE, merged(NEEDED, values)))

    async def rollback(self, version: int = 1) -> None:
        await self._do(lambda helm: helm.rollback(RELEASE, version=version))

    async def uninstall(self) -> None:
        await self._do(lambda helm: helm.uninstall(RELEASE))

    async def history(self) -> list[Object]:
        """Oldest first."""
        return list(await self._do(lambda helm: helm.history(RELEASE)))

    async def _do(self, command: Callable[[helm_python.Config], Any]) -> Any:
        def once() -> Any:
            with helm_python.Config(
                kubeconfig_path=self._kubeconfig, namespace=self._namespace, burst_limit=500, qps=500.0
            ) as helm:
                return command(helm)

        return await asyncio.to_thread(once)
