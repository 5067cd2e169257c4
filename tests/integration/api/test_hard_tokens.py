"""Tokens as an attacker would make them, and issuers as bad days make them."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from api_bench import BASE, Door
from joserfc import jws, jwt
from joserfc.jwk import ECKey, RSAKey

from events.subjects import ALL
from sandbox.oidc import CLIENT, VIEWER
from sandbox.serving import serving
from workers.adapters import keycloak
from workers.adapters.keycloak import Keys, KeysUnavailable
from workers.entrypoints.api import tokens
from workers.entrypoints.api.identity import Doorkeeper
from workers.entrypoints.settings import ServiceAccounts

pytestmark = pytest.mark.asyncio(loop_scope="module")


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def part(document: object) -> str:
    return b64(json.dumps(document).encode())


def signed(opened: Door, header: dict[str, Any], payload: bytes | None = None) -> str:
    """A good signature by the issuer's own key over whatever header and payload."""
    key = opened.issuer.keys[-1]
    full = {"alg": "RS256", "typ": "JWT", "kid": key.kid, **header}
    full = {name: value for name, value in full.items() if value is not None}
    body = json.dumps(opened.issuer.claims()).encode() if payload is None else payload
    registry = jws.JWSRegistry(algorithms=["RS256", "PS256", "ES256"], strict_check_header=False)
    crit = full.pop("crit", None)
    if crit is None:
        return jws.serialize_compact(full, body, key, registry=registry)
    full["crit"] = crit  # by hand: joserfc refuses to sign what nobody would understand
    start = f"{part(full)}.{b64(body)}"
    algorithm = registry.get_alg("RS256")
    return f"{start}.{b64(algorithm.sign(start.encode(), key))}"


def hs256(secret: bytes, header: dict[str, Any], claims: dict[str, Any]) -> str:
    start = f"{part(header)}.{part(claims)}"
    return f"{start}.{b64(hmac.digest(secret, start.encode(), 'sha256'))}"


