"""Step 8 on a Sovereign that is already cut over: each scenario ends in its honest verdict."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from acceptance_scene import exported, in_one_task, kinds, status, typed
from step_by_step import Grounds, grounds

from events import flow
from sandbox.nodes import RESOLVER
from sandbox.policy import CLUSTERWIDE
from sandbox.scenarios import SCENARIOS, played
from sandbox.scenarios.proof import UPGRADED
from schemas import events as facts
from schemas.results import EgressProven
from workers.adapters.cluster_kinds import Object
from workers.errors import Stuck, Trouble
from workers.proof import block, forced, health, means
from workers.proof import canaries as flock
from workers.proof.canaries import Sample
from workers.steps import egress_block_test as step8
from workers.world import World

pytestmark = pytest.mark.asyncio(loop_scope="module")
HOLD = 2.0
SEEN = 30.0
"""A hold that something red ends early: Flux shall have seen it before the end, however slow the machine is."""
LATE = frozenset({"hidden-readiness"})
"""What is not red within a short hold, and not settled at its end."""


@dataclass
class Sovereign(Grounds):
    """A box, cut over up to the proof."""

    async def prove(self, hold: float = HOLD, **told: Any) -> EgressProven:
        """Step 8 alone, as a new attempt. `told`: settings of the proof."""
        async with asyncio.timeout(300):
            return await step8.run(self.order(step8.__name__), self._held(hold=hold, **told), self.report)

    def _held(self, **told: Any) -> World:
        whole = self.world.sovereign
        patient = whole.flux.model_copy(update={"timeout": 240.0})  # nothing here waits that out
        seldom = {"lease": 600.0}  # a renewal finds what others look for: it shall come at the end only
        parts = {"proof": whole.proof.model_copy(update=seldom | told), "flux": patient}
        return replace(self.world, sovereign=whole.model_copy(update=parts))

    async def verdict(self, name: str, wanted: str) -> str:
        """The reason with which step 8 ends in this scenario; empty when it succeeds. Nothing is left behind."""
        hold = SEEN if wanted == "NotGreenUnderBlock" and name not in LATE else HOLD
        async with played(self.box, SCENARIOS[name]):
            try:
                await self.prove(hold)
            except Trouble as error:
                reason = error.reason
                print(f"{name}: {error}")  # shown when it is another than was expected
            else:
                reason = ""
        assert not await block.standing(self.world.cluster, block.Placement.of(self.world.sovereign))
        return reason


@asynccontextmanager
async def cut_over(directory: Path) -> AsyncIterator[Sovereign]:
    async with grounds(directory, hold=HOLD) as (box, world):
        sovereign = Sovereign(box, world)
        await sovereign.through([step.slug for step in flow.STEPS[:-1]])
        yield sovereign


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def sovereign(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sovereign]:
    value, close = await in_one_task(lambda: cut_over(tmp_path_factory.mktemp("proof")))
    yield value
    await close()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A datapath that will never close, or never open again, is waited for a moment only."""
    monkeypatch.setattr(step8, "BITE", 3.0)
    monkeypatch.setattr(step8, "LONGEST_GAP", 60.0)  # a machine that is busy elsewhere is no gap here
    monkeypatch.setattr(forced, "FETCH", 0.5)  # what it is for shows below


async def test_the_proof_succeeds_and_says_what_was_blocked_forced_and_seen(sovereign: Sovereign) -> None:
    proof = await sovereign.prove()
    assert proof.rehearsal
    assert proof.held_seconds >= HOLD
    nodes = f"{block.NODE_MEANS}; open on port 53: {RESOLVER}"
    assert proof.means == ("CiliumClusterwideNetworkPolicy: default deny, world denied", nodes)
    upstream = set(proof.blocked_hosts)
    assert {c.reached for c in proof.during if c.host in upstream} == {0}
    assert all(c.reached == c.asked for c in (*proof.before, *proof.after))
    assert {c.network for c in proof.before} == {"pod", "host", "pod/flux-system"}
    assert all(c.asked == 3 for c in proof.before if c.network == "host"), "each of three nodes"
    assert proof.exceptions == ()
    assert any("stayed installed" in line for line in proof.forced)
    assert len(proof.model_dump_json()) < 30_000


