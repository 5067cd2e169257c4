"""The Job controller: Pods until enough succeeded, too many failed, or the deadline passed."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from sandbox.controllers.api import JOBS, Object
from sandbox.controllers.conditions import condition, stamp
from sandbox.controllers.workloads import Workload, ready


class Jobs(Workload):
    """Runs Pods until enough of them succeeded, too many failed, or the deadline passed."""

    resource = JOBS
    name = "job-controller"

    async def reconcile(self, obj: Object) -> float | None:
        now = self.context.clock.now()
        status = obj.get("status") or {}
        if any(c["type"] in {"Complete", "Failed"} and c["status"] == "True" for c in status.get("conditions") or []):
            return await self._expire(obj, now)
        if "deletionTimestamp" in obj["metadata"] or obj["spec"].get("suspend"):
            return None
        spec, pods = obj["spec"], self.pods(obj)
        phases = Counter((p.get("status") or {}).get("phase", "Pending") for p in pods)
        succeeded, failed = phases["Succeeded"], phases["Failed"]
        active = len(pods) - succeeded - failed
        completions = int(spec.get("completions", 1))
        since = status.get("startTime") or stamp(now)
        left = _left(since, spec.get("activeDeadlineSeconds"), now)
        counts: Object = {
            "startTime": since,
            "active": active or None,
            "succeeded": succeeded or None,
            "failed": failed or None,
            "ready": sum(map(ready, pods)),
        }
        if succeeded >= completions:
            done = {**counts, "completionTime": stamp(now), "active": None}
            await self._end(obj, "Complete", "CompletionsReached", done, now)
            return 0.0
        if failed > int(spec.get("backoffLimit", 6)) or (left is not None and left <= 0):
            for pod in [p for p in pods if (p.get("status") or {}).get("phase") not in {"Succeeded", "Failed"}]:
                await self.stop_pod(pod)
            late = left is not None and left <= 0
            reason = "DeadlineExceeded" if late else "BackoffLimitExceeded"
            await self._end(obj, "Failed", reason, {**counts, "active": None}, now)
            return 0.0
        meta = obj["metadata"]
        labels = {"batch.kubernetes.io/job-name": meta["name"], "job-name": meta["name"]}
        labels |= {"batch.kubernetes.io/controller-uid": meta["uid"]}
        missing = min(int(spec.get("parallelism", 1)), completions - succeeded) - active
        for _ in range(missing):
            await self.start_pod(obj, spec["template"], labels)
        await self.publish(obj, {**counts, "active": (active + max(0, missing)) or None})
        return left

    async def _end(self, obj: Object, kind: str, reason: str, status: Object, now: datetime) -> None:
        told = condition(kind, "True", reason, "")
        told |= {"lastProbeTime": stamp(now), "lastTransitionTime": stamp(now)}
        self.say(f"Job {obj['metadata']['name']}: {kind} ({reason})")
        await self.publish(obj, {**status, "conditions": [told]})

    async def _expire(self, obj: Object, now: datetime) -> float | None:
        ttl = obj["spec"].get("ttlSecondsAfterFinished")
        if ttl is None:
            return None
        ended = max(c["lastTransitionTime"] for c in obj["status"]["conditions"])
        left = _left(ended, ttl, now)
        if left is not None and left > 0:
            return left
        await self.api.delete(JOBS, obj["metadata"]["name"], obj["metadata"]["namespace"])
        return None


def _left(since: str, limit: int | None, now: datetime) -> float | None:
    if limit is None:
        return None
    return float(limit) - (now - datetime.fromisoformat(since)).total_seconds()
