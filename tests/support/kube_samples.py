"""One harmless object of each kind that workers know: nothing runs, is fetched, applied or selected by any of them."""

from __future__ import annotations

import gc
import importlib
import pkgutil
from typing import Any

import workers
from workers.adapters.cluster_kinds import Kind

Object = dict[str, Any]
NOWHERE = {"contract.catalyst-cutover/nowhere": "true"}
LABELS = {"contract": "sample"}
POD = {"nodeSelector": NOWHERE, "containers": [{"name": "c", "image": "registry.invalid/none:1"}]}
TEMPLATE = {"metadata": {"labels": LABELS}, "spec": POD}
WORKLOAD = {"replicas": 0, "selector": {"matchLabels": LABELS}, "template": TEMPLATE}
JOB = {"suspend": True, "template": {"spec": {**POD, "restartPolicy": "Never"}}}
SOURCE = {"interval": "1h", "suspend": True}
DENIED = {"endpointSelector": {"matchLabels": NOWHERE}, "egressDeny": [{"toCIDR": ["192.0.2.1/32"]}]}
PACKAGE = {"package": "registry.invalid/none:v1", "packagePullPolicy": "Never"}

SAMPLES: dict[str, Object] = {
    "namespaces": {},
    "configmaps": {"data": {"k": "v"}},
    "secrets": {"data": {"k": "dg=="}},
    "nodes": {"spec": {"unschedulable": True}},
    "pods": {"spec": POD},
    "serviceaccounts": {},
    "deployments.apps": {"spec": WORKLOAD},
    "statefulsets.apps": {"spec": {**WORKLOAD, "serviceName": "none"}},
    "daemonsets.apps": {"spec": {"selector": {"matchLabels": LABELS}, "template": TEMPLATE}},
    "jobs.batch": {"spec": JOB},
    "cronjobs.batch": {"spec": {"schedule": "0 0 1 1 *", "suspend": True, "jobTemplate": {"spec": JOB}}},
    "networkpolicies.networking.k8s.io": {"spec": {"podSelector": {"matchLabels": NOWHERE}}},
    "gitrepositories.source.toolkit.fluxcd.io": {"spec": {**SOURCE, "url": "https://git.invalid/x"}},
    "helmrepositories.source.toolkit.fluxcd.io": {"spec": {**SOURCE, "url": "https://charts.invalid"}},
    "ocirepositories.source.toolkit.fluxcd.io": {"spec": {**SOURCE, "url": "oci://registry.invalid/x"}},
    "helmcharts.source.toolkit.fluxcd.io": {
        "spec": {**SOURCE, "chart": "x", "sourceRef": {"kind": "HelmRepository", "name": "none"}}
    },
    "kustomizations.kustomize.toolkit.fluxcd.io": {
        "spec": {**SOURCE, "prune": False, "sourceRef": {"kind": "GitRepository", "name": "none"}}
    },
    "helmreleases.helm.toolkit.fluxcd.io": {
        "spec": {**SOURCE, "chart": {"spec": {"chart": "x", "sourceRef": {"kind": "HelmRepository", "name": "none"}}}}
    },
    "providers.pkg.crossplane.io": {"spec": PACKAGE},
    "configurations.pkg.crossplane.io": {"spec": PACKAGE},
    "functions.pkg.crossplane.io": {"spec": PACKAGE},
    "imageconfigs.pkg.crossplane.io": {"spec": {"matchImages": [{"prefix": "registry.invalid/none"}]}},
    "customresourcedefinitions.apiextensions.k8s.io": {},
    "ciliumclusterwidenetworkpolicies.cilium.io": {"spec": DENIED},
    "ciliumnetworkpolicies.cilium.io": {"spec": DENIED},
}

ONLY_LOOKED_FOR = frozenset({
    "buckets.source.toolkit.fluxcd.io", "imagerepositories.image.toolkit.fluxcd.io", "helmcharts.helm.cattle.io",
    "plans.upgrade.cattle.io", "clusternetworkpolicies.policy.networking.k8s.io", "clusters.postgresql.cnpg.io",
})  # fmt: skip
"""Kinds whose definitions are not in the sets that the contract installs: it holds only how their absence is told."""


def kinds() -> dict[str, Kind]:
    """Every kind that any module of the workers makes, by resource. Not a list of ours, so a new kind cannot hide."""
    for module in pkgutil.walk_packages(workers.__path__, "workers."):
        importlib.import_module(module.name)
    found = [obj for obj in gc.get_objects() if isinstance(obj, Kind)]
    return {kind.resource: kind for kind in found if not kind.group.endswith(".example")}


def sample(kind: Kind, namespace: str, name: str) -> Object:
    """An object to create; of a definition, the name is made of its plural and its group."""
    if kind.kind == "CustomResourceDefinition":
        return definition(name)
    metadata = {"name": name, "labels": {"contract": name}} | ({"namespace": namespace} if kind.namespaced else {})
    return {"metadata": metadata, **SAMPLES[kind.resource]}


def definition(name: str) -> Object:
    """A kind of the tests' own."""
    schema = {"type": "object", "properties": {"spec": {"type": "object"}}}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {
        "plural": f"{name}s",
        "singular": name,
        "kind": "Sample" + name.rpartition("-")[2],
        "listKind": f"{name}List",
    }
    return {
        "metadata": {"name": f"{name}s.contract.example", "labels": {"contract": name}},
        "spec": {"group": "contract.example", "names": names, "scope": "Namespaced", "versions": [version]},
    }
