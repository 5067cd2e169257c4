"""How a value of a Kubernetes type merges: which lists are keyed, which maps are one piece.

Builtin types are read from `builtin.json`: names and types of the fields of the published OpenAPI document of
Kubernetes 1.36, with the merge rules of its `x-kubernetes-list-type`, `-map-keys` and `-map-type`. Notation of a field:
`[]x` atomic list, `[a,b]x` list keyed by a and b, `[=]x` set, `{}x` map, `!` one piece, `+` a struct that Go always
has, `~` a list that Go writes as null. Types of custom resources are made from their structural schema.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import orjson

SCALARS = {"s": "string", "i": "integer", "b": "boolean", "f": "number"}


class Type:
    """One node of a schema, as server-side apply sees it. Filled in after creation, because types recur."""

    __slots__ = ("always", "atomic", "element", "fields", "keys", "kind", "open", "scalar", "unique")

    def __init__(self, kind: str, scalar: str = "") -> None:
        self.kind = kind  # "scalar" | "struct" | "map" | "list" | "any"
        self.scalar = scalar
        self.fields: dict[str, Type] = {}
        self.element: Type | None = None
        self.atomic = False
        self.keys: tuple[str, ...] = ()
        self.unique = False  # a set
        self.always: dict[str, Any] = {}
        self.open = False  # a struct that keeps unknown fields

    def child(self, key: str) -> Type:
        """The type of one key of a struct, map or untyped value."""
        return self.fields.get(key) or self.element or ANY

    def item(self) -> Type:
        """The type of the items of a list."""
        return self.element or ANY

    def piecemeal(self, value: object) -> bool:
        """Whether a value of this type merges piece by piece; an untyped list is one piece."""
        if self.atomic:
            return False
        if isinstance(value, dict):
            return self.kind in ("struct", "map", "any")
        return isinstance(value, list) and bool(self.keys or self.unique)


ANY = Type("any")
SCALAR = Type("scalar")


@cache
def _lines() -> dict[str, str]:
    found: dict[str, str] = orjson.loads((Path(__file__).parent / "builtin.json").read_bytes())
    return found


_NAMED: dict[str, Type] = {}


def builtin(name: str) -> Type:
    """The type of that name in `builtin.json`."""
    if name in _NAMED:
        return _NAMED[name]
    made = _NAMED[name] = Type("struct")
    words = _lines()[name].split()
    if words and words[0] == "!":
        made.atomic, words = True, words[1:]
    for word in words:
        field, _, spelt = word.partition(":")
        if spelt[0] in "+~":
            made.always[field] = {} if spelt[0] == "+" else None
            spelt = spelt[1:]
        made.fields[field] = _spelt(spelt)
    return made


def _spelt(spelt: str) -> Type:
    if spelt.startswith("!"):
        made = _spelt(spelt[1:])
        made.atomic = True
        return made
    if spelt.startswith("["):
        keys, _, of = spelt[1:].partition("]")
        made = Type("list")
        made.element = _spelt(of)
        made.unique = keys == "="
        made.keys = tuple(keys.split(",")) if keys and keys != "=" else ()
        return made
    if spelt.startswith("{}"):
        made = Type("map")
        made.element = _spelt(spelt[2:])
        return made
    if spelt in SCALARS:
        return Type("scalar", SCALARS[spelt])
    return ANY if spelt == "o" else builtin(spelt)


def of_schema(schema: dict[str, Any]) -> Type:
    """The type that a structural schema describes (apiextensions: x-kubernetes-* and OpenAPI v3)."""
    if schema.get("x-kubernetes-int-or-string"):
        return SCALAR
    properties, extra, items = (schema.get(k) for k in ("properties", "additionalProperties", "items"))
    if properties:
        made = Type("struct")
        made.fields = {key: of_schema(value) for key, value in properties.items()}
        made.open = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    elif isinstance(extra, dict):
        made = Type("map")
        made.element = of_schema(extra)
    elif items is not None:
        made = Type("list")
        made.element = of_schema(items)
        kind = schema.get("x-kubernetes-list-type")
        made.unique = kind == "set"
        made.keys = tuple(schema.get("x-kubernetes-list-map-keys", ())) if kind == "map" else ()
    else:
        made = Type("any") if schema.get("type") == "object" or not schema.get("type") else Type("scalar")
    made.atomic = schema.get("x-kubernetes-map-type") == "atomic"
    return made


def custom(schema: dict[str, Any]) -> Type:
    """The type of a custom object: its schema, with the metadata that every object has."""
    made = of_schema(schema)
    if made.kind != "struct":
        made = Type("struct")
        made.open = True
    for field in ("apiVersion", "kind"):
        made.fields[field] = SCALAR
    made.fields["metadata"] = builtin("V1ObjectMeta")
    made.always = {"metadata": {}}
    return made
