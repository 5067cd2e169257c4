"""What a canary says fits into what Kubernetes brings back: every name, every address there is, every finding."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from schemas.canary import FINDINGS, NAMES, RESOLVERS, Finding
from workers.entrypoints import canary
from workers.entrypoints.canary import MESSAGE, document, names_document
from workers.proof.names import AT_ONCE, parted, routed


def test_an_answer_of_as_many_names_as_are_asked_at_once_fits_into_a_termination_message() -> None:
    six = tuple(f"2001:db8:ffff:ffff:ffff:ffff:ffff:{n:04x}" for n in range(0x1000, 0x1000 + 10))
    four = tuple(f"198.51.100.1{n:02}" for n in range(10))
    said = names_document({f"a-rather-long-registry-name-{n}.example": (*four, *six) for n in range(AT_ONCE)})
    assert len(said) < 4096
    assert len(NAMES.validate_json(said)) == AT_ONCE


def test_every_name_is_asked_once() -> None:
    urls = [f"https://h{n}" for n in range(12)]
    assert [url for part in parted(urls) for url in part] == urls
    assert max(len(part) for part in parted(urls)) == AT_ONCE


def test_findings_of_forty_hosts_fit_into_a_termination_message_and_few_say_all() -> None:
    def findings(count: int) -> list[Finding]:
        return [
            Finding(host=f"a-long-name-of-a-registry-{n}.example", reached=False, detail="x" * 80) for n in range(count)
        ]

    many = document(findings(40))
    assert len(many) <= MESSAGE
    assert [f.host for f in FINDINGS.validate_json(many)] == [f.host for f in findings(40)]
    assert FINDINGS.validate_json(document(findings(15))) == tuple(findings(15))


def test_who_is_asked_for_names_is_read_where_the_pod_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("search x\nnameserver 185.12.64.1\nnameserver fe80::1%eth0\nnameserver 127.0.0.53\n")
    monkeypatch.setattr(canary, "RESOLV_CONF", file)
    out = tmp_path / "said"
    done = CliRunner().invoke(canary.command, ["--resolvers", "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0
    assert RESOLVERS.validate_json(out.read_text()) == ("185.12.64.1", "fe80::1", "127.0.0.53")


def test_loopback_and_what_is_no_address_is_opened_for_nobody() -> None:
    said = ["185.12.64.1", "127.0.0.53", "::1", "0.0.0.0", "dns.example", "2A01:4FF::1"]
    assert list(routed(said)) == ["185.12.64.1", "2a01:4ff::1"]


def test_a_canary_that_is_given_nothing_to_try_says_so() -> None:
    assert CliRunner().invoke(canary.command, []).exit_code == 2
