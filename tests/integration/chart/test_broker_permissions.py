"""What somebody gains at the broker who has one class's login: the chart's own users, on a real nats-server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
import pytest_asyncio
from grants import without_subject
from nats.js.api import AckPolicy, ConsumerConfig
from pool_bench import Bench
from pool_bench import opened as bench_opened

from events.envelope import Draft
from events.jetstream import Broker as Login
from events.jetstream import JetStreamLog, StreamDrift, step_durable
from events.log import LogUnavailable, NotPermitted
from events.subjects import ALL, CANCEL, JOURNAL, REJECTED
from sandbox import blueprint
from sandbox.broker import Broker
from sandbox.charter import BOX, inbox, variable
from schemas.events import Trigger

pytestmark = pytest.mark.asyncio(loop_scope="module")
STREAM = "CATALYST_CUTOVER"
WITH_API = {
    "api": {"enabled": True},
    "settings": {"api": {"service_accounts": {"audience": "a", "may_act": ["system:serviceaccount:a:b"]}}},
}
CLASSES = ("supply", "pivot", "proof", "control", "api", "operator")
OWN = {"supply": (1, 2, 3), "pivot": (4, 5, 6, 7), "proof": (8,)}
TOLD = {"api": "login", "operator": "cancel", "control": "rejected"}
"""Something that each class may publish."""


@dataclass
class Server:
    broker: Broker
    directory: Path
    logs: dict[str, JetStreamLog]

    async def ask(self, who: str, subject: str, body: dict[str, Any]) -> dict[str, Any]:
        """A request as this class; an `error` when the server keeps it, which it tells apart from any answer."""
        log, found = self.logs[who], dict[str, Any]()
        log.denied = None
        async with anyio.create_task_group() as tasks:

            async def request() -> None:
                reply = await log.client.request(subject, json.dumps(body).encode(), timeout=10)
                found.update(json.loads(reply.data))
                tasks.cancel_scope.cancel()

            tasks.start_soon(request)
            while not log.denied:
                await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
        return found or {"error": log.denied}

    async def refused(self, who: str, subject: str, body: dict[str, Any]) -> bool:
        """Did the server say no, in whatever words?"""
        return "error" in await self.ask(who, subject, body)

    async def durable(self, number: int) -> tuple[Any, ...]:
        found = (await self.logs[BOX].js.consumer_info(STREAM, step_durable(number))).config
        return found.filter_subject, found.durable_name, found.ack_policy, found.deliver_subject

    async def stored(self) -> list[tuple[str, bytes]]:
        return [(entry.subject, entry.raw) async for entry in self.logs[BOX].read(ALL)]


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Server]:
    charter = blueprint.charter(WITH_API)
    passwords = {name: f"password-of-{name}" for name in charter.names}
    async with AsyncExitStack() as stack:
        variables = {variable(name): word for name, word in passwords.items()}
        broker = await stack.enter_async_context(
            Broker.start(directory, more=charter.authorization(), variables=variables)
        )
        server = Server(broker, directory, {})
        for name, word in passwords.items():
            file = directory / f"password-{name}"
            file.write_text(word)
            login = Login(url=broker.url, user=name, password_file=file, inbox_prefix=inbox(name), budget=1.0)
            server.logs[name] = await stack.enter_async_context(JetStreamLog.open(login))
        await server.logs["control"].ensure()
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """One for each test: a second starts in no time, and what was denied is remembered by the client."""
    async with opened(tmp_path) as found:
        yield found


def consumer(name: str | None, reads: str, **more: Any) -> dict[str, Any]:
    named = {"name": name} if name else {}
    return {"stream_name": STREAM, "config": {**named, "filter_subject": reads, "ack_policy": "none", **more}}


async def test_nobody_changes_the_consumer_of_a_step(server: Server) -> None:
    """Whoever could have step 8's consumer deliver what they may publish could order step 8."""
    before = {number: await server.durable(number) for number in range(1, 9)}
    create = f"$JS.API.CONSUMER.CREATE.{STREAM}"
    for who in CLASSES:
        for number in (2, 8):
            name = step_durable(number)
            theirs = consumer(name, JOURNAL, ack_policy="explicit")  # only what may be changed is changed
            assert await server.refused(who, create, theirs), who
            assert await server.refused(who, f"{create}.{name}.{JOURNAL}", theirs), who
            # By another's name on the outside: the broker goes by the subject, so the one inside counts for nothing.
            await server.refused(who, f"{create}.mine.{JOURNAL}", consumer(name, JOURNAL))
            if who != "control":
                made = f"$JS.API.CONSUMER.DURABLE.CREATE.{STREAM}.{name}"
                assert await server.refused(
                    who, made, consumer(None, JOURNAL, durable_name=name, ack_policy="explicit")
                ), who
            assert await server.refused(who, f"$JS.API.CONSUMER.DELETE.{STREAM}.{name}", {}), who
    assert {number: await server.durable(number) for number in range(1, 9)} == before


