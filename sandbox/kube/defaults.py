"""What the API server fills in for builtin kinds (pkg/apis/*/v1/defaults.go of Kubernetes), as far as we run them."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

Object = dict[str, Any]


def _set(obj: Object, **values: Any) -> None:
    for key, value in values.items():
        if obj.get(key) is None:
            obj[key] = value


def _section(obj: Object, name: str) -> Object:
    """A copy of a section, put in place of what was there, so that it may be filled in."""
    made = dict(obj.get(name) or {})
    obj[name] = made
    return made


def pull_policy(image: str) -> str:
    """`Always` for `:latest` or no tag, else `IfNotPresent`."""
    if "@" in image:
        return "IfNotPresent"
    tag = image.rpartition("/")[2].partition(":")[2]
    return "Always" if tag in ("", "latest") else "IfNotPresent"


def _probe(probe: Object) -> Object:
    out = dict(probe)
    _set(out, timeoutSeconds=1, periodSeconds=10, successThreshold=1, failureThreshold=3)
    if isinstance(out.get("httpGet"), dict):
        out["httpGet"] = dict(out["httpGet"])
        _set(out["httpGet"], scheme="HTTP", path="/")
    return out


def _container(container: Object) -> Object:
    out = dict(container)
    if out.get("image"):
        _set(out, imagePullPolicy=pull_policy(out["image"]))
    _set(out, resources={}, terminationMessagePath="/dev/termination-log", terminationMessagePolicy="File")
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        if isinstance(out.get(name), dict):
            out[name] = _probe(out[name])
    if isinstance(out.get("ports"), list):
        out["ports"] = [{"protocol": "TCP", **port} for port in out["ports"]]
    if isinstance(out.get("env"), list):
        out["env"] = [_env(item) for item in out["env"]]
    return out


def _env(item: Object) -> Object:
    field = (item.get("valueFrom") or {}).get("fieldRef")
    if not field or "apiVersion" in field:
        return item
    return {**item, "valueFrom": {**item["valueFrom"], "fieldRef": {"apiVersion": "v1", **field}}}


def _volume(volume: Object) -> Object:
    out = dict(volume)
    for name in ("secret", "configMap", "downwardAPI", "projected"):
        if isinstance(out.get(name), dict):
            out[name] = {"defaultMode": 420, **out[name]}
    if isinstance(out.get("hostPath"), dict):
        out["hostPath"] = {"type": "", **out["hostPath"]}
    if len(out) == 1:
        out["emptyDir"] = {}
    return out


def _pod_spec(spec: Object, restart: str = "Always") -> None:
    for name in ("containers", "initContainers"):
        if isinstance(spec.get(name), list):
            spec[name] = [_container(item) if isinstance(item, dict) else item for item in spec[name]]
    if isinstance(spec.get("volumes"), list):
        spec["volumes"] = [_volume(item) for item in spec["volumes"]]
    _set(spec, dnsPolicy="ClusterFirst", schedulerName="default-scheduler", securityContext={})
    _set(spec, restartPolicy=restart, terminationGracePeriodSeconds=30)
    if spec.get("serviceAccountName"):
        _set(spec, serviceAccount=spec["serviceAccountName"])
    if spec.get("hostNetwork"):
        for container in spec.get("containers") or ():
            if isinstance(container.get("ports"), list):
                container["ports"] = [{"hostPort": p["containerPort"], **p} for p in container["ports"]]


def _template(spec: Object, restart: str = "Always") -> None:
    template = _section(spec, "template")
    _pod_spec(_section(template, "spec"), restart)


def _rolling(strategy: Object, **values: Any) -> None:
    _set(strategy, type="RollingUpdate")
    if strategy["type"] == "RollingUpdate" and values:
        _set(_section(strategy, "rollingUpdate"), **values)


def _deployment(obj: Object) -> None:
    spec = _section(obj, "spec")
    _set(spec, replicas=1, revisionHistoryLimit=10, progressDeadlineSeconds=600)
    _rolling(_section(spec, "strategy"), maxSurge="25%", maxUnavailable="25%")
    _template(spec)
    _set(obj, status={})


def _daemon_set(obj: Object) -> None:
    spec = _section(obj, "spec")
    _set(spec, revisionHistoryLimit=10)
    _rolling(_section(spec, "updateStrategy"), maxSurge=0, maxUnavailable=1)
    _template(spec)
    counts = ("currentNumberScheduled", "desiredNumberScheduled", "numberMisscheduled", "numberReady")
    _set(obj, status=dict.fromkeys(counts, 0))


def _stateful_set(obj: Object) -> None:
    spec = _section(obj, "spec")
    _set(spec, replicas=1, revisionHistoryLimit=10, podManagementPolicy="OrderedReady")
    _set(spec, persistentVolumeClaimRetentionPolicy={"whenDeleted": "Retain", "whenScaled": "Retain"})
    _rolling(_section(spec, "updateStrategy"), partition=0)
    _template(spec)
    _set(obj, status={"replicas": 0, "availableReplicas": 0})


def _replica_set(obj: Object) -> None:
    spec = _section(obj, "spec")
    _set(spec, replicas=1)
    _template(spec)
    _set(obj, status={"replicas": 0})


def _job_spec(spec: Object) -> None:
    _set(spec, backoffLimit=6, completionMode="NonIndexed", suspend=False, podReplacementPolicy="TerminatingOrFailed")
    if spec.get("completions") is None and spec.get("parallelism") is None:
        _set(spec, completions=1)
    _set(spec, parallelism=1)
    # A Job's Pods must say Never or OnFailure; the default of the template is refused by validation.
    _template(spec)


def _job(obj: Object) -> None:
    spec = _section(obj, "spec")
    _job_spec(spec)
    if not spec.get("manualSelector") and obj.get("metadata", {}).get("uid"):
        labels = {
            "batch.kubernetes.io/controller-uid": obj["metadata"]["uid"],
            "batch.kubernetes.io/job-name": obj["metadata"].get("name", ""),
            "controller-uid": obj["metadata"]["uid"],
            "job-name": obj["metadata"].get("name", ""),
        }
        metadata = _section(_section(spec, "template"), "metadata")
        metadata["labels"] = {**(metadata.get("labels") or {}), **labels}
        _set(spec, selector={"matchLabels": {"batch.kubernetes.io/controller-uid": obj["metadata"]["uid"]}})
    _set(obj, status={})


def _cron_job(obj: Object) -> None:
    spec = _section(obj, "spec")
    _set(spec, concurrencyPolicy="Allow", suspend=False, successfulJobsHistoryLimit=3, failedJobsHistoryLimit=1)
    job = _section(_section(spec, "jobTemplate"), "spec")
    _template(job)
    _set(obj, status={})


def _pod(obj: Object) -> None:
    spec = _section(obj, "spec")
    _pod_spec(spec)
    _set(spec, enableServiceLinks=True, serviceAccountName="default")
    _set(spec, serviceAccount=spec["serviceAccountName"], preemptionPolicy="PreemptLowerPriority", priority=0)
    _set(obj, status={"phase": "Pending", "qosClass": "BestEffort"})


def _service(obj: Object) -> None:
    spec = _section(obj, "spec")
    _set(spec, type="ClusterIP", sessionAffinity="None", internalTrafficPolicy="Cluster")
    _set(spec, ipFamilyPolicy="SingleStack", ipFamilies=["IPv4"])
    if isinstance(spec.get("ports"), list):
        spec["ports"] = [{"protocol": "TCP", "targetPort": p.get("port"), **p} for p in spec["ports"]]
    _set(obj, status={"loadBalancer": {}})


def _secret(obj: Object) -> None:
    if plain := obj.pop("stringData", None):
        coded = {key: base64.b64encode(str(value).encode()).decode() for key, value in plain.items()}
        obj["data"] = {**(obj.get("data") or {}), **coded}
    _set(obj, type="Opaque")


def _namespace(obj: Object) -> None:
    metadata = _section(obj, "metadata")
    if metadata.get("name"):
        named = {"kubernetes.io/metadata.name": metadata["name"]}
        metadata["labels"] = {**(metadata.get("labels") or {}), **named}


def _network_policy(obj: Object) -> None:
    spec = _section(obj, "spec")
    _set(spec, podSelector={})
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") is not None else ["Ingress"]


def _role_binding(obj: Object) -> None:
    group = "rbac.authorization.k8s.io"
    obj["roleRef"] = {"apiGroup": group, **(obj.get("roleRef") or {})}
    if isinstance(obj.get("subjects"), list):
        obj["subjects"] = [
            s if s.get("kind") == "ServiceAccount" else {"apiGroup": group, **s} for s in obj["subjects"]
        ]


def _volume_claim(obj: Object) -> None:
    _set(_section(obj, "spec"), volumeMode="Filesystem")
    _set(obj, status={"phase": "Pending"})


_DEFAULTS: dict[tuple[str, str], Callable[[Object], None]] = {
    ("", "Namespace"): _namespace,
    ("", "Pod"): _pod,
    ("", "Secret"): _secret,
    ("", "Service"): _service,
    ("", "PersistentVolumeClaim"): _volume_claim,
    ("apps", "Deployment"): _deployment,
    ("apps", "DaemonSet"): _daemon_set,
    ("apps", "StatefulSet"): _stateful_set,
    ("apps", "ReplicaSet"): _replica_set,
    ("batch", "Job"): _job,
    ("batch", "CronJob"): _cron_job,
    ("networking.k8s.io", "NetworkPolicy"): _network_policy,
    ("rbac.authorization.k8s.io", "RoleBinding"): _role_binding,
    ("rbac.authorization.k8s.io", "ClusterRoleBinding"): _role_binding,
}


def filled(group: str, kind: str, obj: Object) -> Object:
    """The object with its defaults; sections that change are copies."""
    out = dict(obj)
    if default := _DEFAULTS.get((group, kind)):
        default(out)
    return out
