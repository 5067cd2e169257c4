"""The chart's own broker: a real nats-server on the very files that the chart renders, and each class logged in there.

Only paths and addresses are replaced. What the workers are told is the rendered settings file of their class.
"""

from __future__ import annotations

import base64
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import anyio
import nkeys
import pytest
from chart_matrix import API, EMBEDDED

from events import flow
from events.envelope import Undecodable, data_of, read
from events.jetstream import Broker, JetStreamLog, step_durable
from events.log import LogUnavailable, NotPermitted
from events.subjects import ALL, JOURNAL
from sandbox.blueprint import merged, render
from sandbox.broker import executable, free_port
from sandbox.clock import Clock
from sandbox.kube import KubeApi
from schemas import events as facts
from schemas.nodes import NodeReport
from workers.entrypoints import asking, wiring
from workers.entrypoints.classes import CLASSES
from workers.entrypoints.health import Health
from workers.entrypoints.settings import Settings, load
from workers.inbox import publish_report

Object = dict[str, Any]
NOWHERE = "http://127.0.0.1:9"
AWAY: Object = {
    "settings": {
        "sovereign": {
            "upstream_git": {"url": f"{NOWHERE}/openova/openova"},
            "gitea": {"url": NOWHERE, "cluster_url": NOWHERE},
            "harbor": {"url": NOWHERE},
        }
    }
}
"""Nobody else is there: what is tried is the broker."""
IDLE = 2.5  # seconds
PROCESSES = ("supply", "pivot", "proof", "control", "api", "node-agent")


@dataclass
class Shipped:
    """What the chart renders for one way to log in, laid out below a directory as kubelet would mount it."""

    place: Path
    login: str
    port: int = field(default_factory=free_port)
    monitor: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.objects = render(merged(merged(merged(EMBEDDED, API), AWAY), {"broker": {"login": self.login}}))
        found = next(o for o in self.objects if o["kind"] == "StatefulSet")
        self.container: Object = found["spec"]["template"]["spec"]["containers"][0]
        self.volumes: list[Object] = found["spec"]["template"]["spec"]["volumes"]
        self.secrets = self.place / "secrets"

    def secret(self, name: str, key: str) -> str:
        """A Secret's value, made when it is first asked for, as an administrator makes it."""
        file = self.secrets / name / key
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            value = "p" + base64.b32encode(os.urandom(15)).decode()
            if key in ("seed", "public"):
                seed: bytes = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
                file.with_name("public").write_bytes(nkeys.from_seed(bytearray(seed)).public_key)
                file.with_name("seed").write_bytes(seed)
            else:
                file.write_text(value)
        return file.read_text()

    def settings(self, name: str) -> Settings:
        """As the process of this class reads them."""
        (text,) = [
            o["data"]["settings.yaml"] for o in self.objects if o["metadata"]["name"] == f"cutover-{name}-settings"
        ]
        for secret, key in re.findall(r"/etc/cutover/secrets/([^/\"]+)/([^/\"]+)", text):
            self.secret(secret, key)
        text = text.replace("/etc/cutover/secrets", str(self.secrets)).replace("/var/lib/cutover", str(self.place))
        text, replaced = re.subn(r"nats://cutover-nats\.catalyst-cutover\.svc:4222", self.url, text)
        assert replaced == 1
        file = self.place / f"{name}.yaml"
        file.write_text(text)
        return load(file)

    def operator(self) -> Broker:
        """The one that has no Pod: whoever types `cutover request`."""
        key = "seed" if self.login == "nkey" else "password"
        self.secret("cutover-nats-operator", key)
        file = self.secrets / "cutover-nats-operator" / key
        login: Object = {"nkey_seed_file": file} if key == "seed" else {"user": "operator", "password_file": file}
        return Broker(url=self.url, inbox_prefix="_INBOX_operator", **login)

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def _mounted(self) -> Path:
        """The projected volume with the server's configuration."""
        place = self.place / "etc"
        place.mkdir(exist_ok=True)
        (volume,) = [v for v in self.volumes if v["name"] == "config"]
        maps = {o["metadata"]["name"]: o["data"] for o in self.objects if o["kind"] == "ConfigMap"}
        for source in volume["projected"]["sources"]:
            for name, text in maps[source["configMap"]["name"]].items():
                (place / name).write_text(text)
        moved = {
            "port: 4222": f"listen: 127.0.0.1:{self.port}", "http: 8222": f"http: 127.0.0.1:{self.monitor}",
            "/tmp/nats.pid": str(self.place / "nats.pid"), "store_dir: /data": f"store_dir: {self.place / 'data'}",
        }  # fmt: skip
        file = place / "nats.conf"
        text = file.read_text()
        for word, instead in moved.items():
            assert text.count(word) == 1, word
            text = text.replace(word, instead)
        file.write_text(text)
        return place

    async def start(self) -> None:
        """As its Pod would: the container's arguments and its environment, whose values come from Secrets."""
        place = str(self._mounted())
        env = {"POD_NAME": "cutover-nats-0"}
        for variable in self.container["env"]:
            if ref := variable["valueFrom"].get("secretKeyRef"):
                env[variable["name"]] = self.secret(ref["name"], ref["key"])
        args = [arg.replace("/etc/nats", place) for arg in self.container["args"]]
        with (self.place / "nats.log").open("ab") as log:
            self.process = subprocess.Popen([executable(), *args], stdout=log, stderr=log, env=env)
        with anyio.fail_after(120):
            while not await anyio.to_thread.run_sync(self.well):
                assert self.process.poll() is None, (self.place / "nats.log").read_text()
                await anyio.sleep(0.05)

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            await anyio.to_thread.run_sync(self.process.wait)

    def well(self) -> bool:
        """Whether every probe of the container is answered as the kubelet wants it."""
        ports = {p["name"]: p["containerPort"] for p in self.container["ports"]}
        assert ports == {"nats": 4222, "monitor": 8222}
        try:
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                get = self.container[probe]["httpGet"]
                assert get["port"] == "monitor"
                with urlopen(f"http://127.0.0.1:{self.monitor}{get['path']}", timeout=5) as answer:
                    assert answer.status == 200
        except OSError:
            return False
        return True


