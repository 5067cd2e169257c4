"""Harbor's API v2.0: projects, registries and retentions of the Sovereign's own registry.

Facts from api/v2.0/swagger.yaml and the handlers of goharbor/harbor 2.14.3.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx
from pydantic import SecretStr

from workers.adapters.oci.trouble import retry_after
from workers.errors import Stuck, Wait
from workers.sovereign import Harbor as Description
from workers.sovereign import Login

TIMEOUT = 30.0  # seconds; creating a registry has Harbor ask the upstream first
PAGE = 100  # the most that Harbor gives
MOST_WAIT = 300.0  # seconds of a Retry-After that we follow
OURS = "catalyst-cutover: pulls"


@dataclass(frozen=True, slots=True)
class Project:
    """A project as it is."""

    name: str
    public: bool
    registry_id: int | None
    """Of the upstream it is a proxy of; None for a hosted project."""
    retention_id: int | None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An upstream registry as Harbor knows it."""

    id: int
    name: str
    url: str
    type: str


@dataclass(frozen=True, slots=True)
class Quota:
    """A project's storage limit, in bytes."""

    hard: int
    used: int

    @property
    def left(self) -> int:
        """Bytes that may still come."""
        return max(0, self.hard - self.used)


@dataclass(frozen=True, slots=True)
class Robot:
    """A robot account and its secret, which Harbor tells only when it makes it."""

    login: str
    secret: SecretStr
    made: bool


