"""Who owns which field: `metadata.managedFields`, and server-side apply with its conflicts.

Rules of structured-merge-diff v6 (merge/update.go): an update takes what it sets and frees what it removes; an apply
conflicts over a field that another manager set to another value, and drops what its manager no longer applies unless
someone else owns it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sandbox.kube import fieldsets
from sandbox.kube.errors import apply_conflict
from sandbox.kube.fieldsets import ABSENT, Tree
from sandbox.kube.typed import Type

Object = dict[str, Any]


@dataclass(frozen=True)
class Owner:
    """One entry of managedFields, without its fields."""

    manager: str
    operation: str
    api_version: str
    subresource: str = ""

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """What makes two entries the same (an apply in another version is still another entry)."""
        return (self.manager, self.operation, self.api_version, self.subresource)


@dataclass(frozen=True)
class Held:
    """The fields of an owner, and when they last changed."""

    owner: Owner
    fields: Tree
    time: str


def read(obj: Object) -> dict[tuple[str, str, str, str], Held]:
    """The entries of an object."""
    found = {}
    for entry in obj.get("metadata", {}).get("managedFields") or ():
        owner = Owner(
            entry.get("manager", ""),
            entry.get("operation", "Update"),
            entry.get("apiVersion", ""),
            entry.get("subresource", ""),
        )
        fields = fieldsets.decode(entry.get("fieldsV1") or {})
        found[owner.identity] = Held(owner, fields, entry.get("time", ""))
    return found


def write(obj: Object, held: dict[tuple[str, str, str, str], Held]) -> Object:
    """The object with these entries: applies first, then by time and name (fieldmanager sortEncodedManagedFields)."""
    entries = sorted(
        (h for h in held.values() if h.fields),
        key=lambda h: (h.owner.operation, h.time, h.owner.manager, h.owner.api_version, h.owner.subresource),
    )
    metadata = {key: value for key, value in obj["metadata"].items() if key != "managedFields"}
    if entries:
        metadata["managedFields"] = [_entry(h) for h in entries]
    return {**obj, "metadata": metadata}


def _entry(held: Held) -> Object:
    entry = {
        "manager": held.owner.manager,
        "operation": held.owner.operation,
        "apiVersion": held.owner.api_version,
        "time": held.time,
        "fieldsType": "FieldsV1",
        "fieldsV1": fieldsets.encode(held.fields),
    }
    return entry | ({"subresource": held.owner.subresource} if held.owner.subresource else {})


def bare(obj: Object) -> Object:
    """The object without its managedFields, for comparing."""
    metadata = obj.get("metadata") or {}
    if "managedFields" not in metadata:
        return obj
    return {**obj, "metadata": {key: value for key, value in metadata.items() if key != "managedFields"}}


def _writable(fields: Tree, owner: Owner, split: bool) -> Tree:
    """Without what this path resets: all but status on the status subresource, status elsewhere (`split`)."""
    if owner.subresource == "status":
        return {key: below for key, below in fields.items() if key == "f:status"}
    return {key: below for key, below in fields.items() if not split or key != "f:status"}


def updated(old: Object | None, new: Object, kind: Type, owner: Owner, now: str, *, split: bool = False) -> Object:
    """The new object, with what it changed owned by `owner` and no longer by others."""
    held = read(old) if old is not None else {}
    changed, removed = fieldsets.compare(bare(old) if old is not None else {}, bare(new), kind)
    changed, removed = fieldsets.stripped(changed), fieldsets.stripped(removed)
    changed = _writable(changed, owner, split)
    if not changed and not removed:
        return write(new, held)
    lost = fieldsets.union(changed, removed)
    after = {}
    for identity, one in held.items():
        kept = fieldsets.difference(one.fields, removed if identity == owner.identity else lost)
        after[identity] = Held(one.owner, kept, one.time)
    mine = after.get(owner.identity, Held(owner, {}, now))
    fields = fieldsets.union(mine.fields, changed)
    # Whoever took a field is dated now, the same field again too (managedFieldsUpdater.Update).
    after[owner.identity] = Held(owner, fields, now if changed else mine.time)
    return write(new, after)


def applied(
    live: Object | None,
    config: Object,
    kind: Type,
    owner: Owner,
    now: str,
    *,
    force: bool,
    split: bool = False,
) -> Object:
    """The live object with the configuration applied by `owner`; raises 409 with causes unless forced."""
    held = read(live) if live is not None else {}
    base = bare(live) if live is not None else {}
    claims = _writable(fieldsets.stripped(fieldsets.owned(config, kind)), owner, split)
    last = _last(held, owner)
    result = fieldsets.merged(base, config, kind)
    others = {identity: one for identity, one in held.items() if last is None or identity != last.owner.identity}
    if last is not None:
        result = _pruned(result, last.fields, claims, others, kind)
    changed, removed = fieldsets.compare(base, result, kind)
    contested = {identity: fieldsets.intersection(one.fields, changed) for identity, one in others.items()}
    if not force and (clashes := [(others[i], tree) for i, tree in contested.items() if tree]):
        raise apply_conflict([(_named(h.owner), path) for h, tree in clashes for path in fieldsets.paths(tree)])
    after = {
        identity: Held(
            one.owner,
            fieldsets.difference(fieldsets.difference(one.fields, contested[identity]), removed),
            one.time,
        )
        for identity, one in others.items()
    }
    # A new value in the same field is dated now; an apply that changes nothing is not (managedFieldsUpdater.Apply).
    unchanged = last is not None and last.fields == claims and not changed and not removed
    after[owner.identity] = Held(owner, claims, last.time if last is not None and unchanged else now)
    return write(result, after)


def _last(held: dict[tuple[str, str, str, str], Held], owner: Owner) -> Held | None:
    for one in held.values():
        same = (one.owner.manager, one.owner.operation, one.owner.subresource)
        if same == (owner.manager, owner.operation, owner.subresource):
            return one
    return None


def _named(owner: Owner) -> str:
    using = f" using {owner.api_version}" if owner.operation != "Apply" else ""
    with_sub = f' with subresource "{owner.subresource}"' if owner.subresource else ""
    return f'"{owner.manager}"{with_sub}{using}'


def _pruned(result: Object, last: Tree, claims: Tree, others: dict[Any, Held], kind: Type) -> Object:
    """Without what the manager applied before, does not now, and nobody else owns."""
    kept = fieldsets.with_parents(claims)
    for one in others.values():
        kept = fieldsets.union(kept, fieldsets.with_parents(one.fields))
    dropped = fieldsets.difference(fieldsets.with_parents(last), kept)
    dropped.pop(fieldsets.MEMBER, None)
    pruned: Object = fieldsets.without(result, dropped, kind)
    return pruned


def fresh(value: Object, kind: Type, owner: Owner, now: str) -> Object:
    """A value that is answered but never stored (reviews, tokens), with its fields owned by `owner`."""
    changed, _ = fieldsets.compare({}, value, kind) if value else ({}, ABSENT)
    fields = fieldsets.stripped(changed)
    fields.pop("f:status", None)
    return write(value, {owner.identity: Held(owner, fields, now)})
