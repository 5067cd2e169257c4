"""An open box whose workers, front door, agents and lifter are who the chart says, with what it grants and no more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import httpx
import yaml
from grants import TRACED, Grant, without

from events.fold import State, evolve
from events.jetstream import Broker, JetStreamLog
from sandbox import blueprint
from sandbox.blueprint import FRONT_DOOR, merged
from sandbox.box import Box
from sandbox.catalogue import CHARTS, PACKAGES
from sandbox.charter import Charter
from sandbox.crew import Crew, front_door
from sandbox.oidc import OPERATOR
from workers.entrypoints.settings import Settings, load

HOLD = 2.0  # seconds
ROLES = {"Role": "roles", "ClusterRole": "clusterroles"}
BASE = "/api/v1/sovereign/cutover"
SOURCE = "/apis/source.toolkit.fluxcd.io"
CHART = next(chart for chart in CHARTS if chart.name == "bp-alloy")
AUDIENCE = "catalyst-cutover"
SEAL = {"namespace": "catalyst-system", "name": "handover-seal"}
VALUES = merged(FRONT_DOOR, {"settings": {"handover": SEAL, "auto_fire": {"enabled": True}}})
"""Everything that the chart can be told to grant."""


@dataclass
class Ground:
    """A Sovereign with a charter, and all of its processes."""

    box: Box
    charter: Charter
    crew: Crew
    settings: Settings
    stream: JetStreamLog
    operator: JetStreamLog
    places: dict[str, list[int]]
    """Class -> its processes among the crew's."""
    web: httpx.AsyncClient

    # --- at the front door --------------------------------------------------------------------------------------

    async def ask(self, method: str, path: str, who: str = OPERATOR, **body: Any) -> httpx.Response:
        """`POST start`, as somebody of the realm, or as catalyst-api's Pod when `who` is empty."""
        token = self.box.issuer.token(who) if who else await self.pod_token()
        headers = {"Authorization": f"Bearer {token}"}
        given = {"json": body} if method == "POST" else {}
        return await self.web.request(method, f"{BASE}/{path}", headers=headers, **given)

    async def pod_token(self) -> str:
        """Of the one Pod that the chart was told of."""
        place = f"/api/v1/namespaces/{SEAL['namespace']}/serviceaccounts"
        await self.admin("POST", place, {"metadata": {"name": "catalyst-api"}})
        asked = {"spec": {"audiences": [AUDIENCE], "expirationSeconds": 600}}
        code, answer = await self.admin("POST", f"{place}/catalyst-api/token", asked)
        assert code == 201, answer
        token: str = answer["status"]["token"]
        return token

    async def admin(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """As the cluster's administrator."""
        code, answer = await self.box.kube.local.request(method, path, body)
        return code, answer

    async def seal(self) -> None:
        """Handover is finished."""
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SEAL["name"]}}
        code, answer = await self.admin("POST", f"/api/v1/namespaces/{SEAL['namespace']}/secrets", secret)
        assert code in (201, 409), answer

    async def by_hand(self) -> None:
        """What no Git declares and no release made: sources, a chart, packages, copies of the pull secret."""
        flux, pull = "flux-system", {"secretRef": {"name": "ghcr-pull"}}
        _, secret = await self.admin("GET", f"/api/v1/namespaces/{flux}/secrets/ghcr-pull")
        made: list[tuple[str, Any]] = [
            (f"{SOURCE}/v1/namespaces/{flux}/helmrepositories", {
                "metadata": {"name": "by-hand"},
                "spec": {"url": "oci://ghcr.io/openova-io", "type": "oci", "interval": "15m", **pull},
            }),
            (f"{SOURCE}/v1beta2/namespaces/{flux}/ocirepositories", {
                "metadata": {"name": "by-hand"},
                "spec": {"url": f"oci://ghcr.io/openova-io/{CHART.name}", "interval": "15m", **pull,
                         "ref": {"tag": CHART.version}},
            }),
            (f"{SOURCE}/v1/namespaces/{flux}/helmcharts", {
                "metadata": {"name": "by-hand"},
                "spec": {"chart": CHART.name, "version": CHART.version, "interval": "15m",
                         "sourceRef": {"kind": "HelmRepository", "name": "by-hand"}},
            }),
        ]  # fmt: skip
        for version, plural in (("v1", "configurations"), ("v1beta1", "functions")):
            package = {"metadata": {"name": "by-hand"}, "spec": {"package": PACKAGES[0]}}
            made.append((f"/apis/pkg.crossplane.io/{version}/{plural}", package))
        for namespace in ("catalyst-system", "crossplane-system"):
            copy = {"metadata": {"name": "ghcr-copy"}, "type": secret["type"], "data": secret["data"]}
            made.append((f"/api/v1/namespaces/{namespace}/secrets", copy))
        for path, obj in made:
            code, answer = await self.admin("POST", path, obj)
            assert code == 201, (path, answer)

    # --- runs ---------------------------------------------------------------------------------------------------

    async def run(self, seconds: float = 200.0, **asked: Any) -> State:
        """A cutover that the operator asks for at the front door, to its end."""
        answer = await self.ask("POST", "start", again=True, **asked)
        assert answer.status_code == 202, answer.text
        return await self.ended(answer.json()["request"], seconds)

    async def ended(self, since: int, seconds: float = 200.0) -> State:
        """The state when no run is active any more."""
        return await self.until(
            lambda state: state.run is not None and state.run.accepted > since and not state.active, seconds
        )

    async def until(self, wanted: Callable[[State], bool], seconds: float) -> State:
        state = State()
        with anyio.fail_after(seconds):
            async for entry in self.stream.follow(0):
                state = evolve(state, entry)
                if wanted(state) and state.seq >= (await self.head()):
                    return state
        raise AssertionError("the log ended")

    async def head(self) -> int:
        last = await self.stream.last()
        return last.seq if last else 0

    # --- grants -------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def lacking(self, gone: Grant) -> AsyncIterator[None]:
        """One grant less, until the block ends."""
        await self._enact(without(self.charter, gone), gone)
        try:
            yield
        finally:
            await self._enact(self.charter, gone)

    async def _enact(self, charter: Charter, changed: Grant) -> None:
        for role in charter.objects:
            meta = role["metadata"]
            if role["kind"] in ROLES and (meta["name"], meta.get("namespace", "")) == (changed.role, changed.namespace):
                where = f"namespaces/{changed.namespace}/" if changed.namespace else ""
                path = f"/apis/rbac.authorization.k8s.io/v1/{where}{ROLES[role['kind']]}/{changed.role}"
                code, answer = await self.admin("PUT", path, role)
                assert code == 200, answer

    # --- processes ----------------------------------------------------------------------------------------------

    async def again(self, name: str) -> None:
        """A worker of this class that gave up is started once more, as its Deployment would do it."""
        with anyio.fail_after(60):
            await self.crew.members[self.places[name][-1]].wait()
        await self.hire(name)

    async def anew(self, name: str) -> int:
        """Another process of this class in place of the one that is; where its log begins among the class's."""
        member = self.crew.members[self.places[name][-1]]
        if member.returncode is None:
            member.terminate()
            with anyio.move_on_after(15):
                await member.wait()
            if member.returncode is None:
                member.kill()
        before = len(self.said(name))
        await self.hire(name)
        return before

    async def hire(self, name: str) -> None:
        """One more process of a class."""
        self.places[name].append(len(self.crew.members))
        await self.crew.hire("--class", name)

    async def agent_anew(self, node: str = "worker-1") -> None:
        """The agent of one node, started once more."""
        self.box.kubelets.silence(node)
        await anyio.sleep(0.5)  # it must have ended before it may begin
        self.box.kubelets.wake(node)

    def said(self, name: str) -> str:
        """What the workers of a class have logged."""
        return "".join(self.crew.logs[place].read_text(errors="replace") for place in self.places[name])

    async def until_said(self, name: str, words: str, seconds: float = 60.0) -> None:
        with anyio.fail_after(seconds):
            while words not in self.said(name):
                await anyio.sleep(0.2)


