"""A Gitea 1.22: smart HTTP and the part of its API that a cutover uses, with the answers Gitea gives.

Its traps are kept: `refs/pull/*` is hidden from pushes, pull mirrors are read-only, a default branch that
does not exist is silently not set, tokens are made with a password only and shown once.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from sandbox.gitea_state import Book, allows
from sandbox.githost import Asker, GitHost, Refused, credentials, staged

ADMIN = "gitea_admin"
VERSION = "1.22.3"
Answer = tuple[int, Any]


class Gitea(GitHost):
    """One Gitea and its state below `directory`. Everyone must sign in, even to read."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.book = Book(directory)
        self._one_at_a_time = asyncio.Lock()
        self.git_takes_passwords = True
        """False while an external login source exists: Git over HTTP then wants a token (#6645)."""
        super().__init__(
            directory / "repositories",
            check=self._check_for_git,
            sign_in_to_read=True,
            push=True,
            config=(("receive.hideRefs", "refs/pull"), ("receive.denyDeleteCurrent", "ignore")),
        )

    @classmethod
    @asynccontextmanager
    async def open(cls, directory: Path, *, admin: str = ADMIN, password: str | None = None) -> AsyncIterator[Gitea]:
        """A Gitea at rest below `directory`, new or as it was left; serve its `.app`."""
        gitea = cls(directory)
        if password is not None:
            gitea.book.add_user(admin, password, admin=True)
        yield gitea

    # --- from inside, for scenarios and tests ---

    def token(self, user: str = ADMIN, name: str = "", scopes: tuple[str, ...] = ("all",)) -> str:
        """A new token of a user, as `gitea admin user generate-access-token` gives."""
        return self.book.add_token(user, name or f"made-{self.book.number()}", list(scopes))[1]

    def create(self, owner: str, repo: str, *, pull_mirror: bool = False) -> Path:
        """An empty repository, its organisation too."""
        if not self.book.taken(owner):
            self.book.state["orgs"][owner] = {"id": self.book.number(), "creator": ADMIN, "visibility": "public"}
        path = self._path(owner, repo)
        path.mkdir(parents=True, exist_ok=True)
        self._git("init", "--quiet", "--bare", "--initial-branch=main", str(path))
        self.book.state["repos"][f"{owner}/{repo}"] = {
            "id": self.book.number(),
            "mirror": pull_mirror,
            "private": False,
        }
        self.book.write()
        return path

    def refs(self, owner: str, repo: str) -> dict[str, str]:
        """Every ref and where it stands."""
        listed = self._git("for-each-ref", "--format=%(refname) %(objectname)", at=self._path(owner, repo))
        lines = listed.decode(errors="surrogateescape").split("\n")
        return dict(line.rsplit(" ", 1) for line in lines if line)

    def read(self, owner: str, repo: str, branch: str, path: str) -> str:
        """One file as it is on a branch."""
        return self._git("show", f"refs/heads/{branch}:{path}", at=self._path(owner, repo)).decode()

    def commit_to(self, owner: str, repo: str, branch: str, files: Mapping[str, str | None], message: str) -> str:
        """A commit on a branch, new or there, past every guard of the front door; None removes a file."""
        where = self._path(owner, repo)
        ref = f"refs/heads/{branch}"
        who = f"Sovereign <sovereign@{owner}.invalid> {int(time.time())} +0000"
        lines = [f"commit {ref}\ncommitter {who}\n".encode(), _data(message)]
        if ref in self.refs(owner, repo):
            lines.append(f"from {ref}^0\n".encode())
        for path, content in files.items():
            lines += (
                [f"D {path}\n".encode()] if content is None else [f"M 644 inline {path}\n".encode(), _data(content)]
            )
        self._git("fast-import", "--quiet", "--done", at=where, stdin=b"".join(lines) + b"\ndone\n")
        return self.refs(owner, repo)[ref]

    # --- the front door ---

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """API requests here, the rest is Git."""
        if not request.path.startswith("/api/v1/"):
            return await super().answer(request)
        if (refusal := await staged(request, self.trouble(request.path))) is not None:
            return refusal
        try:
            body = json.loads(await request.text() or "{}")
        except ValueError:
            return web.json_response(_problem(422, "the body is not JSON")[1], status=422)
        async with self._one_at_a_time:
            status, answer = await asyncio.to_thread(self._api, request, body)
        return web.Response(status=status) if answer is None else web.json_response(answer, status=status)

    def gate(self, owner: str, repo: str, service: str, asker: Asker) -> web.Response | None:
        """What Gitea asks before Git does (routers/web/repo/githttp.go)."""
        known = self.book.state["repos"].get(f"{owner}/{repo}")
        if known is None:
            return web.Response(status=404, text="Repository not found\n")
        writes = service == "git-receive-pack"
        if not allows(asker.scopes, "write:repository" if writes else "read:repository"):
            return web.Response(status=403, text="token does not have the required scope\n")
        if writes and not self.book.may_write(asker.user, owner):
            return web.Response(status=403, text="User permission denied\n")
        if writes and known["mirror"]:
            return web.Response(status=403, text="mirror repository is read-only\n")
        return None

    def _check_for_git(self, user: str, secret: str) -> Asker:
        asker = self.book.check(user, secret)
        if asker.scopes is None and not self.git_takes_passwords:
            raise Refused(user)
        return asker

    # --- the API ---

    def _api(self, request: web.Request, body: dict[str, Any]) -> Answer:
        header = request.headers.get("Authorization", "")
        try:
            asker = self.book.check(*credentials(header)) if header else Asker(None)
        except Refused:
            return _problem(401, "invalid username, password or token")
        if asker.user is None:
            return _problem(403, "Only signed in user is allowed to call APIs.")
        parts = tuple(request.path.removeprefix("/api/v1/").strip("/").split("/"))
        call = _Call(request.method, parts, body, asker, asker.user)
        match call.method, parts:
            case "GET", ("version",):
                return 200, {"version": VERSION}
            case "GET", ("user",):
                return 200, self._user(call.user)
            case _, ("orgs", *_):
                return self._orgs(call)
            case _, ("users", name, "tokens", *rest):
                return self._tokens(call, name, rest, basic=header.lower().startswith("basic"))
            case "GET", ("users", name):
                return (200, self._user(name)) if self.book.taken(name) else _problem(404, "user does not exist")
            case "POST", ("user", "repos"):
                return self._create(call, call.user)
            case "POST", ("admin", "users"):
                return self._add_user(call)
            case "POST", ("admin", "users", name, "repos"):
                return self._create(call, name)
            case _, ("repos", owner, repo, *rest):
                return self._repos(call, owner, repo, rest)
        return _problem(404, "Not Found")

    def _orgs(self, call: _Call) -> Answer:
        if short := _short_of(call, "organization"):
            return short
        orgs = self.book.state["orgs"]
        match call.method, call.parts[1:]:
            case "POST", ():
                name = str(call.body.get("username", ""))
                if not name:
                    return _problem(422, "[UserName]: Required")
                if self.book.taken(name):
                    return _problem(422, f"user already exists [name: {name}]")
                visibility = call.body.get("visibility", "public")
                orgs[name] = {"id": self.book.number(), "creator": call.user, "visibility": visibility}
                self.book.write()
                return 201, self._org(name)
            case "GET", (name,):
                return (200, self._org(name)) if name in orgs else _problem(404, "Not Found")
            case "POST", (name, "repos"):
                return self._create(call, name) if name in orgs else _problem(404, "Not Found")
        return _problem(404, "Not Found")

    def _add_user(self, call: _Call) -> Answer:
        if not self.book.state["users"].get(call.user, {}).get("admin"):
            return _problem(403, "user should be an admin")
        name = str(call.body.get("username", ""))
        if self.book.taken(name):
            return _problem(422, f"user already exists [name: {name}]")
        self.book.add_user(name, str(call.body.get("password", "")), admin=False)
        return 201, self._user(name)

    def _tokens(self, call: _Call, name: str, rest: list[str], *, basic: bool) -> Answer:
        # reqBasicOrRevProxyAuth and reqSelfOrAdmin in routers/api/v1/api.go: a token makes no tokens.
        if not basic or call.asker.scopes is not None:
            return _problem(401, "auth required")
        if call.user != name and not self.book.state["users"].get(call.user, {}).get("admin"):
            return _problem(403, "doer should be the site admin or be same as the contextUser")
        tokens = self.book.state["tokens"]
        mine = [token for token in tokens if token["user"] == name]
        match call.method, rest:
            case "GET", []:
                return 200, [_token(token, "") for token in mine]
            case "POST", []:
                wanted, scopes = str(call.body.get("name", "")), call.body.get("scopes") or []
                if any(token["name"] == wanted for token in mine):
                    return _problem(400, "access token name has been used already")
                if not scopes:
                    return _problem(400, "access token must have a scope")
                kept, secret = self.book.add_token(name, wanted, [str(scope) for scope in scopes])
                return 201, _token(kept, secret)
            case "DELETE", [which]:
                kept_ones = [t for t in tokens if t["user"] != name or which not in (t["name"], str(t["id"]))]
                if len(kept_ones) == len(tokens):
                    return _problem(404, "token does not exist")
                self.book.state["tokens"] = kept_ones
                self.book.write()
                return 204, None
        return _problem(404, "Not Found")

    def _create(self, call: _Call, owner: str) -> Answer:
        if short := _short_of(call, "repository"):
            return short
        if not self.book.may_write(call.user, owner):
            return _problem(403, "Given user is not allowed to create repository in organization.")
        name = str(call.body.get("name", ""))
        if not name:
            return _problem(422, "[Name]: Required")
        if f"{owner}/{name}" in self.book.state["repos"]:
            return _problem(409, "The repository with the same name already exists.")
        self.create(owner, name)
        self.book.state["repos"][f"{owner}/{name}"]["private"] = bool(call.body.get("private", False))
        self.book.write()
        return 201, self._repo(owner, name)

    def _repos(self, call: _Call, owner: str, repo: str, rest: list[str]) -> Answer:
        if short := _short_of(call, "repository"):
            return short
        if f"{owner}/{repo}" not in self.book.state["repos"]:
            return _problem(404, "The target couldn't be found.")
        writes = call.method not in ("GET", "HEAD")
        if writes and not self.book.may_write(call.user, owner):
            return _problem(403, "user should be the owner of the repo")
        match call.method, rest:
            case "GET", []:
                return 200, self._repo(owner, repo)
            case "PATCH", []:
                self._patch(owner, repo, call.body)
                return 200, self._repo(owner, repo)
            case "GET", ["branches"]:
                heads = self._heads(owner, repo)
                return 200, [_branch(name, sha) for name, sha in sorted(heads.items())]
            case "GET", ["branches", *name]:
                sha = self._heads(owner, repo).get("/".join(name))
                return (200, _branch("/".join(name), sha)) if sha else _problem(404, "branch does not exist")
        return _problem(404, "Not Found")

    def _patch(self, owner: str, repo: str, body: dict[str, Any]) -> None:
        heads, wanted = self._heads(owner, repo), body.get("default_branch")
        # A branch that does not exist is not an error, the request is just not followed (updateBasicProperties).
        if wanted and (not heads or wanted in heads):
            self._git("symbolic-ref", "HEAD", f"refs/heads/{wanted}", at=self._path(owner, repo))
        if "private" in body:
            self.book.state["repos"][f"{owner}/{repo}"]["private"] = bool(body["private"])
            self.book.write()

    def _repo(self, owner: str, repo: str) -> dict[str, Any]:
        kept = self.book.state["repos"][f"{owner}/{repo}"]
        default = self._git("symbolic-ref", "--short", "HEAD", at=self._path(owner, repo)).decode().strip()
        return {
            "id": kept["id"],
            "owner": self._user(owner),
            "name": repo,
            "full_name": f"{owner}/{repo}",
            "empty": not self._heads(owner, repo),
            "private": kept["private"],
            "mirror": kept["mirror"],
            "default_branch": default,
            "object_format_name": "sha1",
        }

    def _heads(self, owner: str, repo: str) -> dict[str, str]:
        prefix = "refs/heads/"
        return {ref[len(prefix) :]: sha for ref, sha in self.refs(owner, repo).items() if ref.startswith(prefix)}

    def _user(self, name: str) -> dict[str, Any]:
        known = self.book.state["users"].get(name) or self.book.state["orgs"].get(name) or {}
        return {"id": known.get("id", 0), "login": name, "username": name, "is_admin": known.get("admin", False)}

    def _org(self, name: str) -> dict[str, Any]:
        known = self.book.state["orgs"][name]
        return {"id": known["id"], "name": name, "username": name, "visibility": known["visibility"]}

    def _path(self, owner: str, repo: str) -> Path:
        return self.root / owner / f"{repo}.git"

    def _git(self, *arguments: str, at: Path | None = None, stdin: bytes = b"") -> bytes:
        place = ["-C", str(at)] if at else []
        environment = {"PATH": os.environ.get("PATH", os.defpath), "GIT_CONFIG_NOSYSTEM": "1", "HOME": "/nonexistent"}
        done = subprocess.run(
            ["git", *place, *arguments], input=stdin, capture_output=True, check=False, env=environment
        )
        if done.returncode:
            raise RuntimeError(f"git {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout


@dataclass(frozen=True, slots=True)
class _Call:
    """One API request of somebody who is signed in."""

    method: str
    parts: tuple[str, ...]
    body: dict[str, Any]
    asker: Asker
    user: str


def _short_of(call: _Call, category: str) -> Answer | None:
    """403 when the token lacks the scope."""
    needed = f"{'read' if call.method in ('GET', 'HEAD') else 'write'}:{category}"
    if allows(call.asker.scopes, needed):
        return None
    return _problem(403, f"token does not have at least one of required scope(s): [{needed}]")


def _token(kept: dict[str, Any], secret: str) -> dict[str, Any]:
    eight = kept["last_eight"]
    return {"id": kept["id"], "name": kept["name"], "scopes": kept["scopes"], "sha1": secret, "token_last_eight": eight}


def _branch(name: str, sha: str) -> dict[str, Any]:
    return {"name": name, "commit": {"id": sha}, "protected": False}


def _problem(status: int, message: str) -> Answer:
    return status, {"message": message, "url": "https://gitea.invalid/api/swagger"}


def _data(text: str) -> bytes:
    raw = text.encode()
    return b"data %d\n%b\n" % (len(raw), raw)
