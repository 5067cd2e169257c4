"""Step 2 against the sandbox's Harbor: projects, robot, proxies; each wrong thing is an error that names it."""

from __future__ import annotations

import base64
import json

import httpx
import pytest

from sandbox.registry import Fault, Wrong
from tests.integration.registry.stage import Stage, as_proxy, may_pull, pod, robot_login, source
from workers import robot
from workers.errors import Stuck, Wait
from workers.sovereign import Mode


async def test_every_project_is_made_public_and_hosted_with_those_that_references_name(stage: Stage) -> None:
    result = await stage.projects()
    wanted = {u.project for u in stage.sovereign.upstreams} | {"openova-io", "proxy-dockerhub"}
    assert set(result.projects) == set(result.created) == wanted
    async with stage.api() as api:
        have = {p["name"]: p for p in (await api.get("/projects", params={"page_size": 100})).json()}
    assert wanted <= set(have)
    assert all(have[n]["metadata"]["public"] == "true" and "registry_id" not in have[n] for n in wanted)


async def test_projects_that_are_there_are_nothing_to_do(stage: Stage) -> None:
    await stage.projects()
    again = await stage.projects()
    assert (again.changes, again.created) == (0, ())
    assert "nothing to do" in again.summary


async def test_a_private_project_is_an_error_that_names_it_and_what_is_wanted(stage: Stage) -> None:
    async with stage.api() as api:
        await api.post("/projects", json={"project_name": "proxy-ghcr", "metadata": {"public": "false"}})
    with pytest.raises(Stuck, match="proxy-ghcr: it is private; wanted is proxy-ghcr: hosted, public"):
        await stage.projects()


async def test_a_proxy_where_a_hosted_project_shall_be_is_an_error_and_nothing_is_made(stage: Stage) -> None:
    async with stage.api() as api:
        body = {"name": "x", "url": "https://ghcr.io", "type": "github-ghcr"}
        made = await api.post("/registries", json=body)
        number = int(made.headers["location"].rpartition("/")[2])
        body = {"project_name": "proxy-ghcr", "registry_id": number, "metadata": {"public": "true"}}
        assert (await api.post("/projects", json=body)).status_code == 201
        with pytest.raises(Stuck, match=f"WrongProject.*it is a proxy of registry {number}"):
            await stage.projects()
        assert (await api.get("/projects/openova-io")).status_code == 404


async def test_a_robot_may_pull_and_not_push_and_its_secret_is_new_each_time(stage: Stage) -> None:
    result = await stage.projects()
    first = robot_login(stage)
    assert first[0] == "robot$cutover-pull"
    assert first[1] not in result.model_dump_json()
    assert await may_pull(stage, first) == 200
    async with httpx.AsyncClient(base_url=stage.site.harbor_url, auth=first) as http:
        assert (await http.post("/v2/openova-io/x/blobs/uploads/")).status_code == 401
    again = await stage.projects()
    second = robot_login(stage)
    assert again.changes == 0
    assert "its secret new" in again.summary
    assert (await may_pull(stage, second), await may_pull(stage, first)) == (200, 401)


def copied(stage: Stage, namespace: str, **entry: str) -> None:
    """A pull secret of Pods, as step 4 leaves it."""
    data = base64.b64encode(json.dumps({"auths": {"ghcr.io": entry}}).encode()).decode()
    metadata = {"name": "regcred", "namespace": namespace}
    stage.cluster.applied["Secret", "regcred"] = {"metadata": metadata, "data": {".dockerconfigjson": data}}


async def test_while_somebody_pulls_with_a_copy_the_robots_secret_stays_as_long_as_harbor_takes_it(
    stage: Stage,
) -> None:
    await stage.projects()
    first = robot_login(stage)
    copied(stage, "team-a", auth=base64.b64encode(":".join(first).encode()).decode())
    stage.cluster.objects.append(pod("x", "harbor.openova.io/another/thing:1"))
    again = await stage.projects()
    assert (robot_login(stage), await may_pull(stage, first)) == (first, 200)
    assert "its secret as before, for team-a/regcred pull with it" in again.summary
    async with stage.api() as api:
        [robot] = (await api.get("/robots")).json()
        assert "another" in {p["namespace"] for p in robot["permissions"]}, "what it may is put right all the same"
        await api.patch(f"/robots/{robot['id']}", json={})
    assert "its secret new" in (await stage.projects()).summary, "the copy is refused as it is"
    assert (await may_pull(stage, robot_login(stage)), await may_pull(stage, first)) == (200, 401)
    stale = robot_login(stage)
    assert "its secret new" in (await stage.projects()).summary, "a copy of an older login is none"
    copied(stage, "team-a", username=robot_login(stage)[0], password=robot_login(stage)[1])
    async with stage.api() as api:
        await api.delete(f"/robots/{robot['id']}")
    assert ", made" in (await stage.projects()).summary
    assert (await may_pull(stage, robot_login(stage)), await may_pull(stage, stale)) == (200, 401)


