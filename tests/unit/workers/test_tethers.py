"""Every string that names the mothership is found, and nothing that only looks like it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from workers.sovereign import Gitea, Harbor, Login, Sovereign
from workers.tethers import Names, auths_of, in_object, registry_hosts, strings, with_auths, written_by

LOGIN = Login(username="u", password_file=Path("/absent"))


def names(fqdn: str = "sov.test") -> Names:
    return Names.of(
        Sovereign(
            fqdn=fqdn,
            gitea=Gitea(url="http://127.0.0.1:1", login=LOGIN),
            harbor=Harbor(url="http://127.0.0.1:2", host=f"harbor.{fqdn}", login=LOGIN),
        )
    )


@pytest.mark.parametrize(
    ("text", "which"),
    [
        ("oci://ghcr.io/openova-io", "ghcr.io/openova-io"),
        ("ghcr.io/openova-io/openova/catalyst-api:4f80be2", "ghcr.io/openova-io"),
        ("https://github.com/openova-io/openova.git", "github.com/openova-io/openova"),
        ("https://console.openova.io/x", "console.openova.io"),
        ("--registry=harbor.openova.io:443/proxy", "harbor.openova.io"),
        ("smtp://mail.OPENOVA.io", "mail.openova.io"),
        ("oci://ghcr.io/openova-io-fork/x", None),
        ("oci://ghcr.io/fluxcd", None),
        ("https://github.com/openova-io/openova-docs", None),
        ("notopenova.io", None),
        ("harbor.sov.test/openova-io/bp-x", None),
        ("http://gitea-http.gitea.svc.cluster.local:3000/openova/openova", None),
        ("", None),
    ],
)
def test_a_text_names_the_mothership_or_not(text: str, which: str | None) -> None:
    assert names().in_text(text) == which


def test_a_sovereign_below_the_mothership_s_own_domain_is_not_a_tether_to_itself() -> None:
    near = names("acme.openova.io")
    assert near.in_text("https://harbor.acme.openova.io/v2/") is None
    assert near.in_text("https://harbor.openova.io/v2/") == "harbor.openova.io"


@pytest.mark.parametrize(
    ("host", "upstream"),
    [
        ("ghcr.io", True),
        ("GHCR.io:443", True),
        ("index.docker.io", True),
        ("registry-1.docker.io:443", True),
        ("Harbor.openova.io", True),
        ("ghcr.io:5000", False),
        ("harbor.sov.test", False),
        ("registry.customer.lan", False),
    ],
)
def test_a_registry_stands_upstream_however_its_host_is_spelled(host: str, upstream: bool) -> None:
    assert names().foreign_registry(host) is upstream


def deployment(**container: Any) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "api", "namespace": "c", "labels": {"catalyst.openova.io/sovereign": "sov.test"}},
        "spec": {"template": {"spec": {"containers": [{"name": "api", **container}]}}},
        "status": {"message": "pulled from harbor.openova.io"},
    }


def test_a_finding_says_where_but_never_the_value() -> None:
    secret = "https://bot:hunter2@git.openova.io/x"
    (found,) = in_object(deployment(env=[{"name": "REPO", "value": secret}]), names())
    assert found.path == "spec.template.spec.containers[api].env[REPO].value"
    assert found.names == "git.openova.io"
    assert "hunter2" not in str(found)


def test_labels_kinds_and_status_are_not_addresses() -> None:
    assert in_object(deployment(image="quay.io/x/y:1"), names()) == ()


def pull_secret(**auths: Any) -> dict[str, Any]:
    encoded = base64.b64encode(json.dumps({"auths": auths}).encode()).decode()
    return {
        "kind": "Secret",
        "metadata": {"name": "ghcr-pull", "namespace": "flux-system"},
        "data": {".dockerconfigjson": encoded},
    }


def test_of_a_pull_secret_only_the_hosts_are_told() -> None:
    secret = pull_secret(**{"ghcr.io": {"auth": "c2VjcmV0"}, "harbor.sov.test": {}, "https://index.docker.io/v1/": {}})
    found = in_object(secret, names())
    assert [t.names for t in found] == ["ghcr.io", "docker.io"]
    assert "c2VjcmV0" not in repr(found)
    assert registry_hosts(secret) == ("ghcr.io", "harbor.sov.test", "docker.io")


def test_a_pull_secret_that_cannot_be_read_is_trouble_and_not_clean() -> None:
    secret = pull_secret()
    secret["data"][".dockerconfigjson"] = base64.b64encode(b"{not json").decode()
    with pytest.raises(ValueError, match="not readable"):
        in_object(secret, names())
    assert auths_of({"data": {"password": "x"}}) == {}


def test_the_older_spelling_of_a_pull_secret_is_read_and_written_as_it_is() -> None:
    encoded = base64.b64encode(b'{"https://ghcr.io/v2/": {"auth": "x"}}').decode()
    secret = {"kind": "Secret", "metadata": {"name": "old"}, "data": {".dockercfg": encoded}}
    (found,) = in_object(secret, names())
    assert (found.path, found.names) == (".dockercfg.auths[ghcr.io]", "ghcr.io")
    assert base64.b64decode(with_auths(secret, {"a": {}})) == b'{"a":{}}'
    secret["data"] = {".dockercfg": base64.b64encode(b"[]").decode()}
    with pytest.raises(ValueError, match=r"\.dockercfg has no mapping"):
        auths_of(secret)


def test_a_secret_says_who_makes_it_or_nobody_does() -> None:
    meta = {"name": "s", "labels": {"kustomize.toolkit.fluxcd.io/name": "secrets"}}
    notes = {"reflector.v1.k8s.emberstack.com/reflects": "flux-system/ghcr-pull"}
    assert "Kustomization secrets" in written_by({"metadata": meta})
    assert "Reflector from flux-system/ghcr-pull" in written_by({"metadata": {"annotations": notes}})
    assert written_by({"metadata": {"name": "s"}}) == ""


def test_every_string_is_walked_with_its_path() -> None:
    assert dict(strings({"a": [{"name": "n", "b": "1"}, ["2"]], "c": 3})) == {
        "a[n].name": "n",
        "a[n].b": "1",
        "a[1][0]": "2",
    }
