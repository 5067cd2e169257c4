"""What our adapters rely on in a Kubernetes API server, asked of the sandbox and (KUBECONFIG) of a real one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

# conftest is not importable by name under importlib mode: fixtures carry these types.
Home = Any
Object = dict[str, Any]

REPOSITORY = {
    "apiVersion": "source.toolkit.fluxcd.io/v1",
    "kind": "HelmRepository",
    "metadata": {"name": "bp-gitea"},
    "spec": {"type": "oci", "url": "oci://ghcr.example/charts", "interval": "15m"},
}


def repository(**spec: Any) -> Object:
    """A HelmRepository, whole: what one applies."""
    return {
        "apiVersion": "source.toolkit.fluxcd.io/v1",
        "kind": "HelmRepository",
        "metadata": {"name": "bp-gitea"},
        "spec": spec,
    }


def config(name: str, **data: str) -> Object:
    """A ConfigMap, whole."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def owners(obj: Object, *path: str) -> set[str]:
    """Managers of a field, by managedFields."""
    found = set()
    for entry in obj["metadata"].get("managedFields", ()):
        at: Any = entry["fieldsV1"]
        for step in path:
            at = at.get(f"f:{step}") if isinstance(at, dict) else None
        if at is not None:
            found.add(entry["manager"])
    return found


async def test_a_created_object_has_what_the_system_gives(home: Home) -> None:
    made = await home.kube.make(home.config_map(), config("a", k="v"))
    assert made["data"] == {"k": "v"}
    metadata = made["metadata"]
    assert metadata["uid"]
    assert metadata["creationTimestamp"].endswith("Z")
    assert metadata["namespace"] == home.name
    read = await home.kube.ask("GET", home.config_map("a"))
    assert read.body == made


async def test_a_name_can_be_taken_once(home: Home) -> None:
    await home.kube.make(home.config_map(), config("a"))
    again = await home.kube.ask("POST", home.config_map(), config("a"))
    assert (again.status, again.body["reason"]) == (409, "AlreadyExists")


async def test_what_is_not_there_is_not_found(home: Home) -> None:
    answer = await home.kube.ask("GET", home.config_map("nobody"))
    assert (answer.status, answer.body["reason"]) == (404, "NotFound")
    assert answer.body["details"]["name"] == "nobody"


async def test_a_kind_that_is_not_served_is_404_without_details(home: Home) -> None:
    answer = await home.kube.ask("GET", home.path("widgets", group="nobody.example"))
    assert answer.status == 404


async def test_lists_select_by_label(home: Home) -> None:
    for name, labels in (("a", {"x": "1"}), ("b", {"x": "2"}), ("c", {})):
        await home.kube.make(home.config_map(), {"metadata": {"name": name, "labels": labels}})

    async def names(selector: str) -> set[str]:
        answer = await home.kube.ask("GET", home.config_map(), labelSelector=selector)
        return {item["metadata"]["name"] for item in answer.body["items"]} - {"kube-root-ca.crt"}

    assert await names("x=1") == {"a"}
    assert await names("x in (1,2)") == {"a", "b"}
    assert await names("x!=1") == {"b", "c"}
    assert await names("!x") == {"c"}
    assert await names("x,x notin (2)") == {"a"}


async def test_pages_hold_every_object_once(home: Home) -> None:
    wanted = {f"page-{at}" for at in range(7)}
    for name in wanted:
        await home.kube.make(home.config_map(), {"metadata": {"name": name, "labels": {"paged": "yes"}}})
    seen: list[str] = []
    query = {"limit": "3", "labelSelector": "paged"}
    while True:
        page = (await home.kube.ask("GET", home.config_map(), **query)).body
        seen += [item["metadata"]["name"] for item in page["items"]]
        assert len(page["items"]) <= 3
        if not page["metadata"].get("continue"):
            break
        query["continue"] = page["metadata"]["continue"]
    assert sorted(seen) == sorted(wanted)


async def test_a_patch_from_a_stale_version_is_a_conflict(home: Home) -> None:
    first = await home.kube.make(home.config_map(), config("a", k="1"))
    fresh = await home.kube.merge(home.config_map("a"), {"data": {"k": "2"}})
    assert fresh.status == 200
    stale = {"data": {"k": "3"}, "metadata": {"resourceVersion": first["metadata"]["resourceVersion"]}}
    answer = await home.kube.merge(home.config_map("a"), stale)
    assert (answer.status, answer.body["reason"]) == (409, "Conflict")
    stale["metadata"]["resourceVersion"] = fresh.body["metadata"]["resourceVersion"]
    assert (await home.kube.merge(home.config_map("a"), stale)).status == 200


