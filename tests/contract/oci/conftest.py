"""The servers that are held to one contract: Debian's docker-registry, the sandbox's registry and its Harbor."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from sandbox.broker import free_port
from sandbox.clock import Clock
from sandbox.harbor import Harbor
from sandbox.registry import Registry
from sandbox.serving import serving

USER, PASSWORD = "admin", "Harbor12345"
CONFIG = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage:
  filesystem: {{rootdirectory: {root}}}
  delete: {{enabled: true}}
http: {{addr: "127.0.0.1:{port}"}}
"""


@dataclass(frozen=True)
class Server:
    """One server under contract."""

    name: str
    http: httpx.AsyncClient
    prefix: str = ""

    def path(self, repository: str, rest: str) -> str:
        """`/v2/<repository>/<rest>`, in a project where there must be one."""
        return f"/v2/{self.prefix}{repository}/{rest}"


@asynccontextmanager
async def docker_registry(directory: Path) -> AsyncIterator[str]:
    """Debian's docker-registry on a loopback port; yields its URL."""
    if shutil.which("docker-registry") is None:
        pytest.skip("docker-registry is not installed: the sandbox is NOT held to the real one in this run")
    port = free_port()
    config = directory / "config.yml"
    config.write_text(CONFIG.format(root=directory / "data", port=port))
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec("docker-registry", "serve", str(config), stdout=quiet, stderr=quiet)
    try:
        await _listening(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


async def _listening(port: int) -> None:
    for _ in range(1200):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            await writer.wait_closed()
            return
    raise TimeoutError("docker-registry does not listen")


@pytest.fixture(params=["docker-registry", "sandbox-registry", "sandbox-harbor"])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Server]:
    """Each server in turn; the client signs in with Basic, which docker-registry ignores here."""
    async with AsyncExitStack() as stack:
        prefix = ""
        if request.param == "docker-registry":
            url = await stack.enter_async_context(docker_registry(tmp_path))
        elif request.param == "sandbox-registry":
            registry = Registry.open(tmp_path, "ghcr.io", Clock(), logins={USER: PASSWORD})
            url = f"http://127.0.0.1:{await stack.enter_async_context(serving(registry.app))}"
        else:
            harbor = Harbor.open(tmp_path, "harbor.test", Clock(), PASSWORD, lambda host: "http://127.0.0.1:9")
            url = f"http://127.0.0.1:{await stack.enter_async_context(serving(harbor.app))}"
            prefix = "library/"
        client = httpx.AsyncClient(base_url=url, auth=(USER, PASSWORD), timeout=60)
        http = await stack.enter_async_context(client)
        yield Server(request.param, http, prefix)
