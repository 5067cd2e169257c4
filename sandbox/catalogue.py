"""What the mothership offers and what the Sovereign runs: one list that upstream, Git and cluster are built from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

FQDN = "sovereign.test"
HARBOR_HOST = f"harbor.{FQDN}"
GITEA_HOST = "gitea-http.gitea.svc.cluster.local:3000"
GITHUB = "github.com"
MOTHERSHIP = "harbor.openova.io"
UPSTREAM_REGISTRIES = (
    "ghcr.io",
    "docker.io",
    "quay.io",
    "registry.k8s.io",
    "gcr.io",
    "public.ecr.aws",
    "xpkg.upbound.io",
    MOTHERSHIP,
)


@dataclass(frozen=True)
class Chart:
    """A chart of the mothership: `oci://ghcr.io/openova-io/<name>` at one version, with its default values."""

    name: str
    version: str
    namespace: str
    values: dict[str, Any] = field(default_factory=dict)
    """Default values; `image` (a full reference) is what its Deployment runs."""
    slot: str = ""


def _chart(slot: str, short: str, version: str, image: str, namespace: str | None = None, **values: Any) -> Chart:
    return Chart(f"bp-{short}", version, namespace or short, {"image": image, **values}, slot)


API_IMAGE = "ghcr.io/openova-io/openova/catalyst-api:4f80be2"
CUTOVER_IMAGE = "ghcr.io/openova-io/catalyst-cutover:0.1.0"
GITOPS_UPSTREAM = "https://github.com/openova-io/openova"

CHARTS: tuple[Chart, ...] = (
    _chart("01", "cilium", "1.1.1", "quay.io/cilium/cilium:v1.16.5", "kube-system"),
    _chart("02", "cert-manager", "1.1.1", "quay.io/jetstack/cert-manager-controller:v1.16.2"),
    _chart("03", "flux", "1.1.2", "ghcr.io/fluxcd/source-controller:v1.4.1", "flux-system"),
    _chart("04", "crossplane", "1.1.3", "xpkg.upbound.io/crossplane/crossplane:v1.18.0", "crossplane-system"),
    _chart("05", "sealed-secrets", "1.1.1", "docker.io/bitnami/sealed-secrets-controller:0.27.3"),
    _chart("06", "spire", "1.1.4", "ghcr.io/spiffe/spire-server:1.11.0"),
    _chart("06a", "self-sovereign-cutover", "0.1.0", CUTOVER_IMAGE, "catalyst-cutover"),
    _chart("07", "nats-jetstream", "1.1.1", "docker.io/library/nats:2.10.22-alpine", "nats-system"),
    _chart("08", "openbao", "1.1.1", "quay.io/openbao/openbao:2.1.0"),
    _chart("09", "keycloak", "1.1.2", "quay.io/keycloak/keycloak:26.3.3"),
    _chart("10", "gitea", "1.1.2", "docker.io/gitea/gitea:1.22.3"),
    _chart("11", "powerdns", "1.1.3", "docker.io/powerdns/pdns-auth-49:4.9.2"),
    _chart("12", "external-dns", "1.1.2", "registry.k8s.io/external-dns/external-dns:v0.15.0"),
    _chart(
        "13",
        "catalyst-platform",
        "1.1.8",
        API_IMAGE,
        "catalyst-system",
        catalystApi={"gitopsRepoUrl": GITOPS_UPSTREAM},
    ),
    _chart("14", "crossplane-claims", "1.0.0", "xpkg.upbound.io/crossplane/crossplane:v1.18.0", "crossplane-system"),
    _chart("15", "external-secrets", "1.0.1", "ghcr.io/external-secrets/external-secrets:v0.12.1"),
    _chart("16", "cnpg", "1.0.0", "ghcr.io/cloudnative-pg/cloudnative-pg:1.24.1"),
    _chart("17", "valkey", "1.0.0", "docker.io/valkey/valkey:8.0.1"),
    _chart("18", "seaweedfs", "1.0.1", "docker.io/chrislusf/seaweedfs:3.80"),
    _chart("19", "harbor", "1.0.0", "docker.io/goharbor/harbor-core:v2.14.3"),
    _chart("20", "opentelemetry", "1.0.0", "docker.io/otel/opentelemetry-collector:0.115.0"),
    _chart("21", "alloy", "1.0.0", "docker.io/grafana/alloy:v1.5.1"),
    _chart("22", "loki", "1.0.0", "docker.io/grafana/loki:3.3.1"),
    _chart("23", "mimir", "1.0.0", "docker.io/grafana/mimir:2.14.2"),
    _chart("24", "tempo", "1.0.0", "docker.io/grafana/tempo:2.6.1"),
    _chart("25", "grafana", "1.0.0", "docker.io/grafana/grafana:11.4.0"),
    _chart("26", "langfuse", "1.0.0", "docker.io/langfuse/langfuse:3.1.0"),
    _chart("27", "kyverno", "1.0.0", "ghcr.io/kyverno/kyverno:v1.13.2"),
    _chart("28", "reloader", "1.0.0", "ghcr.io/stakater/reloader:v1.2.0"),
    _chart("29", "vpa", "1.0.0", "registry.k8s.io/autoscaling/vpa-recommender:1.2.1"),
    _chart("30", "trivy", "1.0.0", "public.ecr.aws/aquasecurity/trivy-operator:0.23.0"),
    _chart("31", "falco", "1.0.0", "docker.io/falcosecurity/falco:0.39.2"),
    _chart("32", "sigstore", "1.0.0", "ghcr.io/sigstore/policy-controller:v0.12.0"),
    _chart("33", "syft-grype", "1.0.0", "gcr.io/openova/syft-grype:1.0.0"),
    _chart("34", "velero", "1.0.0", "docker.io/velero/velero:v1.15.0"),
    _chart("35", "coraza", "1.0.0", "ghcr.io/corazawaf/coraza-spoa:0.2.0"),
    _chart("36", "newapi", "1.0.0", "harbor.openova.io/proxy-dockerhub/calciumion/new-api:v0.6.0"),
    _chart("37", "openova-flow-server", "1.0.0", "ghcr.io/openova-io/openova/flow-server:4f80be2", "catalyst-system"),
)
"""38 slots, in the order in which the bootstrap-kit installs them."""

SYSTEM_IMAGES = (
    "docker.io/rancher/mirrored-pause:3.6",
    "docker.io/rancher/mirrored-coredns-coredns:1.12.0",
    "docker.io/rancher/local-path-provisioner:v0.0.30",
    "docker.io/library/postgres:16.6",
    "docker.io/goharbor/registry-photon:v2.14.3",
)
"""Images that run on the cluster without a slot of their own."""

NEGATIVE_IMAGE = "ghcr.io/openova-io/cutover-negative:upstream-only"
"""Exists upstream, is never mirrored: pulling it must fail after the pivot."""

PACKAGES = ("xpkg.upbound.io/crossplane-contrib/provider-hcloud:v0.4.0",)


def images() -> tuple[str, ...]:
    """Every image reference that upstream must be able to serve, once each."""
    runs = [str(c.values["image"]) for c in CHARTS]
    return tuple(dict.fromkeys([*runs, *SYSTEM_IMAGES, NEGATIVE_IMAGE]))
