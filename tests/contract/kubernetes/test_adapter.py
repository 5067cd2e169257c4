"""Every call that the adapter makes, on the sandbox and on real servers; and that there is no other.

`CONTRACTS` are held on each server. `test_no_call_is_without_a_contract` then runs them all once more, watched: it
fails for a public method or an argument of `Cluster` that none of them uses, for a place that sends and that none of
them reaches, for a request of a shape that `SHAPES` does not name, and for a kind that no sample stands for.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from kube_samples import ONLY_LOOKED_FOR, SAMPLES, kinds, sample
from kube_servers import Kube
from kube_watched import ROOMS, Watched, arguments, noting_arguments, places_that_send

from workers.adapters import cluster as adapter
from workers.adapters.cluster import CONFIG_MAP, HELM_REPOSITORY, NAMESPACE, Cluster, Conflict, Exists, Kind, Object
from workers.errors import Stuck, Wait

# conftest is not importable by name under importlib mode: fixtures carry these types.
Home = Any
US, OTHER = "catalyst-cutover", "somebody-else"
ABSENT = Kind("nobody.example", "Nothing", "nothings")

SHAPES = {
    "GET",  # discovery, get
    "GET limit",
    "GET labelSelector&limit",
    "GET fieldSelector&limit",
    "GET fieldSelector&labelSelector&limit",
    "GET continue&limit",
    "GET allowWatchBookmarks=true&resourceVersion&timeoutSeconds&watch=1",
    "GET allowWatchBookmarks=true&labelSelector&resourceVersion&timeoutSeconds&watch=1",
    "GET allowWatchBookmarks=true&fieldSelector&resourceVersion&timeoutSeconds&watch=1",
    "GET allowWatchBookmarks=true&fieldSelector&labelSelector&resourceVersion&timeoutSeconds&watch=1",
    "POST fieldManager application/json",
    "POST application/json",  # TokenReview
    "PUT fieldManager application/json",
    "PATCH fieldManager application/merge-patch+json",
    "PATCH fieldManager&force=true application/apply-patch+yaml",
    "PATCH fieldManager&force=false application/apply-patch+yaml",
    "DELETE propagationPolicy=Background",
}


@asynccontextmanager
async def clusters(kube: Kube) -> AsyncIterator[tuple[Watched, Cluster]]:
    """Ours, watched, and another writer's."""
    async with (
        Watched.open(kubeconfig=kube.kubeconfig, field_manager=US) as ours,
        Cluster.open(kubeconfig=kube.kubeconfig, field_manager=OTHER) as other,
    ):
        assert isinstance(ours, Watched)
        yield ours, other


def owners(obj: Object, field: str) -> set[str]:
    """Managers of a key in a ConfigMap's data."""
    entries = obj["metadata"]["managedFields"]
    return {e["manager"] for e in entries if f"f:{field}" in e["fieldsV1"].get("f:data", {})}


def text(home: Home, name: str, **data: str) -> Object:
    return {"metadata": {"name": name, "namespace": home.name, "labels": {"contract": "yes"}}, "data": data}


# --- contracts ---


async def each_kind_is_made_read_changed_and_deleted(home: Home, ours: Cluster, other: Cluster) -> None:
    known = kinds()
    # One after the other by twos: a definition that comes makes a real server slow for a moment.
    limit = asyncio.Semaphore(4)

    async def one(kind: Kind) -> None:
        async with limit:
            await _through_its_life(kind, home, ours)

    await asyncio.gather(*(one(known[resource]) for resource in SAMPLES))


async def _through_its_life(kind: Kind, home: Home, ours: Cluster) -> None:
    namespace = home.name if kind.namespaced else None
    obj = sample(kind, home.name, f"contract-{secrets.token_hex(4)}")
    name = obj["metadata"]["name"]
    assert await ours.served(kind), kind.resource
    assert await ours.get(kind, name, namespace) is None
    made = await ours.create(kind, obj)
    try:
        with pytest.raises(Exists):
            await ours.create(kind, obj)
        read = await ours.get(kind, name, namespace)
        assert read is not None
        assert (read["kind"], read["metadata"]["uid"]) == (kind.kind, made["metadata"]["uid"])
        selector = f"contract={obj['metadata']['labels']['contract']}"
        for found in (await ours.list(kind, namespace, selector), await ours.list(kind, labels=selector)):
            assert [(o["kind"], o["metadata"]["uid"]) for o in found] == [(kind.kind, made["metadata"]["uid"])]
        await _written(kind, namespace, name, ours)
    finally:
        assert await ours.delete(kind, name, namespace)
    if kind is not NAMESPACE:  # which stays until a controller has emptied it
        await ours.wait(kind, name, namespace, lambda o: o is None or "deletionTimestamp" in o["metadata"], 20)
    elif not home.controllers:
        await _finalized(home, name)


