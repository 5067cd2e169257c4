"""How a registry says who may ask, and where a token is had for it: headers and bodies in, words out.

`WWW-Authenticate` is a list of challenges (RFC 9110, 11.6.1); the token is the distribution project's (docs:
registry/spec/auth/token), as containerd reads both: Bearer before Basic, `token` before `access_token`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import orjson
from aiohttp import StreamReader
from yarl import URL

from workers.adapters.oci.streams import TooLong, read_most
from workers.sovereign import Login

LIFE = 60.0  # seconds that a token lives when the service does not say
DAY = 86400.0  # seconds; longer is believed of none
MOST = 1024 * 1024  # bytes of a token service's answer; real ones are some kilobytes

_WORD = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_BETWEEN = re.compile(r"[\s,]*")
_PARAMETER = re.compile(rf'({_WORD})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))(?=\s*(?:,|$))', re.DOTALL)
_SCHEME = re.compile(rf"({_WORD})(?:\s+[0-9A-Za-z\-._~+/]+=*(?=\s*(?:,|$))|(?=[\s,]|$))")
_NONSENSE = re.compile(r'(?:"(?:[^"\\]|\\.)*"?|[^,"])+', re.DOTALL)


class BadChallenge(ValueError):
    """A challenge that cannot be answered, or an answer that holds no token. The text repeats neither."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to say who asks. Scheme and names of parameters in small letters."""

    scheme: str
    parameters: Mapping[str, str]

    @property
    def realm(self) -> URL:
        """Where a token is had. Raises BadChallenge when it is no address of a web server."""
        try:
            realm = URL(self.parameters.get("realm", ""))
        except ValueError:
            realm = URL()
        if realm.scheme not in ("http", "https") or not realm.host:
            raise BadChallenge("the challenge names no address of a token service")
        return realm

    def asking(self, scopes: Iterable[str]) -> URL:
        """The realm with what a token is wanted for; a query that it has already stays. Raises BadChallenge."""
        service = self.parameters.get("service", "")
        wanted = [("scope", scope) for scope in dict.fromkeys(scopes) if scope]
        return self.realm.extend_query([*([("service", service)] if service else []), *wanted])

    def may_know_login_of(self, base: URL, name: str) -> bool:
        """May the realm be told a login that was given for the registry called `name`, which is asked at `base`?

        It may at the registry's own host, below it (`auth.docker.io` for docker.io), and at the domain that the
        registry is below (`gitlab.com` for registry.gitlab.com); never in the clear when the registry is not.
        Raises BadChallenge.
        """
        realm = self.realm
        if base.scheme == "https" and realm.scheme != "https":
            return False
        return any(kin(str(realm.host), host) for host in (base.host, URL(f"//{name}").host) if host)


def kin(one: str, other: str) -> bool:
    """True for one host, and for a host and the domain that it is below."""
    return one == other or _below(one, other) or _below(other, one)


def _below(host: str, domain: str) -> bool:
    return "." in domain and host.endswith(f".{domain}") and not host.replace(".", "").isdigit()


def basic(login: Login) -> str:
    """The header's value for a login (RFC 7617, UTF-8)."""
    pair = f"{login.username}:{login.password().get_secret_value()}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def challenges(headers: Iterable[str]) -> list[Challenge]:
    """Every challenge of all `WWW-Authenticate` headers, in their order. What cannot be read is left out."""
    return [each for header in headers for each in _in(header)]


def preferred(headers: Iterable[str]) -> Challenge | None:
    """The one to answer: Bearer, else Basic, else none."""
    found = challenges(headers)
    return next((each for scheme in ("bearer", "basic") for each in found if each.scheme == scheme), None)


def _in(header: str) -> Iterator[Challenge]:
    scheme, said = "", dict[str, str]()
    place = _end(_BETWEEN, header, 0)
    while place < len(header):
        if scheme and (part := _PARAMETER.match(header, place)):
            name, quoted, plain = part.groups()
            said.setdefault(name.lower(), plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL))
        elif part := _SCHEME.match(header, place):
            if scheme:
                yield Challenge(scheme, said)
            scheme, said = part[1].lower(), {}
        place = _end(_BETWEEN, header, part.end() if part else _end(_NONSENSE, header, place))
    if scheme:
        yield Challenge(scheme, said)


def _end(what: re.Pattern[str], text: str, place: int) -> int:
    found = what.match(text, place)
    return found.end() if found else place + 1


@dataclass(frozen=True, slots=True)
class Token:
    """What a token service gives. Never shown."""

    text: str = field(repr=False)
    seconds: float
    """How long it may be used, from when it was given."""

    @property
    def authorization(self) -> str:
        """The header's value that goes with a request."""
        return f"Bearer {self.text}"


def token_of(body: bytes) -> Token:
    """The token in a service's answer. Raises BadChallenge: an answer without one is no permission."""
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise BadChallenge("the token service gives no token, but something that is no JSON") from None
    if not isinstance(said, dict):
        raise BadChallenge("the token service gives no token, but some other JSON")
    for name in ("token", "access_token"):
        # A line break in a header would be another header.
        if isinstance(text := said.get(name), str) and text and text.isascii() and text.isprintable():
            return Token(text, _seconds(said.get("expires_in")))
    raise BadChallenge("the token service gives no token")


def _seconds(said: object) -> float:
    if isinstance(said, int | float) and not isinstance(said, bool) and said > 0:
        return min(float(said), DAY)
    return LIFE


async def told(body: StreamReader) -> Token:
    """The token that a service sends. Raises BadChallenge."""
    try:
        return token_of(await read_most(body, MOST))
    except TooLong:
        raise BadChallenge("the token service gives no token, but an endless answer") from None