async def test_a_copy_where_no_secret_may_be_read_is_known_by_the_source_that_names_it(stage: Stage) -> None:
    stage.sovereign = stage.sovereign.model_copy(update={"secret_namespaces": ("flux-system",)})
    await stage.projects()
    first = robot_login(stage)
    theirs = source("oci://harbor.sovereign.test/openova-io") | {"metadata": {"name": "bp", "namespace": "team-a"}}
    theirs["spec"]["secretRef"] = {"name": stage.sovereign.flux.registry_secret}
    stage.cluster.objects.append(theirs)
    assert "for team-a/cutover-harbor-pull pull with it" in (await stage.projects()).summary
    assert robot_login(stage) == first
    del stage.cluster.applied["Secret", "cutover-harbor-robot"]
    assert "its secret new" in (await stage.projects()).summary, "as the runbook says"


async def test_whoever_keeps_a_copy_of_the_robots_login_reads_it_in_one_place(stage: Stage) -> None:
    async with stage.world() as world:
        with pytest.raises(Wait, match="RobotAbsent"):
            await robot.auths(world)
        await stage.projects()
        [(host, login)] = (await robot.auths(world)).items()
        assert (host, login["username"], login["password"]) == (stage.sovereign.harbor.host, *robot_login(stage))
        stage.cluster.applied["Secret", "cutover-harbor-robot"]["data"] = {".dockerconfigjson": "bm8="}
        with pytest.raises(Stuck, match="RobotUnreadable"):
            await robot.auths(world)


async def test_a_robot_learns_of_new_projects(stage: Stage) -> None:
    await stage.projects()
    stage.cluster.objects.append(pod("x", "harbor.openova.io/another/thing:1"))
    await stage.projects()
    async with stage.api() as api:
        robots = (await api.get("/robots")).json()
    assert len(robots) == 1
    assert "another" in {p["namespace"] for p in robots[0]["permissions"]}


async def test_a_project_without_room_is_said_before_anything_is_moved(stage: Stage) -> None:
    await stage.projects()
    stage.site.harbor._core.state.projects["openova-io"].storage_limit = 1
    with pytest.raises(Stuck, match=r"HarborFull.*openova-io \(\d+ of 1 bytes\)"):
        await stage.projects()
    with pytest.raises(Stuck, match=r"HarborFull: openova-io has room for 0 bytes and \d+ are to come"):
        await stage.prewarm()
    assert not stage.site.harbor.store.exists("proxy-docker/library/nats")


async def test_a_harbor_that_redirects_readers_is_seen_before_anything_is_moved(stage: Stage) -> None:
    await stage.projects()
    storage = "http://seaweedfs-s3.seaweedfs.svc.cluster.local:8333/harbor/blob"
    fault = Fault(Wrong.STATUS, path="/blobs/sha256", status=307, location=storage, times=None)
    stage.site.harbor.faults.add(fault)
    with pytest.raises(Stuck, match=r"HarborRedirects.*disableRedirect: true"):
        await stage.projects()


async def test_a_token_realm_that_only_pods_resolve_is_seen_before_anything_is_moved(stage: Stage) -> None:
    stage.site.harbor._core.realm_host = "harbor-core.harbor.svc.cluster.local"
    with pytest.raises(
        Stuck, match=r"TokenRealm.*harbor-core\.harbor\.svc.*externalURL to http://harbor\.sovereign\.test"
    ):
        await stage.projects()


async def test_a_token_service_that_does_not_answer_is_waited_for(stage: Stage) -> None:
    stage.site.harbor.faults.add(Fault(Wrong.STATUS, path="/service/token", status=502, times=None))
    with pytest.raises(Wait, match=r"DestinationNotReady.*token service answers with 502"):
        await stage.projects()


