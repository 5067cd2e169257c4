"""The command line: it teaches, it names what is wrong, and its exit codes mean one thing each."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

from events import flow
from events.jetstream import StreamDrift
from events.log import LogUnavailable
from workers.entrypoints.cli import main, steps_of
from workers.entrypoints.cli_common import run
from workers.errors import Wait

DEAD = "nats://127.0.0.1:9"


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """Settings in order, of a Sovereign whose broker is not there."""
    secret = tmp_path / "secret"
    secret.write_text("s3cret-value")
    login = {"username": "u", "password_file": str(secret)}
    document = {
        "nats": {"url": DEAD, "budget": 0.5},
        "sovereign": {
            "fqdn": "sovereign.test",
            "gitea": {"url": "http://127.0.0.1:9", "login": login},
            "harbor": {"url": "http://127.0.0.1:9", "host": "harbor.sovereign.test", "login": login},
        },
    }
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


def called(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, arguments, env={"CUTOVER_CONFIG": ""})
    return result.exit_code, result.output


@pytest.mark.parametrize("name", ["work", "request", "cancel", "status", "watch", "log", "verify", "replay"])
def test_every_command_explains_itself(name: str) -> None:
    code, said = called(name, "--help")
    assert code == 0
    assert "Usage:" in said
    assert called("--help")[1].count(f"\n  {name} ") == 1


def test_the_exit_codes_are_written_down() -> None:
    assert "3  broker or cluster unreachable" in called("--help")[1]


@pytest.mark.parametrize("name", ["work", "request", "cancel", "status", "watch", "log", "verify", "replay"])
def test_a_missing_setting_is_named_and_nothing_is_connected(name: str) -> None:
    code, said = called(name)
    assert code == 2
    assert "CUTOVER_NATS" in said
    assert "CUTOVER_SOVEREIGN" in said


def test_a_misspelt_setting_is_named(settings: Path) -> None:
    document = yaml.safe_load(settings.read_text())
    document["sovereign"]["gitea"]["organization"] = "openova"
    settings.write_text(yaml.safe_dump(document))
    code, said = called("status", "--config", str(settings))
    assert code == 2
    assert "sovereign.gitea.organization" in said


def test_a_settings_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    code, said = called("--config", str(tmp_path / "none.yaml"), "status")
    assert code == 2
    assert "none.yaml" in said


@pytest.mark.parametrize(("words", "slugs"), [
    ("1", ("gitea-mirror",)),
    ("3,harbor-projects", ("harbor-projects", "harbor-prewarm")),
    ("1-3", flow.SLUGS[:3]),
    (None, flow.SLUGS),
    ("egress-block-test", ("egress-block-test",)),
])  # fmt: skip
def test_steps_are_chosen_by_slug_number_or_range(words: str | None, slugs: tuple[str, ...]) -> None:
    assert steps_of(words) == slugs


@pytest.mark.parametrize("words", ["9", "0", "nonsense", "3-1", "1-9", "1-", "²", "1-²", "1-99999999999", "9" * 5000])
def test_a_step_that_does_not_exist_is_wrong_usage(words: str) -> None:
    for command, option in (("work", "--steps"), ("log", "--step")):
        code, said = called(command, option, words)
        assert code == 2
        assert "gitea-mirror" in said


async def _raises(error: Exception) -> None:
    raise ExceptionGroup("a task group's", [error])


@pytest.mark.parametrize(("error", "code"), [
    (LogUnavailable("away"), 3), (Wait("Down", "away"), 3), (StreamDrift("differs"), 4),
])  # fmt: skip
def test_trouble_deep_in_a_task_group_still_has_its_exit_code(error: Exception, code: int) -> None:
    with pytest.raises(click.ClickException) as ended:
        run(_raises(error))
    assert ended.value.exit_code == code


def test_a_defect_is_not_dressed_up() -> None:
    with pytest.raises(ExceptionGroup):
        run(_raises(ZeroDivisionError()))


def test_an_export_is_verified_without_settings_or_broker(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text('{"seq":1,"subject":"catalyst.cutover.requested","event":{"a":1}}\n')
    code, said = called("verify", str(file))
    assert code == 0
    assert "1 messages" in said
    file.write_text('{"seq": 1, "subject": "catalyst.cutover.requested", "event": {"a": 1}}\n')
    code, said = called("verify", str(file))
    assert code == 4
    assert "rewritten" in said
