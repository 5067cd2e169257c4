from __future__ import annotations

import pytest

from sandbox import charts
from sandbox.catalogue import CHARTS, CUTOVER_IMAGE, GITOPS_UPSTREAM, Chart


def chart(name: str) -> Chart:
    return next(c for c in CHARTS if c.name == name)


@pytest.mark.parametrize("each", CHARTS, ids=lambda c: c.name)
def test_every_chart_of_the_catalogue_survives_packing_and_renders_its_image(each: Chart) -> None:
    packed = charts.archive(each)
    assert packed == charts.archive(each)
    bundle = charts.unpack(packed)
    assert (bundle.name, bundle.version) == (each.name, each.version)
    objects = charts.render(bundle, {}, "release", each.namespace)
    workload = objects[-1]
    containers = workload["spec"]["template"]["spec"]["containers"]
    assert [c["image"] for c in containers] == [each.values["image"]]


def test_catalyst_api_is_told_its_repository_by_the_value() -> None:
    bundle = charts.unpack(charts.archive(chart(charts.CATALYST_API)))

    def told(values: dict[str, object]) -> str:
        [deployment] = charts.render(bundle, values, "catalyst-platform", "catalyst-system")
        [container] = deployment["spec"]["template"]["spec"]["containers"]
        return str(next(e["value"] for e in container["env"] if e["name"] == "CATALYST_GITOPS_REPO_URL"))

    assert told({}) == GITOPS_UPSTREAM
    assert told({"catalystApi": {"gitopsRepoUrl": "http://here/x"}}) == "http://here/x"


def test_the_node_agent_runs_on_every_node_in_a_namespace_of_its_own() -> None:
    bundle = charts.unpack(charts.archive(chart(charts.NODE_AGENT)))
    namespace, agent = charts.render(bundle, {}, "cutover", "catalyst-cutover")
    assert namespace["metadata"]["name"] == agent["metadata"]["namespace"] == charts.AGENT_NAMESPACE
    [container] = agent["spec"]["template"]["spec"]["containers"]
    assert (container["image"], container["command"], container["args"]) == (
        CUTOVER_IMAGE,
        ["cutover"],
        ["node-agent"],
    )
    assert [v["hostPath"]["path"] for v in agent["spec"]["template"]["spec"]["volumes"]] == [
        charts.REGISTRIES_DIR,
        charts.CERTS_DIR,
    ]


def test_a_value_that_is_missing_is_an_error_not_an_empty_string() -> None:
    bundle = charts.unpack(charts.archive(chart("bp-gitea")))
    with pytest.raises(KeyError):
        charts.render(bundle, {"image": None}, "gitea", "gitea")


def test_maps_merge_lists_replace_and_null_removes() -> None:
    assert charts.merge({"a": {"b": 1, "c": [1]}, "d": 1}, {"a": {"c": [2]}, "d": None}) == {"a": {"b": 1, "c": [2]}}


def test_charts_of_a_given_tree_stand_beside_the_catalogue() -> None:
    found = list(charts.known([("bp-gitea", "1.1.2"), ("bp-gitea", "9.9.9"), ("bp-new", "0.0.1")]))
    assert len(found) == len(CHARTS) + 2
    later, new = found[-2:]
    assert later.values == chart("bp-gitea").values
    assert new.namespace == "new"
    assert charts.unpack(charts.archive(new)).version == "0.0.1"


def test_what_is_not_an_archive_is_refused() -> None:
    with pytest.raises(ValueError, match="not a chart archive"):
        charts.unpack(b"<html>not found</html>")