async def test_a_proxy_project_loses_its_retention_and_its_hazards_are_said(stage: Stage) -> None:
    as_proxy(stage, "ghcr.io")
    await stage.projects()
    async with stage.api() as api:
        project = (await api.get("/projects/proxy-ghcr")).json()
        registry = (await api.get(f"/registries/{project['registry_id']}")).json()
    assert (registry["type"], registry["url"]) == ("github-ghcr", "https://ghcr.io")
    assert "retention_id" not in project["metadata"]
    assert any("deletes its copy" in p.message for p in stage.progress)
    assert (await stage.projects()).changes == 0


async def test_harbor_takes_every_default_upstream_as_a_proxy_and_keeps_no_retention(stage: Stage) -> None:
    for host in ("registry.k8s.io", "gcr.io", "public.ecr.aws"):
        await stage.site.add_upstream(host)
    stage.sovereign = stage.site.sovereign(lambda u: u.model_copy(update={"mode": Mode.PROXY}))
    result = await stage.projects()
    async with stage.api() as api:
        have = {p["name"]: p for p in (await api.get("/projects", params={"page_size": 100})).json()}
    proxies = {u.project for u in stage.sovereign.upstreams}
    assert proxies <= set(result.created)
    assert all(have[name].get("registry_id") and "retention_id" not in have[name]["metadata"] for name in proxies)


async def test_a_retention_that_stays_though_it_was_deleted_is_no_success(stage: Stage) -> None:
    as_proxy(stage, "ghcr.io")
    stage.site.harbor.faults.add(Fault(Wrong.STATUS, path="/retentions/", methods=("DELETE",), status=404, times=None))
    with pytest.raises(Wait, match=r"RetentionRemains: proxy-ghcr: retention \d+ is still there"):
        await stage.projects()


async def test_a_hosted_project_where_a_proxy_shall_be_is_an_error(stage: Stage) -> None:
    await stage.projects()
    as_proxy(stage, "quay.io")
    with pytest.raises(Stuck, match=r"WrongProject.*it is hosted; wanted is proxy-quay: a proxy of quay\.io"):
        await stage.projects()


async def test_a_registry_of_our_name_that_leads_elsewhere_is_an_error_that_names_both(stage: Stage) -> None:
    as_proxy(stage, "quay.io")
    async with stage.api() as api:
        body = {"name": "proxy-quay-upstream", "url": "https://ghcr.io", "type": "docker-registry"}
        await api.post("/registries", json=body)
    with pytest.raises(Stuck, match=r"WrongRegistry.*https://ghcr\.io, wanted is docker-registry https://quay\.io"):
        await stage.projects()


async def test_a_proxy_of_another_registry_than_ours_is_an_error_that_names_both(stage: Stage) -> None:
    as_proxy(stage, "quay.io")
    async with stage.api() as api:
        made = await api.post("/registries", json={"name": "x", "url": "https://ghcr.io", "type": "docker-registry"})
        number = int(made.headers["location"].rpartition("/")[2])
        body = {"project_name": "proxy-quay", "registry_id": number, "metadata": {"public": "true"}}
        await api.post("/projects", json=body)
    with pytest.raises(Stuck, match=rf"WrongProject.*it is a proxy of registry {number}, not \d+"):
        await stage.projects()


async def test_a_proxy_of_an_upstream_that_does_not_answer_is_an_error(stage: Stage) -> None:
    stage.site.urls["registry.k8s.io"] = "http://127.0.0.1:9"
    as_proxy(stage, "registry.k8s.io")
    with pytest.raises(Stuck, match=r"HarborRefused.*the registry is unhealthy"):
        await stage.projects()


async def test_a_login_that_harbor_does_not_know_is_seen_before_anything_is_made(stage: Stage) -> None:
    stage.sovereign.harbor.login.password_file.write_text("wrong")
    with pytest.raises(Stuck, match="HarborDenied"):
        await stage.projects()
    assert stage.site.harbor.faults.count(path="/projects") == 0


async def test_a_harbor_that_is_away_is_waited_for(stage: Stage) -> None:
    stage.site.harbor.faults.add(Fault(Wrong.STATUS, path="/api/", status=502))
    with pytest.raises(Wait, match="HarborUnavailable"):
        await stage.projects()
