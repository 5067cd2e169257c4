"""Step 8: with every way out closed, for as long as required, everything is made to work.

Changes   nothing that lasts, but one commit in local Gitea; the block is lifted on every path
True when the block bit, cut nothing of the Sovereign's own, was held without a gap, forced work succeeded
          under it, and canaries got out again afterwards: it was the block, not an outage
Safe to repeat: what an earlier attempt left behind is removed first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import anyio

from schemas.progress import Progress
from schemas.results import EgressProven
from workers.adapters.cluster_kinds import CILIUM_CLUSTERWIDE_POLICY, Object
from workers.errors import Stuck, Trouble, Wait
from workers.proof import block as blocking
from workers.proof import canaries, declared, forced, pods, pulls
from workers.proof.block import Block, lift
from workers.proof.canaries import Sample, words
from workers.proof.health import FluxWatch
from workers.proof.hold import HoldClock
from workers.sovereign import Proof
from workers.world import Order, Report, World

__all__ = ["lift", "plan", "run"]

TICK = 0.5  # seconds
LONGEST_GAP = 5.0  # seconds nobody looked before the clock starts anew
BITE = 60.0  # seconds for a policy to reach every node's datapath, or to leave it
LIFTING = 30.0  # seconds for lifting on the way out


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be held, and how."""

    hold: float
    rehearsal: bool
    sample: float
    """Seconds between two samples; at least three in every hold."""
    most: float
    """Seconds after which a clock that started anew too often gives up."""


def plan(proof: Proof) -> Plan:
    """The measure of this proof. A hold shorter than required is a rehearsal, whatever comes out."""
    return Plan(
        hold=proof.hold,
        rehearsal=proof.hold < proof.required,
        sample=min(proof.sample, proof.hold / 3),
        most=3 * proof.hold + 600,
    )


@dataclass(slots=True)
class Holding:
    """What came to light while the block stood."""

    clock: HoldClock
    bite: Sample
    last: Sample
    forced: list[str] = field(default_factory=list)
    blind: str | None = None
    """What the canaries could not see at their last turn."""
    turns: int = 0

    def gap(self, watch: FluxWatch) -> str | None:
        """Why the clock may not count now."""
        return self.blind or watch.gap()


async def run(order: Order, world: World, report: Report) -> EgressProven:
    """Check, block, hold, lift, check again."""
    measure = plan(world.sovereign.proof)
    nodes = await pods.node_names(world.cluster)
    await pods.sweep(world.cluster, world.sovereign.nodes.namespace, order.token)
    await lift(world, token=order.token)
    block = Block(world, order.token)
    await block.possible()
    before = await _before(order, world, report, nodes)
    blocked_at = datetime.now(UTC)
    try:
        await block.apply()
        holding = await _held(order, world, report, nodes, measure, block, blocked_at)
    finally:
        with anyio.move_on_after(LIFTING, shield=True):
            await lift(world, token=order.token)
    lifted_at = datetime.now(UTC)
    await _really_lifted(world)
    await report(Progress(message="block lifted; canaries go out again", percent=97))
    after = await _freed(order, world, nodes)
    kind = "rehearsal" if measure.rehearsal else "proof"
    return EgressProven(
        changes=0,
        summary=f"{kind}: egress blocked {holding.clock.held:.0f} s of {world.sovereign.proof.required:.0f} s "
        f"required, {len(holding.forced)} kinds of work forced, nothing changed that lasts",
        held_seconds=round(holding.clock.held, 3),
        required_seconds=world.sovereign.proof.required,
        rehearsal=measure.rehearsal,
        means=blocking.MEANS,
        blocked_hosts=tuple(canaries.targets(world.sovereign).upstream.values()),
        before=before.upstream,
        during=(*holding.bite.upstream, *holding.last.upstream),
        after=after.upstream,
        forced=tuple(holding.forced),
        restarts=holding.clock.restarts,
        blocked_at=blocked_at,
        lifted_at=lifted_at,
    )


