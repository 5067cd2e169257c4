"""Canaries on every node, in a Pod's network and in the host's: who gets out, who is still in touch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from pydantic import ValidationError

from schemas.canary import FINDINGS
from schemas.results import Canary, CanaryCount
from workers.adapters.cluster import Cluster
from workers.adapters.cluster_kinds import NETWORK_POLICY, Object, namespace_of
from workers.errors import Wait
from workers.proof import pods
from workers.proof.means.cilium import NAMESPACED as CILIUM_NETWORK_POLICY
from workers.proof.means.terms import LABEL, present
from workers.sovereign import Sovereign
from workers.world import World

START = 60.0  # seconds for a Pod to be started beside its own timeout
API_SERVER = "https://kubernetes.default.svc"
RESOLVED = "kubernetes.default.svc"
ANSWERS_AT = {"docker.io": "registry-1.docker.io"}
"""Where a registry really serves, when that is not its own name."""


@dataclass(frozen=True, slots=True)
class Targets:
    """Base URL -> name of the host, as the evidence spells it."""

    upstream: Mapping[str, str]
    local: Mapping[str, str]


def targets(sovereign: Sovereign) -> Targets:
    """Every host that must be out of reach under the block, and what must stay in reach."""
    mothership = sovereign.mothership
    hosts = dict.fromkeys(
        (
            urlsplit(sovereign.upstream_git.url).netloc,
            *(u.host for u in sovereign.upstreams),
            mothership.registry,
            mothership.chart_prefix.partition("/")[0],
        )
    )
    local = (sovereign.gitea.cluster_url, f"{sovereign.harbor.scheme}://{sovereign.harbor.host}", API_SERVER)
    resolver = f"dns://{sovereign.proof.dns}/{RESOLVED}"
    return Targets(
        {f"https://{ANSWERS_AT.get(host, host)}": host for host in hosts},
        {url: urlsplit(url).netloc for url in (*local, resolver)},
    )


@dataclass(frozen=True, slots=True)
class Sample:
    """What all canaries found in one turn."""

    upstream: tuple[Canary, ...]
    local: tuple[Canary, ...]
    answered: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Upstream host -> addresses that answered somebody."""

    def escaped(self) -> tuple[Canary, ...]:
        """Those that reached an upstream host."""
        return tuple(c for c in self.upstream if c.reached)

    def shut_in(self) -> tuple[Canary, ...]:
        """Those that did not."""
        return tuple(c for c in self.upstream if not c.reached)

    def cut_off(self) -> tuple[Canary, ...]:
        """Those that lost something of the Sovereign's own."""
        return tuple(c for c in self.local if not c.reached)

    def counts(self, sample: str) -> tuple[CanaryCount, ...]:
        """One line a network and host: fifty nodes are no longer than three."""
        everything = (*self.upstream, *self.local)
        asked = Counter((c.network, c.host) for c in everything)
        reached = Counter((c.network, c.host) for c in everything if c.reached)
        return tuple(
            CanaryCount(sample=sample, network=network, host=host, asked=number, reached=reached[network, host])
            for (network, host), number in asked.items()
        )


def marked(found: Iterable[Canary], sample: str) -> tuple[Canary, ...]:
    """The findings with the name of their sample on them."""
    return tuple(c.model_copy(update={"sample": sample}) for c in found)


def words(found: Iterable[Canary], most: int = 6) -> str:
    """Some findings in one line."""
    said = [f"{c.node}/{c.network} {c.host} ({c.detail})" for c in found]
    return "; ".join(said[:most]) + (f" and {len(said) - most} more" if len(said) > most else "")


def sort(found: Iterable[Canary], wanted: Targets, answered: Mapping[str, frozenset[str]] | None = None) -> Sample:
    """Upstream and local findings apart."""
    everything = tuple(found)
    local = set(wanted.local.values())
    outside, inside = [c for c in everything if c.host not in local], [c for c in everything if c.host in local]
    return Sample(tuple(outside), tuple(inside), answered or {})


@dataclass(frozen=True, slots=True)
class Ways:
    """How to get out, beside the names: a name that does not resolve under the block is no closed door."""

    known: Mapping[str, Collection[str]] = field(default_factory=dict)
    """Upstream host -> addresses that answered before the block."""
    proxies: tuple[str, ...] = ()
    """HOST:PORT of every proxy that a workload is told to use."""


ONLY_NAMES = Ways()


