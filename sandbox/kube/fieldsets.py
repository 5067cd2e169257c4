"""Sets of fields, in the form of FieldsV1: a tree of `f:name`, `k:{keys}` and `v:value`, members marked with `.`.

The rules are those of sigs.k8s.io/structured-merge-diff v6 (fieldpath, typed): a struct itself is never a member
when it is applied, but is when it was added by an update; items of maps and keyed lists are.
"""

from __future__ import annotations

from typing import Any

import orjson

from sandbox.kube.typed import Type

Tree = dict[str, Any]
MEMBER = "."
ABSENT: Any = object()

# Never owned: the system writes them (fieldmanager/stripmeta.go).
STRIPPED = {
    "f:apiVersion",
    "f:kind",
}
STRIPPED_METADATA = {
    "f:" + name
    for name in (
        "name", "namespace", "creationTimestamp", "selfLink", "uid", "clusterName", "generation", "managedFields",
        "resourceVersion",
    )
}  # fmt: skip


def decode(fields: Tree) -> Tree:
    """From FieldsV1, where a bare `{}` is a member."""
    return {key: ({} if key == MEMBER else decode(below) or {MEMBER: {}}) for key, below in fields.items()}


def encode(tree: Tree) -> Tree:
    """To FieldsV1."""
    out: Tree = {}
    for key in sorted(tree):
        below = tree[key]
        out[key] = {} if key == MEMBER or below.keys() == {MEMBER} else encode(below)
    return out


def union(one: Tree, other: Tree) -> Tree:
    """Members of either."""
    if not one or not other:
        return one or other
    out = dict(one)
    for key, below in other.items():
        out[key] = union(out[key], below) if key in out else below
    return out


def difference(one: Tree, other: Tree) -> Tree:
    """Members of the first that are not members of the second."""
    if not other:
        return one
    out: Tree = {}
    for key, below in one.items():
        if key == MEMBER:
            if MEMBER not in other:
                out[key] = below
        elif key not in other:
            out[key] = below
        elif left := difference(below, other[key]):
            out[key] = left
    return out


def intersection(one: Tree, other: Tree) -> Tree:
    """Members of both."""
    out: Tree = {}
    for key, below in one.items():
        if key not in other:
            continue
        if key == MEMBER:
            out[key] = below
        elif both := intersection(below, other[key]):
            out[key] = both
    return out


def with_parents(tree: Tree) -> Tree:
    """The same, with every field on the way to a member made a member (EnsureNamedFieldsAreMembers)."""
    out = {key: with_parents(below) for key, below in tree.items() if key != MEMBER}
    return out | {MEMBER: {}}


def stripped(tree: Tree) -> Tree:
    """Without what the system writes."""
    out = {key: below for key, below in tree.items() if key not in STRIPPED and key != MEMBER}
    if "f:metadata" in out:
        kept = {
            key: below for key, below in out["f:metadata"].items() if key not in STRIPPED_METADATA and key != MEMBER
        }
        out["f:metadata"] = kept
        if not kept:
            del out["f:metadata"]
    return out


def paths(tree: Tree, prefix: str = "") -> list[str]:
    """Members as people read them: `.data.a`, `.spec.containers[name="x"].image`."""
    found: list[str] = []
    for key in sorted(tree):
        if key == MEMBER:
            found.append(prefix)
            continue
        mark, _, rest = key.partition(":")
        if mark == "f":
            step = f".{rest}"
        elif mark == "k":
            named = orjson.loads(rest)
            step = "[" + ",".join(f"{k}={orjson.dumps(v).decode()}" for k, v in sorted(named.items())) + "]"
        else:
            step = f"[={rest}]"
        found.extend(paths(tree[key], prefix + step))
    return found


def element(item: Any, kind: Type) -> str:
    """The path element of a list item: by its keys, or by its value."""
    if kind.keys and isinstance(item, dict):
        named = {key: item.get(key, _default_key(key)) for key in kind.keys}
        return "k:" + orjson.dumps(named, option=orjson.OPT_SORT_KEYS).decode()
    return "v:" + orjson.dumps(item, option=orjson.OPT_SORT_KEYS).decode()


def _default_key(key: str) -> Any:
    return "TCP" if key == "protocol" else None


def elements(value: Any, kind: Type) -> dict[str, Any]:
    """The items of a keyed list or set by path element, in order; a repeated key keeps its first item."""
    out: dict[str, Any] = {}
    for item in value or ():
        out.setdefault(element(item, kind), item)
    return out


