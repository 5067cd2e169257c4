"""The commands' other way: an operator without NATS credentials asks the API. The room of httpx among commands.

What is read are the log's own bytes, so that chain and picture are computed here, as with NATS.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar
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
TRIES: Final = 3
"""Tokens of one file that are refused in a row; one more would be no accident."""
EVENTS: Final = "text/event-stream"
_EVENT: Final = b',"event":'
F = TypeVar("F", bound=Callable[..., Any])


class Refused(Unreachable):
    """The API knows nobody by this token, or lets him do nothing: to ask again with the same one is no use."""


class Foreign(Unreachable):
    """Somebody answers there, and it is not the cutover's API."""


class Behind(Exception):
    """We were too slow, and the API left something out: it is to be asked for again."""


class Frame(NamedTuple):
    """One server-sent event. What has no place in the log has number 0."""

    kind: str
    number: int
    data: bytes


@dataclass
class Standing:
    """How it goes with the API: trouble is said when it comes and when it is over, as with a broker."""

    say: Callable[[str], None] = lambda text: None
    refusals: int = 0
    """Of tokens, since one was good."""
    _said: str = ""

    def trouble(self, words: str) -> None:
        if words != self._said:
            self._said = words
            self.say(f"{words}; trying again")

    def good(self) -> None:
        self.refusals = 0
        if self._said:
            self._said = ""
            self.say(watching.API_BACK)


@dataclass(frozen=True)
class Remote:
    """One API, and how to be known there."""

    url: str
    token_file: Path | None
    token: str | None = field(repr=False)
    standing: Standing = field(default_factory=Standing, compare=False, repr=False)

    def word(self) -> str:
        """The token, read anew each time: it does not live long. Raises Misused."""
        if self.token_file is None:
            word, whence = self.token or "", "CUTOVER_API_TOKEN"
        else:
            whence = str(self.token_file)
            try:
                word = self.token_file.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError):
                raise Misused(f"{whence}: not readable") from None
        if not re.fullmatch("[!-~]*", word):
            raise Misused(f"{whence}: that is no access token")
        return word

    @asynccontextmanager
    async def client(self, word: str) -> AsyncIterator[httpx.AsyncClient]:
        """Whoever asks by it is known by `word`."""
        headers = {"Authorization": f"Bearer {word}"} if word else {}
        async with httpx.AsyncClient(
            base_url=f"{self.url}{BASE}", timeout=PATIENCE, headers=headers, follow_redirects=False
        ) as client:
            yield client

    async def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> bytes:
        """The answer's bytes: JSON. Raises Failed, Refused, Foreign, Unreachable."""
        while True:
            word = self.word()
            try:
                async with self.client(word) as client:
                    answer = await client.request(method, path, json=body)
                self._refuse(answer, answer.content)
            except Refused:
                if not self._renewed(word):
                    raise
                continue
            except httpx.HTTPError as error:
                raise self._silent(error) from None
            if kind(answer) != "application/json":
                raise self.foreign()
            self.standing.good()
            return answer.content

    async def tell(self, path: str, body: dict[str, Any]) -> Answer:
        """Begin or stop; which message it was, and the run."""
        raw = await self.ask("POST", path, {k: v for k, v in body.items() if v is not None})
        with self.understood():
            found = orjson.loads(raw)
            return Answer(found.get("request", 0), run=found.get("run") or found["runId"])

    @contextmanager
    def understood(self) -> Iterator[None]:
        """Around what reads an answer: what cannot be read as ours was somebody else's. Raises Foreign."""
        try:
            yield
        except (ValueError, LookupError, TypeError, AttributeError):
            raise self.foreign() from None

    def foreign(self, more: str = "") -> Foreign:
        """For what no API of ours would say."""
        return Foreign(f"{self.url} answers{more}, and this is not the cutover's API")

    def _silent(self, error: httpx.HTTPError) -> Unreachable:
        return Unreachable(f"{self.url} does not answer: {type(error).__name__}")

    def _renewed(self, word: str) -> bool:
        """Whether a refusal of this token is to be followed by another try: the file holds another one by now."""
        self.standing.refusals += 1
        return self.standing.refusals < TRIES and self.word() != word

    def _refuse(self, answer: httpx.Response, body: bytes) -> None:
        """Raises what an error answer means; nothing for a good one."""
        status = answer.status_code
        if status < 300:
            return
        try:
            told = orjson.loads(body)
            words = f"{told['error']}: {told['detail']}"
        except (ValueError, LookupError, TypeError):
            words = ""
        said = f"the API answers {status}: {words or answer.reason_phrase}"
        if status in (401, 403):
            raise Refused(said)
        if status == 429 or status >= 500:
            raise Unreachable(said)
        if not words:
            raise self.foreign(f" HTTP {status}")
        raise Failed(f"refused: {words}")

    # --- as a log: what `watching.follow` needs -----------------------------------------------------------------

    async def last(self) -> Entry | None:
        """Where the journal ends. Raises Refused, Foreign, and LogUnavailable while nobody answers."""
        try:
            raw = await self.ask("GET", "/status")
        except (Refused, Foreign):
            raise
        except Unreachable as error:
            self.standing.trouble(error.message)
            raise LogUnavailable(error.message) from None
        with self.understood():
            return Entry(int(orjson.loads(raw)["streamSequence"]), JOURNAL, b"")

    def follow(self, seq: int) -> AsyncIterator[Entry]:
        """Journal entries above `seq`, then live, across restarts of the API."""
        return self.read(seq, live=True)

    async def read(self, seq: int, *, live: bool) -> AsyncIterator[Entry]:
        """Up to the newest, or without end. Raises Failed, Refused, Unreachable; when `live`, comes back by itself."""
        while True:
            word = self.word()
            try:
                async with self.client(word) as client:
                    async for entry in self._once(client, seq, live):
                        seq = entry.seq
                        yield entry
                if not live:
                    return
            except Behind:
                pass
            except Refused:
                if not self._renewed(word):
                    raise
            except (httpx.HTTPError, Unreachable) as error:
                trouble = error if isinstance(error, Unreachable) else self._silent(error)
                if not live:
                    raise trouble from None
                self.standing.trouble(trouble.message)
            await anyio.sleep(1)

    async def _once(self, client: httpx.AsyncClient, seq: int, live: bool) -> AsyncIterator[Entry]:
        """One connection's worth. Raises Behind, and Unreachable for an answer that ends before its end."""
        shown, fresh = -1, True
        headers = {"Last-Event-ID": str(seq), "Accept": EVENTS}
        query = {"follow": "true" if live else "false"}
        limits = httpx.Timeout(10.0, read=SILENCE)
        async with client.stream("GET", "/events", params=query, headers=headers, timeout=limits) as answer:
            if answer.status_code != 200:
                self._refuse(answer, await answer.aread())
            if kind(answer) != EVENTS:
                raise self.foreign()
            self.standing.good()
            with self.understood():
                async for frame in frames(answer.aiter_bytes()):
                    if frame.kind == "lagged":
                        raise Behind
                    if frame.kind == "reset" and seq:
                        raise Failed("behind the API stands another log than before; ask again from its start")
                    if frame.kind == "status":
                        told = orjson.loads(frame.data)
                        shown, fresh = told["streamSequence"], told["live"]
                    elif frame.number:
                        seq = frame.number
                        yield Entry(seq, JOURNAL, stored(frame.data))
        # The API ends with the state that it has told every event of. A gateway may end an answer whenever it likes.
        if not live and shown != seq:
            raise Unreachable(f"{self.url}: the API ended its answer early; ask again")
        if not live and not fresh:
            raise Unreachable(f"{self.url}: the API does not reach the broker; what it remembers may be old")