class FromFile(httpx.Auth):
    """Basic authorization with the password that is in the file now, so that it may be changed any time."""

    def __init__(self, login: Login) -> None:
        self._login = login

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Sign every request."""
        basic = httpx.BasicAuth(self._login.username, self._login.password().get_secret_value())
        yield from basic.auth_flow(request)


class HarborApi:
    """One Harbor. Give it a client whose base_url ends in /api/v2.0."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    @classmethod
    @asynccontextmanager
    async def open(cls, harbor: Description) -> AsyncIterator[HarborApi]:
        """For as long as the block lasts."""
        url = f"{harbor.url.rstrip('/')}/api/v2.0"
        async with httpx.AsyncClient(base_url=url, auth=FromFile(harbor.login), timeout=TIMEOUT) as http:
            yield cls(http)

    async def check(self) -> str:
        """Harbor is healthy and knows our login; its version.

        `harbor_version` is only told to who is signed in (handler/systeminfo.go). Raises Wait or Stuck.
        """
        health = _object(await self._call("GET", "/health"))
        if health.get("status") != "healthy":
            parts = health.get("components") or ()
            ill = [f"{c.get('name')}: {c.get('error', '')}" for c in parts if c.get("status") != "healthy"]
            raise Wait("HarborUnhealthy", f"Harbor says of itself: {'; '.join(ill) or 'not healthy'}", after=15)
        version = _object(await self._call("GET", "/systeminfo")).get("harbor_version")
        if not version:
            raise Stuck("HarborDenied", "Harbor does not accept the login; check harbor.login")
        return str(version)

    # projects

    async def project(self, name: str) -> Project | None:
        """The project of exactly that name; None when there is none."""
        headers = {"X-Is-Resource-Name": "true"}
        answer = await self._call("GET", f"/projects/{quote(name)}", headers=headers, accept=(404,))
        return None if answer.status_code == 404 else _project(_object(answer))

    async def is_public(self, name: str) -> bool:
        """Whether the project exists and anybody may pull from it."""
        project = await self.project(name)
        return project is not None and project.public

    async def create_project(self, name: str, *, public: bool, registry_id: int | None = None) -> bool:
        """The project exists; False when it did already: compare it, it may be of another kind."""
        body: dict[str, Any] = {"project_name": name, "metadata": {"public": "true" if public else "false"}}
        if registry_id is not None:
            body["registry_id"] = registry_id
        answer = await self._call("POST", "/projects", json=body, accept=(409,))
        return answer.status_code == 201

    async def quota(self, name: str) -> Quota | None:
        """How much the project may hold and holds; None when it has no limit."""
        answer = await self._call("GET", f"/projects/{quote(name)}/summary", headers={"X-Is-Resource-Name": "true"})
        quota = _object(answer).get("quota") or {}
        hard = (quota.get("hard") or {}).get("storage", -1)
        return Quota(hard, (quota.get("used") or {}).get("storage", 0)) if hard >= 0 else None

    # robots

    async def robot(self, name: str, projects: Iterable[str], kept: SecretStr | None = None) -> Robot:
        """A system robot of that name that may pull from the projects and nothing else, with a secret made now.

        Harbor tells a secret once; who comes again refreshes it (PATCH /robots/{id}), or has `kept` it. It never ends
        and is not switched off: what somebody changed of that is put right.
        """
        pull = [{"resource": "repository", "action": "pull"}]
        permissions = [{"kind": "project", "namespace": p, "access": pull} for p in sorted(projects)]
        body = {"name": name, "level": "system", "duration": -1, "permissions": permissions}
        known = await self._robot(name)
        if known is None:
            made = _object(await self._call("POST", "/robots", json={**body, "description": OURS}))
            return Robot(str(made["name"]), SecretStr(made["secret"]), made=True)
        ends = known.get("expires_at", -1) != -1 or known.get("duration", -1) != -1
        if _may(known) != _may(body) or known.get("disable") or ends:
            wanted = {**known, "permissions": permissions, "duration": -1, "disable": False}
            await self._call("PUT", f"/robots/{known['id']}", json=wanted)
        if kept is not None:
            return Robot(str(known["name"]), kept, made=False)
        fresh = _object(await self._call("PATCH", f"/robots/{known['id']}", json={}))
        return Robot(str(known["name"]), SecretStr(fresh["secret"]), made=False)

    async def _robot(self, name: str) -> dict[str, Any] | None:
        """By its short name: Harbor puts a prefix before it, `robot$` unless `robot_name_prefix` is another."""
        answer = await self._call("GET", "/robots", params={"q": f"name=~{name}", "page_size": PAGE})
        return next((r for r in _objects(answer) if r.get("level") == "system" and _is_robot(r, name)), None)

    # proxy projects

    async def endpoint(self, name: str) -> Endpoint | None:
        """The registry of exactly that name; `q=name=` is exact, `name=` would be a search."""
        answer = await self._call("GET", "/registries", params={"q": f"name={name}", "page_size": PAGE})
        found = [r for r in _objects(answer) if r["name"] == name]
        return Endpoint(found[0]["id"], name, found[0]["url"], found[0]["type"]) if found else None

    async def create_endpoint(self, name: str, url: str, adapter: str, login: Login | None) -> None:
        """The registry exists. Harbor asks the upstream first; Stuck when it does not answer there."""
        body: dict[str, Any] = {"name": name, "url": url, "type": adapter, "insecure": False}
        if login is not None:
            secret = login.password().get_secret_value()
            body["credential"] = {"type": "basic", "access_key": login.username, "access_secret": secret}
        await self._call("POST", "/registries", json=body, accept=(409,))

    async def has_retention(self, retention_id: int) -> bool:
        """Whether the retention policy is still there."""
        answer = await self._call("GET", f"/retentions/{retention_id}", accept=(404,))
        return answer.status_code == 200

    async def deletes(self, retention_id: int) -> bool:
        """Whether the retention policy has a rule that is on: all else in the project is then deleted."""
        answer = await self._call("GET", f"/retentions/{retention_id}", accept=(404,))
        if answer.status_code == 404:
            return False
        return any(not rule.get("disabled") for rule in _object(answer).get("rules") or ())

    async def delete_retention(self, retention_id: int) -> None:
        """The retention policy is gone. Gone already is success."""
        await self._call("DELETE", f"/retentions/{retention_id}", accept=(404,))

    # artifacts

    async def has_artifact(self, repository: str, reference: str) -> bool:
        """Whether Harbor's own database has the artifact: an answer that no upstream can give for it."""
        project, _, name = repository.partition("/")
        # A slash in the name is encoded twice (api-path of the UI; goharbor/harbor#12404).
        encoded = quote(quote(name, safe=""), safe="")
        path = f"/projects/{quote(project)}/repositories/{encoded}/artifacts/{quote(reference, safe=':')}"
        answer = await self._call("GET", path, accept=(404,))
        # A gateway's page with status 200 is no artifact.
        return answer.status_code != 404 and bool(_object(answer).get("digest"))

    async def _call(
        self,
        method: str,
        path: str,
        *,
        accept: tuple[int, ...] = (),
        headers: dict[str, str] | None = None,
        params: dict[str, str | int] | None = None,
        json: Any = None,
    ) -> httpx.Response:
        """One request; wire trouble becomes our two words. Messages carry Harbor's words, never what was sent."""
        said = f"Harbor {method} {path}"
        # With a session cookie Harbor wants a CSRF token for every change (server/middleware/csrf).
        self._http.cookies.clear()
        try:
            answer = await self._http.request(method, path, headers=headers, params=params, json=json)
        except httpx.RequestError as error:
            raise Wait("HarborUnavailable", f"{said}: {type(error).__name__}: {error}") from error
        status = answer.status_code
        if status < 300 or status in accept:
            return answer
        message = f"{said}: {status} {_reason(answer)}"
        if status in (408, 425, 429) or status >= 500:
            raise Wait("HarborUnavailable", message, after=_after(answer))
        if status in (401, 403):
            raise Stuck("HarborDenied", f"{message}; check harbor.login")
        raise Stuck("HarborRefused", message)


