"""Pull secrets that nodes would now send to local Harbor and be refused with.

The kubelet picks a login by the host in the image's name, and containerd sends it to whatever host it asks (it is
never told whose it is: k3s#8026, containerd#9997). So a login for ghcr.io goes to local Harbor after the pivot,
which answers 401 even where anybody may pull. Its entry gets local Harbor's own login; nothing else changes.

Not in Secrets that Flux and Crossplane go upstream with: local Harbor's login would be refused there, and known. Step 6
makes those sources local and takes their upstream entries away. No step does that for Flux's image scanner, so Pods
come first, and it is said; which of its objects, `cutover audit` names: this class may not list them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from schemas.nodes import NodePlan
from schemas.progress import Progress
from workers import credentials, robot
from workers.adapters.cluster_kinds import (
    CRON_JOB,
    DAEMON_SET,
    DEPLOYMENT,
    IMAGE_REPOSITORY,
    JOB,
    POD,
    SECRET,
    SERVICE_ACCOUNT,
    STATEFUL_SET,
    Object,
    key_of,
)
from workers.errors import Stuck, Wait
from workers.sovereign import Sovereign
from workers.supply.sources import KINDS, PACKAGE_KINDS, address, local_address, resolved_locally
from workers.tethers import auths_of, host_of, login_key, with_auths, written_by
from workers.world import Report, World

Key = tuple[str, str]
WORKLOADS = (POD, DEPLOYMENT, STATEFUL_SET, DAEMON_SET, JOB, CRON_JOB)


def named(objects: Iterable[Object]) -> Iterator[Key]:
    """(namespace, name) of every Secret that Pods, their templates or service accounts pull images with."""
    for obj in objects:
        spec = obj if "imagePullSecrets" in obj else _pod_spec(obj.get("spec") or {})
        for reference in spec.get("imagePullSecrets") or ():
            yield obj["metadata"]["namespace"], str(reference.get("name", ""))


def _pod_spec(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    job = (spec.get("jobTemplate") or {}).get("spec")
    found: Mapping[str, Any] = ((job or spec).get("template") or {}).get("spec") or spec
    return found


def fetched_with(sources: Iterable[Object], sovereign: Sovereign) -> frozenset[Key]:
    """Secrets that Flux and Crossplane still go upstream with: theirs is the way itself, until step 6 changed it."""
    upstream = [s for s in sources if local_address(address(s), sovereign) and not resolved_locally(s, sovereign)]
    return frozenset(key for source in upstream for key in _signs_in(source, sovereign))


def _signs_in(source: Object, sovereign: Sovereign) -> Iterator[Key]:
    spec = source["spec"]
    if KINDS[source["kind"]] in PACKAGE_KINDS:
        yield from ((sovereign.proof.crossplane[0], str(ref["name"])) for ref in spec.get("packagePullSecrets") or ())
    elif name := (spec.get("secretRef") or {}).get("name"):
        yield key_of(source)[0], str(name)


@dataclass(frozen=True, slots=True)
class Mend:
    """A Secret, its new content, and the hosts whose entry is another one now."""

    secret: Object
    data: str
    hosts: tuple[str, ...]

    def __str__(self) -> str:
        return f"{'/'.join(key_of(self.secret))} ({', '.join(self.hosts)}){written_by(self.secret)}"


def mends(
    secrets: Iterable[Object], used: Collection[Key], hosts: Collection[str], local: Mapping[str, Any]
) -> list[Mend]:
    """Every used Secret with an entry for a mapped host that is not local Harbor's login. Raises Stuck."""
    found: list[Mend] = []
    for secret in secrets:
        if key_of(secret) not in used or login_key(secret) is None:
            continue
        try:
            auths = auths_of(secret)
        except ValueError as error:
            raise Stuck("PullSecretUnreadable", f"Secret {'/'.join(key_of(secret))}: {error}") from None
        wrong = [entry for entry, login in auths.items() if host_of(entry) in hosts and login != dict(local)]
        wrong += _behind_globs(auths, hosts)
        if wrong:
            text = with_auths(secret, {**auths, **{entry: dict(local) for entry in wrong}})
            found.append(Mend(secret, text, tuple(sorted({host_of(entry) for entry in wrong}))))
    return found


def _behind_globs(auths: Collection[str], hosts: Collection[str]) -> list[str]:
    """Mapped hosts that only an entry like `*.io` fits: one of their own is asked for first (kubelet, keyring.go)."""
    known = {host_of(entry) for entry in auths}
    globs = [entry.split(".") for entry in known if "*" in entry]

    def fits(host: str) -> bool:
        parts = host.split(".")
        return any(len(g) == len(parts) and all(map(fnmatchcase, parts, g)) for g in globs)

    return sorted(host for host in hosts if host not in known and fits(host))


async def mend(world: World, plan: NodePlan, report: Report) -> tuple[str, ...]:
    """No Pod's login is refused any more; what was changed, in words. Raises Wait when somebody puts one back."""
    todo = await look(world, plan, report)
    for each in todo:
        meta = each.secret["metadata"]
        await report(Progress(message=f"pull secret {each} gets local Harbor's login", percent=95))
        body = {"metadata": {"resourceVersion": meta["resourceVersion"]}, "data": {login_key(each.secret): each.data}}
        await world.cluster.patch(SECRET, meta["name"], meta["namespace"], body)
    if todo and (left := await look(world, plan)):
        who = ", ".join(map(str, left[:5]))
        raise Wait("PullSecretRestored", f"{who}: entries came back after they were replaced; find who renders them")
    return tuple(map(str, todo))


async def remarks(world: World, mended: Collection[str]) -> list[str]:
    """What a change of pull secrets may mean for somebody whom no step makes local."""
    if not mended or not await world.cluster.served(IMAGE_REPOSITORY):
        return []
    return [
        "Flux's image scanner is installed: an ImageRepository that signs in upstream with one of these is refused "
        "there now; give it a Secret of its own, or point it to local Harbor (`cutover audit` names each)"
    ]


async def look(world: World, plan: NodePlan, report: Report | None = None) -> list[Mend]:
    """What has to be mended. Raises Stuck when it cannot be known, or not be done: before any node is touched."""
    cluster = world.cluster
    users = [obj for kind in (*WORKLOADS, SERVICE_ACCOUNT) for obj in await cluster.list(kind)]
    used = set(named(users))
    sources = [obj for kind in KINDS.values() if await cluster.served(kind) for obj in await cluster.list(kind)]
    if (shared := used & fetched_with(sources, world.sovereign)) and report is not None:
        words = ", ".join(sorted("/".join(ref) for ref in shared))
        who = "Flux or Crossplane still fetches"
        await report(Progress(message=f"pull secrets {words} stay until step 6: {who} upstream with them"))
    used -= shared
    if not used:
        return []
    known = credentials.places(world.sovereign)
    if None not in known and (hidden := sorted("/".join(ref) for ref in used if ref[0] not in known)):
        message = f"pull secrets {', '.join(hidden[:5])} are in use; add their namespaces to secret_namespaces"
        raise Stuck("PullSecretUnread", message)
    secrets = [s for s in await credentials.secrets(world) if key_of(s) in used]
    hosts = {m.host for m in plan.mirrors}
    if not mends(secrets, used, hosts, {}):
        return []
    login = (await robot.auths(world))[world.sovereign.harbor.host]
    return mends(secrets, used, hosts, login)
