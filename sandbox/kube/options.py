"""The options of a write, checked before anything else is looked at (apimachinery, meta/v1/validation)."""

from __future__ import annotations

from sandbox.kube import errors, patches
from sandbox.kube.call import Call
from sandbox.kube.naming import Fault, too_long

LONGEST_MANAGER = 128
KINDS = {"create": "CreateOptions", "update": "UpdateOptions", "patch": "PatchOptions"}
DELETIONS = ("Foreground", "Background", "Orphan")
VALIDATIONS = ("", "Ignore", "Strict", "Warn")


def check(verb: str, call: Call) -> None:
    """Raises 422 for options that the API server refuses."""
    kind = "DeleteOptions" if verb.startswith("delete") else KINDS.get(verb)
    faults = _faults(kind, call) if kind else []
    if faults:
        raise errors.invalid("meta.k8s.io", kind or "", "", faults)


def _faults(kind: str, call: Call) -> list[Fault]:
    query = call.query
    faults: list[Fault] = []
    if query.get("force") and kind == "PatchOptions" and call.content_type != patches.APPLY:
        faults.append(("force", "Forbidden: may not be specified for non-apply patch", "FieldValueForbidden"))
    if len(query.get("fieldManager", "")) > LONGEST_MANAGER:
        faults.append(too_long("fieldManager", LONGEST_MANAGER))
    if (dry := query.get("dryRun", "")) not in ("", "All"):
        faults.append(_unsupported("dryRun", f'["{dry}"]', ("All",)))
    if kind != "DeleteOptions" and (how := query.get("fieldValidation", "")) not in VALIDATIONS:
        faults.append(_unsupported("fieldValidation", f'"{how}"', VALIDATIONS))
    body = call.body if kind == "DeleteOptions" and isinstance(call.body, dict) else {}
    policy = str(
        (body.get("propagationPolicy") or query.get("propagationPolicy") or "") if kind == "DeleteOptions" else ""
    )
    if policy and policy not in DELETIONS:
        faults.append(_unsupported("propagationPolicy", f'"{policy}"', (*DELETIONS, "nil")))
    return faults


def _unsupported(field: str, value: str, known: tuple[str, ...]) -> Fault:
    shown = ", ".join(f'"{one}"' for one in known)
    return (field, f"Unsupported value: {value}: supported values: {shown}", "FieldValueNotSupported")
