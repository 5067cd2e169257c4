"""Step 5: Flux follows local Gitea, with every GitRepository that followed the mothership's repository.

Proof is a revision that exists only there: an unchanged HEAD leaves the artifact byte for byte as it was, from
whichever URL it came (source-controller `reconcileSource`), and Ready may be of the day before.
Each keeps its own branch: a tenant's is applied by nobody but the tenant. Safe to repeat: a branch that already
carries our commit gets no second one; a source that is right is not patched, and Flux is not asked again.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.progress import Progress
from schemas.results import GitMirrored, GitRepositoryPivoted
from workers import flux
from workers.adapters.cluster import GIT_REPOSITORY, KUSTOMIZATION, SECRET, Object, Seen, key_of
from workers.declared.changes import Change, Value, holds, merge_patch
from workers.declared.changes import Path as Field
from workers.declared.elsewhere import to_be_patched
from workers.declared.ignored import hides, widened
from workers.declared.reconcile import Key, applied, brought
from workers.declared.repository import HEADS, Repository, branch_of, cluster_url, push, remote_of
from workers.errors import Stuck, Wait
from workers.sovereign import Sovereign
from workers.world import Order, Report, World

MARK = ".catalyst/sovereign.yaml"
"""Stands outside of every path that Flux applies. Upstream has no such file: who has it is ahead of upstream."""

REF = ("tag", "semver", "name", "commit")
"""Each goes before `branch` (source.toolkit.fluxcd.io/v1, GitRepositoryRef)."""


@dataclass(frozen=True, slots=True)
class Followed:
    """One GitRepository that shall follow local Gitea, and the Kustomizations that apply what it serves."""

    source: Object
    branch: str
    change: Change
    kustomizations: tuple[Object, ...]

    @property
    def key(self) -> Key:
        """(namespace, name)."""
        return key_of(self.source)

    @property
    def suspended(self) -> bool:
        """It shall name local Gitea all the same: one day somebody resumes it."""
        return bool(self.source["spec"].get("suspend"))


def same_repository(url: str, other: str) -> bool:
    """True when two URLs name one repository, however they spell it (scheme, user, `.git`, case of the host)."""
    return _bare(url) == _bare(other)


def _bare(url: str) -> tuple[str, str]:
    # A port that the scheme has anyway says nothing.
    bare = re.sub(r"^(ssh://[^/]*):22(?=/)|^(https://[^/]*):443(?=/)|^(http://[^/]*):80(?=/)", r"\1\2\3", url.strip())
    found = re.match(r"(?:\w+://)?(?:[^@/]*@)?([^/:]+(?::\d+)?)[/:](.*)", bare)
    host, path = (found[1].lower(), found[2]) if found else (url, "")
    return host, re.sub(r"(\.git)?/*$", "", path.lower())


def plan(source: Object, sovereign: Sovereign, branch: str, paths: Iterable[str] = ()) -> Change:
    """What the GitRepository shall say: url, branch and credentials together, so that none is tried alone.

    `paths` must reach Flux: where `spec.ignore` would hide one of them, it is widened in the same change.
    """
    namespace, name = key_of(source)
    main = (namespace, name) == (sovereign.flux.namespace, sovereign.flux.git_repository)
    if main and (source.get("spec") or {}).get("suspend"):
        message = f"GitRepository {namespace}/{name} is suspended, so Flux would go on with its old copy; resume it"
        raise Stuck("SourceSuspended", message)
    if source["spec"].get("verify"):
        message = f"GitRepository {namespace}/{name} verifies signatures, and commits made here carry none"
        raise Stuck("SourceVerifiesSignatures", f"{message}; remove spec.verify")
    fields: dict[Field, Value] = {
        ("spec", "url"): cluster_url(sovereign),
        ("spec", "ref", "branch"): branch,
        ("spec", "secretRef", "name"): sovereign.flux.git_secret,
    }
    ignore = source["spec"].get("ignore")
    if ignore is not None and (hidden := [path for path in paths if hides(ignore, path)]):
        fields["spec", "ignore"] = widened(ignore, hidden)
    absent = (*(("spec", "ref", key) for key in REF), ("spec", "proxySecretRef"), *_elsewhere(source))
    change = Change(GIT_REPOSITORY, namespace, name, fields, absent)
    to_be_patched(change, source, sovereign.field_manager)
    return change


def _elsewhere(source: Object) -> tuple[Field, ...]:
    """Ways to sign in at a cloud's Git: local Gitea takes a login, for which `generic` is the provider."""
    spec = source["spec"]
    cloud = ("provider",) if spec.get("provider") not in (None, "generic") else ()
    return tuple(("spec", key) for key in (*cloud, *(("serviceAccountName",) if "serviceAccountName" in spec else ())))


