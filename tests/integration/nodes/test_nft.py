"""The node firewall in a network namespace of its own: it blocks, and the kernel lifts it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from workers.adapters.firewall import NodeBlock, ruleset


def _can_unshare() -> bool:
    if os.geteuid() != 0 or not all(shutil.which(t) for t in ("nft", "ip", "unshare")):
        return False
    made = subprocess.run(["unshare", "--net", "ip", "link", "add", "d0", "type", "veth"], capture_output=True)
    return made.returncode == 0


NEEDS = pytest.mark.skipif(not _can_unshare(), reason="needs root, nft, ip and network namespaces")

SCRIPT = """
import socket, subprocess, sys, time
for command in (
    "ip link set lo up", "ip link add d0 type veth peer name d1", "ip addr add 203.0.113.1/24 dev d0",
    "ip link set d0 up", "ip link set d1 up",
    "ip route add default dev d0",
):
    subprocess.run(command.split(), check=True)
def leaves(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        try:
            out.sendto(b"x", (address, 9))
        except PermissionError:
            return False
    return True
before = leaves("198.51.100.7")
subprocess.run(["nft", "-f", "-"], input=sys.stdin.read(), text=True, check=True)
blocked, inside = leaves("198.51.100.7"), leaves("10.1.2.3")
allowed = leaves("192.0.2.5")
time.sleep(2.5)
print(before, blocked, inside, allowed, leaves("198.51.100.7"))
"""


@NEEDS
def test_packets_are_dropped_until_the_kernel_forgets_the_block() -> None:
    now = datetime.now(UTC)
    block = NodeBlock(deny=("0.0.0.0/0", "::/0"), allow=("192.0.2.0/24",), expires_at=now + timedelta(seconds=2))
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", SCRIPT],
        input=ruleset(block, now, []),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "False", "True", "True", "True"]
