"""Git: reading remotes, mirroring upstream into local Git, and commits to a local branch.

Nothing here forces, prunes or touches `refs/pull/*`: Gitea refuses those ("deny updating a hidden ref"),
and a forced or pruning push would undo the Sovereign's own commits and branches (field lessons B1.2, B1.3).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from workers.adapters.git_mirror import HEADS, TAGS, MirrorReport, plan
from workers.adapters.git_process import STALL, GitFailed, Remote, run, scrub, shown
from workers.adapters.git_progress import Transfer
from workers.errors import Stuck, Wait

__all__ = ["Git", "GitFailed", "MirrorReport", "Remote", "Transfer", "Worktree"]

BATCH = 100  # refs a command line; one argument list has a limit
TIMEOUT = 1200.0  # seconds of one command: as long as upstream's own chart gives the whole step
_STATUS = re.compile(r"^[ +\-*=!]\t", re.MULTILINE)
"""`git push --porcelain` tells what became of each ref. A push that was cut tells of none, and may say "Done" yet."""
_FOUND = "refs/upstream/"
_OWN = "refs/local/"


class Git:
    """Git with its caches below `workspace`. `timeout` bounds each command, `stall` each silence of who is read from.

    Who is pushed to may be silent as long as the command may take: Gitea says nothing while it takes a pack in.
    """

    def __init__(self, workspace: Path, timeout: float = TIMEOUT, *, stall: int = STALL) -> None:
        self._workspace, self._timeout, self._stall = workspace, timeout, stall
        self._mirroring = asyncio.Lock()
        self._begun = False

    async def ls_remote(self, remote: Remote) -> dict[str, str]:
        """Heads and tags of a remote, full name -> SHA; of an annotated tag the tag's own. Empty when it is."""
        self._workspace.mkdir(parents=True, exist_ok=True)
        listed = await self._run(
            self._workspace, "ls-remote", "--refs", remote.url, f"{HEADS}*", f"{TAGS}*", remote=remote
        )
        # Not splitlines: a name may hold what other languages call the end of a line.
        pairs = (line.split("\t", 1) for line in listed.split("\n") if "\t" in line)
        return {ref: sha for sha, ref in pairs if ref.startswith((HEADS, TAGS))}

    async def mirror(self, upstream: Remote, local: Remote, transfer: Transfer | None = None) -> MirrorReport:
        """Bring every upstream head and tag into local Git, as far as that needs no force.

        `transfer` shows meanwhile how far it is.

        Raises Wait when upstream answers nothing or half, Stuck when a login is refused.
        """
        upstream, local = _named(upstream, "Upstream"), _named(local, "Gitea")
        async with self._mirroring:
            cache = await self._cache()
            try:
                return await self._mirrored(cache, upstream, local, transfer)
            except GitFailed:
                # No trouble with a remote that is known: the cache may be damaged where no look at it shows.
                await asyncio.to_thread(shutil.rmtree, cache)
                return await self._mirrored(await self._cache(), upstream, local, transfer)

    async def _mirrored(self, cache: Path, upstream: Remote, local: Remote, transfer: Transfer | None) -> MirrorReport:
        wanted = await self.ls_remote(upstream)
        if not any(ref.startswith(HEADS) for ref in wanted):
            # A cut answer and an empty repository look the same to git: exit 0 and no refs (#6490).
            raise Wait("UpstreamEmpty", "upstream lists no branch at all; a proxy may have cut its answer")
        found = await self._refs(cache, _FOUND)
        if found != wanted:
            found = await self._fetch(cache, upstream, _FOUND, transfer)
        if missing := sorted(set(wanted) - set(found)):
            raise Wait("UpstreamIncomplete", f"upstream lists {shown(missing[0])} and does not send it")
        have = await self.ls_remote(local)
        contains = await self._contains(cache, local, found, have)
        todo = plan(found, have, lambda old, new: (old, new) in contains)
        looking = asyncio.create_task(self._outside(cache, found))  # while Gitea works
        try:
            await self._push(cache, local, todo.push, found, have, transfer)
            after = await self.ls_remote(local) if todo.push else have
            for ref, sha in todo.push.items():
                if after.get(ref) != sha:
                    there = f"Gitea shows {after.get(ref)} instead of it"
                    raise Wait("MirrorIncomplete", f"{shown(ref)} was pushed, and {there}")
            notices = (*map(shown, todo.notices), *await looking)
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
        return MirrorReport(len(found), tuple(todo.push), tuple(todo.ahead), found, after, notices)

    @asynccontextmanager
    async def checkout(self, remote: Remote, branch: str) -> AsyncIterator[Worktree]:
        """The newest commit of a branch in a directory of its own, gone afterwards."""
        remote = _named(remote, "Gitea")
        self._workspace.mkdir(parents=True, exist_ok=True)
        await self._swept()
        directory = Path(tempfile.mkdtemp(prefix="worktree-", dir=self._workspace))
        try:
            path = directory / "tree"
            arguments = ("--quiet", "--depth=1", "--single-branch", "--no-tags", f"--branch={branch}")
            await self._run(directory, "clone", *arguments, "--", remote.url, str(path), remote=remote)
            worktree = Worktree(self, path, remote, branch)
            worktree.head = await worktree.inside("rev-parse", "HEAD")
            yield worktree
        finally:
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

    async def _swept(self) -> None:
        """What a killed process left checked out is gone; once, before there is anything of our own."""
        if not self._begun:
            self._begun = True
            for left in list(self._workspace.glob("worktree-*")):
                await asyncio.to_thread(shutil.rmtree, left, ignore_errors=True)

    async def _run(
        self,
        at: Path,
        *arguments: str,
        remote: Remote | None = None,
        stall: int | None = None,
        accept: tuple[int, ...] = (0,),
        shows: re.Pattern[str] | None = None,
        extra: Mapping[str, str] | None = None,
        transfer: Transfer | None = None,
    ) -> str:
        heard = transfer.heard if transfer else None
        return await run(
            at, *arguments, remote=remote, timeout=self._timeout, stall=stall or self._stall, accept=accept,
            shows=shows, extra=extra, heard=heard,
        )  # fmt: skip

    async def _cache(self) -> Path:
        """The bare repository in which upstream and local are compared; a broken one is made anew."""
        cache = self._workspace / "mirror.git"
        if cache.exists():
            # Whoever held these was killed: the workspace is ours alone, and nothing of ours is at work here now.
            for lock in list(cache.rglob("*.lock")):
                lock.unlink()
            try:
                await self._run(cache, f"--git-dir={cache}", "for-each-ref", "--count=1")
                return cache
            except GitFailed:
                await asyncio.to_thread(shutil.rmtree, cache)
        cache.mkdir(parents=True)
        await self._run(cache, "init", "--quiet", "--bare", str(cache))
        return cache

    async def _fetch(self, cache: Path, remote: Remote, into: str, transfer: Transfer | None = None) -> dict[str, str]:
        """Heads and tags of a remote with all they need, below `into`; their names as the remote has them.

        Pruning concerns the cache alone.
        """
        specs = (f"+{HEADS}*:{into}heads/*", f"+{TAGS}*:{into}tags/*")
        how = ("--no-tags", "--prune", "--no-write-fetch-head", "--update-shallow")
        arguments = (_loud(transfer), *how, remote.url, *specs)
        await self._run(cache, f"--git-dir={cache}", "fetch", *arguments, remote=remote, transfer=transfer)
        if (cache / "shallow").exists():
            await asyncio.to_thread(shutil.rmtree, cache)
            message = f"{remote.name} has only the newest commits of its history; name a repository that is whole"
            raise Stuck(f"{remote.name}Shallow", message)
        return await self._refs(cache, into)

    async def _refs(self, cache: Path, into: str) -> dict[str, str]:
        """What the cache has below `into`, by the names of the remote."""
        listed = await self._run(cache, f"--git-dir={cache}", "for-each-ref", "--format=%(refname) %(objectname)", into)
        pairs = (line.rsplit(" ", 1) for line in listed.split("\n") if line)
        return {f"refs/{ref.removeprefix(into)}": sha for ref, sha in pairs}

    async def _contains(
        self, cache: Path, local: Remote, found: Mapping[str, str], have: Mapping[str, str]
    ) -> frozenset[tuple[str, str]]:
        """Pairs (ancestor, descendant) among the commits that upstream and local have under one name."""
        pairs: set[tuple[str, str]] = set()
        for ref, sha in found.items():
            for name in (ref, ref.replace(HEADS, f"{HEADS}upstream/", 1)):
                if ref.startswith(HEADS) and (mine := have.get(name)) and mine != sha:
                    pairs |= {(mine, sha), (sha, mine)}
        if not pairs:
            return frozenset()
        await self._fetch(cache, local, _OWN)
        related = set()
        for old, new in pairs:
            # Nothing of the old that the new does not have.
            arguments = ("rev-list", "--max-count=1", old, f"^{new}")
            if not await self._run(cache, f"--git-dir={cache}", *arguments):
                related.add((old, new))
        return frozenset(related)

    async def _push(
        self, cache: Path, local: Remote, refs: Mapping[str, str], found: Mapping[str, str], have: Mapping[str, str],
        transfer: Transfer | None,
    ) -> None:  # fmt: skip
        """Few by name; many in one push by pattern: each push costs a round.

        A pattern takes all that the cache has, so what stays away leaves the cache's list first (its objects stay):
        git push 2.39 does not heed `^ref` beside a pattern.
        """
        named = [f"{sha}:{ref}" for ref, sha in refs.items() if found.get(ref) != sha]
        away = [ref for ref, sha in found.items() if ref not in refs and have.get(ref) != sha]
        if len(refs) > BATCH >= len(away):
            patterns = [f"{_FOUND}{kind}/*:refs/{kind}/*" for kind in ("heads", "tags")]
            for ref in away:
                await self._run(cache, f"--git-dir={cache}", "update-ref", "-d", f"{_FOUND}{ref.removeprefix('refs/')}")
            await self._pushed(cache, local, *patterns, git_dir=cache, transfer=transfer)
        else:
            named = [f"{sha}:{ref}" for ref, sha in refs.items()]
        for batch in _batches(named):
            await self._pushed(cache, local, *batch, git_dir=cache, transfer=transfer)

    async def _pushed(
        self, at: Path, remote: Remote, *specs: str, git_dir: Path, transfer: Transfer | None = None
    ) -> None:
        """Push without force. A ref that moved in between is a Wait, a refused one is Stuck."""
        loud = ("--progress",) if transfer else ()
        arguments = (f"--git-dir={git_dir}", "push", "--porcelain", *loud, "--no-verify", remote.url, *specs)
        silence = int(self._timeout) + 60  # longer than it may take: what ends it then is the timeout, and says so
        said = await self._run(
            at, *arguments, remote=remote, stall=silence, accept=(0, 1), shows=_STATUS, transfer=transfer
        )
        rejected = [line for line in said.splitlines() if line.startswith("!")]
        if not rejected:
            if "Done" not in said.splitlines():
                raise Wait(f"{remote.name}Unavailable", f"git push: {scrub(said, remote) or 'no answer'}", after=15)
            return
        reason = scrub(rejected[0].lstrip("!\t "), remote)
        if re.search(r"non-fast-forward|fetch first|stale info|needs force|failed to update|cannot lock", reason):
            raise Wait("BranchMoved", f"somebody else pushed in between: {reason}", after=2)
        raise Stuck(f"{remote.name}PushRefused", f"{len(rejected)} refs refused, the first: {reason}")

    async def _outside(self, cache: Path, found: Mapping[str, str]) -> list[str]:
        """What a mirror of refs does not bring along: LFS contents and submodules.

        Looked for once for each set of commits: in thousands of branches that takes longer than all the rest.
        """
        heads = sorted({sha for ref, sha in found.items() if ref.startswith(HEADS)})
        known, key = cache / "outside.json", hashlib.sha256("\n".join(heads).encode()).hexdigest()
        if (noted := _noted(known)).get("of") == key:
            return list(noted["notices"])
        lfs: set[str] = set()
        submodules: set[str] = set()
        for batch in _batches(heads):
            tracked = await self._grep(cache, "-lE", "filter=lfs", batch, ".gitattributes")
            lfs |= {shown(line.split(":", 1)[-1]) for line in tracked}
            urls = await self._grep(cache, "-hE", r"^[[:space:]]*url[[:space:]]*=", batch, ".gitmodules")
            submodules |= {scrub(line.split("=", 1)[-1], None) for line in urls}
        notices = []
        if lfs:
            notices.append(f"LFS is used ({', '.join(sorted(lfs)[:5])}): pointers are mirrored, contents are not")
        if submodules:
            notices.append(f"submodules point elsewhere and are not mirrored: {', '.join(sorted(submodules)[:5])}")
        known.write_text(json.dumps({"of": key, "notices": notices}), encoding="utf-8")
        return notices

    async def _grep(self, cache: Path, flags: str, pattern: str, trees: Sequence[str], name: str) -> list[str]:
        arguments = (f"--git-dir={cache}", "grep", flags, "-e", pattern, *trees, "--", f":(glob)**/{name}")
        return (await self._run(cache, *arguments, accept=(0, 1))).splitlines()


