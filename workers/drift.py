"""After completion: watch the objects that may hold a tether, and say in the journal when one is back.

Event-driven: an audit runs when something that matters has changed, never by the clock. Any number of processes may
watch; the journal takes each finding once.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field

import anyio
import orjson

from events.envelope import Undecodable, data_of, read
from events.fold import State
from events.journal import Journal
from events.log import Conflict, LogUnavailable
from schemas.events import Audited
from workers.adapters.cluster import CONFIG_MAP, JOB, NODE, POD, SECRET, Kind, Object, key_of
from workers.audit.survey import SOURCES, WORKLOADS, audit
from workers.credentials import NOT_HELM, places
from workers.errors import Trouble
from workers.scribe import Scribe
from workers.world import World

log = logging.getLogger("cutover.drift")

CALM = 2.0
"""Seconds after a change before it is looked at: one apply changes many objects."""
AGAIN = 30.0
"""Seconds until what could not be read is tried once more before anybody is alarmed."""
LATER = 300.0
"""Seconds until a kind that is not served, or not ours to watch, is tried again. The audit itself tells of it."""
HOUR = 3600.0

WATCHED = (*SOURCES, *(kind for kind in WORKLOADS if kind not in (POD, JOB)), NODE)

Named = Callable[[], Awaitable[str]]
"""Gives the id of the key that signs certificates."""


async def serve(journal: Journal, world: World, scribe: Scribe, named: Named) -> None:
    """Watch while the cutover is complete and no run is under way, for ever. `journal.tail` must run beside."""
    state = journal.state
    while True:
        while not settled(state):
            state = await journal.moved(state.seq)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_Watch(journal, world, scribe, named).serve)
            while settled(state):
                state = await journal.moved(state.seq)
            tasks.cancel_scope.cancel()


def settled(state: State) -> bool:
    """Complete, and nobody is changing anything."""
    return state.complete and not state.active and not state.broken


@dataclass
class _Watch:
    """One stretch of time in which nothing should change."""

    journal: Journal
    world: World
    scribe: Scribe
    named: Named
    changed: anyio.Event = field(default_factory=anyio.Event)

    async def serve(self) -> None:
        async with anyio.create_task_group() as tasks:
            for kind in WATCHED:
                tasks.start_soon(self._follow, kind)
            for place in places(self.world.sovereign):
                tasks.start_soon(self._follow, SECRET, place)
            nodes = self.world.sovereign.nodes
            tasks.start_soon(self._follow, CONFIG_MAP, nodes.namespace, nodes.plan_config_map)
            tasks.start_soon(self._listen)
            while True:
                self.changed = anyio.Event()
                await self._look()
                give_back()
                await self.changed.wait()
                await anyio.sleep(CALM)

    async def _look(self) -> None:
        """One audit, told to the journal when it says something new."""
        found = await audit(self.world)
        if found.unreadable:
            await anyio.sleep(AGAIN)
            found = await audit(self.world)
        try:
            fact = found.fact(await self.named())
            await self._tell(fact)
        except (Trouble, Conflict, LogUnavailable) as error:
            log.warning("audit not told: %s", error)
            await anyio.sleep(AGAIN)
            self.changed.set()

    async def _tell(self, fact: Audited) -> None:
        state = self.journal.state
        run = state.run
        if run is None or not settled(state):
            return
        last, seq = await self._last(run.accepted)
        if last is not None and same(last, fact):
            return
        # The worker in the id: of two that found the same, the journal takes one and tells the other so.
        draft = self.scribe.run(run, f"audited.{seq}.{digest(fact)[:12]}.{self.scribe.worker}", fact)
        await self.journal.append(draft, if_seq=state.seq)
        log.log(logging.INFO if fact.clean else logging.WARNING, "audited: %s", told(fact))

    async def _last(self, after: int) -> tuple[Audited | None, int]:
        """The newest audit of the run, and where it stands."""
        found, seq = None, after
        for entry in await self.journal.keeper.since(after):
            try:
                data = data_of(read(entry.raw))
            except Undecodable:
                continue
            if isinstance(data, Audited):
                found, seq = data, entry.seq
        return found, seq

    async def _listen(self) -> None:
        """Nodes that answer."""
        while True:
            await self.world.nodes.changed(HOUR)
            self.changed.set()

    async def _follow(self, kind: Kind, where: str | None = None, name: str | None = None) -> None:
        """Every change of a kind that matters, for ever."""
        seen: dict[tuple[str, str], str] = {}
        while True:
            try:
                if await self.world.cluster.served(kind):
                    await self._changes(kind, where, name, seen)
            except Trouble as error:
                log.warning("%s is not watched: %s", kind.resource, error)
                self.changed.set()
            await anyio.sleep(LATER)

    async def _changes(self, kind: Kind, where: str | None, name: str | None, seen: dict[tuple[str, str], str]) -> None:
        labels = NOT_HELM if kind is SECRET else None
        async with aclosing(self.world.cluster.watch(kind, where, name=name, labels=labels)) as changes:
            async for change, obj in changes:
                now = "" if change == "DELETED" else mark(kind, obj)
                if seen.get(key_of(obj)) != now:
                    seen[key_of(obj)] = now
                    self.changed.set()


def give_back() -> None:
    """A cutover is done once and watched for months: what it needed of memory goes back to the node. glibc only."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def mark(kind: Kind, obj: Object) -> str:
    """What of an object matters, in a word: its spec's generation, or for kinds without one its data."""
    meta = obj["metadata"]
    if kind is NODE:
        return str(meta.get("uid"))
    if kind in (SECRET, CONFIG_MAP):
        return hashlib.sha256(orjson.dumps(obj.get("data") or {}, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return f"{meta.get('uid')}/{meta.get('generation')}"


def digest(fact: Audited) -> str:
    """Of what was found, whoever signs."""
    return hashlib.sha256(orjson.dumps(list(fact.findings), option=orjson.OPT_SORT_KEYS)).hexdigest()


def same(one: Audited, other: Audited) -> bool:
    """Do they say the same?"""
    return one.clean == other.clean and digest(one) == digest(other)


def told(fact: Audited) -> str:
    """In a line."""
    places = [f"{f['kind']} {f['name']} {f['field']}: {f['host']}" for f in fact.findings[:5]]
    return "; ".join(places) or "nothing leads outside"
