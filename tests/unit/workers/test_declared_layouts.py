"""Manifests as people keep them: line ends, Lists, overlays; and list items by name, wherever each stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers.adapters.cluster_kinds import DEPLOYMENT, HELM_REPOSITORY
from workers.adapters.yaml_edit import CannotEdit
from workers.declared.changes import Change, Named, at, edited, holds, merge_patch
from workers.declared.files import Edits, Root, plan_edits
from workers.declared.repository import Repository, _undeclared
from workers.errors import Stuck

OLD, NEW = "oci://ghcr.io/openova-io", "oci://harbor.sov.test/openova-io"
BEGIN = (
    "apiVersion: source.toolkit.fluxcd.io/v1\nkind: HelmRepository\nmetadata:\n  name: {}\n  namespace: flux-system\n"
)
REPOSITORY = BEGIN + "spec:\n  type: oci\n  url: " + OLD + " # ours\n"


def change(name: str = "bp-x") -> Change:
    return Change(HELM_REPOSITORY, "flux-system", name, {("spec", "url"): NEW}, (("spec", "secretRef"),))


def write(top: Path, files: dict[str, str | bytes]) -> Path:
    for name, text in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return top


@pytest.mark.parametrize("lead", ["", "\ufeff", "# only a comment\n---\n", "--- # with text\n"])
def test_line_ends_and_marks_of_a_file_stay_as_they_are(tmp_path: Path, lead: str) -> None:
    before = (lead + REPOSITORY.format("bp-x")).replace("\n", "\r\n")
    top = write(tmp_path, {"kit/x.yaml": before})
    (text,) = plan_edits(top, [Root("kit")], [change()]).texts.values()
    assert text.encode() == before.replace(OLD, NEW).encode()


def test_a_block_scalar_leaves_its_line_end_behind(tmp_path: Path) -> None:
    before = REPOSITORY.format("bp-x").replace(f"url: {OLD} # ours", f"url: |-\n    {OLD}\n  interval: 5m")
    top = write(tmp_path, {"kit/x.yaml": before.replace("\n", "\r\n")})
    (text,) = plan_edits(top, [Root("kit")], [change()]).texts.values()
    assert text == before.replace(f"|-\n    {OLD}", NEW).replace("\n", "\r\n")


def test_what_is_no_text_is_trouble_only_where_it_names_the_object(tmp_path: Path) -> None:
    top = write(tmp_path, {"kit/x.yaml": REPOSITORY.format("bp-x"), "kit/other.yaml": b"\xff\xfe"})
    assert plan_edits(top, [Root("kit")], [change()]).undeclared == ()
    write(top, {"kit/other.yaml": b"\xff bp-x"})
    with pytest.raises(Stuck, match=r"ManifestUnreadable.*other\.yaml"):
        plan_edits(top, [Root("kit")], [change()])


def test_the_items_of_a_list_are_objects_of_their_own(tmp_path: Path) -> None:
    item = REPOSITORY.replace("\n", "\n    ").rstrip(" ")
    before = "apiVersion: v1\nkind: List\nitems:\n  # first\n"
    before += f"  - {item.format('bp-a')}  - {item.format('bp-x')}"
    top = write(tmp_path, {"kit/x.yaml": before})
    plan = plan_edits(top, [Root("kit")], [change()])
    (text,) = plan.texts.values()
    first, _, second = before.partition("bp-x")
    assert text == first + "bp-x" + second.replace(OLD, NEW)
    assert plan.undeclared == ()


PATCH = "kind: HelmRepository\nmetadata:\n  name: bp-x\nspec:\n  url: " + OLD + "\n"
OPERATION = "- op: replace\n  path: /spec/url\n  value: " + OLD + "\n"
TARGET = "    target:\n      kind: HelmRepository\n      name: bp-.*\n"


def indented(text: str, by: str = "      ") -> str:
    return "".join(by + line for line in text.splitlines(keepends=True))


def test_a_patch_file_that_would_undo_the_change_is_changed_as_well(tmp_path: Path) -> None:
    for number, listing in enumerate(("patches:\n  - path: p.yaml\n", "patchesStrategicMerge: [p.yaml]\n")):
        files = {"kit/kustomization.yaml": f"resources: [x.yaml]\n{listing}", "kit/p.yaml": PATCH}
        top = write(tmp_path / str(number), {**files, "kit/x.yaml": REPOSITORY.format("bp-x")})
        texts = {f.name: text for f, text in plan_edits(top, [Root("kit")], [change()]).texts.items()}
        assert texts == {"p.yaml": PATCH.replace(OLD, NEW), "x.yaml": REPOSITORY.format("bp-x").replace(OLD, NEW)}


@pytest.mark.parametrize(
    "patches",
    [
        f"patches:\n  - patch: |-\n{indented(PATCH)}",
        f"patches:\n  - patch: |-\n{indented(OPERATION)}{TARGET}",
        f"patchesStrategicMerge:\n  - |-\n{indented(PATCH)}",
        f"patchesJson6902:\n  - path: ops.yaml\n{TARGET}",
    ],
)
def test_a_patch_that_would_undo_the_change_is_told_before_anything_is_pushed(tmp_path: Path, patches: str) -> None:
    files = {"kit/kustomization.yaml": f"resources: [x.yaml]\n{patches}", "kit/ops.yaml": OPERATION}
    top = write(tmp_path, {**files, "kit/x.yaml": REPOSITORY.format("bp-x"), "kit/y.yaml": REPOSITORY.format("bp-y")})
    with pytest.raises(Stuck, match=r"DeclaredElsewhere.*kit/kustomization\.yaml.*spec\.url"):
        plan_edits(top, [Root("kit")], [change()])
    fitting = patches.replace(OLD, NEW)
    write(
        top, {"kit/kustomization.yaml": f"resources: [x.yaml]\n{fitting}", "kit/ops.yaml": OPERATION.replace(OLD, NEW)}
    )
    assert len(plan_edits(top, [Root("kit")], [change()]).texts) == 1


def test_a_patch_of_another_object_or_field_is_none_of_ours(tmp_path: Path) -> None:
    other = PATCH.replace("bp-x", "bp-other")
    interval = PATCH.replace(f"url: {OLD}", "interval: 5m")
    listing = f"resources: [x.yaml]\npatches:\n  - patch: |-\n{indented(other)}  - patch: |-\n{indented(interval)}"
    top = write(tmp_path, {"kit/kustomization.yaml": listing, "kit/x.yaml": REPOSITORY.format("bp-x")})
    assert len(plan_edits(top, [Root("kit")], [change()]).texts) == 1


def test_patches_of_the_flux_kustomization_itself_are_seen(tmp_path: Path) -> None:
    top = write(tmp_path, {"kit/x.yaml": REPOSITORY.format("bp-x")})
    patch = {"patch": OPERATION, "target": {"kind": "HelmRepository"}}
    with pytest.raises(Stuck, match=r"DeclaredElsewhere.*spec\.patches of its Kustomization"):
        plan_edits(top, [Root("kit", patches=(patch,))], [change()])


def test_labels_that_were_copied_are_told_from_a_manifest_that_is_generated() -> None:
    listed = {"entries": [{"id": "flux-system_bp-x_source.toolkit.fluxcd.io_HelmRepository", "v": "v1"}]}
    meta = {"name": "kit", "namespace": "flux-system"}
    kit = {"metadata": meta, "spec": {"path": "./kit"}, "status": {"inventory": listed}}
    repo = Repository(("flux-system", "openova"), "http://gitea/x", "main", (kit,))
    assert "generated" in _undeclared(repo, Edits({}, (change(),)))
    assert "labels that were copied" in _undeclared(repo, Edits({}, (change("bp-copied"),)))


# --- list items by name ------------------------------------------------------------------------------------

ENV = ("spec", "containers", Named("api"), "env", Named("URL"))
VALUE = Change(DEPLOYMENT, "n", "d", {(*ENV, "value"): "new"}, ((*ENV, "valueFrom"),))


def test_an_item_is_found_by_its_name_though_the_manifest_has_it_elsewhere_than_the_cluster() -> None:
    live = {
        "metadata": {"resourceVersion": "1"},
        "spec": {
            "containers": [
                {"name": "injected"},
                {"name": "api", "env": [{"name": "PROXY", "value": "p"}, {"name": "URL", "value": "old"}]},
            ]
        },
    }
    manifest = "spec:\n  containers:\n    - name: api\n      env:\n        - name: A\n          value: old\n"
    manifest += "        - name: B\n          value: old\n        - name: URL\n          value: old # ours\n"
    assert edited(manifest, [((0, ()), VALUE)]) == manifest.replace("old # ours", "new # ours")
    (_, api) = merge_patch(VALUE, live)["spec"]["containers"]
    assert api["env"] == [{"name": "PROXY", "value": "p"}, {"name": "URL", "value": "new"}]


def test_an_item_that_is_not_there_is_added_live_and_is_no_guess_in_a_manifest() -> None:
    live = {"metadata": {"resourceVersion": "1"}, "spec": {"containers": [{"name": "api"}]}}
    assert not holds(VALUE, live)
    patched = merge_patch(VALUE, live)["spec"]["containers"]
    assert patched == [{"name": "api", "env": [{"name": "URL", "value": "new"}]}]
    assert live["spec"] == {"containers": [{"name": "api"}]}
    with pytest.raises(CannotEdit, match=r"no URL in spec\.containers\.0\.env"):
        edited("spec:\n  containers:\n    - name: api\n      env: []\n", [((0, ()), VALUE)])


def test_a_source_of_a_value_goes_when_the_value_is_said() -> None:
    source = {"name": "URL", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}
    live = {"metadata": {"resourceVersion": "1"}, "spec": {"containers": [{"name": "api", "env": [source]}]}}
    (api,) = merge_patch(VALUE, live)["spec"]["containers"]
    assert api["env"] == [{"name": "URL", "value": "new"}]
    manifest = "spec:\n  containers:\n    - name: api\n      env:\n        - name: URL\n          valueFrom: {a: b}\n"
    new = edited(manifest, [((0, ()), VALUE)])
    assert "valueFrom" not in new
    assert "value: new" in new


def test_of_two_items_of_one_name_the_last_counts_as_for_the_process() -> None:
    assert at({"env": [{"name": "a", "value": "1"}, {"name": "a", "value": "2"}]}, ("env", Named("a"), "value")) == "2"
