"""What the agent asks local Harbor before its word counts: as containerd would, anonymous, with a token when asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import ClientSession

from sandbox.clock import Clock
from sandbox.controllers.oci import Credentials
from sandbox.harbor import Harbor
from sandbox.serving import serving
from schemas.nodes import Mirror, NodePlan
from workers.adapters.node_probe import probe
from workers.errors import Stuck, Wait

HOST = "harbor.sovereign.test"
PLAN = NodePlan(
    registry=HOST,
    mirrors=(
        Mirror(host="ghcr.io", endpoint=f"https://{HOST}/v2/proxy-ghcr"),
        Mirror(host="harbor.openova.io", endpoint=f"https://{HOST}/v2"),
    ),
)
Ask = Callable[[NodePlan], Awaitable[None]]


@asynccontextmanager
async def harbor(directory: Path, *, public: bool) -> AsyncIterator[Ask]:
    """A Harbor with one project, and a node's way to it."""

    async def nowhere(host: str) -> str:
        raise LookupError(host)

    async with serving(Harbor.open(directory, HOST, Clock(), "secret", nowhere).app) as port:
        login = {"Authorization": Credentials("admin", "secret").header()}
        async with ClientSession(f"http://127.0.0.1:{port}/api/v2.0/", headers=login) as http:
            project = {"project_name": "proxy-ghcr", "metadata": {"public": str(public).lower()}}
            (await http.post("projects", json=project)).raise_for_status()

        async def wire(netloc: str) -> str:
            assert netloc in (HOST, f"127.0.0.1:{port}")
            return f"http://127.0.0.1:{port}"

        yield lambda plan: probe(plan, wire)


async def test_a_public_project_is_good_and_a_private_or_missing_one_is_refused(tmp_path: Path) -> None:
    async with harbor(tmp_path / "open", public=True) as ask:
        await ask(PLAN)
        missing = Mirror(host="quay.io", endpoint=f"https://{HOST}/v2/proxy-quay")
        with pytest.raises(Stuck, match=r"LocalRegistryRefuses.*proxy-quay"):
            await ask(PLAN.model_copy(update={"mirrors": (missing,)}))
    async with harbor(tmp_path / "closed", public=False) as ask:
        with pytest.raises(Stuck, match=r"LocalRegistryRefuses.*answers 401"):
            await ask(PLAN)


async def test_a_registry_that_is_not_there_or_not_known_is_waited_for() -> None:
    async def nobody(_: str) -> str:
        return "http://127.0.0.1:9"

    async def unknown(netloc: str) -> str:
        raise LookupError(netloc)

    for wire in (nobody, unknown):
        with pytest.raises(Wait, match=r"LocalRegistryAway.*harbor\.sovereign\.test"):
            await probe(PLAN, wire)


async def test_a_ca_that_is_none_is_told() -> None:
    with pytest.raises(Stuck, match=r"BadCa.*harbor\.sovereign\.test"):
        await probe(PLAN.model_copy(update={"ca": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}))
