"""The node agent obeys what stands in its ConfigMap, and says so once."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from schemas.nodes import Mirror, NodePlan, NodeReport, Turn
from workers.adapters import firewall
from workers.adapters.cluster import CONFIG_MAP, Cluster
from workers.adapters.containerd import Containerd, plan_digest
from workers.adapters.firewall import NodeBlock, ruleset
from workers.entrypoints.node_agent import NodeAgent, NodeAgentConfig, serve
from workers.errors import Stuck, Wait

PLAN = NodePlan(
    registry="harbor.sovereign.test",
    mirrors=(Mirror(host="ghcr.io", endpoint="https://harbor.sovereign.test/v2/proxy-ghcr"),),
)
ORDER = {"plan.json": PLAN.model_dump_json()}
CONFIG = NodeAgentConfig("n1", "ns", "plan", retry=0)


class Wall:
    """A firewall that remembers what stands."""

    def __init__(self) -> None:
        self.block_now: NodeBlock | None = None
        self.broken = False

    async def block(self, block: NodeBlock, now: datetime) -> None:
        if self.broken:
            raise Wait("NftFailed", "nft: out of order")
        self.block_now = block

    async def lift(self) -> bool:
        had, self.block_now = self.block_now is not None, None
        return had


class Desk:
    """Takes reports; the first `refusals` are not taken."""

    def __init__(self, refusals: int = 0) -> None:
        self.reports: list[NodeReport] = []
        self.refusals = refusals

    async def take(self, report: NodeReport) -> None:
        if self.refusals:
            self.refusals -= 1
            raise ConnectionError("no broker")
        self.reports.append(report)


class Registry:
    """Local Harbor as the node sees it."""

    def __init__(self) -> None:
        self.asked = 0
        self.away = False

    async def probe(self, plan: NodePlan) -> None:
        self.asked += 1
        if self.away:
            raise Wait("LocalRegistryAway", f"{plan.registry}: no route to host")


def agent(root: Path, desk: Desk, wall: Wall | None = None, registry: Registry | None = None) -> NodeAgent:
    files = Containerd(root / "k3s", root / "certs.d")
    return NodeAgent(CONFIG, desk.take, files, wall or Wall(), (registry or Registry()).probe)


def tree(root: Path) -> dict[str, str]:
    """What k3s and containerd find; what the agent keeps for itself is left out."""
    return {
        str(p.relative_to(root)): p.read_text() if p.is_file() else "/"
        for p in root.rglob("*")
        if "catalyst-cutover" not in p.relative_to(root).parts
    }


async def test_a_plan_is_written_and_acknowledged_by_its_digest(tmp_path: Path) -> None:
    desk = Desk()
    await agent(tmp_path, desk).order(ORDER)
    assert [(r.node, r.digest, r.result) for r in desk.reports] == [("n1", plan_digest(PLAN), "v2")]
    assert (tmp_path / "certs.d/ghcr.io/hosts.toml").exists()


async def test_the_same_plan_again_is_no_news(tmp_path: Path) -> None:
    desk = Desk()
    one = agent(tmp_path, desk)
    await one.order(ORDER)
    await one.order(ORDER)
    await one.sweep()
    assert len(desk.reports) == 1


async def test_a_file_by_hand_that_still_leads_upstream_is_told_with_the_report(tmp_path: Path) -> None:
    desk = Desk()
    (tmp_path / "certs.d/nvcr.io").mkdir(parents=True)
    (tmp_path / "certs.d/nvcr.io/hosts.toml").write_text('[host."https://GHCR.io:443/v2"]\n')
    await agent(tmp_path, desk).order(ORDER)
    said = [(r.result, r.message) for r in desk.reports]
    assert said == [("v2", "certs.d/nvcr.io/hosts.toml, made by hand, still leads to ghcr.io")]


async def test_files_that_k3s_wrote_over_are_put_right_and_told(tmp_path: Path) -> None:
    desk = Desk()
    one = agent(tmp_path, desk)
    await one.order(ORDER)
    file = tmp_path / "certs.d/ghcr.io/hosts.toml"
    wanted = file.read_text()
    file.write_text('server = "https://ghcr.io"\n')
    await one.sweep()
    assert file.read_text() == wanted
    assert len(desk.reports) == 2


async def test_a_plan_that_cannot_be_written_or_read_is_reported_as_failed(tmp_path: Path) -> None:
    desk = Desk()
    one = agent(tmp_path, desk)
    await one.order({"plan.json": "{"})
    (tmp_path / "k3s").mkdir()
    (tmp_path / "k3s/registries.yaml").mkdir()
    await one.order(ORDER)
    assert [r.result for r in desk.reports] == ["failed", "failed"]
    assert desk.reports[1].digest == plan_digest(PLAN)
    assert desk.reports[1].message


async def test_when_local_harbor_does_not_answer_this_node_its_files_are_as_before(tmp_path: Path) -> None:
    desk, registry = Desk(), Registry()
    (tmp_path / "certs.d/ghcr.io").mkdir(parents=True)
    (tmp_path / "certs.d/ghcr.io/hosts.toml").write_text('server = "https://ghcr.io"\n')
    (tmp_path / "k3s").mkdir()
    before = tree(tmp_path)
    registry.away = True
    one = agent(tmp_path, desk, registry=registry)
    await one.order(ORDER)
    assert tree(tmp_path) == before
    assert [(r.result, "LocalRegistryAway" in r.message) for r in desk.reports] == [("failed", True)]
    registry.away = False
    await one.sweep()
    assert tree(tmp_path) != before
    assert desk.reports[-1].result == "v2"
    registry.away = True
    await one.sweep()
    assert desk.reports[-1].result == "v2", "a node that holds the plan is not asked on each look"


async def test_an_agent_that_starts_anew_proves_once_more_and_takes_nothing_back(tmp_path: Path) -> None:
    await agent(tmp_path, Desk()).order(ORDER)
    pivoted, desk, registry = tree(tmp_path), Desk(), Registry()
    registry.away = True
    await agent(tmp_path, desk, registry=registry).order(ORDER)
    assert registry.asked == 1
    assert desk.reports[0].result == "failed"
    assert tree(tmp_path) == pivoted


async def test_a_node_waits_for_its_turn_and_for_no_other_plans(tmp_path: Path) -> None:
    desk, digest = Desk(), plan_digest(PLAN)
    one = agent(tmp_path, desk)
    for turn in (Turn(digest=digest, nodes=("n2",)), Turn(digest="sha256:older", everyone=True)):
        await one.order({**ORDER, "turn.json": turn.model_dump_json()})
        assert tree(tmp_path) == {}
        assert desk.reports == []
    await one.order({**ORDER, "turn.json": Turn(digest=digest, nodes=("n2", "n1")).model_dump_json()})
    assert desk.reports[0].result == "v2"


async def test_what_containerd_ignored_is_told_with_what_became_of_it(tmp_path: Path) -> None:
    desk = Desk()
    for host in ("ghcr.io", "corp.test"):
        (tmp_path / "certs.d" / host).mkdir(parents=True)
        (tmp_path / "certs.d" / host / "hosts.toml").write_text("no toml [")
    one = agent(tmp_path, desk)
    await one.order(ORDER)
    await one.sweep()
    (report,) = desk.reports
    assert report.result == "v2"
    assert "certs.d/corp.test/hosts.toml was ignored by containerd, not ours to mend" in report.message
    assert "certs.d/ghcr.io/hosts.toml was ignored by containerd, written anew" in report.message


class OneWatch:
    """An API that grants the agent what its Role does: to watch one ConfigMap."""

    def __init__(self, *said: tuple[str, dict[str, Any]]) -> None:
        self.asked: list[Any] = []
        self._said = said or (("ADDED", {"data": ORDER}), ("SYNCED", {}), ("DELETED", {"data": ORDER}))

    async def follow(self, *where: Any, name: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        self.asked.append((*where, name))
        for each in self._said:
            yield each


async def test_of_the_api_it_watches_one_config_map_and_asks_for_nothing_else(tmp_path: Path) -> None:
    desk, api = Desk(), OneWatch()
    files = Containerd(tmp_path / "k3s", tmp_path / "certs.d")
    await serve(CONFIG, cast(Cluster, api), desk.take, files, Wall(), Registry().probe)
    assert api.asked == [(CONFIG_MAP, "ns", "plan")]
    assert desk.reports[0].result == "v2"
    assert (tmp_path / "certs.d/ghcr.io").exists(), "a plan that is gone is no order to go back"


async def test_a_sweep_that_breaks_ends_the_agent_instead_of_going_unseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent:
        async def follow(self, *_: Any, name: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
            await asyncio.Event().wait()
            yield name, {}

    async def broken(_: NodeAgent) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(NodeAgent, "sweep", broken)
    files = Containerd(tmp_path / "k3s", tmp_path / "certs.d")
    often = dataclasses.replace(CONFIG, sweep=0.01)
    async with asyncio.timeout(120):
        with pytest.raises(RuntimeError, match="a defect"):
            await serve(often, cast(Cluster, Silent()), Desk().take, files, Wall(), Registry().probe)


@pytest.mark.parametrize("deny", ['["nowhere/33"]', '["10.0.0.0/8", 7]', "{"])
async def test_a_block_that_makes_no_sense_stops_neither_the_agent_nor_the_pivot(tmp_path: Path, deny: str) -> None:
    class Netfilter(Wall):
        async def block(self, block: NodeBlock, now: datetime) -> None:
            ruleset(block, now, ())

    desk = Desk()
    until = (datetime.now(UTC) + timedelta(seconds=60)).isoformat()
    order = f'{{"deny": {deny}, "expires_at": "{until}"}}'
    await agent(tmp_path, desk, Netfilter()).order({**ORDER, "block.json": order})
    assert [r.result for r in desk.reports] == ["v2"]


async def test_a_report_that_was_not_taken_is_sent_again(tmp_path: Path) -> None:
    desk = Desk(refusals=3)
    await agent(tmp_path, desk).order(ORDER)
    assert len(desk.reports) == 1


async def test_a_block_comes_and_goes_with_its_key(tmp_path: Path) -> None:
    wall = Wall()
    one = agent(tmp_path, Desk(), wall)
    block = NodeBlock(deny=("0.0.0.0/0",), expires_at=datetime.now(UTC) + timedelta(seconds=60))
    await one.order({**ORDER, "block.json": block.model_dump_json()})
    assert wall.block_now == block
    await one.order(ORDER)
    assert wall.block_now is None


def ordered(seconds: float) -> dict[str, str]:
    """A block of a minute that ends so far from now by this node's clock."""
    until = datetime.now(UTC) + timedelta(seconds=seconds)
    return {**ORDER, "block.json": NodeBlock(deny=("0.0.0.0/0",), expires_at=until, lease=60).model_dump_json()}