def followed(
    sources: Iterable[Object], kustomizations: Collection[Object], sovereign: Sovereign, mirrored: GitMirrored
) -> tuple[list[Followed], list[str]]:
    """Every GitRepository of the mothership's repository, the main one first; and third parties' in words.

    Raises Stuck for one that cannot follow a branch, or that someone else than Git writes.
    """
    main = (sovereign.flux.namespace, sovereign.flux.git_repository)
    found: list[Followed] = []
    others: list[str] = []
    for source in sorted(sources, key=lambda s: key_of(s) != main):
        key, url = key_of(source), str(source["spec"].get("url", ""))
        ours = any(same_repository(url, each) for each in (sovereign.upstream_git.url, cluster_url(sovereign)))
        if key != main and not ours:
            if not same_host(url, cluster_url(sovereign)):
                others.append(f"GitRepository {'/'.join(key)} ({_bare(url)[0]})")
            continue
        branch = branch_of(source) or _unpinned(source, mirrored)
        mine = tuple(k for k in kustomizations if flux.source_of(k) == key)
        change = plan(source, sovereign, branch, reaching(sovereign, mine))
        if not holds(change, source) and (owner := flux.owner(source, flux.OWNED_BY_RELEASE)):
            message = f"GitRepository {'/'.join(key)} is rendered by HelmRelease {'/'.join(owner)}"
            raise Stuck("RenderedByHelm", f"{message}; set its url, branch and secretRef in the release's values")
        found.append(Followed(source, branch, change, mine))
    return found, others


def same_host(url: str, other: str) -> bool:
    """True when both are served by one host."""
    return _bare(url)[0] == _bare(other)[0]


def reaching(sovereign: Sovereign, kustomizations: Iterable[Object]) -> list[str]:
    """What must reach Flux: all that is applied, and the Sovereign's own directory, which is written to later."""
    applied_ = [str((k.get("spec") or {}).get("path") or ".") for k in kustomizations]
    own = [path.format(fqdn=sovereign.fqdn) for path in sovereign.flux.own_paths] if applied_ else []
    return [path for each in (*applied_, *own) if (path := each.removeprefix("./").strip("/")) not in ("", ".")]


def _unpinned(source: Object, mirrored: GitMirrored) -> str:
    """A pinned source may follow the branch when that changes nothing of what is applied."""
    if flux.commit_of(flux.revision_of(source)) == mirrored.upstream_sha:
        return mirrored.branch
    ref = (source["spec"].get("ref") or {}).items()
    message = (
        f"GitRepository {'/'.join(key_of(source))} is pinned to {', '.join(f'{k} {v}' for k, v in ref)}, which is not "
        f"the head of {mirrored.branch}: later steps commit to a branch, and following it would apply more than this"
    )
    raise Stuck("SourcePinned", f"{message}; let it follow a branch first")


def credentials(sovereign: Sovereign, namespace: str | None = None) -> Object:
    """The Secret from which source-controller signs in: even public clones need it in a Gitea that wants sign-in."""
    login = sovereign.gitea.login
    plain = {"username": login.username, "password": login.password().get_secret_value()}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": sovereign.flux.git_secret, "namespace": namespace or sovereign.flux.namespace},
        "type": "Opaque",
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in plain.items()},
    }


def mark(sovereign: Sovereign, run: str) -> str:
    """The text of the file that makes this branch the Sovereign's own."""
    why = "# This repository belongs to this Sovereign since this run of its cutover."
    return f"{why}\nsovereign: {sovereign.fqdn}\nrun: {run}\n"


def marked(text: str | None, sovereign: Sovereign) -> bool:
    """True when the file is there and speaks of this Sovereign, whichever run wrote it."""
    return text is not None and f"\nsovereign: {sovereign.fqdn}\n" in text


