"""The block: policies for Pods, a firewall order for nodes, both with an end written on them.

Anybody may lift it: the step, the watchman, the lifter Job. All of them use `lift` here, and all leave alone
what a later attempt has put up.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pydantic import ValidationError

from schemas.nodes import BLOCK_KEY
from workers.adapters.cluster import Cluster, Conflict
from workers.adapters.cluster_kinds import CONFIG_MAP, NODE, Kind, Object, key_of
from workers.adapters.firewall import NodeBlock
from workers.errors import Stuck, Wait
from workers.proof import means
from workers.proof.means.terms import EXPIRES, LABEL, WORLD, Terms, present
from workers.proof.pods import TOKEN

if TYPE_CHECKING:
    from workers.sovereign import Sovereign
    from workers.world import World

NODE_MEANS = "node firewall with expiring entries"


def open_addresses(nodes: Iterable[Object], allow: Iterable[str]) -> tuple[str, ...]:
    """What a node must still reach: every node, every Pod range, and what the description lists."""
    found: list[str] = []
    for node in nodes:
        found += [str(c) for c in (node.get("spec") or {}).get("podCIDRs") or ()]
        for address in (node.get("status") or {}).get("addresses") or ():
            if address["type"] in {"InternalIP", "ExternalIP"}:
                found.append(str(ipaddress.ip_network(address["address"])))
    return tuple(dict.fromkeys([*found, *allow]))


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a block's parts stand."""

    namespace: str
    config_map: str

    @classmethod
    def of(cls, sovereign: Sovereign) -> Placement:
        """As the description says."""
        return cls(sovereign.nodes.namespace, sovereign.nodes.plan_config_map)

    @property
    def order(self) -> str:
        """Where the nodes' order stands, for people."""
        return f"{BLOCK_KEY} in ConfigMap {self.namespace}/{self.config_map}"


@dataclass(frozen=True, slots=True)
class _Part:
    """One object of the block as we left it."""

    generation: int | None
    spec: Object
    uid: str = ""


