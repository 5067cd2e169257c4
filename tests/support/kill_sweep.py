"""A proof under way in a box, and whoever works on it ended at an exact moment: by what reaches the API server."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from events import certificate, export, flow, subjects
from events.envelope import data_of, read
from events.fold import State, StepState
from events.jetstream import JetStreamLog
from events.journal import Journal
from events.log import LogUnavailable
from sandbox.box import Box
from sandbox.controllers.api import CONFIG_MAPS
from sandbox.crew import Crew
from sandbox.policy import CLUSTERWIDE
from schemas import events as facts
from workers import certify
from workers.entrypoints import asking, wiring
from workers.entrypoints.settings import Settings, load

Case = tuple[str, tuple[str, ...]]
WORKER, WATCHMAN, BROKER, API = VICTIMS = ("worker", "watchman", "broker", "API server")
HOLD = 2.0  # seconds, as the two leases
JOURNAL_LEASE, BLOCK_LEASE = 4.0, 6.0
TRIGGER = (
    b'{"specversion":"1.0","id":"%s","source":"test","type":"io.openova.catalyst.cutover.step.trigger.v1","data":{}}'
)
_CANARY = re.compile(r"/pods/cutover-canary-\w+-\d+-([a-z]+)")


def _turn(name: str) -> Callable[[Any], bool]:
    def so(request: Any) -> bool:
        found = _CANARY.search(request.path)
        return request.method == "PATCH" and found is not None and found.group(1) == name

    return so


def _ordered(request: Any) -> bool:
    return request.method == "PATCH" and request.path.endswith("/cutover-node-plan") and b"deny" in bytes(request.body)


def _lifts(request: Any) -> bool:
    return request.method == "DELETE" and "/ciliumclusterwidenetworkpolicies/" in request.path


PHASES: dict[str, Callable[[Any], bool]] = {
    "before the block": _turn("before"),
    "applied, not checked": _ordered,
    "clock running": _turn("s"),
    "half lifted": _lifts,
    "lifted, not told": _turn("after"),
}
"""What is done at this phase and at no other: a request that the API server has just answered."""


@dataclass
class Sweep:
    """The box, and everybody who may be ended."""

    box: Box
    settings: Settings
    stream: JetStreamLog
    crew: Crew
    hands: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)
    struck_at: list[datetime] = field(default_factory=list)
    """When a worker was ended: a proof of that moment is nobody's."""
    _armed: tuple[Callable[[Any], bool], Callable[[], None]] | None = None
    _triggers: int = 0

    def listen(self) -> None:
        """Look at every answer of the API server from now on."""
        api, answer = self.box.kube.api, self.box.kube.api.answer

        def seen(request: Any) -> Any:
            given = answer(request)
            if self._armed is not None and self._armed[0](request):
                (_, act), self._armed = self._armed, None
                act()
            return given

        api.answer = seen  # type: ignore[method-assign]

    async def hire(self) -> None:
        """Everybody who is not at work."""
        for name, how in ((WORKER, ("--no-projector",)), (WATCHMAN, ("--steps", "", "--no-admission"))):
            if name not in self.hands or self.hands[name].returncode is not None:
                self.hands[name] = await self.crew.hire(*how)

    async def state(self) -> State:
        """The fold of the log, as soon as the broker is back."""
        while True:
            try:
                return await Journal(self.stream).refresh()
            except LogUnavailable:
                await asyncio.sleep(0.2)

    async def proof(self) -> StepState:
        """Step 8 as the journal has it."""
        run = (await self.state()).run
        return run.step(flow.LAST.slug) if run is not None else StepState()

    async def again(self) -> None:
        """Ask for step 8 once more."""
        self._triggers += 1
        await self.stream.publish_raw(subjects.trigger(flow.LAST), TRIGGER % f"again-{self._triggers}".encode())

    async def blocked(self) -> bool:
        """Whether anything of a block stands, in the API or in a node's kernel."""
        plan = await self.box.api.get(CONFIG_MAPS, "cutover-node-plan", "catalyst-cutover-nodes")
        ordered = "block.json" in ((plan or {}).get("data") or {})
        return bool((await self.box.api.list(CLUSTERWIDE))[0]) or ordered or bool(self.box.blocks.current)

    async def until(self, so: Callable[[], Awaitable[bool]], limit: float) -> float:
        """Seconds until it is so."""
        began = time.monotonic()
        async with asyncio.timeout(limit):
            while not await so():
                await asyncio.sleep(0.05)
        return time.monotonic() - began

    async def reached(self, phase: str, victims: Collection[str], limit: float = 300.0) -> None:
        """At that moment end them all at once, without farewell; return when they are gone."""
        ending: list[asyncio.Future[Any]] = []
        hit = asyncio.Event()

        def act() -> None:
            for name in (WORKER, WATCHMAN):
                if name in victims:
                    self.hands[name].kill()
                    ending.append(asyncio.ensure_future(self.hands[name].wait()))
            if BROKER in victims:
                ending.append(asyncio.ensure_future(self.box.broker.kill()))
            if API in victims:
                ending.append(asyncio.ensure_future(self.box.kube.stop()))
            hit.set()

        self._armed = (PHASES[phase], act)
        async with asyncio.timeout(limit):
            while not hit.is_set():
                # The broker may be what was just ended: nobody would answer.
                with suppress(TimeoutError, LogUnavailable):
                    async with asyncio.timeout(2.0):
                        if (await self.proof()).result in ("success", "failed"):
                            await self.again()
                with suppress(TimeoutError):
                    await asyncio.wait_for(hit.wait(), 5.0)
        await asyncio.gather(*ending)
        if WORKER in victims:
            self.struck_at.append(datetime.now(UTC))

    async def strike(self, phase: str, victims: Collection[str]) -> float:
        """End them at that phase; seconds until nothing of the block stood any more. Then all come back.

        Who is ended stays away until then; only the API server, without which nobody lifts a policy, comes back when
        the nodes' kernels have opened by themselves.
        """
        await self.reached(phase, victims)
        began = time.monotonic()
        if API in victims:
            await self.until(self._nodes_open, BLOCK_LEASE + 60)
            await self.box.kube.start()

        async def open_() -> bool:
            return not await self.blocked()

        await self.until(open_, BLOCK_LEASE + 60)
        took = time.monotonic() - began
        if BROKER in victims:
            await self.box.broker.restart()
            await self.until(self._answers, 120)
        await self.hire()
        return took

    async def all_of(self, cases: Iterable[Case]) -> dict[Case, float]:
        """Seconds to the lifting of each case, one attempt after another."""
        took: dict[Case, float] = {}
        for phase, victims in cases:
            took[phase, victims] = await self.strike(phase, victims)
        return took

    async def ended(self, limit: float = 300.0) -> str:
        """How step 8 ends when nobody is disturbed any more."""

        async def over() -> bool:
            run = (await self.state()).run
            return run is not None and run.closed

        await self.until(over, limit)
        return (await self.proof()).result

    async def honest(self) -> None:
        """Every success was a whole hold that nobody broke, and the log proves it. Raises AssertionError."""
        proofs = await self.proofs()
        assert proofs
        assert all(untouched(proof, self.struck_at) for proof in proofs)
        entries = [entry async for entry in asking.messages(self.stream)]
        assert not export.check(entries).faults
        async with wiring.cluster(self.settings) as cluster:
            signer = await certify.signer(cluster, self.settings.status.namespace)
        egress = certificate.statement(entries, signer.verifier)["predicate"]["egress"]
        assert egress["held_seconds"] >= HOLD

    async def _answers(self) -> bool:
        with suppress(LogUnavailable):
            return await self.stream.last() is not None
        return False

    async def _nodes_open(self) -> bool:
        return not self.box.blocks.current

    async def proofs(self) -> list[dict[str, Any]]:
        """Every result of step 8 that the journal calls a success."""
        found = []
        async for entry in self.stream.read(subjects.JOURNAL):
            data = data_of(read(entry.raw))
            if isinstance(data, facts.StepSucceeded) and data.step == flow.LAST.slug:
                found.append(data.result)
        return found


