"""A Git host: the real `git http-backend` as CGI behind aiohttp, with sign-in, and trouble on demand."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from aiohttp import web

CHUNK = 64 * 1024
_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_ROUTE = re.compile(
    rf"/(?P<owner>{_NAME})/(?P<repo>{_NAME}?)(?:\.git)?/(?P<rest>info/refs|git-upload-pack|git-receive-pack)"
)


class Wrong(StrEnum):
    """What goes wrong."""

    DOWN = "down"
    """The connection is reset without an answer."""
    UNAVAILABLE = "unavailable"
    """503."""
    DENIED = "denied"
    """401, whatever was presented."""
    HANG = "hang"
    """No answer at all, for as long as the client stays."""
    TRUNCATED = "truncated"
    """The body ends early, and the answer looks finished: what a proxy between does (#6490)."""
    EMPTY = "empty"
    """200 and no body."""


@dataclass(slots=True)
class Fault:
    """One kind of trouble: with the list of refs, with packs, or with both."""

    wrong: Wrong
    on: str = ""
    """Part of the path: `info/refs`, `git-upload-pack`, ...; empty is every request."""
    times: int | None = None
    keep: int = 300
    """Bytes that a truncated body still has."""


@dataclass(slots=True)
class Exchange:
    """One request: what it asked and how much went over."""

    path: str
    service: str
    user: str | None
    status: int = 0
    received: int = 0
    sent: int = 0


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks; no user is anonymous. `scopes` is None for a password."""

    user: str | None
    scopes: frozenset[str] | None = None


class Refused(Exception):
    """The credentials are wrong."""


def credentials(header: str) -> tuple[str, str]:
    """User and secret of an Authorization header; a token alone has no user. Raises Refused."""
    kind, _, rest = header.partition(" ")
    if kind.lower() in ("token", "bearer"):
        return "", rest.strip()
    if kind.lower() != "basic":
        raise Refused(kind)
    try:
        user, _, secret = base64.b64decode(rest, validate=True).decode().partition(":")
    except ValueError as error:
        raise Refused("not base64") from error
    return user, secret


def passwords(known: Mapping[str, str]) -> Callable[[str, str], Asker]:
    """A check of plain users and passwords."""

    def check(user: str, secret: str) -> Asker:
        if not secret or known.get(user) != secret:
            raise Refused(user)
        return Asker(user)

    return check


class GitHost:
    """Serves `root/<owner>/<repository>.git` at `/<owner>/<repository>`, with or without `.git`."""

    def __init__(
        self,
        root: Path,
        *,
        check: Callable[[str, str], Asker] | None = None,
        sign_in_to_read: bool = False,
        push: bool = False,
        config: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.root, self.sign_in_to_read, self.push = root, sign_in_to_read, push
        self._check = check or passwords({})
        self._config = (
            ("http.receivepack", "true" if push else "false"),
            ("uploadpack.allowFilter", "true"),
            ("uploadpack.allowReachableSHA1InWant", "true"),
            ("receive.fsckObjects", "true"),
            # Background repacking would outlive the request, and the sandbox.
            ("receive.autogc", "false"),
            ("safe.directory", "*"),
            *config,
        )
        self.faults: list[Fault] = []
        self.seen: deque[Exchange] = deque(maxlen=10_000)
        self.app = web.Application()
        self.app.router.add_route("*", "/{path:.*}", self.answer)

    def gate(self, owner: str, repo: str, service: str, asker: Asker) -> web.Response | None:
        """An answer that stands before Git's; None lets it through. For subclasses."""
        return None

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """One Git request."""
        match = _ROUTE.fullmatch(request.path)
        if match is None:
            return web.Response(status=404, text="Not found.\n")
        rest = match["rest"]
        service = request.query.get("service", "") if rest == "info/refs" else rest
        exchange = Exchange(request.path, service, None)
        self.seen.append(exchange)
        wrong = self.trouble(request.path)
        refusal = await staged(request, wrong) or self._refusal(
            request, match["owner"], match["repo"], service, exchange
        )
        if refusal is not None:
            exchange.status = refusal.status
            return refusal
        directory = self.root / match["owner"] / f"{match['repo']}.git"
        if not (directory / "HEAD").exists():
            exchange.status = 404
            return web.Response(status=404, text="Not found.\n")
        keep = wrong.keep if wrong and wrong.wrong is Wrong.TRUNCATED else None
        return await self._run(request, directory, rest, exchange, keep)

    def trouble(self, path: str) -> Fault | None:
        """The fault that this request meets, counted."""
        for fault in self.faults:
            if fault.times != 0 and fault.on in path:
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None

    def _refusal(
        self, request: web.Request, owner: str, repo: str, service: str, exchange: Exchange
    ) -> web.Response | None:
        if service not in ("git-upload-pack", "git-receive-pack"):
            return web.Response(status=403, text="Please upgrade your git client.\n")
        header = request.headers.get("Authorization", "")
        try:
            asker = self._check(*credentials(header)) if header else Asker(None)
        except Refused:
            return unauthorised()
        exchange.user = asker.user
        writes = service == "git-receive-pack"
        if asker.user is None and (writes or self.sign_in_to_read):
            return unauthorised()
        if writes and not self.push:
            return web.Response(status=403, text="This host is read-only.\n")
        return self.gate(owner, repo, service, asker)

    async def _run(
        self, request: web.Request, directory: Path, rest: str, exchange: Exchange, keep: int | None
    ) -> web.StreamResponse:
        process = await asyncio.create_subprocess_exec(
            "git",
            "http-backend",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=self._environment(request, directory, rest, exchange),
            start_new_session=True,
        )
        feeding = asyncio.create_task(_feed(request, process, exchange))
        try:
            return await _relay(request, process, exchange, keep)
        except (ConnectionError, asyncio.IncompleteReadError):
            # The client went away, or Git died before its headers: there is nobody or nothing to tell.
            _reset(request)
            return web.Response(status=500)
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
            _kill(process)
            await process.wait()

    def _environment(self, request: web.Request, directory: Path, rest: str, exchange: Exchange) -> dict[str, str]:
        """The CGI variables. Bodies arrive here unpacked, so neither length nor encoding is passed on."""
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(directory),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_PROJECT_ROOT": str(directory.parent),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": f"/{directory.name}/{rest}",
            "QUERY_STRING": request.query_string,
            "REQUEST_METHOD": request.method,
            "CONTENT_TYPE": request.headers.get("Content-Type", ""),
            "REMOTE_USER": exchange.user or "",
            "REMOTE_ADDR": request.remote or "",
            "GIT_CONFIG_COUNT": str(len(self._config)),
        }
        for number, (key, value) in enumerate(self._config):
            environment |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
        if protocol := request.headers.get("Git-Protocol"):
            environment["GIT_PROTOCOL"] = protocol
        return environment


