"""source-controller's Git client: plain `git`, in a subprocess, that never sees a credential in its arguments."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
import signal
from collections.abc import Mapping
from pathlib import Path

DENIED = re.compile(r"Authentication failed|could not read Username|error: 40[13]|HTTP 40[13]", re.I)


class GitError(Exception):
    """A Git operation failed; `denied` when the server refused these credentials."""

    def __init__(self, message: str, *, denied: bool = False) -> None:
        super().__init__(message)
        self.denied = denied


def authorization(secret: Mapping[str, str]) -> str | None:
    """The header for a Secret's decoded data: bearerToken, or username and password."""
    if token := secret.get("bearerToken"):
        return f"Authorization: Bearer {token}"
    if "username" in secret or "password" in secret:
        pair = f"{secret.get('username', '')}:{secret.get('password', '')}"
        return "Authorization: Basic " + base64.b64encode(pair.encode()).decode()
    return None


def select(ref: Mapping[str, str]) -> tuple[str, str]:
    """spec.ref -> the full ref name and its short name. Precedence name > tag > branch; default `master`."""
    if name := ref.get("name"):
        return name, name
    if tag := ref.get("tag"):
        return f"refs/tags/{tag}", tag
    branch = ref.get("branch", "master")
    return f"refs/heads/{branch}", branch


def included(ignore: str | None) -> tuple[str, ...]:
    """Paths that a spec.ignore of the form `/*`, `!/a`, `!/b` keeps; empty means everything."""
    lines = [line.strip() for line in (ignore or "").splitlines()]
    if "/*" not in lines:
        return ()
    return tuple(line[2:].rstrip("/") for line in lines if line.startswith("!/"))


class Git:
    """Reads one remote. `display` is the URL as the object names it: what error texts may show."""

    def __init__(self, url: str, display: str, header: str | None, limit: float) -> None:
        self._url, self._display, self._limit = url, display, limit
        self._env = _environment(header)

    async def head(self, ref: str) -> str:
        """The commit a ref points to now."""
        listed = (await self._run("ls-remote", self._url, ref)).decode()
        for line in listed.splitlines():
            sha, _, name = line.partition("\t")
            if name == ref:
                return sha
        raise GitError(f"unable to clone '{self._display}': couldn't find remote ref \"{ref}\"")

    async def fetch(self, cache: Path, ref: str, paths: tuple[str, ...]) -> tuple[str, bytes]:
        """Bring the newest commit of a ref into a bare cache: its SHA and its tree as a tar."""
        if not (cache / "HEAD").exists():
            await self._run("init", "--quiet", "--bare", str(cache))
        inside = ("-C", str(cache))
        await self._run(*inside, "fetch", "--quiet", "--no-tags", "--depth=1", self._url, ref)
        sha = (await self._run(*inside, "rev-parse", "FETCH_HEAD^{commit}")).decode().strip()
        present = [p for p in paths if await self._has(inside, sha, p)]
        return sha, await self._run(*inside, "archive", "--format=tar", sha, *present)

    async def _has(self, inside: tuple[str, str], sha: str, path: str) -> bool:
        return bool(await self._run(*inside, "ls-tree", sha, "--", path))

    async def _run(self, *arguments: str) -> bytes:
        process = await asyncio.create_subprocess_exec(
            "git",
            *arguments,
            env=self._env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), self._limit)
        except TimeoutError as error:
            raise GitError(f"{self._display}: context deadline exceeded") from error
        finally:
            if process.returncode is None:
                # git-remote-http holds the connection: the whole group must go.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if process.returncode:
            text = err.decode(errors="replace").replace(self._url, self._display).strip()
            raise GitError(text or f"git exited {process.returncode}", denied=bool(DENIED.search(text)))
        return out


def _environment(header: str | None) -> dict[str, str]:
    env = {
        "PATH": os.environ.get("PATH", ""),
        "HOME": "/nonexistent",
        "LC_ALL": "C",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ALLOW_PROTOCOL": "http",
    }
    if header:
        env |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "http.extraHeader", "GIT_CONFIG_VALUE_0": header}
    return env
