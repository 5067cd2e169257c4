"""One run of `git`: with our settings and nobody else's, credentials out of sight, ended when it must be.

GitPython starts the process; why it failed becomes Wait or Stuck here.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import git
from pydantic import SecretStr

from workers.errors import Stuck, Trouble, Wait

_KEPT = re.compile(r"GIT_(EXEC_PATH|SSL_CA|PROXY_SSL_CA|SSL_CERT|SSL_KEY|PYTHON_)")
"""Settings of the machine that git needs: where its programs are, whom it trusts."""
COMMITTER = ("catalyst-cutover", "cutover@sovereign.invalid")
STALL = 30  # seconds below LOW_SPEED after which curl gives up
LOW_SPEED = 1000  # bytes a second


@dataclass(frozen=True)
class Remote:
    """A repository over HTTP. `name` leads the reasons of its errors: `UpstreamDenied`, `GiteaDenied`."""

    url: str
    username: str | None = None
    password: SecretStr | None = None
    name: str = "Git"


Heard = Callable[[str], bool]
"""Told each line of git's standard error; True when it took it."""


class GitFailed(Exception):
    """`git` exited non-zero for a reason that this module does not know. Carries scrubbed text only."""


def environment(remote: Remote | None, stall: int = STALL) -> dict[str, str]:
    """What a git process sees: no prompt, no system or user settings, the password in a header only.

    Configuration goes through GIT_CONFIG_COUNT (git-config(1)), so that it is in neither argv nor a file.
    """
    settings = {
        "credential.helper": "",
        "core.hooksPath": os.devnull,
        "core.autocrlf": "false",
        "commit.gpgSign": "false",
        "gc.auto": "0",
        "maintenance.auto": "false",
        "fetch.recurseSubmodules": "false",
        # Always a pack, kept as it came: unpacked, git says nothing of bytes, and thousands of files are written.
        "fetch.unpackLimit": "1",
        "push.recurseSubmodules": "no",
        "protocol.allow": "never",
        "protocol.http.allow": "always",
        "protocol.https.allow": "always",
        "http.lowSpeedLimit": str(LOW_SPEED),
        "http.lowSpeedTime": str(stall),
        "http.postBuffer": str(16 * 1024 * 1024),
        "safe.directory": "*",
    }
    if remote is not None and remote.password is not None:
        pair = f"{remote.username or ''}:{remote.password.get_secret_value()}"
        settings["http.extraHeader"] = "Authorization: Basic " + base64.b64encode(pair.encode()).decode()
        # git repeats its headers to wherever it is redirected.
        settings["http.followRedirects"] = "false"
    name, mail = COMMITTER
    values = {
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ATTR_NOSYSTEM": "1",
        # Here lie .netrc, whose logins curl would send upstream, and attributes that change what is checked out.
        "HOME": os.devnull,
        "XDG_CONFIG_HOME": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "true",
        "GIT_OPTIONAL_LOCKS": "0",
        # Inherited switches would print headers into error texts.
        "GIT_TRACE_REDACT": "1",
        "GIT_TRACE": "0",
        "GIT_TRACE_CURL": "0",
        "GIT_TRACE_PACKET": "0",
        "LC_ALL": "C",
        "GIT_AUTHOR_NAME": name,
        "GIT_AUTHOR_EMAIL": mail,
        "GIT_COMMITTER_NAME": name,
        "GIT_COMMITTER_EMAIL": mail,
        "GIT_CONFIG_COUNT": str(len(settings)),
    }
    for number, (key, value) in enumerate(settings.items()):
        values |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return values


async def run(
    at: Path,
    *arguments: str,
    remote: Remote | None = None,
    timeout: float = 600.0,
    stall: int = STALL,
    accept: tuple[int, ...] = (0,),
    shows: re.Pattern[str] | None = None,
    extra: Mapping[str, str] | None = None,
    heard: Heard | None = None,
) -> str:
    """Standard output of one git command. When the caller is cancelled or time is up, git is dead on return.

    A code of `accept` other than 0 is taken when standard output `shows` what it should.
    `heard` is given each line of standard error while git runs, in another thread; those that it takes are no error.

    Raises Wait or Stuck for trouble with the remote, GitFailed for anything else.
    """
    if remote is not None:
        _plain(remote)
    process = _Process(at, arguments, {**environment(remote, stall), **(extra or {})}, timeout, heard)
    try:
        code, out, err = await anyio.to_thread.run_sync(process.communicate, abandon_on_cancel=True)
    finally:
        process.kill()
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(process.ended.wait, 10.0)
    if code in accept and (code == 0 or shows is None or shows.search(out)):
        return out
    name = remote.name if remote else "Git"
    if process.late:
        raise Wait(f"{name}Timeout", f"git {_verb(arguments)} took longer than {timeout:g} s and was ended", after=30)
    raise failure(_verb(arguments), name, scrub(err or out, remote))


