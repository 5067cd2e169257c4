"""Step 8: with every way out closed, for as long as required, everything is made to work.

Changes   nothing that lasts, but one commit in local Gitea; the block is lifted on every path
True when the block bit, cut nothing of the Sovereign's own, was held without a gap, forced work succeeded
          under it, and canaries got out again afterwards: it was the block, not an outage
Safe to repeat: what an earlier attempt left behind is removed first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import anyio

from schemas.progress import Progress
from schemas.results import EgressProven
from workers.adapters.cluster_kinds import Seen
from workers.errors import Stuck, Wait
from workers.proof import canaries, census, declared, forced, lifter, names, pods, pulls
from workers.proof.beside import beside
from workers.proof.block import Block, Placement, lift, lost, not_lifted, standing
from workers.proof.canaries import Sample, Ways, words
from workers.proof.health import FluxWatch
from workers.proof.hold import HoldClock, now
from workers.proof.holding import Ground, Holding, excused
from workers.proof.means.terms import LABEL
from workers.sovereign import Proof
from workers.world import Order, Report, World

__all__ = ["lift", "plan", "run"]

TICK = 0.5  # seconds
LONGEST_GAP = 5.0  # seconds nobody looked before the clock starts anew
BITE = 60.0  # seconds for a policy to reach every node's datapath, or to leave it
ASKED = 4  # samples before the block until a way that is shut counts as shut
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
        rehearsal=proof.rehearsal or proof.hold < proof.required,
        sample=min(proof.sample, proof.hold / 3),
        most=3 * proof.hold + 600,
    )


async def run(order: Order, world: World, report: Report) -> EgressProven:
    """Check, block, hold, lift, check again."""
    measure = plan(world.sovereign.proof)
    await pods.sweep(world.cluster, None, order.token)
    await _nobody_holds(world, order)
    block = Block(world, order.token)
    await block.prepare()
    ground = await _before(order, world, report)
    before = ground.before
    block.names_at(await names.resolvers(world, ground.names, order.token))
    if block.by_address:
        await block.learn(await names.resolved(world, ground.names, order.token, "names"))
    async with lifter.beside(world, order.token, seconds=measure.most, kind=block.pods.kind):
        blocked_at = datetime.now(UTC)
        try:
            await block.apply()
            holding = await _held(order, world, report, ground, measure, block, blocked_at)
        finally:
            with anyio.move_on_after(LIFTING, shield=True):
                await lift(world, token=order.token)
        lifted_at = datetime.now(UTC)
        await _really_lifted(world)
    await report(Progress(message="block lifted; canaries go out again", percent=97))
    after = await _freed(order, world, ground.names)
    kind = "rehearsal" if measure.rehearsal else "proof"
    return EgressProven(
        changes=0,
        summary=f"{kind}: egress blocked {holding.clock.held:.0f} s of {world.sovereign.proof.required:.0f} s "
        f"required, {len(holding.forced)} kinds of work forced, nothing changed that lasts{excused(holding.excused)}",
        held_seconds=round(holding.clock.held, 3),
        required_seconds=world.sovereign.proof.required,
        rehearsal=measure.rehearsal,
        means=block.words,
        blocked_hosts=tuple(canaries.targets(world.sovereign).upstream.values()),
        before=before.counts("before"),
        during=(*holding.bite.counts("bite"), *holding.last.counts("last")),
        after=after.counts("after"),
        exceptions=tuple(holding.odd),
        samples=holding.turns + 2,
        forced=tuple(holding.forced),
        restarts=holding.clock.restarts,
        blocked_at=blocked_at,
        lifted_at=lifted_at,
    )


async def _nobody_holds(world: World, order: Order) -> None:
    """What earlier attempts left behind is gone. Raises Wait while somebody else's block is alive."""
    await lift(world, token=order.token)
    place = Placement.of(world.sovereign)
    if not (left := await standing(world.cluster, place)):
        return
    if left.alive(datetime.now(UTC)):
        # A newer token than ours in this log is none of ours: another installation's, or a log that was made anew.
        message = f"another block stands and is renewed: {', '.join(left.names(place)[:3])}; `cutover lift` ends it"
        raise Wait("BlockHeldByAnother", message, after=30.0)
    await lift(world, only_expired_at=datetime.now(UTC))


async def _really_lifted(world: World) -> None:
    """No part of a block stands: neither a policy nor the nodes' order."""
    place = Placement.of(world.sovereign)
    if left := (await standing(world.cluster, place)).names(place):
        raise not_lifted(left, f"after {LIFTING:g} s of lifting")


