"""kustomize-controller: what is in Git wins, on every interval (api-facts 1.6 and 1.8)."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sandbox.controllers.api import (
    GIT_REPOSITORIES,
    HELM_RELEASES,
    KUSTOMIZATIONS,
    ApiError,
    Object,
)
from sandbox.controllers.conditions import (
    asks_again,
    condition,
    current,
    find,
    is_true,
    requested,
    seconds,
    settle,
)
from sandbox.controllers.discovery import Discovery
from sandbox.controllers.loop import Context, Controller
from sandbox.controllers.manifests import BuildFailed, build, entry, stale
from sandbox.controllers.mirror import Key
from sandbox.controllers.storage import Storage

MANAGER = "kustomize-controller"
DISABLED = {
    "kustomize.toolkit.fluxcd.io/reconcile": "disabled",
    "kustomize.toolkit.fluxcd.io/ssa": "Ignore",
}
RETRY = 1.0  # seconds; the real one takes spec.retryInterval, 30 s and more


class ApplyFailed(Exception):
    """Some objects could not be applied."""


class Kustomizations(Controller):
    """Builds a path of an artifact, applies it with force, prunes by inventory, waits for health."""

    resource = KUSTOMIZATIONS
    name = MANAGER

    def __init__(self, context: Context, storage: Storage, discovery: Discovery) -> None:
        super().__init__(context)
        self.storage, self.discovery = storage, discovery
        self._applied: dict[tuple[str, str, str], str] = {}

    def wants(self, old: Object | None, new: Object) -> bool:
        return asks_again(old, new)

    def extra(self) -> None:
        self.mirrors[GIT_REPOSITORIES].listen(self._source_changed)
        # Created here so that the health check can read it.
        _ = self.mirrors[HELM_RELEASES]

    def _source_changed(self, old: Object | None, new: Object | None) -> None:
        """Source: SourceRevisionChangePredicate: only a new artifact revision wakes its dependants."""
        if new is None or _revision(old) == _revision(new):
            return
        for each in self.mirrors[KUSTOMIZATIONS]:
            if _source(each) == (new["metadata"]["namespace"], new["metadata"]["name"]):
                self.enqueue((each["metadata"]["namespace"], each["metadata"]["name"]))

    async def reconcile(self, obj: Object) -> float | None:
        seen: Object = {"observedGeneration": obj["metadata"].get("generation", 1)}
        if token := requested(obj):
            seen["lastHandledReconcileAt"] = token
        spec = obj["spec"]
        if spec.get("suspend"):
            # Acknowledged although nothing is done: finalizeStatus, kustomization_controller.go.
            await self.publish(obj, seen)
            return None
        waiting = self._not_yet(obj)
        if waiting is not None:
            reason, text = waiting
            await self._ready(obj, "False", reason, text, seen)
            return RETRY
        source = self.mirrors[GIT_REPOSITORIES].get(_source(obj)[1], _source(obj)[0])
        root = self.storage.of(source) if source else None
        if source is None or root is None:
            await self._ready(obj, "False", "ArtifactFailed", "Source artifact not found, retrying", seen)
            return RETRY
        revision = _revision(source) or ""
        obj = await self._progressing(obj, f"Reconciliation in progress for revision {revision}")
        try:
            inventory = await self._apply(obj, build(root, spec.get("path", "."), _variables(obj)))
            await self.publish(obj, {"inventory": {"entries": inventory}, "lastAttemptedRevision": revision})
            if spec.get("wait"):
                await self._healthy(inventory, seconds(spec.get("timeout"), 300))
        except BuildFailed as error:
            return await self._failed(obj, "BuildFailed", str(error), seen, revision)
        except ApplyFailed as error:
            return await self._failed(obj, "ReconciliationFailed", str(error), seen, revision)
        except TimeoutError:
            text = "health check failed: timeout waiting for HelmReleases"
            return await self._failed(obj, "HealthCheckFailed", text, seen, revision)
        if (obj.get("status") or {}).get("lastAppliedRevision") != revision:
            self.say(f"Kustomization {obj['metadata']['name']}: applied {revision}, {len(inventory)} objects")
        done = {**seen, "lastAppliedRevision": revision, "lastAttemptedRevision": revision}
        await self._ready(obj, "True", "ReconciliationSucceeded", f"Applied revision: {revision}", done)
        return seconds(spec.get("interval"), 300)

    def _not_yet(self, obj: Object) -> tuple[str, str] | None:
        namespace = obj["metadata"]["namespace"]
        for ref in obj["spec"].get("dependsOn") or []:
            other = self.mirrors[KUSTOMIZATIONS].get(ref["name"], ref.get("namespace", namespace))
            if other is None or not is_true(other):
                return "DependencyNotReady", f"dependency '{namespace}/{ref['name']}' is not ready"
        return None

    async def _failed(self, obj: Object, reason: str, text: str, seen: Object, revision: str) -> float:
        self.say(f"Kustomization {obj['metadata']['name']}: {reason}: {text}")
        await self._ready(obj, "False", reason, text, {**seen, "lastAttemptedRevision": revision})
        return RETRY

    async def _progressing(self, obj: Object, text: str) -> Object:
        """Ready goes Unknown during every reconcile, v1.4.0 to v1.9.4."""
        told = [
            condition("Ready", "Unknown", "Progressing", text),
            condition("Reconciling", "True", "Progressing", text),
        ]
        return await self.publish(obj, {"conditions": self._settled(obj, told)})

    async def _ready(self, obj: Object, status: str, reason: str, text: str, more: Object) -> None:
        told = [condition("Ready", status, reason, text)]
        await self.publish(obj, {**more, "conditions": self._settled(obj, told)})

    def _settled(self, obj: Object, told: list[dict[str, Any]]) -> list[dict[str, Any]]:
        before = (obj.get("status") or {}).get("conditions") or []
        return settle(before, told, obj["metadata"].get("generation", 1), self.context.clock.now())

    async def _apply(self, obj: Object, objects: list[Object]) -> list[dict[str, str]]:
        """Apply everything that can be applied, then prune. Raises ApplyFailed naming what could not.

        The real one dry-runs first and applies nothing when one object is refused; here the rest goes in.
        """
        owner = obj["metadata"]
        labels = {
            "kustomize.toolkit.fluxcd.io/name": owner["name"],
            "kustomize.toolkit.fluxcd.io/namespace": owner["namespace"],
        }
        inventory, refused = [], []
        for each in objects:
            each["metadata"]["labels"] = {**(each["metadata"].get("labels") or {}), **labels}
            inventory.append(entry(each))
            try:
                await self._one(each)
            except (ApiError, LookupError) as error:
                refused.append(f"{each['kind']}/{each['metadata']['name']}: {error}")
        if refused:
            raise ApplyFailed("; ".join(refused))
        if obj["spec"].get("prune"):
            before = (obj.get("status") or {}).get("inventory", {}).get("entries") or []
            for line in stale(before, inventory):
                await self._prune(line)
        return inventory

    async def _one(self, wanted: Object) -> None:
        resource = await self.discovery.resource(wanted["apiVersion"], wanted["kind"])
        meta = wanted["metadata"]
        live = await self.api.get(resource, meta["name"], meta.get("namespace", ""))
        if _disabled(wanted) or (live is not None and _disabled(live)):
            return
        key = (resource.plural, meta.get("namespace", ""), meta["name"])
        # Nothing was changed since our last apply of the same: applying again would change nothing.
        if live is not None and self._applied.get(key) == _digest(wanted, live):
            return
        applied = await self.api.apply(resource, wanted, MANAGER)
        if live is not None and live["metadata"].get("generation") != applied["metadata"].get("generation"):
            self.say(f"{wanted['kind']} {meta['name']}: configured, Git wins")
        if resource == HELM_RELEASES:
            self.mirrors[resource].put(applied)
        self._applied[key] = _digest(wanted, applied)

    async def _prune(self, line: Mapping[str, str]) -> None:
        namespace, name, group, kind = line["id"].split("_")
        version = f"{group}/{line['v']}" if group else line["v"]
        try:
            resource = await self.discovery.resource(version, kind)
        except LookupError:
            return
        live = await self.api.get(resource, name, namespace)
        marks = (live or {}).get("metadata", {}).get("annotations") or {}
        if live is None or _disabled(live) or marks.get("kustomize.toolkit.fluxcd.io/prune") == "disabled":
            return
        self.say(f"{kind} {name}: pruned, Git has it no more")
        await self.api.delete(resource, name, namespace)

    async def _healthy(self, inventory: list[dict[str, str]], limit: float) -> None:
        """Return when every applied HelmRelease is Ready; TimeoutError when that takes too long."""
        releases = self.mirrors[HELM_RELEASES]
        wanted: list[Key] = []
        for line in inventory:
            namespace, name, _, kind = line["id"].split("_")
            if kind == "HelmRelease":
                wanted.append((namespace, name))
        changed = asyncio.Event()

        def note(_old: Object | None, _new: Object | None) -> None:
            changed.set()

        with releases.listening(note):
            async with asyncio.timeout(limit):
                while not all(_released(releases.get(name, namespace)) for namespace, name in wanted):
                    changed.clear()
                    await changed.wait()


def _released(obj: Object | None) -> bool:
    if obj is None:
        return False
    return bool(obj["spec"].get("suspend")) or (is_true(obj) and current(obj) and find(obj, "Ready") is not None)


def _source(obj: Object) -> Key:
    ref = obj["spec"]["sourceRef"]
    return ref.get("namespace") or obj["metadata"]["namespace"], ref["name"]


def _revision(source: Object | None) -> str | None:
    artifact = ((source or {}).get("status") or {}).get("artifact") or {}
    revision = artifact.get("revision")
    return str(revision) if revision else None


def _variables(obj: Object) -> Mapping[str, str] | None:
    build_spec = obj["spec"].get("postBuild")
    return {k: str(v) for k, v in (build_spec.get("substitute") or {}).items()} if build_spec else None


def _disabled(obj: Object) -> bool:
    meta = obj["metadata"]
    marks = {**(meta.get("labels") or {}), **(meta.get("annotations") or {})}
    return any(marks.get(k, "").lower() == v.lower() for k, v in DISABLED.items())


def _digest(wanted: Object, live: Object) -> str:
    """What the outcome of an apply rests on: what is wanted, and all of the live object but its status."""
    meta = live["metadata"]
    kept = {k: v for k, v in live.items() if k not in {"metadata", "status"}}
    marks = (meta.get("uid"), meta.get("labels"), meta.get("annotations"))
    text = json.dumps([wanted, kept, marks], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
