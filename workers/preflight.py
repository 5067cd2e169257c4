"""What is asked of the world before a run begins, beyond what the log says: is it time, and would it get through?"""

from __future__ import annotations

from collections.abc import Iterable

from schemas import events as facts
from workers.admission import Gate
from workers.errors import Trouble
from workers.handover import Handover, sealed
from workers.plan import Preview, preview
from workers.world import World

Refusal = tuple[str, str]
"""(reason, message)"""
_TOLD = 2000  # characters of what stands in the way


def gate(place: Handover | None, world: World) -> Gate:
    """Handover where the settings name it, for everybody; the preflight for those who ask for it."""

    async def refusal(data: facts.Requested) -> Refusal | None:
        if place is not None:
            try:
                if not await sealed(world.cluster, place):
                    return "HandoverIncomplete", f"the handover is not finished: there is no {place}"
            except Trouble as error:
                return "HandoverUnknown", f"whether the handover is finished cannot be read: {error}"
        if not data.preflight:
            return None
        try:
            return stopped(await preview(world))
        except Trouble as error:
            return "PreflightFailed", f"the plan cannot be made: {error}"

    return refusal


def stopped(found: Iterable[Preview]) -> Refusal | None:
    """What the plan found that would stop a step."""
    trouble = [f"{step.step}: {text}" for step in found for text in step.trouble]
    return ("PreflightFailed", "; ".join(trouble)[:_TOLD]) if trouble else None
