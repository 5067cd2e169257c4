"""Does local Harbor answer this node as containerd would ask it? Asked by the agent before its word counts.

One request for each mirror that the plan names, with the token service where it is asked for (distribution
spec, token authentication), anonymous as nodes are. What is asked for exists nowhere: 404 is the good answer,
for it comes only after name, TLS, token service and the project's visibility have all been right.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from schemas.nodes import Mirror, NodePlan
from workers.adapters.oci.challenge import MOST, BadChallenge, Challenge, preferred, token_of
from workers.adapters.oci.streams import TooLong, read_most
from workers.errors import Stuck, Wait

Wire = Callable[[str], Awaitable[str]]
"""host[:port] -> base URL to use for it on the wire; the sandbox has one."""
TIMEOUT = aiohttp.ClientTimeout(total=15.0, connect=5.0)
ASKED = "cutover-node-probe/manifests/none"


async def probe(plan: NodePlan, wire: Wire | None = None, *, ca: str | None = None) -> None:
    """Raise Wait when local Harbor does not answer here, Stuck when it answers and refuses. `ca`: PEM."""
    trust: ssl.SSLContext | bool = True
    try:
        if ca or plan.ca:
            trust = ssl.create_default_context(cadata=ca or plan.ca)
    except ssl.SSLError as error:
        raise Stuck("BadCa", f"the CA for {plan.registry} is no certificate: {error.reason}") from error
    async with aiohttp.ClientSession(timeout=TIMEOUT, connector=aiohttp.TCPConnector(ssl=trust)) as session:
        asker = _Asker(session, wire)
        for mirror in plan.mirrors:
            await asker.ask(mirror)


class _Asker:
    def __init__(self, session: aiohttp.ClientSession, wire: Wire | None) -> None:
        self._session, self._wire = session, wire

    async def ask(self, mirror: Mirror) -> None:
        """The mirror's project can be read by anybody; a bare registry only has to answer."""
        project = urlsplit(mirror.endpoint).path.removeprefix("/v2").strip("/")
        url = f"{mirror.endpoint.rstrip('/')}/{ASKED}" if project else f"{mirror.endpoint.rstrip('/')}/"
        status, challenge, _ = await self._get(url, "")
        if status == 401 and project and challenge is not None and challenge.scheme == "bearer":
            token = await self._token(challenge, f"{project}/{ASKED.partition('/')[0]}")
            status, _, _ = await self._get(url, token)
        if status >= 500:
            raise Wait("LocalRegistryFails", f"{url} answers {status}")
        if status not in ((200, 404) if project else (200, 401, 404)):
            raise Stuck("LocalRegistryRefuses", f"{url} answers {status} to a node that asks as anybody")

    async def _token(self, challenge: Challenge, repository: str) -> str:
        """As containerd asks: for what it wants, and for what the challenge says beside it."""
        try:
            where = challenge.asking([f"repository:{repository}:pull", challenge.parameters.get("scope", "")])
            status, _, body = await self._get(str(where), "", body=True)
            if status == 200:
                return token_of(body).authorization
        except (BadChallenge, TooLong) as error:
            raise Stuck("LocalRegistryRefuses", f"a token for {repository}: {error}") from None
        said = f"its token service {challenge.realm} answers {status}"
        raise Wait("LocalRegistryFails", said) if status >= 500 else Stuck("LocalRegistryRefuses", said)

    async def _get(self, url: str, authorization: str, *, body: bool = False) -> tuple[int, Challenge | None, bytes]:
        """Status, the challenge to answer, and the body when it is wanted."""
        parts = urlsplit(url)
        target, headers = url, {"Accept": "*/*"}
        if authorization:
            headers["Authorization"] = authorization
        plain = url.partition("?")[0]
        try:
            if self._wire is not None:
                target = await self._wire(parts.netloc) + parts.path + (f"?{parts.query}" if parts.query else "")
                headers["Host"] = parts.netloc
            # As it is written: parameters of a token's query are quoted already.
            async with self._session.get(URL(target, encoded=True), headers=headers, allow_redirects=False) as answer:
                content = await read_most(answer.content, MOST) if body else b""
                return answer.status, preferred(answer.headers.getall("WWW-Authenticate", ())), content
        except (aiohttp.ClientError, TimeoutError, OSError, LookupError, asyncio.IncompleteReadError) as error:
            words = str(error) or "no answer in time"
            raise Wait("LocalRegistryAway", f"{plain}: {type(error).__name__}: {words}"[:300]) from error
