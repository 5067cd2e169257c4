"""Settings: named when wrong, before anything is connected."""

from __future__ import annotations

from pathlib import Path

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
