"""Step 3: local Harbor serves every image, chart and package that the cluster needs, byte for byte.

The list is the union of what runs, what is declared live and in Git, and what the description names. All
platforms and attestations come along: a registry refuses an index without its children, and without them its
digest would be another. Safe to repeat: what is here is proven again and not moved; of upstream it is only asked
whether its tags still name the same, and one that does not answer is not needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add

from anyio import to_thread

from schemas.progress import Progress
from schemas.results import Prewarmed
from workers import needs
from workers.adapters.oci import Copier, CopyPlan, Item, Meter, Proof, Wanted, What, placed
from workers.errors import Stuck, Wait
from workers.needs import Listed, Needs
from workers.sovereign import Sovereign
from workers.telling import telling
from workers.world import Order, Report, World

OPENING, READING, COPYING = 4, 6, 70  # percent: charts, the plan, the copy; the rest is proof
CHART_CONTENT = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"


@dataclass(frozen=True, slots=True)
class Place:
    """One thing in local Harbor and all references that mean it."""

    wanted: Wanted
    listed: tuple[Listed, ...]


def plan(sovereign: Sovereign, listed: Sequence[Listed]) -> tuple[Place, ...]:
    """Where everything goes, each place once. Raises Stuck that names every reference whose host is unmapped."""
    places: dict[tuple[str, str], Place] = {}
    unmapped = []
    for item in listed:
        wanted = placed(sovereign, item.reference, item.what, optional=item.optional)
        if wanted is None:
            unmapped.append(f"{item.spelled[0]} ({item.reasons[0]})")
            continue
        key = (wanted.repository, wanted.tag)
        known = places.get(key)
        if known:
            # Needed by one is needed.
            wanted = replace(known.wanted, optional=known.wanted.optional and wanted.optional)
        places[key] = Place(wanted, (*(known.listed if known else ()), item))
    if unmapped:
        raise Stuck(
            "UnmappedHost",
            f"no project stands in for the host of {'; '.join(unmapped)}. Add it to sovereign.upstreams, or what "
            "nobody needs to sovereign.not_needed",
        )
    return tuple(places.values())


async def run(order: Order, world: World, report: Report) -> Prewarmed:
    """List, fetch the charts and open them, plan, copy, read everything back."""
    copier = world.registries.copier()
    places, charts, notices = await _everything(world, copier, report)
    await _projects(world, places)
    total = len(places)

    async def surveyed(done: int) -> None:
        percent = OPENING + READING * done // total
        await report(Progress(message="reading manifests", percent=percent, items_done=done, items_total=total))

    copy_plan = await copier.survey([p.wanted for p in places], surveyed)
    await _room(world, copy_plan)
    meter = Meter(copy_plan.bytes_to_move + charts.bytes_moved, len(copy_plan.todo), moved=charts.bytes_moved)
    await telling(copier.copy(copy_plan, meter), lambda: report(_progress(meter)))
    if charts.waiting is not None:
        raise charts.waiting  # all that could be had is here; what those charts name is not known yet

    async def proven(done: int) -> None:
        begun = OPENING + READING + COPYING
        percent = begun + (100 - begun) * done // len(copy_plan.items)
        message = "reading back from local Harbor"
        await report(Progress(message=message, percent=percent, items_done=done, items_total=total))

    proof = await copier.prove(copy_plan, proven)
    moved = meter.moved
    if proof.lost:
        message = f"local Harbor lost parts of {len(proof.lost)} artifacts; they are fetched again"
        await report(Progress(message=message, items_done=total, items_total=total))
        mended = await _mended(copier, proof)
        proof, moved = mended[0], moved + mended[1]
    whole = CopyPlan(proof.items)
    await _stored(world, whole)
    absent = [f"{_why(places, w)}: left out, nobody is known to use it: {why}" for w, why in copy_plan.absent]
    said = dict.fromkeys((*notices, *absent, *_notices(whole)))
    return result(places, whole, moved, tuple(said), charts.copied)


# the list, and the charts that add to it


async def _everything(
    world: World, copier: Copier, report: Report
) -> tuple[tuple[Place, ...], Charts, tuple[str, ...]]:
    """All that is needed and where it goes, the charts fetched on the way, and what was not seen."""
    sovereign = world.sovereign
    gathered = await needs.gather(world)
    charts = await _charts(world, copier, plan(sovereign, needs.listing(sovereign, gathered.found)[0]), report)
    found = gathered + charts.named
    found += await needs.boot_strap(world, found.found)
    listed, left_out = needs.listing(sovereign, found.found)
    return plan(sovereign, listed), charts, (*found.notices, *left_out)


@dataclass(frozen=True, slots=True)
class Charts:
    """What was fetched to be opened, and what it names."""

    named: Needs
    copied: int
    bytes_moved: int
    waiting: Wait | None = None
    """Why some of them are not here yet."""


async def _charts(world: World, copier: Copier, places: Sequence[Place], report: Report) -> Charts:
    """Charts first: only when they are here it is known what they name. Fetched once, opened from local Harbor.

    An upstream that does not answer now holds up no other: the step waits for it when the rest is copied.
    """
    charts = [p for p in places if p.wanted.what is What.CHART]
    message = f"fetching {len(charts)} charts, to see what they name"

    async def surveyed(done: int) -> None:
        percent = OPENING * done // (2 * len(charts))
        await report(Progress(message=message, percent=percent, items_done=done, items_total=len(charts)))

    copy_plan = await copier.survey([p.wanted for p in charts], surveyed)
    await _room(world, copy_plan)
    meter = Meter(copy_plan.bytes_to_move, len(copy_plan.todo))
    try:
        await copier.copy(copy_plan, meter)
    except Wait as wait:
        return Charts(Needs(), 0, meter.moved, wait)
    here = {(i.wanted.repository, i.wanted.tag) for i in copy_plan.items}
    named = Needs()
    for place in charts:
        if (place.wanted.repository, place.wanted.tag) in here:  # an optional one may be nowhere
            named += await _opened(world, place)
    return Charts(named, sum(not i.wanted.pulled for i in copy_plan.todo), meter.moved)


async def _opened(world: World, place: Place) -> Needs:
    """What one chart names, once for each release's values. One that cannot be opened is a notice."""
    wanted = place.wanted
    reason = f"chart {wanted.reference}"
    at = wanted.reference.digest or wanted.tag
    archive = await world.registries.packed(wanted.repository, at, CHART_CONTENT, needs.PACKED)
    if archive is None:
        return Needs(notices=(f"{reason}: has no chart in it that could be opened; its images are not seen",))
    values = [v for listed in place.listed for v in listed.values] or [{}]

    def read() -> Needs:
        chart = needs.unpacked(archive)
        return reduce(add, (needs.needs_of_chart(chart, reason, v) for v in values))

    try:
        return await to_thread.run_sync(read)
    except needs.NotAChart as error:
        return Needs(notices=(f"{reason}: not opened, its images are not seen: {error}",))