@dataclass(frozen=True, slots=True)
class Post:
    """Where one canary is sent: a node, a namespace, and whose network it uses."""

    node: str
    namespace: str
    network: str

    @property
    def purpose(self) -> str:
        """Part of the Pod's name."""
        return "canary-host" if self.network == "host" else "canary-pod"


async def walled(cluster: Cluster) -> tuple[str, ...]:
    """Namespaces in which somebody else's policy speaks: there a Pod may be let out though ours is not."""
    found: set[str] = set()
    for kind in (NETWORK_POLICY, CILIUM_NETWORK_POLICY):
        for policy in await present(cluster, kind):
            if (policy["metadata"].get("labels") or {}).get(LABEL) != "true":
                found.add(namespace_of(policy))
    return tuple(sorted(found))


def posts(nodes: Sequence[str], home: str, walled: Sequence[str]) -> list[Post]:
    """Both networks on every node; beside them one in each namespace with policies of its own, nodes in turn."""
    found = [Post(node, home, network) for node in nodes for network in ("pod", "host")]
    others = [n for n in walled if n != home]
    return found + [Post(nodes[i % len(nodes)], n, f"pod/{n}") for i, n in enumerate(others)]


async def sample(world: World, nodes: Sequence[str], token: int, turn: str, ways: Ways = ONLY_NAMES) -> Sample:
    """Send canaries out on every node and hear them all. Raises Wait when one stays silent."""
    sovereign = world.sovereign
    wanted = targets(sovereign)
    stations = posts(nodes, sovereign.nodes.namespace, await walled(world.cluster))
    sent = [(post, _canary(sovereign, wanted, post, token, turn, ways)) for post in stations]
    async with pods.placed(world.cluster, [pod for _, pod in sent]):
        patience = START + sovereign.proof.connect_timeout
        seen = await pods.settled(world.cluster, [pod for _, pod in sent], pods.ended, patience)
    names = {**wanted.upstream, **wanted.local}
    spelled = {urlsplit(url).netloc: name for url, name in names.items()}
    answered: dict[str, set[str]] = {}
    heard = [c for post, pod in sent for c in _heard(post, pod, seen, spelled, answered)]
    return sort(heard, wanted, {host: frozenset(answered.get(host, ())) for host in wanted.upstream.values()})


def _canary(sovereign: Sovereign, wanted: Targets, post: Post, token: int, turn: str, ways: Ways) -> Object:
    args = ["cutover", "canary", "--timeout", f"{sovereign.proof.connect_timeout:g}"]
    for url in (*wanted.upstream, *wanted.local):
        args += ["--target", url]
    for url, name in wanted.upstream.items():
        host = urlsplit(url).netloc
        args += ["--known", host]
        for address in sorted(ways.known.get(name, ())):
            args += ["--known", f"{host}={address}"]
    for proxy in ways.proxies:
        args += ["--proxy", proxy]
    return pods.manifest(
        namespace=post.namespace,
        purpose=post.purpose,
        node=post.node,
        token=token,
        turn=turn,
        image=sovereign.nodes.image,
        # Under the block an image that must be fetched first would be a test of something else.
        pull="IfNotPresent",
        args=args,
        host_network=post.network == "host",
        lifetime=180,
    )


def _heard(
    post: Post,
    pod: Object,
    seen: Mapping[tuple[str, str], Object],
    spelled: Mapping[str, str],
    answered: dict[str, set[str]],
) -> list[Canary]:
    """One canary's findings. Silence, or less than was asked, is trouble: not read is not `not reached`."""
    name = str(pod["metadata"]["name"])
    found = seen.get((post.namespace, name))
    said = pods.container_state(found).get("terminated", {}).get("message", "") if found else ""
    try:
        findings = FINDINGS.validate_json(said)
    except ValidationError as error:
        state = pods.container_state(found) if found else "never seen"
        message = f"{post.namespace}/{name} on {post.node} said nothing that can be read: {state}"
        raise Wait("CanarySilent", message) from error
    missing = spelled.keys() - {f.host for f in findings}
    if missing:
        raise Wait("CanarySilent", f"{post.namespace}/{name} on {post.node} left out {sorted(missing)}")
    for f in findings:
        if f.at:
            answered.setdefault(spelled[f.host], set()).update(f.at)
    return [
        Canary(node=post.node, network=post.network, host=spelled[f.host], reached=f.reached, detail=f.detail)
        for f in findings
    ]