async def run(order: Order, world: World, report: Report) -> GitRepositoryPivoted:
    """Point the GitRepositories at local Gitea and wait until each serves a commit that exists only there."""
    sovereign, cluster = world.sovereign, world.cluster
    main = (sovereign.flux.namespace, sovereign.flux.git_repository)
    mirrored = order.results["gitea-mirror"]
    if not isinstance(mirrored, GitMirrored):
        raise Stuck("MirrorUnknown", "the result of gitea-mirror is missing in this run; run it again")
    sources = await cluster.list(GIT_REPOSITORY)
    if main not in {key_of(source) for source in sources}:
        raise Stuck("SourceAbsent", f"there is no GitRepository {'/'.join(main)}; check flux.git_repository")
    kustomizations = await cluster.list(KUSTOMIZATION)
    sources = flux.by_inventory(sources, kustomizations)
    todo, others = followed(sources, kustomizations, sovereign, mirrored)
    await _branches(world, todo)

    await report(Progress(message="a commit of the Sovereign's own in local Gitea", percent=10))
    heads, commits = await _own_commits(order, world, mirrored, todo, kustomizations)
    await report(Progress(message="credentials, then the source", percent=30))
    changes = commits + await _point(world, todo)

    await report(Progress(message="Flux fetches from local Gitea", percent=50))
    active = [each for each in todo if not each.suspended]
    wanted: dict[Key, str | None] = {each.key: heads[each.branch] for each in active}

    def kept(now: Seen) -> None:
        for each in todo:
            _check(each, now.get(each.key))

    seen = await brought(cluster, GIT_REPOSITORY, wanted, sovereign.flux.timeout, again=changes > 0, guard=kept)
    await report(Progress(message="Flux applies it", percent=70))
    for each in active:
        await applied(cluster, each.kustomizations, heads[each.branch], sovereign.flux.timeout, again=changes > 0)
    await _look_again(world, todo)
    return GitRepositoryPivoted(
        changes=changes,
        summary=_summary(changes, todo, others, flux.revision_of(seen[main])),
        url=cluster_url(sovereign),
        revision=flux.revision_of(seen[main]),
        previous_url=str(todo[0].source["spec"]["url"]),
    )


def _summary(changes: int, todo: list[Followed], others: Iterable[str], revision: str) -> str:
    applied_ = sum(len(each.kustomizations) for each in todo)
    done = f"Flux follows local Gitea at {revision}, applied by {applied_} Kustomizations"
    words = [done if changes else f"nothing to do: Flux already follows local Gitea, at {revision}"]
    if more := [f"{'/'.join(each.key)} ({each.branch})" for each in todo[1:]]:
        words.append(f"so do {', '.join(more[:10])}")
    if asleep := ["/".join(each.key) for each in todo if each.suspended]:
        words.append(f"suspended, so repointed and not proven: {', '.join(asleep[:10])}")
    if nobodys := ["/".join(each.key) for each in todo if _of_nobody(each.source)]:
        words.append(
            f"declared by nobody in Git, so a second run of cloud-init would undo it: {', '.join(nobodys[:10])}"
        )
    if more := [note for each in todo for note in _brought_along(each.source)]:
        words.append(f"comes with it from elsewhere: {', '.join(more[:10])}")
    if named := list(others):
        words.append(f"left alone, of third parties: {', '.join(named[:10])}")
    return "; ".join(words)


def _of_nobody(source: Object) -> bool:
    return not any(flux.owner(source, system) for system in (flux.OWNED_BY_KUSTOMIZATION, flux.OWNED_BY_RELEASE))


def _brought_along(source: Object) -> list[str]:
    """What a source fetches besides its own repository: that is as local as whoever it names."""
    spec, who = source["spec"], "/".join(key_of(source))
    found = [f"the submodules of {who}"] if spec.get("recurseSubmodules") else []
    included = [str((each.get("repository") or {}).get("name")) for each in spec.get("include") or ()]
    return [*found, *(f"{name}, included by {who}" for name in included)]


