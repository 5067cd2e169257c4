"""helm-controller: a HelmChart for each HelmRelease; an upgrade only when chart or values changed.

Facts: api-facts 1.4 and 1.5.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from sandbox import charts
from sandbox.controllers.api import HELM_CHARTS, HELM_RELEASES, OCI_REPOSITORIES, Object, Resource
from sandbox.controllers.conditions import (
    asks_again,
    condition,
    current,
    find,
    is_true,
    requested,
    seconds,
    settle,
    stamp,
)
from sandbox.controllers.discovery import Discovery
from sandbox.controllers.loop import Context, Controller
from sandbox.controllers.source import read_chart
from sandbox.controllers.storage import Storage

MANAGER = "helm-controller"
FORCE_AT = "reconcile.fluxcd.io/forceAt"
RETRY = 2.0  # seconds; the real one takes spec.install.remediation and a backoff
HISTORY = 5


class HelmReleases(Controller):
    """Corrects drift only where `spec.driftDetection.mode` says `enabled`, on its interval.

    Elsewhere what someone changes on a release's objects stays until chart or values change.
    """

    resource = HELM_RELEASES
    name = MANAGER
    workers = 8

    def __init__(self, context: Context, storage: Storage, discovery: Discovery) -> None:
        super().__init__(context)
        self.storage, self.discovery = storage, discovery

    def wants(self, old: Object | None, new: Object) -> bool:
        return asks_again(old, new)

    def extra(self) -> None:
        self.mirrors[HELM_CHARTS].listen(self._chart_changed)
        self.mirrors[OCI_REPOSITORIES].listen(self._chart_changed)
        self.mirrors[HELM_RELEASES].listen(self._wake_dependants)

    def _chart_changed(self, old: Object | None, new: Object | None) -> None:
        """A chart's artifact changed: its release looks again. A deletion wakes nobody.

        Source: helm-controller watches HelmCharts with SourceRevisionChangePredicate.
        """
        if new is None or _shape(old) == _shape(new):
            return
        place = (new["metadata"]["namespace"], new["metadata"]["name"])
        for release in self.mirrors[HELM_RELEASES]:
            if _chart_key(release) == place:
                self.enqueue((release["metadata"]["namespace"], release["metadata"]["name"]))

    def _wake_dependants(self, old: Object | None, new: Object | None) -> None:
        if new is None or not is_true(new) or (old is not None and is_true(old)):
            return
        done = (new["metadata"]["namespace"], new["metadata"]["name"])
        for release in self.mirrors[HELM_RELEASES]:
            if done in _dependencies(release):
                self.enqueue((release["metadata"]["namespace"], release["metadata"]["name"]))

    async def reconcile(self, obj: Object) -> float | None:
        seen: Object = {"observedGeneration": obj["metadata"].get("generation", 1)}
        if token := requested(obj):
            seen["lastHandledReconcileAt"] = token
        if obj["spec"].get("suspend"):
            await self.publish(obj, seen)
            return None
        for namespace, name in _dependencies(obj):
            other = self.mirrors[HELM_RELEASES].get(name, namespace)
            if other is None or not is_true(other):
                text = f"dependency '{namespace}/{name}' is not ready"
                await self._ready(obj, "False", "DependencyNotReady", text, seen)
                return RETRY * 5
        source = await self._source(obj)
        path = self.storage.of(source) if source is not None and current(source) else None
        if source is None or path is None:
            await self._ready(obj, "False", "SourceNotReady", self._why(obj, source), seen)
            return RETRY * 5
        try:
            await self._release(obj, read_chart(path), _digest_of(source), seen)
        except (ValueError, KeyError) as error:
            text = f"Helm install failed: {type(error).__name__}: {error}"
            self.say(f"HelmRelease {obj['metadata']['name']}: {text}")
            await self._ready(obj, "False", "InstallFailed", text, seen)
            return RETRY * 5
        return seconds(obj["spec"].get("interval"), 300) if _corrects(obj) else None

    # Source of the readiness rule: isHelmChartReady, helmrelease_controller.go: generation observed and an
    # artifact; Ready=False on an old artifact does not stop a release.
    async def _source(self, obj: Object) -> Object | None:
        """The object that holds the chart; a HelmChart is written as spec.chart says, by server-side apply."""
        if reference := obj["spec"].get("chartRef"):
            resource = OCI_REPOSITORIES if reference["kind"] == "OCIRepository" else HELM_CHARTS
            namespace = reference.get("namespace") or obj["metadata"]["namespace"]
            return self.mirrors[resource].get(reference["name"], namespace)
        wanted = helm_chart(obj)
        meta = wanted["metadata"]
        known = self.mirrors[HELM_CHARTS].get(meta["name"], meta["namespace"])
        if known is None or known["spec"] != wanted["spec"] or "deletionTimestamp" in known["metadata"]:
            known = await self.api.apply(HELM_CHARTS, wanted, MANAGER)
            self.mirrors[HELM_CHARTS].put(known)
        return known

    def _why(self, obj: Object, source: Object | None) -> str:
        namespace, name = _chart_key(obj)
        ready = find(source, "Ready") if source else None
        detail = f": {ready['message']}" if ready and ready["status"] == "False" else ""
        return f"HelmChart '{namespace}/{name}' is not ready{detail}"

    async def _release(self, obj: Object, bundle: charts.Bundle, digest: str | None, seen: Object) -> None:
        spec, meta, status = obj["spec"], obj["metadata"], obj.get("status") or {}
        version = bundle.version + (f"+{digest[7:19]}" if digest else "")
        values = spec.get("values") or {}
        config = config_digest(values)
        history: list[Object] = list(status.get("history") or [])
        last = history[0] if history else None
        same = last and (last["chartName"], last["chartVersion"], last["configDigest"]) == (
            bundle.name,
            version,
            config,
        )
        forced = _forced(obj)
        if forced:
            seen = {**seen, "lastHandledForceAt": forced}
        if last and same and not forced:
            if _corrects(obj):
                await self._corrected(obj, bundle, values)
            await self._ready(obj, "True", _reason(last), _message(last), seen)
            return
        namespace = spec.get("targetNamespace") or meta["namespace"]
        release = spec.get("releaseName") or meta["name"]
        for each in charts.render(bundle, values, release, namespace):
            await self._apply(each, obj, release, namespace)
        snapshot = {
            "name": release,
            "namespace": namespace,
            "version": int(last["version"]) + 1 if last else 1,
            "chartName": bundle.name,
            "chartVersion": version,
            "configDigest": config,
            "status": "deployed",
            "digest": "sha256:" + hashlib.sha256(f"{release}{version}{config}".encode()).hexdigest(),
            "firstDeployed": last["firstDeployed"] if last else stamp(self.context.clock.now()),
            "lastDeployed": stamp(self.context.clock.now()),
        }
        self.say(f"HelmRelease {meta['name']}: {_message(snapshot)}")
        older = [{**h, "status": "superseded"} for h in history[: HISTORY - 1]]
        attempt = {"lastAttemptedRevision": version, "lastAttemptedConfigDigest": config}
        chart = {"helmChart": "/".join(_chart_key(obj)), "history": [snapshot, *older]}
        await self._ready(obj, "True", _reason(snapshot), _message(snapshot), {**seen, **attempt, **chart})

    async def _corrected(self, obj: Object, bundle: charts.Bundle, values: Object) -> None:
        """What drifted is applied again as the chart renders it, without an upgrade (internal/action/diff.go)."""
        namespace = obj["spec"].get("targetNamespace") or obj["metadata"]["namespace"]
        release = obj["spec"].get("releaseName") or obj["metadata"]["name"]
        for each in charts.render(bundle, values, release, namespace):
            await self._apply(each, obj, release, namespace)

    async def _apply(self, wanted: Object, owner: Object, release: str, namespace: str) -> None:
        resource: Resource = await self.discovery.resource(wanted["apiVersion"], wanted["kind"])
        meta = wanted["metadata"]
        if resource.namespaced:
            meta.setdefault("namespace", namespace)
        # The last two are helm-controller's own, by its post-renderer (internal/postrender/origin_labels.go).
        labels = {
            **(meta.get("labels") or {}),
            "app.kubernetes.io/managed-by": "Helm",
            f"{HELM_RELEASES.group}/name": owner["metadata"]["name"],
            f"{HELM_RELEASES.group}/namespace": owner["metadata"]["namespace"],
        }
        marks = {"meta.helm.sh/release-name": release, "meta.helm.sh/release-namespace": namespace}
        meta |= {"labels": labels, "annotations": {**(meta.get("annotations") or {}), **marks}}
        self.mirrors[resource].put(await self.api.apply(resource, wanted, MANAGER))

    async def _ready(self, obj: Object, status: str, reason: str, text: str, more: Object) -> None:
        told = [condition("Ready", status, reason, text)]
        if status == "True":
            told.append(condition("Released", "True", reason, text))
        before = (obj.get("status") or {}).get("conditions") or []
        generation = obj["metadata"].get("generation", 1)
        settled = settle(before, told, generation, self.context.clock.now())
        await self.publish(obj, {**more, "conditions": settled})

    def gone(self, obj: Object) -> None:
        """A deleted HelmRelease takes its chart along; its objects go too (helm uninstall)."""
        self.say(f"HelmRelease {obj['metadata']['name']}: deleted")


def helm_chart(release: Object) -> Object:
    """The HelmChart that helm-controller writes for a release: `<namespace>-<name>`, beside the repository."""
    spec, meta = release["spec"]["chart"]["spec"], release["metadata"]
    ref = spec["sourceRef"]
    return {
        "apiVersion": HELM_CHARTS.api_version,
        "kind": HELM_CHARTS.kind,
        "metadata": {
            "name": f"{meta['namespace']}-{meta['name']}",
            "namespace": ref.get("namespace") or meta["namespace"],
        },
        "spec": {
            "chart": spec["chart"],
            "version": spec.get("version", "*"),
            "sourceRef": {"kind": ref["kind"], "name": ref["name"]},
            "interval": spec.get("interval") or release["spec"].get("interval", "5m"),
            "reconcileStrategy": spec.get("reconcileStrategy", "ChartVersion"),
        },
    }


def config_digest(values: Any) -> str:
    """Digest of a release's values: equal values, equal digest."""
    return "sha256:" + hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _dependencies(obj: Object) -> Iterable[tuple[str, str]]:
    own = obj["metadata"]["namespace"]
    return [(d.get("namespace") or own, d["name"]) for d in obj["spec"].get("dependsOn") or []]


