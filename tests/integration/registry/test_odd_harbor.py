"""A Harbor that somebody else has had in hands: other prefixes, robots switched off, policies that delete, pages."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.registry import Fault, Wrong
from tests.integration.registry.stage import Stage, may_pull, robot_login
from workers.errors import Stuck

NAME = "cutover-pull"


@pytest.mark.parametrize("prefix", ["harbor@", "bot-", ""])
async def test_a_robot_is_found_again_whatever_prefix_harbor_gives(stage: Stage, prefix: str) -> None:
    stage.site.harbor._core.robot_prefix = prefix
    await stage.projects()
    first = robot_login(stage)
    assert first[0] == f"{prefix}{NAME}"
    if prefix != "bot-":  # that one could be a part of another's name: it is known by its description
        next(iter(stage.site.harbor._core.state.robots.values())).description = "changed by somebody"
    again = await stage.projects()
    assert again.changes == 0
    assert (await may_pull(stage, robot_login(stage)), await may_pull(stage, first)) == (200, 401)


async def test_a_robot_whose_longer_name_ends_like_ours_is_left_alone(stage: Stage) -> None:
    async with stage.api() as api:
        body = {"name": f"their-{NAME}", "level": "system", "duration": 30, "permissions": []}
        theirs = (await api.post("/robots", json=body)).json()
        await stage.projects()
        left = (await api.get(f"/robots/{theirs['id']}")).json()
    assert robot_login(stage)[0] == f"robot${NAME}"
    assert (left["permissions"], left["duration"]) == ([], 30)
    assert stage.site.harbor._core.state.robots[theirs["id"]].secret == theirs["secret"]


@pytest.mark.parametrize("change", [{"disable": True}, {"duration": 1}])
async def test_a_robot_that_was_switched_off_or_will_end_is_put_right(stage: Stage, change: dict[str, Any]) -> None:
    await stage.projects()
    async with stage.api() as api:
        [robot] = (await api.get("/robots")).json()
        await api.put(f"/robots/{robot['id']}", json={**robot, **change})
        await stage.projects()
        [robot] = (await api.get("/robots")).json()
    assert (robot["disable"], robot["duration"], robot["expires_at"]) == (False, -1, -1)
    assert await may_pull(stage, robot_login(stage)) == 200


async def test_a_hosted_project_from_which_a_policy_deletes_is_no_place_to_keep_anything(stage: Stage) -> None:
    await stage.projects()
    stage.site.harbor.retain_again("proxy-ghcr")
    with pytest.raises(Stuck, match=r"RetentionDeletes.*proxy-ghcr \(policy \d+\)"):
        await stage.projects()
    for policy in stage.site.harbor._core.state.retentions.values():
        for rule in policy.policy["rules"]:
            rule["disabled"] = True
    await stage.projects()


@pytest.mark.parametrize("status", [412, 418])
async def test_a_refusal_that_nobody_knows_is_a_matter_for_a_person(stage: Stage, status: int) -> None:
    stage.site.harbor.faults.add(Fault(Wrong.STATUS, methods=("POST",), path="/projects", status=status, times=None))
    with pytest.raises(Stuck, match=f"HarborRefused.*{status}"):
        await stage.projects()
