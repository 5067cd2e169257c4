"""Real servers for the copier: sandbox registries, the sandbox Harbor, and Debian's docker-registry."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sandbox.broker import free_port
from sandbox.clock import Clock
from sandbox.harbor import Harbor
from sandbox.registry import Registry
from sandbox.serving import serving
from tests.integration.registry.stage import PASSWORD, Stage, staged
from workers.sovereign import DEFAULT_UPSTREAMS, Gitea, Login, Sovereign, Upstream
from workers.sovereign import Harbor as HarborDescription

CONFIG = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


@asynccontextmanager
async def docker_registry(directory: Path) -> AsyncIterator[str]:
    """Debian's docker-registry on a loopback port; yields its URL."""
    if shutil.which("docker-registry") is None:
        pytest.skip("docker-registry is not installed: copies to and from the real one are NOT tested in this run")
    port = free_port()
    directory.mkdir(parents=True, exist_ok=True)
    config = directory / "config.yml"
    config.write_text(CONFIG.format(root=directory / "data", port=port))
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec("docker-registry", "serve", str(config), stdout=quiet, stderr=quiet)
    try:
        for _ in range(1200):
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            writer.close()
            await writer.wait_closed()
            break
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


@dataclass
class Site:
    """Upstream registries and a local Harbor, and the description that joins them."""

    directory: Path
    stack: AsyncExitStack
    clock: Clock = field(default_factory=Clock)
    upstream: dict[str, Registry] = field(default_factory=dict)
    urls: dict[str, str] = field(default_factory=dict)
    harbor: Harbor = None  # type: ignore[assignment]
    harbor_url: str = ""

    async def add_upstream(self, host: str) -> Registry:
        """A registry of that name, empty."""
        registry = Registry.open(self.directory / "upstream" / host, host, self.clock)
        self.upstream[host] = registry
        self.urls[host] = f"http://127.0.0.1:{await self.stack.enter_async_context(serving(registry.app))}"
        return registry

    async def open_harbor(self) -> None:
        """The Harbor with what it had before."""
        where = self.directory / "harbor"
        self.harbor = Harbor.open(where, "harbor.sovereign.test", self.clock, PASSWORD, self.urls.__getitem__)
        self.harbor_url = f"http://127.0.0.1:{await self.stack.enter_async_context(serving(self.harbor.app))}"

    def sovereign(self, edit: Callable[[Upstream], Upstream] = lambda u: u, **more: object) -> Sovereign:
        """The description: every upstream that was added answers on loopback."""
        login = Login(username="admin", password_file=self.directory / "password")
        login.password_file.write_text(PASSWORD + "\n")
        upstreams = tuple(
            edit(u.model_copy(update={"endpoint": self.urls.get(u.host, "http://127.0.0.1:9")}))
            for u in DEFAULT_UPSTREAMS
        )
        fields: dict[str, object] = {
            "fqdn": "sovereign.test",
            "gitea": Gitea(url="http://127.0.0.1:9", login=login),
            "harbor": HarborDescription(
                url=self.harbor_url,
                host="harbor.sovereign.test",
                scheme="http",
                login=login,
                connect=self.harbor_url,
            ),
            "upstreams": upstreams,
            # Never the real one: a test must not look for it, even when it forgets to say so.
            "mothership_endpoint": self.urls["harbor.openova.io"],
            **more,
        }
        return Sovereign.model_validate(fields)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """ghcr.io, docker.io, xpkg and the mothership's registry, and a fresh Harbor."""
    async with AsyncExitStack() as stack:
        made = Site(tmp_path, stack)
        for host in ("ghcr.io", "docker.io", "quay.io", "xpkg.upbound.io", "harbor.openova.io"):
            await made.add_upstream(host)
        await made.open_harbor()
        yield made


@pytest.fixture
def stage(site: Site) -> Stage:
    """What a Sovereign runs, and all of it upstream."""
    return staged(site)
