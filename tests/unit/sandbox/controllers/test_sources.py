from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from sandbox.controllers.gitfetch import DENIED, authorization, included, select
from sandbox.controllers.helm import config_digest, helm_chart
from sandbox.controllers.oci import Credentials, docker_config, split_reference
from sandbox.controllers.packages import runtime
from sandbox.controllers.workloads import settled, template_hash


def secret(auths: Any) -> dict[str, Any]:
    raw = json.dumps({"auths": auths}).encode()
    return {"data": {".dockerconfigjson": base64.b64encode(raw).decode()}}


def test_a_pull_secret_serves_exactly_the_hosts_it_names() -> None:
    config = secret(
        {"ghcr.io": {"username": "u", "password": "p"}, "x.io": {"auth": base64.b64encode(b"a:b").decode()}}
    )
    assert docker_config(config, "ghcr.io") == Credentials("u", "p")
    assert docker_config(config, "x.io") == Credentials("a", "b")
    assert docker_config(config, "harbor.sovereign.test") is None
    assert docker_config({"data": {".dockerconfigjson": "!!"}}, "ghcr.io") is None


def test_credentials_do_not_print_their_password() -> None:
    assert "hunter2" not in repr(Credentials("u", "hunter2"))


@pytest.mark.parametrize(
    ("reference", "parts"),
    [
        ("h.io/a/b:1", ("h.io", "a/b", "1")),
        ("h.io/a", ("h.io", "a", "latest")),
        ("h.io:5000/a:1@sha256:00", ("h.io:5000", "a", "sha256:00")),
    ],
)
def test_references_come_apart(reference: str, parts: tuple[str, str, str]) -> None:
    assert split_reference(reference) == parts


@pytest.mark.parametrize(
    ("ref", "expected"),
    [
        ({}, ("refs/heads/master", "master")),
        ({"branch": "main"}, ("refs/heads/main", "main")),
        ({"branch": "main", "tag": "v1"}, ("refs/tags/v1", "v1")),
        ({"tag": "v1", "name": "refs/heads/x"}, ("refs/heads/x", "refs/heads/x")),
    ],
)
def test_the_ref_that_is_fetched_follows_the_precedence_of_flux(ref: dict[str, str], expected: tuple[str, str]) -> None:
    assert select(ref) == expected


def test_an_ignore_block_of_the_usual_form_says_what_is_kept() -> None:
    assert included("/*\n!/clusters/_template\n!/platform/\n") == ("clusters/_template", "platform")
    assert included("*.md") == ()
    assert included(None) == ()


def test_git_credentials_become_a_header() -> None:
    assert authorization({}) is None
    assert authorization({"bearerToken": "t"}) == "Authorization: Bearer t"
    assert authorization({"username": "u", "password": "p"}) == "Authorization: Basic dTpw"


@pytest.mark.parametrize(
    ("text", "denied"),
    [
        ("fatal: Authentication failed for 'http://x/'", True),
        ("fatal: could not read Username for 'http://x'", True),
        ("error: RPC failed; HTTP 403", True),
        ("fatal: unable to access 'x': The requested URL returned error: 503", False),
    ],
)
def test_a_refusal_is_told_from_an_outage(text: str, denied: bool) -> None:
    assert bool(DENIED.search(text)) is denied


RELEASE: dict[str, Any] = {
    "metadata": {"name": "bp-x", "namespace": "flux-system"},
    "spec": {
        "interval": "15m",
        "chart": {
            "spec": {"chart": "bp-x", "version": "1.0.0", "sourceRef": {"kind": "HelmRepository", "name": "bp-x"}}
        },
    },
}


def test_a_release_names_its_chart_after_itself() -> None:
    chart = helm_chart(RELEASE)
    assert chart["metadata"] == {"name": "flux-system-bp-x", "namespace": "flux-system"}
    assert (chart["spec"]["version"], chart["spec"]["interval"]) == ("1.0.0", "15m")


def test_equal_values_have_equal_digests_whatever_their_order() -> None:
    assert config_digest({"a": 1, "b": 2}) == config_digest({"b": 2, "a": 1}) != config_digest({"a": 1})


def test_a_provider_runs_the_package_itself() -> None:
    made = runtime({"metadata": {"name": "p"}, "spec": {"package": "h.io/p:1"}}, "p-123")
    [container] = made["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "h.io/p:1"


def test_another_template_has_another_hash() -> None:
    assert template_hash({"a": 1, "b": 2}) == template_hash({"b": 2, "a": 1}) != template_hash({"a": 2})


def test_a_deployment_is_settled_only_with_its_newest_template_and_no_old_pod() -> None:
    def deployment(**counts: int) -> dict[str, Any]:
        return {"metadata": {"generation": 2}, "spec": {"replicas": 1}, "status": counts}

    good = {"observedGeneration": 2, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}
    assert settled(deployment(**good))
    assert not settled(deployment(**good | {"observedGeneration": 1}))
    assert not settled(deployment(**good | {"replicas": 2}))
    assert not settled({"metadata": {"generation": 1}, "spec": {"replicas": 0}})