def forgeries(opened: Door) -> dict[str, str]:
    issuer = opened.issuer
    key, claims = issuer.keys[-1], issuer.claims()
    kid = str(key.kid)
    curve = ECKey.generate_key("P-256", {"kid": kid})
    public = key.as_dict(private=False)
    bare = RSAKey.import_key(
        {name: value for name, value in key.as_dict(private=True).items() if name not in ("alg", "use")}
    )
    unending = json.dumps({**claims, "exp": 0}).replace('"exp": 0', f'"exp": {10**400}').encode()
    return {
        "HS256, the key as PEM": hs256(key.as_pem(private=False), {"alg": "HS256", "kid": kid}, claims),
        "HS256, the key as DER": hs256(key.as_der(private=False), {"alg": "HS256", "kid": kid}, claims),
        "HS256, the key as JWK": hs256(json.dumps(public).encode(), {"alg": "HS256", "kid": kid}, claims),
        "HS256, its modulus": hs256(str(public["n"]).encode(), {"alg": "HS256", "kid": kid}, claims),
        "HS256, nothing as secret": hs256(b"", {"alg": "HS256", "kid": kid}, claims),
        "ES256 under the RSA key's id": jwt.encode({"alg": "ES256", "kid": kid}, claims, curve, algorithms=["ES256"]),
        "PS256 by a key for RS256": jwt.encode({"alg": "PS256", "kid": kid}, claims, bare, algorithms=["PS256"]),
        "RS512, which is not allowed": jwt.encode({"alg": "RS512", "kid": kid}, claims, bare, algorithms=["RS512"]),
        "no kid": signed(opened, {"kid": None}),
        "kid that is a path": signed(opened, {"kid": "../../../../dev/null"}),
        "kid that is SQL": signed(opened, {"kid": "x' UNION SELECT 'AA"}),
        "kid of a number": f"{part({'alg': 'RS256', 'kid': 7})}.e30.AA",
        "a key in its own header": jwt.encode(
            {"alg": "ES256", "jwk": curve.as_dict(private=False), "kid": str(curve.kid)}, claims, curve,
            algorithms=["ES256"],
        ),
        "crit that nobody knows": signed(opened, {"crit": ["exp2"], "exp2": 1}),
        "crit b64": signed(opened, {"crit": ["b64"], "b64": False}),
        "crit that is empty": signed(opened, {"crit": []}),
        "nested": signed(opened, {"cty": "JWT"}, issuer.token().encode()),
        "typ of something else": signed(opened, {"typ": "logout+jwt"}),
        "typ of an ID token's kind": issuer.token(typ="ID", aud=CLIENT),
        "an offline token": issuer.token(typ="Offline"),
        "a logout token": issuer.token(typ="Logout"),
        "claims that are a list": signed(opened, {}, b"[]"),
        "claims that are no JSON": signed(opened, {}, b"\xff\xfe"),
        "claims nested too deep": signed(opened, {}, b"[" * 4000),
        "header nested too deep": f"{b64(b'[' * 4000)}.e30.AA",
        "an end beyond any float": signed(opened, {}, unending),
        "an end that is not a number": signed(opened, {}, json.dumps({**claims, "exp": float("nan")}).encode()),
        "an end without end": signed(opened, {}, json.dumps({**claims, "exp": float("inf")}).encode()),
        "an end that is true": issuer.token(exp=True),
        "an end in a text": issuer.token(exp=str(int(time.time()) + 900)),
        "issuer with a slash more": issuer.token(iss=f"{issuer.url}/"),
        "issuer in capitals": issuer.token(iss=issuer.url.upper()),
        "issuer in a list": issuer.token(iss=[issuer.url]),
        "audience that begins alike": issuer.token(aud="catalyst-api-2"),
        "audience in another case": issuer.token(aud="Catalyst-API"),
        "audience in an object": issuer.token(aud={"catalyst-api": True}),
        "no audience, though asked for by the client": issuer.token(aud=None, azp="catalyst-api"),
        "just over": issuer.token(exp=int(time.time()) - 3),
        "not yet": issuer.token(nbf=int(time.time()) + 3600),
        "encrypted": ".".join(["e30"] * 5),
        "two dots of nothing": "..",
        "unicode": "é.é.é",
    }  # fmt: skip


async def test_no_forgery_is_let_in_and_none_is_a_defect(opened: Door) -> None:
    for name, token in forgeries(opened).items():
        headers = [(b"authorization", b"Bearer " + token.encode())]
        answer = await opened.client.post(f"{BASE}/start", headers=headers)
        assert answer.status_code == 401, f"{name}: {answer.status_code} {answer.text}"
        assert answer.json()["error"] == "unauthorized", name
        assert token[:40] not in answer.text, name
    assert await opened.bench.entries(ALL) == []


async def test_what_is_good_stays_good(opened: Door) -> None:
    issuer = opened.issuer
    for name, token in {
        "two audiences": issuer.token(aud=["account", "catalyst-api"]),
        "one audience": issuer.token(aud="catalyst-api"),
        "at+jwt": signed(opened, {"typ": "at+jwt"}),
        "no typ in the header": signed(opened, {"typ": None}),
        "an end of a fraction": issuer.token(exp=time.time() + 900.5),
        "begun this moment": issuer.token(nbf=int(time.time()), iat=int(time.time())),
        "a name of many letters": issuer.token(preferred_username="Ä" * 500),
    }.items():
        assert (await opened.get("/status", token)).status_code == 200, name


