"""Days later: what a proxy project has forgotten, what a hosted one has kept, and what the audit says of both."""

from __future__ import annotations

from datetime import timedelta

import pytest

from sandbox.registry import Fault, Wrong
from schemas.results import Prewarmed
from tests.integration.registry.stage import Stage, as_proxy, pod, prewarmed
from workers.audit.finding import Finding, Severity
from workers.audit.kept import forgotten
from workers.sovereign import Mode


@pytest.mark.parametrize("mode", [Mode.HOSTED, Mode.PROXY])
async def test_a_week_without_pulls_empties_a_proxy_with_its_retention_and_nothing_of_ours(
    stage: Stage, mode: Mode
) -> None:
    if mode is Mode.PROXY:
        as_proxy(stage, "xpkg.upbound.io")
    await stage.projects()
    await prewarmed(stage)
    stage.site.clock.skip(timedelta(days=9))
    async with stage.api() as api:
        path = "/projects/proxy-xpkg/repositories/crossplane-contrib%252Fprovider-hcloud/artifacts"
        assert (await api.get(path)).json(), "step 2 took the retention away"


def with_retention(stage: Stage, project: str) -> None:
    """Somebody puts Harbor's own policy for proxy projects back."""
    core = stage.site.harbor._core
    core._retain(core.state.projects[project])


async def audited(stage: Stage, copied: Prewarmed) -> list[Finding]:
    async with stage.world() as world:
        return await forgotten(world, copied)


async def test_seven_days_later_a_proxy_has_forgotten_and_the_audit_says_what_and_why(stage: Stage) -> None:
    as_proxy(stage, "xpkg.upbound.io")
    await stage.projects()
    copied = await prewarmed(stage)
    assert await audited(stage, copied) == []
    with_retention(stage, "proxy-xpkg")
    stage.site.clock.skip(timedelta(days=8))
    async with stage.api() as api:
        await api.get("/projects/proxy-xpkg/repositories/crossplane-contrib%252Fprovider-hcloud/artifacts")
    found = {f.name: f for f in await audited(stage, copied)}
    local = "proxy-xpkg/crossplane-contrib/provider-hcloud:v0.4.0"
    assert set(found) == {local, "proxy-xpkg"}
    assert found[local].severity is Severity.EXTERNAL
    assert found[local].owner == "live: Provider p"
    assert "retention policy" in found["proxy-xpkg"].field
    assert stage.site.harbor.store.tags("proxy-xpkg/crossplane-contrib/provider-hcloud") == {}
    # Asking again mends it: the retention goes, and what was forgotten is pulled through once more.
    await stage.projects()
    assert await audited(stage, await prewarmed(stage)) == []


async def test_seven_days_later_hosted_projects_hold_everything(stage: Stage) -> None:
    await stage.projects()
    result = await stage.prewarm()
    stage.site.clock.skip(timedelta(days=8))
    async with stage.api() as api:
        await api.get("/projects/proxy-xpkg/repositories/crossplane-contrib%252Fprovider-hcloud/artifacts")
    assert await audited(stage, result) == []
    again = await stage.prewarm()
    assert (again.changes, again.references) == (0, result.references)


async def test_a_harbor_that_cannot_be_asked_is_one_finding_and_no_pass(stage: Stage) -> None:
    await stage.projects()
    copied = await stage.prewarm()
    stage.site.harbor.faults.add(Fault(Wrong.STATUS, path="/artifacts/", status=502, times=None))
    [found] = await audited(stage, copied)
    assert found.severity is Severity.UNREADABLE


async def test_a_log_that_does_not_say_where_copies_are_is_no_pass(stage: Stage) -> None:
    await stage.projects()
    copied = await stage.prewarm()
    [found] = await audited(stage, copied.model_copy(update={"places": {}}))
    assert found.severity is Severity.UNREADABLE


async def test_what_is_pinned_is_looked_for_by_its_digest(stage: Stage) -> None:
    digest = stage.site.upstream["docker.io"].store.tags("library/nats")["2.10.22-alpine"]
    stage.cluster.objects.append(pod("pinned", f"nats@{digest}"))
    await stage.projects()
    copied = await stage.prewarm()
    assert copied.places[f"nats@{digest}"] == f"proxy-docker/library/nats@{digest}"
    stage.site.harbor.store.untag("proxy-docker/library/nats", "2.10.22-alpine")
    assert [f.name for f in await audited(stage, copied)] == ["proxy-docker/library/nats:2.10.22-alpine"]
    stage.site.harbor.store.delete_manifest("proxy-docker/library/nats", digest)
    assert len(await audited(stage, copied)) == 2