async def _before(order: Order, world: World, report: Report) -> Ground:
    """Nothing is tied upstream, everything is green, and the way out is open: else the proof means nothing."""
    await report(Progress(message="before the block: declared sources, health, canaries", percent=1))
    nodes = await census.taken(world.cluster)
    ways = Ways(proxies=declared.proxies(await declared.clean(world), world.sovereign.proof.proxies))
    await pulls.negative_exists(world, next(iter(nodes)), order.token)
    watch = FluxWatch(world.cluster, world.sovereign.flux.timeout)
    await watch.look()
    async with beside(watch.run()):
        unsettled = await watch.settle(world.sovereign.flux.timeout)
    if unsettled:
        raise Stuck("NotGreenBefore", f"not Ready before the block: {'; '.join(unsettled[:5])}")
    found = await reached(order, world, tuple(nodes), ways)
    check_before(found)
    return Ground(nodes, found, Ways(found.answered, ways.proxies), watch.baseline)


async def reached(order: Order, world: World, nodes: Sequence[str], ways: Ways = canaries.ONLY_NAMES) -> Sample:
    """The first sample in which everything is reached, or the last of several.

    Nothing is blocked yet: a slow second of a node is no verdict, and asking again harms nobody.
    """
    for turn in range(ASKED - 1):
        found = await canaries.sample(world, nodes, order.token, f"before{turn}", ways)
        if not found.shut_in() and not found.cut_off():
            return found
    return await canaries.sample(world, nodes, order.token, "before", ways)


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
    ground: Ground,
    measure: Plan,
    block: Block,
    blocked_at: datetime,
) -> Holding:
    """The block bites; then the clock, with everything that may stop it running beside it."""
    async with beside(_renewing(block, world.sovereign.proof.lease)):
        await report(Progress(message="egress blocked; checking that the block bites", percent=5))
        bite = await _bites(order, world, ground.names, ground.ways)
        holding = Holding(HoldClock(measure.hold, LONGEST_GAP), bite, bite)
        watch = FluxWatch(world.cluster, world.sovereign.flux.timeout, ground.baseline)
        await watch.look()
        async with beside(
            watch.run(),
            _policy_stands(world, block, holding),
            _sampling(order, world, ground, block, holding, watch, measure.sample),
            _forcing(order, world, ground.names, holding, blocked_at),
        ):
            began = now()
            while not holding.done:
                await _count(holding, watch, measure, report, began)
                until = min(now() + settling(world), began + measure.most)
                if await _settled(holding, watch, report, until):
                    await _closing(order, world, ground, block, holding, watch)
    holding.excused = sorted(watch.baseline.values())
    return holding


def settling(world: World) -> float:
    """How long something may be on its way when the time is over: as long as it may be at any time. Seconds."""
    return world.sovereign.flux.timeout


async def _settled(holding: Holding, watch: FluxWatch, report: Report, until: float) -> bool:
    """Each that is watched is seen settled under the block once more; False when a gap sends back to the clock.

    What went wrong shortly before the end is not red yet, and recovers when the block is lifted.
    """
    watch.expect(watch.baseline)
    while holding.done and (left := watch.unsettled()):
        if now() > until:
            raise Stuck("NotGreenUnderBlock", f"not settled under the block: {'; '.join(left[:5])}")
        message = f"held; waiting for {len(left)} to settle: {'; '.join(left[:3])}"
        await report(Progress(message=message[:300], percent=95, hold_seconds_remaining=0.0))
        await asyncio.sleep(TICK)
        check_green(watch)
        holding.tick(holding.gap(watch))
    return holding.done


async def _closing(
    order: Order, world: World, ground: Ground, block: Block, holding: Holding, watch: FluxWatch
) -> None:
    """The last word is a look at everything after the whole hold: what is missing there restarts the clock."""
    holding.last = await _last(order, world, ground, holding.clock.gaps)
    await block.renew()
    await _same_nodes(world, ground)
    await watch.confirm()
    if gap := holding.gap(watch):
        holding.tick(gap)
    check_green(watch)


async def _last(order: Order, world: World, ground: Ground, turn: int) -> Sample:
    """The last look. One lost answer is asked for again; one that got out is not."""
    found = await canaries.sample(world, ground.names, order.token, f"last{turn}", ground.ways)
    if found.cut_off() and not found.escaped():
        found = await canaries.sample(world, ground.names, order.token, f"last{turn}again", ground.ways)
    check_bite(found)
    return found


async def _same_nodes(world: World, ground: Ground) -> None:
    """Raises Wait when there are other nodes than before the block: the proof begins anew, with these."""
    if other := census.changed(ground.nodes, await census.taken(world.cluster)):
        raise Wait("NodesChanged", f"during the hold: {other}; the proof begins anew", after=10.0)


async def _count(holding: Holding, watch: FluxWatch, measure: Plan, report: Report, began: float) -> None:
    """Tick until it was held long enough and all forced work is done."""
    while not holding.done:
        check_green(watch)
        gap = holding.gap(watch)
        if now() - began > measure.most:
            raise Stuck("HoldNotReached", f"held {holding.clock.held:.0f} s after {now() - began:.0f} s: {gap}")
        holding.tick(gap)
        await report(_progress(holding, gap, measure))
        await asyncio.sleep(TICK)


def check_green(watch: FluxWatch) -> None:
    """Raise Stuck when anything is red, or was for a moment."""
    if reds := watch.red():
        raise Stuck("NotGreenUnderBlock", "; ".join(reds[:5]))


