"""Does local Harbor answer where Flux and Crossplane will ask: its name, its TLS, its token service?

Workers talk to Harbor past its gateway; whoever pulls does not. In production sources were repointed to a gateway
that had no certificate yet, which then could not be fetched from there either (field lessons B6.6).
"""

from __future__ import annotations

import ssl

import aiohttp
from yarl import URL

from workers.adapters.oci.challenge import BadChallenge, basic, preferred, told
from workers.errors import Stuck, Wait
from workers.sovereign import Harbor, Login

LIMITS = aiohttp.ClientTimeout(total=15, sock_connect=5)


async def ready(harbor: Harbor, login: Login | None, repository: str) -> None:
    """A token for pulling `repository` is had at `<scheme>://<host>`, over TLS that its readers trust.

    Without a login it is had as nodes have it, by anybody. Raises Wait `DestinationNotReady`; Stuck `TokenRealm` when
    readers are sent elsewhere for it, `RobotRefused` when all is well there but the login.
    """
    async with aiohttp.ClientSession(timeout=LIMITS, cookie_jar=aiohttp.DummyCookieJar()) as http:
        try:
            await _ask(http, harbor, login, repository)
        except BadChallenge as error:
            raise _not_ready(harbor, str(error)) from None
        except aiohttp.ClientConnectorCertificateError as error:
            why = error.certificate_error
            raise _not_ready(harbor, f"its certificate is not trusted: {why}") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _not_ready(harbor, f"{type(error).__name__}: {error}") from error


async def _ask(http: aiohttp.ClientSession, harbor: Harbor, login: Login | None, repository: str) -> None:
    base = URL(harbor.connect or f"{harbor.scheme}://{harbor.host}")
    trust = _trust(harbor)
    host = {"Host": harbor.host}
    async with http.get(base / "v2/", headers=host, ssl=trust, allow_redirects=False) as answer:
        if answer.status == 200:
            return
        if answer.status != 401:
            raise _not_ready(harbor, f"GET /v2/ is answered with {answer.status}, by a gateway or another server")
        asked = preferred(answer.headers.getall("WWW-Authenticate", ()))
    if asked is None or asked.scheme != "bearer":
        raise _not_ready(harbor, f"its challenge is {asked.scheme if asked else 'empty'}, not Bearer: is it Harbor?")
    realm = asked.realm
    # What readers are sent to must be what they can reach: the name that they asked for, as they asked for it.
    if not same_place(realm, URL(f"{base.scheme}://{harbor.host}")):
        message = f"Harbor sends readers to {realm} for tokens, where nodes cannot be expected to get any; "
        raise Stuck("TokenRealm", f"{message}set its externalURL to {harbor.scheme}://{harbor.host}")
    where = base.join(asked.asking([f"repository:{repository}:pull"]).relative())
    signed = {**host, **({"Authorization": basic(login)} if login else {})}
    async with http.get(where, headers=signed, ssl=trust) as answer:
        if answer.status in (401, 403):
            if login is None:
                raise _not_ready(harbor, f"its token service refuses anybody ({answer.status}), and nodes are anybody")
            message = f"the token service of {harbor.host} refuses {login.username}; run harbor-projects again"
            raise Stuck("RobotRefused", message)
        if answer.status != 200:
            raise _not_ready(harbor, f"its token service answers with {answer.status}")
        await told(answer.content)


def same_place(one: URL, other: URL) -> bool:
    """Scheme, host and port alike, however they are spelled."""
    return (one.scheme, str(one.host).lower(), one.port) == (other.scheme, str(other.host).lower(), other.port)


def _trust(harbor: Harbor) -> ssl.SSLContext | bool:
    if harbor.ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=harbor.ca_file)
    except (OSError, ssl.SSLError) as error:
        why = f"harbor.ca_file {harbor.ca_file}: {error}"
        raise Stuck("CaUnreadable", f"{why}; mount a PEM file into the worker") from error


def _not_ready(harbor: Harbor, why: str) -> Wait:
    where = f"{harbor.scheme}://{harbor.host}"
    return Wait("DestinationNotReady", f"{where} does not serve yet what Flux would ask there: {why}", after=10)
