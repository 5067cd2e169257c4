"""Steps 5 to 7 on a Sovereign with Flux, Helm, Crossplane, Gitea and Harbor that behave as the real ones do."""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
import subprocess
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from sandbox.box import Box
from sandbox.faults import FAULTS
from schemas.progress import Progress
from schemas.results import CatalystApiPivoted, GitRepositoryPivoted, SourcesPivoted, StepResult
from workers.adapters.cluster import (
    DEPLOYMENT,
    GIT_REPOSITORY,
    HELM_CHART,
    HELM_RELEASE,
    HELM_REPOSITORY,
    KUSTOMIZATION,
    NAMESPACE,
    POD,
    PROVIDER,
    SECRET,
    Cluster,
    Object,
)
from workers.adapters.git import Remote
from workers.declared.reconcile import new_token
from workers.declared.repository import cluster_url
from workers.entrypoints import wiring
from workers.entrypoints.settings import load
from workers.errors import Stuck, Wait
from workers.inbox import Inbox
from workers.world import Order, World

BEFORE = ("gitea-mirror", "harbor-projects", "harbor-prewarm")
PIVOTS = ("flux-gitrepository-patch", "helmrepo-patches", "catalyst-api-env-patch")
FLUX = "flux-system"
UPSTREAM = "https://github.com/openova-io/openova"
MOTHERSHIP = ("ghcr.io/openova-io", "harbor.openova.io", "github.com/openova-io")


class Sovereign:
    """A box and the world as workers see it."""

    def __init__(self, box: Box, world: World) -> None:
        self.box, self.world = box, world
        self.results: dict[str, StepResult] = {}
        self.said: list[str] = []

    @property
    def cluster(self) -> Cluster:
        return self.world.cluster

    async def run(self, step: str, run: str = "run-1") -> StepResult:
        async def report(progress: Progress) -> None:
            self.said.append(progress.model_dump_json())

        order = Order(run, step, 1, 7, datetime.now(UTC), dict(self.results))
        module = importlib.import_module(f"workers.steps.{step.replace('-', '_')}")
        result: StepResult = await module.run(order, self.world, report)
        self.results[step] = result
        return result

    async def prepared(self) -> Sovereign:
        """Steps 1 to 3 are done."""
        for step in BEFORE:
            await self.run(step)
        return self

    async def head(self) -> str:
        gitea = self.world.sovereign.gitea
        remote = Remote(f"{gitea.url}/openova/openova", gitea.login.username, gitea.login.password())
        return (await self.world.git.ls_remote(remote))["refs/heads/main"]


@asynccontextmanager
async def sovereign(directory: Path, timeout: float = 60) -> AsyncIterator[Sovereign]:
    async with Box.open(directory) as box:
        settings = load(box.settings_file)
        flux = settings.sovereign.flux.model_copy(update={"timeout": timeout})
        settings = settings.model_copy(update={"sovereign": settings.sovereign.model_copy(update={"flux": flux})})
        nobody = cast(Inbox, None)
        async with wiring.cluster(settings) as api, wiring.world(settings, api, nobody) as world:
            yield Sovereign(box, world)


def by_hand(name: str, url: str) -> Object:
    spec = {"url": url, "type": "oci", "interval": "15m", "secretRef": {"name": "ghcr-pull"}}
    return {"metadata": {"name": name, "namespace": "tenant"}, "spec": spec}


def spoken(objects: Iterable[Object]) -> list[str]:
    """Names of the mothership that stand in the specs."""
    text = json.dumps([obj["spec"] for obj in objects])
    return [name for name in MOTHERSHIP if name in text]


def registries(secret: Object | None) -> list[str]:
    assert secret is not None
    return sorted(json.loads(base64.b64decode(secret["data"][".dockerconfigjson"]))["auths"])


