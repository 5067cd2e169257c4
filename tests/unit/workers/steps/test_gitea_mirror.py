"""What step 1 decides."""

from __future__ import annotations

import pytest

from workers.adapters.git import MirrorReport
from workers.adapters.gitea import RepositoryInfo
from workers.errors import Stuck
from workers.steps import gitea_mirror


def info(**other: object) -> RepositoryInfo:
    known = {"default_branch": "main", "empty": True, "mirror": False, "archived": False, "object_format": "sha1"}
    return RepositoryInfo(**{**known, **other})  # type: ignore[arg-type]


def report(upstream: dict[str, str], local: dict[str, str], ahead: tuple[str, ...] = ()) -> MirrorReport:
    return MirrorReport(len(upstream), (), ahead, upstream, local, ())


def test_a_repository_is_made_only_when_there_is_none() -> None:
    assert gitea_mirror.plan(None, "o/o") is True
    assert gitea_mirror.plan(info(), "o/o") is False


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ({"mirror": True}, "GiteaPullMirror"),
        ({"archived": True}, "GiteaArchived"),
        ({"object_format": "sha256"}, "GiteaObjectFormat"),
    ],
)
def test_a_repository_that_takes_no_push_needs_a_person(what: dict[str, object], reason: str) -> None:
    with pytest.raises(Stuck) as caught:
        gitea_mirror.plan(info(**what), "o/o")
    assert caught.value.reason == reason
    assert "o/o" in caught.value.message


def test_a_ref_is_held_at_its_sha_or_under_local_commits_or_aside() -> None:
    upstream = {"refs/heads/a": "1", "refs/heads/b": "1", "refs/heads/c": "1", "refs/tags/t": "1"}
    local = {"refs/heads/a": "1", "refs/heads/b": "9", "refs/heads/c": "9", "refs/tags/t": "1"}
    local["refs/heads/upstream/c"] = "1"
    assert gitea_mirror.uncovered(report(upstream, local, ahead=("b",))) == ()


@pytest.mark.parametrize(
    "local",
    [{}, {"refs/heads/a": "9"}, {"refs/heads/a": "9", "refs/heads/upstream/a": "8"}, {"refs/heads/upstream/x": "1"}],
)
def test_a_ref_with_another_commit_or_none_is_not_held(local: dict[str, str]) -> None:
    assert gitea_mirror.uncovered(report({"refs/heads/a": "1"}, local)) == ("refs/heads/a",)


def test_a_tag_cannot_be_ahead() -> None:
    assert gitea_mirror.uncovered(report({"refs/tags/a": "1"}, {"refs/tags/a": "9"}, ahead=("a",)))


def test_a_branch_that_is_ahead_must_be_there() -> None:
    assert gitea_mirror.uncovered(report({"refs/heads/a": "1"}, {}, ahead=("a",)))


def test_the_summary_says_when_there_was_nothing_to_do() -> None:
    done = report({"refs/heads/a": "1"}, {"refs/heads/a": "1"})
    assert gitea_mirror.summary(done, 0, ()).startswith("nothing to do: 1 branches and 0 tags")