async def test_a_replace_from_a_stale_version_is_a_conflict(home: Home) -> None:
    first = await home.kube.make(home.config_map(), config("a", k="1"))
    await home.kube.merge(home.config_map("a"), {"data": {"k": "2"}})
    answer = await home.kube.ask("PUT", home.config_map("a"), first)
    assert (answer.status, answer.body["reason"]) == (409, "Conflict")


async def test_a_patch_that_changes_nothing_makes_no_version(home: Home) -> None:
    first = await home.kube.make(home.config_map(), config("a", k="1"))
    same = await home.kube.merge(home.config_map("a"), {"data": {"k": "1"}})
    assert same.body["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


async def test_writers_who_keep_to_versions_lose_nothing(home: Home) -> None:
    await home.kube.make(home.config_map(), config("count", n="0"))

    async def add() -> None:
        while True:
            now = (await home.kube.ask("GET", home.config_map("count"))).body
            now["data"]["n"] = str(int(now["data"]["n"]) + 1)
            if (await home.kube.ask("PUT", home.config_map("count"), now)).status == 200:
                return

    await asyncio.gather(*(add() for _ in range(8)))
    assert (await home.kube.ask("GET", home.config_map("count"))).body["data"]["n"] == "8"


async def test_only_the_spec_counts_as_a_generation(flux: Home) -> None:
    path = flux.helm_repository("bp-gitea")
    assert (await flux.kube.make(flux.helm_repository(), REPOSITORY))["metadata"]["generation"] == 1
    changed = await flux.kube.merge(path, {"spec": {"url": "oci://harbor.example/charts"}})
    assert changed.body["metadata"]["generation"] == 2
    asked = await flux.kube.merge(path, {"metadata": {"annotations": {"reconcile.fluxcd.io/requestedAt": "1"}}})
    assert asked.body["metadata"]["generation"] == 2


async def test_a_definition_refuses_prunes_and_fills_in(flux: Home) -> None:
    made = await flux.kube.ask("POST", flux.helm_repository(), repository(url="oci://x", interval="1m", nope=1))
    assert made.status == 201
    assert "nope" not in made.body["spec"]
    assert 'unknown field \\"spec.nope\\"' in made.warning
    assert made.body["spec"]["provider"] == "generic"
    path = flux.helm_repository("bp-gitea")
    bad = await flux.kube.merge(path, {"spec": {"url": "ftp://x"}})
    assert (bad.status, bad.body["reason"]) == (422, "Invalid")
    assert [cause["field"] for cause in bad.body["details"]["causes"]] == ["spec.url"]
    strict = await flux.kube.merge(path, {"spec": {"nope": 2}}, fieldValidation="Strict")
    assert (strict.status, strict.body["reason"]) == (422, "Invalid")
    whole = repository(url="oci://x", interval="1m", nope=1) | {"metadata": {"name": "other"}}
    strict = await flux.kube.ask("POST", flux.helm_repository(), whole, fieldValidation="Strict")
    assert (strict.status, strict.body["reason"]) == (400, "BadRequest")


async def test_an_apply_of_a_field_that_is_not_declared_is_refused_as_a_500(flux: Home) -> None:
    path = flux.helm_repository("bp-gitea")
    for spec in ({"nope": 1}, {"url": 7}):
        answer = await flux.kube.apply(path, repository(**{"url": "oci://x", "interval": "1m", **spec}), "us")
        assert answer.status == 500
        assert answer.body["message"].startswith("failed to create typed patch object (/bp-gitea; source.toolkit")
        assert "reason" not in answer.body
    unknown = {**config("a"), "spec": {}}
    assert (await flux.kube.apply(flux.config_map("a"), unknown, "us")).status == 500
    assert (await flux.kube.ask("GET", path)).status == 404


async def test_a_custom_object_must_say_what_it_is(flux: Home) -> None:
    for missing in ("kind", "apiVersion"):
        body = {key: value for key, value in REPOSITORY.items() if key != missing}
        answer = await flux.kube.ask("POST", flux.helm_repository(), body)
        assert (answer.status, answer.body["reason"]) == (400, "BadRequest")
    builtin = {"metadata": {"name": "a"}}
    assert (await flux.kube.ask("POST", flux.config_map(), builtin)).status == 201


async def test_one_object_is_read_in_every_version(flux: Home) -> None:
    await flux.kube.make(flux.helm_repository(), REPOSITORY)
    older = await flux.kube.ask("GET", flux.helm_repository("bp-gitea", "v1beta2"))
    assert older.body["apiVersion"] == "source.toolkit.fluxcd.io/v1beta2"
    assert older.body["spec"]["url"] == "oci://ghcr.example/charts"
    assert "deprecated" in older.warning


async def test_custom_kinds_know_no_strategic_merge(flux: Home) -> None:
    await flux.kube.make(flux.helm_repository(), REPOSITORY)
    kind = "application/strategic-merge-patch+json"
    answer = await flux.kube.ask("PATCH", flux.helm_repository("bp-gitea"), {"spec": {}}, kind=kind)
    assert answer.status == 415


async def test_a_mapping_is_no_json_patch(home: Home) -> None:
    await home.kube.make(home.config_map(), config("a"))
    kind = "application/json-patch+json"
    answer = await home.kube.ask("PATCH", home.config_map("a"), {"data": {"k": "v"}}, kind=kind)
    assert answer.status == 400
    failed = await home.kube.ask(
        "PATCH", home.config_map("a"), [{"op": "test", "path": "/data/k", "value": "x"}], kind=kind
    )
    assert failed.status == 422


async def test_an_apply_creates_and_says_who_owns(home: Home) -> None:
    made = await home.kube.apply(home.config_map("a"), config("a", x="1"), "one")
    assert made.status == 201
    assert owners(made.body, "data", "x") == {"one"}
    assert made.body["metadata"]["managedFields"][0]["operation"] == "Apply"
    again = await home.kube.apply(home.config_map("a"), config("a", x="1"), "one")
    assert again.status == 200
    assert again.body["metadata"]["resourceVersion"] == made.body["metadata"]["resourceVersion"]


async def test_an_apply_needs_a_manager(home: Home) -> None:
    answer = await home.kube.ask("PATCH", home.config_map("a"), config("a"), kind="application/apply-patch+yaml")
    assert answer.status in (400, 422)


async def test_an_apply_over_another_owner_is_a_conflict_until_forced(home: Home) -> None:
    await home.kube.apply(home.config_map("a"), config("a", x="1", y="1"), "one")
    refused = await home.kube.apply(home.config_map("a"), config("a", x="2"), "two")
    assert (refused.status, refused.body["reason"]) == (409, "Conflict")
    cause = refused.body["details"]["causes"][0]
    assert (cause["reason"], cause["field"]) == ("FieldManagerConflict", ".data.x")
    assert '"one"' in cause["message"]
    forced = await home.kube.apply(home.config_map("a"), config("a", x="2"), "two", force="true")
    assert forced.body["data"] == {"x": "2", "y": "1"}
    assert owners(forced.body, "data", "x") == {"two"}
    assert owners(forced.body, "data", "y") == {"one"}


async def test_what_is_no_longer_applied_goes_unless_another_owns_it(home: Home) -> None:
    path = home.config_map("a")
    await home.kube.apply(path, config("a", shared="1", mine="1"), "one")
    both = await home.kube.apply(path, config("a", shared="1"), "two")
    assert owners(both.body, "data", "shared") == {"one", "two"}
    left = await home.kube.apply(path, config("a", other="1"), "one")
    assert left.body["data"] == {"other": "1", "shared": "1"}
    gone = await home.kube.apply(path, config("a", last="1"), "two")
    assert gone.body["data"] == {"last": "1", "other": "1"}


async def test_an_apply_from_a_stale_version_is_a_conflict(home: Home) -> None:
    first = await home.kube.apply(home.config_map("a"), config("a", x="1"), "one")
    await home.kube.apply(home.config_map("a"), config("a", x="2"), "one")
    stale = config("a", x="3")
    stale["metadata"]["resourceVersion"] = first.body["metadata"]["resourceVersion"]
    answer = await home.kube.apply(home.config_map("a"), stale, "one", force="true")
    assert answer.status == 409


async def test_a_forced_apply_undoes_a_patch(flux: Home) -> None:
    path = flux.helm_repository("bp-gitea")
    declared = repository(type="oci", url="oci://ghcr.example/charts", interval="15m")
    await flux.kube.apply(path, declared, "kustomize-controller", force="true")
    patched = await flux.kube.merge(path, {"spec": {"url": "oci://harbor.example/charts"}}, fieldManager="us")
    assert owners(patched.body, "spec", "url") == {"us"}
    assert owners(patched.body, "spec", "interval") == {"kustomize-controller"}
    undone = await flux.kube.apply(path, declared, "kustomize-controller", force="true")
    assert undone.body["spec"]["url"] == "oci://ghcr.example/charts"
    assert owners(undone.body, "spec", "url") == {"kustomize-controller"}
    assert undone.body["metadata"]["generation"] == 3


async def test_status_and_spec_are_written_apart(flux: Home) -> None:
    path = flux.helm_repository("bp-gitea")
    made = await flux.kube.make(flux.helm_repository(), {**REPOSITORY, "status": {"observedGeneration": 9}})
    assert made["status"] == {"observedGeneration": -1}
    change = {"spec": {"interval": "9m"}, "status": {"observedGeneration": 1}}
    through_status = (await flux.kube.merge(f"{path}/status", change)).body
    assert through_status["status"]["observedGeneration"] == 1
    assert through_status["spec"]["interval"] == "15m"
    assert through_status["metadata"]["generation"] == 1
    through_main = (await flux.kube.merge(path, {"status": {"observedGeneration": 7}})).body
    assert through_main["status"]["observedGeneration"] == 1


async def test_a_watch_from_a_list_misses_nothing(home: Home) -> None:
    labelled = {"labelSelector": "w"}
    start = (await home.kube.ask("GET", home.config_map(), **labelled)).body["metadata"]["resourceVersion"]
    watching = asyncio.create_task(home.kube.watch(home.config_map(), 4, resourceVersion=start, **labelled))
    body = config("w", k="0")
    body["metadata"]["labels"] = {"w": "1"}
    await home.kube.make(home.config_map(), body)
    for at in range(1, 21):
        await home.kube.merge(home.config_map("w"), {"data": {"k": str(at)}})
    await home.kube.merge(home.config_map("w"), {"metadata": {"labels": {"w": None}}})
    await home.kube.merge(home.config_map("w"), {"data": {"k": "unseen"}})
    await home.kube.merge(home.config_map("w"), {"metadata": {"labels": {"w": "2"}}})
    await home.kube.ask("DELETE", home.config_map("w"))
    events = await watching
    told = [(event["type"], event["object"]["data"]["k"]) for event in events]
    changes = [("MODIFIED", str(at)) for at in range(1, 21)]
    assert told == [("ADDED", "0"), *changes, ("DELETED", "20"), ("ADDED", "unseen"), ("DELETED", "unseen")]
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in events]
    assert versions == sorted(set(versions))


