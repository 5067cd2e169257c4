"""Step 6 on 1,000 HelmRepositories in 20 namespaces, beside a loop that reads and patches one after the other.

Every request to the API server is 25 ms under way, in both: a write that etcd brings to disks in three zones.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from pivot_scene import BEFORE, Scene, scene

from schemas.results import SourcesPivoted
from workers.adapters.cluster import HELM_REPOSITORY, NAMESPACE, Object
from workers.declared.changes import Change
from workers.declared.files import Root, plan_edits
from workers.declared.reconcile import each

MANY, SPACES = 1000, 20
WIRE = 0.025  # seconds
UPSTREAM = "oci://ghcr.io/openova-io"


def by_hand(number: int) -> Object:
    spec = {"url": UPSTREAM, "type": "oci", "interval": "15m", "secretRef": {"name": "ghcr-pull"}}
    return {"metadata": {"name": f"r{number}", "namespace": f"team-{number % SPACES}"}, "spec": spec}


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Scene]:
    """Steps 1 to 3 and 5 are done, and the customers have brought their own repositories."""
    async with scene(tmp_path) as opened:
        for step in (*BEFORE, "flux-gitrepository-patch"):
            await opened.done(step)
        cluster = opened.world.cluster
        for number in range(SPACES):
            await cluster.create(NAMESPACE, {"metadata": {"name": f"team-{number}"}})
        await each(range(MANY), lambda number: cluster.create(HELM_REPOSITORY, by_hand(number)))
        yield opened


async def timed(it: Scene, work: Callable[[], Awaitable[object]]) -> tuple[float, int]:
    """Seconds and requests."""
    it.fuse.arm(None)
    it.fuse.delay = WIRE
    begin = time.monotonic()
    await work()
    it.fuse.delay = 0.0
    return time.monotonic() - begin, it.requests


async def serially(it: Scene) -> None:
    """What a shell script does."""
    for number in range(MANY):
        meta = by_hand(number)["metadata"]
        obj = await it.world.cluster.get(HELM_REPOSITORY, meta["name"], meta["namespace"])
        assert obj is not None
        body = {"metadata": {"resourceVersion": obj["metadata"]["resourceVersion"]}, "spec": {"interval": "16m"}}
        await it.world.cluster.patch(HELM_REPOSITORY, meta["name"], meta["namespace"], body)


@pytest.mark.slow
@pytest.mark.alone
async def test_a_thousand_repositories_cost_few_requests_and_a_fifth_of_a_loop_s_time(it: Scene) -> None:
    looped, baseline = await timed(it, lambda: serially(it))
    assert baseline == 2 * MANY
    took, requests = await timed(it, lambda: it.done("helmrepo-patches"))
    result = it.results["helmrepo-patches"]
    assert isinstance(result, SourcesPivoted)
    assert result.helm_repositories >= MANY
    urls = {o["spec"]["url"] for o in await it.world.cluster.list(HELM_REPOSITORY)}
    assert urls == {"oci://harbor.sovereign.test/openova-io"}
    print(f"\nloop {looped:.1f} s, {baseline} requests; step 6 {took:.1f} s, {requests} requests")
    assert requests <= 4 * baseline
    assert requests <= 1.5 * MANY, "one patch each, a few lists, a Secret in each namespace"
    assert looped / took >= 5


def test_a_thousand_manifests_are_planned_in_seconds(tmp_path: Path) -> None:
    """One file each, and all in one file: what is edited is what is asked for."""
    manifest = "# of {ns}\napiVersion: source.toolkit.fluxcd.io/v1\nkind: HelmRepository\nmetadata:\n  name: {name}\n"
    manifest += "  namespace: {ns}\nspec:\n  url: " + UPSTREAM + "  # theirs\n"
    new = "oci://harbor.sovereign.test/openova-io"
    changes, texts = [], []
    for number in range(MANY):
        meta = by_hand(number)["metadata"]
        changes.append(Change(HELM_REPOSITORY, meta["namespace"], meta["name"], {("spec", "url"): new}))
        texts.append(manifest.format(ns=meta["namespace"], name=meta["name"]))
    for number, text in enumerate(texts):
        file = tmp_path / "apart" / f"team-{number % SPACES}" / f"{number}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "together").mkdir()
    (tmp_path / "together" / "all.yaml").write_text("---\n".join(texts))
    for root in ("apart", "together"):
        begin = time.process_time()
        plan = plan_edits(tmp_path, [Root(root)], changes)
        assert time.process_time() - begin < 15, "a second or two on an idle machine"
        assert plan.undeclared == ()
        wanted = [text.replace(UPSTREAM, new) for text in texts]
        if root == "apart":
            assert sorted(plan.texts.values()) == sorted(wanted)
        else:
            assert list(plan.texts.values()) == ["---\n".join(wanted)]


async def test_what_is_done_at_once_is_bounded() -> None:
    under_way = most = 0

    async def one(_number: int) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1

    await each(range(100), one)
    assert most == 16
