"""Step 1 from end to end: real Git over HTTP, Gitea's API, through the adapters."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from sandbox.githost import Fault, Wrong
from schemas.progress import Progress
from schemas.results import GitMirrored
from tests.integration.git.conftest import git
from workers.adapters.gitea import GiteaApi
from workers.errors import Stuck, Wait
from workers.sovereign import Gitea, Harbor, Login, Sovereign, UpstreamGit
from workers.steps import gitea_mirror
from workers.world import Order, World

ORDER = Order("r", "gitea-mirror", 1, 1, datetime.now(UTC), {})


@asynccontextmanager
async def world(place, tmp_path: Path, *, branch: str = "main") -> AsyncIterator[World]:
    secret = tmp_path / "token"
    secret.write_text(place.token + "\n")
    login = Login(username="gitea_admin", password_file=secret)
    sovereign = Sovereign(
        fqdn="sovereign.test",
        upstream_git=UpstreamGit(connect=place.upstream.url, branch=branch),
        gitea=Gitea(url=f"http://127.0.0.1:{place.gitea_port}", login=login),
        harbor=Harbor(url="http://127.0.0.1:1", host="harbor.sovereign.test", login=login),
    )
    async with GiteaApi.open(sovereign.gitea) as api:
        yield cast(World, SimpleNamespace(sovereign=sovereign, git=place.git, gitea=api))


async def step(made: World, said: list[Progress] | None = None) -> GitMirrored:
    async def report(progress: Progress) -> None:
        if said is not None:
            said.append(progress)

    return await gitea_mirror.run(ORDER, made, report)


async def test_an_empty_gitea_ends_with_everything_upstream_has(place, tmp_path: Path) -> None:
    said: list[Progress] = []
    async with world(place, tmp_path) as made:
        result = await step(made, said)
        info = await made.gitea.repository("openova", "openova")
    assert info is not None
    assert (info.default_branch, info.empty, info.mirror) == ("main", False, False)
    assert result.local_sha == result.upstream_sha == place.heads()["refs/heads/main"]
    assert (result.refs, result.refs_changed, result.changes) == (5, 5, 7)
    assert max(p.bytes_done or 0 for p in said) > 0, "bytes are seen, not only refs"
    assert [p.percent for p in said if p.percent] == sorted(p.percent for p in said if p.percent)


async def test_a_re_run_with_nothing_to_do_says_so(place, tmp_path: Path) -> None:
    async with world(place, tmp_path) as made:
        await step(made)
        before = place.heads()
        result = await step(made)
    assert result.changes == 0
    assert result.summary.startswith("nothing to do")
    assert place.heads() == before


async def test_local_commits_stay_and_the_result_names_the_branch(place, tmp_path: Path) -> None:
    async with world(place, tmp_path) as made:
        await step(made)
        ours = place.gitea.commit_to("openova", "openova", "main", {"x": "1"}, "Ours")
        result = await step(made)
    assert result.ahead == ("main",)
    assert result.local_sha == ours != result.upstream_sha
    assert result.changes == 0


async def test_a_default_branch_other_than_main_is_set_and_read_back(place, tmp_path: Path) -> None:
    async with world(place, tmp_path, branch="next") as made:
        result = await step(made)
        info = await made.gitea.repository("openova", "openova")
    assert info is not None
    assert info.default_branch == result.branch == "next"


async def test_a_pull_mirror_that_is_there_needs_a_person_and_gets_no_push(place, tmp_path: Path) -> None:
    place.gitea.create("openova", "openova", pull_mirror=True)
    async with world(place, tmp_path) as made:
        with pytest.raises(Stuck) as caught:
            await step(made)
    assert caught.value.reason == "GiteaPullMirror"
    assert not [e for e in place.gitea.seen if e.service == "git-receive-pack"]


async def test_a_user_with_the_organisations_name_needs_a_person(place, tmp_path: Path) -> None:
    place.gitea.book.add_user("openova", "x", admin=False)
    async with world(place, tmp_path) as made:
        with pytest.raises(Stuck) as caught:
            await step(made)
    assert caught.value.reason == "GiteaNameTaken"


async def test_a_token_without_the_scope_needs_a_person(place, tmp_path: Path) -> None:
    place.token = place.gitea.token(scopes=("read:organization", "read:repository"))
    async with world(place, tmp_path) as made:
        with pytest.raises(Stuck) as caught:
            await step(made)
    assert caught.value.reason == "GiteaDenied"
    assert place.token not in str(caught.value)


async def test_a_tag_that_cannot_be_kept_beside_needs_a_person(place, tmp_path: Path) -> None:
    async with world(place, tmp_path) as made:
        await step(made)
        new = place.upstream_commits("main", "NEWS.md", "news\n")
        (place.bare / "refs" / "tags" / "v0.1.0").write_text(new + "\n")
        mine = place.heads()["refs/heads/next"]
        for name in ("upstream", f"upstream-{new[:12]}"):
            git(place.gitea._path("openova", "openova"), "update-ref", f"refs/tags/{name}", mine)
        with pytest.raises(Stuck) as caught:
            await step(made)
    assert caught.value.reason == "RefsDiffer"
    assert "refs/tags/v0.1.0" in caught.value.message


async def test_an_upstream_without_the_branch_needs_a_person(place, tmp_path: Path) -> None:
    async with world(place, tmp_path, branch="release") as made:
        with pytest.raises(Stuck) as caught:
            await step(made)
    assert caught.value.reason == "UpstreamBranchMissing"


@pytest.mark.parametrize("on", ["/api/v1/repos", "receive-pack"])
async def test_a_gitea_that_is_down_for_a_moment_is_waited_for_and_then_done(place, tmp_path: Path, on: str) -> None:
    place.gitea.faults.append(Fault(Wrong.UNAVAILABLE, on=on, times=1))
    async with world(place, tmp_path) as made:
        with pytest.raises(Wait):
            await step(made)
        result = await step(made)
    assert result.local_sha == result.upstream_sha


async def test_git_that_wants_a_token_takes_our_token(place, tmp_path: Path) -> None:
    place.gitea.git_takes_passwords = False
    async with world(place, tmp_path) as made:
        await step(made)
    place.token = "not-for-git"
    with pytest.raises(Stuck):
        await place.git.ls_remote(place.local)


async def test_a_real_tree_passes_too(place, tmp_path: Path) -> None:
    shared = Path(__file__).parents[4] / "shared" / "data" / "openova-clusters"
    if not shared.is_dir():
        pytest.skip("the public manifests are not beside this checkout")
    from sandbox import openova

    openova.from_tree(shared, place.bare.parent)
    async with world(place, tmp_path) as made:
        result = await step(made)
    assert result.refs == 1
    file = "clusters/_template/bootstrap-kit/13-bp-catalyst-platform.yaml"
    original = (shared / "_template/bootstrap-kit/13-bp-catalyst-platform.yaml").read_text()
    assert place.gitea.read("openova", "openova", "main", file) == original
