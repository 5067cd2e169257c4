"""Failures from the field by name, each with the honest verdict that a rehearsal must end in."""

from __future__ import annotations

from sandbox.scenarios import flux, means, nodes, proof, supply
from sandbox.scenarios.scenario import Scenario, near_its_step, played

__all__ = ["SCENARIOS", "Scenario", "near_its_step", "played"]

SCENARIOS: dict[str, Scenario] = {
    **flux.SCENARIOS,
    **nodes.SCENARIOS,
    **proof.SCENARIOS,
    **means.SCENARIOS,
    **supply.SCENARIOS,
}
