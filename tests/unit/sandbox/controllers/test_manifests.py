from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.controllers.manifests import BuildFailed, build, entry, stale, substitute


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a ${X} b", "a 1 b"),
        ("${Y:=2}", "2"),
        ("${Y:-2}", "2"),
        ("${X:=2}", "1"),
        ("[${Y}]", "[]"),
        ("$${X}", "${X}"),
        ("$X", "$X"),
    ],
)
def test_variables_are_substituted_as_flux_does(text: str, expected: str) -> None:
    assert substitute(text, {"X": "1"}) == expected


NAMESPACE = "apiVersion: v1\nkind: Namespace\nmetadata: {name: ${N}}\n"
MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m, namespace: ${N}}\n"


def tree(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_yaml", ".yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_build_reads_the_listed_files_and_puts_namespaces_first(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        k__kustomization_yaml="resources: [a.yaml, sub]\n",
        k__a_yaml=f"---\n{MAP}---\n",
        k__sub__n_yaml=NAMESPACE,
        k__unlisted_yaml=MAP,
    )
    built = build(root, "./k", {"N": "here"})
    assert [(o["kind"], o["metadata"].get("namespace")) for o in built] == [("Namespace", None), ("ConfigMap", "here")]


def test_without_variables_nothing_is_substituted(tmp_path: Path) -> None:
    [found] = build(tree(tmp_path, a_yaml=MAP.replace("${N}", '"${N}"')), ".", None)
    assert found["metadata"]["namespace"] == "${N}"


@pytest.mark.parametrize("path", ["missing", "../elsewhere"])
def test_a_path_that_is_not_in_the_artifact_fails_the_build(tmp_path: Path, path: str) -> None:
    with pytest.raises(BuildFailed):
        build(tmp_path, path, None)


def test_a_file_that_is_listed_and_missing_or_no_object_fails_the_build(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed):
        build(tree(tmp_path / "a", kustomization_yaml="resources: [gone.yaml]"), ".", None)
    with pytest.raises(BuildFailed):
        build(tree(tmp_path / "b", x_yaml="just: text"), ".", None)


def test_only_what_left_the_inventory_is_stale() -> None:
    kept = entry({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "namespace": "n"}})
    gone = entry({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "b"}})
    assert kept == {"id": "n_a_apps_Deployment", "v": "v1"}
    assert gone == {"id": "_b__Namespace", "v": "v1"}
    assert stale([kept, gone], [kept]) == [gone]
