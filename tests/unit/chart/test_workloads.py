"""Workloads as a cluster treats them: drained, probed, packed onto full nodes, found by Services and routes."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import pytest
from chart_matrix import API, EMBEDDED, MATRIX

from sandbox import blueprint
from sandbox.blueprint import merged

Object = dict[str, Any]
every = pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
CPU, MEMORY = 25, 256 * 2**20  # of one container, in millicores and bytes
UNITS = {"m": 1, "": 1000}
SIZES = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


@cache
def _rendered(values: str) -> list[Object]:
    return blueprint.render(json.loads(values))


def render(values: Object) -> list[Object]:
    return _rendered(json.dumps(values))


def of(objects: list[Object], *kinds: str) -> list[Object]:
    return [o for o in objects if o["kind"] in kinds]


def workloads(objects: list[Object]) -> list[Object]:
    return of(objects, "Deployment", "DaemonSet", "StatefulSet")


def chosen(selector: Object, objects: list[Object], namespace: str) -> list[str]:
    """Names of the workloads in a namespace whose Pods these labels choose."""
    return [
        o["metadata"]["name"]
        for o in workloads(objects)
        if o["metadata"]["namespace"] == namespace
        and selector.items() <= o["spec"]["template"]["metadata"]["labels"].items()
    ]


def containers(obj: Object) -> list[Object]:
    found: list[Object] = obj["spec"]["template"]["spec"]["containers"]
    return found


def millicores(text: str) -> int:
    return int(text.removesuffix("m")) * UNITS["m" if text.endswith("m") else ""]


@every
def test_a_drain_takes_one_of_each_and_is_never_blocked(values: Object) -> None:
    objects = render(values)
    budgets = {o["metadata"]["name"]: o["spec"] for o in of(objects, "PodDisruptionBudget")}
    assert set(budgets) == {o["metadata"]["name"] for o in of(objects, "Deployment")}
    for name, spec in budgets.items():
        # Never minAvailable: with one replica that would keep a node from being drained.
        assert {key: value for key, value in spec.items() if key != "selector"} == {"maxUnavailable": 1}
        home = next(o["metadata"]["namespace"] for o in of(objects, "Deployment") if o["metadata"]["name"] == name)
        assert chosen(spec["selector"]["matchLabels"], objects, home) == [name]


@every
def test_every_container_is_probed_on_a_port_that_its_process_opens(values: Object) -> None:
    objects = render(values)
    told = {
        o["metadata"]["name"]: json.loads(o["data"]["settings.yaml"])
        for o in of(objects, "ConfigMap")
        if "settings.yaml" in o["data"]
    }
    for obj in workloads(objects):
        (container,) = containers(obj)
        ports = {p["name"]: p["containerPort"] for p in container.get("ports", ())}
        settings = told.get(f"{obj['metadata']['name']}-settings")
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            get = container[probe]["httpGet"]
            port = ports.get(get["port"], get["port"])
            if settings is not None:
                own = settings["api"] if "api" in settings else settings["health"]
                assert port == own["port"], obj["metadata"]["name"]
            else:
                assert port == 8222  # nats-server's monitor
        # A broker or an API server that is away restarts nobody: liveness asks the process alone.
        assert container["livenessProbe"]["httpGet"]["path"] != container["readinessProbe"]["httpGet"]["path"]


@every
def test_what_is_asked_for_fits_onto_full_nodes(values: Object) -> None:
    for obj in workloads(render(values)):
        for container in containers(obj):
            asked, limits = container["resources"]["requests"], container["resources"]["limits"]
            assert millicores(asked["cpu"]) <= CPU, obj["metadata"]["name"]
            assert int(asked["memory"][:-2]) * SIZES[asked["memory"][-2:]] <= MEMORY, obj["metadata"]["name"]
            assert "memory" in limits
            assert "cpu" not in limits  # a copy that is throttled helps nobody


@every
def test_a_service_leads_to_one_workload_and_to_a_port_that_it_has(values: Object) -> None:
    objects = render(values)
    for service in of(objects, "Service"):
        (name,) = chosen(service["spec"]["selector"], objects, service["metadata"]["namespace"])
        workload = next(o for o in workloads(objects) if o["metadata"]["name"] == name)
        named = {p["name"] for c in containers(workload) for p in c["ports"]}
        assert {p["targetPort"] for p in service["spec"]["ports"]} <= named


@pytest.mark.parametrize("which", ["api-behind-an-ingress", "api-behind-a-gateway"])
def test_a_route_leads_to_a_service_that_is_there(which: str) -> None:
    objects = render(MATRIX[which])
    ports = {o["metadata"]["name"]: {p["name"]: p["port"] for p in o["spec"]["ports"]} for o in of(objects, "Service")}
    for ingress in of(objects, "Ingress"):
        backend = ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
        assert backend["port"]["name"] in ports[backend["name"]]
        assert ingress["spec"]["tls"][0]["hosts"] == [ingress["spec"]["rules"][0]["host"]]
    for route in of(objects, "HTTPRoute"):
        (backend,) = route["spec"]["rules"][0]["backendRefs"]
        assert backend["port"] in ports[backend["name"]].values()
    assert of(objects, "Ingress", "HTTPRoute")


def test_the_monitor_finds_the_service_and_its_port() -> None:
    objects = render(MATRIX["monitored"])
    (monitor,) = of(objects, "ServiceMonitor")
    labels = monitor["spec"]["selector"]["matchLabels"].items()
    (service,) = [o for o in of(objects, "Service") if labels <= o["metadata"]["labels"].items()]
    assert monitor["metadata"]["namespace"] == service["metadata"]["namespace"]
    assert monitor["spec"]["endpoints"][0]["port"] in {p["name"] for p in service["spec"]["ports"]}


@pytest.mark.parametrize("policies", ["kubernetes", "cilium"])
def test_a_policy_chooses_each_of_our_workloads_in_the_releases_own_namespace(policies: str) -> None:
    objects = render(merged(merged(EMBEDDED, API), {"network": {"policies": policies}}))
    covered: list[str] = []
    for policy in of(objects, "NetworkPolicy", "CiliumNetworkPolicy"):
        spec = policy["spec"]
        labels = (spec.get("podSelector") or spec.get("endpointSelector"))["matchLabels"]
        covered += chosen(labels, objects, policy["metadata"]["namespace"])
    ours = [o["metadata"]["name"] for o in of(objects, "Deployment", "StatefulSet")]
    assert sorted(covered) == sorted(ours)


def reached(objects: list[Object], name: str) -> set[str]:
    """Namespaces that a class's Pods may reach."""
    text = json.dumps(
        [
            o["spec"]["egress"]
            for o in objects
            if o["kind"].endswith("NetworkPolicy") and o["metadata"]["labels"]["app.kubernetes.io/component"] == name
        ]
    )
    return set(re.findall(r'"(?:kubernetes.io/metadata.name|k8s:io.kubernetes.pod.namespace)": "([^"]+)"', text))


@pytest.mark.parametrize("policies", ["kubernetes", "cilium"])
def test_a_process_may_reach_what_its_settings_name(policies: str) -> None:
    """The endpoint of traces and the issuer's keys would time out behind our own policies."""
    traced = {"settings": {"telemetry": {"endpoint": "http://collector.opentelemetry:4318/v1/traces"}}}
    network = {"network": {"policies": policies}}
    always = {"kube-system", "nats-system", "gitea", "harbor"}
    objects = render(merged(merged(API, traced), network))
    assert {name: reached(objects, name) - always for name in ("supply", "pivot", "proof", "control", "api")} == {
        "supply": set(), "pivot": set(), "proof": set(), "control": {"opentelemetry"}, "api": {"keycloak"},
    }  # fmt: skip
    assert reached(render(merged(API, network)), "control") == always
    elsewhere = {"network": {"policies": policies, "identityNamespace": ""}}
    assert reached(render(merged(API, elsewhere)), "api") == always


def test_whoever_stops_has_longer_than_the_longest_thing_that_must_not_be_cut() -> None:
    """A worker that is asked to stop gives up its lease at once; 60 s are for a broker that answers slowly."""
    for obj in of(render({}), "Deployment"):
        assert obj["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] >= 60