async def _finalized(home: Home, name: str) -> None:
    left = (await home.kube.ask("GET", f"/api/v1/namespaces/{name}")).body
    left["spec"]["finalizers"] = []
    await home.kube.ask("PUT", f"/api/v1/namespaces/{name}/finalize", left)


async def _written(kind: Kind, namespace: str | None, name: str, ours: Cluster) -> None:
    """Each way of writing, on metadata, which every kind has."""
    note = {"metadata": {"name": name, "annotations": {"contract/applied": "1"}}}
    if namespace:
        note["metadata"]["namespace"] = namespace
    applied = await ours.apply(kind, note)
    entries = applied["metadata"]["managedFields"]
    assert (US, "Apply") in [(entry["manager"], entry["operation"]) for entry in entries]
    again = await ours.apply(kind, note)
    # The server itself may write beside us: to nodes, and the status of a definition.
    if kind.kind not in ("Node", "CustomResourceDefinition"):
        assert again["metadata"]["resourceVersion"] == applied["metadata"]["resourceVersion"]
    patched = await ours.patch(kind, name, namespace, {"metadata": {"annotations": {"contract/patched": "1"}}})
    assert patched["metadata"]["annotations"]["contract/applied"] == "1"
    stale = {"metadata": {"resourceVersion": applied["metadata"]["resourceVersion"], "labels": {"x": "y"}}}
    with pytest.raises(Conflict):
        await ours.patch(kind, name, namespace, stale)
    gone = await ours.patch(kind, name, namespace, {"metadata": {"annotations": {"contract/patched": None}}})
    assert "contract/patched" not in gone["metadata"]["annotations"]
    with pytest.raises(Conflict):
        await ours.replace(kind, patched)
    for _ in range(5):
        now = await ours.get(kind, name, namespace)
        assert now is not None
        now["metadata"]["labels"]["replaced"] = "yes"
        try:
            replaced = await ours.replace(kind, now)
        except Conflict:
            continue
        assert replaced["metadata"]["labels"]["replaced"] == "yes"
        return
    raise AssertionError(f"{kind.resource}: never replaced")


async def fields_belong_to_who_wrote_them_last(home: Home, ours: Cluster, other: Cluster) -> None:
    await other.apply(CONFIG_MAP, text(home, "a", x="theirs", y="theirs"))
    with pytest.raises(Conflict) as raised:
        await ours.apply(CONFIG_MAP, text(home, "a", x="ours"), force=False)
    assert OTHER in raised.value.message
    forced = await ours.apply(CONFIG_MAP, text(home, "a", x="ours"))
    assert forced["data"] == {"x": "ours", "y": "theirs"}
    assert (owners(forced, "x"), owners(forced, "y")) == ({US}, {OTHER})
    with pytest.raises(Conflict):
        await other.apply(CONFIG_MAP, text(home, "a", x="theirs"), force=False)
    back = await other.apply(CONFIG_MAP, text(home, "a", x="theirs"))
    assert back["data"] == {"x": "theirs"}, "y is no longer applied, so it goes"
    assert owners(back, "x") == {OTHER}
    stale = text(home, "a", x="again")
    stale["metadata"]["resourceVersion"] = forced["metadata"]["resourceVersion"]
    with pytest.raises(Conflict):
        await ours.apply(CONFIG_MAP, stale)


async def a_wrong_object_is_a_person_s_business_at_once(home: Home, ours: Cluster, other: Cluster) -> None:
    async with asyncio.timeout(30):  # nothing of this is tried again
        with pytest.raises(Stuck, match="ApiRejected"):
            await ours.apply(CONFIG_MAP, {**text(home, "b"), "nobody": {}})
        with pytest.raises(Stuck, match="ApiRejected"):
            await ours.create(HELM_REPOSITORY, {"metadata": text(home, "b")["metadata"], "spec": {"url": "ftp://x"}})
        with pytest.raises(Wait, match="ObjectAbsent"):
            await ours.patch(CONFIG_MAP, "nobody", home.name, {})
        with pytest.raises(Wait, match="ObjectAbsent"):
            await ours.create(CONFIG_MAP, {"metadata": {"name": "x", "namespace": "contract-nowhere"}})
        assert not await ours.delete(CONFIG_MAP, "nobody", home.name)


