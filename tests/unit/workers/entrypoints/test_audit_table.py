"""What an audit shows of names that somebody else made: as they are."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from workers.audit.finding import Audit, Finding, Severity
from workers.entrypoints.cli_audit import table


def shown(field: str, host: str) -> str:
    found = Finding(
        tether=5, title="t", severity=Severity.TETHER, kind="Secret", namespace="ns", name="x",
        field=field, host=host, puller="p", owner="o", cut_by="c",
    )  # fmt: skip
    out = io.StringIO()
    Console(highlight=False, width=200, file=out).print(table(Audit(datetime.now(UTC), (found,))))
    return out.getvalue()


@pytest.mark.parametrize(
    ("field", "host"),
    [
        ("auths[ghcr.io]", "ghcr.io"),
        ("env[http_proxy] of app", "[fd00::1]:3128"),
        ("not read", "cannot parse [/etc/foo] or [bold]"),
        ("env[X] of app", "registry:key:1"),
    ],
)
def test_brackets_and_colons_of_a_name_are_no_markup(field: str, host: str) -> None:
    text = shown(field, host)
    assert field in text
    assert host in text


def test_a_name_does_not_steer_the_terminal() -> None:
    text = shown("env[X] of app", "a\x1b[2Jb.example.org\r\x9b0m")
    assert not {"\x1b", "\r", "\x9b"} & set(text)
    assert "b.example.org" in text