async def _branches(world: World, todo: Iterable[Followed]) -> None:
    """Local Gitea has every branch that will be followed. Raises Stuck `BranchNotMirrored`, nothing changed."""
    heads = await world.git.ls_remote(remote_of(world.sovereign, cluster_url(world.sovereign)))
    if absent := [f"{each.branch} ({'/'.join(each.key)})" for each in todo if HEADS + each.branch not in heads]:
        message = f"local Gitea has no branch {', '.join(absent)}"
        raise Stuck("BranchNotMirrored", f"{message}: Flux would lose what it applies; run gitea-mirror again")


async def _own_commits(
    order: Order, world: World, mirrored: GitMirrored, todo: list[Followed], kustomizations: list[Object]
) -> tuple[dict[str, str], int]:
    """A head for each branch that upstream does not have, and how many commits that took.

    Where Git declares a source itself, the commit of the repository that declares it changes that too.
    """
    sovereign = world.sovereign
    declared = _declared(todo, kustomizations)
    heads: dict[str, str] = {}
    new = 0

    def own(checkout: Path) -> Mapping[Path, str]:
        file = checkout / MARK
        text = file.read_text(encoding="utf-8") if file.is_file() else None
        return {} if marked(text, sovereign) else {file: mark(sovereign, order.run)}

    for each in todo:
        # The repository that will be followed, not the one that is: the live url is still upstream's.
        local = Repository(each.key, cluster_url(sovereign), each.branch, each.kustomizations)
        subject = f"This repository is {sovereign.fqdn}'s own"
        pushed = await push(world, order, local, declared.get(each.key, []), subject, also=own)
        heads[each.branch] = pushed.commit
        new += pushed.new
    if heads.get(mirrored.branch) == mirrored.upstream_sha:
        message = f"{mirrored.branch} in local Gitea ends in {mirrored.upstream_sha}, which upstream has too: no proof"
        raise Stuck("NoLocalCommit", message)
    return heads, new


def _declared(todo: Iterable[Followed], kustomizations: Iterable[Object]) -> dict[Key, list[Change]]:
    """The changes by the GitRepository whose repository declares them; what nobody declares is not among them."""
    todo, sources = list(todo), {key_of(k): flux.source_of(k) for k in kustomizations}
    found: dict[Key, list[Change]] = {}
    for each in todo:
        owner = flux.owner(each.source, flux.OWNED_BY_KUSTOMIZATION)
        if owner is None:
            continue
        source = sources.get(owner)
        if source not in {one.key for one in todo}:
            message = f"{each.change} belongs to Kustomization {'/'.join(owner)}"
            raise Stuck("DeclaredElsewhere", f"{message}, which follows no repository that is local; change it there")
        found.setdefault(source, []).append(each.change)
    return found


async def _point(world: World, todo: Iterable[Followed]) -> int:
    """Secrets, then sources, the main one first. How many had to be written."""
    written = 0
    for each in todo:
        written += await _provide(world, credentials(world.sovereign, each.key[0]))
        if not holds(each.change, each.source):
            body = merge_patch(each.change, each.source)
            await world.cluster.patch(GIT_REPOSITORY, each.key[1], each.key[0], body)
            written += 1
    return written


async def _look_again(world: World, todo: Iterable[Followed]) -> None:
    """Only now: a manifest of the source in the repository itself would have been applied again."""
    for each in todo:
        _check(each, await world.cluster.get(GIT_REPOSITORY, each.key[1], each.key[0]))


def _check(each: Followed, now: Object | None) -> None:
    """Raises Wait when the source is not as it was made."""
    if not holds(each.change, now):
        message = f"GitRepository {'/'.join(each.key)} was changed back after the patch"
        raise Wait("SourceReverted", f"{message}{_writer(now)}; who writes it must say local Gitea too")


def _writer(obj: Object | None) -> str:
    """Who last wrote `spec.url`, by the API server's own record."""
    names = flux.managers_of(obj, "spec", "url") if obj is not None else ()
    return f" by {', '.join(names)}" if names else ""


async def _provide(world: World, secret: Object) -> bool:
    """The Secret is there with these data; True when something had to be written."""
    meta = secret["metadata"]
    found = await world.cluster.get(SECRET, meta["name"], meta["namespace"])
    have: dict[str, Any] = (found or {}).get("data") or {}
    if all(have.get(key) == value for key, value in secret["data"].items()):
        return False
    await world.cluster.apply(SECRET, secret)
    return True
