"""What ties a Sovereign, judged by who pulls: every rule on objects as they come from the API."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from schemas.nodes import Mirror, NodePlan, NodeReport
from workers.adapters.cluster_kinds import CONFIG_MAP, DEPLOYMENT, GIT_REPOSITORY, HELM_REPOSITORY, NODE, POD, SECRET
from workers.adapters.containerd import plan_digest
from workers.audit import finding as kinds
from workers.audit import report
from workers.audit.finding import Audit, Severity
from workers.audit.rules import Judge, node_fault
from workers.audit.survey import Inventory, judged, unread, workloads
from workers.sovereign import Gitea, Harbor, Login, Sovereign
from workers.steps import registry_pivot
from workers.tethers import tied

LOGIN = Login(username="u", password_file=Path("/absent"))
SOVEREIGN = Sovereign(
    fqdn="sov.test",
    gitea=Gitea(url="http://127.0.0.1:1", login=LOGIN),
    harbor=Harbor(url="http://127.0.0.1:2", host="harbor.sov.test", login=LOGIN),
)
PLAN = registry_pivot.plan(SOVEREIGN)
AT = datetime(2026, 11, 23, tzinfo=UTC)


def judge(pivoted: bool = True) -> Judge:
    return Judge.of(SOVEREIGN, PLAN if pivoted else None, pivoted)


def obj(kind: str, spec: dict[str, Any], name: str = "x", namespace: str = "ns", **meta: Any) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": name, "namespace": namespace, **meta}, "spec": spec}


def deployment(image: str, env: list[dict[str, Any]] | None = None, name: str = "app") -> dict[str, Any]:
    container = {"name": "main", "image": image, "env": env or []}
    return obj("Deployment", {"template": {"spec": {"containers": [container]}}}, name)


@pytest.mark.parametrize(
    ("kind", "field", "text", "severity"),
    [
        ("GitRepository", "url", "https://github.com/openova-io/openova", Severity.TETHER),
        ("GitRepository", "url", "ssh://git@github.com/openova-io/openova", Severity.TETHER),
        ("GitRepository", "url", "https://gitlab.example.org/team/thing", Severity.EXTERNAL),
        ("GitRepository", "url", "http://gitea-http.gitea.svc.cluster.local:3000/openova/openova", None),
        ("GitRepository", "url", "http://gitea-http.gitea.svc.cluster.local.evil.example/o", Severity.EXTERNAL),
        ("HelmRepository", "url", "oci://ghcr.io/openova-io", Severity.TETHER),
        ("HelmRepository", "url", "oci://harbor.sov.test/openova-io", None),
        ("HelmRepository", "url", "oci://notharbor.sov.test.example/openova-io", Severity.EXTERNAL),
        ("HelmRepository", "url", "https://charts.loft.sh", Severity.EXTERNAL),
        ("OCIRepository", "url", "oci://quay.io/third/party", Severity.TETHER),
        ("Provider", "package", "xpkg.upbound.io/a/b:v1", Severity.TETHER),
        ("Provider", "package", "crossplane-contrib/provider-hcloud:v1", Severity.TETHER),
        ("Provider", "package", "harbor.sov.test/proxy-xpkg/a/b:v1", None),
        ("Bucket", "endpoint", "minio.minio.svc.cluster.local:9000", None),
        ("ImageRepository", "image", "ghcr.io/someone/app", Severity.TETHER),
        ("HelmChart", "chart", "traefik", None),
        ("Plan", "channel", "https://update.k3s.io/v1-release/channels/stable", Severity.EXTERNAL),
    ],
)
def test_a_source_is_tied_by_the_exact_host_that_it_names(
    kind: str, field: str, text: str, severity: Severity | None
) -> None:
    found = list(judge().source(obj(kind, {field: text})))
    assert [f.severity for f in found] == ([severity] if severity else [])


def test_an_image_is_a_tether_until_every_node_asks_harbor_for_its_host() -> None:
    image = deployment("ghcr.io/openova-io/openova/api:1")
    assert [f.tether for f in judge(pivoted=False).workload(image, {})] == [7]
    assert list(judge(pivoted=True).workload(image, {})) == []


def test_once_the_nodes_are_pivoted_an_agent_that_a_new_node_must_fetch_from_outside_is_told() -> None:
    def told(image: str, pivoted: bool = True, namespace: str = "catalyst-cutover-nodes") -> list[tuple[int, str]]:
        spec = {"template": {"spec": {"containers": [{"name": "node-agent", "image": image}]}}}
        agent = obj("DaemonSet", spec, "cutover-node-agent", namespace)
        return [(f.tether, f.severity) for f in judge(pivoted).workload(agent, {})]

    outside = "ghcr.io/openova-io/catalyst-cutover@sha256:" + "0" * 64
    assert told(outside) == [(7, Severity.NOTICE)]
    assert told(outside.replace("ghcr.io", "harbor.sov.test/proxy-ghcr")) == []
    assert told(outside, namespace="elsewhere") == []
    assert told(outside, pivoted=False) == [(7, Severity.TETHER)]


def test_an_image_of_a_host_that_no_project_stands_in_for_leads_outside_whatever_the_nodes_hold() -> None:
    [found] = judge().workload(deployment("registry.example.org/team/app:1"), {})
    assert (found.tether, found.severity, found.host) == (0, Severity.EXTERNAL, "registry.example.org")


@pytest.mark.parametrize(
    ("value", "severity"),
    [
        ("https://console.openova.io/x", Severity.TETHER),
        ("https://idp.example.org", Severity.NOTICE),
        ("http://thing.ns.svc.cluster.local", None),
        ("https://console.sov.test", None),
        ("plain text", None),
    ],
)
def test_a_setting_counts_only_when_it_names_the_mothership(value: str, severity: Severity | None) -> None:
    found = list(judge().workload(deployment("harbor.sov.test/a/b:1", [{"name": "URL", "value": value}]), {}))
    assert [f.severity for f in found] == ([severity] if severity else [])


def test_a_setting_is_followed_into_its_config_map() -> None:
    env = [{"name": "URL", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}]
    config = {("ns", "c"): {"data": {"k": "https://api.openova.io"}}}
    [found] = judge().workload(deployment("harbor.sov.test/a/b:1", env), config)
    assert (found.field, found.host) == ("env[URL] of main", "api.openova.io")


def test_catalyst_api_without_its_variable_falls_back_upstream_and_absent_is_unknown() -> None:
    api = deployment("harbor.sov.test/a/b:1")
    assert [f.severity for f in judge().catalyst_api(api)] == [Severity.TETHER]
    assert [f.severity for f in judge().catalyst_api(None)] == [Severity.UNREADABLE]


def secret(name: str, *hosts: str, raw: str | None = None) -> dict[str, Any]:
    auths = {"auths": {host: {"username": "u", "password": "hidden-word"} for host in hosts}}
    data = raw if raw is not None else base64.b64encode(json.dumps(auths).encode()).decode()
    return {
        "kind": "Secret",
        "metadata": {"name": name, "namespace": "ns"},
        "data": {".dockerconfigjson": data},
    }


def test_credentials_of_the_mothership_are_a_tether_and_a_customers_own_login_is_none() -> None:
    own = {"kind": "Secret", "metadata": {"name": "mine", "namespace": "ns"}}
    auths = {"auths": {"ghcr.io": {"username": "me", "password": "other"}}}
    own["data"] = {".dockerconfigjson": base64.b64encode(json.dumps(auths).encode()).decode()}
    found = list(judge().secrets([secret("ghcr-pull", "ghcr.io", "harbor.sov.test"), own], set()))
    assert [(f.name, f.host, f.severity) for f in found] == [
        ("ghcr-pull", "ghcr.io", Severity.TETHER),
        ("mine", "ghcr.io", Severity.NOTICE),
    ]
    assert "hidden-word" not in repr(found)


def test_a_secret_that_cannot_be_read_hides_no_other() -> None:
    found = list(judge().secrets([secret("broken", raw="%%%"), secret("ghcr-pull", "ghcr.io")], set()))
    assert [f.severity for f in found] == [Severity.UNREADABLE, Severity.TETHER]


def answer(result: str = "v2", plan: NodePlan = PLAN) -> NodeReport:
    return NodeReport.model_validate({"node": "n", "digest": plan_digest(plan), "result": result, "at": AT})


OTHER = NodePlan(registry="harbor.sov.test", mirrors=(Mirror(host="ghcr.io", endpoint="https://harbor.sov.test/v2/x"),))


@pytest.mark.parametrize(
    ("plan", "said", "severity"),
    [
        (None, None, Severity.TETHER),
        (PLAN, None, Severity.UNREADABLE),
        (PLAN, answer("failed"), Severity.TETHER),
        (PLAN, answer(plan=OTHER), Severity.TETHER),
        (PLAN, answer(), None),
    ],
)
def test_only_a_node_that_acknowledged_this_very_plan_is_free(
    plan: NodePlan | None, said: NodeReport | None, severity: Severity | None
) -> None:
    fault = node_fault(plan, said)
    assert (fault[0] if fault else None) is severity


def test_a_plan_that_leaves_a_host_out_or_leads_elsewhere_ties_every_node() -> None:
    node = {"kind": "Node", "metadata": {"name": "n"}}
    found = list(judge().nodes([node], OTHER, {"n": answer(plan=OTHER)}))
    assert "docker.io" in {f.host for f in found if f.tether == 2}
    away = NodePlan(registry="r", mirrors=(Mirror(host="ghcr.io", endpoint="https://harbor.openova.io/v2/x"),))
    found = list(judge().nodes([node], away, {"n": answer(plan=away)}))
    assert "harbor.openova.io" in {f.host for f in found if f.tether == 2 and f.field == "certs.d/ghcr.io"}


def test_a_pod_is_told_only_when_no_template_says_the_same() -> None:
    template = deployment("ghcr.io/openova-io/a:1")
    pods = [
        {**obj("Pod", {"containers": [{"name": "main", "image": image}]}, name), "status": {"phase": phase}}
        for name, image, phase in [
            ("of-it", "ghcr.io/openova-io/a:1", "Running"),
            ("older", "ghcr.io/openova-io/a:0", "Running"),
            ("over", "ghcr.io/openova-io/a:0", "Succeeded"),
        ]
    ]
    seen = Inventory({DEPLOYMENT: [template], POD: pods})
    assert [w["metadata"]["name"] for w in workloads(seen)] == ["app", "older"]


def clean_cluster() -> Inventory:
    where = {"name": SOVEREIGN.nodes.plan_config_map, "namespace": SOVEREIGN.nodes.namespace}
    env = [{"name": SOVEREIGN.catalyst_api.variable, "value": "http://gitea-http.gitea.svc.cluster.local:3000/o/o"}]
    api = deployment("ghcr.io/openova-io/openova/api:1", env, SOVEREIGN.catalyst_api.deployment)
    api["metadata"]["namespace"] = SOVEREIGN.catalyst_api.namespace
    api["spec"]["template"]["spec"]["containers"][0]["name"] = SOVEREIGN.catalyst_api.container
    return Inventory(
        {
            NODE: [{"kind": "Node", "metadata": {"name": "n"}}],
            CONFIG_MAP: [{"kind": "ConfigMap", "metadata": where, "data": {"plan.json": PLAN.model_dump_json()}}],
            GIT_REPOSITORY: [],
            HELM_REPOSITORY: [],
            DEPLOYMENT: [api],
            SECRET: [],
        }
    )


def audited(seen: Inventory) -> Audit:
    return Audit(AT, tuple(judged(seen, SOVEREIGN, {"n": answer()})))


def test_a_pivoted_cluster_is_clean() -> None:
    assert [str(f) for f in audited(clean_cluster()).counting] == []


def test_a_node_that_was_made_anew_under_its_name_has_not_answered_yet() -> None:
    """The machine before it did: the new one has the mirrors of its first day, and may fetch as it likes."""
    seen = clean_cluster()
    meta = seen.objects[NODE][0]["metadata"]
    meta["creationTimestamp"] = "2026-11-22T00:00:00Z"
    assert audited(seen).clean
    meta["creationTimestamp"] = "2026-11-23T00:02:00Z"
    found = audited(seen)
    assert {(f.tether, f.severity) for f in found.counting} == {(2, Severity.UNREADABLE), (7, Severity.TETHER)}


def test_a_cluster_without_nodes_proves_nothing() -> None:
    seen = clean_cluster()
    seen.objects[NODE] = []
    assert audited(seen).unreadable


def test_what_nobody_could_read_is_never_a_pass() -> None:
    found = Audit(AT, (unread(kinds.GIT, "GitRepository", "all of them", "403"),))
    assert not found.clean
    assert not found.fact().clean
    assert found.left(1)


def test_a_plan_that_is_no_plan_is_told() -> None:
    seen = clean_cluster()
    seen.objects[CONFIG_MAP][0]["data"]["plan.json"] = "{}"
    assert audited(seen).unreadable


def test_a_plan_that_nobody_could_read_is_not_called_absent() -> None:
    seen, spoilt = clean_cluster(), clean_cluster()
    del seen.objects[CONFIG_MAP]
    spoilt.objects[CONFIG_MAP][0]["data"]["plan.json"] = "{}"
    for found in (audited(seen), audited(spoilt)):
        assert {f.severity for f in found.findings if f.tether == 2} == {Severity.UNREADABLE}
        assert found.left(2)


@pytest.mark.parametrize(
    ("tether", "severity", "forbids"),
    [
        (0, Severity.TETHER, False),
        (0, Severity.EXTERNAL, False),
        (0, Severity.UNREADABLE, True),
        (3, Severity.TETHER, True),
        (3, Severity.EXTERNAL, True),
        (3, Severity.NOTICE, False),
        (8, Severity.EXTERNAL, False),
    ],
)
def test_what_forbids_completion_is_in_the_journal_though_there_is_no_room_for_all(
    tether: int, severity: Severity, forbids: bool
) -> None:
    one = unread(kinds.GIT, "Thing", "all of them", "403")
    crowd = [one.model_copy(update={"tether": 0, "severity": Severity.TETHER, "name": str(n)}) for n in range(600)]
    last = one.model_copy(update={"tether": tether, "severity": severity, "name": "last"})
    fact = Audit(AT, (*crowd, last)).fact()
    assert (len(fact.findings), fact.omitted) == (kinds.MOST, 101 - (severity is Severity.NOTICE))
    assert ["Thing last" in named for named in tied(fact)] == [True] * forbids


def test_one_string_is_enough_to_be_not_clean_and_the_journal_keeps_it() -> None:
    seen = clean_cluster()
    seen.objects[GIT_REPOSITORY] = [obj("GitRepository", {"url": "https://github.com/openova-io/openova"})]
    found = audited(seen)
    fact = found.fact("sha256:abc")
    assert not fact.clean
    assert fact.signer == "sha256:abc"
    assert [f["host"] for f in fact.findings] == ["github.com"]
    assert report.verdict(found) == "tethered: 1 strings still lead outside, tethers 1"
    assert "| 1 | GitRepository ns/x | spec.url | github.com |" in report.markdown(found, "sov.test")
