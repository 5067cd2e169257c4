"""Where Pods go: the scheduler's choice, and what fits on a Node."""

from __future__ import annotations

from collections import Counter

from sandbox.controllers.api import NODES, PODS, ApiError, Object
from sandbox.controllers.loop import Controller
from sandbox.controllers.mirror import key_of


class Scheduler(Controller):
    """Gives every Pod without a Node the one that fits and has the fewest."""

    resource = PODS
    name = "default-scheduler"
    workers = 1

    def wants(self, old: Object | None, new: Object) -> bool:
        return not new["spec"].get("nodeName")

    def extra(self) -> None:
        self.mirrors[NODES].listen(lambda _old, _new: self.enqueue_waiting())

    def enqueue_waiting(self) -> None:
        for pod in self.mirrors[PODS]:
            if not pod["spec"].get("nodeName"):
                self.enqueue(key_of(pod))

    async def reconcile(self, obj: Object) -> float | None:
        if obj["spec"].get("nodeName") or "deletionTimestamp" in obj["metadata"]:
            return None
        nodes = [n["metadata"]["name"] for n in self.mirrors[NODES] if fits(obj["spec"], n) and schedulable(n)]
        if not nodes:
            return 1.0
        load = Counter(p["spec"].get("nodeName") for p in self.mirrors[PODS])
        node = min(nodes, key=lambda n: (load[n], n))
        meta = obj["metadata"]
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": meta["name"], "namespace": meta["namespace"]},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        path = PODS.path(meta["namespace"], meta["name"], "binding")
        status, answer = await self.api.local.request("POST", path, binding)
        if status >= 400 and status not in {404, 409}:
            raise ApiError(status, answer)
        self.mirrors[PODS].put(await self.api.get(PODS, meta["name"], meta["namespace"]))
        return None


def fits(spec: Object, node: Object) -> bool:
    """Whether a Pod's nodeSelector matches a Node's labels."""
    labels = node["metadata"].get("labels") or {}
    return all(labels.get(k) == v for k, v in (spec.get("nodeSelector") or {}).items())


def schedulable(node: Object) -> bool:
    return not node["spec"].get("unschedulable") if node.get("spec") else True
