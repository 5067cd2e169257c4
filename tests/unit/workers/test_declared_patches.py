"""Which patch is for which object, and what it leaves of a change; and that another object's patch is nobody's."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers.adapters.cluster_kinds import HELM_REPOSITORY
from workers.declared.changes import Change
from workers.declared.files import Root, plan_edits
from workers.errors import Stuck

OLD, NEW = "oci://ghcr.io/openova-io", "oci://harbor.sov.test/openova-io"
THEIRS = "oci://registry.customer.lan/charts"


def repository(name: str, url: str = OLD, namespace: str = "flux-system") -> str:
    where = f"  namespace: {namespace}\n" if namespace else ""
    return (
        f"apiVersion: source.toolkit.fluxcd.io/v1\nkind: HelmRepository\nmetadata:\n  name: {name}\n{where}"
        f"spec:\n  type: oci\n  url: {url}\n  secretRef:\n    name: ghcr-pull\n"
    )


def patch(name: str, namespace: str = "flux-system") -> str:
    return repository(name, THEIRS, namespace)


def change(name: str, url: str = NEW) -> Change:
    return Change(HELM_REPOSITORY, "flux-system", name, {("spec", "url"): url}, (("spec", "secretRef"),))


def write(top: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    return top


def written(top: Path, *changes: Change, root: Root | None = None) -> set[str]:
    texts = plan_edits(top, [root or Root("kit")], changes).texts
    return {file.relative_to(top.resolve()).as_posix() for file in texts}


# --- whose patch it is -----------------------------------------------------------------------------------------


def test_a_patch_of_an_object_whose_name_ends_alike_is_left_alone(tmp_path: Path) -> None:
    listing = "resources: [x.yaml, y.yaml]\npatches:\n- path: p.yaml\n"
    files = {"kit/kustomization.yaml": listing, "kit/p.yaml": patch("charts")}
    files |= {"kit/x.yaml": repository("vendor-charts"), "kit/y.yaml": repository("charts", THEIRS)}
    assert written(write(tmp_path, files), change("vendor-charts")) == {"kit/x.yaml"}
    operation = f"- op: replace\n      path: /spec/url\n      value: {THEIRS}\n"
    inline = f"patches:\n- target: {{kind: HelmRepository, name: charts}}\n  patch: |\n    {operation}"
    write(tmp_path, {"kit/kustomization.yaml": f"resources: [x.yaml, y.yaml]\n{inline}\n"})
    assert written(tmp_path, change("vendor-charts")) == {"kit/x.yaml"}


@pytest.mark.parametrize("target", ["", "  target: {kind: HelmRepository, name: charts}\n"])
def test_a_patch_in_another_namespaces_kustomization_is_left_alone(tmp_path: Path, target: str) -> None:
    files = {
        "kit/kustomization.yaml": "resources: [a, b]\n",
        "kit/a/kustomization.yaml": f"namespace: team-a\nresources: [x.yaml]\npatches:\n- path: p.yaml\n{target}",
        "kit/a/x.yaml": repository("charts", namespace=""),
        "kit/a/p.yaml": patch("charts", ""),
        "kit/b/kustomization.yaml": "namespace: flux-system\nresources: [x.yaml]\n",
        "kit/b/x.yaml": repository("charts", namespace=""),
    }
    assert written(write(tmp_path, files), change("charts")) == {"kit/b/x.yaml"}


@pytest.mark.parametrize("target", ["", "  target: {kind: HelmRepository, name: charts}\n"])
def test_a_patch_reaches_only_what_its_kustomization_lists(tmp_path: Path, target: str) -> None:
    """No kustomization says a namespace here: the manifests do, and only the way to an object tells."""
    files = {
        "kit/kustomization.yaml": "resources: [a, b]\n",
        "kit/a/kustomization.yaml": f"resources: [x.yaml]\npatches:\n- path: p.yaml\n{target}",
        "kit/a/x.yaml": repository("charts", namespace="team-a"),
        "kit/a/p.yaml": patch("charts", "" if target else "team-a"),
        "kit/b/kustomization.yaml": "resources: [x.yaml]\n",
        "kit/b/x.yaml": repository("charts"),
    }
    assert written(write(tmp_path, files), change("charts")) == {"kit/b/x.yaml"}


@pytest.mark.parametrize(
    ("said", "meant"), [("charts", True), ("acme-charts", False), ("harts", False), ("chart", False)]
)
def test_a_patch_names_the_object_as_it_is_before_its_prefix(tmp_path: Path, said: str, meant: bool) -> None:
    files = {
        "kit/kustomization.yaml": "namePrefix: acme-\nnameSuffix: -eu\nresources: [x.yaml]\npatches:\n- path: p.yaml\n",
        "kit/x.yaml": repository("charts"),
        "kit/p.yaml": patch(said),
    }
    found = written(write(tmp_path, files), change("acme-charts-eu"))
    assert found == ({"kit/x.yaml", "kit/p.yaml"} if meant else {"kit/x.yaml"})


def test_an_overlay_and_a_json_patch_of_older_spelling_see_the_name_with_its_prefix(tmp_path: Path) -> None:
    ops = f"- op: replace\n  path: /spec/url\n  value: {THEIRS}\n"
    files = {
        "kit/kustomization.yaml": "resources: [base]\npatches:\n- path: p.yaml\n",
        "kit/p.yaml": patch("acme-charts"),
        "kit/base/kustomization.yaml": "namePrefix: acme-\nresources: [x.yaml]\n",
        "kit/base/x.yaml": repository("charts"),
    }
    assert written(write(tmp_path, files), change("acme-charts")) == {"kit/base/x.yaml", "kit/p.yaml"}
    older = "patchesJson6902:\n- path: ops.yaml\n  target: {name: acme-charts}\n"
    older += "namePrefix: acme-\nresources: [x.yaml]\n"
    write(tmp_path, {"kit/base/kustomization.yaml": older, "kit/base/ops.yaml": ops})
    with pytest.raises(Stuck, match=r"DeclaredElsewhere.*ops\.yaml"):
        written(tmp_path, change("acme-charts"))


def test_a_patch_that_is_written_out_in_one_long_line_is_no_file(tmp_path: Path) -> None:
    meta = f"{{name: charts, labels: {{a: {'b' * 300}}}}}"
    inline = f"{{kind: HelmRepository, metadata: {meta}, spec: {{url: '{THEIRS}'}}}}"
    files = {"kit/kustomization.yaml": f'resources: [x.yaml]\npatchesStrategicMerge:\n- "{inline}"\n'}
    with pytest.raises(Stuck, match=r"DeclaredElsewhere.*patchesStrategicMerge"):
        written(write(tmp_path, {**files, "kit/x.yaml": repository("charts")}), change("charts"))


def test_a_component_patches_what_its_includer_lists(tmp_path: Path) -> None:
    files = {
        "kit/kustomization.yaml": "resources: [x.yaml]\ncomponents: [more]\n",
        "kit/x.yaml": repository("charts"),
        "kit/more/kustomization.yaml": "kind: Component\npatches:\n- path: p.yaml\n",
        "kit/more/p.yaml": patch("charts"),
    }
    assert written(write(tmp_path, files), change("charts")) == {"kit/x.yaml", "kit/more/p.yaml"}


def test_a_patch_file_that_is_for_others_too_is_told_and_not_edited(tmp_path: Path) -> None:
    target = "  target: {kind: HelmRepository}\n"
    files = {
        "kit/kustomization.yaml": f"resources: [x.yaml, y.yaml]\npatches:\n- path: p.yaml\n{target}",
        "kit/x.yaml": repository("ours"),
        "kit/y.yaml": repository("third-party", THEIRS),
        "kit/p.yaml": patch("any"),
    }
    top = write(tmp_path, files)
    with pytest.raises(Stuck, match=r"DeclaredElsewhere.*p\.yaml.*HelmRepository third-party as well"):
        written(top, change("ours"))
    assert written(top, change("ours"), change("third-party")) == {"kit/x.yaml", "kit/y.yaml", "kit/p.yaml"}
    with pytest.raises(Stuck, match=r"ManifestNotEditable.*p\.yaml says one thing"):
        written(top, change("ours"), change("third-party", "oci://harbor.sov.test/other"))


@pytest.mark.parametrize(
    ("selector", "given", "meant"),
    [
        ("team=acme", "", False),
        ("team=acme", "commonLabels: {team: acme}\n", True),
        ("team=acme", "labels: [{pairs: {team: acme}}]\n", True),
        ("app=x", "", True),
        ("app==x,team!=acme", "", True),
        ("app in (x, y), !team", "", True),
        ("app notin (x, y)", "", False),
        ("team", "", False),
        ("no selector at all", "", True),
    ],
)
def test_a_patch_for_certain_labels_is_for_those_alone(tmp_path: Path, selector: str, given: str, meant: bool) -> None:
    target = f"  target: {{kind: HelmRepository, labelSelector: '{selector}'}}\n"
    files = {
        "kit/kustomization.yaml": f"{given}resources: [x.yaml]\npatches:\n- path: p.yaml\n{target}",
        "kit/x.yaml": repository("charts").replace("metadata:\n", "metadata:\n  labels: {app: x}\n"),
        "kit/p.yaml": patch("any"),
    }
    found = written(write(tmp_path, files), change("charts"))
    assert found == ({"kit/x.yaml", "kit/p.yaml"} if meant else {"kit/x.yaml"})


# --- what a patch does to a change -----------------------------------------------------------------------------

ABSENT, URL = "spec.secretRef", "spec.url"


@pytest.mark.parametrize("of_flux", [False, True])
@pytest.mark.parametrize(
    ("operation", "undone"),
    [
        ("{op: replace, path: /spec/secretRef/name, value: team-pull}", ABSENT),
        ("{op: add, path: /spec/secretRef/name, value: team-pull}", ABSENT),
        ("{op: remove, path: /spec/secretRef/name}", ABSENT),
        ("{op: remove, path: /spec/secretRef}", ABSENT),
        ("{op: replace, path: /spec/secretRef, value: {name: team-pull}}", ABSENT),
        ("{op: test, path: /spec/secretRef/name, value: ghcr-pull}", ABSENT),
        ("{op: move, from: /spec/secretRef, path: /spec/certSecretRef}", ABSENT),
        (f"{{op: test, path: /spec/url, value: '{OLD}'}}", URL),
        ("{op: remove, path: /spec/url}", URL),
        ("{op: copy, from: /metadata/name, path: /spec/url}", URL),
        ("{op: replace, path: /spec, value: {type: oci}}", URL),
        (f"{{op: test, path: /spec/url, value: '{NEW}'}}", None),
        (f"{{op: replace, path: /spec/url, value: '{NEW}'}}", None),
        ("{op: add, path: /spec/interval, value: 5m}", None),
        ("{op: remove, path: /spec/type}", None),
        ("{op: replace, path: /spec/secretRef, value: null}", None),
        ("{op: copy, from: /spec/url, path: /metadata/annotations/was}", None),
    ],
)
def test_an_operation_that_undoes_a_change_or_fails_after_it_is_told(
    tmp_path: Path, operation: str, undone: str | None, of_flux: bool
) -> None:
    said = f"- target: {{kind: HelmRepository}}\n  patch: |\n    - {operation}\n"
    files = {"kit/kustomization.yaml": "resources: [x.yaml]\n" + ("" if of_flux else f"patches:\n{said}")}
    top = write(tmp_path, {**files, "kit/x.yaml": repository("bp-x")})
    flux = ({"target": {"kind": "HelmRepository"}, "patch": f"- {operation}\n"},) if of_flux else ()
    if undone is None:
        assert written(top, change("bp-x"), root=Root("kit", patches=flux)) == {"kit/x.yaml"}
        return
    with pytest.raises(Stuck, match=rf"DeclaredElsewhere.*patches {undone}"):
        written(top, change("bp-x"), root=Root("kit", patches=flux))


@pytest.mark.parametrize(
    ("spec", "undone"),
    [
        ("{url: null}", True),
        ("{$patch: replace, type: oci}", True),
        (f"{{$patch: replace, url: '{NEW}'}}", False),
        ("{secretRef: null}", False),
        ("{secretRef: {name: team-pull}}", True),
        ("{interval: 5m}", False),
    ],
)
def test_a_merge_that_takes_a_field_away_undoes_what_it_should_say(tmp_path: Path, spec: str, undone: bool) -> None:
    inline = f"kind: HelmRepository, metadata: {{name: bp-x}}, spec: {spec}"
    listing = f"resources: [x.yaml]\npatches:\n- patch: |\n    {{{inline}}}\n"
    top = write(tmp_path, {"kit/kustomization.yaml": listing, "kit/x.yaml": repository("bp-x")})
    if undone:
        with pytest.raises(Stuck, match="DeclaredElsewhere"):
            written(top, change("bp-x"))
    else:
        assert written(top, change("bp-x")) == {"kit/x.yaml"}
