"""What real Harbor does that bites (api-facts 3.2 and 3.4 of the design), done here too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from sandbox.clock import Clock
from sandbox.harbor import Harbor
from sandbox.images import Publisher
from sandbox.registry import Fault, Registry, Wrong
from sandbox.registry.store import OCI_INDEX, OCI_MANIFEST
from sandbox.serving import serving

PASSWORD = "Harbor12345"
ACCEPT = {"Accept": f"{OCI_INDEX}, {OCI_MANIFEST}"}
PROXY = "proxy-ghcr/a/b"


@dataclass
class Scene:
    """A Harbor with a proxy of ghcr.io, where one multi-platform image is."""

    clock: Clock
    ghcr: Registry
    harbor: Harbor
    http: httpx.AsyncClient
    index: str

    async def manifest(self, reference: str, repository: str = PROXY) -> httpx.Response:
        return await self.http.get(f"/v2/{repository}/manifests/{reference}", headers=ACCEPT)

    async def pull(self) -> None:
        """As a client does: index, children, blobs."""
        index = await self.manifest("1.0")
        for child in index.json()["manifests"]:
            manifest = (await self.manifest(child["digest"])).json()
            for part in [manifest["config"], *manifest["layers"]]:
                assert (await self.http.get(f"/v2/{PROXY}/blobs/{part['digest']}")).status_code == 200
        await self.harbor.settled()

    def cut(self) -> None:
        self.ghcr.faults.add(Fault(Wrong.RESET, times=None))


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        clock = Clock()
        ghcr = Registry.open(tmp_path / "ghcr", "ghcr.io", clock)
        index = Publisher(ghcr.store, "a/b").package("ghcr.io/a/b:1.0", "1.0")
        url = f"http://127.0.0.1:{await stack.enter_async_context(serving(ghcr.app))}"
        harbor = Harbor.open(tmp_path / "harbor", "harbor.test", clock, PASSWORD, lambda host: url)
        base = f"http://127.0.0.1:{await stack.enter_async_context(serving(harbor.app))}"
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=base, auth=("admin", PASSWORD)))
        registry = {"name": "ghcr", "url": "https://ghcr.io", "type": "github-ghcr"}
        await http.post("/api/v2.0/registries", json=registry)
        number = (await http.get("/api/v2.0/registries")).json()[0]["id"]
        body: dict[str, Any] = {"project_name": "proxy-ghcr", "registry_id": number}
        await http.post("/api/v2.0/projects", json={**body, "metadata": {"public": "true"}})
        await http.post("/api/v2.0/projects", json={"project_name": "mine", "metadata": {"public": "true"}})
        await http.post("/api/v2.0/projects", json={"project_name": "hidden"})
        yield Scene(clock, ghcr, harbor, http, index)


async def test_a_proxy_serves_the_original_index_and_stores_another(scene: Scene) -> None:
    served = await scene.manifest("1.0")
    assert served.headers["docker-content-digest"] == scene.index
    await scene.pull()
    kept = scene.harbor.store.tags(PROXY)["1.0"]
    assert kept != scene.index
    scene.cut()
    assert (await scene.manifest("1.0")).headers["docker-content-digest"] == kept
    assert (await scene.manifest(scene.index)).status_code == 404, "a pin by the index's digest is dead"


async def test_a_proxy_deletes_its_copy_when_the_upstream_says_404(scene: Scene) -> None:
    await scene.pull()
    assert scene.harbor.store.tags(PROXY)
    scene.ghcr.store.untag("a/b", "1.0")
    assert (await scene.manifest("1.0")).status_code == 404
    assert scene.harbor.store.tags(PROXY) == {}


async def test_a_proxy_serves_its_copy_when_the_upstream_is_silent_or_limits_us(scene: Scene) -> None:
    await scene.pull()
    scene.ghcr.faults.add(Fault(Wrong.STATUS, status=429, path="/manifests/"))
    assert (await scene.manifest("1.0")).status_code == 200
    scene.cut()
    assert (await scene.manifest("1.0")).status_code == 200


async def test_a_proxy_refuses_a_push(scene: Scene) -> None:
    answer = await scene.http.post(f"/v2/{PROXY}/blobs/uploads/")
    assert answer.status_code == 403
    assert "can not push artifact to a proxy project" in answer.text


async def test_what_nobody_pulled_for_a_week_is_deleted_from_a_proxy_and_not_from_a_hosted_project(
    scene: Scene,
) -> None:
    await scene.pull()
    Publisher(scene.harbor.store, "mine/chart").chart("chart", "1.0.0", b"archive")
    await scene.manifest("1.0.0", "mine/chart")
    scene.clock.skip(timedelta(days=6))
    assert (await scene.manifest("1.0")).status_code == 200
    scene.clock.skip(timedelta(days=9))
    scene.cut()
    assert (await scene.manifest("1.0")).status_code == 404
    assert (await scene.manifest("1.0.0", "mine/chart")).status_code == 200


async def test_a_read_without_authorization_is_401_even_in_a_public_project(scene: Scene) -> None:
    Publisher(scene.harbor.store, "mine/chart").chart("chart", "1.0.0", b"archive")
    async with httpx.AsyncClient(base_url=scene.http.base_url) as anybody:
        path = "/v2/mine/chart/manifests/1.0.0"
        answer = await anybody.get(path, headers=ACCEPT)
        assert answer.status_code == 401
        challenge = answer.headers["www-authenticate"]
        assert 'service="harbor-registry"' in challenge
        assert 'scope="repository:mine/chart:pull"' in challenge
        realm = challenge.partition('realm="')[2].partition('"')[0]
        token = (await anybody.get(realm, params={"scope": "repository:mine/chart:pull"})).json()["token"]
        signed = {**ACCEPT, "Authorization": f"Bearer {token}"}
        assert (await anybody.get(path, headers=signed)).status_code == 200
        hidden = (await anybody.get(realm, params={"scope": "repository:hidden/x:pull"})).json()["token"]
        refused = await anybody.get("/v2/hidden/x/manifests/1", headers={"Authorization": f"Bearer {hidden}"})
        assert refused.status_code == 401


async def test_a_wrong_login_is_401_even_in_a_public_project(scene: Scene) -> None:
    async with httpx.AsyncClient(base_url=scene.http.base_url, auth=("x-access-token", "ghcr")) as other:
        answer = await other.get("/v2/mine/chart/manifests/1.0.0", headers=ACCEPT)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Basic realm="harbor"')
        assert (await other.get("/service/token")).status_code == 401


async def test_an_unknown_project_is_401_that_says_so(scene: Scene) -> None:
    answer = await scene.http.get("/v2/no-such/x/manifests/1", headers=ACCEPT)
    assert answer.status_code == 401
    assert "project no-such not found" in answer.text
    assert (await scene.http.post("/v2/no-such/x/blobs/uploads/")).status_code == 401


async def test_robots_pull_where_they_may_and_push_nowhere_else(scene: Scene) -> None:
    access = [{"resource": "repository", "action": "pull"}]
    permissions = [{"kind": "project", "namespace": "hidden", "access": access}]
    body = {"name": "n", "level": "project", "duration": 30, "permissions": permissions}
    robot = (await scene.http.post("/api/v2.0/robots", json=body)).json()
    Publisher(scene.harbor.store, "hidden/chart").chart("chart", "1.0.0", b"archive")
    login = (robot["name"], robot["secret"])
    async with httpx.AsyncClient(base_url=scene.http.base_url, auth=login) as http:
        assert (await http.get("/v2/hidden/chart/manifests/1.0.0", headers=ACCEPT)).status_code == 200
        assert (await http.post("/v2/hidden/chart/blobs/uploads/")).status_code == 401
