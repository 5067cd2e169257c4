"""Structural schemas of custom resources: prune what they do not name, fill in defaults, say what is wrong.

The order and the words are those of apiextensions-apiserver: prune, default, then validate.
"""

from __future__ import annotations

import ipaddress
import re
from functools import cache, cached_property
from typing import Any

import jsonschema
import orjson

from sandbox.kube.typed import Type, custom

Object = dict[str, Any]
Fault = tuple[str, str, str]  # field, message, reason of the cause

_PRESERVE = "x-kubernetes-preserve-unknown-fields"
_EMBEDDED = "x-kubernetes-embedded-resource"


_FORMATS = jsonschema.FormatChecker(formats=())


@_FORMATS.checks("cidr", raises=ValueError)
def _is_cidr(value: object) -> bool:
    """As Go's net.ParseCIDR: an address and a length, host bits are let pass."""
    return not isinstance(value, str) or ("/" in value and bool(ipaddress.ip_interface(value)))


class Schema:
    """One version's schema."""

    def __init__(self, document: Object) -> None:
        self._document = document

    @cached_property
    def type(self) -> Type:
        """How its values merge."""
        return custom(self._document)

    def pruned(self, obj: Object) -> tuple[Object, list[str]]:
        """Without the fields that it does not name, and their paths."""
        unknown: list[str] = []
        kept = _pruned({**obj, "metadata": {}}, self._document, "", unknown, root=True)
        kept["metadata"] = obj.get("metadata") or {}
        return kept, unknown

    def defaulted(self, obj: Object) -> Object:
        """With its defaults filled in."""
        done: Object = _defaulted(obj, self._document)
        return done

    @cached_property
    def _validator(self) -> jsonschema.Draft202012Validator:
        return jsonschema.Draft202012Validator(_plain(self._document), format_checker=_FORMATS)

    def faults(self, obj: Object) -> list[Fault]:
        """What is wrong with it."""
        body = {**obj, "metadata": {}}  # metadata has rules of its own
        found: list[Fault] = []
        for error in self._validator.iter_errors(body):
            found.extend(_told(error))
        return sorted(set(found))

    def misfit(self, obj: Object) -> str | None:
        """What an apply says of the first value of another type than the schema's; None when all fit."""
        errors = self._validator.iter_errors({**obj, "metadata": {}})
        for error in errors:
            if error.validator == "type":
                path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
                return f"{path}: expected {error.validator_value}, got {error.instance!r}"
        return None


def _pruned(value: Any, schema: Object, path: str, unknown: list[str], *, root: bool = False) -> Any:
    if isinstance(value, list):
        items = schema.get("items")
        if not isinstance(items, dict):
            return value
        return [_pruned(item, items, f"{path}[{at}]", unknown) for at, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    named = schema.get("properties") or {}
    extra = schema.get("additionalProperties")
    keep = schema.get(_PRESERVE)
    out = {}
    for key, item in value.items():
        below = f"{path}.{key}" if path else key
        if key in named:
            out[key] = _pruned(item, named[key], below, unknown)
        elif (root or schema.get(_EMBEDDED)) and key in ("apiVersion", "kind", "metadata"):
            out[key] = item
        elif isinstance(extra, dict):
            out[key] = _pruned(item, extra, below, unknown)
        elif extra or keep:
            out[key] = item
        else:
            unknown.append(below)
    return out


def _defaulted(value: Any, schema: Object) -> Any:
    if isinstance(value, list):
        items = schema.get("items")
        return [_defaulted(item, items) for item in value] if isinstance(items, dict) else value
    if not isinstance(value, dict):
        return value
    out = dict(value)
    named = schema.get("properties") or {}
    for key, below in named.items():
        if "default" in below and (key not in out or (out[key] is None and not below.get("nullable"))):
            out[key] = orjson.loads(orjson.dumps(below["default"]))
        elif key in out and out[key] is None and not below.get("nullable"):
            del out[key]
        if key in out:
            out[key] = _defaulted(out[key], below)
    extra = schema.get("additionalProperties")
    if isinstance(extra, dict):
        out |= {key: _defaulted(item, extra) for key, item in out.items() if key not in named}
    return out


def _plain(schema: Any, *, branch: bool = False) -> Any:
    """As JSON Schema: int-or-string, nullable and exclusive bounds in today's words; x-kubernetes-* left out."""
    if not isinstance(schema, dict):
        return schema
    out: Object = {}
    for key, value in schema.items():
        if key in ("properties", "patternProperties"):
            out[key] = {name: _plain(below) for name, below in value.items()}
        elif key in ("items", "additionalProperties", "not"):
            out[key] = _plain(value)
        elif key in ("allOf", "anyOf", "oneOf"):
            out[key] = [_plain(below, branch=True) for below in value]
        elif key in ("type", "required", "enum", "minimum", "maximum", "minLength", "maxLength", "minItems",
                     "maxItems", "minProperties", "maxProperties", "uniqueItems", "multipleOf", "format"):  # fmt: skip
            out[key] = value
        elif key == "pattern":
            out[key] = _python_pattern(value)
    if schema.get("x-kubernetes-int-or-string"):
        out["type"] = ["integer", "string"]
    if schema.get("nullable") and isinstance(out.get("type"), str):
        out["type"] = [out["type"], "null"]
    for bound in ("minimum", "maximum"):
        if schema.get(f"exclusive{bound.capitalize()}") is True and bound in out:
            out[f"exclusive{bound.capitalize()}"] = out.pop(bound)
    return out


@cache
def _python_pattern(pattern: str) -> str:
    """Go's `$` does not match before a trailing newline; a pattern that Python cannot read is let pass."""
    try:
        re.compile(pattern)
    except re.error:
        return ""
    return pattern[:-1] + r"\Z" if pattern.endswith("$") and not pattern.endswith("\\$") else pattern


def _path(error: jsonschema.ValidationError) -> str:
    out = ""
    for step in error.absolute_path:
        out += f"[{step}]" if isinstance(step, int) else (f".{step}" if out else str(step))
    return out


def _told(error: jsonschema.ValidationError) -> list[Fault]:
    path = _path(error)
    value: Any = error.instance
    wanted: Any = error.validator_value
    shown = orjson.dumps(value).decode()
    match error.validator:
        case "required":
            missing = [name for name in wanted if name not in value]
            return [(f"{path}.{name}" if path else name, "Required value", "FieldValueRequired") for name in missing]
        case "pattern":
            written = str(wanted)
            written = written[:-2] + "$" if written.endswith(r"\Z") else written
            said = f"Invalid value: {shown}: {path} in body should match '{written}'"
            return [(path, said, "FieldValueInvalid")]
        case "enum":
            allowed = ", ".join(orjson.dumps(item).decode() for item in wanted)
            return [(path, f"Unsupported value: {shown}: supported values: {allowed}", "FieldValueNotSupported")]
        case "type":
            kind = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer"}.get(
                type(value), "number" if isinstance(value, float) else "null"
            )
            said = f'Invalid value: "{kind}": {path} in body must be of type {wanted}: "{kind}"'
            return [(path, said, "FieldValueTypeInvalid")]
        case "format":
            said = f"Invalid value: {shown}: {path} in body must be of type {wanted}: {shown}"
            return [(path, said, "FieldValueTypeInvalid")]
        case "maxLength" | "maxItems" | "maxProperties":
            return [(path, f"Too long: may not be more than {wanted} bytes", "FieldValueTooLong")]
        case _:
            said = f"Invalid value: {shown}: {path} in body {error.message}"
            return [(path, said, "FieldValueInvalid")]
