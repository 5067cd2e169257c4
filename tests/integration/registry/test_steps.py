"""Steps 2 and 3 against the sandbox's Harbor and upstreams; cluster and Git are small fakes that behave."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from sandbox import charts, upstream
from sandbox.catalogue import Chart
from sandbox.harbor import Harbor
from sandbox.images import Publisher
from sandbox.registry import Fault, Wrong
from schemas.progress import Progress
from schemas.results import Prewarmed, ProjectsReady
from tests.integration.registry.conftest import PASSWORD, QUICK
from workers import robot
from workers.adapters.harbor import HarborApi
from workers.adapters.oci import Registries
from workers.audit.finding import Finding, Severity
from workers.audit.kept import forgotten
from workers.errors import Stuck, Wait
from workers.sovereign import Mode, Sovereign
from workers.steps import harbor_prewarm, harbor_projects
from workers.world import Order, World

API = "ghcr.io/openova-io/openova/catalyst-api:4f80be2"
NEW_API = "harbor.openova.io/proxy-dockerhub/calciumion/new-api:v0.6.0"
NATS = "docker.io/library/nats:2.10.22-alpine"
OURS = "ghcr.io/openova-io/catalyst-cutover:0.1.0"
NEGATIVE = "ghcr.io/openova-io/cutover-negative:upstream-only"
PAUSE = "docker.io/rancher/mirrored-pause:3.6"
PACKAGE = "xpkg.upbound.io/crossplane-contrib/provider-hcloud:v0.4.0"
TREE = """\
apiVersion: source.toolkit.fluxcd.io/v1beta2
kind: HelmRepository
metadata: {name: bp-gitea, namespace: flux-system}
spec: {type: oci, url: "oci://ghcr.io/openova-io"}
---
apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: bp-gitea, namespace: flux-system}
spec:
  chart: {spec: {chart: bp-gitea, version: 1.1.2, sourceRef: {kind: HelmRepository, name: bp-gitea}}}