async def test_a_node_whose_clock_is_behind_refuses_a_block_and_says_so(tmp_path: Path) -> None:
    wall, desk = Wall(), Desk()
    one = agent(tmp_path, desk, wall)
    for late in (3660.0, 3675.0):
        await one.order(ordered(late))
        assert wall.block_now is None
    assert [(r.result, "this node's clock, which is behind" in r.message) for r in desk.reports] == [("v2", True)]
    await one.order(ordered(60))
    assert wall.block_now is not None
    await one.order(ORDER)
    assert [r.message for r in desk.reports[1:]] == [""], "a word of the clock goes when the next order is right"


async def test_an_order_that_was_refused_does_not_come_right_by_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = Wall()
    one = agent(tmp_path, Desk(), wall)
    await one.order(ordered(90))
    monkeypatch.setattr(firewall, "CLOCK", 600.0)  # as if half a minute had passed
    await one.sweep()
    assert wall.block_now is None


async def test_an_order_that_is_over_lifts_what_stood_and_is_told(tmp_path: Path) -> None:
    wall, desk = standing(), Desk()

    class Real(Wall):
        async def block(self, block: NodeBlock, now: datetime) -> None:
            assert not block.remaining(now)
            await wall.lift()

    await agent(tmp_path, desk, Real()).order(ordered(-3600))
    assert wall.block_now is None
    assert "the clock is ahead" in desk.reports[0].message


