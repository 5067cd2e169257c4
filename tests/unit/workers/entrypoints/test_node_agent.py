"""The node agent obeys what stands in its ConfigMap, and says so once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from schemas.nodes import Mirror, NodePlan, NodeReport
from workers.adapters.containerd import Containerd, plan_digest
from workers.adapters.firewall import NodeBlock
from workers.entrypoints.node_agent import NodeAgent, NodeAgentConfig
from workers.errors import Wait

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


def agent(root: Path, desk: Desk, wall: Wall | None = None) -> NodeAgent:
    return NodeAgent(CONFIG, desk.take, Containerd(root / "k3s", root / "certs.d"), wall or Wall())


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
