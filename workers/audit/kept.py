"""Whether local Harbor still holds what the cluster needs: a proxy project forgets, and nobody is told.

Asked of Harbor's database: a pull through a proxy project would be answered, or the copy deleted, by its upstream.
"""

from __future__ import annotations

from collections.abc import Sequence

from workers.adapters.oci import Wanted, placed, proxied_projects
from workers.audit import finding as kinds
from workers.audit.finding import Finding, Severity
from workers.audit.survey import unread
from workers.declared.reconcile import each
from workers.errors import Trouble
from workers.needs import Listed
from workers.world import World


async def forgotten(world: World, listed: Sequence[Listed]) -> list[Finding]:
    """What of the list local Harbor does not hold, and what will make it forget more. Raises nothing."""
    found: list[Finding] = []

    async def look(item: Listed) -> None:
        wanted = placed(world.sovereign, item.reference, item.what)
        try:
            if wanted is None or not await _held(world, wanted):
                found.append(_gone(item, wanted))
        except Trouble as error:
            found.append(unread(kinds.IMAGES, "Harbor artifact", str(item.reference), error))

    await each(listed, look)
    for name in sorted(proxied_projects(world.sovereign)):
        try:
            project = await world.harbor.project(name)
        except Trouble as error:
            found.append(unread(kinds.IMAGES, "Harbor project", name, error))
        else:
            if project is not None and project.retention_id is not None:
                found.append(_forgetful(name, project.retention_id))
    return sorted(found, key=lambda f: (f.kind, f.name))


async def _held(world: World, wanted: Wanted) -> bool:
    """By tag: the digest of an index is another in a proxy project. What is pinned has no tag there."""
    pinned = wanted.reference.digest if wanted.pulled else None
    return await world.harbor.has_artifact(wanted.repository, pinned or wanted.tag)


def _gone(item: Listed, wanted: Wanted | None) -> Finding:
    return Finding(
        tether=kinds.IMAGES.number,
        title="gone from local Harbor",
        severity=Severity.EXTERNAL,
        kind="Harbor artifact",
        name=f"{wanted.repository}:{wanted.tag}" if wanted else str(item.reference),
        field="not held",
        host=item.reference.host,
        puller=kinds.IMAGES.puller,
        owner=item.reasons[0],
        cut_by="harbor-prewarm, with its project in mode hosted",
    )


def _forgetful(name: str, retention: int) -> Finding:
    return Finding(
        tether=kinds.IMAGES.number,
        title="proxy project that forgets",
        severity=Severity.EXTERNAL,
        kind="Harbor project",
        name=name,
        field=f"retention policy {retention}",
        host="deletes what nobody pulled for days",
        puller="Harbor, at midnight",
        cut_by="harbor-projects removes it; mode hosted never has it",
    )
