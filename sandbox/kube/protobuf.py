"""Bodies as client-go's typed clients write them: Kubernetes' protobuf envelope, of the few kinds that
Helm and kubectl send so.

Field numbers are those of k8s.io/api/core/v1/generated.proto and k8s.io/apimachinery/pkg/{runtime,apis/meta/v1}/
generated.proto (Kubernetes 1.36). Answers go out as JSON: those clients accept both.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

Object = dict[str, Any]
CONTENT_TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"

# Field number -> (name, type). Types: s text, b bytes, i number, t truth, {}x map of x, []x list of x, or a message.
_MESSAGES: dict[str, dict[int, tuple[str, str]]] = {
    "Unknown": {1: ("typeMeta", "TypeMeta"), 2: ("raw", "b"), 3: ("contentEncoding", "s"), 4: ("contentType", "s")},
    "TypeMeta": {1: ("apiVersion", "s"), 2: ("kind", "s")},
    "ObjectMeta": {
        1: ("name", "s"), 2: ("generateName", "s"), 3: ("namespace", "s"), 5: ("uid", "s"), 6: ("resourceVersion", "s"),
        7: ("generation", "i"), 8: ("creationTimestamp", "Time"), 9: ("deletionTimestamp", "Time"),
        10: ("deletionGracePeriodSeconds", "i"), 11: ("labels", "{}s"), 12: ("annotations", "{}s"),
        13: ("ownerReferences", "[]OwnerReference"), 14: ("finalizers", "[]s"),
    },
    "OwnerReference": {
        1: ("kind", "s"), 3: ("name", "s"), 4: ("uid", "s"), 5: ("apiVersion", "s"), 6: ("controller", "t"),
        7: ("blockOwnerDeletion", "t"),
    },
    "Secret": {
        1: ("metadata", "ObjectMeta"), 2: ("data", "{}b"), 3: ("type", "s"), 4: ("stringData", "{}s"),
        5: ("immutable", "t"),
    },
    "ConfigMap": {
        1: ("metadata", "ObjectMeta"), 2: ("data", "{}s"), 3: ("binaryData", "{}b"), 4: ("immutable", "t"),
    },
    "Namespace": {1: ("metadata", "ObjectMeta"), 2: ("spec", "NamespaceSpec"), 3: ("status", "NamespaceStatus")},
    "NamespaceSpec": {1: ("finalizers", "[]s")},
    "NamespaceStatus": {1: ("phase", "s")},
    "DeleteOptions": {
        1: ("gracePeriodSeconds", "i"), 2: ("preconditions", "Preconditions"), 3: ("orphanDependents", "t"),
        4: ("propagationPolicy", "s"), 5: ("dryRun", "[]s"),
    },
    "Preconditions": {1: ("uid", "s"), 2: ("resourceVersion", "s")},
}  # fmt: skip
_KINDS = ("Secret", "ConfigMap", "Namespace", "DeleteOptions")


class Unreadable(ValueError):
    """No envelope, a broken one, or a kind that is not known here; the text says which."""


def decode(raw: bytes) -> Object:
    """The object in an envelope, as its JSON would be. Empty words are left out, as `omitempty` does."""
    if not raw.startswith(_MAGIC):
        raise Unreadable("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")
    envelope = _message("Unknown", raw[len(_MAGIC) :])
    what = envelope.get("typeMeta", {})
    if envelope.get("contentEncoding") or what.get("kind") not in _KINDS:
        raise Unreadable(f"protobuf of {what.get('kind') or 'no kind'} is not read here")
    return {**what, **_message(what["kind"], base64.b64decode(envelope.get("raw", "")))}


def _message(kind: str, raw: bytes) -> Object:
    known, found = _MESSAGES[kind], dict[str, Any]()
    for number, value in _fields(raw):
        if number not in known:
            continue
        name, spelt = known[number]
        if spelt.startswith("{}"):
            entry = dict(_fields(_bytes(value)))
            found.setdefault(name, {})[_bytes(entry.get(1, b"")).decode()] = _value(spelt[2:], entry.get(2, b""))
        elif spelt.startswith("[]"):
            found.setdefault(name, []).append(_value(spelt[2:], value))
        else:
            found[name] = _value(spelt, value)
    return {name: value for name, value in found.items() if value not in ("", None, {})}


def _value(spelt: str, value: int | bytes) -> Any:
    match spelt:
        case "s":
            return _bytes(value).decode()
        case "b":
            return base64.b64encode(_bytes(value)).decode()
        case "i" if isinstance(value, int):
            return value - (value >> 63 << 64)  # two's complement
        case "i":
            raise Unreadable("bytes where a number belongs")
        case "t":
            return bool(value)
        case "Time":
            return _time(dict(_fields(_bytes(value))).get(1))
        case _:
            return _message(spelt, _bytes(value))


def _time(seconds: object) -> str | None:
    """Go's zero time is written as no seconds at all."""
    if seconds is None:
        return None
    try:
        return datetime.fromtimestamp(int(str(seconds)), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        raise Unreadable("a time that is none") from None


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise Unreadable("a number where bytes belong")
    return value


def _fields(raw: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field: an int of wire types 0, 1 and 5, bytes of wire type 2."""
    place = 0
    while place < len(raw):
        tag, place = _varint(raw, place)
        match tag & 7:
            case 0:
                value, place = _varint(raw, place)
                yield tag >> 3, value
                continue
            case 2:
                length, place = _varint(raw, place)
            case 1:
                length = 8
            case 5:
                length = 4
            case wire:
                raise Unreadable(f"wire type {wire}")
        if place + length > len(raw):
            raise Unreadable("unexpected EOF")
        part = raw[place : place + length]
        yield tag >> 3, part if tag & 7 == 2 else int.from_bytes(part, "little")
        place += length


def _varint(raw: bytes, place: int) -> tuple[int, int]:
    """The number that begins at `place`, and where the next thing begins."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(raw):
            raise Unreadable("unexpected EOF")
        byte = raw[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise Unreadable("a number of more than 64 bits")
