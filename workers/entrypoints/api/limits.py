"""What one request may bring: bounded before any route sees it."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workers.entrypoints.api.problems import Problem, rendered
from workers.entrypoints.settings import ApiLimits

log = logging.getLogger("cutover.api")

SWALLOWED: Final = 4 << 20
"""Bytes of a body too large that are read and dropped, so that who sends it can hear the answer."""
JSON: Final = "application/json"
SAFE: Final = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
"""Headers of every answer that says nothing else."""
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
                "refused %s %a from %s: %d %s; %d since this was said last",
                scope["method"], scope["path"][:100], (scope.get("client") or ("?",))[0], problem.status, problem.slug,
                self._since,
            )  # fmt: skip
            self._told, self._since = now, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if scope["method"] == "HEAD" and not scope["path"].endswith("/events"):
            scope = {**scope, "method": "GET"}  # the server leaves the body out; events have no end to leave out
        try:
            self._heads(scope)
            if scope["app"].state.insecure:
                at_home(headers)
            body = await self._body(headers, receive)
            if body and headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
                raise Problem(415, "unsupported-media-type", f"send {JSON}")
        except ClientDisconnect:
            return  # half a request asks for nothing: without its end nobody knows what was meant
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

        async def safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = MutableHeaders(scope=message)
                for name, value in SAFE.items():
                    given.setdefault(name, value)
            await send(message)

        await self._app(scope, replay, safely)

    def _heads(self, scope: Scope) -> None:
        size = len(scope["raw_path"]) + len(scope["query_string"])
        size += sum(len(name) + len(value) + 4 for name, value in scope["headers"])
        if size > self._limits.headers:
            raise Problem(431, "headers-too-large", f"send at most {self._limits.headers} bytes of headers", _CLOSE)

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """All of it. Raises Problem 413, 408, and ClientDisconnect when the rest will never come."""
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
                        raise ClientDisconnect
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


def at_home(headers: Headers) -> None:
    """Where nobody is asked who he is, a page of somebody else must not ask in his name. Raises Problem 403.

    A browser lets any page send a plain POST to loopback, and names that page in `Origin`; a name that was made to
    resolve to loopback (DNS rebinding) stands in `Host`."""
    host = headers.get("host", "")
    if host and not _loopback(host):
        raise Problem(403, "forbidden", "--insecure-dev answers to names of loopback only")
    for origin in headers.getlist("origin"):
        if origin != f"http://{host}":
            raise Problem(403, "forbidden", "--insecure-dev answers its own pages only")


def _loopback(host: str) -> bool:
    """Of a `Host`: a name, perhaps with a port."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"
