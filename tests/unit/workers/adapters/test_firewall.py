"""The node firewall's rules, as text that nft itself accepts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from workers.adapters import firewall
from workers.adapters.firewall import NodeBlock, nameservers, ruleset
from workers.errors import Wait

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BLOCK = NodeBlock(
    deny=("0.0.0.0/0", "::/0"), allow=("203.0.113.0/24", "10.42.0.0/24"), expires_at=NOW + timedelta(seconds=60)
)


def test_every_denied_element_expires_in_the_kernel() -> None:
    text = ruleset(BLOCK, NOW, ["192.0.2.53"])
    denied = [line for line in text.splitlines() if "set denied" in line]
    assert len(denied) == 2
    assert all(line.count("timeout 60s") == 2 for line in denied)
    assert "drop" not in text.replace("@denied4 drop", "").replace("@denied6 drop", "")


LEASED = BLOCK.model_copy(update={"lease": 60.0})


@pytest.mark.parametrize(("skew", "seconds"), [(0, 60), (-5, 60), (-3600, 60), (30, 30)])
def test_no_clock_makes_a_node_hold_a_block_longer_than_its_lease(skew: int, seconds: int) -> None:
    text = ruleset(LEASED, NOW + timedelta(seconds=skew), [])
    assert set(re.findall(r"timeout (\d+)s", text)) == {str(seconds)}


@pytest.mark.parametrize(
    ("skew", "word"), [(0, ""), (-9, ""), (50, ""), (-3600, "which is behind"), (60, "is ahead"), (3600, "is ahead")]
)
def test_a_clock_by_which_the_end_cannot_be_right_is_told(skew: int, word: str) -> None:
    said = LEASED.odd(NOW + timedelta(seconds=skew))
    assert (word in said) if word else not said


def test_who_nodes_ask_for_names_is_open_on_port_53_and_on_no_other() -> None:
    asked = BLOCK.model_copy(update={"resolvers": ("185.12.64.1", "2a01:4ff:ff00::add:1", "127.0.0.53", "::1")})
    lines = ruleset(asked, NOW, ["10.43.0.10"]).splitlines()
    sets = {
        name: line
        for line in lines
        for name in ("open4", "open6", "resolvers4", "resolvers6")
        if f"set {name} " in line
    }
    assert "elements = { 10.43.0.10/32, 185.12.64.1/32 }" in sets["resolvers4"]
    assert "elements = { 2a01:4ff:ff00::add:1/128 }" in sets["resolvers6"]
    assert "185.12.64.1" not in sets["open4"]
    assert "2a01:4ff" not in sets["open6"]
    assert all("dport 53" in line for line in lines if "@resolvers" in line)
    assert asked.answers("185.12.64.1", NOW)
    assert asked.denies("185.12.64.1", NOW)
    assert not BLOCK.answers("185.12.64.1", NOW)


def test_what_is_over_denies_nothing() -> None:
    assert BLOCK.denies("198.51.100.1", NOW)
    assert not BLOCK.denies("198.51.100.1", NOW + timedelta(seconds=60))
    assert not BLOCK.denies("203.0.113.9", NOW)
    assert not BLOCK.denies("10.1.2.3", NOW)


def test_nameservers_are_read_from_a_resolv_conf() -> None:
    assert nameservers("# x\nnameserver 192.0.2.53\nsearch a\nnameserver fe80::1%eth0\n") == [
        "192.0.2.53",
        "fe80::1",
    ]


@pytest.mark.skipif(shutil.which("nft") is None or os.geteuid() != 0, reason="needs nft and root")
def test_nft_accepts_the_rules() -> None:
    text = ruleset(BLOCK, NOW, ["192.0.2.53", "2001:db8::53"])
    done = subprocess.run(["nft", "-c", "-f", "-"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


async def test_an_nft_that_hangs_is_ended_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nft = tmp_path / "nft"
    nft.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 600\n")
    nft.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(firewall, "LIMIT", 1.0)
    with pytest.raises(Wait, match="NftFailed: nft: no end after 1 s"):
        await firewall.NftFirewall().lift()
    if (tmp_path / "pid").exists():  # a slow machine may not have got so far
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)
