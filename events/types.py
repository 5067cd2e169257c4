"""Kind of event <-> its CloudEvents type, its data model and its JSON Schema."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel

from schemas import events as data
from schemas.nodes import NodeReport

PREFIX: Final = "io.openova.catalyst.cutover."
VERSION: Final = ".v1"
SCHEMA_BASE: Final = "https://schemas.openova.io/catalyst-cutover/v1/"

FACTS: Final[dict[str, type[BaseModel]]] = {
    "accepted": data.Accepted,
    "step.started": data.StepStarted,
    "step.progress": data.StepProgress,
    "step.waiting": data.StepWaiting,
    "step.succeeded": data.StepSucceeded,
    "step.failed": data.StepFailed,
    "cancelled": data.Cancelled,
    "completed": data.Completed,
    "failed": data.Failed,
    "audited": data.Audited,
    "autofire.armed": data.AutoFireArmed,
    "autofire.disarmed": data.AutoFireDisarmed,
}
"""What our workers append to the journal."""

INPUTS: Final[dict[str, type[BaseModel]]] = {
    "requested": data.Requested,
    "cancel": data.CancelRequested,
    "login": data.Login,
    "step.trigger": data.Trigger,
    "node.reported": NodeReport,
}
"""What someone asks for."""

KINDS: Final[dict[str, type[BaseModel]]] = {**FACTS, **INPUTS, "rejected": data.Rejected}
KIND_OF: Final[dict[type[BaseModel], str]] = {model: kind for kind, model in KINDS.items()}


def type_of(kind: str) -> str:
    """`accepted` -> `io.openova.catalyst.cutover.accepted.v1`."""
    return f"{PREFIX}{kind}{VERSION}"


def kind_of(ce_type: str) -> str | None:
    """The kind of a CloudEvents type; None for one that is not ours or of another major version."""
    if not (ce_type.startswith(PREFIX) and ce_type.endswith(VERSION)):
        return None
    kind = ce_type.removeprefix(PREFIX).removesuffix(VERSION)
    return kind if kind in KINDS else None


def schema_of(kind: str) -> str:
    """URI of the JSON Schema of a kind, as `dataschema` names it; the file is `schemas/json/<kind>.json`."""
    return f"{SCHEMA_BASE}{kind}.json"
