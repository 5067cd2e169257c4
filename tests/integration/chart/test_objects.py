"""Every object that the chart renders, as API servers see it: the sandbox's, and a real one when KUBECONFIG is set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import published
import pytest
import pytest_asyncio
import yaml
from chart_matrix import MATRIX
from published import DATA, definitions

from sandbox.blueprint import NAMESPACE, render
from sandbox.clock import Clock
from sandbox.kube import KubeApi

Object = dict[str, Any]
pytestmark = pytest.mark.asyncio(loop_scope="module")
every = pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
ELSEWHERE = {"gateway.networking.k8s.io/v1", "monitoring.coreos.com/v1", "cilium.io/v2"}
"""Served where somebody installed them."""


def path_of(obj: Object) -> str:
    """Where it is written, its plural guessed as Kubernetes' own kinds allow."""
    group, namespace = obj["apiVersion"], obj["metadata"].get("namespace")
    kind = obj["kind"].lower()
    plural = f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}es" if kind.endswith("s") else f"{kind}s"
    where = f"namespaces/{namespace}/" if namespace else ""
    return f"/{'apis' if '/' in group else 'api'}/{group}/{where}{plural}/{obj['metadata']['name']}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kube(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[KubeApi]:
    async with KubeApi.open(tmp_path_factory.mktemp("kube"), Clock()) as opened:
        yield opened


@every
async def test_the_api_takes_every_object_whole_and_no_field_is_unknown_to_it(kube: KubeApi, values: Object) -> None:
    objects = [obj for obj in render(values) if obj["apiVersion"] not in ELSEWHERE]
    for name in {NAMESPACE, *(obj["metadata"].get("namespace") or NAMESPACE for obj in objects)}:
        await kube.local.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    query = {"fieldManager": "helm", "force": "true", "fieldValidation": "Strict", "dryRun": "All"}
    for obj in objects:
        code, answer = await kube.local.request(
            "PATCH", path_of(obj), obj, query=query, content_type="application/apply-patch+yaml"
        )
        assert code in (200, 201), (obj["kind"], obj["metadata"]["name"], answer)


async def test_a_field_that_does_not_exist_is_not_taken(kube: KubeApi) -> None:
    """That the test above can fail."""
    obj = next(o for o in render() if o["kind"] == "Deployment")
    await kube.local.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    wrong = json.loads(json.dumps(obj))
    wrong["spec"]["template"]["spec"]["containers"][0]["lifenessProbe"] = {}
    query = {"fieldManager": "helm", "force": "true", "fieldValidation": "Strict", "dryRun": "All"}
    code, _ = await kube.local.request(
        "PATCH", path_of(obj), wrong, query=query, content_type="application/apply-patch+yaml"
    )
    assert code >= 400


@every
async def test_whatever_others_define_is_as_they_define_it(values: Object) -> None:
    known = {**published.WRITTEN, **(definitions(DATA / "cilium") if DATA.is_dir() else {})}
    for obj in render(values):
        if obj["apiVersion"] not in ELSEWHERE:
            continue
        schema = known.get((obj["apiVersion"], obj["kind"]))
        if schema is None:
            pytest.skip("no definitions of Cilium beside this checkout")
        assert published.complaints(obj, schema) == [], obj["metadata"]["name"]


WRONG: list[tuple[str, str, Any, str]] = [
    ("api-behind-a-gateway", "HTTPRoute", {"rulez": []}, "spec: Additional properties"),
    ("api-behind-a-gateway", "HTTPRoute", {"rules": [{"backendRefs": [{"name": "x"}]}]}, "'port' is a required"),
    ("monitored", "ServiceMonitor", {"selector": None}, "spec/selector: None is not of type 'object'"),
    ("monitored", "PrometheusRule", {"groups": [{"name": "x", "rules": [{"expr": 1}]}]}, "1 is not of type 'string'"),
    ("cilium", "CiliumNetworkPolicy", {"egres": []}, "'egres' was unexpected"),
    ("cilium", "CiliumNetworkPolicy", {"egress": [{"toEntities": ["wrold"]}]}, "'wrold' is not one of"),
]


@pytest.mark.parametrize(("which", "kind", "spec", "words"), WRONG)
async def test_what_is_not_so_defined_is_found(which: str, kind: str, spec: Any, words: str) -> None:
    """That the test above can fail."""
    if kind.startswith("Cilium") and not DATA.is_dir():
        pytest.skip("no definitions of Cilium beside this checkout")
    known = {**published.WRITTEN, **(definitions(DATA / "cilium") if kind.startswith("Cilium") else {})}
    obj = next(o for o in render(MATRIX[which]) if o["kind"] == kind)
    found = published.complaints({**obj, "spec": {**obj["spec"], **spec}}, known[(obj["apiVersion"], kind)])
    assert words in "\n".join(found)


# --- a real API server -------------------------------------------------------------------------------------------

KUBECTL = Path(sys.executable).parent / "kubectl"


def kubectl(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(KUBECTL), *arguments], input=text, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture(scope="module")
def real() -> None:
    """A server whose administrator we are; what is made there are namespaces, with labels of Pod Security."""
    if not os.environ.get("KUBECONFIG") or not KUBECTL.exists():
        pytest.skip("KUBECONFIG names no API server")
    systems = {"flux-system", "crossplane-system", "catalyst-system"}
    wanted = {*systems, "harbor", "tenants", "openbao", "catalyst-cutover-nodes"}
    for name in sorted({NAMESPACE, *wanted}):
        kubectl("create", "namespace", name)
    label = "pod-security.kubernetes.io/enforce"
    kubectl("label", "--overwrite", "namespace", NAMESPACE, f"{label}=restricted")
    kubectl("label", "--overwrite", "namespace", "catalyst-cutover-nodes", f"{label}=privileged")


@every
@pytest.mark.usefixtures("real")
async def test_a_real_server_takes_every_object(values: Object) -> None:
    served = set(kubectl("api-resources", "--output", "wide", "--no-headers").stdout.split()) & ELSEWHERE
    objects = [obj for obj in render(values) if obj["apiVersion"] not in ELSEWHERE - served]
    done = kubectl(
        "apply", "--server-side", "--dry-run=server", "--validate=strict", "--force-conflicts", "--filename", "-",
        text=yaml.safe_dump_all(objects),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@every
@pytest.mark.usefixtures("real")
async def test_pod_security_of_a_real_server_lets_every_pod_in(values: Object) -> None:
    """Of all but the node agents by `restricted`; admission judges Pods, so Pods are what is tried."""
    pods = []
    for obj in render(values):
        if "template" in (obj.get("spec") or {}):
            spec = {**obj["spec"]["template"]["spec"]}
            for gone in ("serviceAccountName", "priorityClassName"):
                spec.pop(gone, None)
            spec["automountServiceAccountToken"] = False
            # A claim's volume is the StatefulSet's to add.
            mounted = {m["name"] for c in spec["containers"] for m in c["volumeMounts"]}
            named = {v["name"] for v in spec["volumes"]}
            spec["volumes"] = [*spec["volumes"], *({"name": n, "emptyDir": {}} for n in sorted(mounted - named))]
            meta = {"name": obj["metadata"]["name"], "namespace": obj["metadata"]["namespace"]}
            pods.append({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
    done = kubectl("create", "--dry-run=server", "--filename", "-", text=yaml.safe_dump_all(pods))
    refused = [line for line in done.stderr.splitlines() if "no service account" not in line.lower() and line]
    refused = [line for line in refused if 'serviceaccount "default" not found' not in line]
    assert refused == []
