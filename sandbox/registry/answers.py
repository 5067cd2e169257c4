"""How a registry says no, and how it sends a body: with the fault that is staged for it, if any."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from sandbox.registry.faults import Fault, Wrong

FAULT: web.RequestKey[Fault] = web.RequestKey("fault", Fault)


class Problem(Exception):
    """An error answer in the shape that the distribution API and Harbor share."""

    def __init__(
        self, status: int, code: str, message: str, *, detail: Any = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.detail = status, code, message, detail
        self.headers = dict(headers or {})

    def response(self) -> web.Response:
        """The answer on the wire."""
        error = {"code": self.code, "message": self.message}
        if self.detail is not None:
            error["detail"] = self.detail
        body = json.dumps({"errors": [error]})
        return web.Response(status=self.status, text=body, content_type="application/json", headers=self.headers)


def spoiled(fault: Fault, content: bytes) -> bytes:
    """Same length, other bytes."""
    return bytes(b ^ 0xFF for b in content) if fault.wrong is Wrong.BYTES else content


async def send(request: web.Request, content: bytes, headers: Mapping[str, str]) -> web.StreamResponse:
    """The bytes, or less, or others, as staged."""
    fault = request.get(FAULT)
    if fault is not None and fault.wrong is Wrong.TRUNCATED and request.method == "GET":
        return await _half(request, content, headers)
    body = content if fault is None else spoiled(fault, content)
    if request.method == "HEAD":
        return web.Response(headers={**headers, "Content-Length": str(len(content))})
    return web.Response(body=body, headers=headers)


async def send_file(request: web.Request, path: Path, headers: Mapping[str, str]) -> web.StreamResponse:
    """The file's bytes, ranges included; a staged fault spoils them."""
    if request.get(FAULT) is not None:
        return await send(request, _read(path), headers)
    return web.FileResponse(path, headers=headers, chunk_size=256 * 1024)


def _read(path: Path) -> bytes:
    return path.read_bytes()


async def _half(request: web.Request, content: bytes, headers: Mapping[str, str]) -> web.StreamResponse:
    response = web.StreamResponse(headers={**headers, "Content-Length": str(len(content))})
    await response.prepare(request)
    await response.write(content[: len(content) // 2])
    await asyncio.sleep(0.05)  # a reset overtakes what has not been read yet
    if request.transport is not None:
        request.transport.abort()
    return response