def kind(answer: httpx.Response) -> str:
    """Its media type, bare."""
    return str(answer.headers.get("content-type", "")).partition(";")[0].strip().lower()


async def frames(pieces: AsyncIterator[bytes]) -> AsyncIterator[Frame]:
    """Server-sent events, each when it is whole; half of one at the end is none. Raises ValueError.

    A line ends with a line feed and nothing else: text may hold any other end of a line that Unicode knows."""
    name, number, data, rest = "", 0, b"", b""
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            word, _, value = line.partition(b": ")
            if word == b"id":
                number = int(value)
            elif word == b"event":
                name = value.decode()
            elif word == b"data":
                data = value
            elif not line:
                if data:
                    yield Frame(name, number, data)
                name, number, data = "", 0, b""


def stored(data: bytes) -> bytes:
    """The event's own bytes, which stand last in what the API sends; none for what is no event."""
    _, found, raw = data.partition(_EVENT)
    return raw[:-1] if found else b""


async def folded(remote: Remote) -> State:
    """The state, computed here from every event. Raises Failed, Unreachable."""
    state = State()
    async for entry in remote.read(0, live=False):
        state = evolve(state, entry)
    return state


async def watch(remote: Remote, console: Console, *, from_start: bool, once: bool, plain: bool) -> State:
    """As `watching.watch`, over the API."""
    async with watching.shown(console, from_start=from_start, plain=plain) as view:
        said = replace(remote, standing=Standing(view.note))
        return await watching.follow(said, view, from_start=from_start, once=once)


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
        raise click.UsageError("--api is a URL: https://cutover.<fqdn>")
    remote = Remote(api.rstrip("/"), token_file, os.environ.get("CUTOVER_API_TOKEN"))
    if place.scheme == "http" and remote.word() and not _loopback(place.hostname):
        raise Misused(f"--api {api}: a token travels by https only, or on loopback")
    return remote


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
