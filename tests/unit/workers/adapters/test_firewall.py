"""The node firewall's rules, as text that nft itself accepts."""

from __future__ import annotations

import os
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


def test_what_is_over_denies_nothing() -> None:
    assert BLOCK.denies("198.51.100.1", NOW)
    assert not BLOCK.denies("198.51.100.1", NOW + timedelta(seconds=60))
    assert not BLOCK.denies("203.0.113.9", NOW)
    assert not BLOCK.denies("10.1.2.3", NOW)


def test_only_the_nodes_own_resolvers_stay_open_for_names() -> None:
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
