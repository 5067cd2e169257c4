"""What a Flux object says about itself, read with distrust. Pure.

Why distrust (source-controller 1.4, kustomize-controller 1.4, read in source): Ready may describe the spec of
before the last change; `requestedAt` is acknowledged on suspended and on failed objects; Ready is Unknown during
every reconcile; and an unchanged HEAD leaves the artifact as it was, whatever URL it came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

Object = Mapping[str, Any]
REQUESTED_AT = "reconcile.fluxcd.io/requestedAt"

OWNED_BY_KUSTOMIZATION = "kustomize.toolkit.fluxcd.io"
OWNED_BY_RELEASE = "helm.toolkit.fluxcd.io"

ELSEWHERE = frozenset({"DependencyNotReady", "SourceNotReady", "HelmChartNotReady"})
"""Reasons of Ready=False that speak of another object, whose own verdict tells what is wrong."""

FINAL = frozenset({"AuthenticationFailed", "URLInvalid"})
"""Reasons of Ready=False that no retry heals: a person must act."""


class State(StrEnum):
    """How far a Flux object is with what was asked of it."""

    READY = "ready"
    WAITING = "waiting"
    """On its way; nothing is wrong."""
    FAILED = "failed"
    """It tried what was asked and said why not. Flux itself tries again."""
    SUSPENDED = "suspended"
    """It does nothing, and its Ready is of another day."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The state, and Flux's own reason and message."""

    state: State
    reason: str = ""
    message: str = ""

    @property
    def final(self) -> bool:
        """True when waiting longer cannot help."""
        return self.state is State.SUSPENDED or (self.state is State.FAILED and self.reason in FINAL | {"Stalled"})

    def __str__(self) -> str:
        return " ".join(part for part in (self.state.value, self.reason, self.message) if part)


def converged(obj: Object | None, revision: str | None = None, token: str | None = None) -> Verdict:
    """READY only when everything that could make Ready a lie is ruled out.

    `revision` is a commit or a whole revision that must be served or applied; `token` a reconcile request.
    """
    if obj is None:
        return Verdict(State.WAITING, "NotFound", "it does not exist")
    if obj["metadata"].get("deletionTimestamp"):
        return Verdict(State.WAITING, "Deleting", "it is being deleted")
    if (obj.get("spec") or {}).get("suspend"):
        return Verdict(State.SUSPENDED, "Suspended", "spec.suspend is true: nothing is fetched or applied")
    return _judge(obj, revision, token)


def _judge(obj: Object, revision: str | None, token: str | None) -> Verdict:
    status = obj.get("status") or {}
    if token is not None and not handled(obj, token):
        return Verdict(State.WAITING, "NotHandledYet", f"last handled {status.get('lastHandledReconcileAt')}")
    generation = obj["metadata"].get("generation", 0)
    stalled, ready = condition(obj, "Stalled"), condition(obj, "Ready")
    if stalled and stalled["status"] == "True" and stalled.get("observedGeneration", generation) == generation:
        return Verdict(State.FAILED, "Stalled", f"{stalled.get('reason', '')}: {stalled.get('message', '')}")
    # A failure does not observe the generation, only its condition does (ComputeReconcileResult, runtime).
    if ready and _failed(ready) and ready.get("observedGeneration") == generation:
        return Verdict(State.FAILED, str(ready.get("reason", "")), str(ready.get("message", "")))
    if status.get("observedGeneration", generation if "conditions" in status else -1) != generation:
        return Verdict(State.WAITING, "GenerationNotObserved", f"generation {generation} not observed yet")
    if ready is None:
        return Verdict(State.WAITING, "NoConditions", "it has no Ready condition yet")
    if ready.get("observedGeneration", generation) != generation:
        return Verdict(State.WAITING, "StaleReady", "Ready is of an earlier generation")
    if _failed(ready):
        return Verdict(State.FAILED, str(ready.get("reason", "")), str(ready.get("message", "")))
    if ready["status"] != "True":
        return Verdict(State.WAITING, str(ready.get("reason", "")), str(ready.get("message", "")))
    if revision is not None and not same_revision(revision_of(obj), revision):
        return Verdict(State.WAITING, "RevisionNotYet", f"at {revision_of(obj) or 'none'}, wanted {revision}")
    return Verdict(State.READY, str(ready.get("reason", "")), str(ready.get("message", "")))


def _failed(ready: Object) -> bool:
    return ready["status"] == "False" and ready.get("reason") not in ELSEWHERE


def handled(obj: Object, token: str) -> bool:
    """True when our request, or a later one that overwrote it, was handled."""
    asked = (obj["metadata"].get("annotations") or {}).get(REQUESTED_AT, token)
    done = (obj.get("status") or {}).get("lastHandledReconcileAt")
    return done is not None and done in (token, asked)


def condition(obj: Object, kind: str) -> Mapping[str, Any] | None:
    """The condition of a type, or None."""
    found = (obj.get("status") or {}).get("conditions") or []
    return next((c for c in found if c["type"] == kind), None)


def revision_of(obj: Object) -> str:
    """What is served (a source's artifact) or was applied (a Kustomization); empty when nothing yet."""
    status = obj.get("status") or {}
    return str((status.get("artifact") or {}).get("revision") or status.get("lastAppliedRevision") or "")


