"""Who may ask: every kind of token against a real issuer, over real HTTP."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path

import anyio
import pytest
from api_bench import BASE, Door, door
from joserfc.jwk import RSAKey

from events.subjects import REQUESTED
from sandbox.oidc import VIEWER

pytestmark = pytest.mark.asyncio(loop_scope="module")


def forged(header: dict[str, str], claims: dict[str, object]) -> str:
    """A token that nobody signed."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, claims)]
    return ".".join([*parts, ""])


async def status(opened: Door, token: str) -> int:
    return (await opened.get("/status", token)).status_code


async def test_a_good_token_of_an_operator_reads_and_acts(opened: Door) -> None:
    assert await status(opened, opened.issuer.token()) == 200
    answer = await opened.post("/steps/gitea-mirror/retry")
    assert (answer.status_code, answer.json()["error"]) == (409, "no-run")


async def test_without_a_token_nothing_is_open_but_the_house(opened: Door) -> None:
    for path in ("status", "plan", "audit", "certificate", "events"):
        answer = await opened.client.get(f"{BASE}/{path}")
        assert (answer.status_code, answer.json()["error"]) == (401, "unauthorized"), path
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    for path in ("start", "cancel", "steps/gitea-mirror/retry", "ticket"):
        assert (await opened.client.post(f"{BASE}/{path}")).status_code == 401, path
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json"):
        assert (await opened.client.get(path)).status_code == 200, path


@pytest.mark.parametrize(
    ("why", "changes"),
    [
        ("it has expired", {"exp": int(time.time()) - 60}),
        ("it is not valid yet", {"nbf": int(time.time()) + 3600}),
        ("it is from the future", {"iat": int(time.time()) + 3600}),
        ("it is not for catalyst-api", {"aud": "account"}),
        ("it is not for catalyst-api", {"aud": None}),
        ("it is of another issuer", {"iss": "https://keycloak.elsewhere/realms/sovereign"}),
        ("it is no access token", {"typ": "ID"}),
        ("it is no access token", {"typ": "Refresh"}),
        ("it is no access token", {"typ": None}),
        ("its exp is no time", {"exp": None}),
        ("its exp is no time", {"exp": "never"}),
        ("its iat is no time", {"iat": None}),
        ("it names nobody", {"sub": None}),
    ],
)
async def test_a_token_with_a_wrong_claim_is_refused_and_told_which(
    opened: Door, why: str, changes: dict[str, object]
) -> None:
    answer = await opened.get("/status", opened.issuer.token(**changes))
    assert answer.status_code == 401
    assert why in answer.json()["detail"] or (why == "it is of another issuer" and "issuer" in answer.json()["detail"])


async def test_a_token_that_its_issuer_did_not_sign_is_refused(opened: Door) -> None:
    issuer = opened.issuer
    good = issuer.token()
    head, body, signature = good.split(".")
    other = RSAKey.generate_key(2048, {"use": "sig", "alg": "RS256", "kid": issuer.keys[-1].kid})
    changed = issuer.claims(VIEWER) | {"realm_access": {"roles": ["sovereign-admin"]}}
    forgeries = {
        "alg none": forged({"alg": "none", "kid": str(issuer.keys[-1].kid)}, issuer.claims()),
        "alg None in capitals": forged({"alg": "NONE", "kid": str(issuer.keys[-1].kid)}, issuer.claims()),
        "HS256 with the public key": issuer.signed_with_public_key(),
        "another key under a known id": issuer.token(key=other),
        "a key for encryption": issuer.token(kid=str(issuer._encryption.kid)),
        "claims changed": ".".join([head, forged({}, changed).split(".")[1], signature]),
        "signature gone": f"{head}.{body}.",
        "not a token": "abc",
        "empty parts": "..",
        "far too long": good + "A" * 20000,
    }
    for name, token in forgeries.items():
        answer = await opened.get("/status", token)
        assert answer.status_code in ((431,) if name == "far too long" else (401,)), name