@pytest.mark.parametrize("who", sorted(OWN))
async def test_a_class_orders_its_own_steps_and_the_one_that_follows(server: Server, who: str) -> None:
    allowed = {*OWN[who], max(OWN[who]) + 1} - {9} if who != "proof" else set()
    for number in sorted(set(range(1, 9)) - allowed):
        server.logs[who].denied = None
        with pytest.raises((NotPermitted, LogUnavailable)):
            await server.logs[who].publish_raw(f"catalyst.cutover.step.{number}", b"{}", id=f"{who}-{number}")
        assert server.logs[who].denied == f'nats: permissions violation for publish to "catalyst.cutover.step.{number}"'
    assert [subject for subject, _ in await server.stored()] == []


@pytest.mark.parametrize("who", CLASSES)
async def test_the_broker_carries_nothing_to_a_subject_that_one_may_not_publish_on(server: Server, who: str) -> None:
    """An answer goes wherever its question says, and so does what a consumer delivers: that must forge nothing."""
    log, target = server.logs[who], JOURNAL if who in ("api", "operator") else "catalyst.cutover.step.8"
    reads = ALL if who in ("api", "operator") else JOURNAL
    source = f"catalyst.cutover.{TOLD[who]}" if who in ("api", "operator") else JOURNAL
    forged = b'{"forged":true}'
    await log.publish_raw(source, forged, id=f"by-{who}")
    create = f"$JS.API.CONSUMER.CREATE.{STREAM}.pull.{reads}"
    assert "error" not in await server.ask(who, create, consumer("pull", reads))
    await log.client.publish(
        f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.pull", b'{"batch":1,"expires":500000000}', reply=target
    )
    push = f"$JS.API.CONSUMER.CREATE.{STREAM}.push.{reads}"
    assert await server.refused(who, push, consumer("push", reads, deliver_subject=target))
    for elsewhere in (f"$JS.API.STREAM.DELETE.{STREAM}", f"$JS.API.CONSUMER.DELETE.{STREAM}.step-8"):
        await server.refused(who, push, consumer("push", reads, deliver_subject=elsewhere))
    await anyio.sleep(0.5)
    landed = [raw for subject, raw in await server.stored() if subject == target]
    assert source == target or forged not in landed
    assert (await server.durable(8))[0] == "catalyst.cutover.step.8"


async def test_workers_read_the_journal_and_the_nodes_and_not_what_operators_ask(server: Server) -> None:
    for who in ("supply", "pivot", "proof"):
        assert [entry async for entry in server.logs[who].read(JOURNAL)] == []
        with pytest.raises(NotPermitted, match=r"consumer\.create"):
            _ = [entry async for entry in server.logs[who].read("catalyst.cutover.login")]


