"""Settings: named when wrong, before anything is connected."""

from __future__ import annotations

from pathlib import Path

import nkeys
import pytest

from workers.entrypoints import settings as settings_module
from workers.entrypoints.settings import ConfigurationError, load, redactor

GOOD = """
nats: {{url: "nats://127.0.0.1:1"}}
sovereign:
  fqdn: sovereign.test
  gitea: {{url: "http://127.0.0.1:1", login: {{username: u, password_file: {secret}}}}}
  harbor: {{url: "http://127.0.0.1:1", host: harbor.sovereign.test, login: {{username: u, password_file: {secret}}}}}
"""


@pytest.fixture
def good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("CUTOVER_CONFIG", raising=False)
    (tmp_path / "secret").write_text("correct-horse\n")
    file = tmp_path / "settings.yaml"
    file.write_text(GOOD.format(secret=tmp_path / "secret"))
    return file


def test_a_good_file_is_read(good: Path) -> None:
    assert load(good).sovereign.proof.hold == 600


def test_the_environment_overrides_the_file(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTOVER_NATS__URL", "nats://127.0.0.1:2")
    monkeypatch.setenv("CUTOVER_SOVEREIGN__PROOF__HOLD", "700")
    loaded = load(good)
    assert loaded.nats.url == "nats://127.0.0.1:2"
    assert loaded.sovereign.proof.hold == 700
    assert loaded.sovereign.fqdn == "sovereign.test"


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("fqdn: sovereign.test", "sovereign.fqdn (CUTOVER_SOVEREIGN__FQDN)"),
        ('nats: {url: "nats://127.0.0.1:1"}', "nats (CUTOVER_NATS)"),
    ],
)
def test_a_missing_setting_is_named_as_file_and_environment_spell_it(good: Path, line: str, named: str) -> None:
    good.write_text(good.read_text().replace(line, ""))
    with pytest.raises(ConfigurationError) as caught:
        load(good)
    assert named in str(caught.value)


def test_a_typo_is_named(good: Path) -> None:
    good.write_text(good.read_text() + "  proofs: {hold: 1}\n")
    with pytest.raises(ConfigurationError, match=r"sovereign\.proofs"):
        load(good)


def test_a_secret_file_that_is_missing_is_named(good: Path) -> None:
    (good.parent / "secret").unlink()
    with pytest.raises(ConfigurationError, match=r"sovereign\.gitea\.login\.password_file"):
        load(good)


def test_a_file_that_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file"):
        load(tmp_path / "absent.yaml")


def test_known_secrets_are_taken_out_of_texts(good: Path) -> None:
    assert redactor(load(good))("401 for u:correct-horse@host") == "401 for u:***@host"


@pytest.mark.parametrize("setting", ["HOLD", "REQUIRED"])
def test_only_a_rehearsal_may_hold_for_less_than_ten_minutes(
    good: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.setenv(f"CUTOVER_SOVEREIGN__PROOF__{setting}", "10")
    with pytest.raises(ConfigurationError, match=r"sovereign\.proof"):
        load(good)


def test_a_rehearsal_says_that_it_is_one(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTOVER_SOVEREIGN__PROOF__HOLD", "10")
    monkeypatch.setenv("CUTOVER_SOVEREIGN__PROOF__REHEARSAL", "true")
    assert load(good).sovereign.proof.rehearsal


def test_auto_fire_needs_to_know_what_shows_that_handover_is_finished(good: Path) -> None:
    good.write_text(good.read_text() + "auto_fire: {enabled: true}\n")
    with pytest.raises(ConfigurationError, match="handover"):
        load(good)
    good.write_text(good.read_text() + "handover: {namespace: catalyst, name: sealed}\n")
    assert load(good).auto_fire.enabled


def test_a_secret_that_is_rotated_is_taken_out_as_the_old_one_was(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings_module, "LOOK", -1.0)
    file = tmp_path / "secret"
    redact = redactor(load(good))
    assert redact("correct-horse") == "***"
    file.write_text("battery-staple")
    assert redact("battery-staple, once correct-horse") == "***, once ***"
    file.unlink()
    assert redact("battery-staple, once correct-horse") == "***, once ***"


@pytest.mark.parametrize(
    "url",
    ["", "nats://", "http://broker:4222", "nats://broker:99999", "nats://broker:0", "nats://[::1", "broker:4222",
     "nats://bob:hunter2@broker:4222", "bob:hunter2@broker", "nats://hunter2@broker", "nats://broker:hunter2",
     "nats://broker:4222?password=hunter2"],
)  # fmt: skip
def test_an_address_that_is_none_or_holds_a_login_is_refused_and_not_repeated(good: Path, url: str) -> None:
    good.write_text(good.read_text().replace("nats://127.0.0.1:1", url))
    with pytest.raises(ConfigurationError) as caught:
        load(good)
    assert "nats.url (CUTOVER_NATS__URL): " in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["nats://broker", "tls://broker.example:4222", "nats://[::1]:4222", "wss://broker/log"])
def test_an_address_of_a_broker_is_taken(good: Path, url: str) -> None:
    good.write_text(good.read_text().replace("nats://127.0.0.1:1", url))
    assert load(good).nats.url == url


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("CUTOVER_LOG_LEVEL", "FOO", "log_level (CUTOVER_LOG_LEVEL): "),
        ("CUTOVER_SOVEREIGN", "{hunter2", "sovereign (CUTOVER_SOVEREIGN): the variable holds no JSON"),
        ("CUTOVER_PACE__LEASE", "1.9", "pace.lease (CUTOVER_PACE__LEASE): "),
        ("CUTOVER_PACE__LEASE", "inf", "pace.lease (CUTOVER_PACE__LEASE): "),
    ],
)
def test_a_variable_that_is_wrong_is_named_and_not_the_file(
    good: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, named: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError) as caught:
        load(good)
    assert named in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "not readable as YAML" not in str(caught.value)


def test_a_level_may_be_written_small(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTOVER_LOG_LEVEL", "debug")
    assert load(good).log_level == "DEBUG"


SEED = nkeys.encode_seed(bytes(32), nkeys.PREFIX_BYTE_USER)
CREDENTIALS = b"-----BEGIN NATS USER JWT-----\ne.e.e\n-----END NATS USER JWT-----\n-----BEGIN USER NKEY SEED-----\n"


@pytest.mark.parametrize("setting", ["nkey_seed_file", "credentials_file", "token_file", "password_file", "ca_file"])
def test_a_file_that_is_not_what_it_is_named_for_is_told_before_anything_is_connected(
    good: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, setting: str
) -> None:
    file = tmp_path / "named"
    monkeypatch.setenv(f"CUTOVER_NATS__{setting.upper()}", str(file))
    for spoilt in (b"", b"\xffhunter2", CREDENTIALS + b"hunter2"):
        file.write_bytes(spoilt)
        if setting in ("token_file", "password_file") and spoilt.startswith(b"-"):
            continue  # any text may be one
        with pytest.raises(ConfigurationError) as caught:
            load(good)
        assert f"nats.{setting}: {file}: " in str(caught.value)
        assert "hunter2" not in str(caught.value)
    right = {"nkey_seed_file": SEED + b"\n", "credentials_file": CREDENTIALS + SEED + b"\n------END------\n"}
    if setting != "ca_file":
        file.write_bytes(right.get(setting, b"hunter2\n"))
        assert load(good).nats.url == "nats://127.0.0.1:1"
