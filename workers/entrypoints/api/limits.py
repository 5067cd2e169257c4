"""What one request may bring: bounded before any route sees it."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workers.entrypoints.api.problems import Problem, rendered
from workers.entrypoints.settings import ApiLimits

JSON: Final = "application/json"
_CLOSE: Final = {"Connection": "close"}


class Bounded:
    """ASGI middleware: size of headers and body, time of arrival, content type."""

    def __init__(self, app: ASGIApp, limits: ApiLimits) -> None:
        self._app, self._limits = app, limits

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
        if not declared.isdigit() or int(declared) > most:
            raise large
        body = b""
        try:
            async with asyncio.timeout(self._limits.arrival):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return b""
                    part: bytes = message.get("body", b"")
                    body += part
                    if len(body) > most:
                        raise large
                    if not message.get("more_body"):
                        return body
        except TimeoutError:
            raise Problem(408, "too-slow", "the request did not arrive in time", _CLOSE) from None