async def test_an_operator_hears_all_by_a_plain_subscription_and_nobody_else_does(server: Server) -> None:
    """What `nats sub 'catalyst.cutover.>'` does."""
    for who in CLASSES:
        log = server.logs[who]
        heard = await log.client.subscribe(ALL)
        await log.client.flush()
        await server.logs[BOX].publish_raw(JOURNAL, b"{}", id=f"told-{who}")
        if who == "operator":
            assert (await heard.next_msg(timeout=60)).subject == JOURNAL
            assert log.denied is None
        else:
            with anyio.fail_after(60):
                while not log.denied:
                    await anyio.sleep(0.01)
            assert log.denied == f'nats: permissions violation for subscription to "{ALL}"'


async def test_a_log_is_made_larger_by_control_while_the_chart_lets_it_and_by_nobody_else(server: Server) -> None:
    async def ensured(who: str, most: int) -> None:
        login = server.logs[who].broker.model_copy(update={"max_bytes": most})
        async with JetStreamLog.open(login) as log:
            await log.ensure()

    was = server.logs["control"].broker.max_bytes
    with pytest.raises(StreamDrift, match=rf"max_bytes is {was}, must be {2 * was}"):
        await ensured("control", 2 * was)
    larger = blueprint.charter({**WITH_API, "broker": {"grow": True}})
    server.broker.configure(larger.authorization())
    await server.broker.restart()
    with pytest.raises((StreamDrift, NotPermitted, LogUnavailable)):
        await ensured("supply", 2 * was)
    await ensured("control", 2 * was)
    assert (await server.logs[BOX].js.stream_info(STREAM)).config.max_bytes == 2 * was
    with pytest.raises(StreamDrift, match="max_bytes"):
        await ensured("control", was)


async def test_whoever_may_append_may_lie(server: Server) -> None:
    """What permissions by subject cannot stop, as docs/threat-model.md says: kinds of facts share one subject."""
    for who in ("supply", "pivot", "proof", "control"):
        await server.logs[who].publish_raw(JOURNAL, b'{"type":"completed"}', id=f"lie-of-{who}")
    for who in ("api", "operator", "node-agent"):
        with pytest.raises((NotPermitted, LogUnavailable)):
            await server.logs[who].publish_raw(JOURNAL, b'{"type":"completed"}', id=f"lie-of-{who}")


async def test_an_inbox_that_is_not_granted_any_more_is_told_and_not_waited_for(server: Server) -> None:
    """It is refused as soon as the connection stands again: before anybody asks for anything."""
    log = server.logs["supply"]
    assert await log.publish_raw(JOURNAL, b"{}", id="before")
    charter = blueprint.charter(WITH_API)
    server.broker.configure(without_subject(charter, "supply", f"{inbox('supply')}.>").authorization())
    await server.broker.restart()

    async def told() -> None:
        while True:
            with suppress(LogUnavailable):  # it may not be back yet
                await log.publish_raw(JOURNAL, b"{}", id="after")

    with anyio.fail_after(60), pytest.raises(NotPermitted, match="subscription"):
        await told()


async def test_a_worker_refuses_what_comes_on_another_subject_than_its_steps(tmp_path: Path) -> None:
    """Should somebody change the consumer all the same, as who administers the broker may."""
    async with bench_opened(tmp_path) as bench:
        await bench.worker()
        await bench.send(CANCEL, b"no event")
        await rejected(bench, b"Undecodable")  # it is at work, and has found everything as it must be
        changed = ConsumerConfig(
            durable_name=step_durable(8), ack_policy=AckPolicy.EXPLICIT, ack_wait=bench.settings.ack_wait,
            max_ack_pending=1, max_deliver=-1, filter_subject=CANCEL,
        )  # fmt: skip
        await bench.stream.js.add_consumer(STREAM, changed)
        data = Trigger(step="egress-block-test")
        draft = Draft(id="x", source="//test", data=data, subject="egress-block-test", time=datetime.now(UTC))
        await bench.send(CANCEL, draft.encode())
        await rejected(bench, b"WrongSubject")
        assert bench.done == []


async def rejected(bench: Bench, why: bytes) -> None:
    """Until a message was refused for this."""
    with anyio.fail_after(60):
        while not any(why in entry.raw for entry in await bench.entries(REJECTED)):
            await anyio.sleep(0.1)
