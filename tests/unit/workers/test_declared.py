"""Which manifest declares an object, and the edit that changes only that."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from workers.adapters.cluster import Cluster
from workers.adapters.cluster_kinds import GIT_REPOSITORY, HELM_RELEASE, HELM_REPOSITORY
from workers.adapters.yaml_edit import CannotEdit
from workers.declared.changes import Change, edited, holds, merge_patch
from workers.declared.files import Root, plan_edits
from workers.declared.repository import repository
from workers.errors import Stuck

REPOSITORY = """\
# one of many
apiVersion: v1
kind: Namespace
metadata:
  name: flux-system
  labels: {sovereign: "${SOVEREIGN_FQDN}"}
---
apiVersion: source.toolkit.fluxcd.io/v1beta2
kind: HelmRepository
metadata:
  name: bp-x
  namespace: flux-system
spec:
  type: oci   # a comment that stays
  url: oci://ghcr.io/openova-io
  secretRef:
    name: ghcr-pull
"""
URL = "oci://harbor.sov.test/openova-io"


def change(name: str = "bp-x", namespace: str = "flux-system") -> Change:
    fields = {("spec", "url"): URL, ("spec", "insecure"): True}
    return Change(HELM_REPOSITORY, namespace, name, fields, (("spec", "secretRef"),))


def write(top: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    return top


def test_only_the_document_that_declares_the_object_changes_and_comments_stay(tmp_path: Path) -> None:
    top = write(tmp_path, {"kit/01-x.yaml": REPOSITORY, "other/01-x.yaml": REPOSITORY})
    plan = plan_edits(top, [Root("./kit")], [change()])
    (file,) = plan.texts
    assert file.name == "01-x.yaml"
    assert file.parent.name == "kit"
    expected = REPOSITORY.replace("oci://ghcr.io/openova-io", URL)
    expected = expected.replace("  secretRef:\n    name: ghcr-pull\n", "  insecure: true\n")
    assert plan.texts[file] == expected
    assert plan.undeclared == ()


def test_a_second_plan_finds_nothing_to_write(tmp_path: Path) -> None:
    top = write(tmp_path, {"kit/01-x.yaml": REPOSITORY})
    for file, text in plan_edits(top, [Root("kit")], [change()]).texts.items():
        file.write_text(text)
    assert plan_edits(top, [Root("kit")], [change()]).texts == {}


def test_what_no_applied_manifest_declares_is_said(tmp_path: Path) -> None:
    top = write(tmp_path, {"kit/01-x.yaml": REPOSITORY, "kit/.hidden/02.yaml": REPOSITORY.replace("bp-x", "bp-y")})
    missing = change("bp-y")
    assert plan_edits(top, [Root("kit")], [change(), missing]).undeclared == (missing,)


def test_the_tree_is_read_as_kustomize_reads_it(tmp_path: Path) -> None:
    bare = REPOSITORY.replace("  namespace: flux-system\n", "")
    top = write(
        tmp_path,
        {
            "kit/kustomization.yaml": "resources: [listed.yaml, sub, https://example.test/remote]\nnamespace: outer\n",
            "kit/listed.yaml": bare,
            "kit/unlisted.yaml": REPOSITORY,
            "kit/sub/kustomization.yaml": "namespace: inner\nnamePrefix: pre-\nresources:\n- ../../base\n",
            "base/a.yaml": bare.replace("bp-x", "bp-z"),
        },
    )
    plan = plan_edits(top, [Root("kit")], [change("bp-x", "outer"), change("pre-bp-z", "outer")])
    assert sorted(file.name for file in plan.texts) == ["a.yaml", "listed.yaml"]
    assert plan.undeclared == ()
    assert plan_edits(top, [Root("kit")], [change()]).undeclared == (change(),)


def test_nothing_is_followed_out_of_the_checkout(tmp_path: Path) -> None:
    top = write(tmp_path / "checkout", {"kit/kustomization.yaml": "resources: [../../outside, self]\n"})
    write(tmp_path, {"outside/x.yaml": REPOSITORY})
    (top / "kit" / "self").symlink_to(top / "kit")
    assert plan_edits(top, [Root("kit")], [change()]).undeclared == (change(),)
    assert plan_edits(top, [Root("../outside")], [change()]).undeclared == (change(),)


def test_names_are_compared_after_substitution(tmp_path: Path) -> None:
    top = write(tmp_path, {"kit/x.yaml": REPOSITORY.replace("name: bp-x", "name: bp-${KIND:=x}")})
    assert plan_edits(top, [Root("kit")], [change()]).undeclared == ()
    named = Root("kit", substitute={"KIND": "y"})
    assert plan_edits(top, [named], [change("bp-y")]).undeclared == ()


def test_a_broken_manifest_is_trouble_only_where_it_may_declare_the_object(tmp_path: Path) -> None:
    top = write(tmp_path, {"kit/a.yaml": REPOSITORY, "kit/b.yaml": "{{ template }}\n: x"})
    assert plan_edits(top, [Root("kit")], [change()]).undeclared == ()
    write(top, {"kit/b.yaml": "{{ template }} bp-x\n: x"})
    with pytest.raises(Stuck, match="ManifestUnreadable"):
        plan_edits(top, [Root("kit")], [change()])


def test_a_layout_that_cannot_be_edited_names_the_file_and_the_object(tmp_path: Path) -> None:
    shared = REPOSITORY.replace("  url: oci://ghcr.io/openova-io", "  url: &u oci://ghcr.io/openova-io\n  copy: *u")
    top = write(tmp_path, {"kit/x.yaml": shared})
    with pytest.raises(Stuck, match=r"x\.yaml.*HelmRepository flux-system/bp-x"):
        plan_edits(top, [Root("kit")], [change()])


def test_a_change_knows_whether_it_holds_and_how_to_patch_for_it() -> None:
    obj = {
        "metadata": {"resourceVersion": "7"},
        "spec": {"url": "oci://ghcr.io/openova-io", "secretRef": {"name": "s"}},
    }
    assert not holds(change(), obj)
    assert not holds(change(), None)
    assert merge_patch(change(), obj) == {
        "metadata": {"resourceVersion": "7"},
        "spec": {"url": URL, "insecure": True, "secretRef": None},
    }
    assert holds(change(), {"spec": {"url": URL, "insecure": True}})
    assert not holds(change(), {"spec": {"url": URL, "insecure": True, "secretRef": {"name": "s"}}})


def test_a_merge_patch_into_a_list_carries_the_whole_list() -> None:
    obj = {"metadata": {"resourceVersion": "7"}, "spec": {"env": [{"name": "a", "value": "1"}, {"name": "b"}]}}
    body = merge_patch(Change(GIT_REPOSITORY, "f", "x", {("spec", "env", 0, "value"): "2"}), obj)
    assert body["spec"] == {"env": [{"name": "a", "value": "2"}, {"name": "b"}]}
    assert obj["spec"]["env"][0]["value"] == "1"


def test_a_dozen_objects_in_one_file_get_a_truth_value_each(tmp_path: Path) -> None:
    names = [f"bp-{number}" for number in range(12)]
    top = write(tmp_path, {"kit/x.yaml": "---\n".join(REPOSITORY.replace("bp-x", name) for name in names)})
    (text,) = plan_edits(top, [Root("kit")], [change(name) for name in names]).texts.values()
    assert text.count("insecure: true\n") == 12
    assert "cutoverValue" not in text


@pytest.mark.parametrize("mark", ["", "\u2028"])
def test_an_equals_sign_in_a_manifest_is_text(tmp_path: Path, mark: str) -> None:
    """`matchType: =` of Alertmanager: YAML 1.1 has a type for it that PyYAML knows and cannot make."""
    theirs = f"---\nkind: AlertmanagerConfig\nspec:\n  # {mark}\n  matchers: [{{name: a, matchType: =}}]\n  plain: =\n"
    top = write(tmp_path, {"kit/x.yaml": REPOSITORY + theirs})
    (text,) = plan_edits(top, [Root("kit")], [change()]).texts.values()
    assert text.endswith(theirs)
    assert URL in text


class _Holding:
    """A cluster that has one GitRepository."""

    def __init__(self, ref: dict[str, str]) -> None:
        self.ref = ref

    async def get(self, *_: object) -> dict[str, Any]:
        return {"metadata": {"name": "r", "namespace": "n"}, "spec": {"url": "http://gitea/x/y", "ref": self.ref}}


async def _followed(ref: dict[str, str]) -> str:
    return (await repository(cast(Cluster, _Holding(ref)), ("n", "r"), [])).branch


def test_commits_go_to_the_branch_that_flux_follows_and_nowhere_when_it_follows_none() -> None:
    assert asyncio.run(_followed({})) == "master"
    assert asyncio.run(_followed({"branch": "main", "name": "refs/heads/prod"})) == "prod"
    pins = ({"branch": "main", "tag": "v1"}, {"semver": ">=1"}, {"commit": "a" * 40}, {"name": "refs/pull/1/head"})
    for pinned in pins:
        with pytest.raises(Stuck, match=r"SourcePinned.*n/r is pinned"):
            asyncio.run(_followed(pinned))


def test_an_edit_that_would_not_hold_is_refused() -> None:
    values = Change(HELM_RELEASE, "flux-system", "r", {("spec", "values", "on"): True})
    assert "on: true" in edited("kind: HelmRelease\nspec:\n  values:\n    a: 1\n", [((0, ()), values)]).replace(
        '"on"', "on"
    )
    with pytest.raises(CannotEdit):
        edited('kind: HelmRelease\nspec:\n  values:\n    "on": "false"\n', [((0, ()), values)])


SHARED = Path(__file__).parents[3] / "../shared/data/openova-clusters/_template"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real manifests are not here")
def test_every_repository_of_the_real_kit_is_found_and_edited_to_what_was_asked() -> None:
    top = SHARED.resolve()
    names = [f.stem.split("-", 1)[1].removeprefix("bp-") for f in (top / "bootstrap-kit").glob("[0-9]*.yaml")]
    changes = [change(f"bp-{name}") for name in names]
    plan = plan_edits(top, [Root("bootstrap-kit", substitute={"SOVEREIGN_FQDN": "sov.test"})], changes)
    assert len(plan.texts) == 35
    assert plan.undeclared == ()
    assert not any("url: oci://ghcr.io" in text for text in plan.texts.values())
