"""Make Flux act now, and wait until it did what was asked, by watching."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import TypeVar

import anyio

from workers import flux
from workers.adapters.cluster import KUSTOMIZATION, Cluster, Kind, Object, Seen, WaitedInVain, key_of
from workers.errors import Stuck, Wait

Thing = TypeVar("Thing")
Key = tuple[str, str]
"""(namespace, name)."""

GRACE = 15.0
"""Seconds after which what keeps failing is called failed: Flux's own first retries lie within."""
FIRST_LOOK = 1.0
"""Seconds until the first look at who is late; then twice as long each time, up to GRACE."""
BY_ITSELF = flux.ELSEWHERE | {"Progressing", "ProgressingWithRetry"}
"""Why a Flux object is not Ready while it, or what it depends on, is being looked at again."""
ON_ITS_WAY = 45.0
"""Seconds that such a look takes: kustomize- and helm-controller come back to a dependency after 30."""
AT_ONCE = 16
"""Requests to the API server that are under way at the same time."""


def new_token() -> str:
    """A reconcile request that no one made before; Flux's own CLI writes the time too."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


async def each(things: Iterable[Thing], do: Callable[[Thing], Awaitable[object]]) -> None:
    """Do it for every thing, several at once; the first trouble ends the others and is raised by itself."""
    limit = anyio.Semaphore(AT_ONCE)
    troubles: list[Exception] = []

    async def one(thing: Thing) -> None:
        async with limit:
            if troubles:
                return
            try:
                await do(thing)
            except Exception as error:
                troubles.append(error)
                group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for thing in things:
            group.start_soon(one, thing)
    if troubles:
        raise troubles[0]


async def request(cluster: Cluster, kind: Kind, keys: Iterable[Key]) -> str:
    """Ask for a reconcile of each; the token to wait for."""
    token = new_token()
    await each(keys, lambda key: cluster.request_reconcile(kind, key[1], key[0], token))
    return token


async def settled(
    cluster: Cluster,
    kind: Kind,
    wanted: Mapping[Key, str | None],
    timeout: float,
    *,
    token: str | None = None,
    guard: Callable[[Seen], None] | None = None,
) -> Seen:
    """All objects of the kind, once each wanted one has converged, at its revision when one is given.

    Raises Stuck `<Kind>Suspended` or `<Kind>Failed` where waiting cannot help, else Wait `<Kind>NotReady`; and what
    `guard` raises on a look at them all: then there is nothing left to wait for.
    """

    def verdicts(seen: Seen) -> dict[Key, flux.Verdict]:
        return {key: flux.converged(seen.get(key), revision, token) for key, revision in wanted.items()}

    def over(seen: Seen) -> bool:
        if guard is not None:
            guard(seen)
        found = verdicts(seen).values()
        return all(v.state is flux.State.READY for v in found) or any(v.final for v in found)

    seen = await patiently(cluster, kind, over, lambda s: lagging(verdicts(s)), timeout)
    for key, verdict in verdicts(seen).items():
        if verdict.final:
            suspended = verdict.state is flux.State.SUSPENDED
            raise Stuck(f"{kind.kind}{'Suspended' if suspended else 'Failed'}", f"{'/'.join(key)}: {verdict}")
    return seen


async def brought(
    cluster: Cluster,
    kind: Kind,
    wanted: Mapping[Key, str | None],
    timeout: float,
    *,
    again: bool,
    guard: Callable[[Seen], None] | None = None,
) -> Seen:
    """As `settled`, asking first. Unless `again`, who is there already is not asked: so a repeat writes nothing.

    What has converged without a request of ours says only that nothing changed since Flux looked last. That is
    proof where the revision is a commit of our own, and none of what was changed a moment ago.
    """
    if not again:
        found = {key_of(obj): obj for obj in await cluster.list(kind)}
        late = lagging({key: flux.converged(found.get(key), revision) for key, revision in wanted.items()})
        if not late:
            return found
        if all(verdict.reason in BY_ITSELF for verdict in late.values()):
            # Flux looks just now, on its interval: it need not be asked.
            with contextlib.suppress(Wait):
                return await settled(cluster, kind, wanted, min(ON_ITS_WAY, timeout))
    token = await request(cluster, kind, wanted)
    return await settled(cluster, kind, wanted, timeout, token=token, guard=guard)


def lagging(verdicts: Mapping[Key, flux.Verdict]) -> dict[Key, flux.Verdict]:
    """Those that have not converged."""
    return {key: v for key, v in verdicts.items() if v.state is not flux.State.READY}


async def patiently(
    cluster: Cluster,
    kind: Kind,
    over: Callable[[Seen], bool],
    late: Callable[[Seen], Mapping[Key, flux.Verdict]],
    timeout: float,
    *,
    nudge: Callable[[Iterable[Key]], Awaitable[object]] | None = None,
) -> Seen:
    """All objects of the kind, once it is over. Gives up early on failures that stay, when nothing else moves either:
    what depends on a failed one waits for it.

    `nudge` is given those that merely wait, now and then: a controller may have looked into an old cache.
    """
    begin, look = time.monotonic(), FIRST_LOOK
    since: dict[Key, float] = {}
    before: tuple[frozenset[Key], float] = frozenset(), begin
    while True:
        left = begin + timeout - time.monotonic()
        try:
            return await cluster.wait_all(kind, None, over, min(look, max(0.1, left)))
        except WaitedInVain as vain:
            now, laggards = time.monotonic(), late(vain.seen)
            failed = {key for key, verdict in laggards.items() if verdict.state is flux.State.FAILED}
            since = {key: since.get(key, now) for key in failed}
            if laggards.keys() != before[0]:
                before = frozenset(laggards), now
            still = failed == laggards.keys() or now - before[1] >= GRACE
            hopeless = bool(failed) and still and all(now - t >= GRACE for t in since.values())
            if hopeless or now >= begin + timeout:
                raise Wait(f"{kind.kind}NotReady", told(laggards)) from None
            if nudge is not None and (waiting := laggards.keys() - failed):
                await nudge(waiting)
            look = min(2 * look, GRACE)


def told(laggards: Mapping[Key, flux.Verdict], most: int = 5) -> str:
    """The late ones in words, a few of them by name."""
    words = [f"{'/'.join(key)}: {verdict}" for key, verdict in sorted(laggards.items())[:most]]
    more = [f"and {len(laggards) - most} more"] if len(laggards) > most else []
    return "; ".join([*words, *more]) or "nothing is late, and yet the time is up"


async def applied(
    cluster: Cluster,
    kustomizations: Iterable[Object],
    commit: str,
    timeout: float,
    *,
    must: frozenset[Key] = frozenset(),
    again: bool = True,
) -> None:
    """Every Kustomization has applied the commit, in the order of their dependencies; with `again`, once more.

    A suspended one applies nothing, so it is left alone; unless it is among `must`, then Stuck.
    """
    active = [k for k in kustomizations if not (k.get("spec") or {}).get("suspend") or key_of(k) in must]
    for level in flux.in_order(active):
        wanted = dict.fromkeys((flux.key(k) for k in level), commit)
        await brought(cluster, KUSTOMIZATION, wanted, timeout, again=again)
