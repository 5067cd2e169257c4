"""The customer's cluster, described: every name, host, namespace and map that a step uses.

Nothing of this is hardcoded elsewhere. Secrets are paths to files, read when they are needed.
"""

from __future__ import annotations

import ipaddress
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator


class Described(BaseModel):
    """A part of the description: frozen, and a typo in it is an error that names the setting."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Login(Described):
    """A user and the file that holds the password or token."""

    username: str
    password_file: Path

    def password(self) -> SecretStr:
        """The secret as it is in the file now, without the line end."""
        return SecretStr(self.password_file.read_text(encoding="utf-8").strip())


class UpstreamGit(Described):
    """Where the mothership keeps the repository."""

    url: str = "https://github.com/openova-io/openova"
    branch: str = "main"
    login: Login | None = None
    connect: str | None = None
    """URL to use on the wire instead of `url`: a proxy, or the sandbox. Never written into the cluster."""


class Gitea(Described):
    """The cluster's own Git."""

    url: str
    """Base URL as workers reach it: `http://gitea-http.gitea.svc.cluster.local:3000`."""
    cluster_url: str = "http://gitea-http.gitea.svc.cluster.local:3000"
    """Base URL as Flux and catalyst-api shall name it."""
    organisation: str = "openova"
    repository: str = "openova"
    login: Login
    """A token, as password: the account password is refused while an external login source converges."""


class Harbor(Described):
    """The cluster's own registry."""

    url: str
    """Base URL as workers reach it, without `/api/v2.0` or `/v2`."""
    host: str
    """Host (and port) as nodes, Flux and Crossplane shall name it: `harbor.<fqdn>`."""
    scheme: str = "https"
    """Scheme of `host` for nodes."""
    login: Login
    ca_file: str | None = None
    """CA of `host` on the nodes, when it is not a public one."""
    connect: str | None = None
    """Base URL to use instead of `<scheme>://<host>` for asking what Flux would be told there: the sandbox."""
    robot: str = "cutover-pull"
    """Short name of the robot account that may pull from every project; step 2 makes it."""
    robot_secret: str = "cutover-harbor-robot"  # noqa: S105  a Secret's name, in Flux's namespace


class Mode(StrEnum):
    """How a project holds what came from upstream."""

    HOSTED = "hosted"
    PROXY = "proxy"


class Upstream(Described):
    """One upstream registry host and the local project that stands in for it."""

    host: str
    project: str
    endpoint: str | None = None
    """URL to use on the wire, when it is not `https://<host>`."""
    mode: Mode = Mode.HOSTED
    adapter: str = "docker-registry"
    """Harbor's registry type for proxy mode; `quay` is not permitted there since 2.14."""
    login: Login | None = None


class Mothership(Described):
    """The vendor's own names: what must not stand anywhere after the cutover."""

    registry: str = "harbor.openova.io"
    chart_prefix: str = "ghcr.io/openova-io"
    chart_project: str = "openova-io"
    domains: tuple[str, ...] = ("openova.io",)


class Configured(Described):
    """One more variable of catalyst-api that names the mothership, and what it shall say instead."""

    variable: str
    value: str
    """What the variable shall be; `{fqdn}` stands for the Sovereign's name."""
    value_path: tuple[str, ...]
    """Path in the HelmRelease's values that renders the variable."""
    release_value: str | None = None
    """What the values shall say there, when the chart makes the variable out of it: a bare host, say."""


class CatalystApi(Described):
    """Where catalyst-api runs and what names the mothership in it."""

    namespace: str = "catalyst-system"
    deployment: str = "catalyst-api"
    container: str = "catalyst-api"
    variable: str = "CATALYST_GITOPS_REPO_URL"
    release: str = "bp-catalyst-platform"
    release_namespace: str = "flux-system"
    value_path: tuple[str, ...] = ("catalystApi", "gitopsRepoUrl")
    """Path in the HelmRelease's values that renders the variable."""
    further: tuple[Configured, ...] = ()
    """Issuers, public URLs: whatever else the operator's copy of the chart has (field lessons B7.1)."""


class Flux(Described):
    """Flux's objects that the cutover touches by name."""

    namespace: str = "flux-system"
    git_repository: str = "openova"
    kustomization: str = "bootstrap-kit"
    pull_secret: str = "ghcr-pull"  # noqa: S105  a Secret's name
    git_secret: str = "cutover-gitea-auth"  # noqa: S105
    registry_secret: str = "cutover-harbor-pull"  # noqa: S105
    own_paths: tuple[str, ...] = ("clusters/{fqdn}",)
    """Directories of the Sovereign's own in the repository: `spec.ignore` is widened where it would hide one."""
    timeout: Annotated[float, Field(gt=0)] = 300.0
    """Seconds to wait for one reconcile."""


