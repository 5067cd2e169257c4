"""What git says of its trouble is a sentence for people, not curl's trace."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from aiohttp import web

from sandbox.serving import serving
from workers.adapters.git import Git, Remote
from workers.errors import Trouble


async def test_an_error_text_carries_no_trace_of_curl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def deny(request: web.Request) -> web.Response:
        return web.Response(status=401, headers={"WWW-Authenticate": "Basic"})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", deny)
    monkeypatch.setitem(os.environ, "GIT_CURL_VERBOSE", "1")
    async with serving(app) as port:
        with pytest.raises(Trouble) as caught:
            await Git(tmp_path).ls_remote(Remote(f"http://127.0.0.1:{port}/a/b"))
    assert "http.c" not in str(caught.value)
    assert "Info" not in str(caught.value)