@pytest.fixture(params=["password", "nkey"])
async def shipped(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Shipped]:
    found = Shipped(tmp_path, request.param)
    await found.start()
    try:
        yield found
    finally:
        await found.stop()


@asynccontextmanager
async def at_work(shipped: Shipped, *names: str) -> AsyncIterator[KubeApi]:
    """Workers of these classes, in this process, told what the chart tells them; once all of them are ready."""
    async with AsyncExitStack() as stack:
        kube = await stack.enter_async_context(KubeApi.open(shipped.place / "kube", Clock()))
        found = {name: Health() for name in names}
        kubeconfig = kube.kubeconfig(shipped.place / "kubeconfig")
        tasks = await stack.enter_async_context(anyio.create_task_group())
        for name, health in found.items():
            settings = shipped.settings(name)
            known = settings.kubernetes.model_copy(update={"kubeconfig": kubeconfig})
            told = settings.model_copy(update={"kubernetes": known})

            async def work(told: Settings = told, name: str = name, health: Health = health) -> None:
                await wiring.work(told, CLASSES[name], health=health, say=lambda _: None)

            tasks.start_soon(work)
        with anyio.fail_after(60):
            while any(each.answer("/readyz")[0] != 200 for each in found.values()):
                await anyio.sleep(0.05)
        yield kube
        tasks.cancel_scope.cancel()


async def until_told(stream: JetStreamLog, wanted: Callable[[Any], bool]) -> Any:
    """The first event of the journal that is wanted."""
    with anyio.fail_after(60):
        async for entry in stream.read(JOURNAL, 0, live=True):
            try:
                data = data_of(read(entry.raw))
            except Undecodable:
                continue
            if wanted(data):
                return data
    raise AssertionError("the log ended")


async def test_a_request_hops_from_the_operator_over_admission_to_the_first_step(shipped: Shipped) -> None:
    async with at_work(shipped, "supply", "control"), JetStreamLog.open(shipped.operator()) as operator:
        asked = facts.Requested(operator="alice", reason="test")
        await asking.publish(shipped.settings("control"), operator, asked)
        await until_told(operator, lambda data: isinstance(data, facts.Accepted))
        started = await until_told(operator, lambda data: isinstance(data, facts.StepStarted))
        assert started.step == "gitea-mirror"
        # It has hopped on: what the step meets is that nobody else is there.
        await until_told(operator, lambda data: isinstance(data, facts.StepWaiting | facts.StepFailed))
    assert "iolation" not in (shipped.place / "nats.log").read_text()


async def test_installed_and_idle_nobody_writes_anything(shipped: Shipped) -> None:
    """Not into the cluster, and not into the log: the stream and its consumers are all that is made."""
    if shipped.login == "nkey":
        pytest.skip("the same but for the login, which the tests around have tried")

    async def revision(kube: KubeApi) -> str:
        _, answer = await kube.local.request("GET", "/api/v1/configmaps")
        return str(answer["metadata"]["resourceVersion"])  # the whole server's, as etcd counts

    async with (
        at_work(shipped, "supply", "pivot", "proof", "control") as kube,
        JetStreamLog.open(shipped.operator()) as operator,
    ):
        before = await revision(kube)
        await anyio.sleep(IDLE)
        assert await revision(kube) == before
        assert [entry.subject async for entry in operator.read(ALL)] == []
        await kube.local.request("POST", "/api/v1/namespaces", {"metadata": {"name": "seen"}})
        assert await revision(kube) != before  # a write would have shown


