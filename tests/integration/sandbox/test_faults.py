from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest
import pytest_asyncio

from events.flow import SLUGS
from sandbox import charts
from sandbox.box import Box
from sandbox.controllers.api import GIT_REPOSITORIES, HELM_REPOSITORIES, KUSTOMIZATIONS
from sandbox.controllers.conditions import REQUESTED_AT
from sandbox.description import HARBOR_USER
from sandbox.faults import BROKEN_NODE, CATALYST, DENIED_IMAGE, FAULTS, PINNED, PROXY_PROJECT

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def box(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Box]:
    async with Box.open(tmp_path_factory.mktemp("sovereign")) as opened:
        yield opened


async def status(url: str) -> int:
    async with httpx.AsyncClient() as http:
        return (await http.get(url)).status_code


async def git_denies(box: Box) -> bool:
    wire = f"http://127.0.0.1:{box.network.hosts['github.com'].port}/openova-io/openova"
    return await status(f"{wire}/info/refs?service=git-upload-pack") == 401


async def project_is_a_proxy(box: Box) -> bool:
    login = (HARBOR_USER, box.keyring.get("harbor-admin"))
    async with httpx.AsyncClient(base_url=box.harbor_url, auth=login) as http:
        found = (await http.get("/api/v2.0/projects", params={"name": PROXY_PROJECT})).json() or []
    return any(p.get("registry_id") for p in found)


async def image_is_denied(box: Box) -> bool:
    wire = f"http://127.0.0.1:{box.network.hosts['docker.io'].port}"
    return await status(f"{wire}/v2/{DENIED_IMAGE}/manifests/16.6") == 403


async def node_cannot_be_written(box: Box) -> bool:
    return (box.node(BROKEN_NODE).containerd.k3s / "registries.yaml").is_dir()


async def source_is_suspended(box: Box) -> bool:
    source = await box.api.get(GIT_REPOSITORIES, "openova", "flux-system")
    return source is not None and source["spec"].get("suspend") is True


async def git_does_not_win(box: Box) -> bool:
    """Whether a live patch outlives a whole reconcile; what was patched is put back."""
    found = await box.api.get(HELM_REPOSITORIES, PINNED, "flux-system")
    assert found is not None
    was = found["spec"]["url"]
    await box.api.merge(HELM_REPOSITORIES, found, {"spec": {"url": "oci://elsewhere.test/x"}}, "test")
    await reconciled(box)
    after = await box.api.get(HELM_REPOSITORIES, PINNED, "flux-system")
    assert after is not None
    await box.api.merge(HELM_REPOSITORIES, after, {"spec": {"url": was}}, "test")
    return bool(after["spec"]["url"] != was)


async def reconciled(box: Box) -> None:
    """Flux has applied the bootstrap-kit once more since now."""
    kit = await box.api.get(KUSTOMIZATIONS, "bootstrap-kit", "flux-system")
    assert kit is not None
    token = secrets.token_hex(4)
    await box.api.merge(KUSTOMIZATIONS, kit, {"metadata": {"annotations": {REQUESTED_AT: token}}}, "test")
    async with asyncio.timeout(60):
        while (kit or {}).get("status", {}).get("lastHandledReconcileAt") != token:
            await asyncio.sleep(0.05)
            kit = await box.api.get(KUSTOMIZATIONS, "bootstrap-kit", "flux-system")


async def chart_is_deaf(box: Box) -> bool:
    stored = box.registries["ghcr.io"].store.manifest(f"openova-io/{CATALYST.name}", CATALYST.version)
    assert stored is not None
    path = box.registries["ghcr.io"].store.blob_path(stored.document["layers"][0]["digest"])
    bundle = charts.unpack(path.read_bytes())
    objects = charts.render(bundle, {"catalystApi": {"gitopsRepoUrl": "http://here"}}, "r", "n")
    return "http://here" not in str(objects)


async def policies_are_ignored(box: Box) -> bool:
    return box.enforcer.audit


SHOWS: dict[str, Callable[[Box], Awaitable[bool]]] = {
    "gitea-mirror": git_denies,
    "harbor-projects": project_is_a_proxy,
    "harbor-prewarm": image_is_denied,
    "registry-pivot": node_cannot_be_written,
    "flux-gitrepository-patch": source_is_suspended,
    "helmrepo-patches": git_does_not_win,
    "catalyst-api-env-patch": chart_is_deaf,
    "egress-block-test": policies_are_ignored,
}


async def becomes(look: Callable[[Box], Awaitable[bool]], box: Box, wanted: bool) -> bool:
    """Whether it is so within a minute: policies take effect a moment after they are written."""
    deadline = time.monotonic() + 60
    while await look(box) is not wanted:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.05)
    return True


async def test_every_step_has_a_failure_of_its_own() -> None:
    assert tuple(FAULTS) == tuple(SHOWS) == tuple(SLUGS)


@pytest.mark.parametrize("step", SLUGS)
async def test_a_failure_is_real_while_it_is_staged_and_gone_when_it_is_healed(box: Box, step: str) -> None:
    look = SHOWS[step]
    assert not await look(box)
    assert await box.fail(step)
    assert await becomes(look, box, True)
    await box.heal()
    assert await becomes(look, box, False)
    await box.heal()


async def test_only_one_failure_is_staged_at_a_time(box: Box) -> None:
    await box.fail("gitea-mirror")
    await box.fail("egress-block-test")
    assert not await git_denies(box)
    await box.heal()


async def test_a_step_that_does_not_exist_cannot_be_made_to_fail(box: Box) -> None:
    with pytest.raises(LookupError, match="gitea-mirror"):
        await box.fail("gitea-miror")
