"""What is foreseen of kustomize, held against kustomize itself (the one in kubectl): the tree builds after an edit."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from workers.adapters.cluster_kinds import HELM_REPOSITORY
from workers.declared.changes import Change, holds
from workers.declared.files import Root, plan_edits
from workers.errors import Stuck

KUBECTL = shutil.which("kubectl") or shutil.which("kubectl", path=str(Path(sys.executable).parent))
OLD, NEW, THEIRS = "oci://ghcr.io/openova-io", "oci://harbor.sov.test/openova-io", "oci://registry.customer.lan/charts"
TARGET = "target: {kind: HelmRepository, name: charts}"

pytestmark = pytest.mark.skipif(KUBECTL is None, reason="kubectl is not installed")


def repository(name: str, url: str = OLD, namespace: str = "flux-system") -> str:
    where = f"  namespace: {namespace}\n" if namespace else ""
    return (
        f"apiVersion: source.toolkit.fluxcd.io/v1\nkind: HelmRepository\nmetadata:\n  name: {name}\n{where}"
        f"spec:\n  type: oci\n  url: {url}\n  secretRef:\n    name: ghcr-pull\n"
    )


def operation(text: str) -> str:
    return f"resources: [x.yaml]\npatches:\n- {TARGET}\n  patch: |\n    - {text}\n"


ONE = {"x.yaml": repository("charts")}
SUFFIX = {
    "kustomization.yaml": "resources: [x.yaml, y.yaml]\npatches:\n- path: p.yaml\n",
    "x.yaml": repository("charts"),
    "y.yaml": repository("more-charts", THEIRS),
    "p.yaml": repository("more-charts", THEIRS),
}
NAMESPACES = {
    "kustomization.yaml": "resources: [a, b]\n",
    "a/kustomization.yaml": "namespace: team-a\nresources: [x.yaml]\npatches:\n- path: p.yaml\n",
    "a/x.yaml": repository("charts", namespace=""),
    "a/p.yaml": repository("charts", THEIRS, ""),
    "b/kustomization.yaml": "namespace: flux-system\nresources: [x.yaml]\n",
    "b/x.yaml": repository("charts", namespace=""),
}
PREFIXED = {
    "kustomization.yaml": "resources: [base]\npatches:\n- path: p.yaml\n",
    "p.yaml": repository("acme-charts", THEIRS),
    "base/kustomization.yaml": "namePrefix: acme-\nresources: [x.yaml]\n",
    "base/x.yaml": repository("charts"),
}
LABELLED = {
    "kustomization.yaml": (
        "resources: [x.yaml, y.yaml]\npatches:\n- path: p.yaml\n  target: {labelSelector: team=acme}\n"
    ),
    "x.yaml": repository("charts"),
    "y.yaml": repository("theirs").replace("metadata:\n", "metadata:\n  labels: {team: acme}\n"),
    "p.yaml": repository("any", THEIRS),
}
COMPONENT = {
    "kustomization.yaml": "resources: [x.yaml]\ncomponents: [more]\n",
    "x.yaml": repository("charts"),
    "more/kustomization.yaml": (
        "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\npatches:\n- path: p.yaml\n"
    ),
    "more/p.yaml": repository("charts", THEIRS),
}


@pytest.mark.parametrize(
    ("files", "name"),
    [
        (SUFFIX, "charts"),
        (NAMESPACES, "charts"),
        (PREFIXED, "acme-charts"),
        (COMPONENT, "charts"),
        (LABELLED, "charts"),
        ({**ONE, "kustomization.yaml": operation("{op: add, path: /spec/interval, value: 5m}")}, "charts"),
    ],
    ids=["suffix", "namespaces", "prefixed", "component", "labelled", "operation"],
)
def test_an_edited_tree_builds_to_what_was_asked_and_nothing_else(
    tmp_path: Path, files: dict[str, str], name: str
) -> None:
    before = built(write(tmp_path, files))
    change = Change(HELM_REPOSITORY, "flux-system", name, {("spec", "url"): NEW}, (("spec", "secretRef"),))
    for file, text in plan_edits(tmp_path, [Root("kit")], [change]).texts.items():
        file.write_text(text)
    after = built(tmp_path)
    mine = ("flux-system", name)
    assert holds(change, after.pop(mine))
    del before[mine]
    assert after == before


@pytest.mark.parametrize(
    "text",
    [
        "{op: replace, path: /spec/secretRef/name, value: team-pull}",
        "{op: add, path: /spec/secretRef/name, value: team-pull}",
        "{op: remove, path: /spec/secretRef}",
        f"{{op: test, path: /spec/url, value: '{OLD}'}}",
    ],
)
def test_what_could_no_longer_be_built_is_told_though_it_builds_now(tmp_path: Path, text: str) -> None:
    files = {**ONE, "kustomization.yaml": operation(text)}
    assert built(write(tmp_path, files))
    change = Change(HELM_REPOSITORY, "flux-system", "charts", {("spec", "url"): NEW}, (("spec", "secretRef"),))
    with pytest.raises(Stuck, match="DeclaredElsewhere"):
        plan_edits(tmp_path, [Root("kit")], [change])
    without = repository("charts", NEW).replace("  secretRef:\n    name: ghcr-pull\n", "")
    (tmp_path / "kit/x.yaml").write_text(without)
    with pytest.raises(subprocess.CalledProcessError):
        built(tmp_path)


def write(top: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (top / "kit" / name).parent.mkdir(parents=True, exist_ok=True)
        (top / "kit" / name).write_text(text)
    return top


def built(top: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """What `kubectl kustomize` makes of the tree, by namespace and name. Raises CalledProcessError when nothing."""
    command = [str(KUBECTL), "kustomize", str(top / "kit")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = [document for document in yaml.safe_load_all(done.stdout) if document]
    return {(obj["metadata"].get("namespace", ""), obj["metadata"]["name"]): obj for obj in found}
