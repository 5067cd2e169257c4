"""Errors on the wire: `{"error": slug, "detail": text}`, or RFC 9457 problem+json for those who accept it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

PROBLEM_JSON: Final = "application/problem+json"


class Problem(Exception):
    """An answer that is not what was asked for. `slug` is stable, `detail` is for people."""

    def __init__(self, status: int, slug: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.slug, self.detail, self.headers = status, slug, detail, dict(headers or {})


class ErrorBody(BaseModel):
    """What every error answer holds."""

    error: str
    detail: str


class ProblemBody(BaseModel):
    """The same as RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    error: str


def slug_of(reason: str) -> str:
    """`RunActive` -> `run-active`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", reason).lower()


def rendered(problem: Problem, accept: str) -> Response:
    """The answer's bytes, in the form that was asked for."""
    headers = {"Cache-Control": "no-store", **problem.headers}
    if PROBLEM_JSON in accept:
        body: dict[str, Any] = {
            "type": "about:blank",
            "title": problem.slug.replace("-", " "),
            "status": problem.status,
            "detail": problem.detail,
            "error": problem.slug,
        }
        return Response(orjson.dumps(body), problem.status, headers, PROBLEM_JSON)
    document = {"error": problem.slug, "detail": problem.detail}
    return Response(orjson.dumps(document), problem.status, headers, "application/json")


async def handle(request: Request, error: Exception) -> Response:
    """For `add_exception_handler`."""
    assert isinstance(error, Problem)  # noqa: S101  registered for nothing else
    return rendered(error, request.headers.get("accept", ""))


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses`: every error that it may answer, in both forms."""
    schema = {"$ref": "#/components/schemas/ErrorBody"}
    problem = {"$ref": "#/components/schemas/ProblemBody"}
    content = {"application/json": {"schema": schema}, PROBLEM_JSON: {"schema": problem}}
    return {status: {"description": MEANINGS[status], "content": content} for status in statuses}


MEANINGS: Final[dict[int, str]] = {
    400: "The request cannot be read",
    401: "Nobody known asks",
    403: "Who asks may not",
    404: "There is no such thing",
    405: "Not with this method",
    408: "The request did not arrive in time",
    409: "Not as things stand",
    413: "Too large",
    415: "Only application/json",
    424: "The preflight found what would stop the cutover",
    425: "The handover is not finished",
    429: "Too many at once",
    431: "The headers are too large",
    503: "The broker, the cluster or the identity provider is away",
    504: "No answer in time; the request may stand in the log",
}
