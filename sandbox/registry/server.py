"""One registry of the sandbox: the distribution API, who may use it, and what goes wrong on demand."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from sandbox.clock import Clock
from sandbox.registry import tokens
from sandbox.registry.answers import FAULT, Problem
from sandbox.registry.distribution import Distribution, Target
from sandbox.registry.faults import Faults, Seen, Wrong
from sandbox.registry.store import Store

_READS = ("GET", "HEAD")


class _Guarded(Distribution):
    """Reads are for anybody with an anonymous token, but for private repositories; writes need a login."""

    def __init__(self, registry: Registry, *, referrers: bool) -> None:
        super().__init__(registry.store, referrers=referrers)
        self._registry = registry

    async def authorise(self, request: web.Request, target: Target) -> None:
        if not self._registry.authenticates:
            return
        action = "pull" if request.method in _READS else "push"
        if self._registry.permits(request, target.repository, action):
            return
        scope = f"repository:{target.repository}:{action}" if target.repository else ""
        headers = tokens.challenge(request, "/token", self._registry.name, scope)
        raise Problem(401, "UNAUTHORIZED", "authentication required", headers=headers)

    async def get_manifest(self, request: web.Request, target: Target) -> web.StreamResponse:
        """Docker Hub's limit: GET of a manifest counts, HEAD does not, both say what is left."""
        left = self._registry.pulls_left
        if left is not None and request.method == "GET":
            if left <= 0:
                raise Problem(429, "TOOMANYREQUESTS", "You have reached your unauthenticated pull rate limit.")
            self._registry.pulls_left = left = left - 1
        response = await super().get_manifest(request, target)
        if left is not None:
            response.headers.update({"ratelimit-limit": "100;w=21600", "ratelimit-remaining": f"{left};w=21600"})
        return response

    async def may_mount(self, request: web.Request, source: str) -> bool:
        return not self._registry.authenticates or self._registry.permits(request, source, "pull")


class Registry:
    """An upstream registry. `app` serves it; `store` fills it; `faults` breaks it."""

    def __init__(
        self,
        store: Store,
        name: str,
        clock: Clock,
        *,
        authenticates: bool = True,
        logins: Mapping[str, str] | None = None,
        private: tuple[str, ...] = (),
        referrers: bool = True,
    ) -> None:
        self.store = store
        self.name = name
        self.authenticates = authenticates
        self.faults = Faults()
        self.pulls_left: int | None = None
        """Manifests that may still be read; None is without limit."""
        self._logins = dict(logins or {})
        self._private = private
        self._tokens = tokens.Tokens(clock)
        self._distribution = _Guarded(self, referrers=referrers)
        self.app = web.Application(client_max_size=8 * 2**20, middlewares=[faulty(self.faults)])
        self.app.router.add_get("/token", self._token)
        self.app.router.add_route("*", "/v2/{tail:.*}", self._distribution.handle)
        self.app.router.add_route("*", "/v2", self._distribution.handle)

    @classmethod
    def open(
        cls,
        directory: Path,
        name: str,
        clock: Clock,
        *,
        authenticates: bool = True,
        logins: Mapping[str, str] | None = None,
        private: tuple[str, ...] = (),
        referrers: bool = True,
    ) -> Registry:
        """The registry whose state is below `directory`; empty when there is none yet.

        `logins` may push, and pull what begins with a prefix in `private`.
        """
        return cls(
            Store(directory),
            name,
            clock,
            authenticates=authenticates,
            logins=logins,
            private=private,
            referrers=referrers,
        )

    def close(self, repository: str) -> None:
        """From now on only who logs in may read it."""
        self._private = (*self._private, repository)

    def permits(self, request: web.Request, repository: str, action: str) -> bool:
        """Whether the request's token or login covers this."""
        if (login := tokens.basic(request)) is not None:
            return self._knows(*login)
        grant = self._tokens.grant(request)
        return grant is not None and (not repository or grant.allows(repository, action))

    async def _token(self, request: web.Request) -> web.StreamResponse:
        login = tokens.basic(request)
        if login is not None and not self._knows(*login):
            raise Problem(401, "UNAUTHORIZED", "incorrect username or password")
        wanted = tokens.scopes(request.query.getall("scope", []))
        granted = {(r, a) for r, a in wanted if login is not None or (a == "pull" and self._public(r))}
        return web.json_response(self._tokens.issue(login[0] if login else "", granted))

    def _knows(self, user: str, password: str) -> bool:
        known = self._logins.get(user)
        return known is not None and hmac.compare_digest(known.encode(), password.encode())

    def _public(self, repository: str) -> bool:
        return not repository.startswith(self._private) if self._private else True


def faulty(faults: Faults) -> Middleware:
    """Middleware: stage the faults, turn problems into answers, keep count."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await _answer(faults, request, handler)
        login = tokens.basic(request)
        user, span = login[0] if login else "", request.headers.get("Range", "")
        faults.seen.append(Seen(request.method, request.path, response.status, user, span))
        if request.method == "GET" and response.status < 300 and "/blobs/sha256:" in request.path:
            faults.fetched[request.path.rpartition("/")[2]] += 1
        return response

    return middleware


async def _answer(faults: Faults, request: web.Request, handler: Handler) -> web.StreamResponse:
    fault = faults.take(request)
    if fault is not None and fault.wrong is Wrong.RESET and request.transport is not None:
        request.transport.abort()
    if fault is not None and fault.wrong is Wrong.FULL:
        detail = {"DriverName": "filesystem", "Enclosed": {"Op": "write", "Path": "/var/lib/registry", "Err": 28}}
        return Problem(500, "UNKNOWN", "unknown error", detail=detail).response()
    if fault is not None and fault.wrong in (Wrong.STATUS, Wrong.RESET):
        said = {"Retry-After": fault.retry_after, "Location": fault.location}
        headers = {name: value for name, value in said.items() if value}
        code = "TOOMANYREQUESTS" if fault.status == 429 else "UNAVAILABLE"
        return Problem(fault.status, code, "staged by the sandbox", headers=headers).response()
    if fault is not None:
        request[FAULT] = fault
    try:
        return await handler(request)
    except Problem as problem:
        return problem.response()
