"""Conditions as Flux and Kubernetes write them: pure functions over lists of dicts."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sandbox.controllers.api import Object

Condition = dict[str, Any]
REQUESTED_AT = "reconcile.fluxcd.io/requestedAt"


def stamp(now: datetime) -> str:
    """RFC 3339 to the second, as metav1.Time is written."""
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")


def find(obj: Object, kind: str) -> Condition | None:
    """The condition of that type, if the object carries it."""
    conditions = obj.get("status", {}).get("conditions") or []
    return next((c for c in conditions if c.get("type") == kind), None)


def is_true(obj: Object, kind: str = "Ready") -> bool:
    """Whether the condition is True for the generation that stands now."""
    condition = find(obj, kind)
    if condition is None or condition.get("status") != "True":
        return False
    return current(obj)


def current(obj: Object) -> bool:
    """Whether the controller has seen the newest generation."""
    seen = obj.get("status", {}).get("observedGeneration")
    return seen is None or seen == obj["metadata"].get("generation")


def condition(kind: str, status: str, reason: str, message: str) -> Condition:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def settle(before: list[Condition], after: list[Condition], generation: int, now: datetime) -> list[Condition]:
    """`after` with transition times: kept where the status did not change, `now` where it did."""
    old = {c["type"]: c for c in before}
    settled = []
    for each in after:
        was = old.get(each["type"])
        same = was is not None and was.get("status") == each["status"]
        since = was.get("lastTransitionTime") if was is not None and same else None
        settled.append({**each, "observedGeneration": generation, "lastTransitionTime": since or stamp(now)})
    return settled


def requested(obj: Object) -> str | None:
    """The token of a reconcile request."""
    token = (obj["metadata"].get("annotations") or {}).get(REQUESTED_AT)
    return str(token) if token is not None else None


def asks_again(old: Object | None, new: Object | None) -> bool:
    """Flux's predicate: a new generation or a new request; status writes trigger nothing.

    Source: predicate.GenerationChangedPredicate or predicates.ReconcileRequestedPredicate, fluxcd/pkg/runtime.
    """
    if new is None or old is None:
        return True
    changed = old["metadata"].get("generation") != new["metadata"].get("generation")
    reborn = old["metadata"].get("uid") != new["metadata"].get("uid")
    return changed or reborn or requested(old) != requested(new)


def seconds(duration: str | None, default: float) -> float:
    """A Go duration such as `1h30m`, `5s` or `250ms`."""
    if not duration:
        return default
    total, number = 0.0, ""
    rest = duration
    units = (("ms", 0.001), ("h", 3600.0), ("m", 60.0), ("s", 1.0))
    while rest:
        if rest[0].isdigit() or rest[0] == ".":
            number, rest = number + rest[0], rest[1:]
            continue
        unit, factor = next(((u, f) for u, f in units if rest.startswith(u)), ("", 0.0))
        if not unit or not number:
            return default
        total, number, rest = total + float(number) * factor, "", rest[len(unit) :]
    return total if not number else default