async def a_namespace_on_its_way_out_is_waited_for(home: Home, ours: Cluster, other: Cluster) -> None:
    name = f"{home.name}-going"
    await home.kube.make("/api/v1/namespaces", {"metadata": {"name": name}})
    held = {"name": "held", "namespace": name, "finalizers": ["contract.test/hold"]}
    await ours.create(CONFIG_MAP, {"metadata": held})
    try:
        assert await ours.delete(NAMESPACE, name)
        late = {"metadata": {"name": "late", "namespace": name}}
        for attempt in (ours.apply, ours.create):
            with pytest.raises(Wait, match="NamespaceTerminating"):
                await attempt(CONFIG_MAP, late)
        kept = await ours.patch(CONFIG_MAP, "held", name, {"data": {"still": "written"}})
        assert kept["data"] == {"still": "written"}
    finally:
        await ours.patch(CONFIG_MAP, "held", name, {"metadata": {"finalizers": None}})
        left = (await home.kube.ask("GET", f"/api/v1/namespaces/{name}")).body
        if left.get("spec"):  # where nobody else takes it away
            await home.kube.ask("PUT", f"/api/v1/namespaces/{name}/finalize", {**left, "spec": {"finalizers": []}})


async def absent_kinds_are_told_from_trouble(home: Home, ours: Cluster, other: Cluster) -> None:
    assert not await ours.served(ABSENT)
    with pytest.raises(Stuck, match="KindNotServed"):
        await ours.get(ABSENT, "x", home.name)
    newer = Kind(HELM_REPOSITORY.group, "HelmRepository", "helmrepositories", versions=("v99",))
    ours._versions.clear()
    with pytest.raises(Stuck, match="ApiVersionUnknown"):
        await ours.served(newer)
    for resource in ONLY_LOOKED_FOR:
        kind = kinds()[resource]
        if await ours.served(kind):  # a server of somebody's own
            await ours.list(kind)


async def a_reconcile_is_asked_for_by_an_annotation(home: Home, ours: Cluster, other: Cluster) -> None:
    await ours.create(HELM_REPOSITORY, sample(HELM_REPOSITORY, home.name, "asked"))
    asked = await ours.request_reconcile(HELM_REPOSITORY, "asked", home.name, "now")
    assert asked["metadata"]["annotations"] == {"reconcile.fluxcd.io/requestedAt": "now"}
    assert asked["metadata"]["generation"] == 1


async def a_watch_tells_what_is_there_and_every_change(home: Home, ours: Cluster, other: Cluster) -> None:
    await other.apply(CONFIG_MAP, text(home, "w", n="0"))
    await other.apply(CONFIG_MAP, text(home, "not-ours", n="0"))
    told = []
    async with asyncio.timeout(60), aclosing(ours.watch(CONFIG_MAP, home.name, name="w", labels="contract")) as events:
        async for change, obj in events:
            told.append((change, obj["metadata"]["name"], obj["data"]["n"]))
            match told[-1]:
                case ("ADDED", _, _):
                    await other.apply(CONFIG_MAP, text(home, "w", n="1"))
                case ("MODIFIED", _, _):
                    await other.delete(CONFIG_MAP, "w", home.name)
                case _:
                    break
    assert told == [("ADDED", "w", "0"), ("MODIFIED", "w", "1"), ("DELETED", "w", "1")]


async def a_follower_is_told_when_the_list_is_whole(home: Home, ours: Cluster, other: Cluster) -> None:
    await other.apply(CONFIG_MAP, text(home, "another"))
    async with asyncio.timeout(60), aclosing(ours.follow(CONFIG_MAP, home.name, name="absent")) as events:
        assert (await anext(events))[0] == adapter.SYNCED, "of one that is not there it is told that it is not"
    for name, namespace in (("here", home.name), ("anywhere", None)):
        synced = False
        async with asyncio.timeout(60), aclosing(ours.follow(CONFIG_MAP, namespace)) as events:
            async for change, obj in events:
                if change == adapter.SYNCED:
                    synced = True
                    await other.apply(CONFIG_MAP, text(home, name))
                elif change == "ADDED" and obj["metadata"]["name"] == name:
                    assert synced
                    break


async def a_wait_ends_with_what_it_waited_for_or_says_how_things_stand(
    home: Home, ours: Cluster, other: Cluster
) -> None:
    waiting = asyncio.create_task(
        ours.wait(CONFIG_MAP, "late", home.name, lambda o: bool(o) and o["data"]["n"] == "1", 20)
    )
    await other.apply(CONFIG_MAP, text(home, "late", n="0"))
    await other.apply(CONFIG_MAP, text(home, "late", n="1"))
    assert ((await waiting) or {})["data"] == {"n": "1"}
    seen = await ours.wait_all(CONFIG_MAP, home.name, lambda s: len(s) == 1, 20, name="late", labels="contract")
    assert list(seen) == [(home.name, "late")]
    await ours.wait_all(CONFIG_MAP, home.name, lambda s: (home.name, "late") in s, 20, labels="contract")
    with pytest.raises(Wait, match="ConfigMapTimeout"):
        await ours.wait(CONFIG_MAP, "never", home.name, lambda o: o is not None, 0.3)


