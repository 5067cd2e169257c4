"""The Sovereign's Keycloak, as far as the front door needs it: a realm that signs real tokens.

Shapes of tokens, discovery and keys as Keycloak 26 gives them (facts: api-facts section 9): roles in `realm_access`
and `resource_access`, `typ` tells access tokens from ID tokens, and the published keys hold one for encryption.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode
from uuid import NAMESPACE_URL, uuid4, uuid5

from aiohttp import web
from joserfc import jwt
from joserfc.jwk import RSAKey

from sandbox.serving import serving

REALM = "sovereign"
AUDIENCE = "catalyst-api"
CLIENT = "catalyst-console"
LIFE = 900  # seconds; field lessons A2: an access token lives 15 minutes
OPERATOR, VIEWER = "operator", "viewer"
ROLES = {OPERATOR: ("sovereign-admin",), VIEWER: ("sovereign-reader",)}


@dataclass
class Issuer:
    """One realm. Open with `Issuer.open`."""

    passwords: Mapping[str, str] = field(default_factory=dict)
    url: str = ""
    """`iss` of its tokens."""
    down: bool = False
    """True: every question is answered with 503."""
    session: str = OPERATOR
    """Whose browser session the authorization endpoint finds."""
    asked: int = 0
    """How often its keys were asked for."""
    keys: list[RSAKey] = field(default_factory=lambda: [_new("sig", "RS256")])
    """The newest signs; all are published."""
    _codes: dict[str, dict[str, str]] = field(default_factory=dict)
    _encryption: RSAKey = field(default_factory=lambda: _new("enc", "RSA-OAEP"))

    @classmethod
    @asynccontextmanager
    async def open(cls, passwords: Mapping[str, str] | None = None, port: int = 0) -> AsyncIterator[Issuer]:
        """Serving on loopback until the block ends. `passwords`: user -> password, for the token endpoint."""
        issuer = cls(passwords or {})
        async with serving(issuer._app(), port) as taken:
            issuer.url = f"http://127.0.0.1:{taken}/realms/{REALM}"
            yield issuer

    # --- what a person or a test does with it -----------------------------------------------------------------

    def claims(self, name: str = OPERATOR, **changes: Any) -> dict[str, Any]:
        """Claims of a good access token; a change of None takes a claim away."""
        now = int(time.time())
        roles = list(ROLES.get(name, ()))
        claims: dict[str, Any] = {
            "exp": now + LIFE, "iat": now, "jti": str(uuid4()), "iss": self.url, "aud": [AUDIENCE, "account"],
            "sub": str(uuid5(NAMESPACE_URL, f"{REALM}/{name}")), "typ": "Bearer", "azp": CLIENT, "acr": "1",
            "realm_access": {"roles": ["offline_access", *roles]},
            "resource_access": {"account": {"roles": ["view-profile"]}}, "scope": "openid profile",
            "preferred_username": name,
        }  # fmt: skip
        return {key: value for key, value in {**claims, **changes}.items() if value is not None}

    def token(self, name: str = OPERATOR, *, key: RSAKey | None = None, kid: str | None = None, **changes: Any) -> str:
        """A signed access token of this user, or whatever the changes make of it."""
        key = key or self.keys[-1]
        header = {"alg": "RS256", "typ": "JWT", "kid": kid or key.kid}
        return jwt.encode(header, self.claims(name, **changes), key, algorithms=["RS256"])

    def signed_with_public_key(self) -> str:
        """The classic forgery: HS256, with the published key as the secret."""
        key = self.keys[-1]  # by hand: joserfc refuses to sign like this
        signed = b".".join(_part(part) for part in ({"alg": "HS256", "typ": "JWT", "kid": key.kid}, self.claims()))
        mac = hmac.digest(key.as_pem(private=False), signed, "sha256")
        return (signed + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")).decode()

    def rotate(self, *, forget: bool = False) -> None:
        """A new key signs from now on. With `forget` the old ones are published no longer."""
        self.keys = [*([] if forget else self.keys), _new("sig", "RS256")]

    # --- the wire ---------------------------------------------------------------------------------------------

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[self._up])
        base = f"/realms/{REALM}"
        app.router.add_get(f"{base}/.well-known/openid-configuration", self._discovery)
        app.router.add_get(f"{base}/protocol/openid-connect/certs", self._certs)
        app.router.add_post(f"{base}/protocol/openid-connect/token", self._token)
        app.router.add_get(f"{base}/protocol/openid-connect/auth", self._authorize)
        return app

    @web.middleware
    async def _up(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self.down:
            raise web.HTTPServiceUnavailable
        response: web.StreamResponse = await handler(request)
        if origin := request.headers.get("Origin"):  # the client's web origins, as a realm's client lists them
            response.headers["Access-Control-Allow-Origin"] = origin
        return response

    async def _discovery(self, _: web.Request) -> web.Response:
        oidc = f"{self.url}/protocol/openid-connect"
        return web.json_response(
            {
                "issuer": self.url, "token_endpoint": f"{oidc}/token", "jwks_uri": f"{oidc}/certs",
                "authorization_endpoint": f"{oidc}/auth", "grant_types_supported": ["password", "authorization_code"],
                "id_token_signing_alg_values_supported": ["RS256"],
            }
        )  # fmt: skip

    async def _certs(self, _: web.Request) -> web.Response:
        self.asked += 1
        return web.json_response({"keys": [key.as_dict(private=False) for key in [*self.keys, self._encryption]]})

    async def _authorize(self, request: web.Request) -> web.Response:
        """Somebody with a session is asked nothing and sent back with a code, which is good once."""
        query, code = request.query, uuid4().hex
        if query.get("client_id") != CLIENT or query.get("code_challenge_method") != "S256":
            raise web.HTTPBadRequest(text="unknown client, or no PKCE")
        self._codes[code] = {**query}
        raise web.HTTPFound(f"{query['redirect_uri']}?{urlencode({'state': query['state'], 'code': code})}")

    def _redeemed(self, form: Mapping[str, Any]) -> bool:
        begun = self._codes.pop(str(form.get("code", "")), None)
        if begun is None or any(form.get(key) != begun[key] for key in ("client_id", "redirect_uri")):
            return False
        digest = hashlib.sha256(str(form.get("code_verifier", "")).encode()).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == begun["code_challenge"]

    async def _token(self, request: web.Request) -> web.Response:
        form = await request.post()
        if form.get("grant_type") == "authorization_code" and self._redeemed(form):
            return web.json_response(
                {"access_token": self.token(self.session), "expires_in": LIFE, "token_type": "Bearer"}
            )
        name, password = str(form.get("username", "")), str(form.get("password", "")).strip()
        if form.get("grant_type") != "password" or not password or self.passwords.get(name) != password:
            return web.json_response(
                {"error": "invalid_grant", "error_description": "Invalid user credentials"}, status=401
            )
        return web.json_response({"access_token": self.token(name), "expires_in": LIFE, "token_type": "Bearer"})


def _part(document: Mapping[str, Any]) -> bytes:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=")


def _new(use: str, algorithm: str) -> RSAKey:
    return RSAKey.generate_key(2048, {"use": use, "alg": algorithm, "kid": uuid4().hex})