async def test_a_watch_that_starts_late_is_told_what_it_missed(home: Home) -> None:
    start = (await home.kube.ask("GET", home.config_map())).body["metadata"]["resourceVersion"]
    for at in range(3):
        await home.kube.make(home.config_map(), config(f"late-{at}"))
    events = await home.kube.watch(home.config_map(), 1, resourceVersion=start)
    late = [e["object"]["metadata"]["name"] for e in events if e["object"]["metadata"]["name"] != "kube-root-ca.crt"]
    assert late == ["late-0", "late-1", "late-2"]


async def test_a_watch_from_zero_begins_with_what_is_there(home: Home) -> None:
    await home.kube.make(home.config_map(), config("a"))
    await asyncio.sleep(0.2)  # a real server's cache may be a moment behind
    events = await home.kube.watch(home.config_map(), 1, resourceVersion="0")
    assert ("ADDED", "a") in [(event["type"], event["object"]["metadata"]["name"]) for event in events]


async def test_bookmarks_carry_a_version_to_watch_from(home: Home) -> None:
    start = (await home.kube.ask("GET", home.config_map())).body["metadata"]["resourceVersion"]
    watching = asyncio.create_task(
        home.kube.watch(home.config_map(), 4, resourceVersion=start, allowWatchBookmarks="true", labelSelector="nobody")
    )
    for number in range(6):  # there is a bookmark only for what moved while the watch stood
        await asyncio.sleep(0.5)
        await home.kube.make(home.config_map(), config(f"a-{number}"))
    events = await watching
    assert {event["type"] for event in events} == {"BOOKMARK"}
    mark = events[-1]["object"]
    assert mark["kind"] == "ConfigMap"
    assert int(mark["metadata"]["resourceVersion"]) > int(start)
    later = await home.kube.watch(home.config_map(), 1, resourceVersion=mark["metadata"]["resourceVersion"])
    told = [int(event["object"]["metadata"]["resourceVersion"]) for event in later]
    assert all(version > int(mark["metadata"]["resourceVersion"]) for version in told)
    assert len(told) < 6, "not again what the bookmark stands for"


