"""The bootstrap-kit slot: what it names is there, and its values install the chart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import published
import pytest
import yaml

from sandbox.blueprint import CHART, render

Object = dict[str, Any]
EXAMPLES = CHART / "examples"
SLOTS = Path(__file__).parents[4] / "shared" / "data" / "openova-clusters" / "_template" / "bootstrap-kit"


def slot() -> dict[str, Object]:
    """Kind -> object, after Flux has substituted the Sovereign's name."""
    text = (EXAMPLES / "06a-bp-self-sovereign-cutover.yaml").read_text().replace("${SOVEREIGN_FQDN}", "sovereign.test")
    return {obj["kind"]: obj for obj in yaml.safe_load_all(text)}


def chart() -> Object:
    found: Object = yaml.safe_load((CHART / "Chart.yaml").read_text())
    return found


def test_its_values_install_the_chart() -> None:
    release = slot()["HelmRelease"]["spec"]
    assert render(release["values"], release=release["releaseName"], namespace=release["targetNamespace"])


def test_slot_blueprint_and_chart_name_the_same_chart_and_version() -> None:
    found, release = slot(), slot()["HelmRelease"]["spec"]
    wanted = (chart()["name"], chart()["version"])
    assert (release["chart"]["spec"]["chart"], release["chart"]["spec"]["version"]) == wanted
    assert release["chart"]["spec"]["sourceRef"]["name"] == found["HelmRepository"]["metadata"]["name"]
    blueprint = yaml.safe_load((EXAMPLES / "blueprint.yaml").read_text())
    assert (blueprint["metadata"]["name"], blueprint["spec"]["version"]) == wanted
    assert blueprint["spec"]["manifests"]["source"]["ref"] == "{}/{}:{}".format(
        found["HelmRepository"]["spec"]["url"], *wanted
    )
    assert [d["blueprint"] for d in blueprint["spec"]["depends"]] == [d["name"] for d in release["dependsOn"]]
    assert found["Namespace"]["metadata"]["name"] == release["targetNamespace"]


def test_it_depends_on_slots_that_are_there_and_that_do_not_wait_for_it() -> None:
    if not SLOTS.is_dir():
        pytest.skip("no real bootstrap-kit beside this checkout")
    documents = [obj for file in SLOTS.glob("*.yaml") for obj in yaml.safe_load_all(file.read_text()) if obj]
    after = {
        obj["metadata"]["name"]: {d["name"] for d in obj["spec"].get("dependsOn") or ()}
        for obj in documents
        if obj["kind"] == "HelmRelease"
    }
    wanted = {d["name"] for d in slot()["HelmRelease"]["spec"]["dependsOn"]}
    assert wanted <= set(after)
    behind, reached = set(wanted), set[str]()
    while behind:
        name = behind.pop()
        reached.add(name)
        behind |= after.get(name, set()) - reached
    assert "bp-self-sovereign-cutover" not in reached


def test_the_blueprint_is_one_as_the_catalog_defines_it() -> None:
    blueprint = yaml.safe_load((EXAMPLES / "blueprint.yaml").read_text())
    schema = published.WRITTEN[(blueprint["apiVersion"], blueprint["kind"])]
    assert published.complaints(blueprint, schema) == []
    del blueprint["spec"]["card"]
    assert published.complaints(blueprint, schema) == ["spec: 'card' is a required property"]


@pytest.mark.parametrize("flux", ["flux-2.4", "flux-newest"])
def test_flux_knows_every_field_of_the_slot(flux: str) -> None:
    """Both that are in the field; a version that one of them no longer serves is the other's to judge."""
    if not published.DATA.is_dir():
        pytest.skip("no definitions of Flux beside this checkout")
    known = published.definitions(published.DATA / flux)
    judged = {kind: known[(o["apiVersion"], kind)] for kind, o in slot().items() if (o["apiVersion"], kind) in known}
    assert "HelmRelease" in judged
    assert "HelmRepository" in judged or flux == "flux-newest"
    for kind, schema in judged.items():
        assert published.complaints(slot()[kind], schema) == []
    release = slot()["HelmRelease"]
    release["spec"]["dependson"] = []
    assert published.complaints(release, judged["HelmRelease"]) != []


def test_it_is_written_as_the_slots_beside_it_are() -> None:
    """Same versions of the same kinds, same repository, same pull secret, same labels and remediation."""
    file = SLOTS / "19-harbor.yaml"
    if not file.is_file():
        pytest.skip("no real bootstrap-kit beside this checkout")
    beside = {obj["kind"]: obj for obj in yaml.safe_load_all(file.read_text()) if obj}
    ours = slot()
    assert set(ours) == set(beside)
    for kind, obj in beside.items():
        assert ours[kind]["apiVersion"] == obj["apiVersion"]
        assert set(obj["metadata"].get("labels") or {}) <= set(ours[kind]["metadata"].get("labels") or {})
    assert ours["HelmRepository"]["spec"] == beside["HelmRepository"]["spec"]
    for part in ("interval", "install", "upgrade"):
        assert ours["HelmRelease"]["spec"][part] == beside["HelmRelease"]["spec"][part]
    assert ours["HelmRelease"]["metadata"]["namespace"] == beside["HelmRelease"]["metadata"]["namespace"]
