"""Commits to a branch of local Gitea through a checkout of its own."""

from __future__ import annotations

import pytest

from workers.adapters.git import Git
from workers.errors import Stuck, Wait


async def test_a_commit_reaches_the_branch_and_the_checkout_is_gone(before) -> None:
    await before.git.mirror(before.upstream, before.local)
    async with before.git.checkout(before.local, "main") as tree:
        assert tree.head == before.heads()["refs/heads/main"]
        (tree.path / "README.md").write_text("changed\n")
        (tree.path / "new.yaml").write_text("a: 1\n")
        sha = await tree.commit("Change the README")
        assert sha == tree.head
        await tree.push()
    assert before.heads()["refs/heads/main"] == sha
    assert before.gitea.read("openova", "openova", "main", "README.md") == "changed\n"
    assert not tree.path.exists()


async def test_no_change_is_no_commit(before) -> None:
    await before.git.mirror(before.upstream, before.local)
    async with before.git.checkout(before.local, "main") as tree:
        text = (tree.path / "README.md").read_text()
        (tree.path / "README.md").write_text(text)
        assert await tree.commit("Nothing") is None


async def test_a_branch_that_moved_in_between_is_a_wait_and_stays_as_it_is(before) -> None:
    await before.git.mirror(before.upstream, before.local)
    async with before.git.checkout(before.local, "main") as tree:
        theirs = before.gitea.commit_to("openova", "openova", "main", {"x": "1"}, "Faster")
        (tree.path / "README.md").write_text("changed\n")
        await tree.commit("Slower")
        with pytest.raises(Wait) as caught:
            await tree.push()
    assert caught.value.reason == "BranchMoved"
    assert before.heads()["refs/heads/main"] == theirs


async def test_a_branch_that_is_not_there_needs_a_person(before) -> None:
    await before.git.mirror(before.upstream, before.local)
    with pytest.raises(Stuck) as caught:
        async with before.git.checkout(before.local, "nowhere"):
            pass
    assert caught.value.reason == "GiteaBranchMissing"


async def test_who_commits_does_not_depend_on_the_machine(before, monkeypatch, tmp_path) -> None:
    await before.git.mirror(before.upstream, before.local)
    mine = "[user]\n\tname = Somebody\n[commit]\n\tgpgsign = true\n"
    elsewhere = '[url "http://127.0.0.1:1/"]\n\tinsteadOf = http://127.0.0.1\n'
    (tmp_path / ".gitconfig").write_text(mine + elsewhere)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Somebody")
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    async with Git(before.workspace).checkout(before.local, "main") as tree:
        (tree.path / "README.md").write_text("changed\n")
        await tree.commit("Change")
        who = await tree.inside("log", "-1", "--format=%an <%ae> %cn <%ce>")
    assert who == "catalyst-cutover <cutover@sovereign.invalid> catalyst-cutover <cutover@sovereign.invalid>"