async def test_a_clock_may_be_wrong_by_the_leeway_and_not_by_more() -> None:
    rule = tokens.Rule("https://kc.test", "catalyst-api", ("RS256",), leeway=30.0)
    good: dict[str, Any] = {
        "iss": "https://kc.test",
        "aud": "catalyst-api",
        "typ": "Bearer",
        "sub": "s",
        "exp": 2000.0,
        "iat": 1000,
    }
    for now in (1000, 1999, 2029.9, 971):
        tokens.check({**good, "nbf": 1000}, rule, now)
    for now, why in ((2030, "expired"), (2e9, "expired"), (969, "from the future")):
        with pytest.raises(tokens.Refused, match=why):
            tokens.check(good, rule, now)
    with pytest.raises(tokens.Refused, match="not valid yet"):
        tokens.check({**good, "nbf": 1500}, rule, 1469)


async def test_a_realm_role_in_the_wrong_place_is_none(opened: Door) -> None:
    issuer = opened.issuer
    for name, claims in {
        "on top": {"roles": ["sovereign-admin"]},
        "as groups": {"groups": ["sovereign-admin"]},
        "as a scope": {"scope": "sovereign-admin"},
        "of another client": {"resource_access": {"account": {"roles": ["sovereign-admin"]}}},
        "as a text": {"realm_access": {"roles": "sovereign-admin"}},
        "in another case": {"realm_access": {"roles": ["Sovereign-Admin"]}},
        "with a blank": {"realm_access": {"roles": [" sovereign-admin"]}},
        "in a list of lists": {"realm_access": {"roles": [["sovereign-admin"]]}},
    }.items():
        token = issuer.token(VIEWER, **claims)
        assert (await opened.post("/start", token=token)).status_code == 403, name


# --- the issuer ---------------------------------------------------------------------------------------------------


@dataclass
class Realm:
    """An issuer that answers as it is told."""

    url: str = ""
    answer: Callable[[], Any] = dict
    asked: int = 0
    stuck: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        if request.path.endswith("configuration"):
            return web.json_response({"issuer": self.url, "jwks_uri": f"{self.url}/certs"})
        self.asked += 1
        said = self.answer()
        if said is not None:
            return web.json_response(said) if not isinstance(said, web.StreamResponse) else said
        response = web.StreamResponse()  # a byte at a time, for ever
        await response.prepare(request)
        while not self.stuck.is_set():
            await response.write(b" ")
            await asyncio.sleep(0.05)
        return response


@asynccontextmanager
async def realm(cooldown: float = 0.01, refresh: float = 0.01) -> AsyncIterator[tuple[Realm, Keys]]:
    made, app = Realm(), web.Application()
    app.router.add_get("/{any:.*}", made.serve)
    async with serving(app) as port:
        made.url = f"http://127.0.0.1:{port}"
        async with Keys.open(made.url, None, None, refresh=refresh, cooldown=cooldown) as keys:
            yield made, keys
            made.stuck.set()


KEY = RSAKey.generate_key(2048, {"kid": "a", "use": "sig", "alg": "RS256"}).as_dict(private=False)


async def test_an_issuer_that_answers_a_byte_at_a_time_keeps_nobody_waiting_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keycloak, "WHOLE", 1.5)
    async with realm() as (issuer, keys), asyncio.timeout(120):
        issuer.answer = lambda: None
        with pytest.raises(KeysUnavailable):
            await keys.find("a")
        issuer.answer = lambda: {"keys": [KEY]}
        await asyncio.sleep(0.05)
        assert await keys.find("a") == KEY
        issuer.answer = lambda: None
        await asyncio.sleep(0.05)
        for _ in range(3):  # what is known goes on at once, while the issuer is asked in the background
            async with asyncio.timeout(5):
                assert await keys.find("a") == KEY


