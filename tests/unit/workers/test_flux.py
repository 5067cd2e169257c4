"""What a Flux object says about itself is believed only when nothing can make it a lie."""

from __future__ import annotations

from typing import Any

import pytest

from workers.flux import (
    State,
    by_inventory,
    commit_of,
    converged,
    depends_on,
    fetched_at,
    field_set_at,
    in_order,
    owner,
    revision_of,
    same_revision,
    source_of,
)

COMMIT = "7f3c" * 10


def source(**over: Any) -> dict[str, Any]:
    ready = {"type": "Ready", "status": "True", "reason": "Succeeded", "observedGeneration": 2, **over.pop("ready", {})}
    status = {
        "observedGeneration": 2,
        "lastHandledReconcileAt": "t2",
        "conditions": [ready, *over.pop("more", [])],
        "artifact": {"revision": f"main@sha1:{COMMIT}", "lastUpdateTime": "2026-04-30T10:00:05Z"},
        **over.pop("status", {}),
    }
    return {
        "kind": "GitRepository",
        "metadata": {
            "name": "openova",
            "namespace": "flux-system",
            "generation": 2,
            "annotations": {"reconcile.fluxcd.io/requestedAt": "t2"},
            **over.pop("metadata", {}),
        },
        "spec": {"url": "http://gitea/openova/openova", **over.pop("spec", {})},
        "status": status,
    }


def applying(name: str, *lines: str) -> dict[str, Any]:
    entries = [{"id": line, "v": "v1"} for line in lines]
    return {"metadata": {"name": name, "namespace": "flux-system"}, "status": {"inventory": {"entries": entries}}}


