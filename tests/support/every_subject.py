"""Each subject that the chart grants at the broker taken away by itself: who misses it, and says so?

The processes are started anew for each, since that is when most of it is needed; what a run needs is lost in the
order in which a run needs it, so that one run, stopped again and again, meets every loss.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import uuid4

import anyio
from every_grant import Row, sentence
from granted_scene import Ground
from grants import matches, subjects, without_subject
from pydantic import BaseModel
from rare_grants import RARE_SUBJECTS

from events.envelope import Draft
from events.jetstream import Broker as Login
from events.jetstream import JetStreamLog
from events.journal import Journal
from events.log import LogUnavailable, NotPermitted
from events.subjects import CANCEL, JOURNAL, REQUESTED, ROOT, trigger
from sandbox.broker import Broker
from sandbox.charter import inbox, key, variable
from schemas.events import CancelRequested, Requested, Trigger
from workers.entrypoints import asking
from workers.node_log import reports

STREAM = "CATALYST_CUTOVER"
PATIENCE = 90.0  # seconds until somebody must have said it
ORDER = {
    "supply": ("journal", "step.2", "ACK.step-1", "step.3", "ACK.step-2", "step.4", "ACK.step-3"),
    "pivot": (
        "journal", "step.5", "ACK.step-4", "step.6", "ACK.step-5", "step.7", "ACK.step-6", "step.8", "ACK.step-7",
    ),
    "proof": ("journal", "ACK.step-8"),
}  # fmt: skip
"""What a run needs, in its order."""


def short(subject: str) -> str:
    """`$JS.ACK.CATALYST_CUTOVER.step-1.>` is `ACK.step-1`."""
    plain = subject.removeprefix(f"{ROOT}.").removeprefix("$JS.").removesuffix(".>")
    return plain.replace(f"{STREAM}.", "")


def refused(text: str, subject: str) -> str:
    """Where the text says that this very subject was refused, to which user; empty when it does not."""
    for seen in re.finditer(
        r'permissions violation for (?:publish|subscription) to \\?"([^"\\]+)', text, re.IGNORECASE
    ):
        if matches(subject.lower(), seen[1].lower()):
            return seen[1]
    return ""


@dataclass
class Subjects:
    """Rows as they are found."""

    ground: Ground
    journal: Journal
    say: Callable[[str], None]
    rows: list[Row]
    began: float = field(default_factory=time.monotonic)
    met: set[tuple[str, str]] = field(default_factory=set)

    async def all(self) -> None:
        """Every subject of every user."""
        await self.founding()
        await self.fuse()
        await self.running()
        await self.starting()
        await self.front_door()
        await self.operator()
        await self.agent()
        for user, subject in subjects(self.ground.charter.users):
            if (user, subject) not in self.met:
                self.add(user, subject, "nobody asked for it", "")

    def add(self, user: str, subject: str, noticed: str, said: str) -> None:
        """One more row."""
        found, name = refused(said, subject), f"{user}: {subject}"
        refusals = "\n".join(line for line in said.splitlines() if "violation" in line.lower())
        text = sentence(refusals, found) if found else RARE_SUBJECTS.get(name, said[-300:])
        self.met.add((user, subject))
        rare = not found and name in RARE_SUBJECTS
        noticed = "not asked for in this run" if rare else noticed if found else f"UNCLEAR: {noticed}"
        self.rows.append(Row(user, name, noticed, text, bool(found) or rare))
        mark = "named" if found else "UNCLEAR"
        self.say(f"{time.monotonic() - self.began:6.0f} s  {len(self.rows):3}  {mark:8}{user}: {subject}: {text[:160]}")

    def left(self, user: str) -> list[str]:
        return [
            each for who, each in subjects(self.ground.charter.users) if who == user and (who, each) not in self.met
        ]

    # --- the broker ---------------------------------------------------------------------------------------------

    async def lose(self, user: str, subject: str) -> None:
        """From now on the broker grants all but this."""
        broker = self.ground.box.broker
        broker.configure(without_subject(self.ground.charter, user, subject).authorization())
        await broker.restart()

    async def restore(self) -> None:
        self.ground.box.broker.configure(self.ground.charter.authorization())
        await self.ground.box.broker.restart()

    async def heard(
        self, name: str, before: int, subject: str, act: Callable[[], Awaitable[None]] | None = None
    ) -> str:
        """What the class says until it names the subject. `act` comes once it has begun to serve."""
        with anyio.move_on_after(PATIENCE):
            while not refused(said := self.ground.said(name)[before:], subject):
                if act is not None and " serves " in said:
                    await anyio.sleep(0.5)
                    await act()
                    act = None
                await anyio.sleep(0.1)
        return self.ground.said(name)[before:]

    # --- classes ------------------------------------------------------------------------------------------------

    async def starting(self) -> None:
        """What processes need when they start, or at a message that is none: each class lacks one of its own."""
        classes = ("control", "supply", "pivot", "proof")
        queues = {name: [s for s in self.left(name) if short(s) not in ORDER.get(name, ())] for name in classes}
        while any(queues.values()):
            lost = {name: queue.pop(0) for name, queue in queues.items() if queue}
            charter = self.ground.charter
            for name, subject in lost.items():
                charter = without_subject(charter, name, subject)
            await self.idle()
            self.ground.box.broker.configure(charter.authorization())
            await self.ground.box.broker.restart()
            async with anyio.create_task_group() as tasks:
                for name, subject in lost.items():
                    tasks.start_soon(self._start, name, subject)
        await self.restore()
        for name in classes:
            await self.ground.anew(name)

    async def _start(self, name: str, subject: str) -> None:
        before = await self.ground.anew(name)
        said = await self.heard(name, before, subject, self._act(name, short(subject)))
        self.add(name, subject, f"{name}, as it started or at its first message", said)

    def _act(self, name: str, what: str) -> Callable[[], Awaitable[None]] | None:
        box = self.ground.stream

        async def garbage() -> None:
            first = {"supply": "step.1", "pivot": "step.4", "proof": "step.8", "control": "requested"}[name]
            await box.publish_raw(f"{ROOT}.{first}", b"no event", id=str(uuid4()))

        async def bare() -> None:
            await self.idle()
            await box.publish_raw(f"{ROOT}.step.1", _event(Trigger(step="gitea-mirror")), id=str(uuid4()))

        if what == "step.1" and name == "supply":
            return bare

        async def anew() -> None:
            await self.idle()
            await self.request()

        if name == "control" and what in ("journal", "step.1"):
            return anew
        return garbage

    async def request(self) -> None:
        """A run, asked for by somebody who may."""
        await asking.publish(self.ground.settings, self.ground.stream, Requested(operator="test", reason="test"))

    async def idle(self) -> None:
        """No run is under way, if need be by a cancel."""
        if (await self.journal.refresh()).active:
            await self.ground.stream.publish_raw(CANCEL, _event(CancelRequested(operator="test")), id=str(uuid4()))
        with anyio.fail_after(60):
            while (await self.journal.refresh()).active:
                await anyio.sleep(0.1)

    async def running(self) -> None:
        """One run, whose every next need is lost in turn."""
        await self.idle()
        await self.ground.seal()
        asked = False
        for name, needs in ORDER.items():
            for each in needs:
                subject = next((s for s in self.left(name) if short(s) == each), None)
                if subject is None:
                    continue
                await self.lose(name, subject)
                before = await self.ground.anew(name)
                if not asked:
                    await self.request()
                    asked = True
                said = await self.heard(name, before, subject)
                complete = (await self.journal.refresh()).complete and name != "proof"
                self.add(name, subject, f"{name}, at its step" + (", too late" if complete else ""), said)
            await self.restore()
            await self.ground.anew(name)
        with anyio.move_on_after(200):
            while (await self.journal.refresh()).active:
                await anyio.sleep(0.5)

    async def fuse(self) -> None:
        """Auto-fire's: a login at the front door before the first run."""
        login = f"{ROOT}.login"
        if ("api", login) in self.met:
            return
        await self.lose("api", login)
        self.add("api", login, "the answer at the front door", await self._asked("POST", "login"))
        await self.restore()
        assert "message" not in await self._asked("POST", "login")
        for kind in ("cancel", "login"):
            subject = f"$JS.API.CONSUMER.CREATE.{STREAM}.*.{ROOT}.{kind}"
            if kind == "login":
                await self.ground.seal()
            await self.lose("control", subject)
            before = await self.ground.anew("control")
            self.add("control", subject, "control, when the fuse was due", await self.heard("control", before, subject))
        await self.restore()
        await self.ground.anew("control")
        with anyio.fail_after(60):
            while not (await self.journal.refresh()).active:
                await anyio.sleep(0.2)

    async def founding(self) -> None:
        """The stream and its consumers are made once: on an empty broker."""
        charter = self.ground.charter
        file = self.ground.box.keyring.path(key("control"))
        words = {variable(user): self.ground.box.keyring.get(key(user)) for user in charter.names}
        for subject in [s for s in self.left("control") if ".CREATE." in s and f"{ROOT}." not in s]:
            place = self.ground.box.directory / f"founding-{uuid4().hex[:8]}"
            less = without_subject(charter, "control", subject).authorization()
            async with Broker.start(place, more=less, variables=words) as broker:
                login = Login(url=broker.url, user="control", password_file=file, inbox_prefix=inbox("control"))
                async with JetStreamLog.open(login) as log:
                    self.add("control", subject, "control, as it made the stream", await _error(log.ensure()))

    # --- the others ---------------------------------------------------------------------------------------------

    async def _asked(self, method: str, path: str) -> str:
        """The answer, once the front door has the broker again."""
        with anyio.move_on_after(20):
            while (await self.ground.web.get("/readyz")).status_code != 200:
                await anyio.sleep(0.2)
        text = (await self.ground.ask(method, path)).text
        return text.replace('\\"', '"')

    async def front_door(self) -> None:
        """Whatever is asked there."""
        log = self.ground.box.directory / "api.log"
        asks = {
            "requested": ("POST", "start"),
            "step.*": ("POST", "steps/gitea-mirror/retry"),
            "cancel": ("POST", "cancel"),
        }
        for subject in self.left("api"):
            what = short(subject)
            if what == "cancel":
                await asking.publish(
                    self.ground.settings, self.ground.stream, Requested(operator="test", reason="test")
                )
                with anyio.fail_after(60):
                    while not (await self.journal.refresh()).active:
                        await anyio.sleep(0.2)
            before = len(log.read_text())
            await anyio.sleep(10.5)  # for so long the last look is shown again
            await self.lose("api", subject)
            said = ""
            for method, path in (asks[what],) if what in asks else (("GET", "plan"), ("GET", "audit")):
                said += await self._asked(method, path) if not refused(said, subject) else ""
                said += log.read_text()[before:]
            self.add("api", subject, "the answer at the front door, or its log", said)
            await self.restore()
            if (await self.journal.refresh()).active:
                await self._asked("POST", "cancel")

    async def operator(self) -> None:
        """What a person with a login of the broker does, by the same functions as `cutover` itself."""
        acts: dict[str, Callable[[JetStreamLog], Awaitable[object]]] = {
            "requested": lambda log: log.publish_raw(REQUESTED, b"no event", id=str(uuid4())),
            "cancel": lambda log: log.publish_raw(CANCEL, b"no event", id=str(uuid4())),
            "step.*": lambda log: log.publish_raw(trigger_of_three(), b"no event", id=str(uuid4())),
            f"API.STREAM.INFO.{STREAM}": watched,
            "API.CONSUMER.CREATE.*.catalyst.cutover.node.*": reports,
        }
        for subject in self.left("operator"):
            await self.lose("operator", subject)
            login = Login.model_validate(self.ground.box.broker_login("operator"))
            async with JetStreamLog.open(login, patient=True) as log:
                act = acts.get(short(subject.removesuffix(".>")), asking.state)
                if subject.endswith(f"{ROOT}.>") or "DELETE" in subject or "NEXT" in subject:
                    act = everything
                said = await _error(act(log))
                said = said or str(log.denied)
            self.add("operator", subject, "the command", said)
        await self.restore()

    async def agent(self) -> None:
        """A node's agent that has something to report."""
        nodes = self.ground.settings.sovereign.nodes.namespace
        for subject in self.left("node-agent"):
            await self.lose("node-agent", subject)
            await self.ground.agent_anew()
            said = ""
            with anyio.move_on_after(PATIENCE):
                while not refused(said, subject):
                    await anyio.sleep(0.3)
                    _, found = await self.ground.admin("GET", f"/api/v1/namespaces/{nodes}/pods")
                    said = str([pod.get("status") for pod in found["items"]])
            self.add("node-agent", subject, "the agent's Pod: how it ended", said)
        await self.restore()


def trigger_of_three() -> str:
    from events.flow import BY_NUMBER

    return trigger(BY_NUMBER[3])


def _event(data: BaseModel) -> bytes:
    return Draft(id=str(uuid4()), source="//test", data=data, subject="cutover", time=datetime.now(UTC)).encode()


async def watched(log: JetStreamLog) -> None:
    """As `cutover watch` reads: live, so that it must know whether it is still the same log."""
    async for _ in log.read(JOURNAL, live=True):
        return


async def everything(log: JetStreamLog) -> None:
    """As `cutover log` reads; a reader's end is a question of its own, and its refusal comes a moment later."""
    async for _ in asking.messages(log):
        pass
    await anyio.sleep(0.5)


async def _error(work: Awaitable[object]) -> str:
    """What it fails with; empty when it does not."""
    with suppress(Exception):
        try:
            await work
        except (NotPermitted, LogUnavailable) as error:
            return f"{type(error).__name__}: {error}"
    return ""