class _Process:
    """A git process in a session of its own, so that its helpers (git-remote-http) end with it."""

    def __init__(
        self, at: Path, arguments: Sequence[str], env: Mapping[str, str], timeout: float, heard: Heard | None = None
    ) -> None:
        self._heard = heard
        self._command, self._at, self._env, self._timeout = ["git", *arguments], at, env, timeout
        self._lock = threading.Lock()
        self._pid: int | None = None
        self._unwanted = False
        self.late = False
        self.ended = threading.Event()

    def communicate(self) -> tuple[int, str, str]:
        """Run to the end, in a thread."""
        try:
            with self._lock:
                if self._unwanted:
                    return -1, "", ""
                # GitPython passes ours on: a directory, a namespace or settings of whoever started us, traces that
                # become part of the error text.
                for name in [name for name in os.environ if name.startswith("GIT_") and not _KEPT.match(name)]:
                    os.environ.pop(name, None)
                started = git.cmd.Git(str(self._at)).execute(
                    self._command, as_process=True, env=self._env, start_new_session=True
                )
                process = cast("subprocess.Popen[bytes]", started.proc)
                self._pid = process.pid
            late = threading.Timer(self._timeout, self._too_late)
            late.start()
            try:
                out, err = _listened(process, self._heard) if self._heard else process.communicate()
            finally:
                late.cancel()
            with self._lock:
                self._pid = None
            # Names need not be UTF-8, and go back to git as they came.
            return process.returncode, out.decode(errors="surrogateescape"), err.decode(errors="replace")
        finally:
            self.ended.set()

    def _too_late(self) -> None:
        self.late = True
        self.kill()

    def kill(self) -> None:
        """End it if it runs, and let it not start if it does not."""
        with self._lock:
            self._unwanted = True
            if self._pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._pid, signal.SIGKILL)


def _listened(process: subprocess.Popen[bytes], heard: Heard) -> tuple[bytes, bytes]:
    """Both outputs to their end; of standard error only what is not taken, the last of it."""
    kept: list[bytes] = []

    def listen() -> None:
        rest = b""
        while chunk := os.read(process.stderr.fileno(), 65536) if process.stderr else b"":
            *lines, rest = re.split(rb"[\r\n]+", rest + chunk)
            kept.extend(line for line in lines if not heard(line.decode(errors="replace")))
            del kept[:-200]
        kept.append(rest)

    ear = threading.Thread(target=listen, daemon=True)
    ear.start()
    out = process.stdout.read() if process.stdout else b""
    ear.join()
    process.wait()
    return out, b"\n".join(kept)


def _plain(remote: Remote) -> None:
    parts = urlsplit(remote.url)
    if parts.username or parts.password:
        raise Stuck("CredentialsInUrl", f"the {remote.name} URL carries credentials; move them to a login file")


def _verb(arguments: Sequence[str]) -> str:
    return next((word for word in arguments if not word.startswith("-")), "")


def shown(text: str) -> str:
    """The text as an event can carry it: what is not UTF-8 becomes a question mark."""
    return text.encode(errors="replace").decode()


_USERINFO = re.compile(r"(?<=://)[^/@\s'\"]+@")
_SPACE = re.compile(r"\s+")


def scrub(text: str, remote: Remote | None) -> str:
    """The text on one line, short, without the remote's secret in any of its spellings."""
    text = shown(text)
    if remote is not None and remote.password is not None:
        secret = remote.password.get_secret_value()
        pair = base64.b64encode(f"{remote.username or ''}:{secret}".encode()).decode()
        for spelling in filter(None, (secret, pair)):
            text = text.replace(spelling, "***")
    line = _SPACE.sub(" ", _USERINFO.sub("***@", text)).strip()
    return line if len(line) <= 400 else f"{line[:100]} ... {line[-290:]}"


_KNOWN: tuple[tuple[str, str, bool, str], ...] = (
    # pattern, reason, needs a person, what to do
    ("mirror repository is read-only", "ReadOnly", True, "the repository is a pull mirror: convert or remove it"),
    (
        "Authentication failed|could not read Username|could not read Password|returned error: 40[13]|HTTP 40[13]",
        "Denied",
        True,
        "check the login and its scopes",
    ),
    (
        "repository '.*' not found|returned error: 404",
        "NotFound",
        True,
        "check the URL, and the login if it is private",
    ),
    ("certificate|unable to get local issuer", "Untrusted", True, "trust the CA of that host"),
    (r"redirect|returned error: 3\d\d", "Redirected", True, "name the final URL: credentials do not follow redirects"),
    ("No space left", "DiskFull", True, "the workspace is full"),
    ("Remote branch .* not found", "BranchMissing", True, "the branch is not there"),
    (
        "returned error: (429|5..)|HTTP (429|5..)|Could not resolve|[Cc]ould ?n.t connect|Failed to connect|"
        "Connection (refused|reset|timed out)|timed out|Operation too slow|less than .* bytes/sec|Empty reply|"
        "early EOF|unexpected disconnect|hung up|expected flush|bytes of body|bytes of length|RPC failed|"
        "invalid index-pack|protocol error|Recv failure|Send failure|unable to access|bad line length|"
        "missing necessary objects|pack has bad object|fetch-pack: invalid|unpack-objects|premature end",
        "Unavailable",
        False,
        "asked again later",
    ),
)


def failure(verb: str, name: str, text: str) -> Trouble | GitFailed:
    """What a failed command means, from what git said about it."""
    for pattern, reason, person, advice in _KNOWN:
        if re.search(pattern, text):
            message = f"git {verb}: {text}; {advice}"
            return Stuck(f"{name}{reason}", message) if person else Wait(f"{name}{reason}", message, after=15)
    return GitFailed(f"git {verb}: {text or 'failed and said nothing'}")
