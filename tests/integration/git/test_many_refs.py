"""Thousands of refs: one push for all that go, none for those that stay, and a re-run that is quick."""

from __future__ import annotations

import time
from typing import Any

from tests.integration.git.conftest import commit, git

TOPICS = 1500


def many(bare: Any) -> None:
    """Branches and tags on what is there already."""
    head = git(bare, "rev-parse", "refs/heads/main")
    lines = [f"create refs/heads/topic/{n} {head}\ncreate refs/tags/t{n} {head}\n" for n in range(TOPICS)]
    git(bare, "update-ref", "--stdin", stdin="".join(lines))


async def test_thousands_of_refs_go_in_one_push_and_a_second_mirror_is_quick(before: Any) -> None:
    many(before.bare)
    report = await before.git.mirror(before.upstream, before.local)
    pushes = [e for e in before.gitea.seen if e.service == "git-receive-pack"]
    assert len(report.changed) > 2 * TOPICS
    assert before.heads() == report.upstream
    assert len(pushes) <= 2, "the list of refs, and the pack"
    before.gitea.seen.clear()
    started = time.monotonic()
    again = await before.git.mirror(before.upstream, before.local)
    assert again.changed == ()
    assert [e for e in before.gitea.seen if e.service == "git-receive-pack"] == []
    assert time.monotonic() - started < 30, "two seconds, on a machine that does nothing else"


async def test_among_thousands_a_branch_with_local_commits_is_left_alone(before: Any) -> None:
    await before.git.mirror(before.upstream, before.local)
    mine = commit(before.gitea._path("openova", "openova"), "main", "mine", "x")
    commit(before.gitea._path("openova", "openova"), "next", "mine", "x")
    theirs = before.upstream_commits("next", "theirs", "y")
    many(before.bare)
    report = await before.git.mirror(before.upstream, before.local)
    there = before.heads()
    assert there["refs/heads/main"] == mine
    assert there["refs/heads/next"] != theirs == there["refs/heads/upstream/next"]
    assert report.ahead == ("main",)
    assert sum(ref.startswith("refs/heads/topic/") for ref in there) == TOPICS
