"""The keys by which an issuer of tokens signs: fetched, kept, and asked for anew without making anybody wait.

Keycloak serves discovery at `<issuer>/.well-known/openid-configuration` and its keys at what that calls `jwks_uri`
(facts: api-facts section 9). It is itself in the cluster that is being cut over: keys that we have go on while it is
away.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import orjson

log = logging.getLogger("cutover.keycloak")

TIMEOUT: Final = 5.0  # seconds
WHOLE: Final = 15.0
"""Seconds for all of it: an issuer that answers a byte at a time must not keep everybody waiting."""
LARGEST: Final = 1 << 20  # bytes of an answer
KEPT: Final = 86400.0
"""Seconds after which keys that nobody confirmed are no longer believed."""

Key = Mapping[str, Any]
"""A JWK as it was published."""


class KeysUnavailable(Exception):
    """The issuer does not answer, or not with keys; whether a key is its own cannot be known."""


class Keys:
    """The signing keys of one issuer. Open with `Keys.open`."""

    def __init__(
        self, client: httpx.AsyncClient, issuer: str, url: str | None, *, refresh: float, cooldown: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._client, self._issuer, self._url = client, issuer, url
        self._refresh, self._cooldown, self._monotonic = refresh, cooldown, monotonic
        self._keys: dict[str, Key] = {}
        self._fetched = self._asked = float("-inf")
        self._trouble: str | None = None
        self._asking: asyncio.Task[None] | None = None
        self.fetches = 0
        """How often the issuer was asked."""

    @classmethod
    @asynccontextmanager
    async def open(
        cls, issuer: str, url: str | None, ca_file: Path | None, *, refresh: float, cooldown: float
    ) -> AsyncIterator[Keys]:
        """Nothing is fetched before the first token comes."""
        context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
        async with httpx.AsyncClient(verify=context, timeout=TIMEOUT, trust_env=False) as client:
            keys = cls(client, issuer, url, refresh=refresh, cooldown=cooldown)
            try:
                yield keys
            finally:
                if keys._asking is not None:
                    keys._asking.cancel()

    async def find(self, kid: str) -> Key | None:
        """The key of this id; None when the issuer has none. Raises KeysUnavailable.

        A known key is given at once, and asked for in the background when it was long ago. For an unknown one the
        issuer is asked, but only once in `cooldown` seconds: anybody can make up ids.
        """
        now = self._monotonic()
        if now - self._fetched > KEPT:
            self._keys = {}
        if found := self._keys.get(kid):
            if now - self._fetched > self._refresh and now - self._asked > self._cooldown:
                self._ask()
            return found
        if self._asking is None and now - self._asked > self._cooldown:
            self._ask()
        if self._asking is not None:
            await asyncio.shield(self._asking)
        found = self._keys.get(kid)
        if found is None and self._trouble is not None:
            raise KeysUnavailable(self._trouble)
        return found

    def _ask(self) -> None:
        if self._asking is None:
            self._asked = self._monotonic()
            self._asking = asyncio.ensure_future(self._fetch())
            self._asking.add_done_callback(self._told)

    def _told(self, _: asyncio.Task[None]) -> None:
        self._asking = None

    async def _fetch(self) -> None:
        self.fetches += 1
        try:
            async with asyncio.timeout(WHOLE):
                document = await self._get(self._url or await self._discover())
            keys = document["keys"]
            if not isinstance(keys, list):
                raise ValueError("its keys are no list")
            self._keys = {key["kid"]: key for key in keys if signs(key)}
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError, KeyError, TypeError) as error:
            self._trouble = f"the keys of {self._issuer} cannot be read: {_words(error)}"
            log.warning("%s; %d keys that are known go on", self._trouble, len(self._keys))
        else:
            self._trouble, self._fetched = None, self._monotonic()

    async def _discover(self) -> str:
        document = await self._get(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
        if document["issuer"] != self._issuer:
            raise ValueError(f"it calls itself {str(document['issuer'])[:200]!r}")
        place = str(document["jwks_uri"])
        if self._issuer.startswith("https:") and not place.startswith("https:"):
            raise ValueError("it would have its keys fetched without TLS")
        return place

    async def _get(self, url: str) -> dict[str, Any]:
        async with self._client.stream("GET", url, headers={"Accept": "application/json"}) as response:
            response.raise_for_status()
            raw = b""
            async for part in response.aiter_bytes():
                raw += part
                if len(raw) > LARGEST:
                    raise ValueError("its answer is too large")
        document = orjson.loads(raw)
        if not isinstance(document, dict):
            raise ValueError("its answer is no object")
        return document


def signs(key: object) -> bool:
    """Is it a public key for signatures? Keycloak publishes keys for encryption in the same document."""
    return (
        isinstance(key, dict)
        and isinstance(key.get("kid"), str)
        and key.get("kty") in ("RSA", "EC")
        and key.get("use", "sig") == "sig"
        and "d" not in key
    )


def _words(error: Exception) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"HTTP {error.response.status_code}"
    if isinstance(error, httpx.HTTPError):
        return type(error).__name__
    if isinstance(error, TimeoutError):
        return f"no whole answer in {WHOLE:.0f} s"
    return str(error) if isinstance(error, ValueError) and not isinstance(error, orjson.JSONDecodeError) else "no keys"
