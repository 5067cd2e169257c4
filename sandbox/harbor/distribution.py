"""Harbor's /v2: projects decide who may pull, and what a proxy project does with a pull or a push.

Facts from goharbor/harbor 2.14.3: server/middleware/{v2auth,repoproxy}, service/token.
"""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web

from sandbox.harbor.core import Caller, Core
from sandbox.harbor.proxy import Proxy
from sandbox.harbor.state import Project
from sandbox.registry import tokens
from sandbox.registry.answers import Problem
from sandbox.registry.distribution import Distribution, Target

SERVICE = "harbor-registry"
_READS = ("GET", "HEAD")


class HarborDistribution(Distribution):
    """The distribution API, in projects."""

    def __init__(self, core: Core, proxy: Proxy) -> None:
        super().__init__(core.store)
        self._core = core
        self._proxy = proxy

    async def authorise(self, request: web.Request, target: Target) -> None:
        """Reads without an authorization are 401 even in public projects (v2auth/auth.go)."""
        self._core.retain()
        action = "pull" if request.method in _READS else "push"
        if not target.repository:
            if not self._who(request).name or (target.kind == "catalog" and not self._who(request).is_admin):
                raise self._unauthorised(request, "unauthorized", "")
            return
        scope = f"repository:{target.repository}:{action}"
        if "Authorization" not in request.headers and action == "pull":
            raise self._unauthorised(request, "authorize header needed to send HEAD to repository", scope)
        project = self._project(target.repository)
        if not self._allowed(request, project, target.repository, action):
            message = f"unauthorized to access repository: {target.repository}, action: {action}"
            raise self._unauthorised(request, message, scope)
        if action == "push" and project.registry_id is not None and request.method != "DELETE":
            message = f"can not push artifact to a proxy project: {project.name}"
            raise Problem(403, "DENIED", message)

    def _unauthorised(self, request: web.Request, message: str, scope: str) -> Problem:
        headers = tokens.challenge(request, "/service/token", SERVICE, scope, host=self._core.realm_host)
        return Problem(401, "UNAUTHORIZED", message, headers=headers)

    def _project(self, repository: str) -> Project:
        name = repository.partition("/")[0]
        project = self._core.project(name, is_name=True)
        if project is None or "/" not in repository:
            raise Problem(401, "UNAUTHORIZED", f"project {name} not found")
        return project

    def _who(self, request: web.Request) -> Caller:
        if tokens.basic(request) is not None:
            return self._core.caller(request)
        grant = self._core.tokens.grant(request)
        return Caller(grant.user) if grant is not None else Caller()

    def _allowed(self, request: web.Request, project: Project, repository: str, action: str) -> bool:
        if tokens.basic(request) is not None:
            return self._core.may(self._core.caller(request), project, action)
        grant = self._core.tokens.grant(request)
        return grant is not None and grant.allows(repository, action)

    async def may_mount(self, request: web.Request, source: str) -> bool:
        project = self._core.project(source.partition("/")[0], is_name=True)
        return project is not None and self._allowed(request, project, source, "pull")

    async def token(self, request: web.Request) -> web.StreamResponse:
        """The token service: what of the wanted scope the caller may have; 401 for a wrong login."""
        caller = self._core.caller(request)
        wanted = tokens.scopes(request.query.getall("scope", []))
        if not caller.name and not wanted:
            raise Problem(401, "UNAUTHORIZED", "unauthorized")
        granted = self._granted(caller, wanted)
        return web.json_response(self._core.tokens.issue(caller.name, granted))

    def _granted(self, caller: Caller, wanted: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
        for repository, action in wanted:
            project = self._core.project(repository.partition("/")[0], is_name=True)
            if project is not None and self._core.may(caller, project, action):
                yield repository, action

    # what projects change

    async def get_manifest(self, request: web.Request, target: Target) -> web.StreamResponse:
        project = self._project(target.repository)
        stored = None
        if project.registry_id is not None:
            stored = await self._proxy.manifest(project, target.repository, target.reference)
        stored = stored or self.store.manifest(target.repository, target.reference)
        if stored is None:
            raise self.manifest_unknown(target)
        response = await self.send_manifest(request, target, stored)
        if request.method == "GET":
            self._core.pulled(target.repository, stored.digest)
        return response

    async def get_blob(self, request: web.Request, target: Target) -> web.StreamResponse:
        project = self._project(target.repository)
        if project.registry_id is not None and not self.store.has_blob(target.repository, target.reference):
            await self._proxy.blob(project, target.repository, target.reference)
        return await super().get_blob(request, target)

    async def put_manifest(self, request: web.Request, target: Target) -> web.StreamResponse:
        self._within_quota(target.repository)
        response = await super().put_manifest(request, target)
        self._core.record(target.repository, response.headers["Docker-Content-Digest"])
        self._core.repository_record(target.repository)
        return response

    def _within_quota(self, repository: str) -> None:
        """A manifest is refused when its project is over its storage limit (server/middleware/quota)."""
        project = self._project(repository)
        if project.storage_limit < 0:
            return
        used = sum(self.store.linked_bytes(r) for r in self.store.repositories(project.name))
        if used > project.storage_limit:
            message = (
                f"adding storage resource, which when updated to current usage of {used} B will exceed the "
                f"configured upper limit of {project.storage_limit} B."
            )
            raise Problem(403, "DENIED", message)

    def manifest_unknown(self, target: Target) -> Problem:
        separator = "@" if target.reference.startswith("sha256:") else ":"
        message = f"artifact {target.repository}{separator}{target.reference} not found"
        return Problem(404, "NOT_FOUND", message)