async def _really_lifted(world: World) -> None:
    name = world.sovereign.proof.policy
    if await world.cluster.get(CILIUM_CLUSTERWIDE_POLICY, name) is not None:
        raise Stuck("BlockNotLifted", f"{name} could not be removed within {LIFTING:g} s; delete it by hand")


async def _before(order: Order, world: World, report: Report, nodes: Sequence[str]) -> Sample:
    """Nothing is tied upstream, everything is green, and the way out is open: else the proof means nothing."""
    await report(Progress(message="before the block: declared sources, health, canaries", percent=1))
    if left := await declared.tethers(world):
        raise Stuck("TetherLeft", f"still declared: {'; '.join(left[:8])}")
    watch = FluxWatch(world.cluster, world.sovereign.flux.timeout)
    await watch.look()
    async with _beside(watch.run()):
        unsettled = await watch.settle(world.sovereign.flux.timeout)
    if unsettled:
        raise Stuck("NotGreenBefore", f"not Ready before the block: {'; '.join(unsettled[:5])}")
    found = await canaries.sample(world, nodes, order.token, "before")
    check_before(found)
    return found


def check_before(found: Sample) -> None:
    """Raise Stuck unless every canary reaches everything."""
    if shut := found.shut_in():
        raise Stuck("OfflineAlready", f"without any block these are not reached: {words(shut)}")
    if cut := found.cut_off():
        raise Stuck("LocalUnreachable", f"without any block these are not reached: {words(cut)}")


async def _held(
    order: Order,
    world: World,
    report: Report,
    nodes: Sequence[str],
    measure: Plan,
    block: Block,
    blocked_at: datetime,
) -> Holding:
    """The block bites; then the clock, with everything that may stop it running beside it."""
    async with _beside(_renewing(block)):
        await report(Progress(message="egress blocked; checking that the block bites", percent=5))
        bite = await _bites(order, world, nodes)
        holding = Holding(HoldClock(measure.hold, LONGEST_GAP), bite, bite)
        watch = FluxWatch(world.cluster, world.sovereign.flux.timeout)
        await watch.look()
        work = asyncio.ensure_future(_force(order, world, nodes, holding, blocked_at))
        sampling = _sampling(order, world, nodes, holding, measure.sample)
        async with _beside(watch.run(), _policy_stands(world), sampling, _future(work)):
            await _count(holding, watch, measure, work, report)
        # The last word is a look taken after the whole hold.
        holding.last = await canaries.sample(world, nodes, order.token, "last")
        check_bite(holding.last)
        if reds := watch.red():
            raise Stuck("NotGreenUnderBlock", "; ".join(reds[:5]))
    return holding


async def _count(holding: Holding, watch: FluxWatch, measure: Plan, work: asyncio.Future[None], report: Report) -> None:
    """Tick until it was held long enough and all forced work is done."""
    began = time.monotonic()
    while not (holding.clock.done and work.done()):
        if reds := watch.red():
            raise Stuck("NotGreenUnderBlock", "; ".join(reds[:5]))
        now = time.monotonic()
        if now - began > measure.most:
            message = f"held {holding.clock.held:.0f} s after {now - began:.0f} s: {holding.gap(watch)}"
            raise Stuck("HoldNotReached", message)
        holding.clock.tick(now, holding.gap(watch))
        await report(_progress(holding, watch, measure))
        await asyncio.sleep(TICK)


def _progress(holding: Holding, watch: FluxWatch, measure: Plan) -> Progress:
    left = holding.clock.remaining
    gap = holding.gap(watch)
    message = f"holding; clock stands: {gap}" if gap else f"holding; {len(holding.forced)} works done"
    return Progress(
        message=message[:300],
        percent=10 + int(85 * (1 - left / measure.hold)),
        hold_seconds_remaining=round(left, 1),
    )


async def _renewing(block: Block) -> None:
    while True:
        await asyncio.sleep(blocking.RENEW)
        await block.renew()


