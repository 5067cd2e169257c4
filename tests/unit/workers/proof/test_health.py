"""What counts as in order while the block stands: Pods above all, and everything at the end of the hold."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from schemas.progress import Progress
from workers.adapters.cluster import Cluster
from workers.adapters.cluster_kinds import GIT_REPOSITORY, HELM_RELEASE, KUSTOMIZATION, POD, Kind, Object
from workers.errors import Stuck
from workers.proof import forced
from workers.proof.canaries import Sample
from workers.proof.health import FluxWatch, judged, settled
from workers.proof.hold import HoldClock
from workers.proof.holding import Holding, excused
from workers.proof.lifter import PURPOSE
from workers.proof.pods import TRIES
from workers.sovereign import Gitea, Harbor, Login, Sovereign
from workers.steps import egress_block_test as step8
from workers.world import World

PATIENCE = 300.0
OLD, YOUNG = 301.0, 60.0
RUNS = {"running": {}}


def ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()


def pod(phase: str = "Running", ready: bool = False, age: float = OLD, name: str = "crm", **told: Any) -> Object:
    """`told`: state of its container, and parts of metadata, spec and status by their names."""
    said = {"type": "Ready", "status": str(ready), "reason": "ContainersNotReady", "lastTransitionTime": ago(age)}
    container = {"name": "a", "ready": ready, "state": told.pop("state", RUNS), "restartCount": 0}
    meta = {"name": name, "namespace": "t", "uid": name, "resourceVersion": "2", "creationTimestamp": ago(age)}
    status = {"phase": phase, "conditions": [said], "containerStatuses": [container]}
    return {
        "kind": "Pod",
        "metadata": meta | told.pop("meta", {}),
        "spec": told.pop("spec", {}),
        "status": status | told,
    }


def unscheduled(age: float) -> Object:
    said = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node has the volume"}
    return pod("Pending", age=age, conditions=[said], containerStatuses=[])


ENDED = {"terminated": {"exitCode": 1, "reason": "Error", "message": "no licence"}}
CREATING = {"waiting": {"reason": "ContainerCreating"}}
INIT = {
    "initContainerStatuses": [{"name": "wait", "state": ENDED}],
    "state": {"waiting": {"reason": "PodInitializing"}},
}
LASTING = {
    "runs and is not Ready": (pod, "ContainersNotReady"),
    "is made and made": (lambda age: pod("Pending", age=age, state=CREATING), "container a: ContainerCreating"),
    "finds no node": (unscheduled, "Unschedulable: no node has the volume"),
    "waits for its first container": (lambda age: pod("Pending", age=age, **INIT), "container wait ended with 1"),
}


@pytest.mark.parametrize("case", LASTING)
def test_a_pod_that_stays_not_ready_is_red_whatever_keeps_it(case: str) -> None:
    made, words = LASTING[case]
    late, early = made(age=OLD), made(age=YOUNG)
    assert words in str(judged(POD, late, datetime.now(UTC), PATIENCE))
    assert judged(POD, early, datetime.now(UTC), PATIENCE) is None, "a rollout takes a moment"
    assert not settled(POD, early), "and yet it is not in order"


@pytest.mark.parametrize("reason", [None, "DeadlineExceeded", "NoSuchReason"])
def test_a_pod_that_failed_is_red_at_once(reason: str | None) -> None:
    lost = pod("Failed", age=0, state=ENDED, **({"reason": reason} if reason else {}))
    assert "no licence" in str(judged(POD, lost, datetime.now(UTC), PATIENCE))
    assert not settled(POD, lost)


def one_shot(first: Mapping[str, Any]) -> Object:
    """The first of two containers has ended; the second goes on."""
    both = [{"name": "a", "ready": False, "state": first}, {"name": "b", "ready": True, "state": RUNS}]
    return pod(spec={"restartPolicy": "Never"}, containerStatuses=both)


FINE = {
    "Ready": pod(ready=True),
    "through with its work": pod("Succeeded"),
    "half done": one_shot({"terminated": {"exitCode": 0}}),
    "on its way out": pod(meta={"deletionTimestamp": ago(1)}),
    "one of ours that is made to fail": pod("Failed", state=ENDED, meta={"labels": {TRIES: "negative"}}),
    "the lifter's": pod("Pending", meta={"labels": {PURPOSE: "true"}}),
    "told to wait": pod("Pending", spec={"schedulingGates": [{"name": "quota"}]}),
    "evicted": pod("Failed", reason="Evicted"),
    "not admitted": pod("Failed", reason="UnexpectedAdmissionError"),
    "on a node that went down": pod("Failed", reason="Terminated"),
    "disrupted": pod("Failed", conditions=[{"type": "DisruptionTarget", "status": "True"}]),
}


@pytest.mark.parametrize("case", FINE)
def test_a_pod_that_says_nothing_of_the_block_is_in_order(case: str) -> None:
    assert judged(POD, FINE[case], datetime.now(UTC), PATIENCE) is None
    assert settled(POD, FINE[case])


def test_a_one_shot_of_which_a_container_ended_badly_is_not_half_done() -> None:
    assert "ended with 1" in str(judged(POD, one_shot(ENDED), datetime.now(UTC), PATIENCE))


def test_what_was_not_in_order_before_fails_by_its_containers_only() -> None:
    for before in (pod(), pod("Failed", state=ENDED), unscheduled(OLD)):
        assert judged(POD, before, datetime.now(UTC), PATIENCE, {"crm"}) is None
        assert settled(POD, before, {"crm"})
    crashing = pod(state={"waiting": {"reason": "CrashLoopBackOff"}})
    assert "CrashLoopBackOff" in str(judged(POD, crashing, datetime.now(UTC), PATIENCE, {"crm"}))
    assert not settled(POD, crashing, {"crm"})


def flux(kind: Kind, name: str, status: str, reason: str = "Progressing", age: float = 200) -> Object:
    said = {"type": "Ready", "status": status, "reason": reason, "message": "words", "lastTransitionTime": ago(age)}
    meta = {"namespace": "flux-system", "name": name, "uid": name, "resourceVersion": "5", "generation": 1}
    return {
        "kind": kind.kind,
        "metadata": meta,
        "spec": {},
        "status": {"observedGeneration": 1, "conditions": [said]},
    }


class There:
    """A cluster that only lists."""

    def __init__(self, told: Sequence[tuple[Kind, Object]]) -> None:
        self._told = told

    async def served(self, kind: Kind) -> bool:
        return any(each is kind for each, _ in self._told)

    async def list(self, kind: Kind) -> list[Object]:
        return [obj for each, obj in self._told if each is kind]


async def watch_of(*told: tuple[Kind, Object], baseline: Mapping[str, str] | None = None) -> FluxWatch:
    """What it sees, as if every watch had begun."""
    watch = FluxWatch(cast(Cluster, There(told)), PATIENCE, baseline)
    await watch.look()
    watch._blind.clear()
    return watch


def tell(watch: FluxWatch, kind: Kind, obj: Object) -> None:
    watch._take(kind, "MODIFIED", obj)
    watch.changed.set()


async def test_one_that_is_seen_in_order_once_is_held_to_it() -> None:
    watch = await watch_of((POD, pod()), baseline={"crm": "t/crm", "gone": "t/gone"})
    assert watch.red() == []
    tell(watch, POD, pod(ready=True))
    tell(watch, POD, pod())
    assert "Pod t/crm: not Ready" in watch.red()[0]
    assert watch.baseline == {"gone": "t/gone"}


async def test_before_the_block_what_may_be_about_to_start_is_waited_for_and_what_stays_is_excused() -> None:
    stuck, lost, starting = pod(name="stuck"), pod("Failed", name="lost"), pod(age=1, name="starting")
    watch = await watch_of((POD, stuck), (POD, lost), (POD, starting), (POD, pod(age=1, name="failing")))
    settling = asyncio.create_task(watch.settle(60))
    await asyncio.sleep(0)
    assert watch.unsettled() == [f"Pod t/{name}: ContainersNotReady: " for name in ("starting", "failing")]
    tell(watch, POD, pod(ready=True, name="starting"))
    await asyncio.sleep(0)
    assert not settling.done()
    tell(watch, POD, pod("Failed", name="failing"))
    async with asyncio.timeout(30):
        assert await settling == []
    assert watch.baseline == {name: f"t/{name}" for name in ("stuck", "lost", "failing")}
    late = await watch_of((POD, starting), (POD, pod(ready=True, name="job")))
    ending = asyncio.create_task(late.settle(0.01))
    await asyncio.sleep(0)
    tell(late, POD, pod("Failed", name="job"))
    assert await ending == []
    assert late.baseline == {"starting": "t/starting", "job": "t/job"}, "neither the one nor the other is its doing"


async def test_before_the_block_nothing_may_crash_and_nothing_be_red() -> None:
    crashing = pod(state={"waiting": {"reason": "CrashLoopBackOff"}})
    assert "CrashLoopBackOff" in (await (await watch_of((POD, crashing))).settle(0.01))[0]
    watch = await watch_of(
        (KUSTOMIZATION, flux(KUSTOMIZATION, "apps", "True")), (GIT_REPOSITORY, flux(GIT_REPOSITORY, "o", "Unknown"))
    )
    settling = asyncio.create_task(watch.settle(0.01))
    await asyncio.sleep(0)
    tell(watch, KUSTOMIZATION, flux(KUSTOMIZATION, "apps", "False", "BuildFailed"))
    tell(watch, GIT_REPOSITORY, flux(GIT_REPOSITORY, "o", "True"))
    assert await settling == ["Kustomization flux-system/apps: Ready=False: BuildFailed: words"]


async def test_before_the_block_each_is_seen_settled_by_itself() -> None:
    """Where they reconcile in turns there is no moment in which all are."""
    watch = await watch_of(
        (KUSTOMIZATION, flux(KUSTOMIZATION, "a", "True")), (KUSTOMIZATION, flux(KUSTOMIZATION, "b", "Unknown"))
    )
    settling = asyncio.create_task(watch.settle(60))
    await asyncio.sleep(0)
    tell(watch, KUSTOMIZATION, flux(KUSTOMIZATION, "a", "Unknown"))
    await asyncio.sleep(0)
    assert not settling.done()
    tell(watch, KUSTOMIZATION, flux(KUSTOMIZATION, "b", "True"))
    assert await settling == []


def went_wrong() -> list[tuple[Kind, Object]]:
    """Each began before the end of the hold by less than a failure takes to count. Made when asked for: they age."""
    return [
        (HELM_RELEASE, flux(HELM_RELEASE, "bp-x", "Unknown")),
        (HELM_RELEASE, flux(HELM_RELEASE, "bp-y", "False", "ArtifactFailed")),
        (KUSTOMIZATION, flux(KUSTOMIZATION, "tenants", "False", "DependencyNotReady")),
        (POD, pod(age=YOUNG)),
    ]


async def ended(watch: FluxWatch, until: float, said: list[str] | None = None) -> bool:
    """The end of a hold that is long enough."""
    clock = HoldClock(1.0, 60.0)
    clock.tick(step8.now(), None)
    clock.held = 2.0
    nobody = Sample((), ())

    async def report(progress: Progress) -> None:
        if said is not None:
            said.append(progress.message)

    holding = Holding(clock, nobody, nobody, forced_at=0)
    return await step8._settled(holding, watch, report, step8.now() + until)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step8, "TICK", 0.01)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("which", range(4))
async def test_what_is_not_settled_at_the_end_of_the_hold_fails_it(which: int) -> None:
    kind, obj = went_wrong()[which]
    watch = await watch_of((kind, obj))
    step8.check_green(watch)
    with pytest.raises(Stuck, match=f"NotGreenUnderBlock.*{obj['metadata']['name']}"):
        await ended(watch, 0.05)


@pytest.mark.usefixtures("quick")
async def test_at_the_end_each_is_waited_for_by_itself_and_said_so() -> None:
    watch, said = await watch_of(*went_wrong()), list[str]()
    ending = asyncio.create_task(ended(watch, 60, said))
    while not said and not ending.done():
        await asyncio.sleep(0.01)
    assert said[0].startswith("held; waiting for 4 to settle: Kustomization flux-system/tenants: words; HelmRelease ")
    for kind, obj in went_wrong()[:3]:
        tell(watch, kind, flux(kind, obj["metadata"]["name"], "True"))
        tell(watch, kind, obj)
    tell(watch, POD, pod(ready=True))
    assert await ending
    assert await ended(await watch_of((POD, pod()), baseline={"crm": "t/crm"}), 0.05), "it was like that before"


@pytest.mark.usefixtures("quick")
async def test_at_the_end_a_failure_ends_it_at_once_and_a_gap_begins_anew() -> None:
    for happens, outcome in ((lambda w: tell(w, POD, pod("Failed", name="job")), None), (broken, False)):
        watch, said = await watch_of(*went_wrong()), list[str]()
        ending = asyncio.create_task(ended(watch, 60, said))
        while not said and not ending.done():
            await asyncio.sleep(0.01)
        happens(watch)
        if outcome is None:
            with pytest.raises(Stuck, match="NotGreenUnderBlock: Pod t/job: Failed"):
                await ending
        else:
            assert await ending is outcome


def broken(watch: FluxWatch) -> None:
    watch._missed[POD] = "the watch broke"


def test_the_evidence_names_whom_it_says_nothing_of_and_stays_short() -> None:
    assert excused([]) == ""
    assert excused(["t/crm"]).endswith("Pods t/crm")
    many = excused([f"t/{n}" for n in range(500)])
    assert many.endswith("t/9 and 490 more")
    assert len(many) < 200


class Flux(There):
    """It has fetched the commit."""

    async def request_reconcile(self, *_: Any) -> None:
        pass

    async def wait(self, *_: Any) -> None:
        pass

    async def wait_all(self, _kind: Kind, _namespace: None, until: Any, _timeout: float) -> None:
        assert until({("flux-system", "apps"): {"status": {"lastAppliedRevision": "main@sha1:abc"}}})


async def test_a_commit_that_nobody_follows_has_reached_nothing() -> None:
    def follower(suspended: bool) -> Object:
        name = "asleep" if suspended else "apps"
        found = flux(KUSTOMIZATION, name, "True")
        found["spec"] = {"suspend": suspended, "sourceRef": {"kind": "GitRepository", "name": "openova"}}
        return found

    def world(*found: Object) -> World:
        cluster = cast(Any, Flux([(KUSTOMIZATION, each) for each in found]))
        nothing = cast(Any, None)
        return World(sovereign, cluster, nothing, nothing, nothing, nothing, nothing)

    login = Login(username="robot", password_file=Path("/nowhere"))
    gitea = Gitea(url="http://gitea:3000", login=login)
    harbor = Harbor(url="http://harbor", host="harbor.sovereign.test", login=login)
    sovereign = Sovereign(fqdn="sovereign.test", gitea=gitea, harbor=harbor)

    assert "reached 1 Kustomizations" in await forced.flows(world(follower(True), follower(False)), "abc", "t")
    for none in ([], [follower(True)]):
        with pytest.raises(Stuck, match=r"CommitDidNotFlow.*could reach nothing.*flux-system/openova"):
            await forced.flows(world(*none), "abc", "t")
