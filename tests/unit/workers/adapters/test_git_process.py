"""What git sees of us, and what we make of what git says."""

from __future__ import annotations

import base64

import pytest
from pydantic import SecretStr

from workers.adapters.git_process import GitFailed, Remote, environment, failure, scrub
from workers.errors import Stuck, Wait

BOT = Remote("https://git.example/a/b", "bot", SecretStr("s3cret"))
PAIR = base64.b64encode(b"bot:s3cret").decode()


def settings(values: dict[str, str]) -> dict[str, str]:
    count = int(values["GIT_CONFIG_COUNT"])
    return {values[f"GIT_CONFIG_KEY_{n}"]: values[f"GIT_CONFIG_VALUE_{n}"] for n in range(count)}


def test_the_password_travels_in_one_header_and_follows_no_redirect() -> None:
    values = environment(BOT)
    assert settings(values)["http.extraHeader"] == f"Authorization: Basic {PAIR}"
    assert settings(values)["http.followRedirects"] == "false"
    assert sum(PAIR in value or "s3cret" in value for value in values.values()) == 1


def test_without_a_password_there_is_no_header() -> None:
    assert "http.extraHeader" not in settings(environment(Remote("https://git.example/a/b")))


def test_nobody_is_asked_and_nobody_elses_settings_count() -> None:
    values = environment(None)
    assert (values["GIT_TERMINAL_PROMPT"], values["GIT_CONFIG_NOSYSTEM"], values["GIT_CONFIG_GLOBAL"]) == (
        "0",
        "1",
        "/dev/null",
    )
    assert values["GIT_TRACE_CURL"] == "0"
    assert "GIT_CURL_VERBOSE" not in values, "whatever its value, it turns the trace on"


@pytest.mark.parametrize("text", ["x s3cret y", f"header {PAIR}", "https://bot:s3cret@git.example/", "https://u:p@h/"])
def test_no_spelling_of_a_secret_survives(text: str) -> None:
    clean = scrub(text, BOT)
    assert not any(word in clean for word in ("s3cret", PAIR, "u:p"))
    assert "***" in clean


def test_a_long_text_keeps_its_ends() -> None:
    clean = scrub("begin " + "x\n" * 5000 + " end", None)
    assert clean.startswith("begin")
    assert clean.endswith("end")
    assert len(clean) <= 400


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        ("fatal: Authentication failed for 'https://git.example/'", Stuck, "UpstreamDenied"),
        ("fatal: unable to access 'x': The requested URL returned error: 403", Stuck, "UpstreamDenied"),
        ("remote: mirror repository is read-only fatal: ... returned error: 403", Stuck, "UpstreamReadOnly"),
        ("fatal: repository 'https://git.example/a/b/' not found", Stuck, "UpstreamNotFound"),
        ("fatal: unable to access 'x': SSL certificate problem: self-signed", Stuck, "UpstreamUntrusted"),
        ("fatal: unable to access 'x': server certificate verification failed", Stuck, "UpstreamUntrusted"),
        ("fatal: write error: No space left on device", Stuck, "UpstreamDiskFull"),
        ("fatal: unable to access 'x': Could not resolve host: git.example", Wait, "UpstreamUnavailable"),
        (
            "fatal: unable to access 'x': Failed to connect to git.example port 443",
            Wait,
            "UpstreamUnavailable",
        ),
        ("fatal: unable to access 'x': The requested URL returned error: 429", Wait, "UpstreamUnavailable"),
        ("fatal: unable to access 'x': The requested URL returned error: 502", Wait, "UpstreamUnavailable"),
        ("error: RPC failed; curl 92 HTTP/2 stream 5 was not closed cleanly", Wait, "UpstreamUnavailable"),
        ("fatal: early EOF fatal: fetch-pack: invalid index-pack output", Wait, "UpstreamUnavailable"),
        ("fatal: expected flush after ref listing", Wait, "UpstreamUnavailable"),
        ("fatal: something new", GitFailed, None),
    ],
)
def test_what_git_says_becomes_one_word(text: str, kind: type[Exception], reason: str | None) -> None:
    found = failure("fetch", "Upstream", text)
    assert isinstance(found, kind)
    assert getattr(found, "reason", None) == reason
