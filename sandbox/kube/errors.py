"""What the API server answers when it will not: a Status object with a stable reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ApiError(Exception):
    """A refusal, as `metav1.Status` says it."""

    def __init__(self, code: int, reason: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details

    def status(self) -> dict[str, Any]:
        """The body of the answer."""
        body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
        }
        if self.reason:
            body["reason"] = self.reason
        if self.details is not None:
            body["details"] = dict(self.details)
        return body | {"code": self.code}


class NoSuchPath(Exception):
    """The path names nothing that is served: answered in plain text, like Go's ServeMux."""


def qualified(resource: str, group: str) -> str:
    """`configmaps` or `deployments.apps`."""
    return f"{resource}.{group}" if group else resource


def _details(group: str, kind: str, name: str) -> dict[str, Any]:
    found = {"name": name, "group": group, "kind": kind}
    return {key: value for key, value in found.items() if value}


def bad_request(message: str) -> ApiError:
    """400."""
    return ApiError(400, "BadRequest", message)


def not_found(group: str, plural: str, name: str) -> ApiError:
    """404 for an object."""
    said = f'{qualified(plural, group)} "{name}" not found'
    return ApiError(404, "NotFound", said, _details(group, plural, name))


def already_exists(group: str, plural: str, name: str) -> ApiError:
    """409 for a name that is taken."""
    said = f'{qualified(plural, group)} "{name}" already exists'
    return ApiError(409, "AlreadyExists", said, _details(group, plural, name))


def conflict(
    group: str,
    plural: str,
    name: str,
    why: str = "the object has been modified; please apply your changes to the latest version and try again",
) -> ApiError:
    """409 for a stale resourceVersion or a failed precondition."""
    said = f'Operation cannot be fulfilled on {qualified(plural, group)} "{name}": {why}'
    return ApiError(409, "Conflict", said, _details(group, plural, name))


def apply_conflict(owned: list[tuple[str, str]]) -> ApiError:
    """409 for fields that another manager holds; `owned` is pairs of manager and field."""
    noun = "conflict" if len(owned) == 1 else "conflicts"
    said = "; ".join(f"conflict with {manager}: {field}" for manager, field in owned)
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {manager}", "field": field}
        for manager, field in owned
    ]
    return ApiError(409, "Conflict", f"Apply failed with {len(owned)} {noun}: {said}", {"causes": causes})


def invalid(group: str, kind: str, name: str, faults: list[tuple[str, str, str]]) -> ApiError:
    """422; a fault is a field, a message, and the reason of the cause."""
    told = [f"{field}: {message}" for field, message, _ in faults]
    joined = told[0] if len(told) == 1 else f"[{', '.join(told)}]"
    causes = [{"reason": reason, "message": message, "field": field} for field, message, reason in faults]
    details = _details(group, kind, name) | {"causes": causes}
    return ApiError(422, "Invalid", f'{qualified(kind, group)} "{name}" is invalid: {joined}', details)


def untyped(name: str, api_version: str, kind: str, why: str) -> ApiError:
    """500, without a reason: what an apply is told whose configuration does not fit the schema."""
    version = api_version if "/" in api_version else f"/{api_version}"
    return ApiError(500, "", f"failed to create typed patch object (/{name}; {version}, Kind={kind}): {why}")


def forbidden(group: str, plural: str, name: str, why: str) -> ApiError:
    """403."""
    named = f' "{name}"' if name else ""
    said = f"{qualified(plural, group)}{named} is forbidden: {why}"
    return ApiError(403, "Forbidden", said, _details(group, plural, name))


def unauthorized() -> ApiError:
    """401."""
    return ApiError(401, "Unauthorized", "Unauthorized")


def not_allowed() -> ApiError:
    """405."""
    why = "the server does not allow this method on the requested resource"
    return ApiError(405, "MethodNotAllowed", why, {})


def expired(message: str) -> ApiError:
    """410: list again."""
    return ApiError(410, "Expired", message)
