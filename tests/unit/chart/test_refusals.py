"""Values that are wrong are refused when they are installed, each with the path where it is wrong."""

from __future__ import annotations

from typing import Any

import helm_python
import pytest
from chart_matrix import API, DIGEST, EMBEDDED, full

from sandbox import blueprint
from sandbox.blueprint import CHART, merged
from workers.entrypoints import values_schema

Object = dict[str, Any]
render = blueprint.render


def sovereign(**parts: Any) -> Object:
    return {"settings": {"sovereign": parts}}


WRONG: dict[str, tuple[Object, str]] = {
    "no-name-of-the-sovereign": ({"global": {"sovereignFQDN": ""}}, "/global/sovereignFQDN"),
    "no-digest": ({"image": {"digest": ""}}, "/image/digest"),
    "a-tag-for-a-digest": ({"image": {"digest": "latest"}}, "/image/digest"),
    "a-typo-at-the-top": ({"sttings": {}}, "'sttings' not allowed"),
    "a-typo-in-a-setting": ({"settings": {"sovereign": {"flux": {"namespce": "x"}}}}, "/settings/sovereign/flux"),
    "a-typo-in-a-list": (
        {"settings": {"sovereign": {"upstreams": [{"host": "ghcr.io", "projct": "x"}]}}},
        "/settings/sovereign/upstreams/0",
    ),
    "a-secret-written-out": (
        {"settings": {"sovereign": {"gitea": {"login": {"password": "s3cret"}}}}}, "/settings/sovereign/gitea/login",
    ),
    "no-secret-for-gitea": (
        {"settings": {"sovereign": {"gitea": {"login": {"password_secret": None}}}}},
        "/settings/sovereign/gitea/login",
    ),
    "no-key-in-a-secret": (
        {"settings": {"sovereign": {"harbor": {"login": {"password_secret": {"name": "x", "key": None}}}}}},
        "/settings/sovereign/harbor/login/password_secret",
    ),
    "no-secret-for-a-class": ({"broker": {"secrets": {"proof": None}}}, "/broker/secrets"),
    "text-for-a-number": ({"workers": {"supply": {"replicas": "2"}}}, "/workers/supply/replicas"),
    "a-number-for-a-list": ({"settings": {"sovereign": {"extra_images": 3}}}, "/settings/sovereign/extra_images"),
    "a-hold-too-short": ({"settings": {"sovereign": {"proof": {"hold": 10}}}}, "/settings/sovereign/proof"),
    "a-manager-that-flux-undoes": (
        {"settings": {"sovereign": {"field_manager": "kubectl-cutover"}}}, "/settings/sovereign/field_manager",
    ),
    "an-unknown-means": ({"rbac": {"means": ["Prayer"]}}, "/rbac/means/0"),
    "an-api-that-knows-nobody": ({"api": {"enabled": True}}, "/settings"),
    "auto-fire-without-handover": ({"settings": {"auto_fire": {"enabled": True}}}, "/settings"),
    "a-broker-without-a-digest": ({"broker": {"embedded": {"enabled": True}}}, "/broker/embedded/image/digest"),
    "apis-that-know-not-each-others-tickets": (full({**API, "api": {"enabled": True, "replicas": 2}}), "/settings/api"),
    "a-route-to-nowhere": (full({**API, "api": {"enabled": True, "httpRoute": {"enabled": True}}}), "/api/httpRoute"),
    "a-memory-of-words": (
        {"workers": {"proof": {"resources": {"requests": {"memory": "lots"}}}}},
        "/workers/proof/resources/requests/memory",
    ),
    "a-relative-path": ({"nodeAgent": {"certsDir": "etc/certs"}}, "/nodeAgent/certsDir"),
    "a-login-upstream-without-its-secret": (
        sovereign(upstreams=[{"host": "ghcr.io", "project": "p", "login": {"username": "x"}}]),
        "/settings/sovereign/upstreams/0/login",
    ),
    "a-mothership-login-without-a-key": (
        sovereign(mothership_login={"username": "x", "password_secret": {"name": "x"}}),
        "/settings/sovereign/mothership_login/password_secret",
    ),
    "a-word-for-a-secret": (
        sovereign(gitea={"login": {"password_secret": "x"}}), "/settings/sovereign/gitea/login/password_secret",
    ),
    "a-key-that-is-a-path": (
        sovereign(gitea={"login": {"password_secret": {"name": "x", "key": "../k"}}}),
        "/settings/sovereign/gitea/login/password_secret/key",
    ),
    "an-empty-name-for-a-brokers-secret": ({"broker": {"secrets": {"supply": ""}}}, "/broker/secrets/supply"),
    "a-class-with-a-typo": ({"workers": {"suply": {"replicas": 1}}}, "/workers"),
    "a-class-that-may-not-go-out": ({"network": {"outside": ["pivot"]}}, "/network/outside/0"),
    "a-tag-for-the-agent": (
        {"nodeAgent": {"image": {"repository": "harbor.x.test/a/b:latest"}}}, "/nodeAgent/image/repository",
    ),
    "an-address-for-a-name": ({"global": {"sovereignFQDN": "https://x.test"}}, "/global/sovereignFQDN"),
    "a-broker-without-a-scheme": ({"settings": {"nats": {"url": "nats:4222"}}}, "/settings/nats/url"),
    "a-broker-with-its-password": ({"settings": {"nats": {"url": "nats://u:p@nats:4222"}}}, "/settings/nats/url"),
    "replicas-in-words": ({"settings": {"nats": {"replicas": "3"}}}, "/settings/nats/replicas"),
    "too-many-replicas": ({"settings": {"nats": {"replicas": 9}}}, "/settings/nats/replicas"),
    "a-gitea-without-a-scheme": (sovereign(gitea={"url": "gitea:3000"}), "/settings/sovereign/gitea/url"),
    "a-harbor-without-a-scheme": (sovereign(harbor={"url": "harbor"}), "/settings/sovereign/harbor/url"),
    "an-unknown-scheme": (sovereign(harbor={"scheme": "ftp"}), "/settings/sovereign/harbor/scheme"),
    "an-upstream-without-a-scheme": (
        sovereign(upstream_git={"url": "github.com/x"}), "/settings/sovereign/upstream_git/url",
    ),
    "an-address-for-a-registry": (
        sovereign(upstreams=[{"host": "https://ghcr.io", "project": "p"}]), "/settings/sovereign/upstreams/0/host",
    ),
    "a-project-that-harbor-refuses": (
        sovereign(upstreams=[{"host": "ghcr.io", "project": "A b"}]), "/settings/sovereign/upstreams/0/project",
    ),
    "an-unknown-mode": (
        sovereign(upstreams=[{"host": "ghcr.io", "project": "p", "mode": "prxy"}]),
        "/settings/sovereign/upstreams/0/mode",
    ),
    "a-duration-for-seconds": (sovereign(flux={"timeout": "5m"}), "/settings/sovereign/flux/timeout"),
    "a-tree-from-the-root": (sovereign(tree="/etc"), "/settings/sovereign/tree"),
    "an-empty-image": (sovereign(extra_images=[""]), "/settings/sovereign/extra_images/0"),
    "a-word-for-yes": ({"settings": {"auto_fire": {"enabled": "true"}}}, "/settings/auto_fire/enabled"),
    "an-unknown-log-level": ({"settings": {"log_level": "LOUD"}}, "/settings/log_level"),
    "an-issuer-without-a-scheme": (
        {"settings": {"api": {"identity": {"issuer": "keycloak"}}}}, "/settings/api/identity/issuer",
    ),
    "an-account-by-half-its-name": (
        {"settings": {"api": {"service_accounts": {"audience": "x", "may_act": ["catalyst-api"]}}}},
        "/settings/api/service_accounts/may_act/0",
    ),
    "a-size-that-kubernetes-does-not-know": (
        {"broker": {"embedded": {"storage": "4GB"}}}, "/broker/embedded/storage",
    ),
    "credentials-of-somebody-elses-server": (merged(EMBEDDED, {"broker": {"login": "creds"}}), "/broker/login"),
    "an-interval-without-a-unit": (
        {"monitoring": {"serviceMonitor": {"interval": "30"}}}, "/monitoring/serviceMonitor/interval",
    ),
    "one-namespace-twice": (sovereign(secret_namespaces=["a", "a"]), "/settings/sovereign/secret_namespaces"),
    "nothing-for-catalyst-api": (sovereign(catalyst_api=None), "/settings/sovereign"),
    "nothing-for-crossplane": (sovereign(proof={"crossplane": None}), "/settings/sovereign/proof"),
    "an-address-without-its-length": ({"network": {"localCIDRs": ["10.0.0.0"]}}, "/network/localCIDRs/0"),
}  # fmt: skip


