"""A cluster, a tree and an upstream for steps 2 and 3; Harbor and registries are the sandbox's, which really serve."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx

from sandbox import upstream
from schemas.progress import Progress
from schemas.results import Prewarmed, ProjectsReady
from workers.adapters.harbor import HarborApi
from workers.adapters.oci import Patience, Registries
from workers.errors import Stuck, Wait
from workers.sovereign import Mode, Sovereign
from workers.steps import harbor_prewarm, harbor_projects
from workers.world import Order, World

PASSWORD = "Harbor12345-secret"
QUICK = Patience(attempts=4, first=0.01, longest=0.5)
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

    async def list(self, kind: Any, namespace: str | None = None, selector: str = "") -> list[dict[str, Any]]:
        if kind.kind == self.forbidden:
            raise Stuck("ApiForbidden", f"list {kind.kind}")
        found = [o for o in self.objects if o["kind"] == kind.kind]
        found += [o for (name, _), o in self.applied.items() if name == kind.kind]
        found = [o for o in found if namespace in (None, o["metadata"].get("namespace"))]
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


def staged(site: Any) -> Stage:
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


def as_proxy(stage: Stage, host: str) -> None:
    stage.sovereign = stage.site.sovereign(lambda u: u.model_copy(update={"mode": Mode.PROXY}) if u.host == host else u)


async def prewarmed(stage: Stage) -> Prewarmed:
    """As the pool would: a Wait is tried again."""
    with suppress(Wait):
        return await stage.prewarm()
    await stage.site.harbor.settled()
    return await stage.prewarm()