def repository(name: str, says: str | None) -> dict[str, Any]:
    prefix = "kustomize.toolkit.fluxcd.io"
    labels = {"app": "x"} | ({f"{prefix}/name": says, f"{prefix}/namespace": "flux-system"} if says else {})
    meta = {"name": name, "namespace": "n", "labels": labels}
    return {"apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "HelmRepository", "metadata": meta}


def test_the_inventory_tells_who_applies_an_object_whatever_its_labels_say() -> None:
    line = "n_{}_source.toolkit.fluxcd.io_HelmRepository"
    kit, other = applying("kit", line.format("theirs"), line.format("a__b")), applying("other", line.format("moved"))
    objects = [
        repository("theirs", "kit"),
        repository("a:b", None),
        repository("not-yet", "kit"),
        repository("moved", "kit"),
        repository("by-hand", None),
    ]
    system = "kustomize.toolkit.fluxcd.io"
    found = by_inventory(objects, [kit, other, {"metadata": {"name": "new"}}])
    who = {o["metadata"]["name"]: (owner(o, system) or ("", ""))[1] for o in found}
    assert who == {"theirs": "kit", "a:b": "kit", "not-yet": "kit", "moved": "other", "by-hand": ""}
    assert objects[3]["metadata"]["labels"][f"{system}/name"] == "kit", "what was read stays as it was read"
    assert found[3]["metadata"]["labels"]["app"] == "x"


def test_ready_at_the_commit_after_our_request_is_ready() -> None:
    assert converged(source(), COMMIT, "t2").state is State.READY


@pytest.mark.parametrize(
    ("obj", "reason"),
    [
        (source(metadata={"generation": 3}), "GenerationNotObserved"),
        (source(ready={"observedGeneration": 1}), "StaleReady"),
        (source(status={"lastHandledReconcileAt": "t1"}), "NotHandledYet"),
        (source(status={"artifact": {"revision": "main@sha1:" + "0" * 40}}), "RevisionNotYet"),
        (source(status={"artifact": None}), "RevisionNotYet"),
        (source(ready={"status": "Unknown", "reason": "Progressing"}), "Progressing"),
        (source(ready={"status": "False", "reason": "DependencyNotReady"}), "DependencyNotReady"),
        (source(metadata={"deletionTimestamp": "2026-04-30T10:00:00Z"}), "Deleting"),
        ({**source(), "status": {}}, "NotHandledYet"),
    ],
)
def test_a_ready_that_may_be_of_another_day_is_waited_out(obj: dict[str, Any], reason: str) -> None:
    verdict = converged(obj, COMMIT, "t2")
    assert (verdict.state, verdict.reason) == (State.WAITING, reason)


def test_an_object_no_controller_has_looked_at_is_not_ready() -> None:
    assert converged({**source(), "status": {}}).state is State.WAITING
    assert converged({**source(), "status": {"observedGeneration": -1}}).state is State.WAITING
    assert converged(None).state is State.WAITING


def test_a_suspended_object_is_never_ready_though_it_acknowledges_every_request() -> None:
    verdict = converged(source(spec={"suspend": True}), COMMIT, "t2")
    assert verdict.state is State.SUSPENDED
    assert verdict.final


def test_a_failure_carries_flux_own_words_and_only_some_are_final() -> None:
    timeout = converged(source(ready={"status": "False", "reason": "GitOperationFailed", "message": "i/o timeout"}))
    denied = converged(source(ready={"status": "False", "reason": "AuthenticationFailed", "message": "401"}))
    assert (timeout.state, timeout.final, timeout.message) == (State.FAILED, False, "i/o timeout")
    assert (denied.state, denied.final) == (State.FAILED, True)


def test_a_failure_is_told_though_a_failed_reconcile_does_not_observe_the_generation() -> None:
    failed = source(ready={"status": "False", "reason": "ChartPullError"}, status={"observedGeneration": 1})
    assert converged(failed).state is State.FAILED


def test_stalled_is_red_even_beside_a_ready_that_is_true() -> None:
    stalled = {"type": "Stalled", "status": "True", "reason": "URLInvalid", "message": "bad", "observedGeneration": 2}
    assert converged(source(more=[stalled])).state is State.FAILED
    assert converged(source(more=[{**stalled, "observedGeneration": 1}])).state is State.READY


def test_a_later_request_that_overwrote_ours_counts_as_ours() -> None:
    later = source(
        metadata={"annotations": {"reconcile.fluxcd.io/requestedAt": "t9"}}, status={"lastHandledReconcileAt": "t9"}
    )
    assert converged(later, COMMIT, "t2").state is State.READY


def test_a_revision_is_read_in_every_spelling() -> None:
    assert commit_of(f"main@sha1:{COMMIT}") == commit_of(f"main/{COMMIT}") == commit_of(COMMIT) == COMMIT
    assert same_revision(f"main@sha1:{COMMIT}", f"main@sha1:{COMMIT}")
    assert not same_revision("", COMMIT)
    assert revision_of({"metadata": {}, "status": {"lastAppliedRevision": "main@sha1:a"}}) == "main@sha1:a"


def test_owner_and_source_come_from_flux_own_labels_and_references() -> None:
    labels = {"kustomize.toolkit.fluxcd.io/name": "apps", "kustomize.toolkit.fluxcd.io/namespace": "flux-system"}
    assert owner({"metadata": {"labels": labels}}, "kustomize.toolkit.fluxcd.io") == ("flux-system", "apps")
    assert owner({"metadata": {}}, "kustomize.toolkit.fluxcd.io") is None
    follows = {"metadata": {"namespace": "a"}, "spec": {"sourceRef": {"kind": "GitRepository", "name": "x"}}}
    assert source_of(follows) == ("a", "x")
    assert source_of(follows, "HelmRepository") is None


def kustomization(name: str, *needs: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "f"}, "spec": {"dependsOn": [{"name": n} for n in needs]}}


def test_kustomizations_go_in_the_order_of_what_they_depend_on() -> None:
    three = [kustomization("c", "b"), kustomization("b", "a", "elsewhere"), kustomization("a")]
    assert [[k["metadata"]["name"] for k in level] for level in in_order(three)] == [["a"], ["b"], ["c"]]
    assert depends_on(three[0]) == [("f", "b")]


def test_a_ring_of_dependencies_holds_nobody_up_here() -> None:
    assert len(in_order([kustomization("a", "b"), kustomization("b", "a")])) == 1


def test_the_time_a_field_was_set_is_the_newest_of_its_managers() -> None:
    fields = {"f:spec": {"f:url": {}}}
    obj = {
        "metadata": {
            "managedFields": [
                {"manager": "a", "time": "2026-04-30T10:00:00Z", "fieldsV1": fields},
                {"manager": "b", "time": "2026-04-30T10:00:09Z", "fieldsV1": fields},
                {"manager": "c", "time": "2026-04-30T11:00:00Z", "fieldsV1": {"f:spec": {"f:interval": {}}}},
                {"manager": "d", "time": "2026-04-30T12:00:00Z", "fieldsV1": fields, "subresource": "status"},
            ]
        }
    }
    assert (since := field_set_at(obj, "spec", "url")) is not None
    assert since.second == 9
    assert field_set_at(obj, "spec", "type") is None
    assert (fetched := fetched_at(source())) is not None
    assert fetched.second == 5