async def _bites(order: Order, world: World, nodes: Sequence[str]) -> Sample:
    """The first sample in which nobody gets out; a datapath takes a moment to be programmed."""
    deadline = time.monotonic() + BITE
    turn = 0
    while True:
        found = await canaries.sample(world, nodes, order.token, f"bite{turn}")
        if not found.escaped() or time.monotonic() > deadline:
            check_bite(found)
            return found
        turn += 1


def check_bite(found: Sample) -> None:
    """Raise Stuck unless nobody gets out, and everybody is still in touch."""
    if escaped := found.escaped():
        raise Stuck("EgressNotBlocked", f"under the block these were reached: {words(escaped)}")
    if cut := found.cut_off():
        message = f"the block cuts more than egress: {words(cut)}; set sovereign.proof.allow_cidrs"
        raise Stuck("BlockCutsTooMuch", message)


async def _sampling(order: Order, world: World, nodes: Sequence[str], holding: Holding, pause: float) -> None:
    """Canaries over and over. One that gets out ends the proof; one that is not heard is a gap."""
    while True:
        await asyncio.sleep(pause)
        holding.turns += 1
        try:
            found = await canaries.sample(world, nodes, order.token, f"s{holding.turns}")
        except Wait as error:
            holding.blind = str(error)
            continue
        if found.escaped():
            check_bite(found)
        cut = found.cut_off()
        holding.blind = f"not in touch: {words(cut)}" if cut else None
        holding.last = found


async def _policy_stands(world: World) -> None:
    """Returns never while the policy stands; raises Stuck when somebody takes it away."""
    name = world.sovereign.proof.policy
    while True:

        def gone(obj: Object | None) -> bool:
            return obj is None or "deletionTimestamp" in obj["metadata"]

        try:
            await world.cluster.wait(CILIUM_CLUSTERWIDE_POLICY, name, None, gone, 3600)
        except Wait:
            # Nothing happened for an hour, or the watch broke: look again, the canaries look meanwhile.
            await asyncio.sleep(TICK)
        else:
            raise Stuck("BlockLost", f"somebody removed {name} during the hold; nothing after that counts")


async def _force(order: Order, world: World, nodes: Sequence[str], holding: Holding, blocked_at: datetime) -> None:
    """All forced work, one line of evidence each."""
    token = f"{order.token}-{blocked_at.timestamp():.0f}"
    sha = await forced.commit(world, order, blocked_at)
    holding.forced.append(await forced.flows(world, sha, token))
    holding.forced.append(await forced.charts(world, blocked_at, token))
    pulled = await pulls.prove(world, nodes, order.token, "hold")
    holding.forced.append(f"{pulled.local_only} pulled and {pulled.upstream_only} refused on {len(nodes)} nodes")


async def _freed(order: Order, world: World, nodes: Sequence[str]) -> Sample:
    """Everybody gets out again."""
    deadline = time.monotonic() + BITE
    turn = 0
    while True:
        found = await canaries.sample(world, nodes, order.token, f"after{turn}")
        if not found.shut_in():
            return found
        if time.monotonic() > deadline:
            message = f"the block is lifted, yet not reached: {words(found.shut_in())}; was it an outage?"
            raise Stuck("StillOffline", message)
        turn += 1


async def _future(work: asyncio.Future[None]) -> None:
    await work


@asynccontextmanager
async def _beside(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run these beside the block; the first trouble of any ends it, and its end ends them."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(w) for w in works]
            yield
            for task in tasks:
                task.cancel()
    except BaseExceptionGroup as several:
        raise _worst(several) from several


def _worst(several: BaseExceptionGroup[BaseException]) -> BaseException:
    """One of many: what a person must act on before what may pass, and that before a defect."""
    flat: list[BaseException] = []
    for error in several.exceptions:
        flat.append(_worst(error) if isinstance(error, BaseExceptionGroup) else error)
    ranked = sorted(flat, key=lambda e: (not isinstance(e, Stuck), not isinstance(e, Trouble)))
    return ranked[0]
