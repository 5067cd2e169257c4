"""One connection to the broker: made and lost and made again, its refusals heard, its API asked with patience."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Self

import anyio
import nats.errors
from nats.aio.msg import Msg

from events.jetstream.ears import Ears
from events.jetstream.settings import Broker, login
from events.jetstream.wire import RETRY, Refused, answer, words
from events.log import LogUnavailable, NotPermitted


class Connection:
    """One client of one broker. Everybody who waits for it is woken when it comes back, or refuses something."""

    def __init__(self, client: Ears, broker: Broker) -> None:
        self.client = client
        self.broker = broker
        self.js = client.jetstream(timeout=2)
        self.denied: str | None = None
        self._trouble: Exception | None = None
        self._waiting: set[anyio.CancelScope] = set()

    @classmethod
    @asynccontextmanager
    async def open(
        cls, broker: Broker, *, patient: bool = False, say: Callable[[str], None] = lambda _: None
    ) -> AsyncIterator[Self]:
        """Connected. Raises LogUnavailable when the broker does not answer, unless `patient`."""
        client = Ears()
        log = cls(client, broker)
        while True:
            try:
                await log._connect(say)
                break
            except RETRY as error:
                if not patient:
                    raise LogUnavailable(f"cannot reach the broker at {broker.url}: {words(error)}") from None
                say(f"the broker at {broker.url} does not answer ({words(error)}); trying again")
                await anyio.sleep(1)
        try:
            yield log
        finally:
            with anyio.move_on_after(2, shield=True), suppress(*RETRY):  # a broker that is gone needs no farewell
                await client.close()

    @property
    def connected(self) -> bool:
        """Is the broker there, as far as the client knows?"""
        return bool(self.client.is_connected)

    async def _connect(self, say: Callable[[str], None]) -> None:
        async def on_error(error: Exception) -> None:
            self._trouble = error
            text = str(error)
            if not self.client.is_connected and (half := self.client._transport) is not None:
                # Of a handshake that failed: nats-py opens the next one beside it (client.py, _attempt_reconnect).
                half.close()  # type: ignore[no-untyped-call]
            if "permissions violation" in text.lower():
                self.denied = text
                say(f"the broker refuses it: {text}; grant {self.broker.user or 'this login'} that subject")
                self._wake()
            elif not isinstance(error, OSError | nats.errors.Error):
                say(f"broker: {words(error)}")

        async def on_lost() -> None:
            self.denied = None  # what is granted may change meanwhile; if not, it is refused again, an inbox at once
            say("lost the broker; reconnecting")

        async def on_back() -> None:
            say("the broker is back")
            self._wake()

        options: dict[str, Any] = {
            "servers": [self.broker.url],
            "name": "catalyst-cutover",
            "error_cb": on_error,
            "disconnected_cb": on_lost,
            "reconnected_cb": on_back,
            "connect_timeout": 2,
            "reconnect_time_wait": 0.25,
            "max_reconnect_attempts": -1,
            "ping_interval": 5,
            "max_outstanding_pings": 2,
            "pending_size": -1,
            "inbox_prefix": self.broker.inbox_prefix,
            **login(self.broker),
        }
        try:
            with anyio.fail_after(3):
                await self.client.connect(**options)
        except TimeoutError:
            raise ConnectionError(words(self._trouble) if self._trouble else "no answer in 3 s") from None

    def _wake(self) -> None:
        """There is news of the connection for all who wait for an answer or a message."""
        for scope in tuple(self._waiting):
            scope.cancel()

    def _refused(self, *subjects: str) -> bool:
        """Was one of these refused, or our inbox, so that no answer can come? The client tells it in small letters."""
        found = (self.denied or "").lower()
        return bool(found) and any(each.lower() in found for each in (*subjects, "subscription"))

    @contextmanager
    def _until_news(self) -> Iterator[anyio.CancelScope]:
        with anyio.CancelScope() as scope:
            self._waiting.add(scope)
            try:
                yield scope
            finally:
                self._waiting.discard(scope)

    # --- the wire --------------------------------------------------------------------------------------------

    async def _publish(self, subject: str, raw: bytes, headers: dict[str, str]) -> dict[str, Any]:
        return answer((await self._request(subject, raw, headers)).data)

    async def _request(self, subject: str, raw: bytes, headers: dict[str, str] | None = None) -> Msg:
        """An answer within 2 s, or ConnectionError as soon as the broker refuses something or comes back."""
        reply: Msg | None = None
        with self._until_news():
            reply = await self.client.request(subject, raw, timeout=2, headers=headers)
        if reply is None:
            raise ConnectionError(self.denied or "the broker restarted")
        return reply

    async def _api(self, verb: str, body: dict[str, Any], *, missing: int) -> dict[str, Any] | None:
        deadline = time.monotonic() + self.broker.budget
        while True:
            try:
                return answer((await self._request(f"$JS.API.{verb}", json.dumps(body).encode())).data)
            except Refused as refusal:
                if refusal.status == missing:
                    return None
                if refusal.status != 503 or time.monotonic() > deadline:
                    raise LogUnavailable(f"{verb}: {refusal}") from None
            except RETRY as error:
                if self._refused(verb):
                    raise NotPermitted(str(self.denied)) from None
                if time.monotonic() > deadline:
                    raise LogUnavailable(f"the broker did not answer {verb}: {words(error)}") from None
            await anyio.sleep(0.1)