def untouched(proof: dict[str, Any], struck_at: Collection[datetime]) -> bool:
    """A proof held in one piece: as long as it had to be, its worker not ended while its block stood."""
    begun, over = (datetime.fromisoformat(proof[name]) for name in ("blocked_at", "lifted_at"))
    whole = proof["held_seconds"] >= HOLD and (over - begun).total_seconds() >= HOLD
    return whole and not any(begun <= at <= over for at in struck_at)


@asynccontextmanager
async def sweeping(directory: Path) -> AsyncIterator[Sweep]:
    """A box whose workers notice a death soon, with a run under way."""
    async with Box.open(directory, hold=HOLD) as box:
        document = yaml.safe_load(box.settings_file.read_text())
        document["pace"] = {"lease": JOURNAL_LEASE, "waits": 1000, "blips": 1000}
        document["nats"] = {**document["nats"], "ack_wait": 4.0}
        document["sovereign"]["proof"]["lease"] = BLOCK_LEASE
        file = directory / "settings-quick.yaml"
        file.write_text(yaml.safe_dump(document))
        settings = load(file)
        async with JetStreamLog.open(settings.nats) as stream, Crew.at_work(file, directory, 0) as crew:
            await stream.ensure()
            sweep = Sweep(box, settings, stream, crew)
            sweep.listen()
            await sweep.hire()
            await asking.publish(settings, stream, facts.Requested(operator="test", reason=json.dumps("kills")))
            yield sweep