async def _projects(world: World, places: Sequence[Place]) -> None:
    """Charts may name projects of the mothership's that step 2 could not know of: made as it makes them."""
    known = {u.project for u in world.sovereign.upstreams} | {world.sovereign.mothership.chart_project}
    for name in sorted({p.wanted.repository.partition("/")[0] for p in places} - known):
        if await world.harbor.project(name) is None:
            await world.harbor.create_project(name, public=True)
        project = await world.harbor.project(name)  # what is there now may be another's, made in between
        if project is None:
            raise Wait("ProjectsPending", f"Harbor does not list {name} yet")
        if project.registry_id is not None or not project.public:
            raise Stuck("WrongProject", f"project {name}: wanted is hosted, public. Rename or correct it")


def _why(places: Sequence[Place], wanted: Wanted) -> str:
    place = next(p for p in places if p.wanted == wanted)
    return f"{place.listed[0].spelled[0]} ({place.listed[0].reasons[0]})"


# room, and what was lost


async def _room(world: World, copy_plan: CopyPlan) -> None:
    """Each project's quota has room for what it is to hold: else said before the first byte."""
    needed: dict[str, dict[str, int]] = {}
    for item in copy_plan.todo:
        sizes = needed.setdefault(item.wanted.repository.partition("/")[0], {})
        sizes |= {b.digest: b.size for b in item.missing}
    full = []
    for project, sizes in needed.items():
        quota = await world.harbor.quota(project) if sizes else None
        if quota is not None and sum(sizes.values()) > quota.left:
            full.append(f"{project} has room for {quota.left} bytes and {sum(sizes.values())} are to come")
    if full:
        raise Stuck("HarborFull", f"{'; '.join(full)}; raise the quota")