"""


def pod(name: str, image: str, kind: str = "Pod") -> dict[str, Any]:
    spec: dict[str, Any] = {"containers": [{"name": "c", "image": image}]}
    metadata = {"name": name, "namespace": "apps"}
    return {"kind": kind, "metadata": metadata, "spec": spec if kind == "Pod" else {"template": {"spec": spec}}}


def source(url: str) -> dict[str, Any]:
    return {"kind": "HelmRepository", "metadata": {"name": "bp", "namespace": "flux-system"}, "spec": {"url": url}}


def release(chart: str, version: str) -> dict[str, Any]:
    spec = {"chart": chart, "version": version, "sourceRef": {"kind": "HelmRepository", "name": "bp"}}
    metadata = {"name": chart, "namespace": "flux-system"}
    return {"kind": "HelmRelease", "metadata": metadata, "spec": {"chart": {"spec": spec}}}


def provider(package: str) -> dict[str, Any]:
    return {"kind": "Provider", "metadata": {"name": "p"}, "spec": {"package": package}}


@dataclass
class FakeCluster:
    """An API server that can list."""

    objects: list[dict[str, Any]] = field(default_factory=list)
    applied: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    forbidden: str = ""

    async def apply(self, kind: Any, obj: dict[str, Any], *, force: bool = True) -> dict[str, Any]:
        self.applied[kind.kind, obj["metadata"]["name"]] = obj
        return obj

    async def get(self, kind: Any, name: str, namespace: str | None = None) -> dict[str, Any] | None:
        return self.applied.get((kind.kind, name))

    async def served(self, kind: Any) -> bool:
        return any(o["kind"] == kind.kind for o in self.objects)

    async def list(self, kind: Any) -> list[dict[str, Any]]:
        if kind.kind == self.forbidden:
            raise Stuck("ApiForbidden", f"list {kind.kind}")
        found = [o for o in self.objects if o["kind"] == kind.kind]
        return [{k: v for k, v in o.items() if k != "kind"} for o in found]


@dataclass
class FakeGit:
    """Local Gitea with one branch checked out."""

    path: Path

    @asynccontextmanager
    async def checkout(self, remote: Any, branch: str) -> AsyncIterator[Any]:
        assert remote.url.endswith("/openova/openova.git")
        yield SimpleNamespace(path=self.path, head="0" * 40)


ORDER = Order("run-1", "step", 1, 7, datetime(2026, 11, 1, tzinfo=UTC), {})


class Stage:
    """A site with a cluster, a tree and the two steps."""

    def __init__(self, site: Any) -> None:
        self.site = site
        self.cluster = FakeCluster()
        self.tree = site.directory / "tree"
        self.sovereign: Sovereign = site.sovereign()
        self.progress: list[Progress] = []
        kit = self.tree / "clusters/_template/bootstrap-kit"
        kit.mkdir(parents=True)
        (kit / "10-gitea.yaml").write_text(TREE)

    async def tell(self, progress: Progress) -> None:
        self.progress.append(progress)

    @asynccontextmanager
    async def world(self) -> AsyncIterator[World]:
        async with (
            Registries.open(self.sovereign, QUICK) as registries,
            HarborApi.open(self.sovereign.harbor) as harbor,
        ):
            none: Any = None
            git: Any = FakeGit(self.tree)
            cluster: Any = self.cluster
            yield World(self.sovereign, cluster, git, none, harbor, registries, none)

    async def projects(self) -> ProjectsReady:
        async with self.world() as world:
            return await harbor_projects.run(ORDER, world, self.tell)

    async def prewarm(self) -> Prewarmed:
        async with self.world() as world:
            return await harbor_prewarm.run(ORDER, world, self.tell)

    def api(self) -> httpx.AsyncClient:
        base = f"{self.site.harbor_url}/api/v2.0"
        return httpx.AsyncClient(base_url=base, auth=("admin", PASSWORD))


@pytest.fixture
def stage(site: Any) -> Stage:
    """What a Sovereign runs, and all of it upstream."""
    made = Stage(site)
    made.cluster.objects = [
        pod("api", API),
        pod("new-api", NEW_API, "Deployment"),
        pod("nats", "nats:2.10.22-alpine", "StatefulSet"),
        source("oci://ghcr.io/openova-io"),
        release("bp-cilium", "1.1.1"),
        provider(PACKAGE),
    ]
    charts = [("bp-cilium", "1.1.1", b"cilium"), ("bp-gitea", "1.1.2", b"gitea")]
    upstream.seed(site.upstream, charts, [API, NEW_API, NATS, OURS, PAUSE, NEGATIVE], [PACKAGE])
    return made


# step 2


async def test_every_project_is_made_public_and_hosted_with_those_that_references_name(stage: Stage) -> None:
    result = await stage.projects()
    wanted = {u.project for u in stage.sovereign.upstreams} | {"openova-io", "proxy-dockerhub"}
    assert set(result.projects) == set(result.created) == wanted
    async with stage.api() as api:
        have = {p["name"]: p for p in (await api.get("/projects", params={"page_size": 100})).json()}
    assert wanted <= set(have)
    assert all(have[n]["metadata"]["public"] == "true" and "registry_id" not in have[n] for n in wanted)


async def test_projects_that_are_there_are_nothing_to_do(stage: Stage) -> None:
    await stage.projects()
    again = await stage.projects()
    assert (again.changes, again.created) == (0, ())
    assert "nothing to do" in again.summary


async def test_a_private_project_is_an_error_that_names_it_and_what_is_wanted(stage: Stage) -> None:
    async with stage.api() as api:
        await api.post("/projects", json={"project_name": "proxy-ghcr", "metadata": {"public": "false"}})
    with pytest.raises(Stuck, match="proxy-ghcr: it is private; wanted is proxy-ghcr: hosted, public"):
        await stage.projects()


async def test_a_proxy_where_a_hosted_project_shall_be_is_an_error_and_nothing_is_made(stage: Stage) -> None:
    async with stage.api() as api:
        body = {"name": "x", "url": "https://ghcr.io", "type": "github-ghcr"}
        made = await api.post("/registries", json=body)
        number = int(made.headers["location"].rpartition("/")[2])
        body = {"project_name": "proxy-ghcr", "registry_id": number, "metadata": {"public": "true"}}
        assert (await api.post("/projects", json=body)).status_code == 201
        with pytest.raises(Stuck, match=f"WrongProject.*it is a proxy of registry {number}"):
            await stage.projects()
        assert (await api.get("/projects/openova-io")).status_code == 404


def robot_login(stage: Stage) -> tuple[str, str]:
    """Who the Secret in the cluster signs in as, and how."""
    secret = stage.cluster.applied["Secret", "cutover-harbor-robot"]
    assert secret["type"] == "kubernetes.io/dockerconfigjson"
    auths = json.loads(base64.b64decode(secret["data"][".dockerconfigjson"]))["auths"]
    entry = auths[stage.sovereign.harbor.host]
    return entry["username"], entry["password"]


async def may_pull(stage: Stage, login: tuple[str, str]) -> int:
    async with httpx.AsyncClient(base_url=stage.site.harbor_url, auth=login) as http:
        return (await http.get("/v2/openova-io/cutover-readers/tags/list")).status_code


async def test_a_robot_may_pull_and_not_push_and_its_secret_is_new_each_time(stage: Stage) -> None:
    result = await stage.projects()
    first = robot_login(stage)
    assert first[0] == "robot$cutover-pull"
    assert first[1] not in result.model_dump_json()
    assert await may_pull(stage, first) == 200
    async with httpx.AsyncClient(base_url=stage.site.harbor_url, auth=first) as http:
        assert (await http.post("/v2/openova-io/x/blobs/uploads/")).status_code == 401
    again = await stage.projects()
    second = robot_login(stage)
    assert again.changes == 0
    assert "its secret new" in again.summary
    assert (await may_pull(stage, second), await may_pull(stage, first)) == (200, 401)


async def test_whoever_keeps_a_copy_of_the_robots_login_reads_it_in_one_place(stage: Stage) -> None:
    async with stage.world() as world:
        with pytest.raises(Wait, match="RobotAbsent"):
            await robot.auths(world)
        await stage.projects()
        [(host, login)] = (await robot.auths(world)).items()
        assert (host, login["username"], login["password"]) == (stage.sovereign.harbor.host, *robot_login(stage))
        stage.cluster.applied["Secret", "cutover-harbor-robot"]["data"] = {".dockerconfigjson": "bm8="}
        with pytest.raises(Stuck, match="RobotUnreadable"):
            await robot.auths(world)


async def test_a_robot_learns_of_new_projects(stage: Stage) -> None:
    await stage.projects()
    stage.cluster.objects.append(pod("x", "harbor.openova.io/another/thing:1"))
    await stage.projects()
    async with stage.api() as api:
        robots = (await api.get("/robots")).json()
    assert len(robots) == 1
    assert "another" in {p["namespace"] for p in robots[0]["permissions"]}


async def test_a_project_without_room_is_said_before_anything_is_moved(stage: Stage) -> None:
    await stage.projects()
    stage.site.harbor._core.state.projects["openova-io"].storage_limit = 1
    with pytest.raises(Stuck, match=r"HarborFull.*openova-io \(\d+ of 1 bytes\)"):
        await stage.projects()
    with pytest.raises(Stuck, match=r"HarborFull: openova-io has room for 0 bytes and \d+ are to come"):
        await stage.prewarm()
    assert not stage.site.harbor.store.exists("proxy-docker/library/nats")


async def test_a_harbor_that_redirects_readers_is_seen_before_anything_is_moved(stage: Stage) -> None:
    await stage.projects()
    storage = "http://seaweedfs-s3.seaweedfs.svc.cluster.local:8333/harbor/blob"
    fault = Fault(Wrong.STATUS, path="/blobs/sha256", status=307, location=storage, times=None)
    stage.site.harbor.faults.add(fault)
    with pytest.raises(Stuck, match=r"HarborRedirects.*disableRedirect: true"):
        await stage.projects()


async def test_a_token_realm_that_only_pods_resolve_is_seen_before_anything_is_moved(stage: Stage) -> None:
    stage.site.harbor._core.realm_host = "harbor-core.harbor.svc.cluster.local"
    with pytest.raises(
        Stuck, match=r"TokenRealm.*harbor-core\.harbor\.svc.*externalURL to http://harbor\.sovereign\.test"
    ):
        await stage.projects()


async def test_a_token_service_that_does_not_answer_is_waited_for(stage: Stage) -> None:
    stage.site.harbor.faults.add(Fault(Wrong.STATUS, path="/service/token", status=502, times=None))
    with pytest.raises(Wait, match=r"DestinationNotReady.*token service answers with 502"):
        await stage.projects()


def as_proxy(stage: Stage, host: str) -> None:
    stage.sovereign = stage.site.sovereign(lambda u: u.model_copy(update={"mode": Mode.PROXY}) if u.host == host else u)


async def test_a_proxy_project_loses_its_retention_and_its_hazards_are_said(stage: Stage) -> None:
    as_proxy(stage, "ghcr.io")
    await stage.projects()
    async with stage.api() as api:
        project = (await api.get("/projects/proxy-ghcr")).json()
        registry = (await api.get(f"/registries/{project['registry_id']}")).json()
    assert (registry["type"], registry["url"]) == ("github-ghcr", "https://ghcr.io")
    assert "retention_id" not in project["metadata"]
    assert any("deletes its copy" in p.message for p in stage.progress)
    assert (await stage.projects()).changes == 0


async def test_harbor_takes_every_default_upstream_as_a_proxy_and_keeps_no_retention(stage: Stage) -> None:
    for host in ("registry.k8s.io", "gcr.io", "public.ecr.aws"):
        await stage.site.add_upstream(host)
    stage.sovereign = stage.site.sovereign(lambda u: u.model_copy(update={"mode": Mode.PROXY}))
    result = await stage.projects()
    async with stage.api() as api:
        have = {p["name"]: p for p in (await api.get("/projects", params={"page_size": 100})).json()}
    proxies = {u.project for u in stage.sovereign.upstreams}
    assert proxies <= set(result.created)
    assert all(have[name].get("registry_id") and "retention_id" not in have[name]["metadata"] for name in proxies)


async def test_a_retention_that_stays_though_it_was_deleted_is_no_success(stage: Stage) -> None:
    as_proxy(stage, "ghcr.io")
    stage.site.harbor.faults.add(Fault(Wrong.STATUS, path="/retentions/", methods=("DELETE",), status=404, times=None))
    with pytest.raises(Wait, match=r"RetentionRemains: proxy-ghcr: retention \d+ is still there"):
        await stage.projects()


async def test_a_hosted_project_where_a_proxy_shall_be_is_an_error(stage: Stage) -> None:
    await stage.projects()
    as_proxy(stage, "quay.io")
    with pytest.raises(Stuck, match=r"WrongProject.*it is hosted; wanted is proxy-quay: a proxy of quay\.io"):
        await stage.projects()


async def test_a_registry_of_our_name_that_leads_elsewhere_is_an_error_that_names_both(stage: Stage) -> None:
    as_proxy(stage, "quay.io")
    async with stage.api() as api:
        body = {"name": "proxy-quay-upstream", "url": "https://ghcr.io", "type": "docker-registry"}
        await api.post("/registries", json=body)
    with pytest.raises(Stuck, match=r"WrongRegistry.*https://ghcr\.io, wanted is docker-registry https://quay\.io"):
        await stage.projects()


async def test_a_proxy_of_another_registry_than_ours_is_an_error_that_names_both(stage: Stage) -> None:
    as_proxy(stage, "quay.io")
    async with stage.api() as api:
        made = await api.post("/registries", json={"name": "x", "url": "https://ghcr.io", "type": "docker-registry"})
        number = int(made.headers["location"].rpartition("/")[2])
        body = {"project_name": "proxy-quay", "registry_id": number, "metadata": {"public": "true"}}
        await api.post("/projects", json=body)
    with pytest.raises(Stuck, match=rf"WrongProject.*it is a proxy of registry {number}, not \d+"):
        await stage.projects()


async def test_a_proxy_of_an_upstream_that_does_not_answer_is_an_error(stage: Stage) -> None:
    stage.site.urls["registry.k8s.io"] = "http://127.0.0.1:9"
    as_proxy(stage, "registry.k8s.io")
    with pytest.raises(Stuck, match=r"HarborRefused.*the registry is unhealthy"):
        await stage.projects()


async def test_a_login_that_harbor_does_not_know_is_seen_before_anything_is_made(stage: Stage) -> None:
    stage.sovereign.harbor.login.password_file.write_text("wrong")
    with pytest.raises(Stuck, match="HarborDenied"):
        await stage.projects()
    assert stage.site.harbor.faults.count(path="/projects") == 0


async def test_a_harbor_that_is_away_is_waited_for(stage: Stage) -> None:
    stage.site.harbor.faults.add(Fault(Wrong.STATUS, path="/api/", status=502))
    with pytest.raises(Wait, match="HarborUnavailable"):
        await stage.projects()


# step 3


async def test_everything_the_cluster_needs_is_in_harbor_with_the_upstream_digest_and_why(stage: Stage) -> None:
    await stage.projects()
    result = await stage.prewarm()
    held = {
        API: ("ghcr.io", "proxy-ghcr/openova-io/openova/catalyst-api"),
        NEW_API: ("harbor.openova.io", "proxy-dockerhub/calciumion/new-api"),
        NATS: ("docker.io", "proxy-docker/library/nats"),
        PACKAGE: ("xpkg.upbound.io", "proxy-xpkg/crossplane-contrib/provider-hcloud"),
        "ghcr.io/openova-io/bp-cilium:1.1.1": ("ghcr.io", "openova-io/bp-cilium"),
        "ghcr.io/openova-io/bp-gitea:1.1.2": ("ghcr.io", "openova-io/bp-gitea"),
        OURS: ("ghcr.io", "proxy-ghcr/openova-io/catalyst-cutover"),
        PAUSE: ("docker.io", "proxy-docker/rancher/mirrored-pause"),
    }
    spelled = {NATS: "nats:2.10.22-alpine"}
    for reference, (host, local) in held.items():
        _, repository, tag = upstream.place(reference)
        digest = stage.site.upstream[host].store.tags(repository)[tag]
        assert stage.site.harbor.store.tags(local)[tag] == digest
        assert result.references[spelled.get(reference, reference)] == digest
    assert result.reasons[API] == ("live: Pod apps/api",)
    assert result.reasons["ghcr.io/openova-io/bp-gitea:1.1.2"] == ("Git: HelmRelease flux-system/bp-gitea",)
    assert result.artifacts == result.changes == len(held)
    assert result.bytes_moved > 0


async def test_what_must_exist_only_upstream_is_never_copied(stage: Stage) -> None:
    stage.cluster.objects.append(pod("negative", NEGATIVE))
    await stage.projects()
    result = await stage.prewarm()
    assert NEGATIVE not in result.references
    assert not stage.site.harbor.store.exists("proxy-ghcr/openova-io/cutover-negative")


async def test_progress_never_runs_backwards_and_ends_with_everything(stage: Stage) -> None:
    await stage.projects()
    stage.progress.clear()
    for registry in stage.site.upstream.values():
        registry.faults.add(Fault(Wrong.TRUNCATED, path="/blobs/", times=3))
    result = await stage.prewarm()
    percents = [p.percent for p in stage.progress if p.percent is not None]
    done = [p.bytes_done for p in stage.progress if p.bytes_done is not None]
    assert percents == sorted(percents)
    assert done == sorted(done)
    assert (percents[-1], done[-1]) == (100, result.bytes_moved)


async def test_a_second_run_moves_nothing_says_so_and_needs_no_upstream(stage: Stage) -> None:
    await stage.projects()
    first = await stage.prewarm()
    for registry in stage.site.upstream.values():
        registry.faults.add(Fault(Wrong.STATUS, status=503, times=None))
    again = await stage.prewarm()
    assert (again.changes, again.bytes_moved) == (0, 0)
    assert "nothing to move, 0 bytes" in again.summary
    assert again.references == first.references


async def test_after_the_cutover_the_local_urls_are_proven_and_no_upstream_is_needed(stage: Stage) -> None:
    await stage.projects()
    first = await stage.prewarm()
    for registry in stage.site.upstream.values():
        registry.faults.add(Fault(Wrong.STATUS, status=503, times=None))
    harbor = stage.sovereign.harbor.host
    stage.cluster.objects[3] = source(f"oci://{harbor}/openova-io")
    stage.cluster.objects[5] = provider(f"{harbor}/proxy-xpkg/crossplane-contrib/provider-hcloud:v0.4.0")
    stage.cluster.objects.append(pod("provider", f"{harbor}/proxy-xpkg/crossplane-contrib/provider-hcloud:v0.4.0"))
    tree = stage.tree / "clusters/_template/bootstrap-kit/10-gitea.yaml"
    tree.write_text(TREE.replace("ghcr.io", "harbor.${SOVEREIGN_FQDN}"))
    again = await stage.prewarm()
    assert (again.changes, again.bytes_moved) == (0, 0)
    assert (
        again.references[f"{harbor}/openova-io/bp-gitea:1.1.2"] == first.references["ghcr.io/openova-io/bp-gitea:1.1.2"]
    )


async def test_a_chart_that_local_harbor_lost_after_the_cutover_is_traced_back_to_its_origin(stage: Stage) -> None:
    await stage.projects()
    stage.cluster.objects[3] = source(f"oci://{stage.sovereign.harbor.host}/openova-io")
    await stage.prewarm()
    digest = stage.site.upstream["ghcr.io"].store.tags("openova-io/bp-cilium")["1.1.1"]
    assert stage.site.harbor.store.tags("openova-io/bp-cilium")["1.1.1"] == digest


async def test_an_unmapped_host_is_named_with_its_reference_before_anything_moves(stage: Stage) -> None:
    stage.cluster.objects.append(pod("odd", "cgr.dev/chainguard/kubectl:latest-dev", "DaemonSet"))
    await stage.projects()
    with pytest.raises(Stuck, match=r"UnmappedHost.*cgr\.dev/chainguard/kubectl:latest-dev.*DaemonSet apps/odd"):
        await stage.prewarm()
    assert stage.site.harbor.store.repositories() == ["openova-io/cutover-readers"], "step 2's own probe"


# charts that are opened

PODINFO = "ghcr.io/stefanprodan/podinfo:6.7.1"


def open_chart(stage: Stage, **values: Any) -> None:
    """bp-cilium is a real chart upstream, with these values."""
    chart = Chart("bp-cilium", "1.1.1", "kube-system", values)
    store = stage.site.upstream["ghcr.io"].store
    Publisher(store, "openova-io/bp-cilium").chart("bp-cilium", "1.1.1", charts.archive(chart, {}))


async def test_a_chart_is_opened_once_and_what_it_names_is_copied_with_the_chart_as_reason(stage: Stage) -> None:
    open_chart(stage, image={"registry": "ghcr.io", "repository": "stefanprodan/podinfo", "tag": "6.7.1"})
    upstream.seed(stage.site.upstream, [], [PODINFO], [])
    await stage.projects()
    result = await stage.prewarm()
    assert result.reasons[PODINFO] == ("chart ghcr.io/openova-io/bp-cilium:1.1.1, default value image",)
    assert stage.site.harbor.store.exists("proxy-ghcr/stefanprodan/podinfo")
    seen = [s for s in stage.site.upstream["ghcr.io"].faults.seen if s.status == 200]
    blobs = [s.path for s in seen if "bp-cilium/blobs" in s.path]
    assert len(blobs) == len(set(blobs)) == 2, "config and chart, each once"
    assert any("bp-gitea:1.1.2: not opened, its images are not seen" in n for n in result.notices)
    for registry in stage.site.upstream.values():
        registry.faults.add(Fault(Wrong.STATUS, status=503, times=None))
    again = await stage.prewarm()
    assert (again.changes, again.references) == (0, result.references)


async def test_what_only_a_chart_names_and_nobody_has_is_told_and_no_error(stage: Stage) -> None:
    open_chart(stage, image="ghcr.io/gone/for-good:1")
    await stage.projects()
    result = await stage.prewarm()
    assert "ghcr.io/gone/for-good:1" not in result.references
    [notice] = [n for n in result.notices if "for-good" in n]
    assert "chart ghcr.io/openova-io/bp-cilium:1.1.1" in notice
    assert "nobody is known to use it" in notice
    stage.cluster.objects.append(pod("user", "ghcr.io/gone/for-good:1"))
    with pytest.raises(Stuck, match=r"ReferenceNotFound.*for-good"):
        await stage.prewarm()


async def test_a_chart_that_still_runs_and_is_gone_upstream_is_told_and_no_error(stage: Stage) -> None:
    history = [{"chartVersion": "1.0.0", "status": "deployed"}]
    stage.cluster.objects[4] = {**release("bp-cilium", "1.1.1"), "status": {"history": history}}
    await stage.projects()
    result = await stage.prewarm()
    assert "ghcr.io/openova-io/bp-cilium:1.1.1" in result.references
    assert any("bp-cilium:1.0.0 (live: HelmRelease flux-system/bp-cilium, deployed)" in n for n in result.notices)


@pytest.mark.parametrize(("status", "kind"), [(401, Stuck), (403, Stuck), (429, Wait), (500, Wait)])
async def test_what_only_a_chart_names_is_never_taken_for_absent_when_it_is_refused(
    stage: Stage, status: int, kind: type[Exception]
) -> None:
    open_chart(stage, image=PODINFO)
    for registry in stage.site.upstream.values():
        registry.faults.add(Fault(Wrong.STATUS, path="/podinfo/", status=status, times=None))
    await stage.projects()
    with pytest.raises(kind, match="podinfo"):
        await stage.prewarm()


async def test_a_host_without_a_project_that_a_chart_names_is_an_error_that_names_the_chart(stage: Stage) -> None:
    open_chart(stage, image="cgr.dev/chainguard/kubectl:latest-dev")
    await stage.projects()
    with pytest.raises(
        Stuck, match=r"UnmappedHost.*cgr\.dev/chainguard/kubectl:latest-dev \(chart ghcr\.io/.*bp-cilium"
    ):
        await stage.prewarm()
    stage.sovereign = stage.sovereign.model_copy(update={"not_needed": ("cgr.dev/*",)})
    assert any("not_needed" in n for n in (await stage.prewarm()).notices)


async def test_a_project_that_only_a_chart_names_is_made(stage: Stage) -> None:
    image = "harbor.openova.io/proxy-other/a/b:1"
    open_chart(stage, image=image)
    upstream.seed(stage.site.upstream, [], [image], [])
    await stage.projects()
    assert image in (await stage.prewarm()).references
    async with stage.api() as api:
        project = (await api.get("/projects/proxy-other")).json()
    assert (project["metadata"]["public"], project.get("registry_id")) == ("true", None)


async def test_charts_that_cannot_be_had_now_hold_up_nothing_else_and_are_waited_for(stage: Stage) -> None:
    await stage.projects()
    for registry in stage.site.upstream.values():
        registry.faults.add(Fault(Wrong.STATUS, path="/bp-cilium/blobs", status=503, times=None))
    with pytest.raises(Wait, match=r"UpstreamUnavailable.*bp-cilium"):
        await stage.prewarm()
    assert stage.site.harbor.store.exists("proxy-docker/library/nats")


async def test_a_chart_that_came_too_late_to_be_opened_is_no_success(stage: Stage) -> None:
    await stage.projects()
    faults = stage.site.harbor.faults
    away = Fault(Wrong.STATUS, path="/openova-io/bp-cilium/blobs/uploads", status=503, times=None)
    faults.add(away)
    tell = stage.tell

    async def and_then_it_works(progress: Progress) -> None:
        if progress.message == "reading manifests" and away in faults.staged:
            faults.staged.remove(away)
        await tell(progress)

    stage.tell = and_then_it_works  # type: ignore[method-assign]
    with pytest.raises(Wait, match=r"HarborUnavailable.*bp-cilium"):
        await stage.prewarm()
    assert stage.site.harbor.store.exists("openova-io/bp-cilium"), "it is here, and nobody knows what it names"
    assert "ghcr.io/openova-io/bp-cilium:1.1.1" in (await stage.prewarm()).references


async def test_the_boot_strap_loop_is_named_and_what_is_not_seen_of_it_is_told(stage: Stage) -> None:
    stage.cluster.objects.append(pod("harbor", "docker.io/goharbor/harbor-core:v2.14.3"))
    upstream.seed(stage.site.upstream, [], ["docker.io/goharbor/harbor-core:v2.14.3"], [])
    await stage.projects()
    result = await stage.prewarm()
    assert result.reasons["docker.io/goharbor/harbor-core:v2.14.3"][-1] == "boot-strap: Harbor serves its own images"
    assert "boot-strap" in result.reasons[PAUSE][0]
    assert "boot-strap: the cutover itself" in result.reasons[OURS]
    assert any("boot-strap: cluster DNS: no such image is seen" in n for n in result.notices)


async def test_what_a_node_says_it_holds_is_listed_and_who_may_not_look_stops(stage: Stage) -> None:
    pause = "registry.k8s.io/pause:3.10"
    await stage.site.add_upstream("registry.k8s.io")
    stage.sovereign = stage.site.sovereign()
    upstream.seed(stage.site.upstream, [], [pause], [])
    images = [{"names": [f"registry.k8s.io/pause@sha256:{'a' * 64}", pause]}]
    stage.cluster.objects.append({"kind": "Node", "metadata": {"name": "n"}, "status": {"images": images}})
    await stage.projects()
    result = await stage.prewarm()
    assert "held by a node" in result.reasons[pause][0]
    assert PAUSE not in result.references
    stage.cluster.forbidden = "Node"
    with pytest.raises(Stuck):
        await stage.prewarm()


async def test_a_reference_that_cannot_be_read_is_left_out_aloud(stage: Stage) -> None:
    stage.cluster.objects.append(pod("templated", "ghcr.io/x/y:${TAG}"))
    await stage.projects()
    result = await stage.prewarm()
    assert any("apps/templated" in n and "left out" in n for n in result.notices)


async def test_a_proxy_project_is_filled_by_pulling_and_its_broken_promise_is_said(stage: Stage) -> None:
    as_proxy(stage, "xpkg.upbound.io")
    await stage.projects()
    result = await _prewarmed(stage)
    local = "proxy-xpkg/crossplane-contrib/provider-hcloud"
    assert any("keeps the index rewritten" in n for n in result.notices)
    assert stage.site.harbor.store.tags(local)["v0.4.0"] != result.references[PACKAGE]


async def test_what_a_proxy_served_and_has_not_stored_is_waited_for(stage: Stage) -> None:
    as_proxy(stage, "xpkg.upbound.io")
    await stage.projects()
    await _prewarmed(stage)
    stage.site.harbor.faults.add(Fault(Wrong.STATUS, path="/artifacts/", status=404))
    with pytest.raises(Wait, match="ProxyNotStored"):
        await stage.prewarm()


async def _prewarmed(stage: Stage) -> Prewarmed:
    """As the pool would: a Wait is tried again."""
    with suppress(Wait):
        return await stage.prewarm()
    await stage.site.harbor.settled()
    return await stage.prewarm()


# the facade


async def test_a_probe_exists_only_in_local_harbor_and_a_chart_is_pulled_from_there(stage: Stage) -> None:
    await stage.projects()
    await stage.prewarm()
    async with stage.world() as world:
        digest = await world.registries.push_probe("openova-io/cutover-probe", "run-7", b"unique")
        assert await world.registries.local_digest("openova-io/cutover-probe", "run-7") == digest
        assert await world.registries.local_digest("openova-io/cutover-probe", "run-8") is None
        pulled = await world.registries.pull_chart("openova-io/bp-cilium", "1.1.1")
        assert pulled == stage.site.upstream["ghcr.io"].store.tags("openova-io/bp-cilium")["1.1.1"]
        with pytest.raises(Stuck, match=r"ChartMissing.*openova-io/bp-cilium:9\.9\.9"):
            await world.registries.pull_chart("openova-io/bp-cilium", "9.9.9")
        assert await world.harbor.is_public("openova-io")
        assert not await world.harbor.is_public("no-such")


async def test_a_harbor_that_is_opened_again_has_what_it_had(stage: Stage) -> None:
    await stage.projects()
    await stage.prewarm()
    await stage.site.stack.aclose()
    again = Harbor.open(
        stage.site.directory / "harbor", "harbor.sovereign.test", stage.site.clock, PASSWORD, lambda host: ""
    )
    assert again.store.tags("openova-io/bp-cilium")
    assert "proxy-ghcr" in again._core.state.projects


@pytest.mark.parametrize("mode", [Mode.HOSTED, Mode.PROXY])
async def test_a_week_without_pulls_empties_a_proxy_with_its_retention_and_nothing_of_ours(
    stage: Stage, mode: Mode
) -> None:
    if mode is Mode.PROXY:
        as_proxy(stage, "xpkg.upbound.io")
    await stage.projects()
    await _prewarmed(stage)
    stage.site.clock.skip(timedelta(days=9))
    async with stage.api() as api:
        path = "/projects/proxy-xpkg/repositories/crossplane-contrib%252Fprovider-hcloud/artifacts"
        assert (await api.get(path)).json(), "step 2 took the retention away"


# scenario proxy-forgets


def with_retention(stage: Stage, project: str) -> None:
    """Somebody puts Harbor's own policy for proxy projects back."""
    core = stage.site.harbor._core
    core._retain(core.state.projects[project])