async def test_a_watch_from_long_ago_is_told_all_or_told_that_it_is_gone(home: Home) -> None:
    await home.kube.make(home.config_map(), config("a"))
    events = await home.kube.watch(home.config_map(), 1, resourceVersion="1")
    if events[0]["type"] == "ERROR":
        assert events[0]["object"]["code"] == 410
        assert events[0]["object"]["reason"] == "Expired"
    else:
        assert "a" in [event["object"]["metadata"]["name"] for event in events]


async def test_finalizers_hold_an_object_that_is_deleted(home: Home) -> None:
    await home.kube.make(home.config_map(), {"metadata": {"name": "f", "finalizers": ["x.example/f"]}})
    marked = await home.kube.ask("DELETE", home.config_map("f"))
    assert marked.body["metadata"]["deletionTimestamp"]
    assert (await home.kube.ask("GET", home.config_map("f"))).status == 200
    await home.kube.merge(home.config_map("f"), {"metadata": {"finalizers": None}})
    assert (await home.kube.ask("GET", home.config_map("f"))).status == 404


async def test_a_delete_is_held_to_its_preconditions(home: Home) -> None:
    made = await home.kube.make(home.config_map(), config("a"))
    wrong = {"preconditions": {"uid": "00000000-0000-0000-0000-000000000000"}}
    assert (await home.kube.ask("DELETE", home.config_map("a"), wrong)).status == 409
    right = {"preconditions": {"uid": made["metadata"]["uid"]}}
    assert (await home.kube.ask("DELETE", home.config_map("a"), right)).status == 200
    assert (await home.kube.ask("DELETE", home.config_map("a"))).status == 404


