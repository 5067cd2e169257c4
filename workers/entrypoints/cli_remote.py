"""The commands' other way: an operator without NATS credentials asks the API. The room of httpx among commands.

What is read are the log's own bytes, so that chain and picture are computed here, as with NATS.
"""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import anyio
import click
import httpx
import orjson
from rich.console import Console

from events.fold import State, evolve
from events.log import Entry, LogUnavailable
from events.subjects import JOURNAL
from workers.entrypoints import watching
from workers.entrypoints.asking import Answer
from workers.entrypoints.cli_common import Failed, Misused, Unreachable

BASE: Final = "/api/v1/sovereign/cutover"
PATIENCE: Final = 90.0  # seconds: a plan takes a while
SILENCE: Final = 45.0  # seconds: three heartbeats
_EVENT: Final = b',"event":'
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Remote:
    """One API, and how to be known there."""

    url: str
    token_file: Path | None
    token: str | None = field(repr=False)

    def headers(self) -> dict[str, str]:
        """The token is read anew each time: it does not live long. Raises Misused."""
        if self.token_file is not None:
            try:
                word = self.token_file.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError):
                raise Misused(f"{self.token_file}: not readable") from None
        else:
            word = self.token or ""
        return {"Authorization": f"Bearer {word}"} if word else {}

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        async with httpx.AsyncClient(base_url=f"{self.url}{BASE}", timeout=PATIENCE, follow_redirects=False) as client:
            yield client

    async def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> bytes:
        """The answer's bytes. Raises Failed, Unreachable."""
        try:
            async with self.client() as client:
                answer = await client.request(method, path, json=body, headers=self.headers())
        except httpx.HTTPError as error:
            raise Unreachable(f"{self.url} does not answer: {type(error).__name__}") from None
        refuse(answer.status_code, answer.content)
        return answer.content

    async def tell(self, path: str, body: dict[str, Any]) -> Answer:
        """Begin or stop; which message it was, and the run."""
        found = orjson.loads(await self.ask("POST", path, {k: v for k, v in body.items() if v is not None}))
        return Answer(found.get("request", 0), run=found.get("run") or found["runId"])

    # --- as a log: what `watching.follow` needs -----------------------------------------------------------------

    async def last(self) -> Entry | None:
        """Where the journal ends. Raises LogUnavailable while nobody answers."""
        try:
            found = orjson.loads(await self.ask("GET", "/status"))
        except Unreachable as error:
            raise LogUnavailable(error.message) from None
        return Entry(found["streamSequence"], JOURNAL, b"")

    def follow(self, seq: int) -> AsyncIterator[Entry]:
        """Journal entries above `seq`, then live, across restarts of the API."""
        return self.read(seq, live=True)

    async def read(self, seq: int, *, live: bool) -> AsyncIterator[Entry]:
        """Up to the newest, or without end. Raises Failed, Unreachable; when `live`, comes back by itself."""
        while True:
            try:
                async with self.client() as client:
                    async for entry in self._once(client, seq, live):
                        seq = entry.seq
                        yield entry
                if not live:
                    return
            except httpx.HTTPError as error:
                if not live:
                    raise Unreachable(f"{self.url} does not answer: {type(error).__name__}") from None
            except Unreachable:
                if not live:
                    raise
            await anyio.sleep(1)

    async def _once(self, client: httpx.AsyncClient, seq: int, live: bool) -> AsyncIterator[Entry]:
        """One connection's worth. Ends early when we were too slow: what was left out is asked for again."""
        headers = {**self.headers(), "Last-Event-ID": str(seq), "Accept": "text/event-stream"}
        query = {"follow": "true" if live else "false"}
        limits = httpx.Timeout(10.0, read=SILENCE)
        async with client.stream("GET", "/events", params=query, headers=headers, timeout=limits) as answer:
            if answer.status_code != 200:
                refuse(answer.status_code, await answer.aread())
            number, kind = 0, ""
            async for line in answer.aiter_lines():
                name, _, value = line.partition(": ")
                if name == "id":
                    number = int(value)
                elif name == "event":
                    kind = value
                    if kind == "lagged":
                        return
                    if kind == "reset" and seq:
                        raise Failed("behind the API stands another log than before; ask again from its start")
                elif name == "data" and number:
                    yield Entry(number, JOURNAL, stored(value.encode()))
                elif not line:
                    number, kind = 0, ""


def stored(data: bytes) -> bytes:
    """The event's own bytes, which stand last in what the API sends; none for what is no event."""
    _, found, raw = data.partition(_EVENT)
    return raw[:-1] if found else b""


def refuse(status: int, body: bytes) -> None:
    """Raises what an error answer means; nothing for a good one."""
    if status < 300:
        return
    try:
        told = orjson.loads(body)
        words = f"{told['error']}: {told['detail']}"
    except (ValueError, KeyError, TypeError):
        words = f"HTTP {status}"
    if status in (401, 403, 429) or status >= 500:
        raise Unreachable(f"the API answers {status}: {words}")
    raise Failed(f"refused: {words}")


async def folded(remote: Remote) -> State:
    """The state, computed here from every event. Raises Failed, Unreachable."""
    state = State()
    async for entry in remote.read(0, live=False):
        state = evolve(state, entry)
    return state


async def watch(remote: Remote, console: Console, *, from_start: bool, once: bool, plain: bool) -> State:
    """As `watching.watch`, over the API."""
    async with watching.shown(console, from_start=from_start, plain=plain) as view:
        return await watching.follow(remote, view, from_start=from_start, once=once)


# --- on the command line ----------------------------------------------------------------------------------------


def api_options(function: F) -> F:
    """`--api URL`, and the token from a file or the environment: never from an argument, which everybody sees."""
    url = click.option(
        "--api", metavar="URL", envvar="CUTOVER_API_URL", show_envvar=True, help="Ask this API, not NATS."
    )
    token = click.option(
        "--token-file", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path),
        envvar="CUTOVER_API_TOKEN_FILE", help="Access token for --api; CUTOVER_API_TOKEN holds the token itself.",
    )  # fmt: skip
    return url(token(function))


def remote_of(api: str | None, token_file: Path | None) -> Remote | None:
    """The API that was named; None when NATS is meant. Raises Misused."""
    import os

    if api is None:
        if token_file is not None:
            raise click.UsageError("--token-file belongs to --api URL")
        return None
    place = urlsplit(api)
    if place.scheme not in ("http", "https") or not place.hostname or place.username:
        raise click.UsageError("--api is a URL: https://console.<fqdn>")
    remote = Remote(api.rstrip("/"), token_file, os.environ.get("CUTOVER_API_TOKEN"))
    if place.scheme == "http" and remote.headers() and not _loopback(place.hostname):
        raise Misused(f"--api {api}: a token travels by https only, or on loopback")
    return remote


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