async def test_after_three_steps_nothing_that_flux_or_catalyst_reads_is_upstream(tmp_path: Path) -> None:
    async with sovereign(tmp_path / "box") as it:
        cluster = it.cluster
        await it.prepared()
        pull = await cluster.get(SECRET, "ghcr-pull", FLUX)
        assert pull is not None
        assert registries(pull) == ["ghcr.io", "harbor.openova.io"]
        await _customer_s_own(cluster, pull)
        history = {o["metadata"]["name"]: o["status"]["history"] for o in await cluster.list(HELM_RELEASE)}
        uids = {o["metadata"]["uid"] for o in await cluster.list(HELM_CHART)}
        mirrored = await it.head()

        git = cast(GitRepositoryPivoted, await it.run(PIVOTS[0]))
        source = await cluster.get(GIT_REPOSITORY, "openova", FLUX)
        assert source is not None
        assert source["spec"]["url"] == git.url == cluster_url(it.world.sovereign)
        assert git.revision == source["status"]["artifact"]["revision"] == f"main@sha1:{await it.head()}"
        assert mirrored not in git.revision
        assert git.previous_url == "https://github.com/openova-io/openova"

        sources = cast(SourcesPivoted, await it.run(PIVOTS[1]))
        assert (sources.helm_repositories, sources.charts_fetched, sources.packages) == (39, 38, 1)
        assert "charts.example" in sources.summary
        assert not uids & {o["metadata"]["uid"] for o in await cluster.list(HELM_CHART)}
        after = {o["metadata"]["name"]: o["status"]["history"] for o in await cluster.list(HELM_RELEASE)}
        assert after == history, "pivoting a source must upgrade nothing"
        for namespace in (FLUX, "tenant"):
            assert registries(await cluster.get(SECRET, "ghcr-pull", namespace)) == []
        assert registries(await cluster.get(SECRET, "renamed-copy", "tenant")) == []
        assert registries(await cluster.get(SECRET, "own-login", "tenant")) == ["ghcr.io"]

        api = cast(CatalystApiPivoted, await it.run(PIVOTS[2]))
        pod = await cluster.get(POD, api.pod, "catalyst-system")
        assert pod is not None
        entries = {e["name"]: e["value"] for e in pod["spec"]["containers"][0]["env"]}
        assert entries["CATALYST_GITOPS_REPO_URL"] == git.url
        assert api.commit == await it.head()

        await _flux_runs_again(it)
        objects = [o for kind in (GIT_REPOSITORY, HELM_REPOSITORY, PROVIDER) for o in await cluster.list(kind)]
        assert spoken(objects) == []
        provider = await cluster.get(PROVIDER, "provider-hcloud")
        assert provider is not None
        assert provider["status"]["currentIdentifier"] == provider["spec"]["package"]
        assert _log(it)[:3] == [
            f"catalyst-api reads {git.url}",
            "Charts and packages from harbor.sovereign.test",
            "This repository is sovereign.test's own",
        ]

        commits, versions = await it.head(), await _versions(cluster)
        for step in PIVOTS:
            again = await it.run(step, "run-2")
            assert (again.changes, again.summary[:13]) == (0, "nothing to do"), step
        assert await it.head() == commits
        assert await _versions(cluster) == versions, "a second run writes nothing into any source"
        _tells_no_secret(it)


async def _customer_s_own(cluster: Cluster, pull: Object) -> None:
    """Sources and Secrets that nobody declares in Git."""
    auths = json.loads(base64.b64decode(pull["data"][".dockerconfigjson"]))["auths"]
    await cluster.create(NAMESPACE, {"metadata": {"name": "tenant"}})
    await cluster.apply(HELM_REPOSITORY, by_hand("mirrored", "oci://ghcr.io/openova-io"))
    await cluster.apply(HELM_REPOSITORY, {**by_hand("theirs", "oci://charts.example/x")})
    own = {"ghcr.io": {"auth": base64.b64encode(b"customer:own").decode()}}
    for name, entries in (
        ("ghcr-pull", auths),
        ("renamed-copy", {"ghcr.io": auths["ghcr.io"]}),
        ("own-login", own),
    ):
        data = {".dockerconfigjson": base64.b64encode(json.dumps({"auths": entries}).encode()).decode()}
        meta = {"name": name, "namespace": "tenant"}
        await cluster.create(SECRET, {"metadata": meta, "type": "kubernetes.io/dockerconfigjson", "data": data})


async def _flux_runs_again(it: Sovereign) -> None:
    for kustomization in await it.cluster.list(KUSTOMIZATION):
        name, token = kustomization["metadata"]["name"], new_token()
        await it.cluster.request_reconcile(KUSTOMIZATION, name, FLUX, token)
        await it.cluster.wait(
            KUSTOMIZATION,
            name,
            FLUX,
            lambda o, token=token: bool(o) and o["status"].get("lastHandledReconcileAt") == token,  # type: ignore[misc]
            30,
        )


