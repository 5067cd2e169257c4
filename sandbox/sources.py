"""Both ends of Git in a box: the mothership's host with its repository, and the Sovereign's own Gitea."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from sandbox import openova
from sandbox.catalogue import FQDN, GITEA_HOST, GITHUB, GITOPS_UPSTREAM
from sandbox.controllers.manifests import build
from sandbox.description import GITEA_TOKEN, GITEA_USER
from sandbox.gitea import Gitea
from sandbox.githost import Fault, GitHost, Wrong
from sandbox.keyring import Keyring
from sandbox.network import Network
from sandbox.openova_slots import TEMPLATE
from sandbox.serving import serving

OWNER = GITOPS_UPSTREAM.rpartition("/")[0].rpartition("/")[2]
GITEA_PASSWORD = "gitea-admin"


@dataclass
class Sources:
    """Upstream Git and local Gitea, serving."""

    upstream: GitHost
    gitea: Gitea
    gitea_url: str
    repository: Path
    branch: str
    charts: tuple[tuple[str, str], ...]
    """(chart, version) that the repository's HelmReleases pin."""
    releases: int
    """How many HelmReleases the bootstrap-kit holds."""

    def refuse(self, refused: bool) -> None:
        """Whether the mothership's Git turns everyone away."""
        self.upstream.faults[:] = [Fault(Wrong.DENIED)] if refused else []


def repository(directory: Path, repo: str | None, tree: Path | None) -> Path:
    """The mothership's repository, made when there is none yet."""
    place = directory / "github" / OWNER
    if (place / "openova.git" / "HEAD").exists():
        return place / "openova.git"
    if repo is not None:
        return openova.from_repository(repo, place)
    if tree is not None:
        return openova.from_tree(tree, place)
    return openova.generate(place)


@asynccontextmanager
async def serve(
    directory: Path, network: Network, keyring: Keyring, repo: str | None = None, tree: Path | None = None
) -> AsyncIterator[Sources]:
    """Both on the network, until the block ends."""
    bare = await asyncio.to_thread(repository, directory, repo, tree)
    branch = await asyncio.to_thread(_branch, bare)
    pinned, releases = await asyncio.to_thread(_pinned, bare, branch, directory / "upstream-tree")
    upstream = GitHost(directory / "github")
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(serving(upstream.app))
        await network.attach(GITHUB, port, local=False)
        password = keyring.get(GITEA_PASSWORD)
        gitea = await stack.enter_async_context(Gitea.open(directory / "gitea", admin=GITEA_USER, password=password))
        if not keyring.has(GITEA_TOKEN):
            keyring.put(GITEA_TOKEN, gitea.token(GITEA_USER, "catalyst-cutover"))
        port = await stack.enter_async_context(serving(gitea.app))
        await network.attach(GITEA_HOST, port, local=True)
        yield Sources(upstream, gitea, f"http://127.0.0.1:{port}", bare, branch, pinned, releases)


def _pinned(bare: Path, branch: str, place: Path) -> tuple[tuple[tuple[str, str], ...], int]:
    shutil.rmtree(place, ignore_errors=True)
    exported = openova.export(bare, place, f"refs/heads/{branch}")
    kit = build(exported, f"{TEMPLATE}/bootstrap-kit", {"SOVEREIGN_FQDN": FQDN})
    releases = sum(o["kind"] == "HelmRelease" for o in kit)
    return openova.charts_in(exported), releases


def _branch(bare: Path) -> str:
    """The repository's default branch."""
    head = (bare / "HEAD").read_text(encoding="utf-8").strip()
    return head.removeprefix("ref: refs/heads/")
