"""The bootstrap-kit slot: what it names is there, and its values install the chart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
    assert (blueprint["spec"]["chart"]["name"], blueprint["spec"]["chart"]["version"]) == wanted
    assert blueprint["spec"]["dependsOn"] == [d["name"] for d in release["dependsOn"]]
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
