"""Upstreams and machines that nobody would choose: odd names, histories rewritten, what killed attempts left."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr

from sandbox.githost import Fault, Wrong, passwords
from sandbox.serving import serving
from tests.integration.git.conftest import commit, git
from workers.adapters.git import Git, Remote
from workers.errors import Stuck
from workers.steps.gitea_mirror import uncovered

SPACES = ("a\u3000b", "a\u00a0b", "a\u2028b", "a\u0085b")
"""Git takes these into a name; other languages see a space or the end of a line."""
ODD = (*SPACES, "-dash", "HEAD", "@", "#1", "100%", "a'b\"c", "$(id)", "über/späß", "refs/heads/deep", "é" * 100)


async def test_names_of_any_letters_arrive_as_they_are(before: Any) -> None:
    head = git(before.bare, "rev-parse", "refs/heads/main")
    for name in ODD:
        git(before.bare, "update-ref", f"refs/heads/{name}", head)
        git(before.bare, "update-ref", f"refs/tags/{name}", head)
    latin = b"refs/heads/latin-\xe9"
    subprocess.run([b"git", b"-C", os.fsencode(before.bare), b"update-ref", latin, head.encode()], check=True)
    report = await before.git.mirror(before.upstream, before.local)
    assert before.heads() == report.upstream == report.local
    assert {f"refs/heads/{name}" for name in (*ODD, os.fsdecode(b"latin-\xe9"))} < report.local.keys()
    assert (await before.git.mirror(before.upstream, before.local)).changed == ()


async def test_what_upstream_removed_or_renamed_stays_and_what_cannot_stand_there_is_kept_beside(before: Any) -> None:
    head = git(before.bare, "rev-parse", "refs/heads/main")
    git(before.bare, "update-ref", "refs/heads/a", head)
    await before.git.mirror(before.upstream, before.local)
    new = before.upstream_commits("main", "NEWS.md", "x")
    git(before.bare, "update-ref", "-d", "refs/heads/a")
    git(before.bare, "update-ref", "refs/heads/a/b", new)
    report = await before.git.mirror(before.upstream, before.local)
    assert before.heads()["refs/heads/a"] == head
    assert before.heads()["refs/heads/upstream/a/b"] == new
    assert any("refs/heads/a/b" in notice for notice in report.notices)
    assert uncovered(report) == ()


async def test_however_often_upstream_rewrites_a_branch_each_state_is_kept_and_none_forced(before: Any) -> None:
    await before.git.mirror(before.upstream, before.local)
    was, tips = before.heads()["refs/heads/next"], []
    for turn in range(3):
        git(before.bare, "update-ref", "-d", "refs/heads/next")
        tips.append(commit(before.bare, "next", "file", f"{turn}"))
        report = await before.git.mirror(before.upstream, before.local)
        assert uncovered(report) == ()
    assert before.heads()["refs/heads/next"] == was
    assert set(tips) <= set(before.heads().values())


async def test_an_upstream_without_its_whole_history_needs_a_person(before: Any, tmp_path: Path) -> None:
    commit(before.bare, "main", "x", "1")
    clone = ["git", "clone", "-q", "--bare", "--depth=1", "--no-single-branch", f"file://{before.bare}"]
    subprocess.run([*clone, tmp_path / "shallow"], check=True)
    shutil.rmtree(before.bare)
    shutil.move(tmp_path / "shallow", before.bare)
    with pytest.raises(Stuck) as caught:
        await before.git.mirror(before.upstream, before.local)
    assert caught.value.reason == "UpstreamShallow"
    assert before.heads() == {}


def locked(cache: Path) -> None:
    for name in ("packed-refs.lock", "config.lock", "shallow.lock", "refs/upstream/heads/main.lock"):
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_text("")


def empty_ref(cache: Path) -> None:
    git(cache, "pack-refs", "--all")
    (cache / "refs/upstream/heads").mkdir(parents=True, exist_ok=True)
    (cache / "refs/upstream/heads/main").write_bytes(b"")


def cut_pack(cache: Path) -> None:
    for pack in cache.glob("objects/pack/*.pack"):
        pack.chmod(0o644)
        pack.write_bytes(pack.read_bytes()[:50])


def no_objects(cache: Path) -> None:
    for file in cache.glob("objects/pack/*"):
        file.unlink()


def mad_settings(cache: Path) -> None:
    (cache / "config").write_text("[core\n")


async def test_whatever_a_killed_attempt_left_in_the_cache_the_next_one_mends(before: Any) -> None:
    await before.git.mirror(before.upstream, before.local)
    for number, damage in enumerate((empty_ref, cut_pack, no_objects, mad_settings)):
        damage(before.workspace / "mirror.git")
        new = before.upstream_commits("main", "x", str(number))
        await before.git.mirror(before.upstream, before.local)
        assert before.heads()["refs/heads/main"] == new, damage.__name__


async def test_what_a_killed_git_locked_is_opened_and_nothing_is_fetched_anew_for_it(before: Any) -> None:
    await before.git.mirror(before.upstream, before.local)
    cache = before.workspace / "mirror.git"
    locked(cache)
    packs = set(cache.glob("objects/pack/*.pack"))
    new = before.upstream_commits("main", "x", "1")
    await before.git.mirror(before.upstream, before.local)
    assert before.heads()["refs/heads/main"] == new
    assert packs < set(cache.glob("objects/pack/*.pack"))


async def test_a_checkout_that_a_killed_process_left_is_swept_away(before: Any) -> None:
    await before.git.mirror(before.upstream, before.local)
    left = before.workspace / "worktree-of-a-dead-one"
    (left / "tree").mkdir(parents=True)
    git_of_the_next = Git(before.workspace)
    async with git_of_the_next.checkout(before.local, "main"):
        async with git_of_the_next.checkout(before.local, "main") as second:
            assert not left.exists()
        assert not second.path.exists()


async def test_nothing_of_the_machine_or_of_a_surrounding_git_leaks_in(
    before: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere, home = tmp_path / "elsewhere", tmp_path / "home"
    elsewhere.mkdir()
    redirected = '[url "http://127.0.0.1:9/"]\n insteadOf = http://127.0.0.1\n'
    (home / ".config" / "git").mkdir(parents=True)
    (home / ".gitconfig").write_text(redirected)
    (home / ".config" / "git" / "config").write_text(redirected)
    (home / ".config" / "git" / "attributes").write_text("* text eol=crlf\n")
    (home / ".netrc").write_text("machine 127.0.0.1 login somebody password leaked\n")
    theirs = {
        "HOME": home, "XDG_CONFIG_HOME": home / ".config", "GIT_DIR": elsewhere, "GIT_WORK_TREE": elsewhere,
        "GIT_OBJECT_DIRECTORY": elsewhere, "GIT_INDEX_FILE": elsewhere / "index", "GIT_NAMESPACE": "theirs",
        "GIT_CONFIG_PARAMETERS": "'url.http://127.0.0.1:9/.insteadof=http://127.0.0.1'", "GIT_ALLOW_PROTOCOL": "ssh",
        "GIT_TRACE2": "1", "GIT_TRACE_SETUP": "1", "GIT_SSL_NO_VERIFY": "1", "GIT_PROXY_COMMAND": "false",
    }  # fmt: skip
    for name, value in theirs.items():
        monkeypatch.setenv(name, str(value))
    report = await before.git.mirror(before.upstream, before.local)
    assert before.heads() == report.upstream
    async with before.git.checkout(before.local, "main") as worktree:
        files = [file for file in worktree.path.rglob("*.yaml") if file.is_file()]
        assert files
        assert not any(b"\r\n" in file.read_bytes() for file in files)
    assert list(elsewhere.iterdir()) == []
    before.host._check, before.host.sign_in_to_read = passwords({"somebody": "leaked"}), True
    with pytest.raises(Stuck, match="UpstreamDenied"):
        await before.git.ls_remote(before.upstream)


@pytest.mark.parametrize("password", [None, "secret-of-upstream"])
async def test_a_login_follows_no_redirect_and_without_one_it_is_followed(before: Any, password: str | None) -> None:
    async def elsewhere(request: web.Request) -> web.Response:
        raise web.HTTPFound(f"http://127.0.0.1:{before.host_port}{request.path_qs}")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", elsewhere)
    async with serving(app) as port:
        url = before.upstream.url.replace(str(before.host_port), str(port))
        if password is None:
            assert await before.git.ls_remote(Remote(url, name="Upstream"))
            return
        with pytest.raises(Stuck) as caught:
            await before.git.mirror(Remote(url, "me", SecretStr(password), name="Upstream"), before.local)
    assert caught.value.reason == "UpstreamRedirected"
    assert list(before.host.seen) == []


async def test_a_login_that_is_refused_half_way_needs_a_person_and_pushes_nothing(before: Any) -> None:
    before.host.faults.append(Fault(Wrong.DENIED, on="git-upload-pack"))
    with pytest.raises(Stuck) as caught:
        await before.git.mirror(before.upstream, before.local)
    assert caught.value.reason == "UpstreamDenied"
    assert before.heads() == {}
