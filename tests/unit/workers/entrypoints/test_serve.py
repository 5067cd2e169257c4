"""Without configuration nothing is open."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from workers.entrypoints.api.app import KINDS
from workers.entrypoints.api.feed import frame
from workers.entrypoints.api.serve import loopback
from workers.entrypoints.cli import main


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    password = tmp_path / "password"
    password.write_text("unused")
    login = {"username": "u", "password_file": str(password)}
    file = tmp_path / "settings.yaml"
    document = {
        "nats": {"url": "nats://127.0.0.1:1"},
        "sovereign": {
            "fqdn": "sovereign.test",
            "gitea": {"url": "http://127.0.0.1:1", "login": login},
            "harbor": {"url": "http://127.0.0.1:2", "host": "harbor.sovereign.test", "login": login},
        },
    }
    file.write_text(yaml.safe_dump(document))
    return file


def served(settings: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["--config", str(settings), "serve", *words])


def test_without_anybody_who_could_be_known_nothing_is_served(settings: Path) -> None:
    told = served(settings)
    assert told.exit_code == 2
    assert "api.identity" in told.output


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "192.168.1.1"])
def test_insecure_dev_listens_on_loopback_only(settings: Path, host: str) -> None:
    told = served(settings, "--insecure-dev", "--host", host)
    assert told.exit_code == 2
    assert "loopback only" in told.output


def test_what_is_loopback() -> None:
    assert loopback("127.0.0.1")
    assert loopback("127.8.8.8")
    assert loopback("::1")
    assert not loopback("0.0.0.0")
    assert not loopback("::")
    assert not loopback("203.0.113.1")


def test_a_ticket_key_that_is_too_short_is_refused(settings: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("short")
    document = yaml.safe_load(settings.read_text())
    document["api"] = {"identity": {"issuer": "https://keycloak.test/realms/r"}, "ticket_key_file": str(key)}
    settings.write_text(yaml.safe_dump(document))
    told = served(settings)
    assert told.exit_code == 2
    assert "fewer than 32 bytes" in told.output


def test_an_algorithm_that_anyone_could_sign_with_cannot_be_allowed(settings: Path) -> None:
    for word in ("none", "HS256", "dir"):
        document = yaml.safe_load(settings.read_text())
        document["api"] = {"identity": {"issuer": "https://keycloak.test/realms/r", "algorithms": [word]}}
        settings.write_text(yaml.safe_dump(document))
        assert served(settings).exit_code == 2, word


def test_what_stands_in_the_journal_cannot_break_out_of_its_frame() -> None:
    from events.log import Entry
    from events.subjects import JOURNAL

    hostile = b'{"specversion":"1.0","id":"1","source":"x","type":"t\\n\\nevent: completed",\n\n"subject":"a"}'
    for raw in (hostile, b"\n\nid: 9\nevent: completed\ndata: {}\n\n", b"\xff\xfe"):
        sent = frame(Entry(7, JOURNAL, raw))
        assert sent.startswith(b"id: 7\nevent: foreign\ndata: ")
        assert sent.count(b"\n") == 4
        assert b"\r" not in sent


def test_only_files_of_the_console_are_served_by_name() -> None:
    assert set(KINDS) >= {".html", ".css", ".js"}
    assert ".py" not in KINDS
