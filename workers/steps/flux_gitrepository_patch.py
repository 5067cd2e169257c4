"""Step 5: Flux follows local Gitea.

Proof is a revision that exists only there: an unchanged HEAD leaves the artifact byte for byte as it was, from
whichever URL it came (source-controller `reconcileSource`), and Ready may be of the day before.
Safe to repeat: a branch that already carries our commit gets no second one; a source that is right is not patched.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from schemas.progress import Progress
from schemas.results import GitMirrored, GitRepositoryPivoted
from workers import flux
from workers.adapters.cluster import GIT_REPOSITORY, KUSTOMIZATION, SECRET, Object
from workers.declared.changes import Change, holds, merge_patch
from workers.declared.reconcile import Key, applied, request, settled
from workers.declared.repository import Pushed, Repository, cluster_url, push
from workers.errors import Stuck, Wait
from workers.sovereign import Sovereign
from workers.world import Order, Report, World

MARK = ".catalyst/sovereign.yaml"
"""Stands outside of every path that Flux applies. Upstream has no such file: who has it is ahead of upstream."""

REF = ("tag", "semver", "name", "commit")
"""Each goes before `branch` (source.toolkit.fluxcd.io/v1, GitRepositoryRef)."""


def plan(source: Object, sovereign: Sovereign, branch: str) -> Change:
    """What the GitRepository shall say: url, branch and credentials together, so that none is tried alone."""
    name, namespace = sovereign.flux.git_repository, sovereign.flux.namespace
    if (source.get("spec") or {}).get("suspend"):
        message = f"GitRepository {namespace}/{name} is suspended, so Flux would go on with its old copy; resume it"
        raise Stuck("SourceSuspended", message)
    if source["spec"].get("verify"):
        message = f"GitRepository {namespace}/{name} verifies signatures, and commits made here carry none"
        raise Stuck("SourceVerifiesSignatures", f"{message}; remove spec.verify")
    return Change(
        GIT_REPOSITORY,
        namespace,
        name,
        fields={
            ("spec", "url"): cluster_url(sovereign),
            ("spec", "ref", "branch"): branch,
            ("spec", "secretRef", "name"): sovereign.flux.git_secret,
        },
        absent=(*(("spec", "ref", key) for key in REF), ("spec", "proxySecretRef")),
    )


def credentials(sovereign: Sovereign) -> Object:
    """The Secret from which source-controller signs in: even public clones need it in a Gitea that wants sign-in."""
    login = sovereign.gitea.login
    plain = {"username": login.username, "password": login.password().get_secret_value()}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": sovereign.flux.git_secret, "namespace": sovereign.flux.namespace},
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
    """Point the GitRepository at local Gitea and wait until it serves a commit that exists only there."""
    sovereign, cluster = world.sovereign, world.cluster
    key = (sovereign.flux.namespace, sovereign.flux.git_repository)
    mirrored = order.results["gitea-mirror"]
    if not isinstance(mirrored, GitMirrored):
        raise Stuck("MirrorUnknown", "the result of gitea-mirror is missing in this run; run it again")
    source = await cluster.get(GIT_REPOSITORY, key[1], key[0])
    if source is None:
        raise Stuck("SourceAbsent", f"there is no GitRepository {'/'.join(key)}; check flux.git_repository")
    change = plan(source, sovereign, mirrored.branch)
    kustomizations = await cluster.list(KUSTOMIZATION)

    await report(Progress(message="a commit of the Sovereign's own in local Gitea", percent=10))
    pushed = await _own_commit(order, world, mirrored, source, change, kustomizations)
    await report(Progress(message="credentials, then the source", percent=30))
    changes = int(pushed.new) + int(await _provide(world, credentials(sovereign)))
    if not holds(change, source):
        await cluster.patch(GIT_REPOSITORY, key[1], key[0], merge_patch(change, source))
        changes += 1

    await report(Progress(message="Flux fetches from local Gitea", percent=50))
    revision = await _served(world, key, pushed.commit)
    await report(Progress(message="Flux applies it", percent=70))
    mine = [k for k in kustomizations if flux.source_of(k) == key]
    await applied(cluster, mine, pushed.commit, sovereign.flux.timeout)
    # Only now: a manifest of the source in the repository itself would have been applied again.
    now = await cluster.get(GIT_REPOSITORY, key[1], key[0])
    if not holds(change, now):
        raise Wait("SourceReverted", f"GitRepository {'/'.join(key)} was changed back after the patch")
    return GitRepositoryPivoted(
        changes=changes,
        summary=_summary(changes, revision, len(mine)),
        url=cluster_url(sovereign),
        revision=revision,
        previous_url=str(source["spec"]["url"]),
    )


def _summary(changes: int, revision: str, kustomizations: int) -> str:
    if not changes:
        return f"nothing to do: Flux already follows local Gitea, at {revision}"
    return f"Flux follows local Gitea at {revision}, applied by {kustomizations} Kustomizations"


async def _own_commit(
    order: Order,
    world: World,
    mirrored: GitMirrored,
    source: Object,
    change: Change,
    kustomizations: list[Object],
) -> Pushed:
    """A head that upstream does not have. Where Git declares the source itself, the same commit changes that."""
    sovereign = world.sovereign
    owner = flux.owner(source, flux.OWNED_BY_KUSTOMIZATION)
    key = flux.key(source)
    mine = tuple(k for k in kustomizations if flux.source_of(k) == key)
    # The repository that will be followed, not the one that is: the live url is still upstream's.
    local = Repository(key, cluster_url(sovereign), mirrored.branch, mine)

    def own(checkout: Path) -> Mapping[Path, str]:
        file = checkout / MARK
        text = file.read_text(encoding="utf-8") if file.is_file() else None
        return {} if marked(text, sovereign) else {file: mark(sovereign, order.run)}

    declared = [change] if owner is not None else []
    pushed = await push(world, order, local, declared, f"This repository is {sovereign.fqdn}'s own", also=own)
    if pushed.commit == mirrored.upstream_sha:
        message = f"{mirrored.branch} in local Gitea ends in {pushed.commit}, which upstream has too: no proof"
        raise Stuck("NoLocalCommit", message)
    return pushed


async def _provide(world: World, secret: Object) -> bool:
    """The Secret is there with these data; True when something had to be written."""
    meta = secret["metadata"]
    found = await world.cluster.get(SECRET, meta["name"], meta["namespace"])
    have: dict[str, Any] = (found or {}).get("data") or {}
    if all(have.get(key) == value for key, value in secret["data"].items()):
        return False
    await world.cluster.apply(SECRET, secret)
    return True


async def _served(world: World, key: Key, commit: str) -> str:
    timeout = world.sovereign.flux.timeout
    token = await request(world.cluster, GIT_REPOSITORY, [key])
    seen = await settled(world.cluster, GIT_REPOSITORY, {key: commit}, timeout, token=token)
    return flux.revision_of(seen[key])
