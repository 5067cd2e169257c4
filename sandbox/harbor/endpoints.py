"""Harbor's registries, robots and retentions: what a proxy project and a pull secret are made of."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web

from sandbox.harbor.api import admin, answer, body_of, created, matches, page_of, searched, stamp
from sandbox.harbor.core import Core, new_secret
from sandbox.harbor.state import Retention, Robot, UpstreamRegistry
from sandbox.registry.answers import Problem

ADAPTERS = frozenset(
    {
        "harbor",
        "docker-hub",
        "docker-registry",
        "aws-ecr",
        "azure-acr",
        "google-gcr",
        "github-ghcr",
        "quay",
        "gitlab",
        "jfrog-artifactory",
        "ali-acr",
        "huawei-SWR",
        "tencent-tcr",
        "volcengine-cr",
        "dtr",
    }
)
_HUB = frozenset({"hub.docker.com", "registry-1.docker.io", "index.docker.io"})


def upstream_host(url: str) -> str:
    """The host that images of this registry name: `https://hub.docker.com` -> `docker.io`."""
    host = urlsplit(url).netloc
    return "docker.io" if host in _HUB else host


class Endpoints:
    """The handlers."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def routes(self, router: web.UrlDispatcher) -> None:
        """Put the handlers on their paths."""
        at = "/api/v2.0"
        router.add_get(f"{at}/registries", self._registries)
        router.add_post(f"{at}/registries", self._add_registry)
        router.add_post(f"{at}/registries/ping", self._ping_registry)
        router.add_get(f"{at}/registries/{{id}}", self._registry)
        router.add_put(f"{at}/registries/{{id}}", self._update_registry)
        router.add_delete(f"{at}/registries/{{id}}", self._delete_registry)
        router.add_get(f"{at}/robots", self._robots)
        router.add_post(f"{at}/robots", self._add_robot)
        router.add_get(f"{at}/robots/{{id}}", self._robot)
        router.add_put(f"{at}/robots/{{id}}", self._update_robot)
        router.add_patch(f"{at}/robots/{{id}}", self._refresh_robot)
        router.add_delete(f"{at}/robots/{{id}}", self._delete_robot)
        router.add_post(f"{at}/retentions", self._add_retention)
        router.add_get(f"{at}/retentions/{{id}}", self._retention)
        router.add_put(f"{at}/retentions/{{id}}", self._update_retention)
        router.add_delete(f"{at}/retentions/{{id}}", self._delete_retention)

    # registries

    async def _registries(self, request: web.Request) -> web.Response:
        admin(self._core.caller(request))
        wanted = searched(request, "name")
        kept = sorted(self._core.state.registries.values(), key=lambda r: r.id)
        return page_of(request, [_registry_view(r) for r in kept if matches(r.name, wanted)])

    async def _add_registry(self, request: web.Request) -> web.Response:
        admin(self._core.caller(request))
        body = await body_of(request)
        name, kind, url = (str(body.get(k, "")) for k in ("name", "type", "url"))
        if not name or len(name) > 64 or kind not in ADAPTERS:
            raise Problem(400, "BAD_REQUEST", f"invalid registry: name {name!r}, type {kind!r}")
        if any(r.name == name for r in self._core.state.registries.values()):
            raise Problem(409, "CONFLICT", f"registry {name} already exists")
        await self._must_answer(url)
        login = body.get("credential") or {}
        now = self._core.clock.now()
        registry = UpstreamRegistry(
            id=self._core.state.take_id(),
            name=name,
            url=url,
            type=kind,
            insecure=bool(body.get("insecure")),
            description=str(body.get("description", "")),
            access_key=str(login.get("access_key", "")),
            access_secret=str(login.get("access_secret", "")),
            creation_time=now,
            update_time=now,
        )
        self._core.state.registries[registry.id] = registry
        self._core.changed()
        return created(f"/api/v2.0/registries/{registry.id}")

    async def _must_answer(self, url: str) -> None:
        """Create and update ask the upstream first (controller/registry, ValidateRegistry)."""
        try:
            wire = await self._core.wire(upstream_host(url))
            timeout = aiohttp.ClientTimeout(total=15)
            async with aiohttp.ClientSession(timeout=timeout) as session, session.get(f"{wire}/v2/") as response:
                healthy = response.status in (200, 401)
        except (aiohttp.ClientError, TimeoutError, LookupError):
            healthy = False
        if not healthy:
            raise Problem(400, "BAD_REQUEST", "the registry is unhealthy")

    async def _ping_registry(self, request: web.Request) -> web.Response:
        admin(self._core.caller(request))
        body = await body_of(request)
        kept = self._core.state.registries.get(int(body.get("id") or 0))
        if body.get("id") and kept is None:
            raise Problem(404, "NOT_FOUND", f"registry {body['id']} not found")
        await self._must_answer(kept.url if kept else str(body.get("url", "")))
        return web.Response()

    async def _registry(self, request: web.Request) -> web.Response:
        admin(self._core.caller(request))
        return answer(_registry_view(self._found_registry(request)))

    async def _update_registry(self, request: web.Request) -> web.Response:
        admin(self._core.caller(request))
        registry, body = self._found_registry(request), await body_of(request)
        await self._must_answer(str(body.get("url") or registry.url))
        for field in ("name", "description", "url", "access_key", "access_secret", "insecure"):
            if body.get(field) is not None:
                setattr(registry, field, body[field])
        registry.update_time = self._core.clock.now()
        self._core.changed()
        return web.Response()

    async def _delete_registry(self, request: web.Request) -> web.Response:
        admin(self._core.caller(request))
        registry = self._found_registry(request)
        if any(p.registry_id == registry.id for p in self._core.state.projects.values()):
            raise Problem(412, "PRECONDITION", f"the registry {registry.id} is referenced by proxy projects")
        del self._core.state.registries[registry.id]
        self._core.changed()
        return web.Response()

    def _found_registry(self, request: web.Request) -> UpstreamRegistry:
        number = request.match_info["id"]
        found = self._core.state.registries.get(int(number)) if number.isdigit() else None
        if found is None:
            raise Problem(404, "NOT_FOUND", f"registry {number} not found")
        return found

    # robots

    async def _robots(self, request: web.Request) -> web.Response:
        admin(self._core.caller(request))
        wanted = searched(request, "name")
        return page_of(request, [_robot_view(r) for r in self._core.state.robots.values() if matches(r.name, wanted)])

    async def _add_robot(self, request: web.Request) -> web.Response:
        admin(self._core.caller(request))
        body = await body_of(request)
        short, level, duration = str(body.get("name", "")), body.get("level"), int(body.get("duration", 0))
        if not short or level not in ("system", "project") or not (duration == -1 or duration > 0):
            raise Problem(400, "BAD_REQUEST", "bad request: robot name, level or duration")
        permissions = body.get("permissions") or []
        prefix = "" if level == "system" else f"{permissions[0].get('namespace')}+"
        name, now = f"{self._core.robot_prefix}{prefix}{short}", self._core.clock.now()
        if any(r.name == name for r in self._core.state.robots.values()):
            raise Problem(409, "CONFLICT", f"robot account {name} already exists")
        robot = Robot(
            id=self._core.state.take_id(),
            name=name,
            secret=new_secret(),
            level=level,
            duration=duration,
            description=str(body.get("description", "")),
            permissions=permissions,
            creation_time=now,
            update_time=now,
        )
        self._core.state.robots[robot.id] = robot
        self._core.changed()
        view = _robot_view(robot)
        shown = {k: view[k] for k in ("id", "name", "creation_time", "expires_at")} | {"secret": robot.secret}
        return answer(shown, status=201, Location=f"/api/v2.0/robots/{robot.id}")

    async def _robot(self, request: web.Request) -> web.Response:
        admin(self._core.caller(request))
        return answer(_robot_view(self._found_robot(request)))

    async def _update_robot(self, request: web.Request) -> web.Response:
        """Name and level stay (handler/robot.go, updateV2Robot)."""
        admin(self._core.caller(request))
        robot, body = self._found_robot(request), await body_of(request)
        if body.get("level") != robot.level or body.get("name") != robot.name:
            raise Problem(400, "BAD_REQUEST", "cannot update the level or name of robot")
        robot.permissions, robot.disable = body.get("permissions") or [], bool(body.get("disable"))
        robot.duration = int(body.get("duration", robot.duration))
        robot.update_time = self._core.clock.now()
        self._core.changed()
        return web.Response()

    async def _refresh_robot(self, request: web.Request) -> web.Response:
        admin(self._core.caller(request))
        robot, given = self._found_robot(request), (await body_of(request)).get("secret")
        robot.secret = str(given) if given else new_secret()
        self._core.changed()
        return answer({} if given else {"secret": robot.secret})

    async def _delete_robot(self, request: web.Request) -> web.Response:
        admin(self._core.caller(request))
        del self._core.state.robots[self._found_robot(request).id]
        self._core.changed()
        return web.Response()

    def _found_robot(self, request: web.Request) -> Robot:
        number = request.match_info["id"]
        found = self._core.state.robots.get(int(number)) if number.isdigit() else None
        if found is None:
            raise Problem(404, "NOT_FOUND", f"robot account {number} not found")
        return found

    # retentions

    async def _add_retention(self, request: web.Request) -> web.Response:
        admin(self._core.caller(request))
        policy = await body_of(request)
        ref = int((policy.get("scope") or {}).get("ref") or 0)
        project = self._core.project(str(ref))
        if project is None or "retention_id" in project.metadata:
            raise Problem(400, "BAD_REQUEST", f"project {ref} is not there, or has a retention already")
        retention = Retention(id=self._core.state.take_id(), project_id=ref, policy=policy, days=_days(policy))
        self._core.state.retentions[retention.id] = retention
        project.metadata["retention_id"] = str(retention.id)
        self._core.changed()
        return created(f"/api/v2.0/retentions/{retention.id}")

    async def _retention(self, request: web.Request) -> web.Response:
        admin(self._core.caller(request))
        retention = self._found_retention(request)
        return answer({"id": retention.id, **retention.policy})

    async def _update_retention(self, request: web.Request) -> web.Response:
        admin(self._core.caller(request))
        retention, policy = self._found_retention(request), await body_of(request)
        retention.policy, retention.days = {k: v for k, v in policy.items() if k != "id"}, _days(policy)
        self._core.changed()
        return web.Response()

    async def _delete_retention(self, request: web.Request) -> web.Response:
        """It also takes `retention_id` from the project's metadata (handler/retention.go)."""
        admin(self._core.caller(request))
        retention = self._found_retention(request)
        del self._core.state.retentions[retention.id]
        project = self._core.project(str(retention.project_id))
        if project is not None:
            project.metadata.pop("retention_id", None)
        self._core.changed()
        return web.Response()

    def _found_retention(self, request: web.Request) -> Retention:
        number = request.match_info["id"]
        found = self._core.state.retentions.get(int(number)) if number.isdigit() else None
        if found is None:
            raise Problem(404, "NOT_FOUND", f"no such retention policy with id {number}")
        return found


