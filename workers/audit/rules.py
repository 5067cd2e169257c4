"""What an object says of whom it depends on. Pure: objects in, findings out; no finding carries a value.

By puller, because the same name is a tether for one and none for another: a node asks its mirror for
`ghcr.io/...`, while Flux and Crossplane, which know no mirrors, ask ghcr.io itself.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from schemas.nodes import NodePlan, NodeReport
from workers import flux
from workers.adapters.cluster_kinds import Object, key_of, name_of
from workers.adapters.containerd import plan_digest
from workers.adapters.oci.reference import BadReference, Reference
from workers.audit import finding as kinds
from workers.audit.environment import NO_KEYS, Config, Keys, settings, unlisted
from workers.audit.finding import Finding, Severity, Tether
from workers.needs import images
from workers.sovereign import Sovereign
from workers.supply.pull_secrets import strips
from workers.supply.sources import DEFAULT_PACKAGE_HOST, resolved_locally
from workers.tethers import Names, auths_of, host_of, login_key

ADDRESS = {
    "GitRepository": ("url",),
    "HelmRepository": ("url",),
    "OCIRepository": ("url",),
    "Bucket": ("endpoint",),
    "ImageRepository": ("image",),
    "HelmChart": ("repo", "chart"),
    "Plan": ("channel",),
    "Provider": ("package",),
    "Configuration": ("package",),
    "Function": ("package",),
}
"""Where each kind of source says whence it fetches. HelmChart and Plan are k3s's, `*.cattle.io`."""

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
THIRD = "its owner: a copy in local Harbor or Gitea, or sovereign.accepted_hosts"
_CONTAINERS = ("initContainers", "containers", "ephemeralContainers")
_PACKAGES = frozenset({"Provider", "Configuration", "Function"})