async def a_list_is_whole_whatever_its_pages_go_through(home: Home, ours: Watched, other: Cluster) -> None:
    for number in range(5):
        await other.apply(CONFIG_MAP, text(home, f"page-{number}"))
    pages = 0

    async def forgetful(path: str, query: dict[str, str]) -> None:
        nonlocal pages
        query["limit"] = "2"
        pages += 1
        if "continue" in query and pages == 2 and home.kube.forget:
            await other.apply(CONFIG_MAP, text(home, "page-0", changed="yes"))
            await home.kube.forget()

    ours.before = forgetful
    names = [o["metadata"]["name"] for o in await ours.list(CONFIG_MAP, home.name)]
    ours.before = None
    assert sorted(n for n in names if n.startswith("page-")) == [f"page-{n}" for n in range(5)]
    assert len(names) == len(set(names))
    assert pages >= 3


async def a_watch_that_is_too_old_or_cut_loses_nothing(home: Home, ours: Watched, other: Cluster) -> None:
    await other.apply(CONFIG_MAP, text(home, "w", n="0"))
    if home.kube.forget:
        await home.kube.forget()
    watches = 0

    async def old_then_short(path: str, query: dict[str, str]) -> None:
        nonlocal watches
        if "watch" in query:
            watches += 1
            query["timeoutSeconds"] = "1"
            if watches == 1:
                query["resourceVersion"] = "1"

    ours.before = old_then_short
    last = ""
    async with asyncio.timeout(60), aclosing(ours.watch(CONFIG_MAP, home.name, labels="contract")) as events:
        async for change, obj in events:
            if (change, obj["metadata"]["name"]) == ("DELETED", "w"):
                break
            if obj["metadata"]["name"] == "w" and obj["data"]["n"] != last:
                last = obj["data"]["n"]
                await asyncio.sleep(0.7)
                if last == "4":
                    await other.delete(CONFIG_MAP, "w", home.name)
                else:
                    await other.apply(CONFIG_MAP, text(home, "w", n=str(int(last) + 1)))
    ours.before = None
    assert last == "4"
    assert watches >= 3


async def a_token_is_reviewed_for_its_audience(home: Home, ours: Cluster, other: Cluster) -> None:
    await home.kube.make(home.path("serviceaccounts"), {"metadata": {"name": "caller"}})
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": ["front-door"]}}
    token = (await home.kube.make(home.path("serviceaccounts", "caller/token"), asked))["status"]["token"]
    assert await ours.review_token(token, "front-door") == f"system:serviceaccount:{home.name}:caller"
    assert await ours.review_token(token, "elsewhere") is None
    assert await ours.review_token("nobody's", "front-door") is None


CONTRACTS = [
    each_kind_is_made_read_changed_and_deleted,
    fields_belong_to_who_wrote_them_last,
    a_wrong_object_is_a_person_s_business_at_once,
    a_namespace_on_its_way_out_is_waited_for,
    absent_kinds_are_told_from_trouble,
    a_reconcile_is_asked_for_by_an_annotation,
    a_watch_tells_what_is_there_and_every_change,
    a_follower_is_told_when_the_list_is_whole,
    a_wait_ends_with_what_it_waited_for_or_says_how_things_stand,
    a_list_is_whole_whatever_its_pages_go_through,
    a_watch_that_is_too_old_or_cut_loses_nothing,
    a_token_is_reviewed_for_its_audience,
]


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.__name__)
async def test_the_adapter_is_held_to_its_contract(home: Home, contract: Any) -> None:
    async with clusters(home.kube) as (ours, other):
        await contract(home, ours, other)


# --- nothing beside the contract ---


def test_every_kind_has_a_sample_or_is_only_looked_for() -> None:
    assert kinds().keys() == SAMPLES.keys() | ONLY_LOOKED_FOR


@pytest.mark.parametrize("server", ["sandbox"], indirect=True)
async def test_no_call_is_without_a_contract(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = arguments()
    used = noting_arguments(monkeypatch)
    async with clusters(home.kube) as (ours, other):
        for contract in CONTRACTS:
            await contract(home, ours, other)
    assert ours.shapes == SHAPES
    assert places_that_send() - ours.lines == set(), "lines of the adapter that send, reached by no contract"
    missing = {f"{name}({argument})" for name, argument in wanted - used}
    assert missing == set(), "no contract gives these arguments"


def test_nobody_else_speaks_to_the_api_server() -> None:
    root = Path(adapter.__file__).parents[1]
    known = {*map(Path, ROOMS), root / "adapters" / "kubernetes_client.py"}
    imports = re.compile(r"^\s*(from|import) .*\b(kubernetes_client|kubernetes_asyncio|kr8s|lightkube)\b", re.MULTILINE)
    inside = re.compile(r"\bcluster\._[a-z]|\bcall_api\b")
    loud = {
        str(file.relative_to(root))
        for file in root.rglob("*.py")
        if file not in known and (imports.search(said := file.read_text()) or inside.search(said))
    }
    assert loud == set()