def _days(policy: dict[str, Any]) -> int | None:
    """Days since the last pull that the rules keep; None when no rule that is on says so."""
    for rule in policy.get("rules") or []:
        if rule.get("template") == "nDaysSinceLastPull" and not rule.get("disabled"):
            return int(rule["params"]["nDaysSinceLastPull"])
    return None


def _registry_view(registry: UpstreamRegistry) -> dict[str, Any]:
    secret = {"type": "basic", "access_key": registry.access_key, "access_secret": "*****"}
    view = {
        "id": registry.id,
        "name": registry.name,
        "url": registry.url,
        "type": registry.type,
        "insecure": registry.insecure,
        "description": registry.description,
        "status": "healthy",
        "creation_time": stamp(registry.creation_time),
        "update_time": stamp(registry.update_time),
    }
    return view | ({"credential": secret} if registry.access_key else {})


def _robot_view(robot: Robot) -> dict[str, Any]:
    until = _expiry(robot.creation_time, robot.duration)
    return {
        "id": robot.id,
        "name": robot.name,
        "description": robot.description,
        "level": robot.level,
        "duration": robot.duration,
        "disable": robot.disable,
        "editable": True,
        "expires_at": until,
        "permissions": robot.permissions,
        "creation_time": stamp(robot.creation_time),
        "update_time": stamp(robot.update_time),
    }


def _expiry(start: datetime, days: int) -> int:
    return -1 if days == -1 else int((start + timedelta(days=days)).timestamp())