@pytest.mark.parametrize("policy", ["Background", "Foreground"])
async def test_what_an_owner_leaves_is_collected(home: Home, policy: str) -> None:
    if not home.controllers:
        pytest.skip("no kube-controller-manager: nobody collects")
    owner = await home.kube.make(home.config_map(), config("owner"))
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
    owned = {"name": "owned", "ownerReferences": [{**reference, "blockOwnerDeletion": True}]}
    await home.kube.make(home.config_map(), {"metadata": owned})
    await home.kube.make(home.config_map(), config("free"))
    answer = await home.kube.ask("DELETE", home.config_map("owner"), {"propagationPolicy": policy})
    assert answer.status == 200
    for name in ("owned", "owner"):
        async with asyncio.timeout(60):
            while (await home.kube.ask("GET", home.config_map(name))).status != 404:
                await asyncio.sleep(0.05)
    assert (await home.kube.ask("GET", home.config_map("free"))).status == 200


async def test_a_dry_run_leaves_nothing(home: Home) -> None:
    tried = await home.kube.ask("POST", home.config_map(), config("dry"), dryRun="All")
    assert tried.status == 201
    assert (await home.kube.ask("GET", home.config_map("dry"))).status == 404
    made = await home.kube.make(home.config_map(), config("wet", k="1"))
    patched = await home.kube.merge(home.config_map("wet"), {"data": {"k": "2"}}, dryRun="All")
    assert patched.body["data"] == {"k": "2"}
    applied = await home.kube.apply(home.config_map("new"), config("new"), "one", dryRun="All")
    assert applied.status == 201
    await home.kube.ask("DELETE", home.config_map("wet"), dryRun="All")
    assert (await home.kube.ask("GET", home.config_map("wet"))).body == made
    assert (await home.kube.ask("GET", home.config_map("new"))).status == 404
