"""The kubelets of all nodes: run the Pods that are bound to them, as far as a status tells.

Images are really pulled. Our own image's commands really run, in this process; every other image runs for
ever once it is pulled, or completes when its Pod is a one-shot.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from sandbox.clock import Clock
from sandbox.controllers.api import NODES, PODS, SECRETS, Api, ApiError, Object
from sandbox.controllers.mirror import Mirror
from sandbox.controllers.oci import Credentials, docker_config
from sandbox.network import Identity, Network, canonical
from sandbox.nodes import RESOLVER as NODE_RESOLVER
from sandbox.nodes import DirectoryFirewall, ImageStore, Node, NodeBlocks
from sandbox.pod_life import BACK_OFF, Life
from sandbox.policy import API_SERVER, identity_of
from sandbox.puller import Image, Puller, PullError
from schemas.canary import RESOLVERS, Finding
from schemas.nodes import NodePlan, NodeReport
from workers.adapters import node_probe
from workers.adapters.cluster import Cluster
from workers.entrypoints import canary, lift, node_agent
from workers.proof import lifter
from workers.proof.block import Placement

CLUSTER_RESOLVER = "10.43.0.10"
NOBODY = "http://127.0.0.1:9"
"""Where a name that is not on the network leads: refused."""


@dataclass(frozen=True, slots=True)
class Supply:
    """What the node agents are given: a way to the API, and a way to the log."""

    cluster: Callable[[], AbstractAsyncContextManager[Cluster]]
    publish: Callable[[NodeReport], Awaitable[None]]
    lifter: Callable[[], AbstractAsyncContextManager[Cluster]] | None = None
    """The lifter's way to the API, when that is another account than the agents'."""


class Kubelets:
    """Every node's kubelet. Use `async with kubelets.running()`."""

    def __init__(
        self,
        api: Api,
        network: Network,
        nodes: Sequence[Node],
        blocks: NodeBlocks,
        clock: Clock,
        *,
        own_repository: str,
        supply: Supply | None,
    ) -> None:
        self._api, self._network, self._clock = api, network, clock
        self._nodes = {n.name: n for n in nodes}
        self._stores = {n.name: ImageStore(n.images) for n in nodes}
        self._pullers = {n.name: Puller(network, n.say) for n in nodes}
        self._blocks, self._supply = blocks, supply
        self._own = own_repository
        self._pods = Mirror(api, PODS)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._addresses = itertools.count(10)
        self._awake: defaultdict[str, asyncio.Event] = defaultdict(_set)
        self._agents: dict[str, asyncio.Task[None]] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Kubelets]:
        """Register the nodes and run Pods until the block ends."""
        for node in self._nodes.values():
            await self._register(node)
        self._pods.listen(self._changed)
        following = asyncio.create_task(self._pods.run())
        try:
            yield self
        finally:
            tasks = [following, *self._tasks.values(), *self._ending]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for puller in self._pullers.values():
                await puller.close()

    async def _register(self, node: Node) -> None:
        made = await self._api.apply(NODES, node.object(), "k3s")
        await self._api.merge(NODES, made, {"status": node.status()}, "kubelet", sub="status")

    async def join(self, node: Node) -> None:
        """One more node, as an autoscaler brings it: it boots with the files that cloud-init had from the start."""
        self._nodes[node.name] = node
        self._stores[node.name] = ImageStore(node.images)
        self._pullers.setdefault(node.name, Puller(self._network, node.say))
        self._blocks.add(node)
        await self._register(node)

    def puller(self, node: str) -> Puller:
        """What pulls on this node."""
        return self._pullers[node]

    def silence(self, node: str) -> None:
        """The agent of this node does nothing any more; its Pod runs on."""
        self._awake[node].clear()
        if (task := self._agents.pop(node, None)) is not None:
            task.cancel()

    def wake(self, node: str) -> None:
        """It goes on, as one that was started anew."""
        self._awake[node].set()

    def _changed(self, old: Object | None, new: Object | None) -> None:
        pod = new or old
        if pod is None or pod["spec"].get("nodeName") not in self._nodes:
            return
        uid = str(pod["metadata"]["uid"])
        if old is not None and old["metadata"]["uid"] != uid:
            # Deleted and made anew under the same name, and we saw only the outcome.
            self._stop(old)
        if new is None or "deletionTimestamp" in pod["metadata"]:
            self._stop(pod)
            if new is not None:
                self._later(self._finish(pod))
        elif uid not in self._tasks and pod.get("status", {}).get("phase") not in {"Succeeded", "Failed"}:
            self._tasks[uid] = asyncio.create_task(self._run(pod))

    def _stop(self, pod: Object) -> None:
        task = self._tasks.pop(str(pod["metadata"]["uid"]), None)
        if task is not None:
            task.cancel()
        if (who := identity_of(pod)).kind == "pod":
            self._later(self._network.forget(who))

    def _later(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _finish(self, pod: Object) -> None:
        """The kubelet's own delete, which ends a graceful deletion."""
        meta = pod["metadata"]
        await self._api.local.request(
            "DELETE", PODS.path(meta["namespace"], meta["name"]), query={"gracePeriodSeconds": "0"}
        )

    async def _run(self, pod: Object) -> None:
        life = Life(self, pod)
        while True:
            try:
                await life.run()
            except ApiError:
                # The API server was not in the mood: a kubelet tries for ever.
                await asyncio.sleep(BACK_OFF)
            else:
                return

    # --- what a Pod's life needs --------------------------------------------------------------------------

    async def publish(self, pod: Object, status: Object) -> None:
        """Write a Pod's status."""
        await self._api.merge(PODS, pod, {"status": status}, "kubelet", sub="status")

    def now(self) -> str:
        """As the API writes times."""
        return self._clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")

    def address(self, node: str) -> str:
        """A new Pod's address."""
        return f"10.42.{self._nodes[node].number}.{next(self._addresses) % 245 + 10}"

    async def pull(self, pod: Object, container: Object) -> str:
        """Have the image on the node, by its pull policy; returns its digest. Raises PullError."""
        node = self._nodes[pod["spec"]["nodeName"]]
        store, image = self._stores[node.name], Image.parse(container["image"])
        latest = image.reference == "latest"
        policy = container.get("imagePullPolicy") or ("Always" if latest else "IfNotPresent")
        if policy != "Always" and str(image) in store.images:
            return store.images[str(image)]
        if self._blocks.deaf(node.name, self._clock.now()):
            raise PullError(
                f'failed to do request: Head: dial tcp: lookup on {NODE_RESOLVER}:53: i/o timeout, "{image}"'
            )
        login = await self._login(pod, image.host)
        puller = self._pullers[node.name]
        pulled = await puller.pull(node.name, node.containerd.certs, str(image), store.blobs, login)
        store.add(str(image), pulled.digest, pulled.blobs)
        return pulled.digest

    async def _login(self, pod: Object, host: str) -> Credentials | None:
        for reference in pod["spec"].get("imagePullSecrets") or ():
            secret = await self._api.get(SECRETS, reference["name"], pod["metadata"]["namespace"])
            if secret and (login := docker_config(secret, host)):
                return login
        return None

    def ours(self, container: Object) -> bool:
        """Does it run a command of our own image? Others' init containers are taken as done."""
        image = Image.parse(container["image"])
        return f"{image.host}/{image.repository}" == self._own and list(container.get("command") or ())[:1] == [
            "cutover"
        ]

    async def execute(self, pod: Object, container: Object) -> tuple[int, str]:
        """Run the container; its exit code and termination message."""
        image = Image.parse(container["image"])
        if container.get("command") == ["call-home"]:
            return await self._call_home(pod, list(container.get("args") or ()))
        argv = [*(container.get("command") or ()), *(container.get("args") or ())]
        ours = f"{image.host}/{image.repository}" == self._own and argv[:1] == ["cutover"]
        match argv[1:2] if ours else []:
            case ["canary"]:
                return 0, await self._canary(pod, argv[2:])
            case ["node-agent"] if self._supply is not None:
                await self._node_agent(pod, argv[2:], self._supply)
                return 1, ""
            case ["lift"] if self._supply is not None:
                return 0, await self._lift(argv[2:], self._supply)
            case _:
                if pod["spec"].get("restartPolicy", "Always") == "Always":
                    await asyncio.Event().wait()
                return 0, ""

    async def _canary(self, pod: Object, args: list[str]) -> str:
        with canary.command.make_context("canary", args) as context:
            targets, timeout = context.params["targets"], context.params["timeout"]
            known = canary.known_of(context.params["known"], targets)
            proxies = context.params["proxies"]
            names = [urlsplit(t).netloc for t in targets] if context.params["names"] else []
            image, resolvers = context.params["image"], context.params["resolvers"]
        if resolvers:
            asked = NODE_RESOLVER if pod["spec"].get("dnsPolicy") == "Default" else CLUSTER_RESOLVER
            return RESOLVERS.dump_json((asked,)).decode()
        if image:
            wire = await self._wire(identity_of(pod), urlsplit(targets[0]).netloc, ())
            return (await canary.asked(image, wire)).model_dump_json()
        if names:
            hosts = {name: self._network.hosts.get(canonical(name)) for name in names}
            return canary.names_document({name: host.addresses if host else () for name, host in hosts.items()})
        return canary.document(await self._look(identity_of(pod), targets, timeout, known, proxies))

    async def _look(
        self,
        who: Identity,
        targets: Sequence[str],
        timeout: float,
        known: Mapping[str, Collection[str]] | None = None,
        proxies: Sequence[str] = (),
    ) -> list[Finding]:
        """`timeout` is how long a dropped packet is waited for."""
        outside = known or {}
        names = {target: urlsplit(target).netloc for target in targets}
        wires = {name: await self._wire(who, name, outside.get(name, ())) for name in names.values()}
        wires |= {proxy: await self._wire(who, proxy, ()) for proxy in proxies}
        limits = {target: self._network.patience(who, canonical(name), timeout) for target, name in names.items()}
        found = await asyncio.gather(
            *(canary.look([t], limits[t], wires, known=outside, proxies=proxies) for t in targets)
        )
        return [self._at(finding) for (finding,) in found]

    def _at(self, finding: Finding) -> Finding:
        """With the addresses that a canary on a real network would have seen answer."""
        host = self._network.hosts.get(canonical(finding.host))
        return finding.model_copy(update={"at": host.addresses}) if finding.reached and host else finding

    async def _wire(self, who: Identity, netloc: str, known: Collection[str]) -> str:
        """Where a name leads; one that does not resolve, where its address leads that the caller remembers."""
        name = canonical(netloc)
        host = self._network.hosts.get(name)
        if host is not None and not self._network.resolves(name) and not set(host.addresses) & set(known):
            return NOBODY
        try:
            return await self._network.url(who, name)
        except LookupError:
            return NOBODY

    async def _lift(self, args: list[str], supply: Supply) -> str:
        with lift.command.make_context("lift", args) as context:
            params = context.params
        async with (supply.lifter or supply.cluster)() as cluster:
            place = Placement(params["namespace"], params["config_map"])
            if params["able"]:
                await lifter.able(cluster, place, params["able"], params["policy"])
                return "could lift"
            return str(await lifter.watch(cluster, place, params["seconds"] or 0.0, every=1.0))

    async def _call_home(self, pod: Object, targets: list[str]) -> tuple[int, str]:
        """A workload that cannot live without somebody out there: it asks every second, and ends in anger."""
        while not (trouble := await self.cut_off(pod, targets)):
            await asyncio.sleep(1.0)
        return 1, trouble

    async def cut_off(self, pod: Object, targets: Sequence[str]) -> str:
        """What a workload says that does not reach all it needs; empty when it does."""
        missing = [f for f in await self._look(identity_of(pod), targets, 1.0) if not f.reached]
        return "; ".join(f"cannot reach {finding.host}: {finding.detail}" for finding in missing)

    async def _node_agent(self, pod: Object, args: list[str], supply: Supply) -> None:
        node = self._nodes[pod["spec"]["nodeName"]]
        given = ["--node", node.name, "--namespace", pod["metadata"]["namespace"], *args]
        with node_agent.command.make_context("node-agent", given) as context:
            params = context.params
        config = node_agent.NodeAgentConfig(params["node"], params["namespace"], params["config_map"], sweep=5.0)
        who = Identity("node", node.name)

        async def probe(plan: NodePlan) -> None:
            await node_probe.probe(plan, lambda netloc: self._network.url(who, canonical(netloc)))

        async with supply.cluster() as cluster:
            firewall = DirectoryFirewall(node.name, self._blocks)
            awake = self._awake[node.name]
            while True:
                while not awake.is_set():  # silenced again before it came to its first word
                    await awake.wait()
                work = node_agent.serve(config, cluster, supply.publish, node.containerd, firewall, probe)
                task = self._agents[node.name] = asyncio.create_task(work)
                try:
                    await task
                except asyncio.CancelledError:
                    task.cancel()
                    if awake.is_set():
                        raise


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


RESOLVER = "kube-dns.kube-system.svc:53"


async def attach_api(network: Network, port: int) -> None:
    """Put the API server and the resolver on the network, under the names that Pods use.

    Who answers for the resolver does not matter: canaries only ask whether it can be reached.
    """
    await network.attach(API_SERVER, port, local=True)
    await network.attach(RESOLVER, port, local=True)