@pytest.mark.parametrize(
    "name", [name for name, each in SCENARIOS.items() if each.step == flow.LAST.slug and not each.described]
)
async def test_each_scenario_ends_in_its_honest_verdict(
    sovereign: Sovereign, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = SCENARIOS[name].verdict
    if name in LATE:
        monkeypatch.setattr(step8, "settling", lambda _world: 1.0)
    assert await sovereign.verdict(name, wanted) == wanted


async def test_the_means_is_named_with_what_it_leaves_open(sovereign: Sovereign) -> None:
    for name, words in (("cluster-network-policy", "ClusterNetworkPolicy"), ("network-policy-alone", "NetworkPolicy")):
        async with played(sovereign.box, SCENARIOS[name]):
            proof = await sovereign.prove()
        assert proof.means[0].startswith(words)
        assert {c.reached for c in proof.during if c.host in proof.blocked_hosts} == {0}


async def test_a_name_that_moves_is_closed_at_the_next_look(
    sovereign: Sovereign, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cilium's deny of resolved addresses, A and AAAA; between two looks a name gets other ones."""
    box, look, moved = sovereign.box, step8.names.resolved, "203.0.113.99"
    policies: list[Any] = []

    async def rotating(world: World, nodes: Any, token: int, turn: str) -> frozenset[str]:
        if turn == "n1":
            old = box.network.move("quay.io", address=moved)
            monkeypatch.setattr(flock, "sample", lambda *a, _s=flock.sample: kept(_s(*a)))
            restore.append(old)
        return await look(world, nodes, token, turn)

    async def kept(sampling: Any) -> Sample:
        policies.extend((await box.api.list(CLUSTERWIDE))[0])
        return await sampling  # type: ignore[no-any-return]

    restore: list[Any] = []
    monkeypatch.setattr(step8.names, "resolved", rotating)
    try:
        proof = await sovereign.prove(means=("cilium-deny",))
    finally:
        box.network.hosts["quay.io"] = restore[0]
    assert "resolved addresses denied" in proof.means[0]
    assert "not covered: addresses that no upstream name resolved to" in proof.means[0]
    closed = policies[-1]["spec"]["egressDeny"][0]["toCIDR"]
    assert {f"{a}/{32 if '.' in a else 128}" for a in restore[0].addresses} < set(closed)
    assert f"{moved}/32" in closed
    assert any(":" in network for network in closed), "AAAA records too"
    assert {c.reached for c in proof.during if c.host in proof.blocked_hosts} == {0}


async def test_a_means_that_must_leave_an_upstream_open_is_none(sovereign: Sovereign) -> None:
    old = sovereign.box.network.move("quay.io", address="100.64.7.7")
    try:
        with pytest.raises(Stuck, match=r"CannotBlock.*100\.64\.7\.7.*must stay open"):
            await sovereign.prove(means=("cilium-deny",))
    finally:
        sovereign.box.network.hosts["quay.io"] = old
    with pytest.raises(Stuck, match=r"CannotBlock.*cilium: not among proof.means"):
        await sovereign.prove(means=("cluster-network-policy",))


Break = Callable[[pytest.MonkeyPatch], None]


def nothing(*_args: Any, **_more: Any) -> None:
    """A check that was commented out."""


async def nothing_done(*_args: Any, **_more: Any) -> str:
    return "claimed, not done"


def blind(*found: str) -> Break:
    """The canaries' verdicts are not looked at."""
    return lambda patch: [patch.setattr(Sample, name, lambda _self: ()) for name in found] and None


def unchecked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(step8, "check_bite", nothing)


def before_unchecked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(step8, "check_before", nothing)


def forbidden_is_a_warning(patch: pytest.MonkeyPatch) -> None:
    async def none(*_: Any) -> list[Any]:
        return []

    patch.setattr(type(means.cilium.MEANS), "objects", none)


def config_unread(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(means, "_enforced", nothing_done)


def allow_list_alone(patch: pytest.MonkeyPatch) -> None:
    whole = means.cilium.policy

    def part(terms: Any) -> Any:
        policy = whole(terms)
        del policy["spec"]["egressDeny"]
        return policy

    patch.setattr(means.cilium, "policy", part)


def canaries_at_home(patch: pytest.MonkeyPatch) -> None:
    async def none(_: Any) -> tuple[str, ...]:
        return ()

    patch.setattr(flock, "walled", none)


def pods_only(patch: pytest.MonkeyPatch) -> None:
    every = flock.posts
    patch.setattr(flock, "posts", lambda *a: [p for p in every(*a) if p.network != "host"])


def undeclared(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(step8.declared, "judge", nothing)


def unsettled_at_the_end(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(health.FluxWatch, "unsettled", lambda _self: [])


def reds_unseen(patch: pytest.MonkeyPatch) -> None:
    """Neither at once nor by what is left of them at the end."""
    patch.setattr(step8, "check_green", nothing)
    unsettled_at_the_end(patch)


def unforced(work: str) -> Break:
    return lambda patch: patch.setattr(forced, work, nothing_done)


def unwatched_policy(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(block.Block, "broken", nothing)


def unrenewed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(block.Block, "renew", nothing_done)


def others_unread(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(means.network_policy, "lets_out", lambda *_: [])


def only_flux_tells(patch: pytest.MonkeyPatch) -> None:
    """No work is forced, and no canary looks at the Sovereign's own."""

    async def none(*_: Any) -> list[str]:
        return []

    patch.setattr(forced, "everything", none)
    blind("cut_off")(patch)


def momentary(patch: pytest.MonkeyPatch) -> None:
    """What is red at one look only, and was between two, does not count."""
    red, before = health.FluxWatch.red, set[str]()

    def lasting(watch: health.FluxWatch) -> list[str]:
        found = red(watch)
        stayed = [why for why in found if why in before]
        before.clear()
        before.update(found)
        return stayed

    patch.setattr(health, "MOST_KEPT", 0)
    patch.setattr(health.FluxWatch, "red", lasting)


def impatient(patch: pytest.MonkeyPatch) -> None:
    """Ready=Unknown of the release that is upgraded, as during each reconcile, counts as a failure at once.

    Only once it is upgraded: forced work makes it reconcile too, perhaps before the scenario acts.
    """
    whole, before = health.red, set[int]()

    def hasty(obj: Object, now: datetime, patience: float) -> str | None:
        upgraded = False
        if obj["metadata"]["name"] == UPGRADED:
            before.add(obj["metadata"]["generation"])
            upgraded = obj["metadata"]["generation"] > min(before)
        return whole(obj, now, -1.0 if upgraded else patience)

    patch.setattr(health, "red", hasty)


GUARDS: list[tuple[str, list[tuple[Break, str]]]] = [
    # scenario, then the guards that are broken one after another, and the verdict that is left
    ("hidden-tether", [(lambda p: p.setattr(health, "red_pod", nothing), "")]),
    ("hidden-readiness", [(unsettled_at_the_end, "")]),
    ("policy-not-applied", [(unchecked, "")]),
    ("policy-forbidden", [(forbidden_is_a_warning, "EgressNotBlocked"), (unchecked, "")]),
    ("policy-audit-mode", [(config_unread, "EgressNotBlocked"), (unchecked, "")]),
    ("another-policy-allows", [(allow_list_alone, "EgressNotBlocked"), (canaries_at_home, "")]),
    ("node-open", [(pods_only, "")]),
    ("offline-already", [(before_unchecked, "StillOffline"), (blind("shut_in"), "")]),
    ("outage-during-hold", [(blind("shut_in"), "")]),
    ("block-cuts-dns", [(blind("cut_off"), "")]),
    ("block-cuts-apiserver", [(blind("cut_off"), "")]),
    ("reconcile-fails-in-minute-9", [(reds_unseen, "")]),
    ("flapping-source", [(momentary, "")]),
    ("cdn-address-rotates", [(blind("escaped"), "")]),
    ("crossplane-tether", [(undeclared, "NotGreenUnderBlock"), (unforced("packages"), "")]),
    ("chart-cache-hides-failure", [(unforced("charts"), "")]),
    ("negative-image-missing", [(lambda p: p.setattr(step8.pulls, "negative_exists", nothing_done), "")]),
    ("network-policy-in-vain", [(others_unread, "EgressNotBlocked"), (canaries_at_home, "")]),
    ("gitea-outage", [(only_flux_tells, "NotGreenUnderBlock"), (reds_unseen, "")]),
    ("harbor-outage", [(only_flux_tells, "NotGreenUnderBlock"), (reds_unseen, "")]),
    ("helm-upgrade-during-hold", [(impatient, "NotGreenUnderBlock")]),
    ("policy-removed", [(unwatched_policy, "EgressNotBlocked"), (unchecked, "BlockLost"), (unrenewed, "")]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "breaks"), GUARDS, ids=[name for name, _ in GUARDS])
async def test_without_its_guard_the_proof_would_end_otherwise(
    sovereign: Sovereign, name: str, breaks: list[tuple[Break, str]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if name == "crossplane-tether":
            # The sandbox's Crossplane gives up after eight seconds of silence.
            patch.setattr(forced, "patience", lambda _hold: 10.0)
        for broken, left in breaks:
            broken(patch)
            assert await sovereign.verdict(name, left) == left


async def test_a_gap_in_watching_restarts_the_clock(sovereign: Sovereign, monkeypatch: pytest.MonkeyPatch) -> None:
    async with played(sovereign.box, SCENARIOS["watch-gap"]):
        proof = await sovereign.prove()
    assert proof.restarts >= 1
    assert proof.held_seconds >= HOLD
    monkeypatch.setattr(health.FluxWatch, "gap", nothing)
    async with played(sovereign.box, SCENARIOS["watch-gap"]):
        assert (await sovereign.prove()).restarts == 0


async def test_a_rehearsal_stages_the_scenario_near_the_proof_and_shows_the_way_out(tmp_path: Path) -> None:
    said = await typed("rehearse", "--keep", str(tmp_path), "--hold", "3", "--scenario", "hidden-tether")
    assert said.code == 0, said.text
    assert "Failed as staged, at egress-block-test: NotGreenUnderBlock" in said.text
    assert "license.openova.io" in said.text
    failed, *_ = kinds(exported(tmp_path / "log.jsonl"), facts.StepFailed)
    assert (failed.step, failed.reason) == ("egress-block-test", "NotGreenUnderBlock")
    assert status(tmp_path)["cutoverComplete"] == "true"
