"""Named scenarios of the supply, steps 1 to 3: what goes wrong with copies, and the honest verdict."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sandbox.scenarios.scenario import Scenario
from workers.sovereign import DEFAULT_UPSTREAMS

if TYPE_CHECKING:
    from sandbox.box import Box

FORGETFUL = "quay.io"
"""Its images run on nodes, which have them in their caches: nothing pulls them again for a week."""
PROJECT = next(u.project for u in DEFAULT_UPSTREAMS if u.host == FORGETFUL)
LATER = timedelta(days=8)


def _as_proxy(settings: dict[str, Any]) -> None:
    """The workers are told that this host's project shall be a proxy, as ADR-0002 says to the letter."""
    for upstream in settings["sovereign"]["upstreams"]:
        if upstream["host"] == FORGETFUL:
            upstream["mode"] = "proxy"


async def _retention_is_back(box: Box) -> None:
    """Somebody gave the proxy project Harbor's own policy again."""
    box.harbor.retain_again(PROJECT)
    await _a_week_passes(box)


async def _a_week_passes(box: Box) -> None:
    box.harbor.midnight()
    box.harbor.clock.skip(LATER)
    box.harbor.midnight()


SCENARIOS: dict[str, Scenario] = {
    "proxy-forgets": Scenario(
        f"{FORGETFUL} in mode proxy with Harbor's retention left on; seven days pass without a pull",
        "TethersLeft", _retention_is_back, described=_as_proxy),
    "hosted-keeps": Scenario("the same week with every project hosted", "", _a_week_passes),
}  # fmt: skip
"""Name -> scenario."""