@dataclass(frozen=True, slots=True)
class Judge:
    """The rules for one Sovereign."""

    sovereign: Sovereign
    names: Names
    pivoted: bool
    """True when every node holds a plan that leads to local Harbor alone."""
    mirrored: frozenset[str]
    """Hosts that this plan covers."""
    fetched_here: frozenset[str] = frozenset()
    """Packages, as they are named, that Crossplane says it got from local Harbor: their names stay (ImageConfig)."""

    @classmethod
    def of(cls, sovereign: Sovereign, plan: NodePlan | None, pivoted: bool) -> Judge:
        """What nodes do with a name depends on the plan that they hold."""
        hosts = frozenset(m.host for m in plan.mirrors) if plan is not None else frozenset[str]()
        return cls(sovereign, Names.of(sovereign), pivoted, hosts)

    # --- sources ----------------------------------------------------------------------------------------------

    def source(self, obj: Object) -> Iterator[Finding]:
        """A Flux source, a Crossplane package, or what k3s fetches by itself."""
        kind = str(obj["kind"])
        tether = _tether_of(kind)
        if kind in _PACKAGES and (
            resolved_locally(obj, self.sovereign) or (obj.get("spec") or {}).get("package") in self.fetched_here
        ):
            return  # an ImageConfig sends it to local Harbor, and Crossplane says that it came from there
        for field in ADDRESS[kind]:
            said = str((obj.get("spec") or {}).get(field) or "")
            host = _host(said, package=kind in _PACKAGES)
            if (severity := self.weight(said, host)) is not None:
                yield _found(tether, severity, obj, f"spec.{field}", host)
        if proxy := str(((obj.get("spec") or {}).get("proxySecretRef") or {}).get("name") or ""):
            yield self._veiled(obj, "spec.proxySecretRef", f"its address stands in Secret {proxy}")

    def weight(self, said: str, host: str) -> Severity | None:
        """What it means that somebody fetches from this address; None for no host, or one of the Sovereign's own."""
        if not host or self._local(host):
            return None
        host = host.lower().removesuffix(":443")  # as DNS compares names, and as people leave the port out
        known = self.names.in_text(said.lower()) or self.names.foreign_registry(host) or host == self._git
        return Severity.TETHER if known else self._third(host)

    def _third(self, host: str) -> Severity:
        """Neither the mothership's nor local: in order only when the owner said so."""
        return Severity.NOTICE if host in self.sovereign.accepted_hosts else Severity.EXTERNAL

    @property
    def _git(self) -> str:
        return urlsplit(self.sovereign.upstream_git.url).netloc.rpartition("@")[2]

    def _local(self, host: str) -> bool:
        """The Sovereign's own, by exact name: a part of a name was mistaken twice in production."""
        gitea = urlsplit(self.sovereign.gitea.cluster_url).netloc
        name = name_in(host)
        own = host in (self.sovereign.harbor.host, gitea) or name in ("localhost", self.sovereign.fqdn)
        if own or inside(name):
            return True
        return name.endswith((".svc", ".svc.cluster.local", f".{self.sovereign.fqdn}"))

    # --- workloads --------------------------------------------------------------------------------------------

    def workload(self, obj: Object, config: Config, keys: Keys = NO_KEYS) -> Iterator[Finding]:
        """Images and settings of a Pod or of a template. `config`: the ConfigMaps; `keys`: those of Secrets."""
        for image in images(pod_spec(obj)):
            yield from self._image(obj, image)
        for container in _containers(obj):
            yield from self._env(obj, container, config)
        yield from self.proxies(obj, config, keys)

    def proxies(self, obj: Object, config: Config, keys: Keys = NO_KEYS) -> Iterator[Finding]:
        """Proxies that its containers are told to use, and what may hold one unseen: one line for all of that."""
        taken: dict[str, None] = {}
        for container in _containers(obj):
            for each in settings(container, key_of(obj)[0], config, keys):
                field, proxy = f"env[{each.name}] of {container['name']}", each.proxy
                if why := each.veiled:
                    yield self._veiled(obj, field, why, str(container["name"]))
                elif proxy:
                    yield _found(kinds.PROXY, self._weight_of(proxy), obj, field, proxy, str(container["name"]))
            taken |= dict.fromkeys(unlisted(container, key_of(obj)[0], keys))
        if taken:
            told = f"whatever Secret {', '.join(taken)} holds, a proxy perhaps"
            yield _found(kinds.VEILED, Severity.NOTICE, obj, "envFrom", told)

    def _veiled(self, obj: Object, field: str, why: str, puller: str = "") -> Finding:
        """A proxy that nobody here knows: unreadable, until its owner says which one the proof shall try."""
        if not (named := self.sovereign.proof.proxies):
            return _found(kinds.VEILED, Severity.UNREADABLE, obj, field, why, puller)
        outside = any(self._weight_of(each) is Severity.EXTERNAL for each in named)
        severity = Severity.EXTERNAL if outside else Severity.NOTICE
        return _found(kinds.VEILED, severity, obj, field, f"{why}; proof.proxies names it", puller)

    def _weight_of(self, proxy: str) -> Severity:
        return Severity.NOTICE if self._local(proxy) else self._third(proxy)

    def _image(self, obj: Object, image: str) -> Iterator[Finding]:
        try:
            host = Reference.parse(image).host
        except BadReference:
            yield _found(kinds.OTHER, Severity.UNREADABLE, obj, "image", "not an image reference")
            return
        ours = self.names.in_text(image) is not None
        if self.pivoted and self._is_agent(obj) and not self._local(host):
            yield _found(kinds.AGENT, Severity.NOTICE, obj, f"image {image}", host)
        if self._local(host) or (self.pivoted and host in self.mirrored):
            return
        if ours:
            yield _found(kinds.IMAGES, Severity.TETHER, obj, f"image {image}", host)
        elif host not in {u.host for u in self.sovereign.upstreams}:
            yield _found(kinds.OTHER, self._third(host), obj, f"image {image}", host, "containerd")
        # An upstream that has a project here is the nodes' tether (2), which tells it once for each node.

    def _is_agent(self, obj: Object) -> bool:
        """A node that joins has the mirrors of its first day until its agent runs, so no mirror brings the agent."""
        return obj.get("kind") == "DaemonSet" and key_of(obj)[0] == self.sovereign.nodes.namespace

    def _env(self, obj: Object, container: Object, config: Config) -> Iterator[Finding]:
        api = self.sovereign.catalyst_api
        mine = key_of(obj) == (api.namespace, api.deployment)
        for each in settings(container, key_of(obj)[0], config):
            field = f"env[{each.name}] of {container['name']}"
            if each.proxy:
                continue  # `proxies` tells it
            if which := self.names.in_text(each.text):
                tether = kinds.API if mine else kinds.OTHER
                yield _found(tether, Severity.TETHER, obj, field, which, str(container["name"]))
            elif (host := _url_host(each.text)) and not self._local(host):
                yield _found(kinds.OTHER, Severity.NOTICE, obj, field, host, str(container["name"]))

    def catalyst_api(self, deployment: Object | None) -> Iterator[Finding]:
        """catalyst-api falls back to upstream when nobody tells it otherwise: unset is a tether too."""
        api = self.sovereign.catalyst_api
        if deployment is None:
            absent = {"kind": "Deployment", "metadata": {"name": api.deployment, "namespace": api.namespace}}
            yield _found(kinds.API, Severity.UNREADABLE, absent, "", "not found; check catalyst_api in the settings")
            return
        containers = pod_spec(deployment).get("containers") or ()
        said = [e for c in containers if c["name"] == api.container for e in c.get("env") or () if _is(e, api.variable)]
        if not said:
            host = self._git
            yield _found(kinds.API, Severity.TETHER, deployment, f"env[{api.variable}] is not set", host)

    # --- credentials ------------------------------------------------------------------------------------------

    def secrets(self, secrets: Iterable[Object], referenced: Collection[tuple[str, str]]) -> Iterator[Finding]:
        """Registry entries that open a door upstream: ours by the same rule that step 6 strips them by."""
        readable = []
        for secret in secrets:
            try:
                auths_of(secret)
            except ValueError as error:
                yield _found(kinds.PULL_SECRETS, Severity.UNREADABLE, secret, "data", str(error))
            else:
                readable.append(secret)
        gone = {}
        for secret, new in strips(readable, self.sovereign, referenced, {}):
            kept = auths_of({"data": {login_key(secret): new}})
            gone[key_of(secret)] = auths_of(secret).keys() - kept.keys()
        for secret in readable:
            for entry in auths_of(secret):
                field, host = f"auths[{host_of(entry)}]", host_of(entry)
                if entry in gone.get(key_of(secret), ()):
                    yield _found(kinds.PULL_SECRETS, Severity.TETHER, secret, field, host)
                elif not self._local(host):
                    yield _found(kinds.OTHER, Severity.NOTICE, secret, field, host, "kubelet")

    # --- nodes ------------------------------------------------------------------------------------------------

    def nodes(
        self, nodes: Iterable[Object], plan: NodePlan | None, reports: Mapping[str, NodeReport]
    ) -> Iterator[Finding]:
        """Each node's mirrors, by what its agent acknowledged, and its operating system's."""
        for node in nodes:
            name = name_of(node)
            why = node_fault(plan, reports.get(name))
            if why is not None:
                severity, text = why
                yield _found(kinds.MIRRORS, severity, node, "/etc/rancher/k3s/registries.yaml", text)
            yield from self._plan(node, plan)
            system = str(((node.get("status") or {}).get("nodeInfo") or {}).get("osImage") or "its distribution")
            yield _found(kinds.SYSTEM, Severity.NOTICE, node, "package mirrors", system)

    def _plan(self, node: Object, plan: NodePlan | None) -> Iterator[Finding]:
        if plan is None:
            return
        wanted = {u.host for u in self.sovereign.upstreams} | {self.sovereign.mothership.registry}
        for host in sorted(wanted - {m.host for m in plan.mirrors}):
            yield _found(kinds.MIRRORS, Severity.TETHER, node, f"certs.d/{host}", host)
        for mirror in plan.mirrors:
            host = urlsplit(mirror.endpoint).netloc
            if not self._local(host):
                yield _found(kinds.MIRRORS, Severity.TETHER, node, f"certs.d/{mirror.host}", host)


