"""Needs made one list: each reference once, with every spelling and reason. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from workers.adapters.oci import BadReference, Reference, What, placed
from workers.needs.need import Need, Object
from workers.sovereign import Sovereign


@dataclass(frozen=True, slots=True)
class Listed:
    """One reference, read, with every spelling and reason."""

    reference: Reference
    what: What
    spelled: tuple[str, ...]
    reasons: tuple[str, ...]
    optional: bool = False
    """Only defaults name it: what its upstream does not have is told, and is no error."""
    values: tuple[Object, ...] = ()
    """Of a chart: what each release sets."""


def listing(sovereign: Sovereign, needs: Iterable[Need]) -> tuple[tuple[Listed, ...], tuple[str, ...]]:
    """Each reference once, and notices of what was left out.

    Left out: what must never be mirrored, images that name local Harbor already, what the description says nobody
    needs, and what is no reference.
    """
    never = Reference.parse(sovereign.nodes.upstream_only)
    merged: dict[tuple[Reference, What], list[Need]] = {}
    notices: dict[str, None] = {}
    for need in needs:
        try:
            reference = Reference.parse(need.spelled)
        except BadReference as error:
            if need.loose:
                continue
            notices[f"{need.reason}: left out: {error}"] = None
            continue
        if need.loose and placed(sovereign, reference, need.what) is None:
            continue
        local = reference.host == sovereign.harbor.host and need.what is What.IMAGE
        if local or (reference.name == never.name and reference.pin == never.pin):
            continue
        if pattern := next((p for p in sovereign.not_needed if _is(reference, p)), None):
            notices[f"{need.reason}: {need.spelled} left out: not_needed names {pattern}"] = None
            continue
        merged.setdefault((reference, need.what), []).append(need)
    return tuple(_listed(r, w, same) for (r, w), same in merged.items()), tuple(notices)


def _listed(reference: Reference, what: What, same: list[Need]) -> Listed:
    return Listed(
        reference,
        what,
        spelled=tuple(dict.fromkeys(n.spelled for n in same)),
        reasons=tuple(dict.fromkeys(n.reason for n in same)),
        optional=all(n.optional for n in same),
        values=tuple(n.values for n in same if n.values),
    )


def _is(reference: Reference, pattern: str) -> bool:
    return fnmatchcase(str(reference), pattern) or fnmatchcase(reference.name, pattern)