def commit_of(revision: str) -> str:
    """`main@sha1:<40 hex>` -> the commit; Flux before 2.0 wrote `main/<hex>`."""
    return revision.rpartition(":")[2].rpartition("/")[2]


def same_revision(found: str, wanted: str) -> bool:
    """The same, where `wanted` may be the commit alone."""
    return bool(found) and (found == wanted or commit_of(found) == wanted)


def owner(obj: Object, system: str) -> tuple[str, str] | None:
    """(namespace, name) of the Kustomization or HelmRelease that made this object, by Flux's own labels."""
    labels = obj["metadata"].get("labels") or {}
    name = labels.get(f"{system}/name")
    return (str(labels.get(f"{system}/namespace", "")), str(name)) if name else None


def by_inventory(objects: Iterable[Object], kustomizations: Iterable[Object]) -> list[dict[str, Any]]:
    """The objects, each with the labels of the Kustomization whose inventory lists it, whatever its labels say.

    What no inventory lists keeps its labels: Git may declare already what is not applied yet.
    """
    owners = {line: key(k) for k in kustomizations for line in inventory(k)}
    found = []
    for obj in objects:
        real = owners.get(inventory_line(obj))
        known = real is None or real == owner(obj, OWNED_BY_KUSTOMIZATION)
        found.append(dict(obj) if known or real is None else _labelled(obj, real))
    return found


def inventory(kustomization: Object) -> frozenset[str]:
    """What it has applied, as it writes that down."""
    entries = ((kustomization.get("status") or {}).get("inventory") or {}).get("entries") or ()
    return frozenset(str(entry.get("id")) for entry in entries)


def inventory_line(obj: Object) -> str:
    """`<namespace>_<name>_<group>_<kind>` (cli-utils, object.ObjMetadata); a colon in a name is doubled into `__`."""
    namespace, name = key(obj)
    group = str(obj.get("apiVersion", "")).rpartition("/")[0]
    return f"{namespace}_{name.replace(':', '__')}_{group}_{obj.get('kind', '')}"


def _labelled(obj: Object, who: tuple[str, str]) -> dict[str, Any]:
    namespace, name = who
    own = {f"{OWNED_BY_KUSTOMIZATION}/namespace": namespace, f"{OWNED_BY_KUSTOMIZATION}/name": name}
    return {**obj, "metadata": {**obj["metadata"], "labels": {**(obj["metadata"].get("labels") or {}), **own}}}


def source_of(obj: Object, kind: str = "GitRepository") -> tuple[str, str] | None:
    """(namespace, name) of the source that a Kustomization, HelmChart or HelmRelease refers to."""
    spec = obj.get("spec") or {}
    ref = spec.get("sourceRef") or ((spec.get("chart") or {}).get("spec") or {}).get("sourceRef")
    if not ref or ref.get("kind") != kind:
        return None
    return str(ref.get("namespace") or obj["metadata"].get("namespace", "")), str(ref["name"])


def in_order(kustomizations: Sequence[Object]) -> list[list[Object]]:
    """Levels: what depends on nothing first. A ring, or a dependency outside, does not hold anyone up."""
    waiting = {key(k): k for k in kustomizations}
    levels: list[list[Object]] = []
    while waiting:
        free = [k for k in waiting.values() if not any(d in waiting for d in depends_on(k))]
        level = free or list(waiting.values())
        levels.append(level)
        for k in level:
            del waiting[key(k)]
    return levels


def depends_on(obj: Object) -> list[tuple[str, str]]:
    """(namespace, name) of everything in `spec.dependsOn`."""
    home = str(obj["metadata"].get("namespace", ""))
    found = (obj.get("spec") or {}).get("dependsOn") or []
    return [(str(d.get("namespace") or home), str(d["name"])) for d in found]


def fetched_at(obj: Object) -> datetime | None:
    """When a source's artifact was stored; None when there is none."""
    text = ((obj.get("status") or {}).get("artifact") or {}).get("lastUpdateTime")
    return moment(text) if text else None


def field_set_at(obj: Object, *path: str) -> datetime | None:
    """When a manager last changed what it says of a field, by `managedFields`; the newest, if several own it."""
    times = [
        moment(entry["time"])
        for entry in obj["metadata"].get("managedFields") or []
        if entry.get("time") and not entry.get("subresource") and _owns(entry.get("fieldsV1") or {}, path)
    ]
    return max(times, default=None)


def managers_of(obj: Object, *path: str) -> tuple[str, ...]:
    """Who says what of a field, by `managedFields`, the newest first."""
    entries = [
        entry
        for entry in obj["metadata"].get("managedFields") or []
        if not entry.get("subresource") and _owns(entry.get("fieldsV1") or {}, path)
    ]
    newest = sorted(entries, key=lambda entry: str(entry.get("time", "")), reverse=True)
    return tuple(dict.fromkeys(str(entry.get("manager", "")) for entry in newest))


def moment(text: str) -> datetime:
    """An RFC 3339 time."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _owns(fields: Mapping[str, Any], path: Sequence[str]) -> bool:
    for part in path:
        if f"f:{part}" not in fields:
            return False
        fields = fields[f"f:{part}"]
    return True


def key(obj: Object) -> tuple[str, str]:
    """(namespace, name)."""
    return str(obj["metadata"].get("namespace", "")), str(obj["metadata"]["name"])