@pytest.mark.parametrize(
    "document",
    [
        {"keys": {"kid": "a"}}, {"keys": None}, {}, [], {"keys": "a"}, "x" * (2 << 20),
        web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}), web.Response(text="<html>"),
    ],
    ids=["object", "null", "none", "list", "text", "huge", "redirect", "page"],
)  # fmt: skip
async def test_an_answer_that_holds_no_list_of_keys_takes_none_away(document: Any) -> None:
    async with realm() as (issuer, keys):
        issuer.answer = lambda: {"keys": [KEY]}
        assert await keys.find("a") == KEY
        issuer.answer = lambda: document
        await asyncio.sleep(0.05)
        with pytest.raises(KeysUnavailable):
            await keys.find("unknown")
        assert issuer.asked + 1 >= 2
        assert await keys.find("a") == KEY


async def test_a_key_that_is_broken_or_for_something_else_is_none(opened: Door) -> None:
    private = RSAKey.generate_key(2048, {"kid": "p", "use": "sig"})
    odd = [
        {**KEY, "kid": "enc", "use": "enc"}, {**KEY, "kid": 7}, private.as_dict(private=True), 7, None, "a",
        {"kty": "oct", "k": "AAAA", "kid": "oct", "use": "sig"}, {**KEY, "kid": None},
    ]  # fmt: skip
    async with realm() as (issuer, keys):
        issuer.answer = lambda: {"keys": [*odd, KEY]}
        for kid in ("enc", "p", "oct", "7", "None"):
            assert await keys.find(kid) is None, kid
            await asyncio.sleep(0.02)
        assert await keys.find("a") == KEY


async def test_a_published_key_that_is_no_key_refuses_the_token_and_is_no_defect(
    opened: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer = opened.issuer
    broken: list[dict[str, Any]] = [
        {"n": 5}, {"n": "AQAB", "e": "AQAB"}, {"n": "!!!"}, {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": "EC", "crv": "P-999", "x": "AA", "y": "AA"}, {"kty": "EC"}, {"key_ops": ["encrypt"]}, {"e": "AA"},
    ]  # fmt: skip
    good = issuer.keys[-1].as_dict(private=False)
    odd = [Odd({**good, "kid": f"broken-{number}", **change}) for number, change in enumerate(broken)]
    monkeypatch.setattr(issuer, "keys", [*odd, *issuer.keys])
    await asyncio.sleep(0.25)  # past the cooldown of the bench
    asked = issuer.asked
    for number, change in enumerate(broken):
        answer = await opened.get("/status", issuer.token(kid=f"broken-{number}"))
        assert (answer.status_code, "signature" in answer.text or "algorithm" in answer.text) == (401, True), change
    assert issuer.asked > asked
    assert (await opened.get("/status")).status_code == 200


@dataclass
class Odd:
    """A key as an issuer in trouble publishes it."""

    document: dict[str, Any]

    def as_dict(self, private: bool) -> dict[str, Any]:
        return self.document


async def test_keys_of_an_https_issuer_are_not_fetched_without_tls(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("configuration"):
            return httpx.Response(200, json={"issuer": "https://kc.test/realms/r", "jwks_uri": "http://kc.test/certs"})
        return httpx.Response(200, json={"keys": [KEY]})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        keys = Keys(client, "https://kc.test/realms/r", None, refresh=300, cooldown=0)
        with pytest.raises(KeysUnavailable, match="without TLS"):
            await keys.find("a")


async def test_what_no_api_server_could_have_signed_is_not_sent_to_it_and_a_pods_stream_ends_with_its_token(
    opened: Door,
) -> None:
    accounts = ServiceAccounts(audience="catalyst-cutover")
    keeper = Doorkeeper(None, None, accounts, None, tokens.Tickets(b"x" * 32))  # no cluster: to ask it would fail
    for word in ("abc", "a.b.c", "..", f"{part({'alg': 'RS256'})}.{part(['iss'])}.AA"):
        with pytest.raises(tokens.Refused, match="no signed token"):
            await keeper._known(word)
    ends = int(time.time()) + 600
    assert tokens.ends(opened.issuer.token(exp=ends)) == ends
    assert tokens.ends(opened.issuer.token(exp=None)) is None
    assert tokens.ends("abc") is None
