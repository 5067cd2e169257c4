"""What a registry says of who may ask, read as it is written; and to whom a login is told."""

from __future__ import annotations

import re

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from workers.adapters.oci.challenge import BadChallenge, Challenge, challenges, preferred, token_of

WORDS = st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,8}", fullmatch=True)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=20)
"""Commas, quotes, backslashes, equals signs, whole challenges: whatever may stand between quotes."""
PARAMETERS = st.dictionaries(WORDS.map(str.lower), TEXTS, min_size=1, max_size=4)
ROWS = st.lists(st.tuples(WORDS, PARAMETERS), max_size=4)


def quoted(text: str) -> str:
    return '"' + re.sub(r'([\\"])', r"\\\1", text) + '"'


def written(scheme: str, parameters: dict[str, str], between: str) -> str:
    return f"{scheme} {between.join(f'{name}={quoted(text)}' for name, text in parameters.items())}"


@settings(max_examples=60)
@given(ROWS, st.sampled_from([",", ", ", " , ", ",\t"]), st.booleans())
def test_what_is_written_is_read_in_one_header_or_in_several(
    rows: list[tuple[str, dict[str, str]]], between: str, together: bool
) -> None:
    headers = [written(scheme, parameters, between) for scheme, parameters in rows]
    found = challenges([between.join(headers)] if together else headers)
    assert [(c.scheme, dict(c.parameters)) for c in found] == [(s.lower(), p) for s, p in rows]


@given(st.lists(st.text(st.sampled_from(' ,="\\aB:/-~?')), max_size=3))
def test_nonsense_is_left_out_and_stops_nothing(headers: list[str]) -> None:
    good = 'Bearer realm="https://r.example/token"'
    found = preferred([*headers, good])
    assert found is not None
    assert found.scheme == "bearer"


@pytest.mark.parametrize(
    ("header", "scheme", "realm"),
    [
        ('BEARER Realm="https://a.example/t"', "bearer", "https://a.example/t"),
        ("Bearer realm=https://a.example/t,service=s", "bearer", "https://a.example/t"),
        ('Basic realm="Harbor, \\"ours\\"", Bearer realm="https://a.example/t"', "bearer", "https://a.example/t"),
        ('Negotiate, NTLM aGVsbG8=, bearer realm="https://a.example/t"', "bearer", "https://a.example/t"),
        ('Bearer error="invalid_token", realm = "https://a.example/t?x=1,2"', "bearer", "https://a.example/t?x=1,2"),
        ('Basic realm="harbor"', "basic", "harbor"),
    ],
)
def test_registries_as_they_are_met(header: str, scheme: str, realm: str) -> None:
    found = preferred([header])
    assert found is not None
    assert (found.scheme, found.parameters["realm"]) == (scheme, realm)


def test_a_realm_keeps_its_own_query_and_every_scope_is_asked_for_once() -> None:
    asked = Challenge("bearer", {"realm": "https://a.example/t?account=x&scope=own", "service": "s & t"})
    url = asked.asking(["repository:p/r:pull", "", "repository:p/r:pull", "repository:q:pull"])
    assert url.query.getall("scope") == ["own", "repository:p/r:pull", "repository:q:pull"]
    assert (url.query["account"], url.query["service"]) == ("x", "s & t")


@pytest.mark.parametrize("realm", ["", "harbor", "/token", "ftp://a/t", "https://", "https://[", "file:///etc/passwd"])
def test_a_realm_that_is_no_web_address_is_not_asked(realm: str) -> None:
    with pytest.raises(BadChallenge, match="no address"):
        Challenge("bearer", {"realm": realm}).asking(["x"])


@pytest.mark.parametrize(
    ("realm", "base", "name", "told"),
    [
        ("https://ghcr.io/token", "https://ghcr.io", "ghcr.io", True),
        ("https://ghcr.io:8443/token", "https://ghcr.io", "ghcr.io", True),
        ("https://auth.docker.io/token", "https://registry-1.docker.io", "docker.io", True),
        ("https://gitlab.com/jwt/auth", "https://registry.gitlab.com", "registry.gitlab.com", True),
        ("https://harbor.sov.test/service/token", "http://harbor-core.harbor.svc", "harbor.sov.test", True),
        ("http://ghcr.io/token", "https://ghcr.io", "ghcr.io", False),
        ("https://evil.example/token", "https://ghcr.io", "ghcr.io", False),
        ("https://ghcr.io.evil.example/token", "https://ghcr.io", "ghcr.io", False),
        ("https://evilghcr.io/token", "https://ghcr.io", "ghcr.io", False),
        ("https://io/token", "https://ghcr.io", "ghcr.io", False),
        ("https://0.1/token", "http://127.0.0.1", "127.0.0.1", False),
        ("https://quay.io/token", "https://ghcr.io", "ghcr.io", False),
    ],
)
def test_a_login_is_told_to_the_registry_and_its_kin_alone(realm: str, base: str, name: str, told: bool) -> None:
    assert Challenge("bearer", {"realm": realm}).may_know_login_of(URL(base), name) is told


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ({"token": "t"}, 60.0),
        ({"access_token": "t", "expires_in": 300}, 300.0),
        ({"token": "t", "access_token": "other", "expires_in": "soon"}, 60.0),
        ({"token": "", "access_token": "t", "expires_in": 0}, 60.0),
        ({"token": None, "access_token": "t", "expires_in": -5}, 60.0),
        ({"nested": {"token": "wrong"}, "token": "t", "expires_in": 1e12}, 86400.0),
    ],
)
def test_a_token_is_read_by_either_name_with_the_time_that_it_lives(said: dict[str, object], seconds: float) -> None:
    token = token_of(orjson.dumps(said))
    assert (token.authorization, token.seconds) == ("Bearer t", seconds)
    assert "'t'" not in repr(token)


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b'"token"', b"{}", b'{"token": 5}', b'{"data": {"token": "t"}}', b'{"token":"a\\nb"}'],
)
def test_an_answer_without_a_token_is_no_permission(body: bytes) -> None:
    with pytest.raises(BadChallenge, match="no token"):
        token_of(body)
