"""Steps 5 to 7 on one Sovereign: each scenario ends in its honest verdict, and a repeat writes nothing."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio
from acceptance_scene import in_one_task
from flux_scene import FIVE, GIT, SEVEN, SIX, Sovereign, git, prepared

from sandbox.box import Box
from sandbox.catalogue import GITOPS_UPSTREAM
from sandbox.faults import _harbor
from sandbox.openova_slots import TEMPLATE
from sandbox.scenarios import played
from sandbox.scenarios.flux import FLUX, LOCAL, SCENARIOS, SOURCE, TENANT
from schemas.results import SourcesPivoted
from workers import flux
from workers.adapters.cluster import (
    DEPLOYMENT,
    GIT_REPOSITORY,
    HELM_CHART,
    HELM_RELEASE,
    HELM_REPOSITORY,
    IMAGE_CONFIG,
    PROVIDER,
    SECRET,
    Object,
    key_of,
)
from workers.declared import reconcile
from workers.steps import catalyst_api_env_patch as step7
from workers.steps import flux_gitrepository_patch as step5
from workers.steps.helmrepo_patches import logins

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def sovereign(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sovereign]:
    value, close = await in_one_task(lambda: prepared(tmp_path_factory.mktemp("pivot")))
    yield value
    await close()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What keeps failing is called failed after a moment."""
    monkeypatch.setattr(reconcile, "GRACE", 1.0)


Patch = pytest.MonkeyPatch


# --- step 5 ---------------------------------------------------------------------------------------------------


async def test_a_suspended_source_is_no_success_though_it_acknowledges_every_request(sovereign: Sovereign) -> None:
    await sovereign.before(FIVE)
    sovereign.writes.clear()
    assert await sovereign.verdict("suspended-source") == SCENARIOS["suspended-source"].verdict
    assert +sovereign.writes == Counter(), "told before anything was changed"


async def test_ready_of_before_is_not_ready_now(sovereign: Sovereign, monkeypatch: Patch) -> None:
    await sovereign.before(FIVE)
    name = "stale-ready"
    async with played(sovereign.box, SCENARIOS[name]):
        source = await sovereign.cluster.get(GIT_REPOSITORY, SOURCE, FLUX)
        assert source is not None
        assert (flux.condition(source, "Ready") or {})["status"] == "True"
        assert await sovereign.reason(FIVE, timeout=2.0) == SCENARIOS[name].verdict
        assert "NotHandledYet" in sovereign.why
        # Without the guard, Ready=True of the day before would do.
        monkeypatch.setattr(flux, "_judge", lambda obj, *_: flux.Verdict(flux.State.READY))
        assert await sovereign.reason(FIVE) == ""
        sovereign.results.pop(FIVE)


async def test_a_source_that_somebody_writes_back_is_told_with_the_name_of_who_did(sovereign: Sovereign) -> None:
    await sovereign.upstream_again()
    name = "stranger-reverts"
    assert await sovereign.verdict(name, timeout=10.0) == SCENARIOS[name].verdict
    assert "fleet-controller" in sovereign.why


async def test_every_branch_that_is_followed_is_followed_here_and_gets_a_commit_of_its_own(
    sovereign: Sovereign, monkeypatch: Patch
) -> None:
    await sovereign.before(FIVE)
    async with played(sovereign.box, SCENARIOS["tenant-branch"]):
        assert await sovereign.reason(FIVE) == "BranchNotMirrored"
        await sovereign.done(GIT)
        await sovereign.done(FIVE)
        tenants = await sovereign.cluster.get(GIT_REPOSITORY, "tenants", FLUX)
        assert tenants is not None
        assert tenants["spec"]["url"] == LOCAL
        assert flux.revision_of(tenants) == f"org-tenants@sha1:{await sovereign.head('org-tenants')}"
        main = await sovereign.head()
        await sovereign.done(SIX)
        charts = await sovereign.cluster.get(HELM_REPOSITORY, "acme-charts", TENANT)
        assert charts is not None
        assert charts["spec"]["url"] == "oci://harbor.sovereign.test/openova-io"
        assert "acme" in git(sovereign.gitea, "show", "--stat", "org-tenants")
        assert await sovereign.head() != main, "and the main branch has its own"