async def audited(stage: Stage, copied: Prewarmed) -> list[Finding]:
    async with stage.world() as world:
        return await forgotten(world, copied)


async def test_seven_days_later_a_proxy_has_forgotten_and_the_audit_says_what_and_why(stage: Stage) -> None:
    as_proxy(stage, "xpkg.upbound.io")
    await stage.projects()
    copied = await _prewarmed(stage)
    assert await audited(stage, copied) == []
    with_retention(stage, "proxy-xpkg")
    stage.site.clock.skip(timedelta(days=8))
    async with stage.api() as api:
        await api.get("/projects/proxy-xpkg/repositories/crossplane-contrib%252Fprovider-hcloud/artifacts")
    found = {f.name: f for f in await audited(stage, copied)}
    local = "proxy-xpkg/crossplane-contrib/provider-hcloud:v0.4.0"
    assert set(found) == {local, "proxy-xpkg"}
    assert found[local].severity is Severity.EXTERNAL
    assert found[local].owner == "live: Provider p"
    assert "retention policy" in found["proxy-xpkg"].field
    assert stage.site.harbor.store.tags("proxy-xpkg/crossplane-contrib/provider-hcloud") == {}
    # Asking again mends it: the retention goes, and what was forgotten is pulled through once more.
    await stage.projects()
    assert await audited(stage, await _prewarmed(stage)) == []


