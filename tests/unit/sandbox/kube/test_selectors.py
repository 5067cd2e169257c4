"""Label and field selectors."""

from __future__ import annotations

import pytest

from sandbox.kube import selectors
from sandbox.kube.errors import ApiError


@pytest.mark.parametrize(
    ("selector", "labels", "takes"),
    [
        ("a=1", {"a": "1"}, True),
        ("a==1", {"a": "2"}, False),
        ("a!=1", {}, True),
        ("a", {"a": ""}, True),
        ("!a", {"a": ""}, False),
        ("a in (1, 2)", {"a": "2"}, True),
        ("a in (1,2)", {}, False),
        ("a notin (1,2)", {}, True),
        ("a notin (1,2)", {"a": "1"}, False),
        ("a>3", {"a": "4"}, True),
        ("a=1,b in (x),!c", {"a": "1", "b": "x"}, True),
        ("a=1,b in (x),!c", {"a": "1", "b": "x", "c": ""}, False),
        ("app.kubernetes.io/part-of=x", {"app.kubernetes.io/part-of": "x"}, True),
        ("a=", {"a": ""}, True),
    ],
)
def test_labels_are_matched(selector: str, labels: dict[str, str], takes: bool) -> None:
    match = selectors.by_labels(selector)
    assert match is not None
    assert match({"metadata": {"labels": labels}}) is takes


@pytest.mark.parametrize("selector", ["a in 1", "=x", "a b", "a=1;b=2"])
def test_what_is_no_selector_is_refused(selector: str) -> None:
    with pytest.raises(ApiError):
        selectors.by_labels(selector)


def test_nothing_selects_everything() -> None:
    assert selectors.by_labels("") is None


def test_fields_are_matched_where_the_kind_allows() -> None:
    match = selectors.by_fields("spec.nodeName=cp-1,status.phase!=Failed", "", "pods")
    assert match is not None
    assert match({"metadata": {}, "spec": {"nodeName": "cp-1"}, "status": {"phase": "Running"}})
    assert not match({"metadata": {}, "spec": {"nodeName": "cp-2"}, "status": {}})
    with pytest.raises(ApiError, match="not a known field selector"):
        selectors.by_fields("spec.nodeName=cp-1", "", "configmaps")
