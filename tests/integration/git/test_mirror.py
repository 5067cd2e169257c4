"""The mirror, over real HTTP, between a host with refs/pull and a Gitea that hides them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import psutil
import pytest
from pydantic import SecretStr

from sandbox.githost import Fault, GitHost, Wrong, passwords
from sandbox.serving import serving
from workers.adapters.git import Git, Remote, Transfer
from workers.adapters.git_progress import FETCHED, PUSHED
from workers.errors import Stuck, Wait


def pulls(refs: dict[str, str]) -> dict[str, str]:
    return {ref: sha for ref, sha in refs.items() if ref.startswith("refs/pull/")}


async def test_every_branch_and_tag_arrives_and_no_pull_request(before) -> None:
    report = await before.git.mirror(before.upstream, before.local)
    there = before.heads()
    assert report.upstream == report.local == there
    assert set(there) == {
        *("refs/heads/main", "refs/heads/next"),
        *("refs/tags/v0.1.0", "refs/tags/v1.0.0", "refs/tags/v1.1.0"),
    }
    assert report.refs == 5
    assert set(report.changed) == set(there)
    assert report.ahead == report.notices == ()


class Watched(Transfer):
    """Remembers what could be seen of it."""

    def heard(self, line: str) -> bool:
        taken = super().heard(line)
        self.__dict__.setdefault("seen", []).append((self.stage, self.objects_done, self.bytes_done))
        return taken


async def test_what_moves_is_seen_in_bytes_first_fetched_then_pushed(before) -> None:
    before.upstream_commits("main", "large.txt", "".join(f"{n * 7919 % 104729:x}" for n in range(100_000)))
    transfer = Watched()
    await before.git.mirror(before.upstream, before.local, transfer)
    seen = [s for s in transfer.__dict__["seen"] if s[0]]
    assert {stage for stage, _, _ in seen} == {FETCHED, PUSHED}
    assert [(objects, size) for _, objects, size in seen] == sorted((objects, size) for _, objects, size in seen)
    fetched = max(size for stage, _, size in seen if stage == FETCHED)
    assert fetched > 100_000
    assert transfer.bytes_done > 1.5 * fetched, "and pushed"


async def test_a_second_mirror_changes_nothing_and_moves_no_objects(before) -> None:
    await before.git.mirror(before.upstream, before.local)
    before.host.seen.clear()
    before.gitea.seen.clear()
    report = await before.git.mirror(before.upstream, before.local)
    assert report.changed == ()
    assert not [e for e in before.gitea.seen if e.service == "git-receive-pack"]
    # Lists of refs are answered by upload-pack too; a pack of this repository is above ten thousand bytes.
    assert max(e.sent for e in before.host.seen) < 1500
    assert len(before.host.seen) <= 2, "its refs, listed once"
    assert len(before.gitea.seen) <= 2


async def test_new_upstream_commits_move_the_local_branch_forward(before) -> None:
    await before.git.mirror(before.upstream, before.local)
    new = before.upstream_commits("main", "NEWS.md", "news\n")
    report = await before.git.mirror(before.upstream, before.local)
    assert report.changed == ("refs/heads/main",)
    assert before.heads()["refs/heads/main"] == new


async def test_a_branch_with_local_commits_is_left_alone_and_said(before) -> None:
    await before.git.mirror(before.upstream, before.local)
    ours = before.gitea.commit_to("openova", "openova", "main", {"cutover.md": "ours\n"}, "Ours")
    before.gitea.commit_to("openova", "openova", "org-tenants", {"t": "1"}, "A branch upstream never had")
    report = await before.git.mirror(before.upstream, before.local)
    assert report.ahead == ("main",)
    assert report.changed == ()
    assert before.heads()["refs/heads/main"] == ours
    assert "refs/heads/org-tenants" in before.heads()


async def test_a_diverged_branch_is_left_alone_and_upstream_kept_beside_it(before) -> None:
    await before.git.mirror(before.upstream, before.local)
    ours = before.gitea.commit_to("openova", "openova", "main", {"cutover.md": "ours\n"}, "Ours")
    theirs = before.upstream_commits("main", "NEWS.md", "news\n")
    report = await before.git.mirror(before.upstream, before.local)
    assert before.heads()["refs/heads/main"] == ours
    assert before.heads()["refs/heads/upstream/main"] == theirs
    assert any("local branch was left alone" in notice for notice in report.notices)
    later = before.upstream_commits("main", "NEWS.md", "more news\n")
    await before.git.mirror(before.upstream, before.local)
    assert before.heads()["refs/heads/upstream/main"] == later
    assert (await before.git.mirror(before.upstream, before.local)).changed == ()


async def test_a_branch_that_upstream_rewrote_is_not_forced(before, tmp_path: Path) -> None:
    await before.git.mirror(before.upstream, before.local)
    old = before.heads()["refs/heads/next"]
    head = before.bare / "refs" / "heads" / "next"
    head.write_text(before.heads()["refs/tags/v0.1.0"] + "\n")
    new = before.upstream_commits("next", "x", "rewritten\n")
    await before.git.mirror(before.upstream, before.local)
    assert before.heads()["refs/heads/next"] == old
    assert before.heads()["refs/heads/upstream/next"] == new


async def test_a_moved_tag_is_left_alone_and_kept_beside(before) -> None:
    await before.git.mirror(before.upstream, before.local)
    old = before.heads()["refs/tags/v0.1.0"]
    moved = before.heads()["refs/heads/next"]
    (before.bare / "refs" / "tags" / "v0.1.0").write_text(moved + "\n")
    report = await before.git.mirror(before.upstream, before.local)
    assert before.heads()["refs/tags/v0.1.0"] == old
    assert before.heads()["refs/tags/upstream/v0.1.0"] == moved
    assert report.notices


async def test_pull_requests_of_local_gitea_survive(before) -> None:
    await before.git.mirror(before.upstream, before.local)
    pull = before.gitea.root / "openova" / "openova.git" / "refs" / "pull" / "7" / "head"
    pull.parent.mkdir(parents=True)
    pull.write_text(before.heads()["refs/heads/next"] + "\n")
    before.upstream_commits("main", "NEWS.md", "news\n")
    await before.git.mirror(before.upstream, before.local)
    assert pulls(before.heads())


async def test_lfs_and_submodules_are_noticed(before) -> None:
    before.upstream_commits("main", "media/.gitattributes", "*.bin filter=lfs diff=lfs\n")
    before.upstream_commits("main", ".gitmodules", '[submodule "x"]\n\tpath = x\n\turl = https://a:b@github.com/x/x\n')
    report = await before.git.mirror(before.upstream, before.local)
    assert any("LFS" in n and "media/.gitattributes" in n for n in report.notices)
    assert any("https://***@github.com/x/x" in n for n in report.notices)
    assert (await before.git.mirror(before.upstream, before.local)).notices == report.notices, "remembered"
    before.upstream_commits("main", "media/.gitattributes", "*.bin -diff\n")
    [left] = (await before.git.mirror(before.upstream, before.local)).notices
    assert "submodules" in left


async def test_a_broken_cache_is_made_anew(before) -> None:
    await before.git.mirror(before.upstream, before.local)
    (before.workspace / "mirror.git" / "HEAD").unlink()
    new = before.upstream_commits("main", "NEWS.md", "news\n")
    await before.git.mirror(before.upstream, before.local)
    assert before.heads()["refs/heads/main"] == new


@pytest.mark.parametrize(
    ("wrong", "on", "kind", "reason"),
    [
        (Wrong.DOWN, "", Wait, "UpstreamUnavailable"),
        (Wrong.UNAVAILABLE, "", Wait, "UpstreamUnavailable"),
        (Wrong.DENIED, "", Stuck, "UpstreamDenied"),
        (Wrong.TRUNCATED, "upload-pack", Wait, "UpstreamUnavailable"),
        (Wrong.EMPTY, "", Wait, "UpstreamEmpty"),
    ],
)
async def test_trouble_upstream_has_one_word_and_pushes_nothing(before, wrong, on, kind, reason) -> None:
    before.host.faults.append(Fault(wrong, on=on))
    with pytest.raises(kind) as caught:
        await before.git.mirror(before.upstream, before.local)
    assert caught.value.reason == reason
    assert before.heads() == {}


@pytest.mark.parametrize("keep", [60, 3_000, 12_000])
async def test_a_pack_that_is_cut_short_pushes_nothing(before, keep: int) -> None:
    before.upstream_commits("main", "big", "".join(f"{n:x}\n" for n in range(20_000)))
    before.host.faults.append(Fault(Wrong.TRUNCATED, on="upload-pack", keep=keep))
    with pytest.raises(Wait):
        await before.git.mirror(before.upstream, before.local)
    assert before.heads() == {}


async def test_a_missing_repository_needs_a_person(place) -> None:
    with pytest.raises(Stuck) as caught:
        await place.git.ls_remote(place.local)
    assert caught.value.reason == "GiteaNotFound"


async def test_an_empty_repository_lists_nothing(before) -> None:
    assert await before.git.ls_remote(before.local) == {}


async def test_a_pull_mirror_refuses_and_the_reason_says_so(place) -> None:
    place.gitea.create("openova", "openova", pull_mirror=True)
    with pytest.raises(Stuck) as caught:
        await place.git.mirror(place.upstream, place.local)
    assert caught.value.reason in ("GiteaReadOnly", "GiteaDenied")


async def test_a_host_that_hangs_is_left_after_the_timeout_and_git_is_dead(before) -> None:
    before.host.faults.append(Fault(Wrong.HANG))
    hurried = Git(before.workspace, timeout=0.5)
    began = time.monotonic()
    with pytest.raises(Wait) as caught:
        await hurried.mirror(before.upstream, before.local)
    assert caught.value.reason == "UpstreamTimeout"
    assert time.monotonic() - began < 60
    assert not talking_to(before.host_port)


async def test_silence_ends_before_the_timeout(before) -> None:
    before.host.faults.append(Fault(Wrong.HANG))
    with pytest.raises(Wait) as caught:
        await Git(before.workspace, timeout=60, stall=1).ls_remote(before.upstream)
    assert caught.value.reason == "UpstreamUnavailable"


async def test_a_gitea_that_takes_its_time_with_a_pack_is_not_taken_for_one_that_is_gone(before) -> None:
    hook = before.gitea.root / "openova" / "openova.git" / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nsleep 3\n")
    hook.chmod(0o755)
    report = await Git(before.workspace, stall=1).mirror(before.upstream, before.local)
    assert set(report.changed) <= set(before.heads())


@pytest.mark.parametrize("wrong", [Wrong.DOWN, Wrong.EMPTY, Wrong.UNAVAILABLE])
async def test_a_push_that_is_cut_is_told_as_such_and_not_by_what_is_missing_then(before, wrong) -> None:
    before.gitea.faults.append(Fault(wrong, on="/git-receive-pack"))
    with pytest.raises(Wait, match="git push: ") as caught:
        await before.git.mirror(before.upstream, before.local)
    assert caught.value.reason == "GiteaUnavailable"


async def test_a_push_that_takes_too_long_is_told_by_the_time_that_it_had(before) -> None:
    await before.git.mirror(before.upstream, before.local)
    before.gitea.faults.append(Fault(Wrong.HANG, on="/git-receive-pack"))
    patient, hurried = Git(before.workspace), Git(before.workspace, timeout=3, stall=1)
    async with patient.checkout(before.local, "main") as tree:
        (tree.path / "new.yaml").write_text("a: 1\n")
        await tree.commit("Change")
        tree._owner = hurried
        with pytest.raises(Wait, match="git push took longer than 3 s") as caught:
            await tree.push()
    assert caught.value.reason == "GiteaTimeout"


async def test_cancelling_ends_git_and_the_server_side_too(before) -> None:
    before.host.faults.append(Fault(Wrong.HANG, on="upload-pack"))
    mirroring = asyncio.create_task(before.git.mirror(before.upstream, before.local))
    # git's own child does the talking: it must not be left behind.
    while not any(process.name() == "git-remote-http" for process in talking_to(before.host_port)):
        await asyncio.sleep(0.02)
    mirroring.cancel()
    began = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await mirroring
    assert time.monotonic() - began < 60
    assert not talking_to(before.host_port)
    before.host.faults.clear()
    await before.git.mirror(before.upstream, before.local)


async def test_the_password_is_in_no_argument_no_file_and_no_error(before) -> None:
    secret = "pa ss/w@rd:%$-very-secret"
    closed = GitHost(before.host.root, check=passwords({"bot": secret}), sign_in_to_read=True)
    # Long enough in flight to be looked at.
    closed.faults.append(Fault(Wrong.HANG, on="upload-pack", times=1))
    async with serving(closed.app) as port:
        remote = Remote(f"http://127.0.0.1:{port}/openova-io/openova", "bot", SecretStr(secret), name="Upstream")
        waiting = asyncio.create_task(Git(before.workspace, timeout=5).ls_remote(remote))
        while not talking_to(port):
            await asyncio.sleep(0.02)
        seen = [line for process in talking_to(port) for line in process.cmdline()]
        with pytest.raises(Wait) as caught:
            await waiting
        report = await before.git.mirror(remote, before.local)
        async with before.git.checkout(remote, "main") as tree:
            files = [*before.workspace.rglob("*"), *tree.path.rglob("*")]
            written = b"".join(file.read_bytes() for file in files if file.is_file())
        wrong = Remote(remote.url, "bot", SecretStr("other-secret"), name="Upstream")
        with pytest.raises(Stuck) as denied:
            await before.git.ls_remote(wrong)
    assert any("openova-io" in argument for argument in seen)
    everything = " ".join([*seen, str(caught.value), str(denied.value), repr(remote), repr(report)])
    for spelling in spellings("bot", secret) | spellings("gitea_admin", before.token) | {"other-secret"}:
        assert spelling not in everything
        assert spelling.encode() not in written


async def test_credentials_in_a_url_are_refused_without_repeating_them(place) -> None:
    with pytest.raises(Stuck) as caught:
        await place.git.ls_remote(Remote("http://me:sesame@127.0.0.1:1/a/b"))
    assert caught.value.reason == "CredentialsInUrl"
    assert "sesame" not in str(caught.value)


def spellings(user: str, secret: str) -> set[str]:
    import base64
    from urllib.parse import quote

    return {secret, quote(secret, safe=""), base64.b64encode(f"{user}:{secret}".encode()).decode()}


def talking_to(port: int) -> list[psutil.Process]:
    """Living git processes that have this port in their arguments, whoever their parent is by now."""
    found = []
    for process in psutil.process_iter():
        try:
            alive = process.status() != psutil.STATUS_ZOMBIE
            if alive and "git" in process.name() and any(f":{port}/" in word for word in process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found
