"""A small Sovereign on which a step is ended after any call to the outside, tried again, compared and taken back.

Ended means dead: from that call on nothing of the attempt reaches the outside any more, whatever its `finally` wants.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from step_by_step import world_of

from sandbox.box import Box
from sandbox.openova_slots import TEMPLATE, manifests
from schemas.progress import Progress
from schemas.results import StepResult
from workers.adapters.cluster import (
    GIT_REPOSITORY,
    HELM_CHART,
    HELM_REPOSITORY,
    KUSTOMIZATION,
    NAMESPACE,
    SECRET,
    Cluster,
    Object,
)
from workers.adapters.yaml_edit import documents, remove
from workers.entrypoints import wiring
from workers.entrypoints.settings import load
from workers.errors import Wait
from workers.world import Order, World

FLUX = "flux-system"
SLOTS = ("04-crossplane.yaml", "13-bp-catalyst-platform.yaml", "28-reloader.yaml")
BEFORE = ("gitea-mirror", "harbor-projects", "harbor-prewarm")

PASSING = frozenset({
    "pods", "replicasets", "events", "leases", "nodes", "jobs", "controllerrevisions", "endpoints", "endpointslices",
    "customresourcedefinitions", "providerrevisions",
})  # fmt: skip
VOLATILE = ("reconcile.fluxcd.io/requestedAt", "cutover.catalyst/", "deployment.kubernetes.io/")

Key = tuple[str, str, str]
"""(plural, namespace, name)."""


class Killed(BaseException):
    """The process is gone."""


@dataclass
class Fuse:
    """Counts calls to the outside, and ends everything right after the chosen one."""

    blow_after: int | None = None
    calls: int = 0
    blown: bool = False
    delay: float = 0.0
    """Seconds that each request to the API server is under way."""
    last: str = ""
    requests: int = 0

    def arm(self, blow_after: int | None) -> None:
        self.blow_after, self.calls, self.requests, self.blown = blow_after, 0, 0, False
        if blow_after == 0:
            self.blown = True

    def before(self) -> None:
        if self.blown:
            raise Killed

    def after(self, what: str) -> None:
        self.calls += 1
        if self.calls == self.blow_after:
            self.blown, self.last = True, what
            raise Killed


class Fused(Cluster):
    """The adapter; each request may be the last one."""

    fuse: Fuse

    async def _call(self, method: str, path: str, verb: str, words: str, **more: Any) -> Any:
        self.fuse.before()
        if self.fuse.delay:
            await asyncio.sleep(self.fuse.delay)
        self.fuse.requests += 1
        answer = await super()._call(method, path, verb, words, **more)
        self.fuse.after(f"{verb} {words}")
        return answer


class Outside:
    """Any other adapter; each of its asynchronous calls may be the last one."""

    def __init__(self, inner: Any, fuse: Fuse, name: str) -> None:
        self._inner, self._fuse, self._name = inner, fuse, name

    def __getattr__(self, name: str) -> Any:
        found, fuse, words = getattr(self._inner, name), self._fuse, f"{self._name}.{name}"
        if inspect.iscoroutinefunction(found):

            async def counted(*args: Any, **more: Any) -> Any:
                fuse.before()
                answer = await found(*args, **more)
                fuse.after(words)
                return answer

            return counted
        if not inspect.ismethod(found):
            return found

        def called(*args: Any, **more: Any) -> Any:
            answer = found(*args, **more)
            if hasattr(answer, "__aenter__"):
                return _entered(answer, fuse, words)
            mine = type(answer).__module__.startswith("workers.adapters")
            return Outside(answer, fuse, words) if mine else answer

        return called


@asynccontextmanager
async def _entered(manager: Any, fuse: Fuse, words: str) -> AsyncIterator[Any]:
    fuse.before()
    async with manager as inner:
        fuse.after(words)
        yield Outside(inner, fuse, words)


@dataclass
class Scene:
    """A box, the world as workers see it, and what was where."""

    box: Box
    world: World
    fuse: Fuse
    results: dict[str, StepResult] = field(default_factory=dict)
    attempts: int = 0

    @property
    def calls(self) -> int:
        """Calls to the outside of the last attempt."""
        return self.fuse.calls

    @property
    def requests(self) -> int:
        """Those of them that went to the API server."""
        return self.fuse.requests

    @property
    def bare(self) -> Path:
        return self.box.directory / "gitea" / "repositories" / "openova" / "openova.git"

    def git(self, *arguments: str) -> str:
        """A Git command on local Gitea's own disk."""
        command = ["git", f"--git-dir={self.bare}", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    async def attempt(self, step: str, blow_after: int | None = None) -> StepResult | None:
        """One attempt; None when it was ended."""
        self.attempts += 1
        self.fuse.arm(blow_after)
        order = Order("run-1", step, self.attempts, self.attempts, datetime.now(UTC), dict(self.results))
        try:
            result = await wiring.bound(step, self.world)(order, self._report)
        except BaseException:
            if self.fuse.blown:
                return None
            raise
        assert not self.fuse.blown, f"{step} went on after {self.fuse.last}, when it was dead"
        self.results[step] = result
        return result

    async def done(self, step: str) -> StepResult:
        """As the pool does: what waits is tried again."""
        for _ in range(30):
            try:
                result = await self.attempt(step)
            except Wait:
                await asyncio.sleep(0.5)
                continue
            assert result is not None
            return result
        raise AssertionError(f"{step} waits for ever")

    async def customer(self) -> None:
        """What nobody declares in Git: a source, a chart that no controller would make again, a copied pull secret."""
        cluster = self.world.cluster
        pull = await cluster.get(SECRET, "ghcr-pull", FLUX)
        assert pull is not None
        await cluster.create(NAMESPACE, {"metadata": {"name": "tenant"}})
        meta = {"name": "ghcr-pull", "namespace": "tenant"}
        await cluster.create(SECRET, {"metadata": meta, "type": pull["type"], "data": pull["data"]})
        spec = {"url": "oci://ghcr.io/openova-io", "type": "oci", "interval": "15m", "secretRef": {"name": "ghcr-pull"}}
        await cluster.create(HELM_REPOSITORY, {"metadata": {"name": "by-hand", "namespace": "tenant"}, "spec": spec})
        chart = {"chart": "bp-reloader", "version": "1.0.0", "interval": "15m"}
        chart["sourceRef"] = {"kind": "HelmRepository", "name": "by-hand"}  # type: ignore[assignment]
        meta = {"name": "by-hand", "namespace": "tenant"}
        await cluster.create(HELM_CHART, {"metadata": meta, "spec": chart})
        ready = await cluster.wait(
            HELM_CHART, "by-hand", "tenant", lambda o: "artifact" in ((o or {}).get("status") or {}), 30
        )
        assert ready is not None

    async def _report(self, _progress: Progress) -> None:
        self.fuse.before()

    # --- comparing and taking back ---

    def objects(self) -> dict[Key, Object]:
        """Every object that stands for something: not what controllers make of it, nor what passes."""
        return {
            (kind[1], namespace, name): obj
            for (kind, namespace, name), obj in self.box.kube.store.everything()
            if kind[1] not in PASSING
        }

    def state(self) -> dict[str, Any]:
        """What an attempt leaves behind, without ids and times."""
        live = {"/".join(key): _substance(obj) for key, obj in self.objects().items()}
        return {
            **live,
            "git": self.git("ls-tree", "-r", "main").splitlines(),
            "commits": self.git("log", "--format=%s", "main").splitlines(),
            "nodes": {node.name: _files(self.box.directory / "nodes" / node.name) for node in self.box.nodes},
        }

    async def take_back(self, objects: Mapping[Key, Object], head: str) -> None:
        """The objects and Git as they were, and Flux at rest there."""
        self.git("update-ref", "refs/heads/main", head)
        store = self.box.kube.store
        for place, obj in list(store.everything()):
            (_, plural), namespace, name = place
            was = objects.get((plural, namespace, name))
            if plural in PASSING or (was is not None and _substance(was) == _substance(obj)):
                continue
            if was is None:
                store.remove(*place)
            else:
                counted = {k: v for k, v in obj["metadata"].items() if k in ("generation", "uid")}
                metadata = {**was["metadata"], **counted, "generation": counted.get("generation", 0) + 1}
                store.put(*place, {**was, "metadata": metadata, "status": obj.get("status", {})})
        for key in objects.keys() - self.objects().keys():
            group = str(objects[key]["apiVersion"]).rpartition("/")[0]
            store.put((group, key[0]), *key[1:], objects[key])
        await self._flux_at_rest(head)

    async def _flux_at_rest(self, head: str) -> None:
        cluster = cast(Fused, self.world.cluster)
        self.fuse.arm(None)
        token = datetime.now(UTC).isoformat()
        source = await cluster.get(GIT_REPOSITORY, "openova", FLUX)
        assert source is not None
        await cluster.request_reconcile(GIT_REPOSITORY, "openova", FLUX, token)
        names = [k["metadata"]["name"] for k in await cluster.list(KUSTOMIZATION)]

        def there(obj: Object | None) -> bool:
            status = (obj or {}).get("status") or {}
            said = str(status.get("lastAppliedRevision") or (status.get("artifact") or {}).get("revision"))
            return status.get("lastHandledReconcileAt") == token and said.endswith(head)

        await cluster.wait(GIT_REPOSITORY, "openova", FLUX, there, 30)
        for name in names:
            await cluster.request_reconcile(KUSTOMIZATION, name, FLUX, token)
        for name in names:
            await cluster.wait(KUSTOMIZATION, name, FLUX, there, 30)


def _substance(obj: Object) -> Object:
    metadata = obj["metadata"]
    notes = {k: v for k, v in (metadata.get("annotations") or {}).items() if not k.startswith(VOLATILE)}
    body = {k: v for k, v in obj.items() if k not in ("metadata", "status", "apiVersion")}
    return {**body, "labels": metadata.get("labels") or {}, "annotations": notes}


def _files(directory: Path) -> dict[str, str]:
    wanted = [
        p for p in sorted(directory.rglob("*")) if p.is_file() and ("certs.d" in p.parts or p.name == "registries.yaml")
    ]
    return {str(p.relative_to(directory)): p.read_text(errors="replace") for p in wanted}


def small_tree(directory: Path) -> Path:
    """A bootstrap-kit of a few slots that wait for no other."""
    files = {name: text for name, text in manifests().items() if "bootstrap-kit/" not in name}
    kit = f"{TEMPLATE}/bootstrap-kit"
    files[f"{kit}/kustomization.yaml"] = "resources:\n" + "".join(f"  - {slot}\n" for slot in SLOTS)
    for slot in SLOTS:
        text = manifests()[f"{kit}/{slot}"]
        for number, document in enumerate(documents(text)):
            if document.get("kind") == "HelmRelease":
                text = remove(text, number, ("spec", "dependsOn"))
        files[f"{kit}/{slot}"] = text
    for name, text in files.items():
        file = directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return directory / TEMPLATE


@asynccontextmanager
async def scene(directory: Path, timeout: float = 60) -> AsyncIterator[Scene]:
    """A small Sovereign, not cut over yet."""
    async with Box.open(directory / "box", tree=small_tree(directory / "tree")) as box:
        settings = load(box.settings_file)
        flux = settings.sovereign.flux.model_copy(update={"timeout": timeout})
        settings = settings.model_copy(update={"sovereign": settings.sovereign.model_copy(update={"flux": flux})})
        fuse = Fuse()

        @asynccontextmanager
        async def fused() -> AsyncIterator[Cluster]:
            async with Fused.open(kubeconfig=box.kubeconfig, field_manager="catalyst-cutover") as api:
                cast(Fused, api).fuse = fuse
                yield api

        async with world_of(settings, fused) as world:
            names = ("git", "gitea", "harbor", "registries", "nodes")
            outside = {name: Outside(getattr(world, name), fuse, name) for name in names}
            yield Scene(box, replace(world, **cast(Any, outside)), fuse)


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Where two states differ, in a few words each."""
    said = []
    for key in sorted(one.keys() | other.keys()):
        if one.get(key) != other.get(key):
            said.append(f"{key}: {json.dumps(one.get(key))[:700]} / {json.dumps(other.get(key))[:700]}")
    return said
