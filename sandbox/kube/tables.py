"""Objects as tables and as bare metadata, for clients that ask for it in `Accept`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sandbox.kube.resources import Resource

Object = dict[str, Any]


def form(accept: str) -> str:
    """`Table`, `PartialObjectMetadata`, `PartialObjectMetadataList`, or nothing for the object itself."""
    for wanted in accept.split(","):
        words = [word.strip() for word in wanted.split(";")]
        if "g=meta.k8s.io" in words:
            return next((word.removeprefix("as=") for word in words if word.startswith("as=")), "")
        if words[0] in ("application/json", "*/*", "application/*"):
            return ""
    return ""


def render(body: Object, accept: str, resource: Resource, now: datetime, include: str = "") -> Object:
    """The object or list in the form that was asked for."""
    wanted = form(accept)
    if wanted == "Table":
        return _table(body, resource, now, include)
    if wanted.startswith("PartialObjectMetadata"):
        if "items" in body:
            items = [_partial(item) for item in body["items"]]
            return {**body, "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "items": items}
        return _partial(body)
    return body


def _partial(obj: Object) -> Object:
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def _column(name: str, kind: str = "string", shape: str = "", says: str = "") -> Object:
    return {"name": name, "type": kind, "format": shape, "description": says, "priority": 0}


def _table(body: Object, resource: Resource, now: datetime, include: str) -> Object:
    objects = body.get("items", [body])
    columns, cells = _columns(resource, now)
    metadata = body["metadata"]
    kept = ("resourceVersion", "continue", "remainingItemCount")
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {key: metadata[key] for key in kept if metadata.get(key)},
        "columnDefinitions": columns,
        "rows": [{"cells": cells(obj), "object": _included(obj, include)} for obj in objects],
    }


def _included(obj: Object, include: str) -> Object | None:
    if include == "None":
        return None
    return obj if include == "Object" else _partial(obj)


def _columns(resource: Resource, now: datetime) -> tuple[list[Object], Any]:
    name = _column("Name", shape="name", says="Name must be unique within a namespace.")
    age = _column("Age", says="Time since the object was created.")
    if resource.key == ("", "configmaps"):
        data = _column("Data", says="Number of entries.")
        return [name, data, age], lambda obj: [
            obj["metadata"]["name"],
            len(obj.get("data") or {}) + len(obj.get("binaryData") or {}),
            _age(obj["metadata"]["creationTimestamp"], now),
        ]
    paths = [column["jsonPath"].removeprefix(".") for column in resource.columns]
    more = [_printed(column) for column in resource.columns]
    if not more:
        return [name, age], lambda obj: [
            obj["metadata"]["name"],
            _age(obj["metadata"]["creationTimestamp"], now),
        ]
    return [name, *more], lambda obj: [obj["metadata"]["name"], *(_cell(obj, path, now) for path in paths)]


def _printed(column: Object) -> Object:
    made = _column(column["name"], column["type"], column.get("format", ""), column.get("description", ""))
    return {**made, "priority": column.get("priority", 0)}


def _cell(obj: Any, path: str, now: datetime) -> Any:
    """A printer column; of JSONPath just the forms that our definitions use."""
    for step in path.replace("[?(", ".[?(").split(".") if "[?(" not in path else _steps(path):
        if step.startswith("[?(") and isinstance(obj, list):
            key, _, value = step[3:-2].removeprefix("@.").partition("==")
            obj = next((item for item in obj if item.get(key) == value.strip("\"'")), None)
        else:
            obj = obj.get(step) if isinstance(obj, dict) else None
    if path == "metadata.creationTimestamp":
        return _age(obj, now)
    return obj


def _steps(path: str) -> list[str]:
    head, _, rest = path.partition("[?(")
    test, _, tail = rest.partition(")]")
    return [*head.split("."), f"[?({test})]", *(step for step in tail.split(".") if step)]


def _age(stamp: str, now: datetime) -> str:
    seconds = int((now - datetime.fromisoformat(stamp)).total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{max(seconds, 0)}s"
