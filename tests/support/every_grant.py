"""Each grant of the chart taken away by itself: is it missed by name, and does nothing succeed that should not?

One Sovereign in a box. A step that failed is ordered again without the next grant, so that each costs the part of a
step that leads up to it; what is no step's (drift, the front door, agents) is made to happen by itself.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import anyio
from granted_scene import SEAL, Ground
from grants import Grant, grants

from events.flow import SLUGS
from events.fold import Run, State
from events.journal import Journal
from sandbox.kube.access import Ask

LAST = SLUGS[-1]
CLASS_OF = {slug: "supply" if n < 3 else "pivot" if n < 7 else "proof" for n, slug in enumerate(SLUGS)}
FRESH = 10.5  # seconds for which the front door shows the look it took last


@dataclass(frozen=True)
class Row:
    """What became of one grant's loss."""

    account: str
    grant: str
    noticed: str
    """By whom, or why nobody could."""
    said: str
    named: bool
    """The text has the verb, the kind and the account; or the subject."""
    complete: bool = False
    """The run ended in success all the same."""


def names(text: str, gone: Grant) -> bool:
    """Does the text say what is missing, and to whom?"""
    return f"{gone.verb} {gone.resource}" in text and f"grant {gone.account} the verb {gone.verb}" in text


def waits(run: Run | None) -> str:
    """What the proof waits for when something of the audit cannot be read: given it back, it goes on."""
    if run is None or run.phase != "running":
        return ""
    mine = run.step(LAST)
    return f"{mine.reason}: {mine.message}" if mine.result == "waiting" and mine.reason == "AuditUnreadable" else ""


def sentence(text: str, words: str) -> str:
    """The line with these words, for a table."""
    line = next((each for each in text.splitlines() if words in each), text)
    at = line.find(words)
    return line[max(0, at - 120) : at + 260].strip() if at >= 0 else line[:380]


class Recorder(dict[str, set[Ask]]):
    """Stands where the API server notes what was asked; keeps the order, and the step of the time."""

    def __init__(self, stage: Callable[[], str]) -> None:
        super().__init__()
        self.calls: dict[tuple[str, Ask, str], None] = {}
        self._stage = stage

    def setdefault(self, user: str, _: Any = None) -> Any:
        recorder, kept = self, super().setdefault(user, set())

        class Sink(set[Ask]):
            def add(self, ask: Ask) -> None:
                kept.add(ask)
                recorder.calls[(user, ask, recorder._stage())] = None

        return Sink()


def wanted(gone: Grant, ask: Ask) -> bool:
    """Is this grant what lets it be asked?"""
    return gone.used({gone.account: [ask]})


