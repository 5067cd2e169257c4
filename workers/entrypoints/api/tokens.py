"""Tokens: what makes one good. The only room of joserfc.

An access token of Keycloak: a JWS by a key that the issuer publishes, in an algorithm that we allow (never what the
token's own header would like), with `iss`, `aud`, `exp`, `nbf`, `iat`, `sub` and `typ` as they must be. An ID token of
the same client passes every check but the last one (facts: api-facts section 9).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, Final

import orjson
from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OctKey, RSAKey

LONGEST: Final = 12 * 1024  # characters of a token
LATEST: Final = 1e11  # Unix time of no token; beyond it a float cannot be made of every whole number
SHORT: Final = 30.0
"""Seconds in which a ticket must be used."""
_TICKET: Final = "cutover-events"
_TYPES: Final = {"RS": "RSA", "PS": "RSA", "ES": "EC"}

Claims = Mapping[str, Any]
FindKey = Callable[[str], Awaitable[Mapping[str, Any] | None]]


class Refused(Exception):
    """The token is not good; the text says why, and holds nothing of it."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a token must be."""

    issuer: str
    audience: str
    algorithms: Collection[str]
    parties: Collection[str] = ()
    leeway: float = 30.0


async def verified(token: str, rule: Rule, find: FindKey, now: float) -> Claims:
    """The claims of a good access token. Raises Refused, and what `find` raises."""
    header = heading(token)
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in rule.algorithms:
        raise Refused("its algorithm is not allowed")
    if not isinstance(kid, str):
        raise Refused("it names no key")
    if str(header.get("typ", "JWT")).lower() not in ("jwt", "at+jwt"):
        raise Refused("it is no JWT")
    if "crit" in header:
        raise Refused("it must be understood in a way that nobody here knows")
    published = await find(kid)
    if published is None:
        raise Refused("its key is not the issuer's")
    if published.get("kty") != _TYPES[algorithm[:2]] or published.get("alg", algorithm) != algorithm:
        raise Refused("its key is not for this algorithm")
    claims = _checked(token, published, algorithm)
    check(claims, rule, now)
    return claims


def heading(token: str) -> Mapping[str, Any]:
    """The header as the token has it, not checked. Raises Refused."""
    if len(token) > LONGEST:
        raise Refused("it is too long")
    try:
        return dict(jws.extract_compact(token.encode()).headers())
    except (JoseError, ValueError, TypeError, AttributeError, UnicodeError, RecursionError):
        raise Refused("it is no signed token") from None


def issuer_of(token: str) -> str | None:
    """Who the token says it is from, not checked: to know whom to ask."""
    try:
        claims = orjson.loads(jws.extract_compact(token.encode()).payload)
        issuer = claims.get("iss")
    except (JoseError, ValueError, TypeError, AttributeError, UnicodeError, RecursionError):
        return None
    return issuer if isinstance(issuer, str) else None


def ends(token: str) -> float | None:
    """When a token that somebody else has checked ends, Unix time; None when it does not say."""
    try:
        return moment(orjson.loads(jws.extract_compact(token.encode()).payload), "exp")
    except (JoseError, ValueError, TypeError, AttributeError, UnicodeError, RecursionError, Refused):
        return None


def _checked(token: str, published: Mapping[str, Any], algorithm: str) -> Claims:
    try:
        key = (RSAKey if published["kty"] == "RSA" else ECKey).import_key(dict(published))
        return jwt.decode(token, key, algorithms=[algorithm]).claims
    except Exception:  # a published key may be anything: no number, no point of its curve, of a curve nobody has
        raise Refused("its signature does not hold") from None


def check(claims: Claims, rule: Rule, now: float) -> None:
    """Raises Refused, saying which claim."""
    if claims.get("iss") != rule.issuer:
        raise Refused("it is of another issuer")
    audience = claims.get("aud")
    if rule.audience not in ([audience] if isinstance(audience, str) else _texts(audience)):
        raise Refused(f"it is not for {rule.audience}")
    if claims.get("typ") != "Bearer":
        raise Refused("it is no access token")
    if rule.parties and claims.get("azp") not in rule.parties:
        raise Refused("it was given to another client")
    if not isinstance(claims.get("sub"), str) or not claims["sub"]:
        raise Refused("it names nobody")
    if moment(claims, "exp") <= now - rule.leeway:
        raise Refused("it has expired")
    if moment(claims, "iat") > now + rule.leeway:
        raise Refused("it is from the future")
    if "nbf" in claims and moment(claims, "nbf") > now + rule.leeway:
        raise Refused("it is not valid yet")


def moment(claims: Claims, name: str) -> float:
    """A time of the claims. Raises Refused when there is none."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LATEST:  # nan is not below it
        raise Refused(f"its {name} is no time")
    return float(value)


def roles(claims: Claims, client: str) -> frozenset[str]:
    """Roles of the realm and of one client."""
    access = claims.get("resource_access")
    places = (claims.get("realm_access"), access.get(client) if isinstance(access, dict) else None)
    found: set[str] = set()
    for place in places:
        if isinstance(place, dict):
            found.update(_texts(place.get("roles")))
    return frozenset(found)


def _texts(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


# --- tickets --------------------------------------------------------------------------------------------------


class Tickets:
    """Words that open one stream of events: signed, short, for one use.

    Any replica with the same key knows them. Each remembers what was used here; another one does not, and the half
    minute that a ticket lives is what bounds that."""

    def __init__(self, key: bytes, clock: Callable[[], float] = time.time) -> None:
        # Derived: the same secret may be used for something else one day.
        self._key = OctKey.import_key(hashlib.sha256(b"catalyst-cutover ticket\n" + key).digest())
        self._clock = clock
        self._used: dict[str, float] = {}

    def issue(self, claims: Claims) -> tuple[str, float]:
        """The word, and when it ends."""
        ends = self._clock() + SHORT
        full = {**claims, "aud": _TICKET, "exp": int(ends), "jti": token_hex(16)}
        return jwt.encode({"alg": "HS256"}, full, self._key, algorithms=["HS256"]), ends

    def use(self, word: str) -> Claims:
        """What it was issued for. Raises Refused; it works once."""
        if len(word) > LONGEST:
            raise Refused("it is too long")
        try:
            claims: Claims = jwt.decode(word, self._key, algorithms=["HS256"]).claims
        except (JoseError, ValueError, TypeError, UnicodeError, RecursionError):
            raise Refused("it is no ticket of ours") from None
        now = self._clock()
        if claims.get("aud") != _TICKET or moment(claims, "exp") <= now:
            raise Refused("it has expired")
        self._used = {jti: ends for jti, ends in self._used.items() if ends > now}
        if claims["jti"] in self._used:
            raise Refused("it was used before")
        self._used[claims["jti"]] = moment(claims, "exp")
        return claims