class Block:
    """One attempt's block. `prepare`, `apply`, `renew` while it is needed, and `lift` on every path."""

    def __init__(self, world: World, token: int) -> None:
        self._world, self._token = world, token
        self._proof, self._place = world.sovereign.proof, Placement.of(world.sovereign)
        self._open: tuple[str, ...] = ()
        self._means: means.PodMeans | None = None
        self._stands: dict[tuple[str, str], _Part] = {}
        self._addresses: frozenset[str] = frozenset()
        self._resolvers: tuple[str, ...] = ()
        self._ordered: tuple[str, ...] = ()
        """What may stand as the nodes' order by our own doing: two texts while the answer to a write is awaited."""
        self._turn = asyncio.Lock()

    @property
    def words(self) -> tuple[str, ...]:
        """What closes the way out, and what that leaves open, for the evidence."""
        means_ = self.pods
        count = f" ({len(self._addresses)} of them)" if means_.by_address else ""
        but = f"; not covered: {means_.uncovered}" if means_.uncovered else ""
        asked = f"; open on port 53: {', '.join(self._resolvers)}" if self._resolvers else ""
        return (f"{means_.words}{count}{but}", f"{NODE_MEANS}{asked}")

    @property
    def by_address(self) -> bool:
        """True when it must `learn` what the upstream names resolve to, before and during the hold."""
        return self.pods.by_address

    def names_at(self, resolvers: Iterable[str]) -> None:
        """Who nodes ask for names: they stay open to nodes, on port 53 alone, or no pull would find local Harbor."""
        self._resolvers = tuple(sorted(set(resolvers)))

    async def learn(self, addresses: Iterable[str]) -> None:
        """Close these as well, at once when the block stands. None is ever opened again before the end."""
        new = self._addresses | frozenset(addresses)
        if new != self._addresses:
            self._addresses = new
            if self._stands:
                await self.renew()

    @property
    def pods(self) -> means.PodMeans:
        """The means chosen for Pods."""
        if self._means is None:
            raise RuntimeError("prepare() comes first")
        return self._means

    async def prepare(self) -> None:
        """Find the means. Raises Stuck when there is none to block Pods or nodes here."""
        cluster, place = self._world.cluster, self._place
        self._means = await means.choose(cluster, self._proof.allow_cidrs, self._proof.means)
        if await cluster.get(CONFIG_MAP, place.config_map, place.namespace) is None:
            message = f"ConfigMap {place.namespace}/{place.config_map} is missing; run registry-pivot first"
            raise Stuck("CannotBlock", message)

    async def apply(self) -> None:
        """Close Pods' and nodes' way out until now + lease."""
        if self._means is None:
            await self.prepare()
        self._open = open_addresses(await self._world.cluster.list(NODE), self._proof.allow_cidrs)
        await self.renew()

    async def renew(self) -> None:
        """Move the end further away. What stood and is gone is not put up again: that time would not count.

        Nor may a worker that slept through its lease bring a block back that others have lifted.
        """
        async with self._turn:
            until = datetime.now(UTC) + timedelta(seconds=self._proof.lease)
            manager = self._world.sovereign.field_manager
            addresses = tuple(sorted(self._addresses))
            terms = Terms(self._proof.policy, self._proof.allow_cidrs, until, self._token, manager, addresses)
            for obj in await self.pods.objects(self._world.cluster, terms):
                await self._stand(obj, terms)
            order = NodeBlock(
                deny=WORLD,
                allow=self._open,
                expires_at=until,
                token=self._token,
                lease=self._proof.lease,
                resolvers=self._resolvers,
            )
            await self._order(order.model_dump_json())

    async def _order(self, text: str) -> None:
        """The nodes' order, put up once and then moved: one that went away meanwhile left the nodes open."""
        cluster, place = self._world.cluster, self._place
        if self._ordered and await _ordered(cluster, place) not in self._ordered:
            raise lost(f"somebody removed or changed {place.order}")
        self._ordered = (*self._ordered, text)
        await _order_nodes(cluster, place, text)
        self._ordered = (text,)

    async def _stand(self, obj: Object, terms: Terms) -> None:
        """One object, put up when it never stood; else its end moved, and its spec when that has changed."""
        key, kind, cluster = key_of(obj), self.pods.kind, self._world.cluster
        part = self._stands.get(key)
        if part is None:
            made = await cluster.apply(kind, obj)
            self._stands[key] = _Part(made["metadata"].get("generation", 0), obj["spec"], _uid(made))
            return
        body: Object = {"metadata": {"annotations": terms.annotations()}}
        if obj["spec"] != part.spec:
            # Between our write and its answer the watch may show our own change: any generation is ours until then.
            self._stands[key] = _Part(None, obj["spec"], part.uid)
            body["spec"] = obj["spec"]
        made = await self._renewed(kind, key, part, body)
        if "spec" in body:
            self._stands[key] = _Part(made["metadata"].get("generation", 0), obj["spec"], part.uid)

    async def _renewed(self, kind: Kind, key: tuple[str, str], part: _Part, body: Object) -> Object:
        """Written on what we put up and on nothing else: read first, and refused when it changed meanwhile."""
        cluster, (namespace, name) = self._world.cluster, key
        while True:
            there = await cluster.get(kind, name, namespace or None)
            if why := self._other(key, there, part):
                raise lost(why)
            version = there["metadata"]["resourceVersion"] if there else ""
            precise = {**body, "metadata": {**body["metadata"], "resourceVersion": version}}
            try:
                return await cluster.patch(kind, name, namespace or None, precise)
            except Conflict:
                continue
            except Wait as error:
                if error.reason == "ObjectAbsent":
                    raise lost(f"somebody removed {kind.kind} {name}") from error
                raise

    def broken(self, seen: Iterable[Object]) -> str | None:
        """What of the block was removed or changed by somebody; `seen`: what stands now."""
        there = {key_of(o): o for o in seen if "deletionTimestamp" not in o["metadata"]}
        return next(filter(None, (self._other(key, there.get(key), part) for key, part in self._stands.items())), None)

    def _other(self, key: tuple[str, str], obj: Object | None, part: _Part) -> str | None:
        """Why this object is not the part as we left it."""
        name = f"{self.pods.kind.kind} {'/'.join(filter(None, key))}"
        if obj is None:
            return f"somebody removed {name}"
        if part.uid and _uid(obj) != part.uid:
            return f"somebody removed {name} and made another"
        # A lower generation is our own from before: the watch is a moment behind.
        if part.generation is not None and obj["metadata"].get("generation", 0) > part.generation:
            return f"somebody changed {name}"
        if (token := token_of(obj)) != self._token:
            return f"attempt {token or 'unknown'} took over {name}"
        return None