def owned(value: Any, kind: Type) -> Tree:
    """The fields that an applied configuration claims (typed.ToFieldSet)."""
    if not value or not kind.piecemeal(value):
        return {MEMBER: {}}
    out: Tree = {}
    if isinstance(value, list):
        for name, item in elements(value, kind).items():
            out[name] = owned(item, kind.item()) | {MEMBER: {}}
        return out
    for key, item in value.items():
        below = owned(item, kind.child(key))
        if key not in kind.fields:
            below = below | {MEMBER: {}}
        out["f:" + key] = below
    return out


def compare(old: Any, new: Any, kind: Type) -> tuple[Tree, Tree]:
    """What was set (added or modified) and what was removed between two values (typed.Compare)."""
    if old is new or (old is not ABSENT and new is not ABSENT and old == new and type(old) is type(new)):
        return {}, {}
    piecemeal = [kind.piecemeal(value) for value in (old, new) if value is not ABSENT and value]
    if not piecemeal or not all(piecemeal):
        return _leaf(old, new)
    changed: Tree = {}
    removed: Tree = {}
    keyed = isinstance(new if new is not ABSENT and new else old, list)
    for name, before, after, below in _pairs(old, new, kind, keyed):
        more, less = compare(before, after, below)
        if more:
            changed[name] = more
        if less:
            removed[name] = less
    if old is ABSENT:
        changed[MEMBER] = {}
    elif new is ABSENT:
        removed[MEMBER] = {}
    return changed, removed


def _leaf(old: Any, new: Any) -> tuple[Tree, Tree]:
    if new is ABSENT:
        return {}, {MEMBER: {}}
    return {MEMBER: {}}, {}


def _pairs(old: Any, new: Any, kind: Type, keyed: bool) -> list[tuple[str, Any, Any, Type]]:
    if keyed:
        before = {} if old is ABSENT else elements(old, kind)
        after = {} if new is ABSENT else elements(new, kind)
        return [
            (name, before.get(name, ABSENT), after.get(name, ABSENT), kind.item())
            for name in before.keys() | after.keys()
        ]
    one = ABSENT if old is ABSENT else old or {}
    two = ABSENT if new is ABSENT else new or {}
    names = (set() if one is ABSENT else one.keys()) | (set() if two is ABSENT else two.keys())
    return [("f:" + name, _field(one, name, kind), _field(two, name, kind), kind.child(name)) for name in names]


def _field(value: Any, name: str, kind: Type) -> Any:
    return ABSENT if value is ABSENT else value.get(name, kind.always.get(name, ABSENT))


def without(value: Any, tree: Tree, kind: Type) -> Any:
    """The value with the members of the tree taken out, and all below them (typed.RemoveItems)."""
    if isinstance(value, list) and kind.piecemeal(value):
        kept = []
        for item in value:
            below = tree.get(element(item, kind))
            if below is None:
                kept.append(item)
            elif MEMBER not in below:
                kept.append(without(item, below, kind.item()))
        return kept
    if not isinstance(value, dict):
        return value
    out = {}
    for key, item in value.items():
        below = tree.get("f:" + key)
        if below is None:
            out[key] = item
        elif MEMBER not in below:
            out[key] = without(item, below, kind.child(key))
    return out


def merged(live: Any, config: Any, kind: Type) -> Any:
    """The live value with an applied configuration laid over it (typed.Merge)."""
    if config is None or not kind.piecemeal(config) or not isinstance(live, type(config)):
        return config
    if isinstance(config, dict):
        out = dict(live)
        for key, item in config.items():
            out[key] = merged(live.get(key), item, kind.child(key))
        return out
    return _merged_list(elements(live, kind), elements(config, kind), kind.item())


def _merged_list(live: dict[str, Any], config: dict[str, Any], kind: Type) -> list[Any]:
    """Order of the configuration, live items kept where they stood between the shared ones."""
    left = list(live)
    out: dict[str, Any] = {}
    at = 0
    for name, item in config.items():
        while at < len(left) and (left[at] != name if name in live else left[at] not in config):
            if left[at] not in config:
                out[left[at]] = live[left[at]]
            at += 1
        out[name] = merged(live[name], item, kind) if name in live else item
    for name in left[at:]:
        if name not in config:
            out[name] = live[name]
    return list(out.values())