class Nodes(Described):
    """The node agents and the pulls that prove their work."""

    namespace: str = "catalyst-cutover-nodes"
    plan_config_map: str = "cutover-node-plan"
    timeout: Annotated[float, Field(gt=0)] = 300.0
    """Seconds in which the nodes of one wave must have answered."""
    canary: str | None = None
    """The node that is pivoted and proven before all others; one is chosen when this is not set."""
    wave: Annotated[int, Field(ge=1)] = 10
    """How many nodes are told together, once those before have answered."""
    probe_repository: str = "openova-io/cutover-probe"
    """Repository (project first) of the artifact that exists only in local Harbor."""
    upstream_only: str = "ghcr.io/openova-io/cutover-negative:upstream-only"
    """An image that exists upstream and is never mirrored: pulling it must fail after the pivot."""
    image: str = "ghcr.io/openova-io/catalyst-cutover:0.1.0"
    """Our own image: canaries and probes run it."""


_WIDEST = {4: 12, 6: 20}
"""Shortest prefix of a public network that may be an exception: a provider's own networks are smaller."""


_PLACE = re.compile(r"(\[[\da-f:.]+\]|[a-z\d]([\w.-]*[a-z\d])?):\d{1,5}", re.IGNORECASE | re.ASCII)


class Proof(Described):
    """Step 8's measure."""

    hold: Annotated[float, Field(gt=0)] = 600.0
    """Seconds the block is held."""
    required: Annotated[float, Field(ge=600)] = 600.0
    """A hold shorter than this is never the proof."""
    rehearsal: bool = False
    """Said aloud: this is not the proof, so the hold may be shorter. The sandbox says it."""
    sample: Annotated[float, Field(gt=0)] = 15.0
    """Seconds between two canary samples."""
    connect_timeout: Annotated[float, Field(gt=0)] = 3.0
    policy: str = "cutover-egress-block"
    means: tuple[Literal["cilium", "cilium-deny", "cluster-network-policy", "network-policy"], ...] = ()
    """Means that may close the Pods' way out; empty: all. Of these the strongest that would hold here is taken."""
    lease: Annotated[float, Field(ge=1)] = 60.0
    """Seconds that the block outlives its last renewal, whoever is dead."""
    lifter_account: str = "cutover-lifter"
    """Service account of the lifter Job, in the nodes' namespace: may list and delete policies, patch the plan."""
    crossplane: tuple[str, str] = ("crossplane-system", "app=crossplane")
    """Namespace and labels of Crossplane's core Pod: restarted under the block, for its package cache is there."""
    dns: str = "kube-dns.kube-system.svc:53"
    """How the evidence names the cluster's resolver."""
    allow_cidrs: tuple[str, ...] = ()
    """Further addresses that stay open: resolvers, the provider's API, load balancers."""
    proxies: tuple[str, ...] = ()
    """HOST:PORT of the proxies that workloads or sources are told of by a Secret, which nobody here reads: named here,
    they are tried under the block like those that stand in the open. All of them: nobody can check it."""

    @field_validator("allow_cidrs")
    @classmethod
    def _narrow(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        """Networks, in their one spelling. A name or a large part of the world is no exception but a hole."""
        found = []
        for text in given:
            try:
                network = ipaddress.ip_network(text, strict=False)
            except ValueError:
                raise ValueError(f"{text!r} is no network: addresses stay open, names cannot") from None
            if not network.is_private and network.prefixlen < _WIDEST[network.version]:
                raise ValueError(
                    f"{text} would leave open what upstreams live in; name networks of the Sovereign's own"
                )
            found.append(str(network))
        return tuple(dict.fromkeys(found))

    @field_validator("proxies")
    @classmethod
    def _places(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        """Bare places. A scheme or a login is no part of one, and a login would travel with the canaries."""
        if not all(_PLACE.fullmatch(each) for each in given):
            raise ValueError("each is HOST:PORT, without scheme, login or path")
        return tuple(dict.fromkeys(each.lower() for each in given))

    @model_validator(mode="after")
    def _long_enough(self) -> Self:
        if self.hold < self.required and not self.rehearsal:
            raise ValueError(
                f"a hold of {self.hold:g} s is shorter than the {self.required:g} s that a proof takes; "
                "only a rehearsal (proof.rehearsal) may shorten it"
            )
        return self


DEFAULT_UPSTREAMS: tuple[Upstream, ...] = (
    Upstream(host="ghcr.io", project="proxy-ghcr", adapter="github-ghcr"),
    Upstream(host="docker.io", project="proxy-docker", adapter="docker-hub"),
    Upstream(host="registry.k8s.io", project="proxy-k8s"),
    Upstream(host="gcr.io", project="proxy-gcr", adapter="google-gcr"),
    Upstream(host="quay.io", project="proxy-quay"),
    Upstream(host="xpkg.upbound.io", project="proxy-xpkg"),
    Upstream(host="public.ecr.aws", project="proxy-ecr"),
)


class Boot(Described):
    """A part of what runs before local Harbor can serve anything: it must be there, and is named for what it is."""

    part: str
    names: tuple[str, ...]
    """Patterns on `host/repository`."""
    image: str = ""
    """Listed when neither a workload nor a node shows such an image."""


DEFAULT_BOOT: tuple[Boot, ...] = (
    Boot(part="Harbor serves its own images", names=("*/goharbor/*",)),
    Boot(part="Gitea serves the manifests", names=("*/gitea/*", "*/forgejo/*")),
    Boot(
        part="database of Harbor and Gitea",
        names=("*/postgres", "*/postgresql*", "*/spilo-*", "*/cloudnative-pg/*", "*/mariadb*", "*/mysql*"),
    ),
    Boot(part="cache of Harbor and Gitea", names=("*/redis*", "*/valkey*", "*/memcached")),
    Boot(part="blob store of Harbor", names=("*/seaweedfs*", "*/minio*")),
    Boot(part="network of Pods (CNI)", names=("*/cilium/*", "*/flannel*", "*/calico/*")),
    Boot(part="cluster DNS", names=("*coredns*",)),
    # k3s, pkg/cli/cmds/agent.go: containerd makes every Pod's sandbox of it, and no Pod shows it.
    Boot(part="Pod sandbox (pause)", names=("*/pause", "*-pause"), image="docker.io/rancher/mirrored-pause:3.6"),
    Boot(
        part="k3s's own volumes, load balancer and charts",
        names=("*/local-path-provisioner", "*/mirrored-library-busybox", "*/klipper-*", "*/mirrored-metrics-server"),
    ),
    Boot(part="the cutover itself", names=("*/catalyst-cutover", "*/self-sovereign-cutover")),
)


class Sovereign(Described):
    """Everything the steps need to know of the cluster."""

    fqdn: str
    upstream_git: UpstreamGit = UpstreamGit()
    gitea: Gitea
    harbor: Harbor
    upstreams: tuple[Upstream, ...] = DEFAULT_UPSTREAMS
    mothership: Mothership = Mothership()
    mothership_endpoint: str | None = None
    """URL of the mothership's registry on the wire, when it is not `https://<registry>`."""
    mothership_login: Login | None = None
    flux: Flux = Flux()
    catalyst_api: CatalystApi = CatalystApi()
    nodes: Nodes = Nodes()
    proof: Proof = Proof()
    tree: str = "clusters/_template/bootstrap-kit"
    """Path in the repository whose manifests Flux applies."""
    extra_images: tuple[str, ...] = ()
    accepted_hosts: tuple[str, ...] = ()
    """Third parties' hosts, spelled exactly, that sources and images may name: told as notices, no tether.
    While the proof blocks, their addresses are open only when `proof.allow_cidrs` lists them."""
    not_needed: tuple[str, ...] = ()
    """Patterns on `host/repository` or the whole reference: left out, and said, though something names them."""
    boot: tuple[Boot, ...] = DEFAULT_BOOT
    """The boot-strap loop: who must be in local Harbor for local Harbor to come up."""
    secret_namespaces: tuple[str, ...] = ()
    """Namespaces whose Secrets are looked at for logins upstream; empty: all, which takes a cluster-wide read."""
    field_manager: str = "catalyst-cutover"
    """Never a name that begins with `kubectl`: Flux undoes those (fluxcd/pkg/ssa)."""

    def project_of(self, host: str) -> str | None:
        """The local project that stands in for an upstream host; None when nobody mapped it."""
        return next((u.project for u in self.upstreams if u.host == host), None)