async def _mended(copier: Copier, proof: Proof) -> tuple[Proof, int]:
    """The proof with what was lost copied again, and bytes moved for it."""

    async def quietly(done: int) -> None:
        """The percentage has been shown already and shall not run backwards."""

    again = await copier.survey(proof.lost, quietly, trusting=False)
    meter = Meter(again.bytes_to_move, len(again.todo))
    await copier.copy(again, meter)
    mended = await copier.prove(again, quietly)
    return Proof((*proof.items, *mended.items)), meter.moved


def result(
    places: Sequence[Place], copy_plan: CopyPlan, bytes_moved: int, notices: tuple[str, ...], copied: int = 0
) -> Prewarmed:
    """The evidence. `copied`: artifacts that were copied before the plan was made, to see what is in them."""
    digests = {(i.wanted.repository, i.wanted.tag): i.closure.digest for i in copy_plan.items}
    references: dict[str, str] = {}
    reasons: dict[str, tuple[str, ...]] = {}
    whereabouts: dict[str, str] = {}
    for place in places:
        if (place.wanted.repository, place.wanted.tag) not in digests:
            continue  # optional, and its upstream does not have it
        for listed in place.listed:
            for spelled in listed.spelled:
                references[spelled] = digests[place.wanted.repository, place.wanted.tag]
                whereabouts[spelled] = place.wanted.name
                reasons[spelled] = tuple(dict.fromkeys([*reasons.get(spelled, ()), *listed.reasons]))
    everything = copy_plan.digests
    changes = copied + sum(not i.wanted.pulled for i in copy_plan.todo)
    said = f"{len(copy_plan.items)} artifacts, {len(everything)} digests proven in local Harbor"
    moved = f"{changes} artifacts copied, {bytes_moved} bytes moved" if changes else "nothing to move, 0 bytes"
    return Prewarmed(
        changes=changes,
        summary=f"{said}; {moved}",
        artifacts=len(copy_plan.items),
        digests=len(everything),
        bytes_total=sum(everything.values()),
        bytes_moved=bytes_moved,
        references=dict(sorted(references.items())),
        reasons=dict(sorted(reasons.items())),
        places=dict(sorted(whereabouts.items())),
        notices=notices,
    )


def _progress(meter: Meter) -> Progress:
    shown, total = meter.shown, meter.bytes_total
    return Progress(
        message="copying into local Harbor" if meter.items_total else "everything is in local Harbor already",
        percent=OPENING + READING + (COPYING * shown // total if total else 0),
        items_done=meter.items_done,
        items_total=meter.items_total,
        bytes_done=shown,
        bytes_total=total,
        bytes_per_second=round(meter.rate, 1),
    )


def _proxied(copy_plan: CopyPlan) -> list[Item]:
    return [i for i in copy_plan.items if i.wanted.pulled]


def _notices(copy_plan: CopyPlan) -> list[str]:
    found = [n for i in copy_plan.items for n in i.closure.notices]
    for item in _proxied(copy_plan):
        if item.closure.parts[-1].manifest.is_index:
            found.append(
                f"{item.wanted.reference}: its project is a proxy and keeps the index rewritten; pulls by "
                f"{item.closure.digest} end with the upstream. Mode hosted keeps it"
            )
    return found


async def _stored(world: World, copy_plan: CopyPlan) -> None:
    """A proxy stores what it served later, by itself: ask its database, which no upstream can answer for."""
    absent = [
        f"{item.wanted.repository}@{part.manifest.digest}"
        for item in _proxied(copy_plan)
        for part in item.closure.parts
        if not part.manifest.is_index
        and not await world.harbor.has_artifact(item.wanted.repository, part.manifest.digest)
    ]
    if absent:
        message = f"Harbor has served but not yet stored {len(absent)} manifests, {absent[0]} among them"
        raise Wait("ProxyNotStored", message, after=30)
