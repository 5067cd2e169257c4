"""Auto-fire on a real broker: armed by a login, counted across restarts, cancelled for ever, fired once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from pool_bench import Bench, doing, opened

from events.envelope import read
from events.flow import SLUGS
from events.fold import State
from events.jetstream import JetStreamLog
from events.journal import Journal
from events.picture import picture
from events.subjects import CANCEL, JOURNAL, LOGIN, REJECTED, REQUESTED
from workers import admission
from workers.autofire import fuse
from workers.autofire.rule import Rule
from workers.errors import Wait
from workers.pool import Pool
from workers.scribe import Scribe

GRACE = 2.0  # seconds
ROLE = "sovereign-admin"


async def sealed() -> bool:
    return True


@dataclass
class Scene:
    """A bench whose workers know auto-fire."""

    bench: Bench
    replicas: list[asyncio.Task[None]] = field(default_factory=list)

    def replica(
        self,
        name: str,
        *,
        enabled: bool = True,
        grace: float = GRACE,
        sealed: Callable[[], Awaitable[bool]] = sealed,
        admit: bool = True,
        burn: bool = True,
    ) -> asyncio.Task[None]:
        """One worker process, as the wiring makes it; cancel the task to kill it."""
        task = asyncio.create_task(self._live(name, Rule(enabled, grace, ROLE), sealed, admit, burn))
        self.bench.tasks.append(task)
        return task

    async def _live(
        self, name: str, rule: Rule, sealed: Callable[[], Awaitable[bool]], admit: bool, burn: bool
    ) -> None:
        async with JetStreamLog.open(self.bench.settings) as stream, anyio.create_task_group() as tasks:
            journal, scribe = Journal(stream), Scribe("sovereign.test", name, lambda text: text)
            tasks.start_soon(journal.tail)
            tasks.start_soon(Pool(stream, journal, scribe, doing(self.bench.done), lease_seconds=30.0).serve)
            if admit:
                tasks.start_soon(admission.serve, stream, journal, scribe, rule)
                tasks.start_soon(admission.Registrar(stream, scribe).serve)
            if burn:
                tasks.start_soon(fuse.serve, stream, journal, scribe, rule, sealed)

    async def login(self, who: str | None = "ann", *roles: str, id: str = "l1") -> int:
        """As the API publishes it after the token was verified."""
        auth = {"authtype": "user", "authid": who} if who else {}
        return await self.bench.send(LOGIN, asked("login", id, {"roles": roles or (ROLE,)}, **auth))

    async def pending(self) -> State:
        return await self.bench.until(lambda state: state.autofire is not None)

    async def kinds(self) -> list[str | None]:
        return [read(entry.raw).kind for entry in await self.bench.entries(JOURNAL)]


def asked(kind: str, id: str = "1", data: dict[str, Any] | None = None, **attributes: str) -> bytes:
    ce_type = f"io.openova.catalyst.cutover.{kind}.v1"
    return json.dumps(
        {"specversion": "1.0", "id": id, "source": "me", "type": ce_type, **attributes, "data": data or {}}
    ).encode()


def over(state: State) -> bool:
    return state.run is not None and state.run.closed


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with opened(tmp_path) as bench:
        yield Scene(bench)


async def test_the_first_login_of_an_operator_fires_after_the_grace_period_in_his_name(scene: Scene) -> None:
    scene.replica("w1")
    await scene.login()
    armed = picture(await scene.pending())
    assert (armed["autoFire"], armed["autoFireOperator"], armed["runPhase"]) == ("pending", "ann", "")
    state = await scene.bench.until(over)
    assert state.complete
    accepted = next(e for e in map(read, [x.raw for x in await scene.bench.entries(JOURNAL)]) if e.kind == "accepted")
    assert (accepted.authtype, accepted.authid, accepted.causationid) == ("user", "ann", "l1")
    assert accepted.data is not None
    assert accepted.data["operator"] == "ann"
    assert accepted.time is not None
    assert state.autofire is not None
    assert accepted.time >= state.autofire.fires_at
    assert picture(state)["autoFire"] == "fired"


async def test_the_grace_period_goes_on_while_every_worker_and_the_broker_restart(scene: Scene) -> None:
    first = scene.replica("w1", grace=2.5)
    await scene.login()
    armed = (await scene.pending()).autofire
    assert armed is not None
    first.cancel()
    await scene.bench.broker.kill()
    await anyio.sleep(1.0)
    await scene.bench.broker.restart()
    # Another grace in its settings changes nothing: what was promised stands in the log.
    scene.replica("w2", grace=60.0)
    state = await scene.bench.until(lambda state: state.run is not None)
    assert state.run is not None
    late = state.run.started_at - armed.fires_at
    assert timedelta(0) <= late < timedelta(seconds=30)  # begun anew by its settings it would be a minute late


async def test_cancelled_means_never(scene: Scene) -> None:
    scene.replica("w1")
    await scene.login()
    await scene.pending()
    await scene.bench.send(CANCEL, asked("cancel", "c1", {"reason": "not today"}, authtype="user", authid="bob"))
    state = await scene.bench.until(lambda state: state.autofire is not None and state.autofire.phase != "pending")
    shown = picture(state)
    assert (shown["autoFire"], shown["autoFireCancelledBy"]) == ("cancelled", "bob")
    await scene.login("eve", id="l2")
    scene.replica("w2")
    await anyio.sleep(GRACE + 0.5)
    assert await scene.kinds() == ["autofire.armed", "autofire.disarmed"]
    await scene.bench.send(REQUESTED, asked("requested", "r1"))  # by hand it still can be started
    assert (await scene.bench.until(over)).complete


async def test_a_cancel_that_nobody_has_served_yet_stops_an_overdue_fuse(scene: Scene) -> None:
    first = scene.replica("w1")
    await scene.login()
    await scene.pending()
    first.cancel()
    await scene.bench.send(CANCEL, asked("cancel", "c1", authtype="user", authid="bob"))
    await anyio.sleep(GRACE)
    scene.replica("w2", admit=False)  # a fuse that is faster than any admission
    state = await scene.bench.until(lambda state: state.autofire is not None and state.autofire.phase != "pending")
    assert state.autofire is not None
    assert (state.autofire.phase, state.autofire.by, state.run) == ("cancelled", "bob", None)
    scene.replica("w3", burn=False)  # admission comes to the same cancel, and finds it done
    await anyio.sleep(0.5)
    assert await scene.kinds() == ["autofire.armed", "autofire.disarmed"]


async def test_several_replicas_fire_once(scene: Scene) -> None:
    for number in range(4):
        scene.replica(f"w{number}")
    await scene.login()
    await scene.bench.until(over)
    await anyio.sleep(0.3)
    kinds = await scene.kinds()
    assert [kinds.count(kind) for kind in ("autofire.armed", "accepted", "completed")] == [1, 1, 1]
    assert (await scene.bench.state()).integrity == "ok"
    assert scene.bench.done == [(slug, 1) for slug in SLUGS]
    assert await scene.bench.entries(REJECTED) == []  # nobody even asked a second time


async def test_it_never_fires_before_handover_is_sealed_nor_when_that_cannot_be_read(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuse, "AGAIN", 0.1)
    answers: list[bool | Exception] = [False, Wait("ApiServerUnavailable", "503"), False]

    async def handover() -> bool:
        answer = answers.pop(0) if answers else looked.is_set()
        if isinstance(answer, Exception):
            raise answer
        return answer

    looked = anyio.Event()
    scene.replica("w1", sealed=handover)
    await scene.login()
    await scene.pending()
    with anyio.fail_after(60):
        while answers:
            await anyio.sleep(0.05)
    assert (await scene.bench.state()).run is None
    looked.set()
    assert (await scene.bench.until(over)).complete


async def test_off_a_login_arms_nothing_and_what_was_armed_is_ended(scene: Scene) -> None:
    off = scene.replica("w1", enabled=False)
    await scene.login()
    await anyio.sleep(0.5)
    assert await scene.kinds() == []
    off.cancel()
    on = scene.replica("w2", grace=60.0)
    await scene.login(id="l2")  # the one before was made while it was off
    armed = (await scene.pending()).autofire
    assert armed is not None
    on.cancel()
    scene.replica("w3", enabled=False)
    state = await scene.bench.until(lambda state: state.autofire is not None and state.autofire.phase == "cancelled")
    assert state.run is None


async def test_a_login_without_the_role_or_without_a_name_is_refused_and_told(scene: Scene) -> None:
    scene.replica("w1")
    await scene.login("eve", "sovereign-viewer", id="a")
    await scene.login(None, id="b")
    rows = await scene.bench.rejected(2)
    assert [(row["subject"], row["reason"]) for row in rows] == [(LOGIN, "NotEntitled")] * 2
    assert await scene.kinds() == []


async def test_a_start_by_hand_during_the_grace_period_takes_its_place(scene: Scene) -> None:
    scene.replica("w1")
    await scene.login()
    await scene.pending()
    await scene.bench.send(REQUESTED, asked("requested", "r1"))
    state = await scene.bench.until(over)
    assert picture(state)["autoFire"] == "superseded"
    await anyio.sleep(GRACE)
    assert (await scene.kinds()).count("accepted") == 1


async def test_a_login_served_late_gets_a_whole_grace_period_that_can_be_seen(scene: Scene) -> None:
    await scene.login()
    await anyio.sleep(GRACE + 0.2)
    served = datetime.now(UTC)
    scene.replica("w1")
    armed = (await scene.pending()).autofire
    assert armed is not None
    assert armed.fires_at >= served + timedelta(seconds=GRACE)
