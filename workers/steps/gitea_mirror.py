"""Step 1: local Gitea holds every branch and tag that upstream has.

An ordinary repository, pushed to without force: Gitea's own pull mirror is read-only and would keep asking
upstream (field lessons B1.4), a forced push would wipe the commits of later steps (B1.5).
Safe to repeat: what is equal or ahead stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from schemas.progress import Progress
from schemas.results import GitMirrored
from workers.adapters.git import MirrorReport, Remote, Transfer
from workers.adapters.git_mirror import HEADS, TAGS, covered
from workers.adapters.git_process import shown
from workers.adapters.git_progress import PUSHED
from workers.adapters.gitea import RepositoryInfo
from workers.errors import Stuck, Wait
from workers.sovereign import Sovereign
from workers.telling import telling
from workers.world import Order, Report, World


def plan(info: RepositoryInfo | None, where: str) -> bool:
    """Whether the repository must be made. Raises Stuck when the one that is there cannot take a push."""
    if info is None:
        return True
    if info.mirror:
        raise Stuck(
            "GiteaPullMirror",
            f"{where} is a pull mirror: it refuses pushes and keeps fetching from upstream. Convert it to an "
            "ordinary repository in its settings, or delete it; Gitea has no API for that",
        )
    if info.archived:
        raise Stuck("GiteaArchived", f"{where} is archived and refuses pushes; unarchive it")
    if info.object_format != "sha1":
        raise Stuck("GiteaObjectFormat", f"{where} has {info.object_format} objects, upstream has sha1; delete it")
    return False


def uncovered(report: MirrorReport) -> tuple[str, ...]:
    """Upstream refs that local Gitea holds neither at their SHA, nor under it, nor aside."""
    ahead = frozenset(report.ahead)
    return tuple(ref for ref, sha in sorted(report.upstream.items()) if not covered(ref, sha, report.local, ahead))


def summary(report: MirrorReport, changes: int, uncounted: Sequence[str]) -> str:
    """One line for people."""
    heads = sum(ref.startswith(HEADS) for ref in report.upstream)
    tags = sum(ref.startswith(TAGS) for ref in report.upstream)
    held = f"{heads} branches and {tags} tags of upstream are in local Gitea"
    left = f", {len(report.ahead)} with local commits of their own" if report.ahead else ""
    if not changes:
        return f"nothing to do: {held}{left}"
    made = "".join(f", {what}" for what in uncounted)
    return f"{held}{left}; {len(report.changed)} refs moved{made}"


async def run(order: Order, world: World, report: Report) -> GitMirrored:
    """Organisation, repository, refs, default branch; each looked at again after it was changed."""
    sovereign = world.sovereign
    gitea, branch = sovereign.gitea, sovereign.upstream_git.branch
    where = f"{gitea.organisation}/{gitea.repository}"
    done: list[str] = []
    await report(Progress(message=f"making sure that {where} is there"))
    if await world.gitea.ensure_organisation(gitea.organisation):
        done.append(f"organisation {gitea.organisation} made")
    if plan(await world.gitea.repository(gitea.organisation, gitea.repository), where):
        if await world.gitea.create_repository(gitea.organisation, gitea.repository):
            done.append(f"repository {where} made")
        # What stands there now may be another's, made in between.
        plan(await world.gitea.repository(gitea.organisation, gitea.repository), where)
    upstream, local = remotes(sovereign)
    await report(Progress(message=f"mirroring {sovereign.upstream_git.url}", percent=10))
    transfer = Transfer()
    mirrored = await telling(world.git.mirror(upstream, local, transfer), lambda: report(_progress(transfer)))
    head = f"{HEADS}{branch}"
    if head not in mirrored.upstream:
        raise Stuck("UpstreamBranchMissing", f"upstream has no branch {branch}; check upstream_git.branch")
    if missing := uncovered(mirrored):
        raise _not_held(missing, mirrored.local)
    await report(Progress(message="comparing what local Gitea serves", percent=90))
    if await _default_branch(world, branch, where):
        done.append(f"default branch {branch} set")
    changes = len(done) + len(mirrored.changed)
    return GitMirrored(
        changes=changes,
        summary=summary(mirrored, changes, done),
        branch=branch,
        upstream_sha=mirrored.upstream[head],
        local_sha=mirrored.local[head],
        mirrored_at=datetime.now(UTC),
        refs=mirrored.refs,
        refs_changed=len(mirrored.changed),
        ahead=tuple(map(shown, mirrored.ahead)),
        notices=mirrored.notices,
    )


def remotes(sovereign: Sovereign) -> tuple[Remote, Remote]:
    """Upstream and local as they are reached on the wire."""
    git, gitea = sovereign.upstream_git, sovereign.gitea
    upstream = Remote(git.connect or git.url, name="Upstream")
    if git.login is not None:
        upstream = Remote(upstream.url, git.login.username, git.login.password(), name="Upstream")
    url = f"{gitea.url.rstrip('/')}/{gitea.organisation}/{gitea.repository}.git"
    return upstream, Remote(url, gitea.login.username, gitea.login.password(), name="Gitea")


def _progress(transfer: Transfer) -> Progress:
    """Fetching is the first half, pushing the second."""
    begun = 50 if transfer.stage == PUSHED else 10
    return Progress(
        message=f"objects are {transfer.stage}" if transfer.stage else "comparing refs with upstream",
        percent=begun + 40 * transfer.percent // 100,
        items_done=transfer.objects_done,
        items_total=transfer.objects_total or None,
        bytes_done=transfer.bytes_done,
        bytes_per_second=transfer.bytes_per_second,
    )


async def _default_branch(world: World, branch: str, where: str) -> bool:
    """Gitea serves `branch` as default; True when it had to be told. A push is seen by Gitea with a delay."""
    gitea = world.sovereign.gitea
    info = await world.gitea.repository(gitea.organisation, gitea.repository)
    told = info is not None and not info.empty and info.default_branch != branch
    if told:
        await world.gitea.set_default_branch(gitea.organisation, gitea.repository, branch)
        info = await world.gitea.repository(gitea.organisation, gitea.repository)
    if info is None or info.empty:
        raise Wait("GiteaStillEmpty", f"{where} was pushed to, and Gitea does not show it yet")
    if info.default_branch != branch:
        raise Wait("DefaultBranchPending", f"{where} has default branch {info.default_branch}, not {branch}")
    return told


def _not_held(missing: Sequence[str], local: Mapping[str, str]) -> Stuck:
    names = shown(", ".join(missing[:5]))
    if any(ref in local for ref in missing):
        return Stuck("RefsDiffer", f"local Gitea has other commits under {names}; remove or rename those there")
    return Stuck("RefsMissing", f"local Gitea cannot hold {names}: a ref of its own is in the way; rename that")