def node_fault(plan: NodePlan | None, report: NodeReport | None) -> tuple[Severity, str] | None:
    """Why a node is not known to hold the plan; None when it acknowledged it."""
    if plan is None:
        return Severity.TETHER, "no plan was ever given: as the mothership made it"
    if report is None:
        return Severity.UNREADABLE, "its agent never answered; does it run?"
    if report.result != "v2":
        return Severity.TETHER, f"its agent failed: {report.message}"[:200]
    if report.digest != plan_digest(plan):
        return Severity.TETHER, "it holds another plan"
    return None


def all_hold(nodes: Iterable[Object], plan: NodePlan | None, reports: Mapping[str, NodeReport]) -> bool:
    """Does every node hold the plan? Not when there is no node."""
    names = [name_of(node) for node in nodes]
    return bool(names) and all(node_fault(plan, reports.get(name)) is None for name in names)


def pod_spec(obj: Object) -> Mapping[str, Any]:
    """The Pod's own spec, or the template's."""
    spec = obj.get("spec") or {}
    if obj.get("kind") == "CronJob":
        spec = (spec.get("jobTemplate") or {}).get("spec") or {}
    found = spec if obj.get("kind") == "Pod" else (spec.get("template") or {}).get("spec") or {}
    return dict(found)


def _containers(obj: Object) -> Iterator[Object]:
    """All of them, debug containers too."""
    spec = pod_spec(obj)
    return (part for parts in _CONTAINERS for part in spec.get(parts) or ())


