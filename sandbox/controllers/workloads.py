"""kube-controller-manager, as far as a rehearsal needs it: Deployments and DaemonSets make Pods."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable
from typing import Any

from sandbox.controllers.api import (
    DAEMON_SETS,
    DEPLOYMENTS,
    NODES,
    PODS,
    REPLICA_SETS,
    ApiError,
    Object,
    Resource,
)
from sandbox.controllers.conditions import condition, current, settle
from sandbox.controllers.loop import Controller
from sandbox.controllers.placement import fits

HASH_LABEL = "pod-template-hash"


def template_hash(template: Object) -> str:
    """Short digest of a Pod template: another template, another ReplicaSet."""
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]


def owned(objects: Iterable[Object], owner: Object) -> list[Object]:
    """Those that an object controls and that are not being deleted."""
    uid = owner["metadata"]["uid"]
    return [
        o
        for o in objects
        if any(r["uid"] == uid and r.get("controller") for r in o["metadata"].get("ownerReferences") or [])
        and "deletionTimestamp" not in o["metadata"]
    ]


def ready(pod: Object) -> bool:
    """Whether the Pod's Ready condition is True."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def reference(owner: Object) -> Object:
    meta = owner["metadata"]
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": meta["name"],
        "uid": meta["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def pod_of(owner: Object, template: Object, labels: dict[str, str], node: str | None = None) -> Object:
    """A Pod from a template, owned by `owner`."""
    meta = template.get("metadata") or {}
    spec = json.loads(json.dumps(template["spec"]))
    if node:
        spec["nodeName"] = node
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{owner['metadata']['name']}-{secrets.token_hex(3)[:5]}",
            "namespace": owner["metadata"]["namespace"],
            "labels": {**(meta.get("labels") or {}), **labels},
            "annotations": dict(meta.get("annotations") or {}),
            "ownerReferences": [reference(owner)],
        },
        "spec": spec,
    }


class Workload(Controller):
    """What the three share: their Pods wake them, and status writes of their own do not."""

    def wants(self, old: Object | None, new: Object) -> bool:
        if old is None:
            return True
        before, after = old["metadata"], new["metadata"]
        return any(before.get(k) != after.get(k) for k in ("generation", "uid", "deletionTimestamp"))

    def extra(self) -> None:
        self.mirrors[PODS].listen(self._pod_changed)

    def _pod_changed(self, old: Object | None, new: Object | None) -> None:
        pod = new or old
        if pod is None or (old and new and _face(old) == _face(new)):
            return
        for ref in pod["metadata"].get("ownerReferences") or []:
            key = self.owner(ref, pod["metadata"]["namespace"])
            if key is not None:
                self.enqueue(key)

    def owner(self, ref: Object, namespace: str) -> tuple[str, str] | None:
        """The object of this controller behind an owner reference."""
        return (namespace, ref["name"]) if ref["kind"] == self.resource.kind else None

    def pods(self, owner: Object) -> list[Object]:
        """Pods of an owner that still count: a failed or finished one is replaced, as by the real ones."""
        return owned(self.mirrors[PODS], owner)

    async def start_pod(self, owner: Object, template: Object, labels: dict[str, str], node: str | None = None) -> None:
        self.mirrors[PODS].put(await self.api.create(PODS, pod_of(owner, template, labels, node), self.name))

    async def stop_pod(self, pod: Object) -> None:
        await self.api.delete(PODS, pod["metadata"]["name"], pod["metadata"]["namespace"])

    async def replace_dead(self, pods: list[Object]) -> list[Object]:
        """Delete Pods that ended; give back those that live."""
        alive = []
        for pod in pods:
            if (pod.get("status") or {}).get("phase") in {"Failed", "Succeeded"}:
                await self.stop_pod(pod)
            else:
                alive.append(pod)
        return alive


