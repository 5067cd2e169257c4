"""The manifests of the bootstrap-kit, one file a slot, in the shape that OpenOva publishes.

Each file is comments, then a Namespace (unless another slot or the cluster has it), a HelmRepository and a
HelmRelease. All HelmRepositories have the same url, which does not carry the chart's name.
"""

from __future__ import annotations

from sandbox.catalogue import CHARTS, PACKAGES, Chart

TEMPLATE = "clusters/_template"

ABOUT: dict[str, tuple[str, tuple[str, ...]]] = {
    "cilium": ("Pod network. Goes first: nodes start without any other CNI.", ()),
    "cert-manager": ("Certificates for everything that speaks TLS.", ("cilium",)),
    "flux": ("Flux adopts the Flux that cloud-init installed; both must be the same release.", ("cert-manager",)),
    "crossplane": ("Cloud resources after day one.", ("flux",)),
    "sealed-secrets": ("Secrets that may stand in Git.", ("cert-manager",)),
    "spire": ("Identities for workloads, rotated every few minutes.", ("cert-manager",)),
    "self-sovereign-cutover": ("Cuts the strings to the mothership, on request.", ("gitea", "harbor")),
    "nats-jetstream": ("Event log of the control plane.", ("spire",)),
    "openbao": ("Secrets at run time.", ("spire",)),
    "keycloak": ("Sign-in for people.", ("cert-manager",)),
    "gitea": ("Git of this Sovereign.", ("keycloak",)),
    "powerdns": ("Authoritative DNS of the Sovereign's zone.", ("cert-manager",)),
    "external-dns": ("Writes DNS records for what is exposed.", ("cert-manager", "powerdns")),
    "catalyst-platform": ("The control plane: console, catalogue, billing, provisioning.", ("gitea",)),
    "crossplane-claims": ("Definitions and compositions: they need Crossplane's own CRDs first.", ("crossplane",)),
    "external-secrets": ("Copies secrets from OpenBao into the cluster.", ("openbao", "cert-manager")),
    "cnpg": ("PostgreSQL as a resource.", ("flux",)),
    "valkey": ("Cache.", ("flux",)),
    "seaweedfs": ("Object storage, S3 on the outside.", ("flux", "cert-manager")),
    "harbor": ("Registry of this Sovereign.", ("cnpg", "seaweedfs", "cert-manager")),
    "opentelemetry": ("Collects signals.", ("cert-manager",)),
    "alloy": ("Ships node signals to the collector.", ("opentelemetry",)),
    "loki": ("Logs.", ("seaweedfs",)),
    "mimir": ("Metrics.", ("seaweedfs",)),
    "tempo": ("Traces.", ("seaweedfs",)),
    "grafana": ("Pictures of the three above.", ("cnpg", "loki", "mimir", "tempo", "keycloak")),
    "langfuse": ("Traces of language models.", ("cnpg", "keycloak", "cert-manager")),
    "kyverno": ("Admission policies.", ("cilium",)),
    "reloader": ("Restarts what reads a changed ConfigMap or Secret.", ()),
    "vpa": ("Recommends requests.", ()),
    "trivy": ("Looks for known holes in images.", ("cert-manager",)),
    "falco": ("Watches system calls.", ("cilium",)),
    "sigstore": ("Checks signatures at admission.", ("cert-manager",)),
    "syft-grype": ("Bills of material.", ("cert-manager",)),
    "velero": ("Backups.", ("seaweedfs",)),
    "coraza": ("Web application firewall.", ("cilium", "cert-manager")),
    "newapi": ("Gateway to language models.", ("cnpg",)),
    "openova-flow-server": ("Serves flows to the console.", ("catalyst-platform",)),
}
"""Short name -> what it is for, and the slots it waits for."""

_NO_NAMESPACE = frozenset({"kube-system"})
"""Namespaces that every cluster has: declaring one of them would collide."""

_OWN_VALUES: dict[str, str] = {
    "cilium": """\
    cilium:
      # The agent waits for CRDs that only the L7 proxy brings.
      l7Proxy: true
      prometheus:
        enabled: false
      hubble:
        metrics:
          enabled: null
        relay:
          enabled: false
""",
    "gitea": """\
    global:
      sovereignFQDN: ${SOVEREIGN_FQDN}
    # The record for this name was published before the cluster came up.
    ingress:
      hosts:
        - host: gitea.${SOVEREIGN_FQDN}
          paths:
            - path: /
              pathType: Prefix
""",
    "catalyst-platform": """\
    global:
      sovereignFQDN: ${SOVEREIGN_FQDN}
    ingress:
      hosts:
        console:
          host: console.${SOVEREIGN_FQDN}
        admin:
          host: admin.${SOVEREIGN_FQDN}
        marketplace:
          host: ${SOVEREIGN_FQDN}
        api:
          host: api.${SOVEREIGN_FQDN}
""",
}