@dataclass
class Sweep:
    """Rows as they are found."""

    ground: Ground
    journal: Journal
    say: Callable[[str], None]
    rows: list[Row] = field(default_factory=list)
    done: set[Grant] = field(default_factory=set)
    began: float = field(default_factory=time.monotonic)
    looked: float = 0.0

    def add(self, gone: Grant, noticed: str, said: str, *, complete: bool = False) -> None:
        """One more row."""
        named = names(said, gone)
        text = sentence(said, f"{gone.verb} {gone.resource}")
        self.rows.append(Row(gone.account, str(gone), noticed, text, named, complete))
        self.done.add(gone)
        mark = "named" if named else "UNCLEAR"
        self.say(
            f"{time.monotonic() - self.began:6.0f} s  {len(self.rows):3}  {mark:8}{gone} -> {noticed}: {text[:160]}"
        )

    @property
    def denied(self) -> set[tuple[str, Ask]]:
        return {(account, ask) for account, asks in self.ground.box.kube.api.denied.items() for ask in asks}

    def missed(self, gone: Grant) -> bool:
        """Was it asked for in vain?"""
        return any(account == gone.account and wanted(gone, ask) for account, ask in self.denied)

    # --- steps --------------------------------------------------------------------------------------------------

    async def until(self, holds: Callable[[State], bool], seconds: float = 150.0) -> State:
        with anyio.fail_after(seconds):
            state = await self.journal.refresh()
            while not holds(state):
                await anyio.sleep(0.05)
                state = await self.journal.refresh()
            return state

    async def idle(self) -> State:
        return await self.until(lambda state: not state.active)

    async def order(self, slug: str) -> Run:
        """This step, in the newest run or in a new one; how the run stands when nothing is under way any more."""
        state = await self.idle()
        fresh = state.run is None or state.run.phase == "cancelled" or slug == SLUGS[0]
        seq = state.seq
        path = "start" if fresh else f"steps/{slug}/retry"
        with anyio.fail_after(60):
            while True:
                answer = await self.ground.ask("POST", path, **({"again": True} if fresh else {}))
                if answer.status_code == 202:
                    break
                # The front door reads the log by itself, and may be a moment behind us.
                assert answer.status_code in (409, 503), f"{slug}: {answer.text}"
                await anyio.sleep(0.2)
        run = (await self.until(lambda now: now.seq > seq and (not now.active or bool(waits(now.run))))).run
        assert run is not None
        return run

    async def steps(self, calls: Iterable[tuple[str, Ask, str]]) -> None:
        """Every grant that a step itself uses, in the order in which a run first asks for it."""
        for stage, gone in self._queue(calls):
            self.ground.box.kube.api.denied.clear()
            state = await self.idle()
            failed = state.run.failed_step if state.run is not None and state.run.phase == "failed" else ""
            slug = failed or (stage if state.complete else SLUGS[0])
            since = state.seq
            try:
                async with self.ground.lacking(gone):
                    run = await self.order(slug)
            except TimeoutError:
                self.add(gone, "nobody in 150 s", "")
                continue
            if said := waits(run):
                self.add(gone, "the proof, which waits until it can read", said)
            elif run.phase == "failed":
                self.add(gone, f"step {run.failed_step}", f"{run.reason}: {run.message}")
            elif self.missed(gone):
                told = await self._journal(since)
                by = "the journal; the run went on" if names(told, gone) else "nobody, though it was missed"
                self.add(gone, by, told, complete=not names(told, gone))
            else:
                self.say(f"not asked for again: {gone}")

    def _queue(self, calls: Iterable[tuple[str, Ask, str]]) -> Iterator[tuple[str, Grant]]:
        """(step, grant); what only the first look of a run uses comes elsewhere."""
        accounts = {self.ground.charter.accounts[name]: name for name in ("supply", "pivot", "proof")}
        accounts[self.ground.charter.accounts["lifter"]] = "proof"
        every = grants(self.ground.charter.objects)
        tried = set[Grant]()
        stages = [slug for slug in SLUGS if slug != SLUGS[0]]
        ordered = sorted(calls, key=lambda call: stages.index(call[2]) if call[2] in stages else 99)
        for account, ask, stage in ordered:
            if accounts.get(account) is None or accounts[account] != CLASS_OF.get(stage) or stage not in stages:
                continue
            for gone in every:
                if gone not in self.done and gone not in tried and gone.account == account and wanted(gone, ask):
                    tried.add(gone)
                    yield stage, gone

    # --- what is no step's --------------------------------------------------------------------------------------

    async def beside(self, gone: Grant, act: Callable[[], Awaitable[str]], heard: Callable[[], Awaitable[str]]) -> str:
        """Act without the grant, and listen for its name; who said it, empty when nobody did."""
        self.ground.box.kube.api.denied.clear()
        await self.idle()
        before = len(await heard())
        async with self.ground.lacking(gone):
            answer = await act()
            if names(answer, gone):
                self.add(gone, "the answer at the front door", answer)
                return answer
            with anyio.move_on_after(12 if self.missed(gone) else 6):
                while not names(said := (await heard())[before:], gone):
                    await anyio.sleep(0.1)
                return said
        return ""

    async def control(self) -> None:
        """Preflight, status, drift and the seal: at a request that looks ahead, and after its cancel."""
        log = self._log("control")

        async def act() -> str:
            answer = await self.ground.ask("POST", "start", again=True, preflight=True)
            if answer.status_code == 202:
                await self.ground.ask("POST", "cancel")
            return answer.text

        async def anew() -> str:
            await self.ground.anew("control")  # a watch that stands is opened anew within minutes
            return ""

        for gone in self._left("control"):
            if (gone.verb, gone.resource) == ("create", "configmaps"):
                place = self.ground.settings.status
                await self.ground.admin("DELETE", f"/api/v1/namespaces/{place.namespace}/configmaps/{place.name}")
            opened = (gone.verb, gone.resource) == ("watch", "configmaps")
            if said := await self.beside(gone, anew if opened else act, log):
                if gone not in self.done:
                    self.add(gone, "the log of control", said)
            elif self.missed(gone):
                self.add(gone, "nobody, though it was missed", "")

    async def supply(self) -> None:
        """What only a run's first look reads stands in the journal; the seal is looked at for a bare trigger."""
        from test_least_privilege import by_hand

        log = self._log("supply")

        async def act() -> str:
            answer = await self.ground.ask("POST", "start", again=True)
            return answer.text if answer.status_code != 202 else ""

        async def bare() -> str:
            await by_hand(self.ground)
            return ""

        for gone in self._left("supply"):
            seal = gone.name == SEAL["name"]
            said = await self.beside(gone, bare if seal else act, log if seal else self._journal)
            if (await self.journal.refresh()).active:
                await self.ground.ask("POST", "cancel")
            if said:
                self.add(gone, "the log of supply" if seal else "the audit in the journal", said)
            elif self.missed(gone):
                self.add(gone, "nobody, though it was missed", "")

    async def _journal(self, since: int = 0) -> str:
        """Every entry above a sequence."""
        entries = await self.ground.stream.since(since)
        return "\n".join(entry.raw.decode(errors="replace") for entry in entries).replace('\\"', '"')

    async def api(self) -> None:
        """Whatever the front door shows."""

        async def act() -> str:
            await anyio.sleep(max(0.0, self.looked + FRESH - time.monotonic()))
            texts = [(await self.ground.ask("POST", "login", who="")).text]
            for path in ("plan", "audit", "certificate"):
                texts.append((await self.ground.ask("GET", path)).text.replace('\\"', '"'))
            self.looked = time.monotonic()
            return "\n".join(texts)

        async def nothing() -> str:
            return ""

        for gone in self._left("api"):
            if not await self.beside(gone, act, nothing) and self.missed(gone):
                self.add(gone, "nobody, though it was missed", "")

    async def agents(self) -> None:
        """An agent that is started anew."""
        nodes = self.ground.settings.sovereign.nodes.namespace

        async def act() -> str:
            await self.ground.agent_anew()
            return ""

        async def heard() -> str:
            _, found = await self.ground.admin("GET", f"/api/v1/namespaces/{nodes}/pods")
            return str([pod.get("status") for pod in found["items"]])

        for gone in self._left("node-agent"):
            with anyio.move_on_after(90):  # a watch that stands is opened anew within a minute
                async with self.ground.lacking(gone):
                    await act()
                    while not names(await heard(), gone):
                        await anyio.sleep(0.2)
                    self.add(gone, "the agent's Pod: how it ended", await heard())
            await anyio.sleep(3)

    async def last_step(self) -> None:
        """Whatever else the lifter and the proof may: at the last step once more."""
        for gone in (*self._left("lifter"), *self._left("proof")):
            self.ground.box.kube.api.denied.clear()
            async with self.ground.lacking(gone):
                run = await self.order(LAST)
            if said := waits(run):
                self.add(gone, "the proof, which waits until it can read", said)
            elif run.phase == "failed":
                self.add(gone, f"step {run.failed_step}", f"{run.reason}: {run.message}")
            elif self.missed(gone):
                self.add(gone, "nobody, though it was missed", "", complete=True)

    def _left(self, name: str) -> list[Grant]:
        account = self.ground.charter.accounts[name]
        return [g for g in grants(self.ground.charter.objects) if g.account == account and g not in self.done]

    def _log(self, name: str) -> Callable[[], Awaitable[str]]:
        async def heard() -> str:
            return self.ground.said(name)

        return heard


def left(sweep: Sweep) -> list[Grant]:
    """Grants whose loss nobody has felt."""
    return [gone for gone in grants(sweep.ground.charter.objects) if gone not in sweep.done]
