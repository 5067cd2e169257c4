"""Harbor's core: who is who, what exists, and the retention that runs at midnight."""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from aiohttp import web

from sandbox.clock import Clock
from sandbox.harbor.state import ArtifactRecord, Project, RepositoryRecord, Retention, State
from sandbox.registry import tokens
from sandbox.registry.answers import Problem
from sandbox.registry.faults import Faults
from sandbox.registry.store import Store

VERSION = "v2.14.3-sandbox"
ADMIN = "admin"
PROXY_RETENTION_DAYS = 7
"""CreateProject gives every proxy project this retention (goharbor/harbor 2.14.3, handler/project.go)."""
WireUrl = Callable[[str], str | Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. Without a name it is anybody."""

    name: str = ""
    robot_id: int | None = None

    @property
    def is_admin(self) -> bool:
        """Whether it is the system administrator."""
        return self.name == ADMIN and self.robot_id is None


class Core:
    """State, blobs and rules; the API and the registry are two views of it."""

    def __init__(self, directory: Path, host: str, clock: Clock, admin_password: str, upstream_url: WireUrl) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.host = host
        self.clock = clock
        self.store = Store(directory / "registry")
        self.faults = Faults()
        self.tokens = tokens.Tokens(clock)
        self.realm_host = ""
        """Where readers are sent for tokens instead of the name they asked for: an externalURL that is wrong."""
        self._file = directory / "state.json"
        self._upstream_url = upstream_url
        self._admin_password = admin_password
        self._saving: asyncio.TimerHandle | None = None
        self.robot_prefix = "robot$"
        """As `robot_name_prefix` is configured; it stands before the name of each robot made from now on."""
        self.state = State.load(self._file)
        if not self._file.exists():
            self._install()

    def _install(self) -> None:
        """A fresh Harbor has the public project `library` (migrations/postgresql)."""
        self.add_project("library", {"public": "true"}, None, -1)
        self.save()

    # state

    def changed(self) -> None:
        """Write the state soon; many changes are one write."""
        if self._saving is None:
            self._saving = asyncio.get_running_loop().call_later(0.1, self.save)

    def save(self) -> None:
        """Write the state now."""
        if self._saving is not None:
            self._saving.cancel()
            self._saving = None
        self.state.save(self._file)

    async def wire(self, host: str) -> str:
        """Where the upstream host answers in the sandbox."""
        url = self._upstream_url(host)
        return url if isinstance(url, str) else await url

    # callers

    def login(self, user: str, password: str) -> Caller | None:
        """The administrator or a robot whose secret this is."""
        if user == ADMIN and hmac.compare_digest(password.encode(), self._admin_password.encode()):
            return Caller(ADMIN)
        for robot in self.state.robots.values():
            if robot.name == user and not robot.disable:
                same = hmac.compare_digest(password.encode(), robot.secret.encode())
                return Caller(robot.name, robot.id) if same else None
        return None

    def caller(self, request: web.BaseRequest) -> Caller:
        """Who asks by Basic authorization. Raises 401 when the login is wrong."""
        given = tokens.basic(request)
        if given is None:
            return Caller()
        found = self.login(*given)
        if found is None:
            headers = {"WWW-Authenticate": 'Basic realm="harbor"'}
            raise Problem(401, "UNAUTHORIZED", "unauthorized", headers=headers)
        return found

    def may(self, caller: Caller, project: Project, action: str, resource: str = "repository") -> bool:
        """Whether the caller may do this in the project. Pushing includes pulling."""
        if caller.is_admin or (project.public and action in ("pull", "read", "list")):
            return True
        robot = self.state.robots.get(caller.robot_id) if caller.robot_id is not None else None
        if robot is None:
            return False
        return any(
            permission.get("namespace") in ("*", project.name) and _allows(permission.get("access"), resource, action)
            for permission in robot.permissions
        )

    # projects and artifacts

    def project(self, name_or_id: str, *, is_name: bool = False) -> Project | None:
        """By name; by number when it looks like one, unless the caller says that it is a name."""
        if name_or_id.isdigit() and not is_name:
            number = int(name_or_id)
            return next((p for p in self.state.projects.values() if p.project_id == number), None)
        return self.state.projects.get(name_or_id)

    def add_project(self, name: str, metadata: dict[str, str], registry_id: int | None, storage_limit: int) -> Project:
        """A new project; a proxy project comes with its retention."""
        now = self.clock.now()
        project = Project(
            project_id=self.state.take_id(),
            name=name,
            metadata={"public": "false", **metadata},
            registry_id=registry_id,
            storage_limit=storage_limit,
            creation_time=now,
            update_time=now,
        )
        self.state.projects[name] = project
        if registry_id is not None:
            self._retain(project)
        return project

    def _retain(self, project: Project) -> None:
        policy = seven_days(project.project_id)
        retention = Retention(
            id=self.state.take_id(),
            project_id=project.project_id,
            policy=policy,
            days=PROXY_RETENTION_DAYS,
        )
        self.state.retentions[retention.id] = retention
        project.metadata["retention_id"] = str(retention.id)

    def retain_again(self, name: str) -> None:
        """The project has the policy that Harbor gives to proxies. Raises LookupError for an unknown project."""
        if name not in self.state.projects:
            raise LookupError(f"no such project: {name}")
        self._retain(self.state.projects[name])
        self.changed()

    def delete_project(self, project: Project) -> None:
        """The project, its retention and its repositories are gone."""
        for repository in self.repositories(project.name):
            self.store.delete_repository(repository)
            self.state.repositories.pop(repository, None)
        self.state.retentions.pop(int(project.metadata.get("retention_id", "0")), None)
        del self.state.projects[project.name]
        self.changed()

    def repositories(self, project: str) -> list[str]:
        """Full names of the project's repositories."""
        return [r for r in self.store.repositories(project) if any(True for _ in self.store.manifests(r))]

    def repository_record(self, repository: str) -> RepositoryRecord:
        """The repository's row, made when it is not there."""
        found = self.state.repositories.get(repository)
        if found is None:
            found = RepositoryRecord(id=self.state.take_id(), creation_time=self.clock.now())
            self.state.repositories[repository] = found
            self.changed()
        return found

    def record(self, repository: str, digest: str) -> ArtifactRecord:
        """The artifact's row, made when it is not there."""
        key = f"{repository}@{digest}"
        found = self.state.artifacts.get(key)
        if found is None:
            found = ArtifactRecord(id=self.state.take_id(), push_time=self.clock.now())
            self.state.artifacts[key] = found
            self.changed()
        return found

    def pulled(self, repository: str, digest: str) -> None:
        """Somebody pulled the artifact."""
        self.record(repository, digest).pull_time = self.clock.now()
        self.repository_record(repository).pull_count += 1
        self.changed()

    def delete_artifact(self, repository: str, digest: str) -> bool:
        """The artifact and its tags are gone."""
        self.state.artifacts.pop(f"{repository}@{digest}", None)
        self.changed()
        return self.store.delete_manifest(repository, digest)

    # time

    def retain(self) -> None:
        """Run what midnight would have run: delete what the retention policies do not keep.

        Cron `0 0 0 * * *`; "retain the artifacts pulled within the last 7 days" (goharbor/harbor 2.14.3).
        """
        today = self.clock.now().date().isoformat()
        if self.state.retained_on == today:
            return
        first, self.state.retained_on = not self.state.retained_on, today
        self.changed()
        if first:
            return
        projects = {p.project_id: p.name for p in self.state.projects.values()}
        for retention in self.state.retentions.values():
            if retention.days is not None and retention.project_id in projects:
                self._forget(projects[retention.project_id], timedelta(days=retention.days))

    def _forget(self, project: str, age: timedelta) -> None:
        horizon = self.clock.now() - age
        for repository in self.repositories(project):
            for manifest in list(self.store.manifests(repository)):
                record = self.record(repository, manifest.digest)
                if (record.pull_time or record.push_time) < horizon:
                    self.delete_artifact(repository, manifest.digest)


def _allows(access: object, resource: str, action: str) -> bool:
    rules = access if isinstance(access, list) else []
    wanted = {action, "*"} | ({"push"} if action == "pull" else set())
    return any(r.get("resource") in (resource, "*") and r.get("action") in wanted for r in rules)


def seven_days(project_id: int) -> dict[str, object]:
    """The policy that Harbor makes for a proxy project (policy.WithNDaysSinceLastPull)."""
    selectors = [{"kind": "doublestar", "decoration": "matches", "pattern": "**", "extras": ""}]
    scopes = [{"kind": "doublestar", "decoration": "repoMatches", "pattern": "**"}]
    rule = {
        "id": 0,
        "priority": 0,
        "disabled": False,
        "action": "retain",
        "template": "nDaysSinceLastPull",
        "params": {"nDaysSinceLastPull": PROXY_RETENTION_DAYS},
        "tag_selectors": selectors,
        "scope_selectors": {"repository": scopes},
    }
    trigger = {"kind": "Schedule", "settings": {"cron": "0 0 0 * * *"}, "references": {}}
    scope = {"level": "project", "ref": project_id}
    return {"algorithm": "or", "rules": [rule], "trigger": trigger, "scope": scope}


def new_secret() -> str:
    """A robot's secret in Harbor's shape: 8 to 128 characters, upper, lower and digit."""
    return "Aa1" + secrets.token_hex(16)