def _uid(obj: Object) -> str:
    return str(obj["metadata"].get("uid", ""))


def token_of(obj: Object) -> int:
    """Fencing token of the attempt whose block this is; 0 when it does not say."""
    text = (obj["metadata"].get("annotations") or {}).get(TOKEN, "")
    return int(text) if text.isdigit() else 0


def lost(what: str) -> Stuck:
    """The block was taken away."""
    return Stuck("BlockLost", f"{what} during the hold; nothing after that counts")


def not_lifted(left: Sequence[str], when: str) -> Stuck:
    """Parts of the block stand though they were taken away."""
    names = ", ".join(left[:5]) + (f" and {len(left) - 5} more" if len(left) > 5 else "")
    return Stuck("BlockNotLifted", f"still there {when}: {names}; delete it by hand")


async def _order_nodes(cluster: Cluster, place: Placement, text: str | None) -> None:
    body: Object = {"data": {BLOCK_KEY: text}}
    await cluster.patch(CONFIG_MAP, place.config_map, place.namespace, body)


async def _ordered(cluster: Cluster, place: Placement) -> str:
    """The nodes' order as it stands; empty when there is none."""
    plan = await cluster.get(CONFIG_MAP, place.config_map, place.namespace)
    return str(((plan or {}).get("data") or {}).get(BLOCK_KEY, ""))


def expired(policy: Object, now: datetime) -> bool:
    """True when the policy's own end is past, or cannot be read: a block without an end must not stay."""
    text = (policy["metadata"].get("annotations") or {}).get(EXPIRES, "")
    try:
        return datetime.fromisoformat(text) <= now
    except (ValueError, TypeError):
        return True


@dataclass(frozen=True, slots=True)
class Standing:
    """Every part of a block that stands now, whoever put it up."""

    policies: tuple[tuple[Kind, Object], ...]
    order: str

    def __bool__(self) -> bool:
        return bool(self.policies or self.order)

    def _order(self) -> NodeBlock | None:
        try:
            return NodeBlock.model_validate_json(self.order) if self.order else None
        except ValidationError:
            return None

    def alive(self, now: datetime) -> bool:
        """True while somebody's renewal of any part is not over."""
        order = self._order()
        return any(not expired(p, now) for _, p in self.policies) or (order is not None and order.remaining(now) > 0)

    def newest(self) -> int:
        """The newest token on it."""
        order = self._order()
        return max([token_of(p) for _, p in self.policies] + [order.token if order else 0], default=0)

    def names(self, place: Placement) -> list[str]:
        """Every part, as a person finds it."""
        found = [f"{kind.kind} {'/'.join(filter(None, key_of(obj)))}" for kind, obj in self.policies]
        return [*found, place.order] if self.order else found


async def standing(cluster: Cluster, place: Placement) -> Standing:
    """What stands, by its label: the name may have been configured differently when it was put up."""
    found: list[tuple[Kind, Object]] = []
    for kind in means.KINDS:
        found += [(kind, obj) for obj in await present(cluster, kind, f"{LABEL}=true")]
    return Standing(tuple(found), await _ordered(cluster, place))


async def lift(world: World, *, token: int | None = None, only_expired_at: datetime | None = None) -> bool:
    """`lift_at`, where the description says."""
    place = Placement.of(world.sovereign)
    return await lift_at(world.cluster, place, token=token, only_expired_at=only_expired_at)


async def lift_at(
    cluster: Cluster, place: Placement, *, token: int | None = None, only_expired_at: datetime | None = None
) -> bool:
    """Open the way out again. False when nothing was closed, or when it is not ours to open.

    `token`: leave a block of an attempt that fenced us off. `only_expired_at`: leave one that still has time.
    """
    found = await standing(cluster, place)
    if not found or (token is not None and found.newest() > token):
        return False
    if only_expired_at is not None and found.alive(only_expired_at):
        return False
    for kind, obj in found.policies:
        namespace, name = key_of(obj)
        await cluster.delete(kind, name, namespace or None)
    if found.order:
        await _order_nodes(cluster, place, None)
    left = await standing(cluster, place)
    if left and (token is None or left.newest() <= token):
        raise not_lifted(left.names(place), "after it was deleted")
    return True