async def test_a_source_that_is_declared_in_its_own_repository_is_changed_there_in_the_same_commit(
    sovereign: Sovereign, monkeypatch: Patch
) -> None:
    await sovereign.upstream_again()
    async with played(sovereign.box, SCENARIOS["bootstrap-self-managed"]):
        await sovereign.done(GIT)
        await sovereign.done(FIVE)
        await sovereign.flux_runs_again()
        source = await sovereign.cluster.get(GIT_REPOSITORY, SOURCE, FLUX)
        assert source is not None
        assert source["spec"]["url"] == LOCAL
        assert source["spec"]["secretRef"] == {"name": "cutover-gitea-auth"}
        declared = git(sovereign.gitea, "show", f"main:{TEMPLATE}/flux-system/gotk-sync.yaml")
        assert declared.startswith("# This manifest was generated by flux."), "comments stay"
        assert "github.com" not in declared
        await sovereign.untouched(FIVE)
        # Patched live only, it would be taken back.
        await sovereign.upstream_again()
        monkeypatch.setattr(step5, "_declared", lambda *_: {})
        assert await sovereign.reason(FIVE, timeout=10.0) in ("SourceReverted", "GitRepositoryNotReady")


async def test_step_5_run_again_makes_no_commit_and_no_patch(sovereign: Sovereign) -> None:
    await sovereign.before(SIX)
    await sovereign.untouched(FIVE)
    source = await sovereign.cluster.get(GIT_REPOSITORY, SOURCE, FLUX)
    assert source is not None
    assert "!/clusters/sovereign.test" in source["spec"]["ignore"]


# --- step 6 ---------------------------------------------------------------------------------------------------


async def test_a_gateway_that_is_not_there_yet_is_found_before_anything_is_changed(
    sovereign: Sovereign, monkeypatch: Patch
) -> None:
    await sovereign.before(SIX)
    head = await sovereign.head()
    sovereign.writes.clear()
    name = "gateway-not-ready"
    assert await sovereign.verdict(name) == SCENARIOS[name].verdict
    assert +sovereign.writes == Counter()
    assert await sovereign.head() == head


async def test_a_chart_that_only_a_cache_still_has_is_found_by_fetching_it(sovereign: Sovereign) -> None:
    await sovereign.before(SIX)
    name = "chart-cache-hides-loss"
    chart = await sovereign.cluster.get(HELM_CHART, "flux-system-bp-tempo", FLUX)
    assert chart is not None
    assert (flux.condition(chart, "Ready") or {})["status"] == "True"
    assert await sovereign.verdict(name) == SCENARIOS[name].verdict
    assert "bp-tempo" in sovereign.why
    pull = await sovereign.cluster.get(SECRET, "ghcr-pull", FLUX)
    assert registries(pull) == ["ghcr.io", "harbor.openova.io"], "credentials go last"


async def test_a_login_upstream_that_somebody_puts_back_is_told_whenever_it_comes(
    sovereign: Sovereign, monkeypatch: Patch
) -> None:
    await sovereign.before(SIX)
    name = "pull-secret-restored"
    looked, look = 0, logins.stay_gone

    async def later(*asked: Any) -> None:
        """At once it is not there yet."""
        nonlocal looked
        looked += 1
        if looked > 1:
            await look(*asked)

    assert await sovereign.verdict(name) == SCENARIOS[name].verdict
    assert "flux-system/ghcr-pull" in sovereign.why
    monkeypatch.setattr(logins, "stay_gone", later)
    assert await sovereign.verdict(name) == SCENARIOS[name].verdict, "the last look sees it too"
    await sovereign.upstream_again()


