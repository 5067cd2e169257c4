"""Label and field selectors, as the API server parses them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from sandbox.kube.errors import bad_request

Object = dict[str, Any]
Match = Callable[[Object], bool]

_TERM = re.compile(r"\s*(?:(!)\s*)?([A-Za-z0-9][-A-Za-z0-9_./]*)\s*(?:(==|=|!=)\s*([-A-Za-z0-9_.]*)\s*|"
                   r"\s(in|notin)\s*\(([^)]*)\)\s*|(>|<)\s*(-?\d+)\s*)?(?:,|$)")  # fmt: skip
FIELDS = ("metadata.name", "metadata.namespace")
MORE_FIELDS: dict[tuple[str, str], tuple[str, ...]] = {
    ("", "pods"): (
        "spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
        "status.phase", "status.podIP", "status.nominatedNodeName",
    ),
    ("", "nodes"): ("spec.unschedulable",),
    ("", "secrets"): ("type",),
    ("", "namespaces"): ("status.phase",),
    ("", "events"): ("involvedObject.kind", "involvedObject.name", "involvedObject.namespace", "involvedObject.uid",
                     "reason", "type", "reportingComponent", "source"),
    ("batch", "jobs"): ("status.successful",),
    ("apps", "replicasets"): ("status.replicas",),
}  # fmt: skip


def _one(term: re.Match[str]) -> Callable[[dict[str, str]], bool]:
    absent, key, op, value, among, values, order, number = term.groups()
    if absent:
        return lambda labels: key not in labels
    if among:
        wanted = {item.strip() for item in values.split(",")}
        return lambda labels: (key in labels and labels[key] in wanted) == (among == "in")
    if order:
        return lambda labels: _ordered(labels.get(key), order, int(number))
    if op is None:
        return lambda labels: key in labels
    if op == "!=":
        return lambda labels: labels.get(key) != value
    return lambda labels: labels.get(key) == value


def _ordered(value: str | None, order: str, number: int) -> bool:
    if value is None or not value.lstrip("-").isdigit():
        return False
    return int(value) > number if order == ">" else int(value) < number


def by_labels(selector: str) -> Match | None:
    """A predicate on objects, None when everything matches; raises 400."""
    if not selector.strip():
        return None
    terms, at = [], 0
    while at < len(selector):
        found = _TERM.match(selector, at)
        if found is None:
            raise bad_request(f"unable to parse requirement: found {selector[at:]!r}")
        terms.append(_one(found))
        at = found.end()
    return lambda obj: all(term(obj["metadata"].get("labels") or {}) for term in terms)


def by_fields(selector: str, group: str, plural: str, also: tuple[str, ...] = ()) -> Match | None:
    """A predicate on objects; raises 400 for a field that this kind cannot be selected by."""
    if not selector.strip():
        return None
    known = FIELDS + MORE_FIELDS.get((group, plural), ()) + also
    terms: list[tuple[str, bool, str]] = []
    for part in selector.split(","):
        if "=" not in part:
            raise bad_request(f"invalid selector: '{selector}'; can't understand '{part}'")
        negated = "!=" in part
        field, _, value = part.partition("!=" if negated else "=")
        field, value = field.strip(), value.lstrip("=").strip()
        if field not in known:
            raise bad_request(_unknown(field, group, plural, own=bool(also)))
        terms.append((field, negated, value))
    return lambda obj: all((_at(obj, field) == value) != negated for field, negated, value in terms)


def _unknown(field: str, group: str, plural: str, *, own: bool) -> str:
    """Kinds with fields of their own, and custom ones, refuse in other words than the rest."""
    if own or "." in group or (group, plural) in MORE_FIELDS:
        return f"field label not supported: {field}"
    return f'"{field}" is not a known field selector: only "metadata.name", "metadata.namespace"'


def _at(obj: Any, path: str) -> str:
    for step in path.split("."):
        obj = obj.get(step) if isinstance(obj, dict) else None
    if isinstance(obj, bool):
        return "true" if obj else "false"
    return "" if obj is None else str(obj)