def _tether_of(kind: str) -> Tether:
    if kind in _PACKAGES:
        return kinds.PACKAGES
    return kinds.GIT if kind == "GitRepository" else kinds.CHARTS


def _host(said: str, *, package: bool = False) -> str:
    """Host and port of an address; empty when it names none (a chart's bare name)."""
    bare = said.rpartition("://")[2] if "://" in said else said
    host = bare.partition("/")[0].rpartition("@")[2]
    if "://" in said:
        return host
    hosted = "/" in bare and ("." in host or ":" in host)
    return host if hosted else (DEFAULT_PACKAGE_HOST if package and bare else "")


def _url_host(text: str) -> str:
    """Host and port of a text that is a URL as a whole; empty when it is none, or names nobody."""
    try:
        parts = urlsplit(text)
        return parts.netloc.rpartition("@")[2] if parts.hostname and _SCHEME.match(text) else ""
    except ValueError:
        return ""


def name_in(host: str) -> str:
    """The name or address in HOST[:PORT], as DNS compares it: `[2001:db8::1]:443` holds colons of its own."""
    bare = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return bare.rstrip(".").lower()


def inside(name: str) -> bool:
    """True for what only means something here: a bare name, loopback. An address of IPv6 has no dot either."""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return "." not in name


def _is(entry: Mapping[str, Any], name: str) -> bool:
    return entry.get("name") == name


def _found(tether: Tether, severity: Severity, obj: Object, field: str, host: str, puller: str = "") -> Finding:
    namespace, name = key_of(obj)
    return Finding(
        tether=tether.number,
        title=tether.title,
        severity=severity,
        kind=str(obj["kind"]),
        namespace=namespace,
        name=name,
        field=field,
        host=host,
        puller=puller or tether.puller,
        owner=owner_of(obj),
        cut_by=THIRD if severity is Severity.EXTERNAL else tether.cut_by,
    )


def owner_of(obj: Object) -> str:
    """Who declares the object, as far as it says: there the string must be cut, or it comes back."""
    for kind, system in (("HelmRelease", flux.OWNED_BY_RELEASE), ("Kustomization", flux.OWNED_BY_KUSTOMIZATION)):
        if key := flux.owner(obj, system):
            return f"{kind} {'/'.join(key)}"
    owners = obj["metadata"].get("ownerReferences") or ()
    if owners:
        return f"{owners[0]['kind']} {owners[0]['name']}"
    return "nobody: applied by hand" if obj["kind"] != "Node" else "cloud-init"