def _log(it: Sovereign) -> list[str]:
    """Subjects of the commits in local Gitea, newest first, from its own disk."""
    bare = it.box.directory / "gitea" / "repositories" / "openova" / "openova.git"
    command = ["git", f"--git-dir={bare}", "log", "--format=%s", "main"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


async def _versions(cluster: Cluster) -> dict[str, str]:
    kinds = (HELM_REPOSITORY, PROVIDER, SECRET, DEPLOYMENT)
    return {
        f"{o['kind']}/{o['metadata'].get('namespace')}/{o['metadata']['name']}": o["metadata"]["resourceVersion"]
        for kind in kinds
        for o in await cluster.list(kind)
    }


def _tells_no_secret(it: Sovereign) -> None:
    told = " ".join([*it.said, *(r.model_dump_json() for r in it.results.values())])
    sovereign_ = it.world.sovereign
    for login in (sovereign_.gitea.login, sovereign_.harbor.login, sovereign_.mothership_login):
        assert login is not None
        assert login.password().get_secret_value() not in told


async def until_done(it: Any, slug: str) -> Any:
    """As the pool does: what waits is tried again."""
    for _ in range(20):
        try:
            return await it.run(slug)
        except Wait:
            await asyncio.sleep(0.5)
    return await it.run(slug)


async def test_each_staged_failure_ends_in_the_honest_word_and_healed_the_step_succeeds(tmp_path: Path) -> None:
    async with sovereign(tmp_path / "box", timeout=20) as it:
        deaf = FAULTS[PIVOTS[2]]
        await deaf.stage(it.box)  # what it publishes is copied by step 3
        await it.prepared()

        await it.box.fail(PIVOTS[0])
        with pytest.raises(Stuck, match=r"SourceSuspended.*openova"):
            await it.run(PIVOTS[0])
        await it.box.heal()
        assert (await until_done(it, PIVOTS[0])).changes > 0

        await it.box.fail(PIVOTS[1])
        with pytest.raises(Stuck, match="DeclaredElsewhere"):
            await it.run(PIVOTS[1])
        pull = await it.cluster.get(SECRET, "ghcr-pull", FLUX)
        assert registries(pull) == ["ghcr.io", "harbor.openova.io"], "credentials go last"
        await it.box.heal()
        result = cast(SourcesPivoted, await until_done(it, PIVOTS[1]))
        assert result.charts_fetched + result.changes > 0
        assert "published again upstream under the same version: flux-system/flux-system-bp-catalyst" in result.summary
        assert registries(await it.cluster.get(SECRET, "ghcr-pull", FLUX)) == []

        # A chart that does not listen is found out by its Pod, and not by its values.
        with pytest.raises(Stuck, match="ValueNotRendered") as raised:
            await it.run(PIVOTS[2])
        assert "catalystApi.gitopsRepoUrl" in raised.value.message
        await deaf.heal(it.box)
        healed = cast(CatalystApiPivoted, await until_done(it, PIVOTS[2]))
        assert list(healed.values.values()) == [cluster_url(it.world.sovereign)]
        await _made_by_another(it)


async def _made_by_another(it: Sovereign) -> None:
    """A copy of the Deployment that another controller makes is left as it is, and the step is not done."""
    theirs = await it.cluster.get(DEPLOYMENT, "catalyst-api", "catalyst-system")
    assert theirs is not None
    template = json.loads(json.dumps(theirs["spec"]["template"]).replace(cluster_url(it.world.sovereign), UPSTREAM))
    labels = {"app.kubernetes.io/managed-by": "fleet-controller"}
    meta = {"name": "another", "namespace": "catalyst-system", "labels": labels}
    spec = {"replicas": 0, "selector": theirs["spec"]["selector"], "template": template}
    await it.cluster.apply(DEPLOYMENT, {"metadata": meta, "spec": spec})
    before = await it.cluster.get(DEPLOYMENT, "another", "catalyst-system")
    api = it.world.sovereign.catalyst_api.model_copy(update={"deployment": "another", "release": "absent"})
    other = it.world.sovereign.model_copy(update={"catalyst_api": api})
    was, it.world = it.world, replace(it.world, sovereign=other)
    with pytest.raises(Stuck, match=r"DeclaredElsewhere.*catalyst-system/another is made by fleet-controller"):
        await it.run(PIVOTS[2])
    it.world = was
    after = await it.cluster.get(DEPLOYMENT, "another", "catalyst-system")
    assert after is not None
    assert before is not None
    assert after["spec"] == before["spec"]