class Deployments(Workload):
    """One ReplicaSet a template; a rolling update keeps the old Pods until the new ones are ready."""

    resource = DEPLOYMENTS
    name = "deployment-controller"
    workers = 8

    def extra(self) -> None:
        super().extra()
        _ = self.mirrors[REPLICA_SETS]

    def owner(self, ref: Object, namespace: str) -> tuple[str, str] | None:
        if ref["kind"] != REPLICA_SETS.kind:
            return None
        owner = self.mirrors[REPLICA_SETS].get(ref["name"], namespace)
        refs = (owner or {}).get("metadata", {}).get("ownerReferences") or []
        return next(((namespace, r["name"]) for r in refs if r["kind"] == DEPLOYMENTS.kind), None)

    async def reconcile(self, obj: Object) -> float | None:
        if "deletionTimestamp" in obj["metadata"]:
            return None
        spec = obj["spec"]
        wanted = int(spec.get("replicas", 1))
        new = await self._replica_set(obj)
        sets = owned(self.mirrors[REPLICA_SETS], obj)
        old = [s for s in sets if s["metadata"]["uid"] != new["metadata"]["uid"]]
        fresh = await self.replace_dead(self.pods(new))
        stale = [p for s in old for p in self.pods(s)]
        recreate = (spec.get("strategy") or {}).get("type") == "Recreate"
        if not (recreate and stale):
            for _ in range(wanted - len(fresh)):
                await self.start_pod(new, spec["template"], {HASH_LABEL: new["metadata"]["labels"][HASH_LABEL]})
        for pod in fresh[wanted:]:
            await self.stop_pod(pod)
        # Rolling: the old ones stay until as many new ones are ready.
        spare = len(stale) if recreate else len(stale) - max(0, wanted - sum(map(ready, fresh)))
        for pod in stale[: max(0, spare)]:
            await self.stop_pod(pod)
        await self._scale(new, wanted)
        for each in old:
            await self._scale(each, len(self.pods(each)))
        await self._status(obj, new, old, wanted)
        return None

    async def _replica_set(self, obj: Object) -> Object:
        template = obj["spec"]["template"]
        digest = template_hash(template)
        meta = obj["metadata"]
        name = f"{meta['name']}-{digest}"
        found = self.mirrors[REPLICA_SETS].get(name, meta["namespace"])
        if found is not None and owned([found], obj):
            return found
        labels = {**((template.get("metadata") or {}).get("labels") or {}), HASH_LABEL: digest}
        number = 1 + max((_revision(s) for s in owned(self.mirrors[REPLICA_SETS], obj)), default=0)
        wanted: Object = {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": name,
                "namespace": meta["namespace"],
                "labels": labels,
                "annotations": {"deployment.kubernetes.io/revision": str(number)},
                "ownerReferences": [reference(obj)],
            },
            "spec": {
                "replicas": int(obj["spec"].get("replicas", 1)),
                "selector": {"matchLabels": {**obj["spec"]["selector"].get("matchLabels", {}), HASH_LABEL: digest}},
                "template": {**template, "metadata": {**(template.get("metadata") or {}), "labels": labels}},
            },
        }
        try:
            made = await self.api.create(REPLICA_SETS, wanted, self.name)
        except ApiError as error:
            existing = await self.api.get(REPLICA_SETS, name, meta["namespace"])
            if error.status != 409 or existing is None:
                raise
            made = existing
        self.mirrors[REPLICA_SETS].put(made)
        return made

    async def _scale(self, replica_set: Object, replicas: int) -> None:
        pods = self.pods(replica_set)
        up = sum(map(ready, pods))
        status = {
            "replicas": len(pods),
            "fullyLabeledReplicas": len(pods),
            "readyReplicas": up or None,
            "availableReplicas": up or None,
            "observedGeneration": replica_set["metadata"].get("generation", 1),
        }
        await self.write_status(REPLICA_SETS, replica_set, status)
        if replica_set["spec"].get("replicas") != replicas:
            body = {"spec": {"replicas": replicas}}
            self.mirrors[REPLICA_SETS].put(await self.api.merge(REPLICA_SETS, replica_set, body, self.name))

    async def write_status(self, resource: Resource, obj: Object, status: Object) -> None:
        before: Object = obj.get("status") or {}
        if {k: v for k, v in {**before, **status}.items() if v is not None} != before:
            self.mirrors[resource].put(await self.api.merge(resource, obj, {"status": status}, self.name, sub="status"))

    async def _status(self, obj: Object, new: Object, old: list[Object], wanted: int) -> None:
        updated = self.pods(new)
        pods = [*updated, *(p for s in old for p in self.pods(s))]
        up = sum(map(ready, pods))
        done = up >= wanted and len(updated) == len(pods) == wanted
        available = condition(
            "Available",
            "True" if up >= wanted else "False",
            "MinimumReplicasAvailable" if up >= wanted else "MinimumReplicasUnavailable",
            "Deployment has minimum availability."
            if up >= wanted
            else "Deployment does not have minimum availability.",
        )
        progressing = condition(
            "Progressing",
            "True",
            "NewReplicaSetAvailable" if done else "ReplicaSetUpdated",
            f'ReplicaSet "{new["metadata"]["name"]}" {"has successfully progressed" if done else "is progressing"}.',
        )
        now = self.context.clock.now()
        generation = obj["metadata"].get("generation", 1)
        settled = settle((obj.get("status") or {}).get("conditions") or [], [available, progressing], generation, now)
        for each in settled:
            del each["observedGeneration"]
            each["lastUpdateTime"] = each["lastTransitionTime"]
        status = {
            "observedGeneration": generation,
            "replicas": len(pods) or None,
            "updatedReplicas": len(updated) or None,
            "readyReplicas": up or None,
            "availableReplicas": up or None,
            "unavailableReplicas": max(0, wanted - up) or None,
            "conditions": settled,
        }
        await self.write_status(DEPLOYMENTS, obj, status)


