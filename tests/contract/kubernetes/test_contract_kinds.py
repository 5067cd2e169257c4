"""What our adapters rely on in builtin kinds and in access, asked of the sandbox and (KUBECONFIG) of a real server."""

from __future__ import annotations

import asyncio
from typing import Any

# conftest is not importable by name under importlib mode: fixtures carry these types.
Home = Any
Object = dict[str, Any]


def named(name: str) -> Object:
    """An empty ConfigMap, whole."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}


def deployment(**container: Any) -> Object:
    labels = {"app": "api"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "api"},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "api", "image": "registry.example/api:1", **container}]},
            },
        },
    }


async def test_variables_of_a_container_merge_by_name(home: Home) -> None:
    collection = home.path("deployments", group="apps")
    await home.kube.make(collection, deployment(env=[{"name": "PORT", "value": "8080"}]))
    change = {"name": "api", "env": [{"name": "URL", "value": "http://gitea.example"}]}
    body = {"spec": {"template": {"spec": {"containers": [change]}}}}
    kind = "application/strategic-merge-patch+json"
    merged = (await home.kube.ask("PATCH", f"{collection}/api", body, kind=kind)).body
    env = merged["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {item["name"] for item in env} == {"PORT", "URL"}
    applied = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "api"}, **body}
    change["env"] = [{"name": "URL", "value": "http://other.example"}]
    forced = (await home.kube.apply(f"{collection}/api", applied, "us", force="true")).body
    env = forced["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {item["name"]: item["value"] for item in env} == {"PORT": "8080", "URL": "http://other.example"}


async def test_a_variable_has_a_value_or_a_source(home: Home) -> None:
    source = {"configMapKeyRef": {"name": "c", "key": "k"}}
    both = deployment(env=[{"name": "URL", "value": "x", "valueFrom": source}])
    answer = await home.kube.ask("POST", home.path("deployments", group="apps"), both)
    assert answer.status == 422
    fields = [cause["field"] for cause in answer.body["details"]["causes"]]
    assert fields == ["spec.template.spec.containers[0].env[0].valueFrom"]


async def test_the_selector_of_a_deployment_stays(home: Home) -> None:
    collection = home.path("deployments", group="apps")
    await home.kube.make(collection, deployment())
    answer = await home.kube.merge(f"{collection}/api", {"spec": {"selector": {"matchLabels": {"app": "b"}}}})
    assert answer.status == 422


async def test_the_type_of_a_secret_stays(home: Home) -> None:
    secrets = home.path("secrets")
    await home.kube.make(secrets, {"metadata": {"name": "s"}, "stringData": {"k": "v"}, "type": "Opaque"})
    read = (await home.kube.ask("GET", f"{secrets}/s")).body
    assert read["data"] == {"k": "dg=="}
    assert "stringData" not in read
    answer = await home.kube.merge(f"{secrets}/s", {"type": "kubernetes.io/tls"})
    assert (answer.status, answer.body["reason"]) == (422, "Invalid")


async def test_a_token_is_good_for_its_audience_and_grants(home: Home) -> None:
    accounts = home.path("serviceaccounts")
    await home.kube.make(accounts, {"metadata": {"name": "runner"}})
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token = (await home.kube.make(f"{accounts}/runner/token", asked))["status"]["token"]
    elsewhere = {**asked, "spec": {"audiences": ["elsewhere"]}}
    other = (await home.kube.make(f"{accounts}/runner/token", elsewhere))["status"]["token"]

    assert (await home.kube.ask("GET", home.config_map(), token="nobody's")).status == 401
    assert (await home.kube.ask("GET", home.config_map(), token=other)).status == 401
    refused = await home.kube.ask("GET", home.config_map("status"), token=token)
    assert (refused.status, refused.body["reason"]) == (403, "Forbidden")

    rbac = "rbac.authorization.k8s.io"
    rule = {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["status"]}
    role = {"metadata": {"name": "r"}, "rules": [{**rule, "verbs": ["get", "create", "patch"]}]}
    await home.kube.make(home.path("roles", group=rbac), role)
    subject = {"kind": "ServiceAccount", "name": "runner", "namespace": home.name}
    binding = {
        "metadata": {"name": "r"},
        "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "r"},
        "subjects": [subject],
    }
    await home.kube.make(home.path("rolebindings", group=rbac), binding)
    await asyncio.sleep(0.3)  # a real server's authorizer learns of it by watch
    kind, query = "application/apply-patch+yaml", {"fieldManager": "us"}
    made = await home.kube.ask("PATCH", home.config_map("status"), named("status"), kind=kind, token=token, **query)
    assert made.status == 201, made.body
    narrower = {"rules": [{**rule, "resourceNames": ["status", "new"], "verbs": ["get", "patch"]}]}
    assert (await home.kube.merge(home.path("roles", "r", rbac), narrower)).status == 200
    await asyncio.sleep(0.3)
    new = await home.kube.ask("PATCH", home.config_map("new"), named("new"), kind=kind, token=token, **query)
    assert new.status == 403, "an apply that creates needs the verb create too"
    another = await home.kube.ask("PATCH", home.config_map("other"), named("other"), kind=kind, token=token, **query)
    assert another.status == 403

    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview"}
    answer = await home.kube.make(
        "/apis/authentication.k8s.io/v1/tokenreviews",
        {**review, "spec": {"token": other, "audiences": ["elsewhere"]}},
    )
    assert answer["status"]["authenticated"]
    assert answer["status"]["user"]["username"] == f"system:serviceaccount:{home.name}:runner"
