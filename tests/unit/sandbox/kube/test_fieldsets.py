"""Sets of fields, and applying, updating and comparing by them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.kube import fieldsets, managed
from sandbox.kube.errors import ApiError
from sandbox.kube.managed import Owner
from sandbox.kube.typed import ANY, builtin, of_schema

CONFIG_MAP = builtin("V1ConfigMap")
DEPLOYMENT = builtin("V1Deployment")
NOW = "2026-01-01T00:00:00Z"

values = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda below: st.dictionaries(st.sampled_from("abcd"), below, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(st.sampled_from("abcd"), values, max_size=4)


@settings(deadline=None)  # the machine may be shared
@given(objects, objects)
def test_laying_a_configuration_over_a_value_gives_all_of_the_configuration(
    live: dict[str, Any], config: dict[str, Any]
) -> None:
    merged = fieldsets.merged(live, config, ANY)
    assert fieldsets.merged(merged, config, ANY) == merged
    lost, _ = fieldsets.compare(merged, fieldsets.merged(merged, config, ANY), ANY)
    assert lost == {}


@settings(deadline=None)  # the machine may be shared
@given(objects, objects)
def test_there_is_a_difference_exactly_when_values_differ(old: dict[str, Any], new: dict[str, Any]) -> None:
    changed, removed = fieldsets.compare(old, new, ANY)
    assert (changed == {} and removed == {}) == (old == new)


@settings(deadline=None)  # the machine may be shared
@given(objects, objects)
def test_a_set_is_what_it_shares_with_another_and_what_it_does_not(one: dict[str, Any], other: dict[str, Any]) -> None:
    first, second = fieldsets.owned(one, ANY), fieldsets.owned(other, ANY)
    shared = fieldsets.intersection(first, second)
    rest = fieldsets.difference(first, second)
    assert fieldsets.union(shared, rest) == first
    assert fieldsets.intersection(shared, rest) == {}


@settings(deadline=None)  # the machine may be shared
@given(objects)
def test_a_set_survives_the_wire(value: dict[str, Any]) -> None:
    tree = {key: below for key, below in fieldsets.owned(value, ANY).items() if key != fieldsets.MEMBER}
    assert fieldsets.decode(fieldsets.encode(tree)) == tree


def test_paths_are_written_as_people_read_them() -> None:
    env = [{"name": "URL", "value": "x"}]
    spec = {"template": {"spec": {"containers": [{"name": "api", "env": env}]}}}
    told = fieldsets.paths(fieldsets.owned({"spec": spec}, DEPLOYMENT))
    assert '.spec.template.spec.containers[name="api"].env[name="URL"].value' in told


def test_keyed_lists_keep_the_order_of_the_configuration_and_what_stood_between() -> None:
    kind = of_schema(
        {
            "type": "array",
            "items": {"type": "object", "properties": {"name": {"type": "string"}, "v": {"type": "integer"}}},
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
        }
    )
    live = [{"name": "a"}, {"name": "x"}, {"name": "b"}]
    config = [{"name": "new"}, {"name": "b", "v": 1}]
    merged = fieldsets.merged(live, config, kind)
    assert {item["name"] for item in merged} == {"a", "x", "b", "new"}
    assert [item["name"] for item in merged if item["name"] in ("new", "b")] == ["new", "b"]


def test_an_untyped_list_is_one_piece() -> None:
    assert fieldsets.merged({"l": [1, 2]}, {"l": [3]}, ANY) == {"l": [3]}


def applied(live: Any, data: dict[str, str], manager: str, *, force: bool = False) -> Any:
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data}
    return managed.applied(live, config, CONFIG_MAP, Owner(manager, "Apply", "v1"), NOW, force=force)


def test_two_managers_may_want_the_same_but_not_differ() -> None:
    both = applied(applied(None, {"k": "1"}, "one"), {"k": "1"}, "two")
    with pytest.raises(ApiError, match=r'conflict with "two": \.data\.k') as caught:
        applied(both, {"k": "2"}, "one")
    assert caught.value.code == 409
    taken = applied(both, {"k": "2"}, "one", force=True)
    assert [entry["manager"] for entry in taken["metadata"]["managedFields"]] == ["one"]


def test_an_update_takes_what_it_sets_and_frees_what_it_removes() -> None:
    live = applied(None, {"a": "1", "b": "1"}, "one")
    new = {**live, "data": {"a": "2"}}
    done = managed.updated(live, new, CONFIG_MAP, Owner("us", "Update", "v1"), NOW)
    held = {entry["manager"]: entry["fieldsV1"] for entry in done["metadata"]["managedFields"]}
    assert held == {"us": {"f:data": {"f:a": {}}}}


def test_what_an_updater_owns_is_not_dropped_by_an_apply() -> None:
    live = applied(None, {"a": "1"}, "one")
    touched = managed.updated(
        live, {**live, "data": {"a": "1", "b": "1"}}, CONFIG_MAP, Owner("us", "Update", "v1"), NOW
    )
    done = applied(touched, {"c": "1"}, "one")
    assert done["data"] == {"b": "1", "c": "1"}