class DaemonSets(Workload):
    """A Pod a Node; a changed template replaces them one Node at a time."""

    resource = DAEMON_SETS
    name = "daemonset-controller"

    def extra(self) -> None:
        super().extra()
        self.mirrors[NODES].listen(self._node_changed)

    def _node_changed(self, old: Object | None, new: Object | None) -> None:
        if old is None or new is None:
            self.enqueue_all()

    async def reconcile(self, obj: Object) -> float | None:
        if "deletionTimestamp" in obj["metadata"]:
            return None
        template = obj["spec"]["template"]
        digest = template_hash(template)
        nodes = {n["metadata"]["name"] for n in self.mirrors[NODES] if fits(template["spec"], n)}
        pods = await self.replace_dead(self.pods(obj))
        for pod in [p for p in pods if p["spec"].get("nodeName") not in nodes]:
            await self.stop_pod(pod)
        placed = {p["spec"].get("nodeName"): p for p in pods}
        for node in sorted(nodes - set(placed)):
            await self.start_pod(obj, template, {"controller-revision-hash": digest}, node)
        old = [p for n, p in sorted(placed.items()) if n in nodes and _labelled(p) != digest]
        if old and all(ready(p) for p in placed.values() if p not in old):
            await self.stop_pod(old[0])
        await self._status(obj, nodes, digest)
        return None

    async def _status(self, obj: Object, nodes: set[str], digest: str) -> None:
        pods = [p for p in self.pods(obj) if p["spec"].get("nodeName") in nodes]
        up = sum(map(ready, pods))
        await self.publish(
            obj,
            {
                "observedGeneration": obj["metadata"].get("generation", 1),
                "desiredNumberScheduled": len(nodes),
                "currentNumberScheduled": len(pods),
                "updatedNumberScheduled": sum(_labelled(p) == digest for p in pods) or None,
                "numberReady": up,
                "numberAvailable": up or None,
                "numberUnavailable": max(0, len(nodes) - up) or None,
                "numberMisscheduled": 0,
            },
        )


def settled(obj: Object) -> bool:
    """Whether a Deployment is rolled out: the newest template, all replicas available, no old Pod left."""
    status = obj.get("status") or {}
    wanted = int(obj["spec"].get("replicas", 1))
    counts = [int(status.get(k) or 0) for k in ("replicas", "updatedReplicas", "availableReplicas")]
    return "observedGeneration" in status and current(obj) and counts == [wanted] * 3


def _face(pod: Object) -> tuple[Any, ...]:
    status = pod.get("status") or {}
    return status.get("phase"), ready(pod), pod["metadata"].get("deletionTimestamp"), pod["spec"].get("nodeName")


def _labelled(pod: Object) -> str | None:
    return (pod["metadata"].get("labels") or {}).get("controller-revision-hash")


def _revision(replica_set: Object) -> int:
    marks = replica_set["metadata"].get("annotations") or {}
    return int(marks.get("deployment.kubernetes.io/revision", "0"))
