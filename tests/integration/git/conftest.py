"""Upstream and local Git, really served over HTTP on loopback."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr

from sandbox import openova
from sandbox.gitea import Gitea
from sandbox.githost import GitHost
from sandbox.serving import serving
from workers.adapters.git import Git, Remote


@dataclass
class Place:
    """Both ends, and the Git between them."""

    bare: Path
    host: GitHost
    host_port: int
    gitea: Gitea
    gitea_port: int
    token: str
    git: Git
    workspace: Path

    @property
    def upstream(self) -> Remote:
        return Remote(f"http://127.0.0.1:{self.host_port}/openova-io/openova", name="Upstream")

    @property
    def local(self) -> Remote:
        url = f"http://127.0.0.1:{self.gitea_port}/openova/openova.git"
        return Remote(url, "gitea_admin", SecretStr(self.token), name="Gitea")

    def heads(self) -> dict[str, str]:
        """Refs of local Gitea, as its own disk has them."""
        return self.gitea.refs("openova", "openova")

    def upstream_commits(self, branch: str, path: str, content: str) -> str:
        """A new commit upstream."""
        return commit(self.bare, branch, path, content)


def commit(bare: Path, branch: str, path: str, content: str) -> str:
    """A commit in a bare repository, by fast-import."""
    raw = content.encode()
    known = git(bare, "for-each-ref", "--format=%(refname)")
    parent = f"from refs/heads/{branch}^0\n" if f"refs/heads/{branch}\n" in f"{known}\n" else ""
    stream = (
        f"commit refs/heads/{branch}\ncommitter A <a@b.invalid> 1777600000 +0000\ndata 2\nup\n{parent}"
        f"M 644 inline {path}\ndata {len(raw)}\n{content}\ndone\n"
    )
    git(bare, "fast-import", "--quiet", "--done", stdin=stream)
    return git(bare, "rev-parse", f"refs/heads/{branch}")


def git(at: Path, *arguments: str, stdin: str = "") -> str:
    environment = {"PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1", "HOME": "/nonexistent"}
    done = subprocess.run(
        ["git", "-C", str(at), *arguments], input=stdin, capture_output=True, text=True, check=True, env=environment
    )
    return done.stdout.strip()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    bare = openova.generate(tmp_path / "upstream" / "openova-io")
    async with AsyncExitStack() as stack:
        host = GitHost(tmp_path / "upstream")
        gitea = await stack.enter_async_context(Gitea.open(tmp_path / "gitea", password="not-for-git"))
        host_port = await stack.enter_async_context(serving(host.app))
        gitea_port = await stack.enter_async_context(serving(gitea.app))
        workspace = tmp_path / "workspace"
        token = gitea.token()
        yield Place(bare, host, host_port, gitea, gitea_port, token, Git(workspace, timeout=120), workspace)


@pytest.fixture
def before(place: Place) -> Place:
    """An empty local repository is there."""
    place.gitea.create("openova", "openova")
    return place
