"""What is asked of the world before a run begins, beyond what the log says: is it time, and would it get through?"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from schemas import events as facts
from workers.admission import Gate
from workers.errors import Trouble
from workers.handover import Handover, sealed
from workers.plan import Passing, Preview, passes, preview
from workers.world import World

Refusal = tuple[str, str]
"""(reason, message)"""
log = logging.getLogger("cutover.preflight")
LONGEST = 120.0  # seconds for the plan
_TOLD = 2000  # characters of what stands in the way


def gate(place: Handover | None, world: World) -> Gate:
    """Handover where the settings name it, and the plan, for everybody who does not say that it shall be left out."""

    async def refusal(data: facts.Requested) -> Refusal | None:
        if place is not None:
            try:
                if not await sealed(world.cluster, place):
                    return "HandoverIncomplete", f"the handover is not finished: there is no {place}"
            except Trouble as error:
                return "HandoverUnknown", f"whether the handover is finished cannot be read: {error}"
        if data.preflight is False:
            log.warning("no preflight: whoever asked for this cutover left it out")
            return None
        return await planned(world, strict=data.preflight is True)

    return refusal


async def planned(world: World, *, strict: bool) -> Refusal | None:
    """Why the plan stops the run before anything was written. Without `strict` only for what a person must mend.

    What may pass is the steps' own matter: they wait for a Harbor that is restarting, and a refusal would not.
    """
    try:
        async with asyncio.timeout(LONGEST):
            return stopped(await preview(world), strict=strict)
    except TimeoutError:
        why, grave = f"not within {LONGEST:g} s", strict
    except Trouble as trouble:
        why, grave = str(trouble), strict or not passes(trouble)
    except Exception as defect:  # of ours: whoever asked is not to wait for a new version
        log.exception("the plan could not be made")
        why, grave = type(defect).__name__, strict
    if grave:
        return "PreflightFailed", f"the plan cannot be made: {why}"
    log.warning("the plan could not be made, and the steps will see for themselves: %s", why)
    return None


def stopped(found: Iterable[Preview], *, strict: bool = True) -> Refusal | None:
    """What the plan found that would stop a step."""
    trouble = [f"{step.step}: {t}" for step in found for t in step.trouble if strict or not isinstance(t, Passing)]
    return ("PreflightFailed", "; ".join(trouble)[:_TOLD]) if trouble else None
