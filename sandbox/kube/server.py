"""The API on a loopback port: plain HTTP, bearer tokens, streams for watches."""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import web

from sandbox.kube import errors
from sandbox.kube.access import User
from sandbox.kube.api import Answer, Api, Request

JSON = "application/json"


def _dumped(answer: Answer) -> web.Response:
    if isinstance(answer.body, str):
        response = web.Response(status=answer.code, text=answer.body, content_type="text/plain")
    else:
        response = web.Response(status=answer.code, body=orjson.dumps(answer.body), content_type=JSON)
    for warning in dict.fromkeys(answer.warnings):
        quoted = warning.replace("\\", "\\\\").replace('"', '\\"')
        response.headers.add("Warning", f'299 - "{quoted}"')
    return response


def _refused(error: errors.ApiError) -> web.Response:
    return _dumped(Answer(error.code, error.status()))


class Server:
    """Turns HTTP into requests to the API."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def app(self) -> web.Application:
        """The application to serve."""
        app = web.Application(client_max_size=8 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._handle)
        return app

    def _user(self, request: web.Request) -> User | None:
        """Who holds the bearer token; nobody is let in without one, as on k3s (anonymous-auth=false)."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            return None
        return self._api.tokens.user(token.strip(), self._api.clock.now())

    async def _handle(self, http: web.Request) -> web.StreamResponse:
        if http.path in ("/healthz", "/livez", "/readyz"):
            return web.Response(text="ok")
        user = self._user(http)
        if user is None:
            return _refused(errors.unauthorized())
        request = Request(
            http.method,
            http.path,
            user,
            dict(http.query),
            await http.read(),
            http.headers.get("Content-Type", JSON),
            http.headers.get("Accept", JSON),
            http.headers.get("User-Agent", "unknown").partition("/")[0],
        )
        if request.watches:
            return await self._stream(http, request)
        return _dumped(self._api.answer(request))

    async def _stream(self, http: web.Request, request: Request) -> web.StreamResponse:
        try:
            watch, call = self._api.watch(request)
        except errors.ApiError as error:
            return _refused(error)
        except errors.NoSuchPath:
            return _dumped(Answer(404, "404 page not found\n"))
        try:
            response = web.StreamResponse(headers={"Content-Type": JSON})
            await response.prepare(http)
            # Headers at once: a client knows that its watch stands before the first event.
            async for kind, obj in watch.events():
                shown: Any = obj
                if kind not in ("ERROR", "BOOKMARK"):
                    shown = self._api.render(obj, request, call.resource)
                await response.write(orjson.dumps({"type": kind, "object": shown}) + b"\n")
            await response.write_eof()
        except ConnectionError:
            pass  # the watcher went away
        finally:
            watch.close()
        return response