async def test_every_class_logs_in_with_what_it_is_told_and_the_log_outlives_the_servers_death(
    shipped: Shipped,
) -> None:
    async with JetStreamLog.open(shipped.settings("control").nats) as control:
        await control.ensure()
        for name in ("supply", "pivot", "proof"):
            async with JetStreamLog.open(shipped.settings(name).nats) as stream:
                own = [step_durable(flow.BY_SLUG[slug].number) for slug in CLASSES[name].steps]
                await stream.await_ensured(lambda _: None, own)
        async with JetStreamLog.open(shipped.settings("node-agent").nats) as agent:
            digest = "sha256:" + "0" * 64
            report = NodeReport(node="node-1", digest=digest, result="v2", message="", at=datetime.now(UTC))
            seq = await publish_report(agent, "sovereign.test", report)
        async with JetStreamLog.open(shipped.settings("api").nats) as api:
            assert [entry.seq async for entry in api.read(ALL)] == [seq]
    await shipped.stop(signal.SIGKILL)
    await shipped.start()
    async with JetStreamLog.open(shipped.operator()) as operator:
        assert [entry.seq async for entry in operator.read(ALL)] == [seq]
    assert "iolation" not in (shipped.place / "nats.log").read_text()


async def test_the_node_agent_as_its_pod_starts_it_is_ready_while_the_broker_hears_it(shipped: Shipped) -> None:
    if shipped.login == "nkey":
        pytest.skip("the same but for the login, which the tests above have tried")
    shipped.settings("node-agent")
    agent = next(o["spec"]["template"]["spec"]["containers"][0] for o in shipped.objects if o["kind"] == "DaemonSet")
    port = free_port()
    async with KubeApi.open(shipped.place / "kube", Clock()) as kube:
        env = {
            "PATH": os.environ["PATH"], "CUTOVER_CONFIG": str(shipped.place / "node-agent.yaml"),
            "CUTOVER_HEALTH__PORT": str(port), "NODE_NAME": "node-1", "POD_NAMESPACE": "catalyst-cutover-nodes",
            "CUTOVER_KUBERNETES__KUBECONFIG": str(kube.kubeconfig(shipped.place / "kubeconfig")),
        }  # fmt: skip
        assert set(env) > {v["name"] for v in agent["env"]} - {"TMPDIR", "POD_NAME"}
        args = [str(shipped.place) if arg == "/host" else arg for arg in agent["args"]]
        with (shipped.place / "agent.log").open("wb") as log:
            command = [sys.executable, "-m", "workers.entrypoints.cli", *args]
            process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        try:
            await answered(port, 200)
            await shipped.stop()
            await answered(port, 503)
        finally:
            process.terminate()
            await anyio.to_thread.run_sync(process.wait)


async def answered(port: int, code: int) -> None:
    """Once /readyz says so."""

    def asked() -> int:
        try:
            with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
                return int(answer.status)
        except HTTPError as error:
            return error.code
        except OSError:
            return 0

    with anyio.fail_after(90):
        while await anyio.to_thread.run_sync(asked) != code:
            await anyio.sleep(0.1)


async def test_whoever_has_another_secret_is_not_let_in(shipped: Shipped) -> None:
    if shipped.login == "nkey":
        pytest.skip("tests/integration/log/test_logins.py tries a wrong seed")
    settings = shipped.settings("supply").nats
    assert settings.password_file is not None
    settings.password_file.write_text(shipped.secret("somebody-elses", "password"))
    with pytest.raises((NotPermitted, LogUnavailable)):
        async with JetStreamLog.open(settings.model_copy(update={"budget": 0.3})):
            pass


async def test_a_server_without_one_of_the_secrets_does_not_start(tmp_path: Path) -> None:
    """No user is ever let in with an empty password."""
    shipped = Shipped(tmp_path, "password")
    place = str(shipped._mounted())
    args = [arg.replace("/etc/nats", place) for arg in shipped.container["args"]]
    env = {"POD_NAME": "x"} | {
        v["name"]: "p-x" for v in shipped.container["env"] if "PROOF" not in v["name"] and v["name"] != "POD_NAME"
    }
    done = subprocess.run([executable(), *args], env=env, capture_output=True, timeout=30, check=False)
    assert done.returncode != 0
    assert b"CUTOVER_NATS_PROOF" in done.stderr


def test_these_are_all_processes_that_log_in() -> None:
    objects = render(merged(merged(EMBEDDED, API), AWAY))
    named = {o["metadata"]["name"] for o in objects if "settings.yaml" in (o.get("data") or {})}
    assert named == {f"cutover-{name}-settings" for name in PROCESSES}