def unauthorised() -> web.Response:
    """401 with the challenge that makes clients offer a password."""
    return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="Git"'}, text="Unauthorized\n")


async def staged(request: web.Request, fault: Fault | None) -> web.Response | None:
    """The answer that a fault puts in place of the real one; None when the real one comes (perhaps cut)."""
    if fault is None or fault.wrong is Wrong.TRUNCATED:
        return None
    if fault.wrong is Wrong.HANG:
        await _gone(request)
    if fault.wrong is Wrong.DENIED:
        return unauthorised()
    if fault.wrong is Wrong.EMPTY:
        return web.Response(status=200)
    if fault.wrong is Wrong.DOWN:
        _reset(request)
    return web.Response(status=503, text="down for maintenance\n")


async def _feed(request: web.Request, process: asyncio.subprocess.Process, exchange: Exchange) -> None:
    """The request's body into Git, while Git already answers: neither side waits for the other."""
    assert process.stdin is not None
    try:
        async for block in request.content.iter_chunked(CHUNK):
            exchange.received += len(block)
            process.stdin.write(block)
            await process.stdin.drain()
    except (ConnectionError, web.PayloadAccessError, OSError):
        return  # Git stopped reading, or the client left: the other side notices by itself.
    finally:
        process.stdin.close()


async def _relay(
    request: web.Request, process: asyncio.subprocess.Process, exchange: Exchange, keep: int | None
) -> web.StreamResponse:
    assert process.stdout is not None
    status, headers = 200, {}
    async for name, value in _headers(process.stdout):
        if name.lower() == "status":
            status = int(value.split()[0])
        elif name.lower() != "content-length":
            headers[name] = value
    exchange.status = status
    response = web.StreamResponse(status=status, headers=headers)
    await response.prepare(request)
    while block := await process.stdout.read(CHUNK):
        if keep is not None:
            block = block[: max(0, keep - exchange.sent)]
        exchange.sent += len(block)
        if block:
            await response.write(block)
    await response.write_eof()
    return response


async def _headers(stream: asyncio.StreamReader) -> AsyncIterator[tuple[str, str]]:
    while line := (await stream.readuntil(b"\n")).strip():
        name, _, value = line.decode("latin-1").partition(":")
        yield name.strip(), value.strip()


async def _gone(request: web.Request) -> None:
    """Return when the client has left: aiohttp does not say so by itself while a handler runs."""
    while request.transport is not None and not request.transport.is_closing():
        await asyncio.sleep(0.1)


def _kill(process: asyncio.subprocess.Process) -> None:
    """End Git and its children (they share a session of their own)."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _reset(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
