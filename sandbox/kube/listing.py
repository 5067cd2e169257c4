"""Lists: selected, and in pages. A page reads what is there now; a watch from the list's revision brings the rest."""

from __future__ import annotations

import base64
from typing import Any

import orjson

from sandbox.kube import errors, selectors
from sandbox.kube.call import Call, parse_revision, shown
from sandbox.kube.store import Store

Object = dict[str, Any]


def selection(call: Call) -> selectors.Match | None:
    """The predicate of the call's selectors, None when it takes everything."""
    r, query = call.resource, call.query
    by_labels = selectors.by_labels(query.get("labelSelector", ""))
    by_fields = selectors.by_fields(query.get("fieldSelector", ""), r.group, r.plural, r.selectable)
    both = [match for match in (by_labels, by_fields) if match is not None]
    return (lambda obj: all(match(obj) for match in both)) if both else None


def listed(store: Store, call: Call) -> Object:
    """The list, or one page of it."""
    r = call.resource
    match = selection(call)
    after, revision = _page(store, call)
    namespace = call.namespace if r.namespaced and call.namespace else None
    objects = store.all(r.key, namespace)
    if after is not None:
        objects = [obj for obj in objects if _place(obj) > after]
    if match is not None:
        objects = [obj for obj in objects if match(obj)]
    limit = _limit(call)
    metadata: Object = {"continue": ""} if r.custom else {}
    metadata["resourceVersion"] = str(revision)
    if limit and len(objects) > limit:
        left = len(objects) - limit
        objects = objects[:limit]
        metadata["continue"] = _token(revision, _place(objects[-1]))
        if match is None:
            metadata["remainingItemCount"] = left
    items = [shown(obj, r) if r.custom else _untyped(obj) for obj in objects]
    return {"kind": r.list_kind, "apiVersion": r.api_version, "metadata": metadata, "items": items}


def _limit(call: Call) -> int:
    text = call.query.get("limit") or "0"
    try:
        return int(text)
    except ValueError:
        raise errors.bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax') from None


def _page(store: Store, call: Call) -> tuple[tuple[str, str] | None, int]:
    if asked := call.query.get("continue"):
        after, revision = _untoken(asked)
        if store.since(call.resource.key, revision) is None:
            raise errors.expired("The provided continue parameter is too old")
        return after, revision
    _match(call)
    try:
        revision = parse_revision(call.query.get("resourceVersion", ""))
    except errors.ApiError as error:
        raise errors.bad_request(f"invalid resource version: {error.message}") from error
    if revision > store.revision:
        said = f"Timeout: Too large resource version: {revision}, current: {store.revision}"
        cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
        raise errors.ApiError(504, "Timeout", said, {"causes": [cause], "retryAfterSeconds": 1})
    return None, store.revision


def _match(call: Call) -> None:
    how, version = call.query.get("resourceVersionMatch", ""), call.query.get("resourceVersion", "")
    why = ""
    if how and not version:
        why = "resourceVersionMatch is forbidden unless resourceVersion is provided"
    elif how == "Exact" and version == "0":
        why = 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"'
    if why:
        fault = ("resourceVersionMatch", f"Forbidden: {why}", "FieldValueForbidden")
        raise errors.invalid("meta.k8s.io", "ListOptions", "", [fault])


def _untyped(obj: Object) -> Object:
    return {key: value for key, value in obj.items() if key not in ("apiVersion", "kind")}


def _place(obj: Object) -> tuple[str, str]:
    return (obj["metadata"].get("namespace", ""), obj["metadata"]["name"])


def _token(revision: int, place: tuple[str, str]) -> str:
    said = orjson.dumps({"v": "meta.k8s.io/v1", "rv": revision, "start": "/".join(place)})
    return base64.urlsafe_b64encode(said).rstrip(b"=").decode()


def _untoken(token: str) -> tuple[tuple[str, str], int]:
    try:
        said = orjson.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        namespace, _, name = said["start"].partition("/")
        return (namespace, name), int(said["rv"])
    except (ValueError, KeyError, TypeError) as error:
        raise errors.bad_request(f"invalid continue token: continue key is not valid: {error}") from error