async def test_seven_days_later_hosted_projects_hold_everything(stage: Stage) -> None:
    await stage.projects()
    result = await stage.prewarm()
    stage.site.clock.skip(timedelta(days=8))
    async with stage.api() as api:
        await api.get("/projects/proxy-xpkg/repositories/crossplane-contrib%252Fprovider-hcloud/artifacts")
    assert await audited(stage, result) == []
    again = await stage.prewarm()
    assert (again.changes, again.references) == (0, result.references)


async def test_a_harbor_that_cannot_be_asked_is_one_finding_and_no_pass(stage: Stage) -> None:
    await stage.projects()
    copied = await stage.prewarm()
    stage.site.harbor.faults.add(Fault(Wrong.STATUS, path="/artifacts/", status=502, times=None))
    [found] = await audited(stage, copied)
    assert found.severity is Severity.UNREADABLE


async def test_a_log_that_does_not_say_where_copies_are_is_no_pass(stage: Stage) -> None:
    await stage.projects()
    copied = await stage.prewarm()
    [found] = await audited(stage, copied.model_copy(update={"places": {}}))
    assert found.severity is Severity.UNREADABLE


async def test_what_is_pinned_is_looked_for_by_its_digest(stage: Stage) -> None:
    digest = stage.site.upstream["docker.io"].store.tags("library/nats")["2.10.22-alpine"]
    stage.cluster.objects.append(pod("pinned", f"nats@{digest}"))
    await stage.projects()
    copied = await stage.prewarm()
    assert copied.places[f"nats@{digest}"] == f"proxy-docker/library/nats@{digest}"
    stage.site.harbor.store.untag("proxy-docker/library/nats", "2.10.22-alpine")
    assert [f.name for f in await audited(stage, copied)] == ["proxy-docker/library/nats:2.10.22-alpine"]
    stage.site.harbor.store.delete_manifest("proxy-docker/library/nats", digest)
    assert len(await audited(stage, copied)) == 2