def _chart_key(obj: Object) -> tuple[str, str]:
    spec, meta = obj["spec"], obj["metadata"]
    if reference := spec.get("chartRef"):
        return reference.get("namespace") or meta["namespace"], reference["name"]
    place = spec["chart"]["spec"]["sourceRef"].get("namespace") or meta["namespace"]
    return place, f"{meta['namespace']}-{meta['name']}"


def _digest_of(source: Object) -> str | None:
    """An OCIRepository's digest becomes part of the version, so a switch to it upgrades every release."""
    if source["kind"] != OCI_REPOSITORIES.kind:
        return None
    return str(source["status"]["artifact"]["revision"]).rpartition("@")[2]


def _shape(chart: Object | None) -> tuple[Any, ...]:
    if chart is None:
        return ()
    artifact = (chart.get("status") or {}).get("artifact") or {}
    return artifact.get("revision"), artifact.get("digest"), current(chart), is_true(chart)


def _corrects(obj: Object) -> bool:
    return bool((obj["spec"].get("driftDetection") or {}).get("mode") == "enabled")


def _forced(obj: Object) -> str | None:
    """A force request that equals the reconcile request and was not handled yet: one upgrade."""
    token = (obj["metadata"].get("annotations") or {}).get(FORCE_AT)
    handled = (obj.get("status") or {}).get("lastHandledForceAt")
    return str(token) if token and token == requested(obj) and token != handled else None


def _reason(snapshot: Object) -> str:
    return "InstallSucceeded" if snapshot["version"] == 1 else "UpgradeSucceeded"


def _message(snapshot: Object) -> str:
    verb = "install" if snapshot["version"] == 1 else "upgrade"
    name = f"{snapshot['namespace']}/{snapshot['name']}.v{snapshot['version']}"
    return f"Helm {verb} succeeded for release {name} with chart {snapshot['chartName']}@{snapshot['chartVersion']}"