def _object(answer: httpx.Response) -> dict[str, Any]:
    """The answer's object. Raises Wait when it is none: a gateway's page with status 200, Harbor is not up yet."""
    found = _parsed(answer)
    if not isinstance(found, dict) or "errors" in found:
        raise _strange(answer)
    return found


def _objects(answer: httpx.Response) -> list[dict[str, Any]]:
    """The answer's list. Raises Wait when it is none."""
    found = _parsed(answer)
    if not isinstance(found, list):
        raise _strange(answer)
    return [entry for entry in found if isinstance(entry, dict)]


def _parsed(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError as error:
        raise _strange(answer) from error


def _strange(answer: httpx.Response) -> Wait:
    said = f"Harbor {answer.request.method} {answer.request.url.path}"
    return Wait("HarborUnavailable", f"{said}: {answer.status_code} without what Harbor says; something else answers")


def _is_robot(robot: dict[str, Any], name: str) -> bool:
    """Whether this is ours and not one whose longer name ends the same: what stands before is Harbor's prefix.

    A name is of small letters, digits and `._-` (lib/utils.go): any other sign before ours is the prefix's.
    """
    whole = str(robot.get("name", ""))
    before = whole.removesuffix(name)
    if before == whole:
        return False
    foreign = bool(before) and not (before[-1].isalnum() or before[-1] in "._-")
    return not before or foreign or robot.get("description") == OURS


def _may(robot: dict[str, Any]) -> set[tuple[str, str, str]]:
    """(project, resource, action) of all that it may do."""
    return {(p["namespace"], a["resource"], a["action"]) for p in robot.get("permissions") or [] for a in p["access"]}


def _project(body: dict[str, Any]) -> Project:
    metadata = body.get("metadata") or {}
    retention = metadata.get("retention_id")
    # A hosted project has no registry_id, or 0 in older versions.
    return Project(
        body["name"],
        metadata.get("public") == "true",
        body.get("registry_id") or None,
        int(retention) if retention else None,
    )


def _reason(answer: httpx.Response) -> str:
    try:
        errors = answer.json()["errors"]
        return "; ".join(f"{e.get('code')}: {e.get('message')}" for e in errors)[:300]
    except (ValueError, KeyError, TypeError, AttributeError):
        return " ".join(answer.text.split())[:300]


def _after(answer: httpx.Response) -> float:
    said = retry_after(answer.headers.get("Retry-After"), datetime.now(UTC))
    return 10.0 if said is None else min(said, MOST_WAIT)