def _tell(file: Path, **more: Any) -> None:
    """Add to what a class is told."""
    document = yaml.safe_load(file.read_text(encoding="utf-8"))
    file.write_text(yaml.safe_dump({**document, **more}, sort_keys=False), encoding="utf-8")


@asynccontextmanager
async def opened(directory: Path, *, grace: float = 1.0, lease: float = 20.0) -> AsyncIterator[Ground]:
    """`grace`: seconds between the first login and auto-fire's request. `lease`: after which a dead worker's step is
    another's, and its message delivered again."""
    charter = replace(blueprint.charter(VALUES), more=TRACED)
    async with Box.open(directory, hold=HOLD, charter=charter) as box, AsyncExitStack() as stack:
        for file in (*box.class_settings.values(), box.api_settings):
            nats = {**yaml.safe_load(file.read_text(encoding="utf-8"))["nats"], "ack_wait": lease * 1.5}
            more = {"handover": SEAL, "auto_fire": {"enabled": True, "grace": grace}, "pace": {"lease": lease}}
            _tell(file, nats=nats, **more)
        settings = load(box.settings_file)
        reach = settings.nats.model_copy(update={"ack_wait": lease * 1.5})
        stream = await stack.enter_async_context(JetStreamLog.open(reach))
        login = Broker.model_validate(box.broker_login("operator"))
        operator = await stack.enter_async_context(JetStreamLog.open(login))
        crew = await stack.enter_async_context(Crew.at_work(box.settings_file, directory, 1, box.class_settings))
        # Nobody but the control class makes the stream.
        await stream.await_ensured(lambda _: None)
        url = await stack.enter_async_context(front_door(box.api_settings, directory))
        web = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=120.0))
        with anyio.fail_after(60):
            while (await web.get("/readyz")).status_code != 200:
                await asyncio.sleep(0.2)
        places = {n: [i] for i, n in enumerate(box.class_settings)}
        yield Ground(box, charter, crew, settings, stream, operator, places, web)