async def test_a_firewall_that_fails_is_tried_again_and_never_stops_the_pivot(tmp_path: Path) -> None:
    wall, desk = Wall(), Desk()
    wall.broken = True
    one = agent(tmp_path, desk, wall)
    block = NodeBlock(deny=("0.0.0.0/0",), expires_at=datetime.now(UTC) + timedelta(seconds=60))
    order = {**ORDER, "block.json": block.model_dump_json()}
    await one.order(order)
    assert desk.reports[0].result == "v2"
    wall.broken = False
    await one.sweep()
    assert wall.block_now == block


def standing() -> Wall:
    """What an agent that died left behind."""
    wall = Wall()
    wall.block_now = NodeBlock(deny=("0.0.0.0/0",), expires_at=datetime.now(UTC) + timedelta(seconds=600))
    return wall


@pytest.mark.parametrize("said", [(("SYNCED", {}),), (("ADDED", {"data": ORDER}),)], ids=["no-plan", "no-block"])
async def test_a_block_that_was_taken_back_while_no_agent_ran_is_lifted_by_the_next(
    tmp_path: Path, said: tuple[tuple[str, dict[str, Any]], ...]
) -> None:
    wall, files = standing(), Containerd(tmp_path / "k3s", tmp_path / "certs.d")
    await serve(CONFIG, cast(Cluster, OneWatch(*said)), Desk().take, files, wall, Registry().probe)
    assert wall.block_now is None


async def test_while_it_is_not_known_what_is_ordered_a_block_stays(tmp_path: Path) -> None:
    wall = standing()
    await agent(tmp_path, Desk(), wall).sweep()
    assert wall.block_now is not None


async def test_who_may_not_touch_the_firewall_says_so_once_when_nothing_is_ordered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Denied(Wall):
        async def lift(self) -> bool:
            raise Stuck("NftDenied", "nft: not permitted")

    one = agent(tmp_path, Desk(), Denied())
    await one.order(ORDER)
    await one.sweep()
    assert caplog.text.count("not permitted") == 1
