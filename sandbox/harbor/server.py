"""Harbor, whole: API v2.0, token service and registry in one application."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from sandbox.clock import Clock
from sandbox.harbor.api import Api
from sandbox.harbor.artifacts import Artifacts
from sandbox.harbor.core import Core, WireUrl
from sandbox.harbor.distribution import HarborDistribution
from sandbox.harbor.endpoints import Endpoints
from sandbox.harbor.proxy import Proxy
from sandbox.registry.faults import Faults
from sandbox.registry.server import faulty
from sandbox.registry.store import Store


class Harbor:
    """The Sovereign's own registry. `app` serves it; `faults` breaks it."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._proxy = Proxy(core)
        self._distribution = HarborDistribution(core, self._proxy)
        self.app = web.Application(client_max_size=8 * 2**20, middlewares=[faulty(core.faults)])
        self.app.cleanup_ctx.append(self._proxy.running)
        for view in (Api(core), Endpoints(core), Artifacts(core)):
            view.routes(self.app.router)
        self.app.router.add_get("/service/token", self._distribution.token)
        self.app.router.add_route("*", "/v2/{tail:.*}", self._distribution.handle)
        self.app.router.add_route("*", "/v2", self._distribution.handle)

    @classmethod
    def open(cls, directory: Path, host: str, clock: Clock, admin_password: str, upstream_url: WireUrl) -> Harbor:
        """The Harbor whose state is below `directory`; fresh, with project `library`, when there is none.

        `upstream_url` says where an upstream host (`ghcr.io`) answers in the sandbox; proxy projects ask there.
        """
        return cls(Core(directory, host, clock, admin_password, upstream_url))

    @property
    def clock(self) -> Clock:
        """Harbor's own time."""
        return self._core.clock

    @property
    def store(self) -> Store:
        """Blobs, manifests and tags."""
        return self._core.store

    @property
    def faults(self) -> Faults:
        """What goes wrong on demand, and the requests that were seen."""
        return self._core.faults

    def retain_again(self, project: str) -> None:
        """Harbor's own policy for proxy projects applies to this one once more, as if nobody had removed it."""
        self._core.retain_again(project)

    def midnight(self) -> None:
        """Retention runs now for every midnight that has passed."""
        self._core.retain()

    async def settled(self) -> None:
        """Return when the proxy projects have stored what they fetch in the background."""
        await self._proxy.settled()
