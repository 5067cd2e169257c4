"""An API server to hold to the contract: the sandbox's always, and real ones.

KUBECONFIG names a cluster, shared or not: what the tests make there has random names and is taken away again.
KUBEBUILDER_ASSETS names a directory with `kube-apiserver` and `etcd`, which are started on loopback.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kube_servers import Kube, connected, named_servers, provided, started

from sandbox.clock import Clock
from sandbox.kube import KubeApi

Server = tuple[Path, Any] | None
"""A real one's kubeconfig, and how to make it forget; None for the sandbox."""


@dataclass
class Home:
    """A namespace of the test's own."""

    kube: Kube
    name: str
    controllers: bool
    """Whether kube-controller-manager (or what stands for it) is at work: garbage is collected."""

    def path(self, plural: str, name: str = "", group: str = "", version: str = "v1") -> str:
        """The path of a collection or object here."""
        root = f"/apis/{group}/{version}" if group else f"/api/{version}"
        return f"{root}/namespaces/{self.name}/{plural}" + (f"/{name}" if name else "")

    def config_map(self, name: str = "") -> str:
        """The path of a ConfigMap here."""
        return self.path("configmaps", name)

    def helm_repository(self, name: str = "", version: str = "v1") -> str:
        """The path of a HelmRepository here."""
        return self.path("helmrepositories", name, "source.toolkit.fluxcd.io", version)


@pytest.fixture(scope="session", params=named_servers())
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for all tests; the sandbox's is opened anew for each."""
    if request.param == "sandbox":
        yield None
        return
    directory = tmp_path_factory.mktemp(request.param)
    with ExitStack() as stack:
        if request.param == "assets":
            own = stack.enter_context(started(Path(os.environ["KUBEBUILDER_ASSETS"]), directory))
            kubeconfig, forget = own.kubeconfig, own.forget
        else:
            # As kubectl reads it: several files may be listed, the first is ours.
            kubeconfig, forget = Path(os.environ["KUBECONFIG"].split(os.pathsep)[0]), None
        stack.enter_context(provided(kubeconfig, directory, leave=request.param == "assets"))
        yield kubeconfig, forget


@pytest.fixture
async def kube(server: Server, tmp_path: Path) -> AsyncIterator[Kube]:
    if server is not None:
        kubeconfig, forget = server
        async with connected(kubeconfig, tmp_path) as real:
            real.forget = forget
            yield real
        return
    async with (
        KubeApi.open(tmp_path / "kube", Clock()) as sandbox,
        connected(sandbox.kubeconfig(tmp_path / "kubeconfig"), tmp_path) as kube,
    ):

        async def forget_() -> None:
            sandbox.store.compact()

        kube.forget = forget_
        yield kube


@pytest.fixture
async def home(kube: Kube) -> AsyncIterator[Home]:
    """A namespace, removed in the end with all that is in it (a bare API server has nobody who empties it)."""
    name = f"contract-{secrets.token_hex(4)}"
    await kube.make("/api/v1/namespaces", {"metadata": {"name": name}})
    home = Home(kube, name, False)
    home.controllers = await _controlled(home)
    if not home.controllers:
        # No Pod without it, and no controller here to make it.
        await kube.make(home.path("serviceaccounts"), {"metadata": {"name": "default"}})
    yield home
    answer = await kube.ask("DELETE", f"/api/v1/namespaces/{name}")
    assert answer.status == 200
    if not home.controllers:
        await _emptied(home)


CONTROLLED: dict[str, bool] = {}
"""Server -> whether someone gives a new namespace its default account, as kube-controller-manager does."""


async def _controlled(home: Home) -> bool:
    if home.kube.url not in CONTROLLED:
        CONTROLLED[home.kube.url] = await _account_appears(home)
    return CONTROLLED[home.kube.url]


async def _account_appears(home: Home) -> bool:
    for _ in range(30):
        if (await home.kube.ask("GET", home.path("serviceaccounts", "default"))).status == 200:
            return True
        await asyncio.sleep(0.1)
    return False


async def _emptied(home: Home) -> None:
    """What kube-controller-manager does with a namespace that is deleted."""
    kinds = [("configmaps", ""), ("secrets", ""), ("serviceaccounts", ""), ("deployments", "apps")]
    for plural, group in kinds:
        await home.kube.ask("DELETE", home.path(plural, "", group))
    await home.kube.ask("DELETE", home.helm_repository())
    path = f"/api/v1/namespaces/{home.name}"
    left = (await home.kube.ask("GET", path)).body
    if left.get("spec"):
        left["spec"]["finalizers"] = []
        await home.kube.ask("PUT", f"{path}/finalize", left)


@pytest.fixture
async def flux(home: Home) -> Home:
    """A namespace on a server that has the definitions of Flux."""
    assert (await home.kube.ask("GET", home.helm_repository())).status == 200
    return home
