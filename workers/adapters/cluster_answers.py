"""What the Kubernetes API's answers mean to us: statuses into our words, lines of a watch into changes. Pure."""

from __future__ import annotations

import random
import re

import orjson
from aiohttp import ClientResponse

from workers.adapters.cluster_kinds import Kind, Object, Seen
from workers.errors import Stuck, Trouble, Wait

MISFIT = "failed to create typed patch object"
"""How an apply is refused whose configuration does not fit the schema: as a 500, though no retry heals it."""


class Conflict(Wait):
    """The object was changed by someone else since we read it. Read it again, then decide again."""


class Exists(Wait):
    """Someone created an object of that name before us."""


class Expired(Exception):
    """410: the resourceVersion or the continue token is too old."""


class Absent(Exception):
    """404."""


class WaitedInVain(Wait):
    """The time is up; `seen` is how things stood."""

    def __init__(self, reason: str, message: str, seen: Seen) -> None:
        super().__init__(reason, message)
        self.seen = seen


class Unavailable(Exception):
    """The server is there but cannot serve: 429 or 5xx."""

    def __init__(self, message: str, after: float | None) -> None:
        super().__init__(message)
        self.after = after


def trouble(verb: str, words: str, response: ClientResponse, raw: bytes) -> Trouble | Unavailable | Expired | Absent:
    """What a status that is not success means to us."""
    status = response.status
    said = _said(raw)
    message = f"{verb} {words}: {status} {said['message']}"
    if status == 500 and said["message"].startswith(MISFIT):
        return Stuck("ApiRejected", message)
    if status == 429 or status >= 500:
        return Unavailable(message, _seconds(response.headers.get("Retry-After")))
    if status == 410:
        return Expired(message)
    if status == 404:
        return Absent(message)
    if status == 401:
        return Stuck("ApiForbidden", f"{message}; the API server does not know us: check the token")
    if status == 403:
        return forbidden(verb, words, said["message"])
    if status == 409 and said["reason"] == "AlreadyExists":
        return Exists("AlreadyExists", message, after=1.0)
    if status == 409:
        return Conflict("Conflict", message, after=1.0)
    return Stuck("ApiRejected", message)


def forbidden(verb: str, words: str, message: str) -> Trouble:
    """A verb that is not granted, or a rule that is not ours to keep: admission refuses with 403 as well."""
    lacking = re.search(r"cannot (\w+) (?:resource|path)", message)
    if lacking is None and "it is being terminated" in message:
        return Wait("NamespaceTerminating", f"{verb} {words}: its namespace is being deleted. {message}", after=15)
    if lacking is None:
        return Stuck("ApiRejected", f"{verb} {words}: 403, not for want of a grant: {message}")
    user = re.search(r'User "([^"]+)"', message)
    who = user.group(1) if user else "our service account"
    # An apply that creates is refused for `create`, though we asked for `patch`.
    verb = lacking.group(1)
    return Stuck("ApiForbidden", f"{verb} {words}: 403; grant {who} the verb {verb} on it. {message}")


def _said(raw: bytes) -> dict[str, str]:
    """Reason and message of a Status; the API redacts Secrets in them."""
    try:
        status = orjson.loads(raw)
        return {"reason": str(status.get("reason", "")), "message": str(status.get("message", ""))[:500]}
    except (orjson.JSONDecodeError, AttributeError):
        return {"reason": "", "message": raw[:200].decode("utf-8", "replace").strip()}


def change_of(kind: Kind, event: Object) -> tuple[str, Object]:
    """A line of a watch. An ERROR carries a Status: 410 means list again."""
    change, obj = str(event["type"]), event["object"]
    if change != "ERROR":
        return change, obj
    if obj.get("code") == 410:
        raise Expired(str(obj.get("message", "")))
    raise Unavailable(f"watch {kind.resource}: {obj.get('code')} {obj.get('message', '')}", None)


def selected(name: str | None, labels: str | None) -> dict[str, str]:
    chosen = {"fieldSelector": f"metadata.name={name}"} if name else {}
    return {**chosen, "labelSelector": labels} if labels else chosen


def pause(attempt: int, after: float | None) -> float:
    """Seconds before the next try: what the server asked for, else doubling with jitter."""
    if after is not None:
        return min(after, 10.0)
    return float(min(0.1 * 2**attempt, 5.0) * random.uniform(0.5, 1.0))  # noqa: S311  jitter, no secret


def _seconds(header: str | None) -> float | None:
    return float(header) if header and header.isdecimal() else None


def words_of(kind: Kind, namespace: str | None, name: str) -> str:
    return f"{kind.resource} {namespace}/{name}" if kind.namespaced else f"{kind.resource} {name}"


def where(namespace: str | None) -> str:
    return f"in {namespace}" if namespace else "in all namespaces"


def conditions(obj: Object | None) -> str:
    if obj is None:
        return "it does not exist"
    found = (obj.get("status") or {}).get("conditions") or []
    said = [f"{c['type']}={c['status']} {c.get('reason', '')}: {c.get('message', '')}"[:300] for c in found]
    return "; ".join(said) or "it has no conditions"