def _progress(holding: Holding, gap: str | None, measure: Plan) -> Progress:
    left = holding.clock.remaining
    message = f"holding; clock stands: {gap}" if gap else f"holding; {len(holding.forced)} works done"
    return Progress(
        message=message[:300],
        percent=10 + int(85 * (1 - left / measure.hold)),
        hold_seconds_remaining=round(left, 1),
    )


async def _renewing(block: Block, lease: float) -> None:
    """Four times a lease: a renewal may fail once or twice before the block ends by itself."""
    while True:
        await asyncio.sleep(lease / 4)
        await block.renew()


async def _bites(order: Order, world: World, nodes: Sequence[str], ways: Ways = canaries.ONLY_NAMES) -> Sample:
    """The first sample in which nobody gets out and all are in touch; a datapath takes a moment to be programmed.

    Somebody cut off in two samples running ends it at once: nobody shall be without DNS for a minute.
    """
    deadline = time.monotonic() + BITE
    turn, cut = 0, False
    while True:
        found = await canaries.sample(world, nodes, order.token, f"bite{turn}", ways)
        if cut:
            check_touch(found)
        cut = bool(found.cut_off())
        if not cut and (not found.escaped() or time.monotonic() > deadline):
            check_bite(found)
            return found
        turn += 1


def check_bite(found: Sample) -> None:
    """Raise Stuck unless nobody gets out, and everybody is still in touch."""
    if escaped := found.escaped():
        raise Stuck("EgressNotBlocked", f"under the block these were reached: {words(escaped)}")
    check_touch(found)


def check_touch(found: Sample) -> None:
    """Raise Stuck unless everybody is in touch with the Sovereign's own."""
    if cut := found.cut_off():
        message = f"the block cuts more than egress: {words(cut)}; set sovereign.proof.allow_cidrs"
        raise Stuck("BlockCutsTooMuch", message)


async def _sampling(
    order: Order, world: World, ground: Ground, block: Block, holding: Holding, watch: FluxWatch, pause: float
) -> None:
    """Canaries over and over. One that gets out ends the proof; one that is not heard is a gap."""
    while True:
        await asyncio.sleep(pause)
        holding.turns += 1
        turn = holding.turns
        try:
            if block.by_address:
                await block.learn(await names.resolved(world, ground.names, order.token, f"n{turn}"))
            found = await canaries.sample(world, ground.names, order.token, f"s{turn}", ground.ways)
            await _same_nodes(world, ground)
            await watch.confirm()
        except Wait as error:
            if error.reason == "NodesChanged":
                raise
            holding.blind = str(error)
            continue
        if found.escaped():
            check_bite(found)
        cut = found.cut_off()
        holding.odd += canaries.marked(cut, str(turn))
        holding.blind = f"not in touch: {words(cut)}" if cut else None
        holding.last = found


async def _policy_stands(world: World, block: Block, holding: Holding) -> None:
    """Returns never while the block stands; raises Stuck when somebody takes it away or changes it."""
    kind = block.pods.kind
    while True:

        def broken(seen: Seen) -> bool:
            return block.broken(seen.values()) is not None

        try:
            seen = await world.cluster.wait_all(kind, None, broken, 3600, labels=f"{LABEL}=true")
        except Wait as error:
            # An hour without a change, or a watch that broke: whether it stood meanwhile nobody knows.
            holding.unwatched = f"the block is not watched: {error.reason}"
            await asyncio.sleep(TICK)
            holding.unwatched = None
        else:
            raise lost(block.broken(seen.values()) or kind.kind)


async def _forcing(order: Order, world: World, nodes: Sequence[str], holding: Holding, blocked_at: datetime) -> None:
    """All forced work, and all of it again when a gap came after it began: it must fall into the time that counts."""
    turn = 0
    while True:
        if holding.stands is None and holding.forced_at != (gaps := holding.clock.gaps):
            turn += 1
            holding.forced = []
            holding.forced = await forced.everything(world, order, nodes, blocked_at, turn)
            holding.forced_at = gaps
        await asyncio.sleep(TICK)


async def _freed(order: Order, world: World, nodes: Sequence[str]) -> Sample:
    """Everybody gets out again."""
    deadline = time.monotonic() + BITE
    turn = 0
    while True:
        found = await canaries.sample(world, nodes, order.token, f"after{turn}")
        if not found.shut_in():
            return found
        if time.monotonic() > deadline:
            raise not_freed(found)
        turn += 1


def not_freed(found: Sample) -> Stuck:
    """What it means that some stay shut in: a host that others reach is not away, so there the block still bites."""
    reached = {c.host for c in found.escaped()}
    if held := [c for c in found.shut_in() if c.host in reached]:
        message = f"nothing of the block stands, yet it bites here and not elsewhere: {words(held)}; look at the agent "
        return Stuck("BlockNotLifted", f"{message}(host) or Cilium (pod) of that node")
    message = f"the block is lifted, yet not reached: {words(found.shut_in())}; was it an outage?"
    return Stuck("StillOffline", message)
