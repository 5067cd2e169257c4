"""One registry on the wire: authorization, and what each status means. Nothing here knows why it is asked."""

from __future__ import annotations

import errno
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import aiohttp
import anyio
import orjson
from yarl import URL

from workers.adapters.oci.challenge import BadChallenge, Challenge, Token, basic, kin, preferred, told
from workers.adapters.oci.pace import Pace
from workers.adapters.oci.trouble import NO_SPACE, Denied, Missing, Refused, Unavailable, retry_after
from workers.sovereign import Login

_EARLY = 10.0  # seconds before its end at which a token is no longer used
LONGEST = 20.0  # seconds that a registry may keep all requests back; what is longer is the pool's to wait for


class Wire:
    """Requests to one registry.

    With `eager` the login goes with the first request already: local Harbor takes Basic on /v2, and the realm of
    its challenge names the external URL, which need not exist from where a worker stands (v2auth/auth.go).
    """

    def __init__(
        self, http: aiohttp.ClientSession, url: str, name: str, login: Login | None, *, eager: bool = False
    ) -> None:
        self.name = name
        self._http = http
        self._base = URL(url.rstrip("/") + "/")
        self._login = login
        self._eager = eager
        self._tokens: dict[str, tuple[str, float]] = {}
        self._asking: dict[str, anyio.Lock] = defaultdict(anyio.Lock)
        self._service: Challenge | None = None
        """Where tokens are had, once a challenge has said so."""
        self.pace = Pace()

    @asynccontextmanager
    async def call(
        self,
        method: str,
        path: str,
        *,
        scope: str,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        data: Any = None,
        redirects: bool = True,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request; asks for a token and asks again when the registry wants one.

        Raises Missing, Denied, Refused or Unavailable; a body that breaks off inside raises Unavailable too.
        """
        url = self._url(path, params)
        said = f"{method} {self.name}{url.path}"
        # Writes happen while a turn for reading the source is held, which may be this registry: they take none.
        turn = self.pace.turn() if method in ("GET", "HEAD") else self.pace.pause()
        try:
            async with turn:
                ours = self._ours(url)
                authorization = await self._ready(scope) if ours else None
                for last in (False, True):
                    fields = {**(headers or {}), **({"Authorization": authorization} if authorization else {})}
                    async with self._http.request(
                        method, url, headers=fields, data=data, allow_redirects=redirects
                    ) as response:
                        if response.status == 401 and ours and not last and data is None:
                            authorization = await self._authorize(response, scope, authorization)
                            continue
                        await self._judge(response, said, scope, sent=data is not None)
                        yield response
                        return
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"{said}: {type(error).__name__}: {error}") from error

    async def _judge(self, response: aiohttp.ClientResponse, said: str, scope: str, *, sent: bool) -> None:
        """Raise unless it went well; the pace learns of it."""
        if response.status == 401 and sent and self._tokens.pop(scope, ("", 0.0))[0]:
            # A body is not sent twice; the next attempt asks for a token first.
            raise Unavailable(f"{said}: 401, the token is not taken any more")
        try:
            await _judge(response, said)
        except Unavailable as trouble:
            if response.status in (429, 503):
                self.pace.refused(min(trouble.after or 0.0, LONGEST))
            raise
        self.pace.answered()

    def _url(self, path: str, params: Mapping[str, str] | None) -> URL:
        """Relative to the registry, or a Location it gave, which may be absolute and have a query already."""
        url = self._base.join(URL(path, encoded=True))
        return url.update_query(params) if params else url

    def _ours(self, url: URL) -> bool:
        """May it be told who asks? An upload's Location may lead to a store that is somebody else's."""
        own = (self._base.host, URL(f"//{self.name}").host)
        plain = self._base.scheme == "https" and url.scheme != "https"
        return not plain and any(kin(str(url.host), host) for host in own if host)

    def ready(self, scope: str) -> bool:
        """Whether a request with a body can be sent now: a body is not sent twice."""
        return self._standing(scope) is not None

    # authorization

    def _standing(self, scope: str) -> str | None:
        """What goes with the request before the registry asks."""
        token, until = self._tokens.get(scope, ("", 0.0))
        if until > monotonic():
            return f"Bearer {token}"
        return self._basic() if self._eager else None

    def _basic(self) -> str | None:
        if self._login is None:
            return None
        return basic(self._login)

    async def _ready(self, scope: str) -> str | None:
        """What goes with the request; a token is asked for at once where it is known that one is wanted."""
        standing = self._standing(scope)
        if standing is not None or self._service is None:
            return standing
        return await self._token(scope, None)

    async def _authorize(self, response: aiohttp.ClientResponse, scope: str, refused: str | None) -> str | None:
        """Answer the challenge of a 401 (distribution/spec/auth/token). None when there is nothing to answer."""
        asked = preferred(response.headers.getall("WWW-Authenticate", ()))
        if asked is None or asked.scheme != "bearer":
            return self._basic() if asked else None
        self._service = asked
        return await self._token(scope or asked.parameters.get("scope", ""), refused)

    async def _token(self, scope: str, refused: str | None) -> str:
        """A token for the scope, asked for once though many need it. `refused` is one that is not taken any more."""
        async with self._asking[scope]:
            standing = self._tokens.get(scope, ("", 0.0))
            if standing[1] > monotonic() and f"Bearer {standing[0]}" != refused:
                return f"Bearer {standing[0]}"
            try:
                token = await self._fetched(self._service or Challenge("bearer", {}), scope)
            except BadChallenge as error:
                raise Unavailable(f"a token for {self.name}: {error}") from None
            self._tokens[scope] = (token.text, monotonic() + token.seconds - _EARLY)
            return token.authorization

    async def _fetched(self, service: Challenge, scope: str) -> Token:
        realm, login = service.realm, self._basic()
        if login and not service.may_know_login_of(self._base, self.name):
            raise Denied(f"{self.name} asks for its login at {realm.origin()}, which is somebody else; it is not sent")
        headers = {"Authorization": login} if login else {}
        async with self._http.get(service.asking([scope]), headers=headers) as answer:
            try:
                await _judge(answer, f"GET token of {self.name} at {realm.origin()}")
            except Missing as missing:
                raise Unavailable(str(missing)) from None  # it says nothing of what the registry has
            return await told(answer.content)


async def _judge(response: aiohttp.ClientResponse, said: str) -> None:
    """Raise unless the status says that it went well."""
    status = response.status
    if status < 400:
        return
    message = f"{said}: {status} {await _reason(response)}".rstrip()
    if status == 404:
        raise Missing(message)
    if status in (401, 403):
        raise Denied(message)
    if status in (408, 425, 429) or (status >= 500 and status != 501):  # 501: it never will
        raise Unavailable(message, retry_after(response.headers.get("Retry-After"), datetime.now(UTC)))
    raise Refused(message)


async def _reason(response: aiohttp.ClientResponse) -> str:
    """The registry's own words, one line, short."""
    text = (await response.content.read(4096)).decode(errors="replace")
    try:
        errors = orjson.loads(text)["errors"]
        text = "; ".join(f"{e.get('code')}: {e.get('message')}{_full(e.get('detail'))}" for e in errors)
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        pass
    return " ".join(text.split())[:300]


def _full(detail: Any) -> str:
    """docker-registry's filesystem driver says only in the detail, by its number, that the disk is full (ENOSPC)."""
    enclosed = detail.get("Enclosed") if isinstance(detail, dict) else None
    return f" ({NO_SPACE})" if isinstance(enclosed, dict) and enclosed.get("Err") == errno.ENOSPC else ""