async def test_credentials_stay_until_every_pinned_chart_was_pulled_without_them(sovereign: Sovereign) -> None:
    await sovereign.before(SIX)
    asleep = await sovereign.cluster.get(HELM_RELEASE, "bp-velero", FLUX)
    assert asleep is not None
    chart = {"spec": {**asleep["spec"]["chart"]["spec"], "version": "9.9.9"}}
    spec = {"interval": "1m", "suspend": True, "chart": chart}
    await sovereign.cluster.create(HELM_RELEASE, {"metadata": {"name": "asleep", "namespace": FLUX}, "spec": spec})
    try:
        assert await sovereign.reason(SIX) == "ChartMissing"
        assert "openova-io/bp-velero:9.9.9" in sovereign.why
        pull = await sovereign.cluster.get(SECRET, "ghcr-pull", FLUX)
        assert registries(pull) == ["ghcr.io", "harbor.openova.io"]
    finally:
        await sovereign.cluster.delete(HELM_RELEASE, "asleep", FLUX)


def registries(secret: Object | None) -> list[str]:
    assert secret is not None
    return sorted(json.loads(base64.b64decode(secret["data"][".dockerconfigjson"]))["auths"])


async def test_git_wins_static_repositories_are_not_waited_for_and_old_crossplane_gets_new_names(
    sovereign: Sovereign,
) -> None:
    await sovereign.upstream_again()
    await sovereign.before(SIX)
    history = {key_of(o): o["status"]["history"][0]["version"] for o in await sovereign.cluster.list(HELM_RELEASE)}
    digests = {key_of(o): o["status"]["artifact"]["digest"] for o in await sovereign.cluster.list(HELM_CHART)}
    old = await sovereign.uids(HELM_CHART)
    async with AsyncExitStack() as stack:
        for name in ("flux-revert", "oci-repository-has-no-status", "crossplane-old"):
            assert SCENARIOS[name].verdict == ""
            await stack.enter_async_context(played(sovereign.box, SCENARIOS[name]))
        theirs = {"metadata": {"name": "theirs", "namespace": TENANT}, "spec": {"url": "https://charts.loft.sh"}}
        await sovereign.cluster.create(HELM_REPOSITORY, theirs)
        done = await sovereign.run(SIX)
        await sovereign.cluster.delete(HELM_REPOSITORY, "theirs", TENANT)
        assert isinstance(done, SourcesPivoted)
        assert done.third_parties == (f"HelmRepository {TENANT}/theirs (charts.loft.sh)",)
        assert "cannot be fetched under the block" in done.summary
        static = await sovereign.cluster.get(HELM_REPOSITORY, "by-hand", TENANT)
        assert static is not None
        assert not static.get("status")
        assert static["spec"]["url"] == "oci://harbor.sovereign.test/openova-io"
        provider = await sovereign.cluster.get(PROVIDER, "provider-hcloud")
        assert provider is not None
        assert provider["spec"]["package"].startswith("harbor.sovereign.test/proxy-xpkg/")
        assert await sovereign.cluster.list(IMAGE_CONFIG) == []
        await sovereign.flux_runs_again()
        urls = {o["spec"]["url"] for o in await sovereign.cluster.list(HELM_REPOSITORY)}
        assert urls == {"oci://harbor.sovereign.test/openova-io"}
    assert done.charts_fetched == 38
    assert not old & await sovereign.uids(HELM_CHART)
    after = {key_of(o): o["status"]["history"][0]["version"] for o in await sovereign.cluster.list(HELM_RELEASE)}
    assert after == history, "no Helm upgrade"
    assert {key_of(o): o["status"]["artifact"]["digest"] for o in await sovereign.cluster.list(HELM_CHART)} == digests
    assert registries(await sovereign.cluster.get(SECRET, "ghcr-pull", FLUX)) == []


async def test_step_6_run_again_makes_no_commit_and_no_patch(sovereign: Sovereign) -> None:
    await sovereign.before(SEVEN)
    await sovereign.untouched(SIX)


