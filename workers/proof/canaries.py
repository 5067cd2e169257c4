"""Canaries on every node, in a Pod's network and in the host's: who gets out, who is still in touch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from pydantic import ValidationError

from schemas.results import Canary
from workers.adapters.cluster_kinds import Object
from workers.entrypoints.canary import FINDINGS
from workers.errors import Wait
from workers.proof import pods
from workers.sovereign import Sovereign
from workers.world import World

START = 60.0  # seconds for a Pod to be started beside its own timeout
API_SERVER = "https://kubernetes.default.svc"
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
    return Targets(
        {f"https://{ANSWERS_AT.get(host, host)}": host for host in hosts},
        {url: urlsplit(url).netloc for url in local},
    )


@dataclass(frozen=True, slots=True)
class Sample:
    """What all canaries found in one turn."""

    upstream: tuple[Canary, ...]
    local: tuple[Canary, ...]

    def escaped(self) -> tuple[Canary, ...]:
        """Those that reached an upstream host."""
        return tuple(c for c in self.upstream if c.reached)

    def shut_in(self) -> tuple[Canary, ...]:
        """Those that did not."""
        return tuple(c for c in self.upstream if not c.reached)

    def cut_off(self) -> tuple[Canary, ...]:
        """Those that lost something of the Sovereign's own."""
        return tuple(c for c in self.local if not c.reached)


def words(found: Iterable[Canary], most: int = 6) -> str:
    """Some findings in one line."""
    said = [f"{c.node}/{c.network} {c.host} ({c.detail})" for c in found]
    return "; ".join(said[:most]) + (f" and {len(said) - most} more" if len(said) > most else "")


def sort(found: Iterable[Canary], wanted: Targets) -> Sample:
    """Upstream and local findings apart."""
    everything = tuple(found)
    local = set(wanted.local.values())
    return Sample(tuple(c for c in everything if c.host not in local), tuple(c for c in everything if c.host in local))


async def sample(world: World, nodes: Sequence[str], token: int, turn: str) -> Sample:
    """Send canaries out on every node and hear them all. Raises Wait when one stays silent."""
    sovereign = world.sovereign
    wanted = targets(sovereign)
    sent = [
        _canary(sovereign, wanted, node, token, turn, host_network=host_network)
        for node in nodes
        for host_network in (False, True)
    ]
    async with pods.placed(world.cluster, sent):
        patience = START + sovereign.proof.connect_timeout
        seen = await pods.settled(world.cluster, sent, _ended, patience)
    names = {**wanted.upstream, **wanted.local}
    spelled = {urlsplit(url).netloc: name for url, name in names.items()}
    return sort([c for pod in sent for c in _heard(pod, seen, spelled)], wanted)


def _canary(sovereign: Sovereign, wanted: Targets, node: str, token: int, turn: str, *, host_network: bool) -> Object:
    args = ["cutover", "canary", "--timeout", f"{sovereign.proof.connect_timeout:g}"]
    for url in (*wanted.upstream, *wanted.local):
        args += ["--target", url]
    return pods.manifest(
        namespace=sovereign.nodes.namespace,
        purpose="canary-host" if host_network else "canary-pod",
        node=node,
        token=token,
        turn=turn,
        image=sovereign.nodes.image,
        # Under the block an image that must be fetched first would be a test of something else.
        pull="IfNotPresent",
        args=args,
        host_network=host_network,
        lifetime=180,
    )


def _ended(pod: Object) -> bool:
    return "terminated" in pods.container_state(pod)


def _heard(pod: Object, seen: Mapping[str, Object], spelled: Mapping[str, str]) -> list[Canary]:
    """One canary's findings. Silence, or less than was asked, is trouble: not read is not `not reached`."""
    name, node = str(pod["metadata"]["name"]), str(pod["spec"]["nodeName"])
    found = seen.get(name)
    said = pods.container_state(found).get("terminated", {}).get("message", "") if found else ""
    try:
        findings = FINDINGS.validate_json(said)
    except ValidationError as error:
        state = pods.container_state(found) if found else "never seen"
        raise Wait("CanarySilent", f"{name} on {node} said nothing that can be read: {state}") from error
    missing = spelled.keys() - {f.host for f in findings}
    if missing:
        raise Wait("CanarySilent", f"{name} on {node} left out {sorted(missing)}")
    network = "host" if pod["spec"].get("hostNetwork") else "pod"
    return [
        Canary(node=node, network=network, host=spelled[f.host], reached=f.reached, detail=f.detail) for f in findings
    ]
