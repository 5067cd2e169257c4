"""Rules for the metadata of every kind, in the API server's own words (apimachinery, validation and api/validation)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

Object = dict[str, Any]
Fault = tuple[str, str, str]  # field, message, reason of the cause

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z")
_PART = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]\Z")
_LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?\Z")
_SUBDOMAIN_SAID = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start"
    " and end with an alphanumeric character (e.g. 'example.com', regex used for validation is"
    r" '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
LABEL_SAID = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end"
    " with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is"
    " '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
_PART_SAID = (
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character"
    " (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is"
    " '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
_VALUE_SAID = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and"
    " end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is"
    " '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
STANDARD_FINALIZERS = ("orphan", "foregroundDeletion", "kubernetes")
MOST_NOTES = 256 * 1024
LONGEST_NAME, LONGEST_LABEL = 253, 63
LONGEST_BASE = LONGEST_LABEL - 5
"""Of `generateName`, before five characters are put after it (apiserver, names/generate.go)."""


def wrong(field: str, value: object, why: str) -> Fault:
    """An invalid value."""
    return (field, f"Invalid value: {orjson.dumps(value).decode()}: {why}", "FieldValueInvalid")


def missing(field: str, why: str = "") -> Fault:
    """A required value."""
    return (field, f"Required value: {why}" if why else "Required value", "FieldValueRequired")


def too_long(field: str, most: int) -> Fault:
    """More bytes than there may be."""
    return (field, f"Too long: may not be more than {most} bytes", "FieldValueTooLong")


def metadata_faults(group: str, plural: str, metadata: Object, old: Object | None = None) -> list[Fault]:
    """What is wrong with the metadata of any kind that is to replace `old`."""
    faults: list[Fault] = []
    base, name = metadata.get("generateName") or "", metadata.get("name") or ""
    # A base may end in what a name may not: more comes after it.
    if base and old is None:
        faults += _named(group, plural, "metadata.generateName", base, base.rstrip("-") or "a")
    if not name:
        faults.append(missing("metadata.name", "name or generateName is required"))
    elif old is None:
        faults += _named(group, plural, "metadata.name", name, name)
    for key, value in (metadata.get("labels") or {}).items():
        faults += [wrong("metadata.labels", key, why) for why in qualified_name(key)]
        if len(value) > LONGEST_LABEL:
            faults.append(wrong("metadata.labels", value, f"must be no more than {LONGEST_LABEL} bytes"))
        if not _LABEL_VALUE.match(value):
            faults.append(wrong("metadata.labels", value, _VALUE_SAID))
    notes: Mapping[str, str] = metadata.get("annotations") or {}
    for key in notes:
        faults += [wrong("metadata.annotations", key, why) for why in qualified_name(key.lower())]
    if sum(len(key.encode()) + len(value.encode()) for key, value in notes.items()) > MOST_NOTES:
        faults.append(too_long("metadata.annotations", MOST_NOTES))
    return [*faults, *_finalizers(metadata, old)]


def _named(group: str, plural: str, field: str, shown: str, name: str) -> Iterator[Fault]:
    if group == "rbac.authorization.k8s.io":
        if name in (".", "..") or "/" in name or "%" in name:
            yield wrong(field, shown, "may not contain '/' or '%'")
        return
    short = (group, plural) in (("", "namespaces"), ("", "services"))
    most = LONGEST_LABEL if short else LONGEST_NAME
    if len(name) > most:
        yield wrong(field, shown, f"must be no more than {most} characters")
    if not (_LABEL if short else _SUBDOMAIN).match(name):
        yield wrong(field, shown, LABEL_SAID if short else _SUBDOMAIN_SAID)


def qualified_name(key: str) -> Iterator[str]:
    """What is wrong with the key of a label or annotation, or a finalizer."""
    prefix, slash, name = key.rpartition("/")
    if "/" in prefix:
        optional = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
        yield f"a valid label key {_PART_SAID} {optional}"
        return
    if slash and not prefix:
        yield "prefix part must be non-empty"
    elif slash and not _SUBDOMAIN.match(prefix):
        yield f"prefix part {_SUBDOMAIN_SAID}"
    if not name:
        yield "name part must be non-empty"
    elif len(name) > LONGEST_LABEL:
        yield f"name part must be no more than {LONGEST_LABEL} bytes"
    if not _PART.match(name):
        yield f"name part {_PART_SAID}"


def _finalizers(metadata: Object, old: Object | None) -> Iterator[Fault]:
    found = list(metadata.get("finalizers") or ())
    for finalizer in found:
        yield from (wrong("metadata.finalizers", finalizer, why) for why in qualified_name(finalizer))
    if {"orphan", "foregroundDeletion"} <= set(found):
        why = "finalizer orphan and foregroundDeletion cannot be both set"
        yield wrong("metadata.finalizers", found, why)
    if old is None:
        why = "name is neither a standard finalizer name nor is it fully qualified"
        for at, finalizer in enumerate(found):
            if "/" not in finalizer and finalizer not in STANDARD_FINALIZERS:
                yield wrong(f"metadata.finalizers[{at}]", finalizer, why)
    elif old.get("deletionTimestamp") and (new := [f for f in found if f not in (old.get("finalizers") or ())]):
        shown = ", ".join(f'"{f}"' for f in new)
        why = "no new finalizers can be added if the object is being deleted, found new finalizers"
        yield ("metadata.finalizers", f"Forbidden: {why} []string{{{shown}}}", "FieldValueForbidden")
