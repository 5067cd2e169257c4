"""What the API server refuses, and in which words: the sandbox must not take what a real one would not."""

from __future__ import annotations

import base64
from typing import Any

import pytest

# conftest is not importable by name under importlib mode: fixtures carry these types.
Home = Any
Object = dict[str, Any]
APPLY, MERGE = "application/apply-patch+yaml", "application/merge-patch+json"
LABEL = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric"


def causes(answer: Any) -> dict[str, str]:
    """Field -> what is wrong with it, of a 422."""
    assert answer.status == 422, answer.body
    assert answer.body["reason"] == "Invalid"
    return {cause["field"]: cause["message"] for cause in answer.body["details"]["causes"]}


def applied(name: str = "", **data: str) -> Object:
    """A ConfigMap as one applies it; whoever leaves the name out relies on the path."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name} if name else {}, "data": data}


METADATA: list[tuple[Object, str, str]] = [
    ({"name": "Upper"}, "metadata.name", "a lowercase RFC 1123 subdomain must consist of"),
    ({"name": "x" * 254}, "metadata.name", "must be no more than 253 characters"),
    ({"name": "k", "generateName": "Bad_"}, "metadata.generateName", "a lowercase RFC 1123 subdomain"),
    ({"name": "k", "labels": {"a b": "x"}}, "metadata.labels", f'"a b": name part {LABEL}'),
    ({"name": "k", "labels": {"/b": "x"}}, "metadata.labels", "prefix part must be non-empty"),
    ({"name": "k", "labels": {"a/b/c": "x"}}, "metadata.labels", "with an optional DNS subdomain prefix"),
    ({"name": "k", "labels": {"a": "x" * 64}}, "metadata.labels", "must be no more than 63 bytes"),
    ({"name": "k", "labels": {"a": "-x"}}, "metadata.labels", "a valid label must be an empty string or consist"),
    ({"name": "k", "annotations": {"x" * 64: ""}}, "metadata.annotations", "no more than 63 bytes"),
    ({"name": "k", "annotations": {"a": "x" * 262144}}, "metadata.annotations", "may not be more than 262144"),
    ({"name": "k", "finalizers": ["bare"]}, "metadata.finalizers[0]", "neither a standard finalizer name nor"),
]


async def test_metadata_that_breaks_a_rule_is_refused_at_its_field(home: Home) -> None:
    for metadata, field, said in METADATA:
        found = causes(await home.kube.ask("POST", home.config_map(), {"metadata": metadata}))
        assert said in found[field], metadata


DATA: list[tuple[Object, str, str]] = [
    ({"data": {"a b": "x"}}, "data[a b]", "a valid config key must consist of"),
    ({"data": {"a": "x"}, "binaryData": {"a": "MQ=="}}, "data[a]", "duplicate of key present in binaryData"),
    ({"data": {"a": "x" * 1048577}}, "[]", "Too long: may not be more than 1048576 bytes"),
]
LARGE = pytest.mark.filterwarnings("ignore:Sending a large body")


@LARGE
async def test_data_that_breaks_a_rule_is_refused_at_its_key(home: Home) -> None:
    for more, field, said in DATA:
        found = causes(await home.kube.ask("POST", home.config_map(), {"metadata": {"name": "k"}, **more}))
        assert said in found[field]


@LARGE
async def test_a_secret_is_read_before_it_is_judged(home: Home) -> None:
    secrets = home.path("secrets")
    answer = await home.kube.ask("POST", secrets, {"metadata": {"name": "s"}, "data": {"a": "not base64!"}})
    assert answer.status == 400
    assert "illegal base64 data at input byte 3" in answer.body["message"]
    for kind, key in (("dockerconfigjson", ".dockerconfigjson"), ("dockercfg", ".dockercfg")):
        body = {"metadata": {"name": "s"}, "type": f"kubernetes.io/{kind}", "data": {"a": "MQ=="}}
        assert causes(await home.kube.ask("POST", secrets, body)) == {f"data[{key}]": "Required value"}
        body = {**body, "stringData": {key: "nojson"}}
        assert "redacted" in causes(await home.kube.ask("POST", secrets, body))[f"data[{key}]"]
    large = {"metadata": {"name": "s"}, "stringData": {"a": "x" * 1048577}}
    assert "1048576" in causes(await home.kube.ask("POST", secrets, large))["data"]


async def test_string_data_wins_over_data_and_is_never_read_back(home: Home) -> None:
    body = {"metadata": {"name": "s"}, "stringData": {"a": "1"}, "data": {"a": "Mg==", "b": "Mg=="}}
    made = await home.kube.make(home.path("secrets"), body)
    assert "stringData" not in made
    assert made["data"] == {"a": base64.b64encode(b"1").decode(), "b": "Mg=="}


async def test_what_is_marked_immutable_stays_and_stays_marked(home: Home) -> None:
    await home.kube.make(home.config_map(), {"metadata": {"name": "i"}, "data": {"a": "1"}, "immutable": True})
    said = "Forbidden: field is immutable when `immutable` is set"
    assert causes(await home.kube.merge(home.config_map("i"), {"data": {"a": "2"}})) == {"data": said}
    assert causes(await home.kube.merge(home.config_map("i"), {"immutable": False})) == {"immutable": said}
    assert (await home.kube.merge(home.config_map("i"), {"metadata": {"labels": {"a": "b"}}})).status == 200


async def test_an_object_on_its_way_out_takes_no_new_finalizer(home: Home) -> None:
    await home.kube.make(home.config_map(), {"metadata": {"name": "f", "finalizers": ["x.io/a"]}})
    await home.kube.ask("DELETE", home.config_map("f"))
    more = await home.kube.merge(home.config_map("f"), {"metadata": {"finalizers": ["x.io/a", "x.io/b"]}})
    assert "no new finalizers can be added" in causes(more)["metadata.finalizers"]
    assert (await home.kube.merge(home.config_map("f"), {"data": {"still": "written"}})).status == 200
    assert (await home.kube.merge(home.config_map("f"), {"metadata": {"finalizers": None}})).status == 200
    assert (await home.kube.ask("GET", home.config_map("f"))).status == 404


async def test_an_apply_says_itself_what_it_is_and_whose(home: Home) -> None:
    path = home.config_map("a")
    for body, said in (
        ({"data": {"k": "v"}}, "invalid object type: /, Kind="),
        ({**applied("a"), "kind": "Secret"}, "invalid object type: /v1, Kind=Secret"),
        (applied(k="v"), "the name of the object (a based on URL) was undeterminable: name must be provided"),
        (applied("other", k="v"), "the name of the object (other) does not match the name on the URL (a)"),
    ):
        answer = await home.kube.apply(path, body, "m")
        assert (answer.status, answer.body["message"]) == (400, said)
    assert (await home.kube.apply(path, applied("a", k="v"), "m")).status == 201


OPTIONS: list[tuple[str, str, dict[str, str], str, str, str]] = [
    ("PATCH", MERGE, {"force": "true"}, "Patch", "force", "may not be specified for non-apply patch"),
    ("PATCH", APPLY, {"fieldManager": "x" * 129}, "Patch", "fieldManager", "may not be more than 128 bytes"),
    ("PATCH", MERGE, {"dryRun": "Some"}, "Patch", "dryRun", 'supported values: "All"'),
    ("PATCH", MERGE, {"fieldValidation": "Some"}, "Patch", "fieldValidation", '"", "Ignore", "Strict", "Warn"'),
    ("DELETE", MERGE, {"propagationPolicy": "Some"}, "Delete", "propagationPolicy", '"Foreground", "Background"'),
    ("DELETE", MERGE, {"dryRun": "Some"}, "Delete", "dryRun", 'supported values: "All"'),
]


async def test_options_that_mean_nothing_are_refused_and_nothing_is_done(home: Home) -> None:
    made = await home.kube.make(home.config_map(), applied("a", k="v"))
    for method, kind, query, options, field, said in OPTIONS:
        body = applied("a", k="w") if method == "PATCH" else None
        answer = await home.kube.ask(method, home.config_map("a"), body, kind=kind, **query)
        assert said in causes(answer)[field]
        assert answer.body["details"]["kind"] == f"{options}Options"
    assert (await home.kube.ask("GET", home.config_map("a"))).body == made


async def test_a_dry_run_is_judged_as_if_it_were_meant(home: Home) -> None:
    answer = await home.kube.apply(home.config_map("d"), applied("d", k="v"), "m", dryRun="All")
    assert (answer.status, answer.body["data"]) == (201, {"k": "v"})
    assert (await home.kube.ask("GET", home.config_map("d"))).status == 404
    await home.kube.apply(home.config_map("d"), applied("d", k="v"), "m")
    other = await home.kube.apply(home.config_map("d"), applied("d", k="w"), "other", dryRun="All")
    assert (other.status, other.body["reason"]) == (409, "Conflict")
    assert "conflict with" in other.body["message"]


async def test_lists_are_asked_for_in_words_that_are_known(home: Home) -> None:
    for query, status, said in (
        ({"limit": "x"}, 400, 'strconv.ParseInt: parsing "x": invalid syntax'),
        ({"continue": "garbage"}, 400, "invalid continue token: continue key is not valid"),
        ({"fieldSelector": "spec.x=1"}, 400, '"spec.x" is not a known field selector: only "metadata.name", "metadata'),
        ({"fieldSelector": "garbage"}, 400, "invalid selector: 'garbage'; can't understand 'garbage'"),
        ({"labelSelector": "a in b"}, 400, "unable to parse requirement: found"),
        (
            {"resourceVersionMatch": "Exact"},
            422,
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
    ):
        answer = await home.kube.ask("GET", home.config_map(), **query)
        assert answer.status == status, query
        assert said in answer.body["message"]


async def test_pods_are_selected_by_where_they_are_and_how_far(home: Home) -> None:
    containers = {"containers": [{"name": "c", "image": "x.test/y:1"}]}
    for name, more in (("here", {"nodeName": "contract-none"}), ("there", {"nodeSelector": {"contract": "none"}})):
        await home.kube.make(home.path("pods"), {"metadata": {"name": name}, "spec": {**containers, **more}})

    async def names(selector: str) -> list[str]:
        answer = await home.kube.ask("GET", home.path("pods"), fieldSelector=selector)
        return [item["metadata"]["name"] for item in answer.body["items"]]

    assert await names("spec.nodeName=contract-none") == ["here"]
    assert await names("metadata.name=there,status.phase=Pending") == ["there"]
    assert await names("status.phase!=Pending") == []
    refused = await home.kube.ask("GET", home.path("pods"), fieldSelector="spec.image=x")
    assert (refused.status, refused.body["message"]) == (400, "field label not supported: spec.image")
    for name in ("here", "there"):
        await home.kube.ask("DELETE", home.path("pods", name), {"gracePeriodSeconds": 0})


async def test_addresses_of_a_policy_are_networks(home: Home) -> None:
    def policy(**block: Any) -> Object:
        return {"metadata": {"name": "p"}, "spec": {"podSelector": {}, "egress": [{"to": [{"ipBlock": block}]}]}}

    place = "spec.egress[0].to[0].ipBlock"
    for block, field, said in (
        ({"cidr": "10.0.0.0"}, "cidr", "must be a valid CIDR value"),
        ({"cidr": "10.0.0.1/8"}, "cidr", "must not have bits set beyond the prefix length"),
        ({"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}, "except[0]", "must be a strict subset of `cidr`"),
    ):
        answer = await home.kube.ask("POST", home.path("networkpolicies", "", "networking.k8s.io"), policy(**block))
        assert said in causes(answer)[f"{place}.{field}"]


async def test_a_role_without_verbs_is_refused(home: Home) -> None:
    body = {"metadata": {"name": "r"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"]}]}
    answer = await home.kube.ask("POST", home.path("roles", "", "rbac.authorization.k8s.io"), body)
    assert causes(answer) == {"rules[0].verbs": "Required value: verbs must contain at least one value"}


async def test_a_pod_that_no_kubelet_could_run_is_refused(home: Home) -> None:
    for more, field in (
        ({"name": "C_x", "image": "x"}, "name"),
        ({"name": "c", "image": " x"}, "image"),
        ({"name": "c", "image": "x", "imagePullPolicy": "Some"}, "imagePullPolicy"),
    ):
        body = {"metadata": {"name": "p"}, "spec": {"containers": [more]}}
        assert f"spec.containers[0].{field}" in causes(await home.kube.ask("POST", home.path("pods"), body))
