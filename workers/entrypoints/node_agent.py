"""The agent on each node: makes the node's registry files as the plan says, closes and opens its firewall.

The plan is a ConfigMap, so a node that joins later finds it too; beside it stands whose turn it is. The answer
goes out as a NodeReport, after local Harbor has answered this node: when it does not, the files of before are
put back. Of the API the agent needs `list` and `watch` of this one ConfigMap, by its name, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from schemas.nodes import BLOCK_KEY, PLAN_KEY, TURN_KEY, NodePlan, NodeReport, Turn
from workers.adapters.cluster import CONFIG_MAP, LOST, SYNCED, Cluster
from workers.adapters.containerd import Containerd, plan_digest
from workers.adapters.firewall import Firewall, NftFirewall, NodeBlock
from workers.adapters.node_probe import probe as ask_registry
from workers.errors import Stuck, Trouble

LOG = logging.getLogger(__name__)
UNKNOWN = "sha256:" + "0" * 64
"""Digest in the report about a plan that could not be read."""
Publish = Callable[[NodeReport], Awaitable[None]]
Probe = Callable[[NodePlan], Awaitable[None]]
"""Ask local Harbor as this node's containerd would. Raises Trouble."""


@dataclass(frozen=True, slots=True)
class NodeAgentConfig:
    """Which node this is and where its orders stand."""

    node: str
    namespace: str
    config_map: str
    sweep: float = 30.0
    """Seconds between two looks at the files though nothing was ordered: k3s rewrites them at its start."""
    retry: float = 1.0
    """Seconds before a report that did not reach the log is sent again."""


class NodeAgent:
    """Keeps one node as ordered. `order` takes the ConfigMap's newest state, `sweep` looks again."""

    def __init__(
        self,
        config: NodeAgentConfig,
        publish: Publish,
        containerd: Containerd,
        firewall: Firewall,
        probe: Probe = ask_registry,
    ) -> None:
        self._config, self._publish, self._probe = config, publish, probe
        self._containerd, self._firewall = containerd, firewall
        self._data: dict[str, str] | None = None
        """The ConfigMap's newest state; None until it is known, and then nothing is done either."""
        self._told: tuple[str, str, str] | None = None
        self._found: dict[str, str] = {}
        self._block: str | None = None
        """The order that the firewall follows; None until one was carried out: whoever was here before may have left
        a block behind."""
        self._clock = ""
        """What the newest order shows to be wrong with this node's clock."""

    async def order(self, data: dict[str, str]) -> None:
        """Obey what the ConfigMap says now."""
        self._data = data
        await self.sweep()

    async def sweep(self) -> None:
        """Obey once more, files and firewall; report when there is something new to say."""
        if self._data is None:
            return
        await self._obey_block(self._data.get(BLOCK_KEY, ""))
        text = self._data.get(PLAN_KEY)
        if not text:
            return
        obeyed = await self._obey_plan(text, self._data.get(TURN_KEY))
        if obeyed is None:
            return
        report, changes = obeyed
        if self._clock:
            report = report.model_copy(update={"message": "; ".join(filter(None, (self._clock, report.message)))[:500]})
        said = (report.digest, report.result, report.message)
        if changes or said != self._told:
            await self._tell(report)
            self._told = said

    async def _obey_plan(self, text: str, turn: str | None) -> tuple[NodeReport, int] | None:
        """The report and how many files changed; None while it is not this node's turn."""
        digest = UNKNOWN
        try:
            plan = NodePlan.model_validate_json(text)
            digest = plan_digest(plan)
            if turn is not None and not Turn.model_validate_json(turn).admits(self._config.node, digest):
                return None
            changes, remarks = await self._pivot(plan, digest)
        except (OSError, ValueError, Trouble) as error:
            # ValueError: a file or an order that is not what it says it is. The agent lives on to tell.
            return self._report(digest, "failed", f"{type(error).__name__}: {error}"[:500]), 0
        return self._report(digest, "v2", remarks[:500]), changes

    async def _pivot(self, plan: NodePlan, digest: str) -> tuple[int, str]:
        """The files say what the plan says, and local Harbor answers; or they are as they were."""
        node = self._containerd
        broken = await asyncio.to_thread(node.ignored)
        changes = await asyncio.to_thread(node.begin, plan)
        if changes or node.pending or self._told is None or self._told[:2] != (digest, "v2"):
            try:
                await self._probe(plan)
            except Exception:
                await asyncio.to_thread(node.undo)
                raise
        await asyncio.to_thread(node.commit)
        left = await asyncio.to_thread(node.ignored, plan)
        self._found |= dict.fromkeys(broken.keys() - left.keys(), "written anew")
        self._found = {n: w for n, w in self._found.items() if n not in left} | dict.fromkeys(left, "not ours to mend")
        notes = [f"certs.d/{n}/hosts.toml was ignored by containerd, {what}" for n, what in sorted(self._found.items())]
        ways = await asyncio.to_thread(node.by_hand, plan)
        notes += [f"certs.d/{n}/hosts.toml, made by hand, still leads to {host}" for n, host in sorted(ways.items())]
        return changes, "; ".join(notes)

    def _report(self, digest: str, result: Any, message: str) -> NodeReport:
        now = datetime.now(UTC)
        return NodeReport(node=self._config.node, digest=digest, result=result, message=message, at=now)

    async def _tell(self, report: NodeReport) -> None:
        while True:
            try:
                await self._publish(report)
            except (OSError, TimeoutError, Trouble) as error:
                LOG.warning("report not taken, again in %ss: %s", self._config.retry, error)
                await asyncio.sleep(self._config.retry)
            else:
                return

    async def _obey_block(self, text: str) -> None:
        if text == self._block:
            return
        try:
            if text:
                await self._close(NodeBlock.model_validate_json(text))
            else:
                self._clock = ""
                await self._firewall.lift()
        except (OSError, Trouble, ValueError) as error:
            # ValueError: no order at all, or networks that are none. The proof's canaries see that nothing is
            # blocked; the agent must live on to lift and to pivot.
            if self._block is None and not text and isinstance(error, Stuck):
                LOG.warning("no block is ordered, and whether one was left behind cannot be seen: %s", error)
                self._block = ""  # who may not lift may not block either, and the kernel ends what another began
                return
            LOG.error("node block not obeyed: %s", error)
            return
        self._block = text

    async def _close(self, block: NodeBlock) -> None:
        """Obey an order to block, unless its end cannot be right here. An order refused once is refused for good:

        by a clock that is behind it would seem right later, when in truth it is over.
        """
        now = datetime.now(UTC)
        self._clock = block.odd(now)
        if self._clock:
            LOG.error("node block refused: %s", self._clock)
        if not self._clock or not block.remaining(now):
            await self._firewall.block(block, now)


