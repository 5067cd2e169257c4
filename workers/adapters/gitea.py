"""Gitea's API: the organisation, the repository and its default branch. Pushing and reading is Git's.

Facts from modules/structs/repo.go and routers/api/v1 of go-gitea/gitea 1.22.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx

from workers.adapters.oci.trouble import retry_after
from workers.errors import Stuck, Wait
from workers.sovereign import Gitea as Description
from workers.sovereign import Login

TIMEOUT = 30.0  # seconds
MOST_WAIT = 300.0  # seconds of a Retry-After that we follow


@dataclass(frozen=True, slots=True)
class RepositoryInfo:
    """A repository as it is."""

    default_branch: str
    empty: bool
    """Gitea sets this after a push, not during it."""
    mirror: bool
    """A pull mirror: read-only, and it keeps asking upstream."""
    archived: bool
    object_format: str


class TokenFromFile(httpx.Auth):
    """The token that is in the file now, so that it may be changed at any time."""

    def __init__(self, login: Login) -> None:
        self._login = login

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Sign every request."""
        request.headers["Authorization"] = f"token {self._login.password().get_secret_value()}"
        yield request


class GiteaApi:
    """One Gitea. Give it a client whose base_url ends in /api/v1 and that signs its requests."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    @classmethod
    @asynccontextmanager
    async def open(cls, gitea: Description) -> AsyncIterator[GiteaApi]:
        """For as long as the block lasts."""
        url = f"{gitea.url.rstrip('/')}/api/v1"
        async with httpx.AsyncClient(base_url=url, auth=TokenFromFile(gitea.login), timeout=TIMEOUT) as http:
            yield cls(http)

    async def version(self) -> str:
        """Gitea's version. With a wrong login this is refused, so it tells whether ours is right."""
        found = await self._call("GET", "/version")
        return str((found or {}).get("version", ""))

    async def ensure_organisation(self, name: str) -> bool:
        """The organisation is there; True when this call made it.

        Users and organisations share their names: Stuck when a user has this one.
        """
        path = f"/orgs/{quote(name, safe='')}"
        if await self._call("GET", path, accept=(404,)) is not None:
            return False
        made = await self._call("POST", "/orgs", {"username": name, "visibility": "public"}, accept=(422,))
        if made is not None:
            return True
        if await self._call("GET", path, accept=(404,)) is None:
            raise Stuck("GiteaNameTaken", f"no organisation {name} can be made: a user may have that name")
        return False

    async def repository(self, owner: str, name: str) -> RepositoryInfo | None:
        """The repository, or None when there is none."""
        found = await self._call("GET", _path(owner, name), accept=(404,))
        if found is None:
            return None
        return RepositoryInfo(
            default_branch=str(found.get("default_branch", "")),
            empty=bool(found.get("empty")),
            mirror=bool(found.get("mirror")),
            archived=bool(found.get("archived")),
            object_format=str(found.get("object_format_name") or "sha1"),
        )

    async def create_repository(self, owner: str, name: str) -> bool:
        """An ordinary empty repository of an organisation is there; True when this call made it."""
        # Without auto_init: a first commit of Gitea's own would have no common history with upstream.
        body = {"name": name, "private": False, "auto_init": False}
        made = await self._call("POST", f"/orgs/{quote(owner, safe='')}/repos", body, accept=(409,))
        return made is not None

    async def set_default_branch(self, owner: str, name: str, branch: str) -> None:
        """Ask for it. Gitea answers 200 and does nothing when the branch is not there yet: read it back."""
        await self._call("PATCH", _path(owner, name), {"default_branch": branch})

    async def _call(
        self, method: str, path: str, body: dict[str, Any] | None = None, accept: tuple[int, ...] = ()
    ) -> dict[str, Any] | None:
        """The answer's object; None for a status that the caller accepts. Everything else is Wait or Stuck."""
        where = f"{method} {path}"
        try:
            answer = await self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise Wait("GiteaUnavailable", f"{where}: {type(error).__name__}; asked again later") from error
        status = answer.status_code
        if status in accept:
            return None
        if status in (401, 403):
            advice = "check the token and that its scopes are write:repository and write:organization"
            raise Stuck("GiteaDenied", f"{where}: {status} {_message(answer)}; {advice}")
        if status == 429 or status >= 500:
            raise Wait("GiteaUnavailable", f"{where}: {status} {_message(answer)}", after=_after(answer))
        if status >= 300:
            raise Stuck("GiteaRefused", f"{where}: {status} {_message(answer)}")
        try:
            found = answer.json()
        except ValueError as error:
            # A proxy's page with status 200: Gitea itself is not up yet.
            raise Wait("GiteaUnavailable", f"{where}: {status} without JSON; something else answers") from error
        if not isinstance(found, dict):
            raise Wait("GiteaUnavailable", f"{where}: {status} with an unknown body; something else answers")
        return found


def _path(owner: str, name: str) -> str:
    return f"/repos/{quote(owner, safe='')}/{quote(name, safe='')}"


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json().get("message", ""))[:200]
    except (ValueError, AttributeError):
        return answer.reason_phrase


def _after(answer: httpx.Response) -> float:
    said = retry_after(answer.headers.get("Retry-After"), datetime.now(UTC))
    return 10.0 if said is None else min(said, MOST_WAIT)
