"""Work that cannot be done from a cache, forced under the block: sources, charts, a new commit."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from workers import flux
from workers.adapters.cluster import Cluster
from workers.adapters.cluster_answers import WaitedInVain
from workers.adapters.cluster_kinds import (
    GIT_REPOSITORY,
    HELM_CHART,
    HELM_RELEASE,
    HELM_REPOSITORY,
    KUSTOMIZATION,
    OCI_REPOSITORY,
    POD,
    Kind,
    Object,
    Seen,
    key_of,
)
from workers.adapters.git import Remote
from workers.errors import Stuck, Wait
from workers.proof import pulls
from workers.proof.conditions import condition
from workers.proof.health import PACKAGES
from workers.world import Order, World

FETCH = 90.0  # seconds in which Crossplane would say that it cannot fetch a package: drops are silent
SOURCES = (GIT_REPOSITORY, OCI_REPOSITORY, HELM_REPOSITORY)
PROOF_FILE = ".cutover/egress-proof.txt"


async def everything(world: World, order: Order, nodes: Sequence[str], blocked_at: datetime, turn: int) -> list[str]:
    """All forced work, one line of evidence each. `turn`: how often it was done before under this block, and more."""
    token = f"{order.token}-{blocked_at.timestamp():.0f}-{turn}"
    sha = await commit(world, order, blocked_at, turn)
    said = [await flows(world, sha, token), await sources(world, token), await charts(world, blocked_at, token)]
    said.append(await packages(world))
    pulled = await pulls.prove(world, nodes, order.token, f"hold{turn}", by_digest=True)
    by_digest = f" and {pulled.by_digest}" if pulled.by_digest else ""
    pulled_ = f"{pulled.local_only}{by_digest} pulled and {pulled.upstream_only} refused on {len(nodes)} nodes"
    return [*said, pulled_]


async def commit(world: World, order: Order, at: datetime, turn: int = 1) -> str:
    """A new commit in local Gitea, on the branch that Flux follows; its SHA."""
    sovereign = world.sovereign
    source = await _source(world)
    branch = str((source["spec"].get("ref") or {}).get("branch") or sovereign.upstream_git.branch)
    gitea = sovereign.gitea
    remote = Remote(
        f"{gitea.url.rstrip('/')}/{gitea.organisation}/{gitea.repository}.git",
        gitea.login.username,
        gitea.login.password(),
    )
    async with world.git.checkout(remote, branch) as tree:
        file = tree.path / PROOF_FILE
        file.parent.mkdir(parents=True, exist_ok=True)
        words = f"run {order.run}, attempt {order.token}, egress blocked at {at.isoformat()}, turn {turn}"
        file.write_text(f"{words}\n")
        sha = await tree.commit("Sovereignty proof: a commit made while all egress is blocked")
        if sha is None:
            raise Stuck("NothingToCommit", f"{PROOF_FILE} already says this; is another proof running?")
        await tree.push()
    return sha


async def _source(world: World) -> Object:
    where = world.sovereign.flux
    source = await world.cluster.get(GIT_REPOSITORY, where.git_repository, where.namespace)
    if source is None:
        raise Stuck("NoGitRepository", f"GitRepository {where.namespace}/{where.git_repository} is not there")
    return source


async def flows(world: World, sha: str, token: str) -> str:
    """The commit reached GitRepository and every Kustomization that follows it; says so in one line."""
    where, cluster = world.sovereign.flux, world.cluster
    await cluster.request_reconcile(GIT_REPOSITORY, where.git_repository, where.namespace, token)

    def fetched(obj: Object | None) -> bool:
        artifact = ((obj or {}).get("status") or {}).get("artifact") or {}
        return sha in str(artifact.get("revision", ""))

    try:
        await cluster.wait(GIT_REPOSITORY, where.git_repository, where.namespace, fetched, where.timeout)
    except Wait as late:
        if late.reason != "GitRepositoryTimeout":
            raise
        message = f"GitRepository {where.git_repository} did not fetch commit {sha[:12]}: {late.message}"
        raise Stuck("SourceNotFetched", message) from None
    names = {key_of(k) for k in await cluster.list(KUSTOMIZATION) if _follows(k, world)}
    if not names:
        message = (
            f"no Kustomization that is not suspended follows GitRepository {where.namespace}/{where.git_repository}"
        )
        raise Stuck("CommitDidNotFlow", f"commit {sha[:12]} could reach nothing: {message}")
    for namespace, name in names:
        await cluster.request_reconcile(KUSTOMIZATION, name, namespace, token)
    try:
        await cluster.wait_all(KUSTOMIZATION, None, lambda s: all(applied(s.get(n), sha) for n in names), where.timeout)
    except WaitedInVain as late:
        behind = ["/".join(n) for n in names if not applied(late.seen.get(n), sha)]
        message = f"commit {sha[:12]} did not reach {', '.join(behind)} within {where.timeout:g} s"
        raise Stuck("CommitDidNotFlow", message) from None
    return f"commit {sha} made in local Gitea reached {len(names)} Kustomizations"


def applied(kustomization: Object | None, sha: str) -> bool:
    """True when the commit is what the Kustomization applied last."""
    status = (kustomization or {}).get("status") or {}
    return sha in str(status.get("lastAppliedRevision", ""))


def _follows(kustomization: Object, world: World) -> bool:
    where, spec = world.sovereign.flux, kustomization["spec"]
    source = spec.get("sourceRef") or {}
    namespace = source.get("namespace") or kustomization["metadata"]["namespace"]
    wanted = ("GitRepository", where.git_repository, where.namespace)
    return not spec.get("suspend") and (source.get("kind"), source.get("name"), namespace) == wanted


async def sources(world: World, token: str) -> str:
    """Every source that is not suspended asked its host again; says how many in one line.

    Whoever fetches at an interval of hours would stay green from what it holds. OCI HelmRepositories have no status
    and fetch nothing: their charts do.
    """
    cluster, timeout = world.cluster, world.sovereign.flux.timeout
    asked = 0
    for kind in SOURCES:
        if not await cluster.served(kind):
            continue
        keys = [key_of(obj) for obj in await cluster.list(kind) if fetches(obj)]
        for namespace, name in keys:
            await cluster.request_reconcile(kind, name, namespace, token)
        await _fetched(cluster, kind, keys, token, timeout)
        asked += len(keys)
    return f"{asked} sources asked local Gitea and Harbor again"


async def _fetched(cluster: Cluster, kind: Kind, keys: Sequence[tuple[str, str]], token: str, timeout: float) -> None:
    def late(seen: Seen) -> list[str]:
        """Those that are still there and not done. One that somebody deletes meanwhile fetches nothing any more."""
        found = [(key, flux.converged(seen[key], token=token)) for key in keys if key in seen]
        return [f"{'/'.join(key)} ({verdict})" for key, verdict in found if verdict.state is not flux.State.READY]

    if not keys:
        return
    try:
        await cluster.wait_all(kind, None, lambda seen: not late(seen), timeout)
    except WaitedInVain as vain:
        message = f"{kind.kind}s not fetched again within {timeout:g} s: {'; '.join(late(vain.seen)[:5])}"
        raise Stuck("SourceNotFetched", message) from None


def fetches(source: Object) -> bool:
    """True for one that asks its host at an interval."""
    spec = source.get("spec") or {}
    return not spec.get("suspend") and spec.get("type") != "oci"


def charts_of(releases: Iterable[Object]) -> dict[tuple[str, str], tuple[str, str]]:
    """HelmChart that helm-controller made -> its HelmRelease. Only these may be deleted: they come back."""
    found = {}
    for release in releases:
        chart = ((release["spec"].get("chart") or {}).get("spec")) or {}
        if not chart or release["spec"].get("suspend"):
            continue
        namespace, name = key_of(release)
        home = (chart.get("sourceRef") or {}).get("namespace") or namespace
        found[home, f"{namespace}-{name}"] = (namespace, name)
    return found


def fresh(chart: Object | None, old_uid: str, since: datetime) -> bool:
    """True when this is another object than before, with an artifact that was made under the block.

    An old HelmChart with a pinned version answers from its cache without any request (source-controller,
    chart/builder_remote.go); only a new object must download.
    """
    if chart is None or chart["metadata"].get("uid") == old_uid:
        return False
    artifact = (chart.get("status") or {}).get("artifact") or {}
    made = artifact.get("lastUpdateTime")
    ready = condition(chart, "Ready").get("status") == "True"
    return ready and made is not None and datetime.fromisoformat(made) >= since.replace(microsecond=0)


async def charts(world: World, since: datetime, token: str) -> str:
    """Every chart downloaded again; says how many in one line."""
    cluster, timeout = world.cluster, world.sovereign.flux.timeout
    owners = charts_of(await cluster.list(HELM_RELEASE))
    present = {key_of(c): c for c in await cluster.list(HELM_CHART)}
    uids = {k: str(present[k]["metadata"]["uid"]) for k in owners if k in present}
    for namespace, name in uids:
        await cluster.delete(HELM_CHART, name, namespace)
        release_namespace, release = owners[namespace, name]
        await cluster.request_reconcile(HELM_RELEASE, release, release_namespace, token)

    def stale(seen: Seen) -> list[tuple[str, str]]:
        return [k for k, uid in uids.items() if not fresh(seen.get(k), uid, since)]

    try:
        await cluster.wait_all(HELM_CHART, None, lambda s: not stale(s), timeout)
    except WaitedInVain as late:
        names = [f"{'/'.join(k)} ({_message(late.seen.get(k))})" for k in stale(late.seen)]
        message = f"not fetched again within {timeout:g} s: {'; '.join(names[:5])}"
        raise Stuck("ChartsNotFetched", message) from None
    return f"{len(uids)} charts downloaded again from local Harbor"


async def packages(world: World) -> str:
    """Crossplane's core Pod made anew, so that its package cache is empty and every package must be fetched.

    With `IfNotPresent` nothing else makes it fetch (revisioner.go; the cache is the Pod's emptyDir). A package
    that it cannot fetch says Installed=False, which ends the hold by itself.
    """
    cluster, timeout = world.cluster, world.sovereign.flux.timeout
    count = sum([len(await cluster.list(kind)) for kind in PACKAGES if await cluster.served(kind)])
    if not count:
        return "no Crossplane package to fetch"
    namespace, labels = world.sovereign.proof.crossplane
    old = {key_of(p) for p in await cluster.list(POD, namespace, labels)}
    if not old:
        raise Stuck("NoCrossplanePod", f"{count} packages, but no Pod {labels} in {namespace}; set proof.crossplane")
    for _, name in old:
        await cluster.delete(POD, name, namespace)

    def back(seen: Seen) -> bool:
        new = [p for key, p in seen.items() if key not in old]
        return bool(new) and all(condition(p, "Ready").get("status") == "True" for p in new)

    try:
        await cluster.wait_all(POD, namespace, back, timeout, labels=labels)
    except WaitedInVain:
        message = f"Crossplane's Pod in {namespace} was not running again within {timeout:g} s"
        raise Stuck("CrossplaneNotBack", message) from None
    seconds = patience(world.sovereign.proof.hold)
    await asyncio.sleep(seconds)
    return f"Crossplane restarted with an empty package cache; {count} packages stayed installed for {seconds:g} s"


def patience(hold: float) -> float:
    """How long Crossplane is given to fail: a rehearsal's hold is all that it has."""
    return min(FETCH, hold)


def _message(chart: Object | None) -> Any:
    return "not there" if chart is None else condition(chart, "Ready").get("message", "no word yet")
