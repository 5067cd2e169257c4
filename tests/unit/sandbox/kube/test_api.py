"""The API without a wire: history, watches, persistence, the collector, grants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from typing import Any

import pytest

from sandbox.clock import Clock
from sandbox.kube import LocalClient
from sandbox.kube.access import ISSUER, Ask, Tokens, allowed, named
from sandbox.kube.api import Api
from sandbox.kube.collector import Collector
from sandbox.kube.errors import ApiError
from sandbox.kube.store import Store

MAPS = "/api/v1/namespaces/home/configmaps"
MERGE = "application/merge-patch+json"


def api(store: Store | None = None) -> Api:
    kept = store or Store()
    return Api(kept, Clock(), Tokens(kept, "signing", "admin"))


@pytest.fixture
async def made() -> AsyncIterator[Api]:
    """An API with a namespace and a collector at work."""
    made = api()
    collector = asyncio.create_task(Collector(made.verbs, made.store, made.catalogue).run())
    await post(made, "/api/v1/namespaces", "home")
    yield made
    assert not collector.done(), collector.exception()
    collector.cancel()


async def post(made: Api, path: str, name: str, **more: Any) -> Any:
    metadata = {"name": name, **more.pop("metadata", {})}
    code, body = await LocalClient(made).request("POST", path, {"metadata": metadata, **more})
    assert code == 201, body
    return body


async def status(made: Api, path: str) -> int:
    for _ in range(20):
        await asyncio.sleep(0)
    return (await LocalClient(made).request("GET", path))[0]


async def test_what_a_caller_does_to_an_answer_does_not_reach_the_store(made: Api) -> None:
    given = {"metadata": {"name": "a"}, "data": {"k": "1"}}
    local = LocalClient(made)
    _, body = await local.request("POST", MAPS, given)
    given["data"]["k"] = body["data"]["k"] = "2"
    assert (await local.request("GET", f"{MAPS}/a"))[1]["data"] == {"k": "1"}


async def test_a_watch_from_before_compaction_is_told_that_it_is_gone(made: Api) -> None:
    first = await post(made, MAPS, "a")
    await post(made, MAPS, "b")
    made.store.compact()
    version = first["metadata"]["resourceVersion"]
    async with aclosing(LocalClient(made).watch(MAPS, {"resourceVersion": version, "timeoutSeconds": "1"})) as events:
        kind, gone = await anext(events)
    assert (kind, gone["code"], gone["reason"]) == ("ERROR", 410, "Expired")


async def test_a_watch_from_the_newest_version_stands_after_compaction(made: Api) -> None:
    made.store.compact()
    newest = {"resourceVersion": str(made.store.revision), "timeoutSeconds": "5"}
    async with aclosing(LocalClient(made).watch(MAPS, newest)) as events:
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        await post(made, MAPS, "a")
        assert (await waiting)[0] == "ADDED"


def test_history_is_bounded() -> None:
    store = Store(history=2)
    for at in range(4):
        store.put(("", "x"), "", str(at), {"metadata": {"name": str(at), "uid": str(at)}})
    assert store.since(("", "x"), 2) is None
    kept = store.since(("", "x"), 3)
    assert kept is not None
    assert [change.revision for change in kept] == [4, 5]


async def test_a_watch_of_what_is_not_served_is_refused(made: Api) -> None:
    with pytest.raises(ApiError):
        await anext(LocalClient(made).watch("/apis/nobody.example/v1/widgets"))


async def test_a_store_that_is_loaded_again_is_the_same(made: Api) -> None:
    await post(made, MAPS, "a", data={"k": "v"})
    again = Store()
    again.load(made.store.dump())
    assert again.revision == made.store.revision
    assert sorted(place for place, _ in again.everything()) == sorted(place for place, _ in made.store.everything())
    assert again.get(("", "configmaps"), "home", "a") == made.store.get(("", "configmaps"), "home", "a")
    assert again.since(("", "configmaps"), again.revision) == []
    assert again.since(("", "configmaps"), again.revision - 1) is None


async def test_a_namespace_goes_with_all_that_is_in_it(made: Api) -> None:
    await post(made, MAPS, "a")
    await post(made, MAPS, "held", metadata={"finalizers": ["x.example/f"]})
    local = LocalClient(made)
    _, marked = await local.request("DELETE", "/api/v1/namespaces/home")
    assert marked["status"]["phase"] == "Terminating"
    assert await status(made, f"{MAPS}/a") == 404
    code, refused = await local.request("POST", MAPS, {"metadata": {"name": "late"}})
    assert (code, refused["reason"]) == (403, "Forbidden")
    assert await status(made, "/api/v1/namespaces/home") == 200
    await local.request("PATCH", f"{MAPS}/held", {"metadata": {"finalizers": None}}, content_type=MERGE)
    assert await status(made, "/api/v1/namespaces/home") == 404


async def test_an_object_whose_owner_never_was_is_collected(made: Api) -> None:
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "nobody", "uid": "nobody"}
    await post(made, MAPS, "a", metadata={"ownerReferences": [owner]})
    assert await status(made, f"{MAPS}/a") == 404


async def test_an_object_with_one_owner_left_stays(made: Api) -> None:
    one, other = await post(made, MAPS, "one"), await post(made, MAPS, "other")
    owners = [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": o["metadata"]["name"], "uid": o["metadata"]["uid"]}
        for o in (one, other)
    ]
    await post(made, MAPS, "owned", metadata={"ownerReferences": owners})
    await LocalClient(made).request("DELETE", f"{MAPS}/one")
    assert await status(made, f"{MAPS}/owned") == 200
    _, left = await LocalClient(made).request("GET", f"{MAPS}/owned")
    assert [owner["name"] for owner in left["metadata"]["ownerReferences"]] == ["other"]


async def test_orphans_stay_without_their_owner(made: Api) -> None:
    owner = (await post(made, MAPS, "owner"))["metadata"]
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["uid"]}
    await post(made, MAPS, "owned", metadata={"ownerReferences": [reference]})
    await LocalClient(made).request("DELETE", f"{MAPS}/owner", {"propagationPolicy": "Orphan"})
    assert await status(made, f"{MAPS}/owner") == 404
    _, left = await LocalClient(made).request("GET", f"{MAPS}/owned")
    assert "ownerReferences" not in left["metadata"]


async def test_a_definition_is_served_as_long_as_it_is_there(made: Api) -> None:
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    spec = {
        "group": "x.example",
        "scope": "Cluster",
        "names": {"kind": "Widget", "plural": "widgets"},
        "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {
            "type": "object", "properties": {"spec": {"type": "object", "properties": {"n": {"type": "integer"}}}}}}}],
    }  # fmt: skip
    assert await status(made, "/apis/x.example/v1/widgets") == 404
    await post(made, path, "widgets.x.example", spec=spec)
    _, definition = await LocalClient(made).request("GET", f"{path}/widgets.x.example")
    assert {c["type"]: c["status"] for c in definition["status"]["conditions"]}["Established"] == "True"
    await post(made, "/apis/x.example/v1/widgets", "w", spec={"n": 1})
    code, _ = await LocalClient(made).request(
        "POST", "/apis/x.example/v1/widgets", {"metadata": {"name": "b"}, "spec": {"n": "x"}}
    )
    assert code == 422
    await LocalClient(made).request("DELETE", f"{path}/widgets.x.example")
    assert await status(made, "/apis/x.example/v1/widgets") == 404


async def test_scale_sets_the_replicas_of_a_deployment(made: Api) -> None:
    labels = {"matchLabels": {"a": "b"}}
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    path = "/apis/apps/v1/namespaces/home/deployments"
    await post(made, path, "d", spec={"selector": labels, "template": template})
    local = LocalClient(made)
    code, scaled = await local.request("PATCH", f"{path}/d/scale", {"spec": {"replicas": 3}}, content_type=MERGE)
    assert (code, scaled["kind"], scaled["spec"]["replicas"]) == (200, "Scale", 3)
    assert (await local.request("GET", f"{path}/d"))[1]["spec"]["replicas"] == 3


async def test_a_value_of_the_wrong_type_is_refused(made: Api) -> None:
    code, answer = await LocalClient(made).request("POST", MAPS, {"metadata": {"name": "a"}, "data": {"k": 1}})
    assert (code, answer["reason"]) == (400, "BadRequest")


async def test_a_token_ends_with_its_time_and_its_account(made: Api) -> None:
    account = await post(made, "/api/v1/namespaces/home/serviceaccounts", "runner")
    uid, now = account["metadata"]["uid"], made.clock.now()
    token = made.tokens.issue("home", "runner", uid, [ISSUER], 600, now)
    assert made.tokens.user(token, now) is not None
    assert made.tokens.user(token, now + timedelta(seconds=601)) is None
    assert made.tokens.user(token, now, "elsewhere") is None
    assert made.tokens.user(token[:-2] + "xx", now) is None
    await LocalClient(made).request("DELETE", "/api/v1/namespaces/home/serviceaccounts/runner")
    assert made.tokens.user(token, now) is None


@pytest.mark.parametrize(
    ("ask", "may"),
    [
        (Ask("get", "", "configmaps", "", "home", "a"), True),
        (Ask("get", "", "configmaps", "", "home", "b"), False),
        (Ask("get", "", "configmaps", "", "other", "a"), False),
        (Ask("list", "", "configmaps", "", "home"), False),
        (Ask("patch", "apps", "deployments", "status", "home", "x"), True),
        (Ask("patch", "apps", "deployments", "", "home", "x"), False),
        (Ask("get", path="/version"), True),
        (Ask("get", path="/metrics"), False),
    ],
)
async def test_grants_are_read_from_roles_and_bindings(made: Api, ask: Ask, may: bool) -> None:
    rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/home"
    rules = [
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["a"], "verbs": ["get"]},
        {"apiGroups": ["apps"], "resources": ["deployments/status"], "verbs": ["*"]},
    ]
    await post(made, f"{rbac}/roles", "r", rules=rules)
    subject = {"kind": "ServiceAccount", "name": "runner"}
    await post(made, f"{rbac}/rolebindings", "r", roleRef={"kind": "Role", "name": "r"}, subjects=[subject])
    assert allowed(made.store, named("system:serviceaccount:home:runner"), ask) is may
    assert allowed(made.store, named("system:admin"), ask)
