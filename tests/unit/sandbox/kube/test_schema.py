"""Custom resources by our own definitions: pruned, filled in, refused."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.kube.definitions import bundled
from sandbox.kube.resources import Resource, defined, priority

KINDS: dict[tuple[str, str], Resource] = {
    (resource.kind, resource.version): resource for definition in bundled() for resource in defined(definition)
}


def fault_fields(kind: str, version: str, spec: dict[str, Any]) -> list[str]:
    schema = KINDS[kind, version].schema
    assert schema is not None
    body, unknown = schema.pruned({"metadata": {}, "spec": spec})
    return [field for field, _, _ in schema.faults(schema.defaulted(body))] + [f"unknown {one}" for one in unknown]


@pytest.mark.parametrize(
    ("kind", "version", "spec", "faults"),
    [
        ("GitRepository", "v1", {"url": "https://x", "interval": "1m"}, []),
        ("GitRepository", "v1", {"url": "git@x", "interval": "1m"}, ["spec.url"]),
        ("GitRepository", "v1", {"url": "https://x", "interval": "soon"}, ["spec.interval"]),
        ("HelmRepository", "v1beta2", {"url": "oci://x", "type": "oci"}, []),
        ("HelmRepository", "v1", {"type": "oci"}, ["spec.url"]),
        ("HelmRepository", "v1", {"url": "oci://x", "type": "odd"}, ["spec.type"]),
        ("HelmRelease", "v2", {"interval": "1m", "values": {"any": {"thing": [1]}}}, []),
        ("Kustomization", "v1", {"interval": "1m", "prune": True, "sourceRef": {"kind": "Odd", "name": "x"}},
         ["spec.sourceRef.kind"]),
        ("Provider", "v1", {}, ["spec.package"]),
        ("ImageConfig", "v1beta1", {"matchImages": [{"prefix": "x"}], "rewriteImage": {"prefix": "y"}},
         ["unknown spec.rewriteImage"]),
        ("CiliumClusterwideNetworkPolicy", "v2", {"endpointSelector": {}, "egressDeny": [{"toFQDNs": []}]},
         ["unknown spec.egressDeny[0].toFQDNs"]),
        ("CiliumClusterwideNetworkPolicy", "v2", {"nodeSelector": {}, "egress": [{"toEntities": ["moon"]}]},
         ["spec.egress[0].toEntities[0]"]),
        ("CiliumClusterwideNetworkPolicy", "v2",
         {"nodeSelector": {}, "endpointSelector": {}, "egress": [{}]}, ["spec"]),
    ],
)  # fmt: skip
def test_definitions_say_what_is_wrong(kind: str, version: str, spec: dict[str, Any], faults: list[str]) -> None:
    assert fault_fields(kind, version, spec) == faults


def test_defaults_are_filled_in_and_the_original_is_left_alone() -> None:
    schema = KINDS["Provider", "v1"].schema
    assert schema is not None
    given = {"metadata": {}, "spec": {"package": "x"}}
    done = schema.defaulted(given)
    assert done["spec"]["packagePullPolicy"] == "IfNotPresent"
    assert done["spec"]["runtimeConfigRef"]["name"] == "default"
    assert given == {"metadata": {}, "spec": {"package": "x"}}


def test_versions_are_ordered_as_clients_expect() -> None:
    names = ["v1alpha1", "v1beta2", "v2", "v1", "v1beta1", "v10"]
    assert sorted(names, key=priority) == ["v10", "v2", "v1", "v1beta2", "v1beta1", "v1alpha1"]
