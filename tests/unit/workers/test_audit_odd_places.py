"""Tethers in places where nobody looks first: odd spellings of a host, debug containers, proxies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from workers.audit.finding import Finding, Severity
from workers.audit.rules import Judge, inside, name_in, proxy_host
from workers.proof import declared
from workers.sovereign import Gitea, Harbor, Login, Sovereign
from workers.steps import registry_pivot

LOGIN = Login(username="u", password_file=Path("/absent"))
SOVEREIGN = Sovereign(
    fqdn="sov.test",
    gitea=Gitea(url="http://127.0.0.1:1", login=LOGIN),
    harbor=Harbor(url="http://127.0.0.1:2", host="harbor.sov.test", login=LOGIN),
)
JUDGE = Judge.of(SOVEREIGN, registry_pivot.plan(SOVEREIGN), True)


def source(url: str, kind: str = "GitRepository", **spec: Any) -> list[Finding]:
    made = {"kind": kind, "metadata": {"name": "x", "namespace": "ns"}, "spec": {"url": url, **spec}}
    return list(JUDGE.source(made))


def workload(kind: str = "Deployment", **parts: list[dict[str, Any]]) -> list[Finding]:
    spec: dict[str, Any] = {"containers": [{"name": "main", "image": "harbor.sov.test/a/b:1"}], **parts}
    template: dict[str, Any] = {"template": {"spec": spec}}
    whole = {
        "Pod": spec,
        "CronJob": {"jobTemplate": {"spec": template}},
    }.get(kind, template)
    made = {"kind": kind, "metadata": {"name": "x", "namespace": "ns"}, "spec": whole}
    return list(JUDGE.workload(made, {}))


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
        ("NO_PROXY", "10.0.0.0/8,.svc", None, ""),
    ],
)
def test_a_proxy_is_told_and_the_proof_tries_it(name: str, value: str, severity: Severity | None, host: str) -> None:
    found = workload(containers=[container(name, value)])
    assert [(f.severity, f.host) for f in found] == ([(severity, host)] if severity else [])
    assert declared.proxies(found) == ((host,) if host else ())
    assert "secret" not in json.dumps([f.model_dump(mode="json") for f in found])


def test_a_source_that_fetches_through_a_proxy_depends_on_it() -> None:
    (found,) = source("https://gitea.sov.test/x/y", proxySecretRef={"name": "corp"})
    assert (found.severity, found.field) == (Severity.EXTERNAL, "spec.proxySecretRef")
    assert declared.proxies([found]) == (), "its address stands in a Secret, which nobody here reads"


def test_names_and_addresses_are_told_apart() -> None:
    assert [name_in(h) for h in ("A.B:1", "[::1]:2", "[fe80::1]", "x.y.")] == ["a.b", "::1", "fe80::1", "x.y"]
    assert [inside(n) for n in ("redis", "::1", "127.0.0.2", "2001:db8::1", "a.b")] == [True, True, True, False, False]
    assert proxy_host("http://[broken") == ""
