"""Harbor's API v2.0: health, projects, quotas. Every answer satisfies api/v2.0/swagger.yaml of 2.14.3."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from aiohttp import web

from sandbox.harbor.core import ADMIN, VERSION, Caller, Core
from sandbox.harbor.state import Project
from sandbox.registry.answers import Problem
from sandbox.registry.store import Store

_COMPONENTS = ("core", "database", "jobservice", "portal", "redis", "registry", "registryctl")
_NAME = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")


def stamp(moment: datetime) -> str:
    """A date-time as Harbor writes it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def answer(body: Any, *, status: int = 200, **headers: str) -> web.Response:
    """A JSON answer."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return web.json_response(body, status=status, headers=fields)


def created(location: str) -> web.Response:
    """201 and where the new thing is."""
    return web.Response(status=201, headers={"Location": location})


def page_of(request: web.Request, items: Sequence[Any]) -> web.Response:
    """One page of a list, ten at a time unless asked otherwise, a hundred at most (parameter pageSize)."""
    size = int(request.query.get("page_size", "10"))
    number = int(request.query.get("page", "1"))
    if not 0 < size <= 100 or number < 1:
        raise Problem(422, "UNPROCESSABLE_ENTITY", "page_size in query should be less than or equal to 100")
    start = (number - 1) * size
    headers = {"X-Total-Count": str(len(items))}
    if start + size < len(items):
        headers["Link"] = f'<{request.path}?page={number + 1}&page_size={size}>; rel="next"'
    return web.json_response(list(items[start : start + size]), headers=headers)


def searched(request: web.Request, field: str) -> tuple[str, bool] | None:
    """What `q=name=x` (exact) or `q=name=~x` (fuzzy) asks for, and whether it is fuzzy."""
    for part in request.query.get("q", "").split(","):
        key, _, value = part.partition("=")
        if key == field and value:
            return value.removeprefix("~"), value.startswith("~")
    return (request.query[field], True) if request.query.get(field) else None


def matches(name: str, wanted: tuple[str, bool] | None) -> bool:
    """Whether a name is what a search asks for."""
    return wanted is None or (wanted[0] in name if wanted[1] else wanted[0] == name)


async def body_of(request: web.Request) -> dict[str, Any]:
    """The JSON object in the body. Raises 422 as go-swagger does."""
    try:
        body = json.loads(await request.read() or b"{}")
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise Problem(400, "BAD_REQUEST", "parsing body from request failed")
    return body


def signed_in(caller: Caller) -> None:
    """Raise 401 for anybody without a name."""
    if not caller.name:
        raise Problem(401, "UNAUTHORIZED", "unauthorized")


def admin(caller: Caller) -> None:
    """Raise unless it is the administrator."""
    signed_in(caller)
    if not caller.is_admin:
        raise Problem(403, "FORBIDDEN", "forbidden")


def found_project(core: Core, request: web.Request, caller: Caller, action: str = "read") -> Project:
    """The project of the path. Raises 404, or 401 and 403 when the caller may not see it."""
    name = request.match_info["project"]
    is_name = request.headers.get("X-Is-Resource-Name", "").lower() == "true"
    project = core.project(name, is_name=is_name)
    if project is None:
        raise Problem(404, "NOT_FOUND", f"project {name} not found")
    if not core.may(caller, project, action, "project"):
        signed_in(caller)
        raise Problem(403, "FORBIDDEN", "forbidden")
    return project


def used_bytes(store: Store, repositories: Sequence[str]) -> int:
    """Bytes of the blobs that the repositories hold, each once."""
    held: dict[str, int] = {}
    for repository in repositories:
        for manifest in store.manifests(repository):
            held[manifest.digest] = len(manifest.content)
            document = manifest.document
            for part in [document.get("config"), *(document.get("layers") or [])]:
                if part:
                    held[part["digest"]] = int(part["size"])
    return sum(held.values())


class Api:
    """System and projects."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def routes(self, router: web.UrlDispatcher) -> None:
        """Put the handlers on their paths."""
        at = "/api/v2.0"
        project = f"{at}/projects/{{project}}"
        router.add_get(f"{at}/health", self._health)
        router.add_get(f"{at}/ping", self._ping)
        router.add_get(f"{at}/systeminfo", self._systeminfo)
        router.add_get(f"{at}/users/current", self._me)
        router.add_get(f"{at}/projects", self._list, allow_head=False)
        router.add_head(f"{at}/projects", self._head)
        router.add_post(f"{at}/projects", self._create)
        router.add_get(project, self._get)
        router.add_put(project, self._update)
        router.add_delete(project, self._delete)
        router.add_get(f"{project}/summary", self._summary)
        router.add_get(f"{project}/metadatas/", self._metadata)
        router.add_get(f"{at}/quotas", self._quotas)
        router.add_get(f"{at}/quotas/{{id}}", self._quota)

    async def _health(self, request: web.Request) -> web.Response:
        components = [{"name": name, "status": "healthy"} for name in _COMPONENTS]
        return answer({"status": "healthy", "components": components})

    async def _ping(self, request: web.Request) -> web.Response:
        return web.Response(text="Pong", content_type="text/plain")

    async def _systeminfo(self, request: web.Request) -> web.Response:
        open_to_all = {
            "auth_mode": "db_auth",
            "primary_auth_mode": False,
            "self_registration": False,
            "banner_message": "",
        }
        if not self._core.caller(request).name:
            return answer(open_to_all)
        more = {
            "harbor_version": VERSION,
            "registry_url": self._core.host,
            "external_url": f"http://{self._core.host}",
            "project_creation_restriction": "adminonly",
            "has_ca_root": False,
            "read_only": False,
            "notification_enable": True,
            "registry_storage_provider_name": "filesystem",
            "current_time": stamp(self._core.clock.now()),
        }
        return answer(open_to_all | more)

    async def _me(self, request: web.Request) -> web.Response:
        caller = self._core.caller(request)
        signed_in(caller)
        return answer({"user_id": 1, "username": caller.name, "sysadmin_flag": caller.is_admin})

    # projects

    async def _list(self, request: web.Request) -> web.Response:
        caller = self._core.caller(request)
        wanted, public = searched(request, "name"), request.query.get("public")
        seen = [
            self._view(p)
            for name, p in sorted(self._core.state.projects.items())
            if matches(name, wanted)
            and self._core.may(caller, p, "read", "project")
            and (public is None or p.public == (public.lower() == "true"))
        ]
        return page_of(request, seen)

    async def _head(self, request: web.Request) -> web.Response:
        signed_in(self._core.caller(request))
        name = request.query.get("project_name", "")
        if name not in self._core.state.projects:
            raise Problem(404, "NOT_FOUND", f"project {name} not found")
        return web.Response()

    async def _create(self, request: web.Request) -> web.Response:
        caller = self._core.caller(request)
        signed_in(caller)
        body = await body_of(request)
        name, registry_id = str(body.get("project_name", "")), body.get("registry_id")
        if not caller.is_admin and not self._robot_creates(caller):
            raise Problem(403, "FORBIDDEN", "Only system admin can create project")
        if not _NAME.fullmatch(name) or len(name) > 255:
            raise Problem(400, "BAD_REQUEST", f"invalid project name: {name}")
        if name in self._core.state.projects:
            raise Problem(409, "CONFLICT", f"The project named {name} already exists")
        if registry_id is not None:
            self._proxies(int(registry_id))
        metadata = {str(k): v for k, v in (body.get("metadata") or {}).items()}
        if any(not isinstance(v, str) for v in metadata.values()):
            raise Problem(422, "UNPROCESSABLE_ENTITY", "metadata values are strings")
        if body.get("public") is True:
            metadata.setdefault("public", "true")
        limit = body.get("storage_limit")
        project = self._core.add_project(name, metadata, registry_id, -1 if limit is None else int(limit))
        self._core.changed()
        by_name = request.headers.get("X-Resource-Name-In-Location", "").lower() == "true"
        return created(f"/api/v2.0/projects/{name if by_name else project.project_id}")

    def _robot_creates(self, caller: Caller) -> bool:
        robot = self._core.state.robots.get(caller.robot_id or 0)
        rules = [p.get("access") for p in robot.permissions if p.get("kind") == "system"] if robot else []
        wanted = {"resource": "project", "action": "create"}
        return any(wanted.items() <= r.items() for rule in rules if isinstance(rule, list) for r in rule)

    def _proxies(self, registry_id: int) -> None:
        registry = self._core.state.registries.get(registry_id)
        if registry is None:
            raise Problem(400, "BAD_REQUEST", f"registry {registry_id} not found")
        if registry.type not in PROXY_TYPES:
            raise Problem(400, "BAD_REQUEST", f"unsupported registry type {registry.type}")

    async def _get(self, request: web.Request) -> web.Response:
        project = found_project(self._core, request, self._core.caller(request))
        return answer(self._view(project))

    async def _update(self, request: web.Request) -> web.Response:
        caller = self._core.caller(request)
        project = found_project(self._core, request, caller)
        admin(caller)
        # `registry_id` cannot be changed later: UpdateProject takes only what is here.
        metadata = (await body_of(request)).get("metadata") or {}
        project.metadata |= {str(k): str(v) for k, v in metadata.items()}
        project.update_time = self._core.clock.now()
        self._core.changed()
        return web.Response()

    async def _delete(self, request: web.Request) -> web.Response:
        caller = self._core.caller(request)
        project = found_project(self._core, request, caller)
        admin(caller)
        if self._core.repositories(project.name):
            raise Problem(412, "PRECONDITION", "the project contains repositories, can not be deleted")
        self._core.delete_project(project)
        return web.Response()

    async def _metadata(self, request: web.Request) -> web.Response:
        project = found_project(self._core, request, self._core.caller(request))
        return answer(project.metadata)

    async def _summary(self, request: web.Request) -> web.Response:
        project = found_project(self._core, request, self._core.caller(request))
        repositories = self._core.repositories(project.name)
        body = {"repo_count": len(repositories), "project_admin_count": 1, "quota": self._limits(project)}
        return answer(body)

    # quotas

    async def _quotas(self, request: web.Request) -> web.Response:
        admin(self._core.caller(request))
        wanted = request.query.get("reference_id")
        projects = sorted(self._core.state.projects.values(), key=lambda p: p.project_id)
        seen = [self._quota_view(p) for p in projects if wanted in (None, str(p.project_id))]
        return page_of(request, seen)

    async def _quota(self, request: web.Request) -> web.Response:
        admin(self._core.caller(request))
        project = self._core.project(request.match_info["id"])
        if project is None:
            raise Problem(404, "NOT_FOUND", f"quota {request.match_info['id']} not found")
        return answer(self._quota_view(project))

    def _quota_view(self, project: Project) -> dict[str, Any]:
        ref = {"id": project.project_id, "name": project.name, "owner_name": ADMIN}
        return {
            "id": project.project_id,
            "ref": ref,
            **self._limits(project),
            "creation_time": stamp(project.creation_time),
            "update_time": stamp(project.update_time),
        }

    def _limits(self, project: Project) -> dict[str, Any]:
        used = used_bytes(self._core.store, self._core.repositories(project.name))
        return {"hard": {"storage": project.storage_limit}, "used": {"storage": used}}

    def _view(self, project: Project) -> dict[str, Any]:
        view = {
            "project_id": project.project_id,
            "name": project.name,
            "owner_id": 1,
            "owner_name": ADMIN,
            "metadata": project.metadata,
            "cve_allowlist": {"id": project.project_id, "project_id": project.project_id, "items": []},
            "repo_count": len(self._core.repositories(project.name)),
            "creation_time": stamp(project.creation_time),
            "update_time": stamp(project.update_time),
        }
        return view | ({"registry_id": project.registry_id} if project.registry_id is not None else {})


PROXY_TYPES = frozenset(
    {
        "docker-hub",
        "harbor",
        "azure-acr",
        "ali-acr",
        "aws-ecr",
        "google-gcr",
        "docker-registry",
        "github-ghcr",
        "jfrog-artifactory",
    }
)
"""PERMITTED_REGISTRY_TYPES_FOR_PROXY_CACHE of 2.14: `quay` is no longer among them."""