async def test_where_harbor_wants_a_login_sources_get_the_robot_s_and_follow_when_it_is_rotated(
    sovereign: Sovereign,
) -> None:
    await sovereign.upstream_again()
    await sovereign.before(SIX)
    await public(sovereign.box, "openova-io", False)
    try:
        done = await sovereign.run(SIX)
        assert isinstance(done, SourcesPivoted)
        assert done.charts_fetched == 38, "with the robot's login and no other"
        assert await users(sovereign, "cutover-harbor-pull") == {"robot$cutover-pull"}
        before = await sovereign.cluster.get(SECRET, "cutover-harbor-pull", FLUX)
        await sovereign.untouched(SIX)

        await sovereign.rotate(["openova-io", "proxy-xpkg"])
        sovereign.writes.clear()
        again = await sovereign.run(SIX)
        pulls = [f"PATCH /api/v1/namespaces/{FLUX}/secrets/{name}" for name in ("cutover-harbor-pull", "ghcr-pull")]
        assert {line for line in +sovereign.writes if "/secrets/" in line} == set(pulls)
        after = await sovereign.cluster.get(SECRET, "cutover-harbor-pull", FLUX)
        assert before is not None
        assert after is not None
        assert before["data"] != after["data"]
        assert again.changes == len(pulls)
        await sovereign.untouched(SIX)
    finally:
        await public(sovereign.box, "openova-io", True)


async def public(box: Box, project: str, yes: bool) -> None:
    """What the project's owner clicks."""
    async with _harbor(box) as http:
        body = {"metadata": {"public": str(yes).lower()}}
        async with http.put(f"projects/{project}", json=body, headers={"X-Is-Resource-Name": "true"}) as answer:
            answer.raise_for_status()


async def users(sovereign: Sovereign, name: str) -> set[str]:
    secret = await sovereign.cluster.get(SECRET, name, FLUX)
    assert secret is not None
    return {
        auth["username"] for auth in json.loads(base64.b64decode(secret["data"][".dockerconfigjson"]))["auths"].values()
    }


# --- step 7 ---------------------------------------------------------------------------------------------------


async def test_a_value_that_helm_owns_is_changed_where_helm_reads_it(sovereign: Sovereign, monkeypatch: Patch) -> None:
    await sovereign.before(SEVEN)
    async with played(sovereign.box, SCENARIOS["helm-owned-env"]):
        # A live patch alone looks like success until Helm has run.
        with pytest.MonkeyPatch.context() as patch:

            async def nobody(*_: Any) -> None:
                return None

            patch.setattr(step7, "_release", nobody)
            assert await sovereign.reason(SEVEN) == ""
        assert await helm_runs(sovereign) == GITOPS_UPSTREAM
        done = await sovereign.done(SEVEN)
        assert await helm_runs(sovereign) == LOCAL
        assert "still names the mothership: spec.containers[catalyst-api].image" in done.summary
        await sovereign.untouched(SEVEN)


async def helm_runs(sovereign: Sovereign) -> str:
    """What the Deployment says once Helm has corrected what drifted."""
    wanted: dict[reconcile.Key, str | None] = {(FLUX, "bp-catalyst-platform"): None}
    await reconcile.brought(sovereign.cluster, HELM_RELEASE, wanted, 30, again=True)
    found = await sovereign.cluster.get(DEPLOYMENT, "catalyst-api", "catalyst-system")
    assert found is not None
    entry = step7.variable(found["spec"]["template"], sovereign.world.sovereign.catalyst_api)
    return str((entry or {})["value"])


# --- step 6, where Crossplane can be told by ImageConfig --------------------------------------------------------


async def test_new_crossplane_keeps_its_names_and_says_that_packages_came_from_here(sovereign: Sovereign) -> None:
    await sovereign.upstream_again()
    await sovereign.before(SIX)
    async with played(sovereign.box, SCENARIOS["crossplane-new"]):
        await sovereign.done(SIX)
        provider = await sovereign.cluster.get(PROVIDER, "provider-hcloud")
        assert provider is not None
        assert provider["spec"]["package"].startswith("xpkg.upbound.io/")
        assert provider["status"]["resolvedPackage"].startswith("harbor.sovereign.test/proxy-xpkg/")
        assert [c["spec"]["rewriteImage"] for c in await sovereign.cluster.list(IMAGE_CONFIG)] == [
            {"prefix": "harbor.sovereign.test/proxy-xpkg/"}
        ]
        await sovereign.untouched(SIX)
