"""What one request may bring: bounded before any route sees it."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workers.entrypoints.api.problems import Problem, rendered
from workers.entrypoints.settings import ApiLimits

log = logging.getLogger("cutover.api")

SWALLOWED: Final = 4 << 20
"""Bytes of a body too large that are read and dropped, so that who sends it can hear the answer."""
JSON: Final = "application/json"
_CLOSE: Final = {"Connection": "close"}


class Bounded:
    """ASGI middleware: size of headers and body, time of arrival, content type."""

    def __init__(self, app: ASGIApp, limits: ApiLimits) -> None:
        self._app, self._limits = app, limits
        self._told, self._since = float("-inf"), 0

    def _tell(self, scope: Scope, problem: Problem) -> None:
        """Once a second at most: a flood must not become a flood of lines."""
        self._since += 1
        if (now := time.monotonic()) - self._told >= 1.0:
            log.warning(
                "refused %s %s from %s: %d %s; %d since this was said last",
                scope["method"], scope["path"][:100], (scope.get("client") or ("?",))[0], problem.status, problem.slug,
                self._since,
            )  # fmt: skip
            self._told, self._since = now, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            self._heads(scope)
            body = await self._body(headers, receive)
            if body and headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
                raise Problem(415, "unsupported-media-type", f"send {JSON}")
        except Problem as problem:
            self._tell(scope, problem)
            await rendered(problem, headers.get("accept", ""))(scope, receive, send)
            return
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)

    def _heads(self, scope: Scope) -> None:
        size = len(scope["raw_path"]) + len(scope["query_string"])
        size += sum(len(name) + len(value) + 4 for name, value in scope["headers"])
        if size > self._limits.headers:
            raise Problem(431, "headers-too-large", f"send at most {self._limits.headers} bytes of headers", _CLOSE)

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """All of it. Raises Problem 413, 408."""
        most = self._limits.body
        large = Problem(413, "body-too-large", f"send at most {most} bytes", _CLOSE)
        declared = headers.get("content-length", "0")
        expected = int(declared) if declared.isdigit() and len(declared) < 20 else most + 1
        if expected > SWALLOWED:
            raise large
        size, body = 0, b""
        try:
            async with asyncio.timeout(self._limits.arrival):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return b""
                    part: bytes = message.get("body", b"")
                    size += len(part)
                    body = body + part if size <= most else b""
                    last = not message.get("more_body")
                    # To answer while the other side still sends would reset the connection before it reads why.
                    if size > SWALLOWED or (last and max(size, expected) > most):
                        raise large
                    if last:
                        return body
        except TimeoutError:
            raise Problem(408, "too-slow", "the request did not arrive in time", _CLOSE) from None
