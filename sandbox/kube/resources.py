"""The kinds that are served: the builtin ones, and those that CustomResourceDefinitions add."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sandbox.kube.schema import Schema
from sandbox.kube.typed import ANY, Type, builtin

Object = dict[str, Any]
ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
CUSTOM_VERBS = ("delete", "deletecollection", "get", "list", "patch", "create", "update", "watch")


@dataclass(frozen=True, eq=False)
class Resource:
    """One kind in one version."""

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool = True
    short: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ALL_VERBS
    singular: str = ""
    list_kind: str = ""
    type: Type = ANY
    schema: Schema | None = None
    storage_version: str = ""
    deprecation: str = ""
    selectable: tuple[str, ...] = ()
    columns: tuple[Object, ...] = field(default=())

    @property
    def key(self) -> tuple[str, str]:
        """What its objects are stored under, whatever the version."""
        return (self.group, self.plural)

    @property
    def api_version(self) -> str:
        """`v1` or `apps/v1`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def stored_as(self) -> str:
        """The apiVersion that objects are stored in."""
        version = self.storage_version or self.version
        return f"{self.group}/{version}" if self.group else version

    @property
    def custom(self) -> bool:
        """Whether a CustomResourceDefinition serves it."""
        return self.schema is not None

    @property
    def has_status(self) -> bool:
        """Whether status is written by a subresource of its own."""
        return "status" in self.subresources


def _kind(group: str, version: str, kind: str, plural: str, *words: str, type_name: str = "") -> Resource:
    """`words`: `cluster` for a kind without namespaces, `status`, `scale`; `~x` a short name, `+x` a category."""
    return Resource(
        group,
        version,
        kind,
        plural,
        namespaced="cluster" not in words,
        short=tuple(word[1:] for word in words if word.startswith("~")),
        categories=tuple(word[1:] for word in words if word.startswith("+")),
        subresources=tuple(word for word in words if word[0] not in "~+" and word != "cluster"),
        singular=kind.lower(),
        list_kind=f"{kind}List",
        type=builtin(type_name or f"V1{kind}"),
    )


RBAC = "rbac.authorization.k8s.io"