async def test_a_key_that_nobody_knows_is_asked_for_once_and_not_by_every_request(opened: Door) -> None:
    issuer = opened.issuer
    assert await status(opened, issuer.token()) == 200
    stranger = RSAKey.generate_key(2048, {"kid": "made-up"})
    asked = issuer.asked
    for _ in range(20):
        assert await status(opened, issuer.token(key=stranger, kid="made-up")) == 401
    assert issuer.asked - asked <= 3  # the cooldown of this bench is 0.2 s


async def test_roles_decide_who_reads_and_who_acts(opened: Door) -> None:
    issuer = opened.issuer
    viewer = issuer.token(VIEWER)
    assert await status(opened, viewer) == 200
    refused = await opened.post("/start", token=viewer)
    assert (refused.status_code, refused.json()["error"]) == (403, "forbidden")
    nobody = issuer.token(realm_access={"roles": ["offline_access"]})
    assert await status(opened, nobody) == 403
    by_client = issuer.token(
        VIEWER, realm_access=None, resource_access={"catalyst-api": {"roles": ["sovereign-admin"]}}
    )
    assert (await opened.post("/steps/gitea-mirror/retry", token=by_client)).status_code == 409
    elsewhere = issuer.token(realm_access=None, resource_access={"grafana": {"roles": ["sovereign-admin"]}})
    assert (await opened.post("/start", token=elsewhere)).status_code == 403
    odd = issuer.token(realm_access="sovereign-admin", resource_access=["sovereign-admin"])
    assert await status(opened, odd) == 403
    assert await opened.bench.entries(REQUESTED) == []


async def test_rotated_keys_are_found_and_keys_that_are_withdrawn_are_believed_no_longer(opened: Door) -> None:
    issuer = opened.issuer
    before = issuer.token()
    await anyio.sleep(0.25)  # past the cooldown
    issuer.rotate()
    assert await status(opened, issuer.token()) == 200
    assert await status(opened, before) == 200
    issuer.rotate(forget=True)
    await anyio.sleep(0.25)
    assert await status(opened, issuer.token()) == 200
    assert await status(opened, before) == 401


async def test_while_the_issuer_is_away_keys_that_are_known_go_on(opened: Door, tmp_path: Path) -> None:
    issuer = opened.issuer
    token = issuer.token()
    assert await status(opened, token) == 200
    issuer.down = True
    try:
        await anyio.sleep(0.5)  # the keys are old enough to be asked for anew
        for _ in range(3):
            assert await status(opened, token) == 200
        issuer.rotate()
        unknown = await opened.get("/status", issuer.token())
        assert (unknown.status_code, unknown.json()["error"]) == (503, "identity-unavailable")
    finally:
        issuer.down = False
    await anyio.sleep(0.25)
    assert await status(opened, issuer.token()) == 200


async def test_without_any_key_of_the_issuer_nobody_is_let_in(tmp_path: Path) -> None:
    async with door(tmp_path) as fresh:
        fresh.issuer.down = True
        answer = await fresh.get("/status")
        assert (answer.status_code, answer.json()["error"]) == (503, "identity-unavailable")
        assert "Retry-After" in answer.headers


async def test_two_authorizations_or_another_scheme_are_refused(opened: Door) -> None:
    good = opened.issuer.token()
    for headers in ([("Authorization", f"Bearer {good}")] * 2, [("Authorization", f"Basic {good}")]):
        assert (await opened.client.get(f"{BASE}/status", headers=headers)).status_code == 401


async def test_a_ticket_opens_one_stream_once_and_nothing_else(opened: Door) -> None:
    given = (await opened.post("/ticket", token=opened.issuer.token(VIEWER))).json()
    assert given["expires"] <= time.time() + 31
    path = f"{BASE}/events?ticket={given['ticket']}"
    async with opened.client.stream("GET", path) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
    assert (await opened.client.get(path)).status_code == 401
    assert await status(opened, given["ticket"]) == 401
    good = opened.issuer.token()
    assert (await opened.client.get(f"{BASE}/events?ticket={good}")).status_code == 401
    assert (await opened.client.get(f"{BASE}/status?access_token={good}")).status_code == 401
