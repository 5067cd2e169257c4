"""All controllers of a Sovereign, together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sandbox.controllers import api as kinds
from sandbox.controllers.discovery import Discovery
from sandbox.controllers.helm import HelmReleases
from sandbox.controllers.jobs import Jobs
from sandbox.controllers.kustomize import Kustomizations
from sandbox.controllers.loop import Context, Controller
from sandbox.controllers.mirror import Mirror
from sandbox.controllers.oci import Client
from sandbox.controllers.packages import Providers
from sandbox.controllers.placement import Scheduler
from sandbox.controllers.source import GitRepositories, HelmCharts, HelmRepositories, OciRepositories
from sandbox.controllers.storage import Storage
from sandbox.controllers.workloads import DaemonSets, Deployments

FOLLOWED = (
    kinds.NODES,
    kinds.PODS,
    kinds.DEPLOYMENTS,
    kinds.REPLICA_SETS,
    kinds.DAEMON_SETS,
    kinds.JOBS,
    kinds.GIT_REPOSITORIES,
    kinds.HELM_REPOSITORIES,
    kinds.HELM_CHARTS,
    kinds.OCI_REPOSITORIES,
    kinds.KUSTOMIZATIONS,
    kinds.HELM_RELEASES,
    kinds.PROVIDERS,
    kinds.IMAGE_CONFIGS,
)


@asynccontextmanager
async def running(context: Context) -> AsyncIterator[None]:
    """Every controller at work until the block ends."""
    client, storage = Client(context.network), Storage(context.directory)
    discovery = Discovery(context.api)
    controllers: list[Controller] = [
        Scheduler(context),
        Deployments(context),
        DaemonSets(context),
        Jobs(context),
        GitRepositories(context, storage, client),
        HelmRepositories(context, storage, client),
        HelmCharts(context, storage, client),
        OciRepositories(context, storage, client),
        Kustomizations(context, storage, discovery),
        HelmReleases(context, storage, discovery),
        Providers(context, client),
    ]
    mirrors = [context.mirrors[resource] for resource in FOLLOWED]
    following = [asyncio.create_task(_follow(mirror, context)) for mirror in mirrors]
    try:
        # Everybody sees the whole cluster before anybody acts on it.
        await asyncio.gather(*(mirror.synced.wait() for mirror in mirrors))
        for controller in controllers:
            controller.start()
        yield
    finally:
        for controller in controllers:
            await controller.stop()
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
        await client.close()


async def _follow(mirror: Mirror, context: Context) -> None:
    while True:
        try:
            await mirror.run()
        except Exception as error:
            context.log(f"{mirror.resource.plural}: watch broke: {type(error).__name__}: {error}")
            await asyncio.sleep(0.2)
