"""JSON patch, merge patch, strategic merge patch."""

from __future__ import annotations

import pytest

from sandbox.kube import patches
from sandbox.kube.errors import ApiError
from sandbox.kube.typed import builtin

POD = builtin("V1PodSpec")


def test_a_merge_patch_replaces_lists_and_drops_nulls() -> None:
    live = {"a": {"b": 1, "c": 2}, "l": [1, 2]}
    assert patches.merge_patch(live, {"a": {"b": None}, "l": [3]}) == {"a": {"c": 2}, "l": [3]}
    assert live == {"a": {"b": 1, "c": 2}, "l": [1, 2]}


@pytest.mark.parametrize(
    ("patch", "code"),
    [
        ({"data": {}}, 400),
        ([{"op": "test", "path": "/a", "value": 2}], 422),
        ([{"op": "remove", "path": "/nobody"}], 422),
        ([{"op": "add", "path": "/x/y/z", "value": 1}], 422),
    ],
)
def test_a_json_patch_that_does_not_fit_is_refused(patch: object, code: int) -> None:
    with pytest.raises(ApiError) as caught:
        patches.json_patch({"a": 1}, patch)
    assert caught.value.code == code


def test_containers_and_their_variables_merge_by_name() -> None:
    live = {"containers": [{"name": "x", "image": "i"}, {"name": "y", "env": [{"name": "A", "value": "1"}]}]}
    patch = {"containers": [{"name": "y", "env": [{"name": "B", "value": "2"}]}]}
    done = patches.strategic(live, patch, POD)
    assert [container["name"] for container in done["containers"]] == ["x", "y"]
    assert {item["name"] for item in done["containers"][1]["env"]} == {"A", "B"}


def test_directives_delete_and_replace() -> None:
    live = {"containers": [{"name": "x"}, {"name": "y"}]}
    gone = patches.strategic(live, {"containers": [{"name": "x", "$patch": "delete"}]}, POD)
    assert gone == {"containers": [{"name": "y"}]}
    other = patches.strategic(live, {"containers": [{"$patch": "replace"}, {"name": "z"}]}, POD)
    assert other == {"containers": [{"name": "z"}]}


def test_lists_without_a_key_are_replaced() -> None:
    live = {"tolerations": [{"key": "a"}]}
    assert patches.strategic(live, {"tolerations": [{"key": "b"}]}, POD) == {"tolerations": [{"key": "b"}]}