@pytest.mark.parametrize(("values", "path"), WRONG.values(), ids=WRONG)
def test_wrong_values_are_refused_with_their_path(values: Object, path: str) -> None:
    with pytest.raises(helm_python.HelmValuesError) as refusal:
        render(values)
    assert path in str(refusal.value)
    assert "s3cret" not in str(refusal.value)


CONTRADICTIONS: dict[str, tuple[Object, str]] = {
    "flux-where-nothing-is-granted": (sovereign(flux={"namespace": "gitops"}), "settings.sovereign.flux.namespace"),
    "a-release-where-nothing-is-granted": (
        sovereign(catalyst_api={"release_namespace": "apps"}), "settings.sovereign.catalyst_api.release_namespace",
    ),
    "agents-among-the-workers": (
        sovereign(nodes={"namespace": blueprint.NAMESPACE}), "settings.sovereign.nodes.namespace",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("values", "path"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_values_that_contradict_each_other_are_refused_with_the_path_of_one(values: Object, path: str) -> None:
    with pytest.raises(helm_python.HelmError) as refusal:
        render(values)
    assert path in str(refusal.value)


@pytest.mark.parametrize("name", ["a-typo-in-a-setting", "a-gitea-without-a-scheme", "no-digest"])
def test_lint_says_the_same(name: str) -> None:
    values, path = WRONG[name]
    report = helm_python.lint(CHART, full(values), strict=True)
    assert path in "".join(str(m) for m in report["messages"] if m["severity"] > 1)


def test_the_schema_is_made_of_the_settings_models() -> None:
    assert values_schema.PLACE.read_bytes() == values_schema.rendered(), "python -m workers.entrypoints.values_schema"


def test_every_object_of_the_schema_is_closed() -> None:
    """But two kinds: maps of words, and `global`, in which Helm hands over what is other charts'."""
    loose = []

    def walk(schema: Any, path: str) -> None:
        if isinstance(schema, dict):
            if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
                loose.append(path)
            for key, value in schema.items():
                walk(value, f"{path}/{key}")
        elif isinstance(schema, list):
            for item in schema:
                walk(item, path)

    walk(values_schema.values(), "")
    words = [path for path in loose if path.rpartition("/")[2] in ("labels", "annotations", "nodeSelector")]
    assert set(loose) - set(words) == {"/properties/global"}


@pytest.mark.parametrize("digest", ["", DIGEST.upper()])
def test_an_image_is_never_named_by_a_tag(digest: str) -> None:
    with pytest.raises(helm_python.HelmValuesError):
        render({"image": {"digest": digest}})