def file_name(chart: Chart) -> str:
    """Name of a slot's file. Slot 13 alone keeps the prefix of its chart, upstream too."""
    return f"{chart.slot}-{chart.name if chart.slot == '13' else _short(chart)}.yaml"


def manifests() -> dict[str, str]:
    """Path in the repository -> text, for everything below `clusters/_template`."""
    files = {f"{TEMPLATE}/{path}": text for path, text in _FIXED.items()}
    kit = f"{TEMPLATE}/bootstrap-kit"
    declared: set[str] = set(_NO_NAMESPACE)
    for chart in CHARTS:
        own = chart.namespace not in declared
        files[f"{kit}/{file_name(chart)}"] = _slot(chart, namespace=own)
        if own:
            declared.add(chart.namespace)
    names = "".join(f"  - {file_name(chart)}\n" for chart in CHARTS)
    files[f"{kit}/kustomization.yaml"] = (
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n\n"
        "# Read as a list of contents: the order of installation comes from dependsOn.\n"
        f"resources:\n{names}"
    )
    return files


def _short(chart: Chart) -> str:
    return chart.name.removeprefix("bp-")


def _slot(chart: Chart, *, namespace: bool) -> str:
    short = _short(chart)
    about, waits = ABOUT[short]
    head = (
        f"# {chart.name} — slot {chart.slot} of the bootstrap-kit. {about}\n#\n"
        f"# Wrapper chart: platform/{short}/chart/\n"
        "# Reconciled by: Flux on the Sovereign's own control plane.\n"
    )
    documents = [_repository(chart), _release(chart, waits)]
    if namespace:
        documents.insert(0, _namespace(chart))
    return head + "\n---\n" + "---\n".join(documents)


def _namespace(chart: Chart) -> str:
    # Late slots still carry the placeholder of before substitution; harmless, and found upstream too.
    late = chart.slot in ("19", "31", "35")
    sovereign = "SOVEREIGN_FQDN_PLACEHOLDER" if late else "${SOVEREIGN_FQDN}"
    return f"""\
apiVersion: v1
kind: Namespace
metadata:
  name: {chart.namespace}
  labels:
    catalyst.openova.io/sovereign: {sovereign}
"""


def _repository(chart: Chart) -> str:
    why = "# kube-system is there already and is not declared again.\n" if chart.slot == "01" else ""
    return f"""\
{why}apiVersion: source.toolkit.fluxcd.io/v1beta2
kind: HelmRepository
metadata:
  name: {chart.name}
  namespace: flux-system
spec:
  type: oci
  interval: 15m
  url: oci://ghcr.io/openova-io
  secretRef:
    name: ghcr-pull
"""


def _release(chart: Chart, waits: tuple[str, ...]) -> str:
    short = _short(chart)
    text = f"""\
apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata:
  name: {chart.name}
  namespace: flux-system
spec:
  interval: 15m
  releaseName: {short}
  targetNamespace: {chart.namespace}
"""
    if waits:
        text += "  dependsOn:\n" + "".join(f"    - name: bp-{other}\n" for other in waits)
    text += f"""\
  chart:
    spec:
      chart: {chart.name}
      version: {chart.version}
      sourceRef:
        kind: HelmRepository
        name: {chart.name}
        namespace: flux-system
"""
    wait = "" if short in ("crossplane", "crossplane-claims") else "    disableWait: true\n"
    once = f"{wait}    remediation:\n      retries: 3\n"
    text += "  # Done when applied: a slot that needs another one Ready says so by dependsOn.\n"
    text += f"  install:\n{once}  upgrade:\n{once}"
    if own := _OWN_VALUES.get(short):
        text += f"  values:\n{own}"
    return text


_FIXED: dict[str, str] = {
    "kustomization.yaml": """\
# One tree for every Sovereign: its name is substituted when Flux applies this.
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization

resources:
  - flux-system
  - infrastructure
  - bootstrap-kit
""",
    "flux-system/kustomization.yaml": """\
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization

# Flux itself and its GitRepository come from cloud-init, not from here.
resources: []
""",
    "infrastructure/kustomization.yaml": """\
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization

resources:
  - provider-hcloud.yaml
  - provider-config-hcloud.yaml
""",
    "infrastructure/provider-hcloud.yaml": f"""\
# Takes over the servers that were there before the cluster was.
apiVersion: pkg.crossplane.io/v1
kind: Provider
metadata:
  name: provider-hcloud
spec:
  package: {PACKAGES[0]}
""",
    "infrastructure/provider-config-hcloud.yaml": """\
# The token is in a Secret that cloud-init wrote.
apiVersion: hcloud.crossplane.io/v1beta1
kind: ProviderConfig
metadata:
  name: default
spec:
  credentials:
    source: Secret
    secretRef:
      namespace: crossplane-system
      name: hcloud-credentials
      key: token
""",
}
