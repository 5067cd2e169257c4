"""The kinds that the cutover reads or writes, each with the API versions it may be served in."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]
"""A Kubernetes object as the API gives it."""
Objects = list[Object]
Seen = Mapping[tuple[str, str], Object]
"""(namespace, name) -> object."""
Changes = AsyncGenerator[tuple[str, Object], None]
"""What happened (ADDED, MODIFIED, DELETED) and to which object."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object and where it lives in the API."""

    group: str
    kind: str
    plural: str
    namespaced: bool = True
    versions: tuple[str, ...] = ("v1",)
    """By preference. A Sovereign of 2026-04 serves OCIRepository only as v1beta2; Flux 2.8 dropped that."""

    @property
    def resource(self) -> str:
        """As RBAC and kubectl name it: `gitrepositories.source.toolkit.fluxcd.io`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


SOURCE = "source.toolkit.fluxcd.io"
PACKAGES = "pkg.crossplane.io"

NAMESPACE = Kind("", "Namespace", "namespaces", namespaced=False)
CONFIG_MAP = Kind("", "ConfigMap", "configmaps")
SECRET = Kind("", "Secret", "secrets")
NODE = Kind("", "Node", "nodes", namespaced=False)
POD = Kind("", "Pod", "pods")
SERVICE_ACCOUNT = Kind("", "ServiceAccount", "serviceaccounts")
DEPLOYMENT = Kind("apps", "Deployment", "deployments")
STATEFUL_SET = Kind("apps", "StatefulSet", "statefulsets")
DAEMON_SET = Kind("apps", "DaemonSet", "daemonsets")
JOB = Kind("batch", "Job", "jobs")
CRON_JOB = Kind("batch", "CronJob", "cronjobs")
GIT_REPOSITORY = Kind(SOURCE, "GitRepository", "gitrepositories", versions=("v1", "v1beta2"))
HELM_REPOSITORY = Kind(SOURCE, "HelmRepository", "helmrepositories", versions=("v1", "v1beta2"))
OCI_REPOSITORY = Kind(SOURCE, "OCIRepository", "ocirepositories", versions=("v1", "v1beta2"))
HELM_CHART = Kind(SOURCE, "HelmChart", "helmcharts", versions=("v1", "v1beta2"))
IMAGE_REPOSITORY = Kind("image.toolkit.fluxcd.io", "ImageRepository", "imagerepositories", versions=("v1", "v1beta2"))
KUSTOMIZATION = Kind("kustomize.toolkit.fluxcd.io", "Kustomization", "kustomizations")
HELM_RELEASE = Kind("helm.toolkit.fluxcd.io", "HelmRelease", "helmreleases", versions=("v2", "v2beta2", "v2beta1"))
PROVIDER = Kind(PACKAGES, "Provider", "providers", namespaced=False)
CONFIGURATION = Kind(PACKAGES, "Configuration", "configurations", namespaced=False)
FUNCTION = Kind(PACKAGES, "Function", "functions", namespaced=False, versions=("v1", "v1beta1"))
IMAGE_CONFIG = Kind(PACKAGES, "ImageConfig", "imageconfigs", namespaced=False, versions=("v1", "v1beta1"))
CUSTOM_RESOURCE_DEFINITION = Kind(
    "apiextensions.k8s.io", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False
)
CILIUM_CLUSTERWIDE_POLICY = Kind(
    "cilium.io",
    "CiliumClusterwideNetworkPolicy",
    "ciliumclusterwidenetworkpolicies",
    namespaced=False,
    versions=("v2",),
)
NETWORK_POLICY = Kind("networking.k8s.io", "NetworkPolicy", "networkpolicies")


def name_of(obj: Object) -> str:
    """`metadata.name`."""
    return str(obj["metadata"]["name"])


def namespace_of(obj: Object) -> str:
    """`metadata.namespace`; empty for what is cluster-wide."""
    return str(obj["metadata"].get("namespace") or "")


def key_of(obj: Object) -> tuple[str, str]:
    """(namespace, name)."""
    return namespace_of(obj), name_of(obj)
