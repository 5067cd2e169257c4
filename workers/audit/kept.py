"""Whether local Harbor still holds what was copied into it: a proxy project forgets, and nobody is told.

Asked of Harbor's database: a pull through a proxy project would be answered, or the copy deleted, by its upstream.
One question for each thing that the log says was copied, several at once, and none after the first that fails.
"""

from __future__ import annotations

from collections.abc import Mapping

from schemas.results import Prewarmed
from workers.adapters.oci import BadReference, Reference, proxied_projects
from workers.audit import finding as kinds
from workers.audit.finding import Finding, Severity, unread
from workers.declared.reconcile import each
from workers.errors import Trouble
from workers.world import World

AGAIN = "make the log and Harbor readable; harbor-prewarm, run once more, says it anew"


async def forgotten(world: World, copied: Prewarmed | None = None) -> list[Finding]:
    """What the log says was copied and local Harbor does not hold, and what will make it forget more.

    `copied` is what the log says, when the caller knows. Raises nothing: what cannot be read is a finding.
    """
    found: list[Finding] = []
    try:
        copied = copied or await world.copied.latest()
        if copied is not None:
            found += await _gone(world, copied)
    except Trouble as error:
        found.append(unread(kinds.IMAGES, "Harbor artifact", "what was copied", error, AGAIN))
    try:
        found += await _forgetful(world)
    except Trouble as error:
        found.append(unread(kinds.IMAGES, "Harbor project", "proxies", error))
    return sorted(found, key=lambda f: (f.kind, f.name))


async def _gone(world: World, copied: Prewarmed) -> list[Finding]:
    if copied.artifacts and not copied.places:
        why = "the log does not say where they are; run harbor-prewarm once more"
        return [unread(kinds.IMAGES, "Harbor artifact", f"{copied.artifacts} that were copied", why, AGAIN)]
    wanted: dict[str, str] = {}
    for reference, place in copied.places.items():
        wanted.setdefault(place, reference)
    gone: list[str] = []

    async def look(place: str) -> None:
        at = "@" if "@" in place else ":"
        repository, _, name = place.rpartition(at)
        if not await world.harbor.has_artifact(repository, name):
            gone.append(place)

    await each(wanted, look)
    return [_lost(place, wanted[place], copied.reasons) for place in gone]


def _lost(place: str, reference: str, reasons: Mapping[str, tuple[str, ...]]) -> Finding:
    try:
        host = Reference.parse(reference).host
    except BadReference:
        host = ""
    return Finding(
        tether=kinds.IMAGES.number,
        title="gone from local Harbor",
        severity=Severity.EXTERNAL,
        kind="Harbor artifact",
        name=place,
        field="not held",
        host=host,
        puller=kinds.IMAGES.puller,
        owner=next(iter(reasons.get(reference, ())), ""),
        cut_by="harbor-prewarm, with its project in mode hosted",
    )


async def _forgetful(world: World) -> list[Finding]:
    found = []
    for name in sorted(proxied_projects(world.sovereign)):
        project = await world.harbor.project(name)
        if project is not None and project.retention_id is not None:
            found.append(
                Finding(
                    tether=kinds.IMAGES.number,
                    title="proxy project that forgets",
                    severity=Severity.EXTERNAL,
                    kind="Harbor project",
                    name=name,
                    field=f"retention policy {project.retention_id}",
                    host="deletes what nobody pulled for days",
                    puller="Harbor, at midnight",
                    cut_by="harbor-projects removes it; mode hosted never has it",
                )
            )
    return found
