"""The table of the eight steps. Nothing else in the project knows their order.

| N | slug                     | does                                                      |
|---|--------------------------|-----------------------------------------------------------|
| 1 | gitea-mirror             | upstream Git -> local Gitea                               |
| 2 | harbor-projects          | a local project for every upstream registry               |
| 3 | harbor-prewarm           | every image, chart and package -> local Harbor            |
| 4 | registry-pivot           | every node: mothership Harbor -> local Harbor             |
| 5 | flux-gitrepository-patch | GitRepository -> local Gitea                              |
| 6 | helmrepo-patches         | chart and package sources, pull secrets -> local Harbor   |
| 7 | catalyst-api-env-patch   | catalyst-api -> local Gitea                               |
| 8 | egress-block-test        | deny egress for ten minutes while everything must work    |
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """One step: its place in the run, its identity, and a title for people."""

    number: int
    slug: str
    title: str


STEPS: tuple[Step, ...] = (
    Step(1, "gitea-mirror", "Mirror upstream Git into local Gitea"),
    Step(2, "harbor-projects", "Prepare the projects in local Harbor"),
    Step(3, "harbor-prewarm", "Copy every image, chart and package"),
    Step(4, "registry-pivot", "Point every node at local Harbor"),
    Step(5, "flux-gitrepository-patch", "Point Flux at local Gitea"),
    Step(6, "helmrepo-patches", "Point charts and packages at local Harbor"),
    Step(7, "catalyst-api-env-patch", "Point catalyst-api at local Gitea"),
    Step(8, "egress-block-test", "Block egress and prove that nothing breaks"),
)

SLUGS: tuple[str, ...] = tuple(step.slug for step in STEPS)
BY_SLUG: dict[str, Step] = {step.slug: step for step in STEPS}
BY_NUMBER: dict[int, Step] = {step.number: step for step in STEPS}
FIRST, LAST = STEPS[0], STEPS[-1]
PIVOTS: tuple[str, ...] = SLUGS[3:7]
"""Those that change what wins on a Sovereign that works; the ones before only bring copies."""


def after(step: Step) -> Step | None:
    """The step that follows; None after the last."""
    return BY_NUMBER.get(step.number + 1)


def before(step: Step) -> tuple[Step, ...]:
    """The steps that must have succeeded first, in order."""
    return STEPS[: step.number - 1]


def find(word: str) -> Step | None:
    """The step that an operator means by a slug or a number."""
    digits = word.isascii() and word.isdigit() and len(word) < 9  # Python reads no number of any length
    return BY_NUMBER.get(int(word)) if digits else BY_SLUG.get(word)