class Worktree:
    """A branch checked out. Write below `path`, then `commit` and `push`."""

    def __init__(self, owner: Git, path: Path, remote: Remote, branch: str) -> None:
        self._owner, self._remote, self._branch = owner, remote, branch
        self.path = path
        self.head = ""

    async def commit(self, message: str) -> str | None:
        """Commit everything that changed; its SHA, or None when nothing did."""
        await self.inside("add", "--all", "--force")
        if not await self.inside("status", "--porcelain", "--untracked-files=no"):
            return None
        await self.inside("commit", "--quiet", "--no-verify", f"--message={message}")
        self.head = await self.inside("rev-parse", "HEAD")
        return self.head

    async def push(self) -> None:
        """Move the remote branch forward to `head`, read back. Raises Wait when somebody else moved it."""
        ref = f"{HEADS}{self._branch}"
        await self._owner._pushed(self.path, self._remote, f"HEAD:{ref}", git_dir=self.path / ".git")
        there = (await self._owner.ls_remote(self._remote)).get(ref)
        if there != self.head:
            raise Wait("BranchMoved", f"{self._branch} was pushed, and stands at {there} instead of {self.head}")

    async def inside(self, *arguments: str) -> str:
        """Output of a git command in this worktree."""
        place = (f"--git-dir={self.path / '.git'}", f"--work-tree={self.path}")
        # An index that a surrounding git (a hook) exports is not ours.
        extra = {"GIT_INDEX_FILE": str(self.path / ".git" / "index")}
        return (await self._owner._run(self.path, *place, *arguments, extra=extra)).strip()


def _noted(file: Path) -> dict[str, Any]:
    """What an earlier look found; nothing when it cannot be read."""
    try:
        noted = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) and isinstance(noted.get("notices"), list) else {}


def _loud(transfer: Transfer | None) -> str:
    return "--progress" if transfer else "--quiet"


def _named(remote: Remote, name: str) -> Remote:
    return remote if remote.name != "Git" else replace(remote, name=name)


def _batches(items: Iterable[str]) -> Iterator[tuple[str, ...]]:
    iterator = iter(items)
    while batch := tuple(islice(iterator, BATCH)):
        yield batch
