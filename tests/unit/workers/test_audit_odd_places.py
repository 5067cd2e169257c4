"""Tethers in places where nobody looks first: odd spellings of a host, debug containers, proxies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from workers import plan
from workers.adapters.cluster_kinds import DEPLOYMENT, POD
from workers.audit.environment import proxy_host
from workers.audit.finding import Finding, Severity
from workers.audit.rules import Judge, inside, name_in
from workers.audit.survey import Inventory, judged
from workers.errors import Stuck
from workers.proof import declared
from workers.sovereign import Gitea, Harbor, Login, Proof, Sovereign
from workers.steps import registry_pivot
from workers.world import World

LOGIN = Login(username="u", password_file=Path("/absent"))
SOVEREIGN = Sovereign(
    fqdn="sov.test",
    gitea=Gitea(url="http://127.0.0.1:1", login=LOGIN),
    harbor=Harbor(url="http://127.0.0.1:2", host="harbor.sov.test", login=LOGIN),
)
JUDGE = Judge.of(SOVEREIGN, registry_pivot.plan(SOVEREIGN), True)


def source(url: str, kind: str = "GitRepository", **spec: Any) -> list[Finding]:
    declared_so = {"kind": kind, "metadata": {"name": "x", "namespace": "ns"}, "spec": {"url": url, **spec}}
    return list(JUDGE.source(declared_so))


def made(kind: str = "Deployment", name: str = "x", **parts: list[dict[str, Any]]) -> dict[str, Any]:
    spec: dict[str, Any] = {"containers": [{"name": "main", "image": "harbor.sov.test/a/b:1"}], **parts}
    template: dict[str, Any] = {"template": {"spec": spec}}
    whole = {
        "Pod": spec,
        "CronJob": {"jobTemplate": {"spec": template}},
    }.get(kind, template)
    return {"kind": kind, "metadata": {"name": name, "namespace": "ns"}, "spec": whole}


def workload(kind: str = "Deployment", **parts: list[dict[str, Any]]) -> list[Finding]:
    return list(JUDGE.workload(made(kind, **parts), {}))


def container(env: str = "", value: str = "", **more: Any) -> dict[str, Any]:
    given = [{"name": env, "value": value}] if env else []
    return {"name": "c", "image": "harbor.sov.test/a/b:1", "env": given, **more}


@pytest.mark.parametrize(
    ("url", "severity"),
    [
        ("https://[2606:50c0:8000::153]/x/y", Severity.EXTERNAL),
        ("https://[2606:50c0:8000::153]:8443/x/y", Severity.EXTERNAL),
        ("https://140.82.121.4/openova-io/openova", Severity.EXTERNAL),
        ("https://GitHub.com/openova-io/openova", Severity.TETHER),
        ("https://github.com:443/openova-io/openova", Severity.TETHER),
        ("https://user:token@github.com/openova-io/openova", Severity.TETHER),
        ("https://github.com./openova-io/openova", Severity.EXTERNAL),
        ("http://[::1]:3000/x/y", None),
        ("http://127.0.0.1:3000/x/y", None),
        ("https://sov.test/x/y", None),
        ("https://GITEA.sov.test/x/y", None),
        ("http://gitea-http.gitea.svc.cluster.local.:3000/openova/openova", None),
    ],
)
def test_a_host_is_the_same_however_it_is_spelled(url: str, severity: Severity | None) -> None:
    assert [f.severity for f in source(url)] == ([severity] if severity else [])
    assert not any("token" in f.model_dump_json() for f in source(url))


@pytest.mark.parametrize("kind", ["Deployment", "CronJob", "Pod"])
@pytest.mark.parametrize("part", ["initContainers", "ephemeralContainers", "containers"])
def test_every_container_counts_in_every_kind(kind: str, part: str) -> None:
    (found,) = workload(kind, **{part: [container("LICENSE", "https://license.openova.io/v1?key=secret")]})
    assert (found.severity, found.host) == (Severity.TETHER, "license.openova.io")
    assert "secret" not in found.model_dump_json()
    (by_image,) = workload(kind, **{part: [container(image="registry.example.org/x:1")]})
    assert (by_image.severity, by_image.host) == (Severity.EXTERNAL, "registry.example.org")


@pytest.mark.parametrize("part", ["command", "args"])
def test_what_a_container_is_started_with_counts(part: str) -> None:
    (found,) = workload(containers=[container(**{part: ["sh", "-c", "curl https://console.openova.io/beat"]})])
    assert (found.severity, found.host, found.field) == (Severity.TETHER, "console.openova.io", f"env[{part}] of c")


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("postgres://u:p@db.example.org:5432/x", "db.example.org:5432"),
        ("smtp://mail.example.org", "mail.example.org"),
        ("https://[2001:db8::7]:8443/v1", "[2001:db8::7]:8443"),
        ("http://otel:4318", ""),
        ("no address at all", ""),
        ("http://[broken", ""),
    ],
)
def test_a_setting_that_leads_outside_is_told_and_ties_nothing(text: str, host: str) -> None:
    found = workload(containers=[container("ENDPOINT", text)])
    assert [(f.severity, f.host) for f in found] == ([(Severity.NOTICE, host)] if host else [])
    assert "u:p" not in json.dumps([f.model_dump(mode="json") for f in found])


@pytest.mark.parametrize(
    ("name", "value", "severity", "host"),
    [
        ("HTTPS_PROXY", "http://u:secret@proxy.corp.example:3128", Severity.EXTERNAL, "proxy.corp.example:3128"),
        ("https_proxy", "10.1.2.3:8080", Severity.EXTERNAL, "10.1.2.3:8080"),
        ("ALL_PROXY", "socks5://[2001:db8::5]", Severity.EXTERNAL, "[2001:db8::5]:1080"),
        ("HTTP_PROXY", "http://egress.infra.svc:3128", Severity.NOTICE, "egress.infra.svc:3128"),
        ("HTTP_PROXY", "", None, ""),
        ("HTTP_PROXY", "http://$(USER):$(PASS)@10.1.2.3:3128", Severity.EXTERNAL, "10.1.2.3:3128"),
        ("NO_PROXY", "10.0.0.0/8,.svc", None, ""),
    ],
)
def test_a_proxy_is_told_and_the_proof_tries_it(name: str, value: str, severity: Severity | None, host: str) -> None:
    found = workload(containers=[container(name, value)])
    assert [(f.severity, f.host) for f in found] == ([(severity, host)] if severity else [])
    assert declared.proxies(found) == ((host,) if host else ())
    assert "secret" not in json.dumps([f.model_dump(mode="json") for f in found])


FROM_SECRET = {"name": "HTTPS_PROXY", "valueFrom": {"secretKeyRef": {"name": "corp", "key": "url"}}}


@pytest.mark.parametrize(
    "entry",
    [
        FROM_SECRET,
        {"name": "all_proxy", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['proxy']"}}},
        {"name": "HTTP_PROXY", "value": "http://$(PROXY_HOST):3128"},
        {"name": "HTTP_PROXY", "value": "$(PROXY)"},
        {"name": "HTTP_PROXY", "value": "http://hidden-word:x"},
    ],
)
def test_a_proxy_that_nobody_here_knows_stops_the_proof(entry: dict[str, Any]) -> None:
    (found,) = workload(containers=[{"name": "c", "image": "harbor.sov.test/a/b:1", "env": [entry]}])
    assert (found.severity, found.field) == (Severity.UNREADABLE, f"env[{entry['name']}] of c")
    assert "hidden-word" not in found.model_dump_json()
    assert declared.proxies([found]) == ()
    with pytest.raises(Stuck, match=r"ProxyUnknown.*Deployment ns/x env.*proof\.proxies"):
        declared.judge([found])


async def test_a_workloads_unknown_proxy_is_told_before_anything_was_changed() -> None:
    found = [*workload(containers=[{**container(), "env": [FROM_SECRET]}]), *source("", proxySecretRef={"name": "s"})]

    async def survey(world: World) -> list[Finding]:
        return found

    nothing: Any = None
    world = World(SOVEREIGN, nothing, nothing, nothing, nothing, nothing, nothing, survey=survey)
    for trouble in (1, 0):
        said = plan.Preview("egress-block-test")
        await plan.ASKED[-1](world, nothing, said)
        assert [each.partition(":")[0] for each in said.trouble] == ["ProxyUnknown"] * trouble
        del found[0]


def test_a_source_that_fetches_through_a_proxy_depends_on_it() -> None:
    (found,) = source("https://gitea.sov.test/x/y", proxySecretRef={"name": "corp"})
    assert (found.severity, found.field) == (Severity.UNREADABLE, "spec.proxySecretRef")
    assert declared.proxies([found]) == (), "its address stands in a Secret, which nobody here reads"
    with pytest.raises(Stuck, match="ProxyUnknown"):
        declared.judge([found])


@pytest.mark.parametrize(
    ("named", "severity"),
    [("egress.infra.svc:3128", Severity.NOTICE), ("10.1.2.3:3128", Severity.EXTERNAL)],
)
def test_a_proxy_in_a_secret_is_tried_once_its_owner_names_it(named: str, severity: Severity) -> None:
    sovereign = SOVEREIGN.model_copy(update={"proof": Proof(proxies=(named,))})
    judge = Judge.of(sovereign, registry_pivot.plan(sovereign), True)
    (found,) = judge.workload(
        made(containers=[{"name": "c", "image": "harbor.sov.test/a:1", "env": [FROM_SECRET]}]), {}
    )
    assert (found.severity, "Secret corp" in found.host) == (severity, True)
    declared.judge([found])
    assert declared.proxies([found], sovereign.proof.proxies) == (named,)


@pytest.mark.parametrize("given", ["http://p:3128", "p", "u:secret@p:3128", "p:3128/x", "p:", "[::1]", "$(P):1"])
def test_a_proxy_is_named_by_host_and_port_alone(given: str) -> None:
    with pytest.raises(ValidationError, match="HOST:PORT"):
        Proof(proxies=(given,))
    assert Proof(proxies=("P.example:1", "[2001:DB8::1]:2", "p.example:1")).proxies == (
        "p.example:1",
        "[2001:db8::1]:2",
    )


def test_settings_from_a_whole_secret_are_one_line_a_workload_unless_its_keys_are_known() -> None:
    whole = [{"secretRef": {"name": name}} for name in ("corp", "other")]
    twice = [{**container(envFrom=whole), "name": name} for name in ("c", "d")]
    (found,) = workload(containers=twice)
    assert (found.severity, found.field) == (Severity.NOTICE, "envFrom")
    assert "Secret corp, other" in found.host
    declared.judge([found])
    keys = {("ns", "corp"): ("http_proxy", "TOKEN"), ("ns", "other"): ("A",)}
    known = list(JUDGE.workload(made(containers=twice[:1]), {}, keys))
    assert [(f.severity, f.field) for f in known] == [(Severity.UNREADABLE, "env[http_proxy] of c")]


def test_a_prefix_before_settings_that_are_taken_whole_belongs_to_their_names() -> None:
    taken = [{"prefix": "HTTPS_", "configMapRef": {"name": "m"}}, {"prefix": "ALL_", "secretRef": {"name": "s"}}]
    around = {("ns", "m"): {"data": {"PROXY": "http://10.1.2.3:3128"}}}
    found = JUDGE.workload(made(containers=[container(envFrom=taken)]), around, {("ns", "s"): ("PROXY",)})
    assert [(f.field, f.severity) for f in found] == [
        ("env[HTTPS_PROXY] of c", Severity.EXTERNAL),
        ("env[ALL_PROXY] of c", Severity.UNREADABLE),
    ]


def test_a_proxy_that_only_living_pods_have_is_told_once() -> None:
    """A webhook puts it into every Pod, and no template says so."""
    told = container("HTTPS_PROXY", "http://10.1.2.3:3128")
    pods = [made("Pod", f"x-{n}", containers=[told]) for n in range(3)]
    pods[0]["status"] = {"phase": "Succeeded"}
    templates = [made(containers=[container()])]

    def proxies() -> list[Finding]:
        seen = Inventory({DEPLOYMENT: templates, POD: pods})
        return [f for f in judged(seen, SOVEREIGN, {}) if f.field.startswith("env[HTTPS_PROXY]")]

    (found,) = proxies()
    assert (found.kind, found.name, found.host, found.severity) == ("Pod", "x-1", "10.1.2.3:3128", Severity.EXTERNAL)
    templates[0] = made(containers=[told])
    assert [f.kind for f in proxies()] == ["Deployment"]
    templates[0] = made(containers=[container()])
    pods[2] = made("Pod", "x-2", containers=[{**container(), "env": [FROM_SECRET]}])
    assert [f.severity for f in proxies()] == [Severity.EXTERNAL, Severity.UNREADABLE]


def test_names_and_addresses_are_told_apart() -> None:
    assert [name_in(h) for h in ("A.B:1", "[::1]:2", "[fe80::1]", "x.y.")] == ["a.b", "::1", "fe80::1", "x.y"]
    assert [inside(n) for n in ("redis", "::1", "127.0.0.2", "2001:db8::1", "a.b")] == [True, True, True, False, False]
    assert proxy_host("http://[broken") == ""
