"""The generated mothership repository."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from sandbox import openova
from sandbox.catalogue import CHARTS, PACKAGES
from sandbox.openova_slots import ABOUT, TEMPLATE, manifests
from workers.adapters.yaml_edit import documents

KIT = f"{TEMPLATE}/bootstrap-kit/"
SHARED = Path(__file__).parents[3] / ".." / "shared" / "data" / "openova-clusters"


def of_kind(kind: str) -> list[dict]:
    slots = [text for path, text in manifests().items() if path.startswith(KIT)]
    return [document for text in slots for document in documents(text) if document.get("kind") == kind]


def test_it_is_the_same_to_the_byte_every_time_and_quick(tmp_path: Path) -> None:
    began = time.monotonic()
    first = openova.generate(tmp_path / "a")
    assert time.monotonic() - began < 20, "a fraction of a second, on a machine that does nothing else"
    assert openova.head(first) == openova.head(openova.generate(tmp_path / "b"))


def test_every_chart_of_the_catalogue_has_one_slot_at_its_version(tmp_path: Path) -> None:
    tree = openova.export(openova.generate(tmp_path), tmp_path / "tree")
    assert openova.charts_in(tree) == tuple((chart.name, chart.version) for chart in CHARTS)
    assert len(openova.slots(tree)) == 38
    assert all((tree / KIT / name).is_file() for name in openova.slots(tree))


def test_every_repository_has_the_vendors_url_and_secret() -> None:
    repositories = of_kind("HelmRepository")
    assert len(repositories) == 38
    for repository in repositories:
        assert repository["apiVersion"] == "source.toolkit.fluxcd.io/v1beta2"
        assert repository["spec"]["type"] == "oci"
        assert repository["spec"]["url"] == "oci://ghcr.io/openova-io"
        assert repository["spec"]["secretRef"] == {"name": "ghcr-pull"}


def test_no_object_is_declared_twice() -> None:
    names = [
        (document["kind"], document["metadata"]["name"])
        for text in manifests().values()
        for document in documents(text)
        if "metadata" in document
    ]
    assert len(names) == len(set(names))


def test_releases_wait_for_others_without_a_circle() -> None:
    waits = {f"bp-{name}": {f"bp-{other}" for other in others} for name, (_, others) in ABOUT.items()}
    assert set(waits) == {chart.name for chart in CHARTS}
    while ready := {name for name, others in waits.items() if not others}:
        waits = {name: others - ready for name, others in waits.items() if name not in ready}
    assert not waits


def test_the_provider_is_the_catalogue_s() -> None:
    provider = documents(manifests()[f"{TEMPLATE}/infrastructure/provider-hcloud.yaml"])[0]
    assert provider["spec"]["package"] == PACKAGES[0]


def test_a_tree_or_its_template_becomes_the_same_repository(tmp_path: Path) -> None:
    tree = openova.export(openova.generate(tmp_path), tmp_path / "tree") / "clusters"
    whole = openova.from_tree(tree, tmp_path / "whole")
    template = openova.from_tree(tree / "_template", tmp_path / "template")
    assert openova.head(whole) == openova.head(template)
    again = openova.export(template, tmp_path / "again")
    assert openova.charts_in(again) == openova.charts_in(tree)


def test_a_copy_has_every_ref_and_forgets_where_it_came_from(tmp_path: Path) -> None:
    source = openova.generate(tmp_path / "a")
    copy = openova.from_repository(source, tmp_path / "b")
    assert openova._git("show-ref", at=copy) == openova._git("show-ref", at=source)
    assert b"refs/pull/2/merge" in openova._git("show-ref", at=copy)
    assert str(source) not in (copy / "config").read_text()


def test_a_directory_without_a_bootstrap_kit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        openova.from_tree(tmp_path, tmp_path / "x")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the public manifests are not beside this checkout")
def test_ours_have_the_shape_of_the_public_ones() -> None:
    """Same kinds with the same keys; comments and values are our own."""

    def keys(document: dict) -> tuple:
        kind = document.get("kind")
        spec = frozenset(document.get("spec", {})) - {"timeout", "values", "dependsOn"}
        return kind, document.get("apiVersion"), spec

    for path in sorted(SHARED.rglob("*.yaml")):
        text = manifests().get(f"clusters/{path.relative_to(SHARED).as_posix()}")
        assert text is not None, path.name
        theirs, ours = (
            {keys(d) for d in documents(t) if d.get("kind") != "Namespace"} for t in (path.read_text(), text)
        )
        assert theirs == ours, path.name
