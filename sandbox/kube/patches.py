"""The patches that are not server-side apply: JSON patch, merge patch, strategic merge patch."""

from __future__ import annotations

from typing import Any

import jsonpatch
import jsonpointer

from sandbox.kube.errors import ApiError, bad_request
from sandbox.kube.typed import Type

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"
Object = dict[str, Any]

# Lists that strategic merge keys otherwise than server-side apply: by one key only (patchMergeKey in core/v1).
_ONE_KEY = {"containerPort": "containerPort", "port": "port", "topologyKey": "topologyKey"}


def _unprocessable() -> ApiError:
    return ApiError(422, "Invalid", "the server rejected our request due to an error in our request", {})


def json_patch(obj: Object, patch: object) -> Object:
    """RFC 6902; a failed test or a path that leads nowhere is 422."""
    if not isinstance(patch, list):
        raise bad_request(
            "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"
        )
    try:
        done = jsonpatch.apply_patch(obj, patch)
    except jsonpatch.InvalidJsonPatch as error:
        raise bad_request(f"error decoding patch: {error}") from error
    except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException, TypeError) as error:
        raise _unprocessable() from error
    if not isinstance(done, dict):
        raise _unprocessable()
    return done


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    out = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            out.pop(key, None)
        else:
            out[key] = merge_patch(out.get(key), value)
    return out


def strategic(target: Any, patch: Any, kind: Type) -> Any:
    """Lists with a merge key are merged by it, with `$patch` and `$deleteFromPrimitiveList` directives."""
    if isinstance(patch, list):
        return _strategic_list(target or [], patch, kind)
    if not isinstance(patch, dict):
        return patch
    if patch.get("$patch") == "replace":
        return {key: value for key, value in patch.items() if key != "$patch"}
    if patch.get("$patch") == "delete":
        return {}
    out = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            field = key.partition("/")[2]
            out[field] = [item for item in out.get(field) or [] if item not in value]
        elif key.startswith("$retainKeys"):
            out = {name: item for name, item in out.items() if name in value}
        elif key.startswith("$"):
            continue
        elif value is None:
            out.pop(key, None)
        else:
            out[key] = strategic(out.get(key), value, kind.child(key))
    return out


def _strategic_list(live: list[Any], patch: list[Any], kind: Type) -> list[Any]:
    if any(isinstance(item, dict) and item.get("$patch") == "replace" for item in patch):
        return [item for item in patch if not (isinstance(item, dict) and "$patch" in item)]
    if kind.unique:
        return [*live, *(item for item in patch if item not in live)]
    if not kind.keys:
        return patch
    key = _ONE_KEY.get(kind.keys[0], kind.keys[0])
    gone = {item.get(key) for item in patch if isinstance(item, dict) and item.get("$patch") == "delete"}
    have = {item.get(key): item for item in live}
    named = [item for item in patch if item.get("$patch") != "delete"]
    wanted = {item.get(key): strategic(have.get(item.get(key)), item, kind.item()) for item in named}
    rest = [item for item in live if item.get(key) not in wanted and item.get(key) not in gone]
    return _woven(rest, wanted, [item.get(key) for item in live], key)


def _woven(rest: list[Any], wanted: dict[Any, Any], order: list[Any], key: str) -> list[Any]:
    """Server-only items put among patched ones by their old order (strategicpatch mergeSortedSlice)."""
    out = list(wanted.values())
    start = 0
    for item in rest:
        at = start
        while at < len(out):
            name = out[at].get(key)
            if name in order and order.index(item.get(key)) < order.index(name):
                break
            at += 1
        out.insert(at, item)
        start = at + 1
    return out
