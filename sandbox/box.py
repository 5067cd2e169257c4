"""A Sovereign in a box: everything that a cutover touches, on loopback, below one directory.

Opened on a directory that holds one already, it is the same Sovereign, pivoted as far as it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from events.jetstream import Broker as BrokerSettings
from events.jetstream import JetStreamLog
from events.log import LogFull, LogUnavailable
from sandbox import charts, seed, upstream
from sandbox.broker import Broker
from sandbox.catalogue import (
    CHARTS,
    CUTOVER_IMAGE,
    FQDN,
    HARBOR_HOST,
    PACKAGES,
    UPSTREAM_REGISTRIES,
    Chart,
    images,
)
from sandbox.charter import API, BOX, LIFTER, NODE_AGENT, WORKERS, Charter, inbox, key, variable
from sandbox.clock import Clock
from sandbox.controllers.api import Api, Object
from sandbox.controllers.loop import Context
from sandbox.controllers.mirror import Mirrors
from sandbox.controllers.oci import Credentials
from sandbox.controllers.running import FOLLOWED, running
from sandbox.description import (
    GHCR_USER,
    HARBOR_PASSWORD,
    PULL_LOGIN,
    TICKET_KEY,
    WORKER,
    describe,
    front_door,
    without_upstream_logins,
    write_settings,
)
from sandbox.faults import FAULTS
from sandbox.harbor import Harbor
from sandbox.images import Publisher
from sandbox.keyring import Keyring
from sandbox.kube import KubeApi
from sandbox.kubelet import Kubelets, Supply, attach_api
from sandbox.network import Identity, Network
from sandbox.nodes import Node, NodeBlocks, provision
from sandbox.oidc import OPERATOR, VIEWER, Issuer
from sandbox.policy import Enforcer
from sandbox.registry import Registry
from sandbox.serving import serving
from sandbox.settling import settle
from sandbox.sources import Sources, serve
from schemas.nodes import NodeReport
from workers.adapters.cluster import Cluster
from workers.entrypoints import lift
from workers.inbox import publish_report

Say = Callable[[str], None]
HARBOR_POD = Identity("pod", "harbor-core", "harbor", (("app", "harbor"),))
OWN_REPOSITORY = CUTOVER_IMAGE.rpartition(":")[0]
SETTLE_LIMIT = 240.0  # seconds


def quiet(_line: str) -> None:
    """Say nothing."""


@dataclass
class Box:
    """One Sovereign, running. Use `async with Box.open(directory)`."""

    directory: Path
    say: Say
    clock: Clock = field(default_factory=Clock)
    charter: Charter | None = None
    registries: dict[str, Registry] = field(default_factory=dict)
    keyring: Keyring = field(init=False)
    broker: Broker = field(init=False)
    kube: KubeApi = field(init=False)
    api: Api = field(init=False)
    mirrors: Mirrors = field(init=False)
    network: Network = field(init=False)
    sources: Sources = field(init=False)
    harbor: Harbor = field(init=False)
    issuer: Issuer = field(init=False)
    harbor_url: str = field(init=False)
    nodes: list[Node] = field(init=False)
    blocks: NodeBlocks = field(init=False)
    enforcer: Enforcer = field(init=False)
    kubelets: Kubelets = field(init=False)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        directory: Path,
        repo: str | None = None,
        tree: Path | None = None,
        hold: float = 10.0,
        *,
        say: Say = quiet,
        interval: float = 5.0,
        charter: Charter | None = None,
    ) -> AsyncIterator[Box]:
        """Settled, until the block ends. `interval`: seconds between two looks of Flux at Git. `charter`: who may
        do what; without one everybody is the administrator.

        Raises Unsettled, saying what is missing, when it does not come up.
        """
        directory.mkdir(parents=True, exist_ok=True)
        box = cls(directory, say, charter=charter)
        async with AsyncExitStack() as stack:
            await box._systems(stack, repo, tree)
            await box._cluster(stack, interval)
            await box._write_settings(hold)
            await settle(box.mirrors, box.sources.releases, say, SETTLE_LIMIT)
            await box._restage()
            yield box

    # --- what a person or a test does with it -----------------------------------------------------------------

    @property
    def settings_file(self) -> Path:
        """What `cutover --config` reads."""
        return self.directory / "settings.yaml"

    @property
    def kubeconfig(self) -> Path:
        return self.directory / "kubeconfig"

    @property
    def class_settings(self) -> dict[str, Path]:
        """Settings of each class of workers, when there is a charter."""
        return {name: self.directory / f"settings-{name}.yaml" for name in WORKERS} if self.charter else {}

    @property
    def api_settings(self) -> Path:
        """Settings of the front door: with an identity of its own where the charter has one."""
        own = self.charter is not None and API in self.charter.accounts
        return self.directory / f"settings-{API}.yaml" if own else self.settings_file

    @property
    def nats_url(self) -> str:
        return self.broker.url

    def node(self, name: str) -> Node:
        """Raises LookupError for a node that is not there."""
        found = next((n for n in self.nodes if n.name == name), None)
        if found is None:
            raise LookupError(f"no such node: {name}")
        return found

    async def fail(self, step: str) -> str:
        """Stage the failure that stops this step; what it looks like. Raises LookupError for an unknown step."""
        if step not in FAULTS:
            raise LookupError(f"no step {step!r}; one of {', '.join(FAULTS)}")
        await self.heal()
        await FAULTS[step].stage(self)
        self._fault_file.write_text(step, encoding="utf-8")
        self.log(f"sandbox: staged for {step}: {FAULTS[step].tells}")
        return FAULTS[step].tells

    async def heal(self) -> None:
        """Undo what `fail` staged; nothing when nothing was."""
        if not self._fault_file.exists():
            return
        step = self._fault_file.read_text(encoding="utf-8")
        await FAULTS[step].heal(self)
        self._fault_file.unlink()
        self.log(f"sandbox: healed {step}")

    def log(self, line: str) -> None:
        """Append to `sandbox.log`."""
        with (self.directory / "sandbox.log").open("a", encoding="utf-8") as file:
            file.write(f"{self.clock.now().isoformat(timespec='milliseconds')} {line}\n")

    def publish_chart(self, chart: Chart, archive: bytes) -> None:
        """Publish a chart upstream again under its version, and in local Harbor when it was copied there."""
        repository = f"{upstream.CHART_PREFIX}/{chart.name}"
        stores = [self.registries[upstream.CHART_HOST].store, self.harbor.store]
        for store in stores:
            if store is stores[0] or store.exists(repository):
                Publisher(store, repository).chart(chart.name, chart.version, archive)

    # --- how it comes up --------------------------------------------------------------------------------------

    @property
    def _fault_file(self) -> Path:
        return self.directory / "fault"

    async def _systems(self, stack: AsyncExitStack, repo: str | None, tree: Path | None) -> None:
        """Everything outside the cluster, and the cluster's API, registry and Git."""
        self.keyring = Keyring(self.directory / "secrets")
        self.network = await stack.enter_async_context(Network())
        self.broker = await stack.enter_async_context(
            Broker.start(
                self.directory / "nats",
                more=self.charter.authorization() if self.charter else "",
                variables={variable(user): self.keyring.get(key(user)) for user in self._users()},
            )
        )
        self.kube = await stack.enter_async_context(KubeApi.open(self.directory / "kube", self.clock))
        self.kube.kubeconfig(self.kubeconfig)
        await attach_api(self.network, self.kube.port)
        self.sources = await stack.enter_async_context(serve(self.directory, self.network, self.keyring, repo, tree))
        await self._registries(stack)
        logins = {name: self.keyring.get(f"login-{name}") for name in (OPERATOR, VIEWER)}
        self.issuer = await stack.enter_async_context(Issuer.open(logins))
        password = self.keyring.get(HARBOR_PASSWORD)
        place = self.directory / "harbor"
        self.harbor = Harbor.open(place, HARBOR_HOST, Clock(self.clock), password, self._harbor_wire)
        port = await stack.enter_async_context(serving(self.harbor.app))
        await self.network.attach(HARBOR_HOST, port, local=True)
        self.harbor_url = f"http://127.0.0.1:{port}"

    async def _harbor_wire(self, host: str) -> str:
        return await self.network.url(HARBOR_POD, host)

    async def _registries(self, stack: AsyncExitStack) -> None:
        logins = {GHCR_USER: self.keyring.get(PULL_LOGIN)}
        wanted = list(charts.known(self.sources.charts))
        private = tuple(f"{upstream.CHART_PREFIX}/{c.name}" for c in wanted)
        for host in UPSTREAM_REGISTRIES:
            closed = private if host == upstream.CHART_HOST else ()
            root = self.directory / "upstream" / host
            registry = Registry.open(root, host, self.clock, logins=logins, private=closed)
            port = await stack.enter_async_context(serving(registry.app))
            await self.network.attach(host, port, local=False)
            self.registries[host] = registry
        archives = [(c.name, c.version, charts.archive(c)) for c in wanted]
        runs = dict.fromkeys([*images(), *seed.images()])
        await asyncio.to_thread(upstream.seed, self.registries, archives, runs, PACKAGES)

    async def _cluster(self, stack: AsyncExitStack, interval: float) -> None:
        """Nodes, kubelets, policies and controllers; on the first start what cloud-init applies."""
        self.api = Api(self.kube.local)
        self.mirrors = Mirrors(self.api)
        if self.charter is not None:
            await seed.apply(self.api, self.charter.objects)
        self.nodes = provision(self.directory / "nodes")
        self.blocks = NodeBlocks(self.nodes)
        self.enforcer = Enforcer(self.api, self.network, self.blocks, self.clock)
        await stack.enter_async_context(background(self.enforcer.run(), self.log))
        self.kubelets = Kubelets(
            self.api,
            self.network,
            self.nodes,
            self.blocks,
            self.clock,
            own_repository=OWN_REPOSITORY,
            supply=Supply(self._agent_cluster, await self._reporter(stack), self._lifter_cluster),
        )
        for resource in FOLLOWED:
            _ = self.mirrors[resource]
        await stack.enter_async_context(self.kubelets.running())
        place = self.directory / "controllers"
        context = Context(self.api, self.mirrors, self.network, self.clock, place, self.log)
        await stack.enter_async_context(running(context))
        seeded = self.directory / "seeded"
        if not seeded.exists():
            login = Credentials(GHCR_USER, self.keyring.get(PULL_LOGIN))
            wanted = seed.objects(dict.fromkeys(seed.PULL_HOSTS, login), interval, self.sources.branch)
            await seed.apply(self.api, [*wanted, *self._by_hand()])
            seeded.touch()

    def _by_hand(self) -> list[Object]:
        """The node agents, when the given Git does not bring them: installed with Helm, by hand."""
        if any(name == charts.NODE_AGENT for name, _ in self.sources.charts):
            return []
        chart = next(c for c in CHARTS if c.name == charts.NODE_AGENT)
        return charts.render(charts.unpack(charts.archive(chart)), {}, "cutover", chart.namespace)

    def _agent_cluster(self) -> Any:
        config = self._kubeconfig_of(NODE_AGENT)
        return Cluster.open(kubeconfig=config, field_manager="catalyst-cutover-node-agent")

    def _lifter_cluster(self) -> Any:
        return Cluster.open(kubeconfig=self._kubeconfig_of(LIFTER), field_manager=lift.MANAGER)

    def _kubeconfig_of(self, who: str) -> Path:
        """The class's own service account; the administrator's without a charter."""
        if self.charter is None:
            return self.kubeconfig
        return self.kube.kubeconfig(self.directory / f"kubeconfig-{who}", self.charter.accounts[who])

    def _users(self) -> tuple[str, ...]:
        return self.charter.names if self.charter else ()

    def broker_login(self, user: str) -> dict[str, str]:
        """How a user reaches the broker."""
        if self.charter is None:
            return {"url": self.broker.url}
        login = {"user": user, "password_file": str(self.keyring.path(key(user)))}
        return {"url": self.broker.url, **login, "inbox_prefix": inbox(user)}

    async def _reporter(self, stack: AsyncExitStack) -> Callable[[NodeReport], Coroutine[Any, Any, None]]:
        """How a node's agent reports: over a connection of its own, as on a real node."""
        broker = BrokerSettings.model_validate(self.broker_login(NODE_AGENT))
        stream = await stack.enter_async_context(JetStreamLog.open(broker))

        async def publish(report: NodeReport) -> None:
            try:
                await publish_report(stream, FQDN, report)
            except (LogUnavailable, LogFull) as error:
                raise ConnectionError(str(error)) from error

        return publish

    async def _write_settings(self, hold: float) -> None:
        wires = {host: await self.network.url(WORKER, host) for host, at in self.network.hosts.items() if not at.local}
        sovereign = describe(
            self.keyring, wires, self.sources.gitea_url, self.harbor_url,
            front=await self.network.url(WORKER, HARBOR_HOST), branch=self.sources.branch, hold=hold,
            secret_namespaces=self.charter.secret_namespaces if self.charter else (),
        )  # fmt: skip
        workspace = self.directory / "workspace"
        workspace.mkdir(exist_ok=True)
        door = front_door(self.issuer, self.keyring.path(TICKET_KEY))
        files = {BOX: self.settings_file, **self.class_settings}
        if self.api_settings != self.settings_file:
            files[API] = self.api_settings
        for name, file in files.items():
            kubeconfig = self.kubeconfig if name == BOX else self._kubeconfig_of(name)
            nats = self.broker_login(name)
            # Logins upstream are for those who copy from there, and for those who look ahead.
            given = self.charter is None or name in (BOX, *self.charter.outside)
            told = sovereign if given else without_upstream_logins(sovereign)
            write_settings(file, told, nats=nats, kubeconfig=kubeconfig, workspace=workspace, api=door)

    async def _restage(self) -> None:
        """A failure that was staged when the box was closed is staged still."""
        if self._fault_file.exists():
            await FAULTS[self._fault_file.read_text(encoding="utf-8")].stage(self)


@asynccontextmanager
async def background(work: Coroutine[Any, Any, None], log: Say) -> AsyncIterator[None]:
    """Run beside the block; its end before the block's is a defect, and logged."""

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            log(f"sandbox: {task.get_name()} broke: {type(error).__name__}: {error}")

    task = asyncio.create_task(work)
    task.add_done_callback(ended)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