def builtins() -> list[Resource]:
    """The kinds that need no definition."""
    network, admission = "networking.k8s.io", "admissionregistration.k8s.io"
    return [
        _kind("", "v1", "ConfigMap", "configmaps", "~cm"),
        _kind("", "v1", "Endpoints", "endpoints", "~ep"),
        _kind("", "v1", "Event", "events", "~ev", type_name="CoreV1Event"),
        _kind("", "v1", "LimitRange", "limitranges", "~limits"),
        _namespace(),
        _kind("", "v1", "Node", "nodes", "~no", "cluster", "status"),
        _kind("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", "~pvc", "status"),
        _kind("", "v1", "PersistentVolume", "persistentvolumes", "~pv", "cluster", "status"),
        _kind("", "v1", "Pod", "pods", "~po", "+all", "status", "binding", "eviction", "log"),
        _kind("", "v1", "PodTemplate", "podtemplates"),
        _kind("", "v1", "ReplicationController", "replicationcontrollers", "~rc", "+all", "status", "scale"),
        _kind("", "v1", "ResourceQuota", "resourcequotas", "~quota", "status"),
        _kind("", "v1", "Secret", "secrets"),
        _kind("", "v1", "ServiceAccount", "serviceaccounts", "~sa", "token"),
        _kind("", "v1", "Service", "services", "~svc", "+all", "status"),
        _kind("apps", "v1", "ControllerRevision", "controllerrevisions"),
        _kind("apps", "v1", "DaemonSet", "daemonsets", "~ds", "+all", "status"),
        _kind("apps", "v1", "Deployment", "deployments", "~deploy", "+all", "scale", "status"),
        _kind("apps", "v1", "ReplicaSet", "replicasets", "~rs", "+all", "scale", "status"),
        _kind("apps", "v1", "StatefulSet", "statefulsets", "~sts", "+all", "scale", "status"),
        _kind("events.k8s.io", "v1", "Event", "events", "~ev", type_name="EventsV1Event"),
        _kind(
            "autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", "~hpa", "+all", "status",
            type_name="V2HorizontalPodAutoscaler",
        ),
        _kind("batch", "v1", "CronJob", "cronjobs", "~cj", "+all", "status"),
        _kind("batch", "v1", "Job", "jobs", "+all", "status"),
        _kind(network, "v1", "IngressClass", "ingressclasses", "cluster"),
        _kind(network, "v1", "Ingress", "ingresses", "~ing", "status"),
        _kind(network, "v1", "NetworkPolicy", "networkpolicies", "~netpol"),
        _kind("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", "~pdb", "status"),
        _kind(RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings", "cluster"),
        _kind(RBAC, "v1", "ClusterRole", "clusterroles", "cluster"),
        _kind(RBAC, "v1", "RoleBinding", "rolebindings"),
        _kind(RBAC, "v1", "Role", "roles"),
        _kind("storage.k8s.io", "v1", "StorageClass", "storageclasses", "~sc", "cluster"),
        _kind(admission, "v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations", "cluster"),
        _kind(admission, "v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", "cluster"),
        _kind("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", "~pc", "cluster"),
        _kind("coordination.k8s.io", "v1", "Lease", "leases"),
        _kind("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices"),
        _kind("apiregistration.k8s.io", "v1", "APIService", "apiservices", "cluster", "status"),
        _definition(),
        _review("authentication.k8s.io", "TokenReview"),
        _review("authorization.k8s.io", "SelfSubjectAccessReview"),
        _review("authorization.k8s.io", "SubjectAccessReview"),
    ]  # fmt: skip


def _namespace() -> Resource:
    made = _kind("", "v1", "Namespace", "namespaces", "~ns", "cluster", "finalize", "status")
    verbs = tuple(verb for verb in ALL_VERBS if verb != "deletecollection")
    return Resource(**{**made.__dict__, "verbs": verbs})


def _review(group: str, kind: str) -> Resource:
    made = _kind(group, "v1", kind, f"{kind.lower()}s", "cluster")
    return Resource(**{**made.__dict__, "verbs": ("create",)})


def _definition() -> Resource:
    shape = Type("struct")
    shape.open = True
    shape.fields = {"metadata": builtin("V1ObjectMeta")}
    shape.always = {"metadata": {}, "spec": {}, "status": {}}
    return Resource(
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        namespaced=False,
        short=("crd", "crds"),
        categories=("api-extensions",),
        subresources=("status",),
        singular="customresourcedefinition",
        list_kind="CustomResourceDefinitionList",
        type=shape,
    )


def defined(definition: Object) -> list[Resource]:
    """What a CustomResourceDefinition serves: one resource a served version."""
    spec = definition["spec"]
    names = spec["names"]
    storage = next((v["name"] for v in spec["versions"] if v.get("storage")), spec["versions"][0]["name"])
    made = []
    for version in spec["versions"]:
        if not version.get("served", True):
            continue
        schema = Schema((version.get("schema") or {}).get("openAPIV3Schema") or {})
        said = f"{version['name']} {names['kind']} is deprecated"
        made.append(
            Resource(
                spec["group"],
                version["name"],
                names["kind"],
                names["plural"],
                namespaced=spec.get("scope", "Namespaced") == "Namespaced",
                short=tuple(names.get("shortNames") or ()),
                categories=tuple(names.get("categories") or ()),
                subresources=("status",) if "status" in (version.get("subresources") or {}) else (),
                verbs=CUSTOM_VERBS,
                singular=names.get("singular") or names["kind"].lower(),
                list_kind=names.get("listKind") or f"{names['kind']}List",
                type=schema.type,
                schema=schema,
                storage_version=storage,
                deprecation=(version.get("deprecationWarning") or said) if version.get("deprecated") else "",
                selectable=tuple(f["jsonPath"].removeprefix(".") for f in version.get("selectableFields") or ()),
                columns=tuple(version.get("additionalPrinterColumns") or ()),
            )
        )
    return made


def priority(version: str) -> tuple[int, int, int]:
    """Order of versions: stable before beta before alpha, newer first (apimachinery version.CompareKubeAware)."""
    digits, rank, minor = version.removeprefix("v"), 0, 0
    for rank, word in ((1, "beta"), (2, "alpha")):
        if word in digits:
            digits, _, rest = digits.partition(word)
            minor = int(rest or 0)
            return (rank, -int(digits), -minor) if digits.isdigit() else (3, 0, 0)
    return (0, -int(digits), 0) if digits.isdigit() else (3, 0, 0)


class Catalogue:
    """All that is served, by group, version and plural."""

    def __init__(self) -> None:
        self._served: dict[tuple[str, str, str], Resource] = {}
        self._custom: dict[tuple[str, str], tuple[int, list[Resource]]] = {}
        for resource in builtins():
            self._served[resource.group, resource.version, resource.plural] = resource

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        """The kind that this path names."""
        return self._served.get((group, version, plural))

    def storage(self, group: str, plural: str) -> Resource | None:
        """The kind in the version that is stored."""
        served = [r for (g, _, p), r in self._served.items() if (g, p) == (group, plural)]
        return next((r for r in served if r.version == r.storage_version), served[0] if served else None)

    def all(self) -> list[Resource]:
        """Every kind in every version."""
        return list(self._served.values())

    def define(self, definition: Object) -> None:
        """Serve what this definition says, no longer what its last form said."""
        spec = definition["spec"]
        self.undefine(spec["group"], spec["names"]["plural"])
        for resource in defined(definition):
            self._served[resource.group, resource.version, resource.plural] = resource

    def undefine(self, group: str, plural: str) -> None:
        """Serve it no more."""
        self._served = {key: r for key, r in self._served.items() if (key[0], key[2]) != (group, plural)}