async def serve(
    config: NodeAgentConfig,
    cluster: Cluster,
    publish: Publish,
    containerd: Containerd,
    firewall: Firewall,
    probe: Probe = ask_registry,
) -> None:
    """Obey until cancelled."""
    agent = NodeAgent(config, publish, containerd, firewall, probe)
    turn = asyncio.Lock()

    async def sweeping() -> None:
        while True:
            await asyncio.sleep(config.sweep)
            async with turn:
                await agent.sweep()

    async def watching() -> None:
        data: dict[str, str] = {}
        async with contextlib.aclosing(cluster.follow(CONFIG_MAP, config.namespace, name=config.config_map)) as changes:
            async for kind, obj in changes:
                if kind == LOST:
                    continue
                if kind != SYNCED:
                    # A plan that is gone is no order to forget it; a block that is gone is lifted.
                    data = {} if kind == "DELETED" else dict(obj.get("data") or {})
                async with turn:
                    await agent.order(data)

    works = [asyncio.ensure_future(watching()), asyncio.ensure_future(sweeping())]
    try:
        # Whichever ends first ends both: an agent that only seems to sweep would tell nobody.
        done, _ = await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
        for work in done:
            work.result()
    finally:
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)


Connect = Callable[[NodeAgentConfig], "contextlib.AbstractAsyncContextManager[tuple[Cluster, Publish]]"]
"""Opens the cluster and the log for the agent; the wiring sets it on the click context's `obj`."""


@click.command("node-agent")
@click.option("--node", envvar="NODE_NAME", required=True, help="This node's name.")
@click.option("--namespace", envvar="POD_NAMESPACE", required=True, help="Where the plan stands.")
@click.option("--plan", "config_map", default="cutover-node-plan", show_default=True, help="The ConfigMap.")
@click.option("--host-root", type=click.Path(path_type=Path), default=Path("/"), show_default=True)
@click.pass_obj
def command(connect: Connect, node: str, namespace: str, config_map: str, host_root: Path) -> None:
    """Keep this node's registry configuration and firewall as the cutover orders."""
    config = NodeAgentConfig(node, namespace, config_map)

    async def main() -> None:
        async with connect(config) as (cluster, publish):
            await serve(config, cluster, publish, containerd_at(host_root), NftFirewall())

    asyncio.run(main())


def containerd_at(root: Path) -> Containerd:
    """The node's files below the place where the host's root is mounted."""
    default = Containerd()
    return Containerd(root / default.k3s.relative_to("/"), root / default.certs.relative_to("/"))
