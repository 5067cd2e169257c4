"""The node firewall in network namespaces of its own: two machines, a wire, and the kernel between them.

The node can reach an upstream (203.0.113.9) and a local address (10.7.0.2). Nothing of ours runs any more when the
kernel lets the node out again.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from workers.adapters.firewall import TABLE, NodeBlock, ruleset

RUNBOOK = Path(__file__).parents[3] / "docs" / "runbook.md"
UPSTREAM, LOCAL = "203.0.113.9", "10.7.0.2"
SERVER = """
import socket, threading
def bound(family, address, port=80):
    s = socket.socket(family)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((address, port)); s.listen()
    return s
def serve(s):
    while True:
        c, _ = s.accept()
        threading.Thread(target=echo, args=(c,), daemon=True).start()
def echo(c):
    while data := c.recv(100):
        c.sendall(data)
six, four = bound(socket.AF_INET6, "2001:db8::9"), bound(socket.AF_INET, "0.0.0.0")
threading.Thread(target=serve, args=(six,), daemon=True).start()
names = bound(socket.AF_INET, "0.0.0.0", 53)
threading.Thread(target=serve, args=(names,), daemon=True).start()
asked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); asked.bind(("203.0.113.9", 53))
def answer():
    while True:
        data, who = asked.recvfrom(100)
        asked.sendto(data, who)
threading.Thread(target=answer, daemon=True).start()
print("up", flush=True)
serve(four)
"""
ASK = """
import socket, sys
s = socket.socket(
    socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET,
    socket.SOCK_DGRAM if sys.argv[4] == "udp" else socket.SOCK_STREAM,
)
s.settimeout(float(sys.argv[2]))
try:
    s.connect((sys.argv[1], int(sys.argv[3]))); s.sendall(b"x"); print(s.recv(1) == b"x")
except OSError:
    print(False)
"""
KEEP = """
import socket, sys
s = socket.socket(); s.settimeout(30.0); s.connect((sys.argv[1], 80))
s.sendall(b"a"); s.recv(1); print("open", flush=True)
s.settimeout(float(sys.argv[2]))
for line in sys.stdin:
    try:
        s.sendall(b"b"); print(s.recv(1) == b"b", flush=True)
    except OSError:
        print(False, flush=True)
"""


TRACKING = """
table inet tracking {
  chain output { type filter hook output priority 0; ct state established counter; }
  chain input { type filter hook input priority 0; ct state established counter; }
}
"""


def run(*command: str, text: str | None = None) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def _possible() -> bool:
    if os.geteuid() != 0 or not all(shutil.which(t) for t in ("nft", "ip")):
        return False
    name = f"cutover-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    rules = f"table inet {TABLE} {{ set d {{ type ipv4_addr; flags interval, timeout; }}\n}}\n"
    able = made and (
        subprocess.run(
            ["ip", "netns", "exec", name, "nft", "-f", "-"], input=rules.encode(), capture_output=True, check=False
        ).returncode
        == 0
    )
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return able


pytestmark = pytest.mark.skipif(not _possible(), reason="needs root, ip, nft and a kernel with namespaces and nftables")


@dataclass
class Node:
    """A node and its upstream, as two network namespaces."""

    name: str

    def python(self, code: str, *arguments: str) -> list[str]:
        return ["ip", "netns", "exec", self.name, sys.executable, "-c", code, *arguments]

    def reaches(self, address: str, patience: float = 10.0, port: int = 80, by: str = "tcp") -> bool:
        """Whether it answers within so many seconds; few are enough where nothing must answer."""
        return run(*self.python(ASK, address, f"{patience}", f"{port}", by)).strip() == "True"

    def close(self, seconds: float, *, allow: tuple[str, ...] = (), **more: Any) -> None:
        """The block as the agent puts it up; the agent itself is dead the moment it is done."""
        now = datetime.now(UTC)
        until = now + timedelta(seconds=seconds)
        block = NodeBlock(deny=("0.0.0.0/0", "::/0"), allow=allow, expires_at=until, **more)
        run("ip", "netns", "exec", self.name, "nft", "-f", "-", text=ruleset(block, now, []))


@pytest.fixture
def node() -> Iterator[Node]:
    inner, outer = f"cutover-n-{os.getpid()}", f"cutover-u-{os.getpid()}"
    for name in (inner, outer):
        run("ip", "netns", "add", name)
    server = None
    try:
        run("ip", "link", "add", "n0", "netns", inner, "type", "veth", "peer", "name", "u0", "netns", outer)
        for name, link, addresses in (
            (inner, "n0", ("10.7.0.1/24", "203.0.113.1/24", "2001:db8::1/64")),
            (outer, "u0", ("10.7.0.2/24", "203.0.113.9/24", "2001:db8::9/64")),
        ):
            for address in addresses:
                nodad = ("nodad",) if ":" in address else ()
                run("ip", "-n", name, "addr", "add", address, "dev", link, *nodad)
            run("ip", "-n", name, "link", "set", link, "up")
            run("ip", "-n", name, "link", "set", "lo", "up")
        # As on every node of a cluster, connections are tracked before we come: an open one is known as such.
        run("ip", "netns", "exec", inner, "nft", "-f", "-", text=TRACKING)
        server = subprocess.Popen(
            ["ip", "netns", "exec", outer, sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True
        )
        assert server.stdout is not None
        assert server.stdout.readline().strip() == "up"
        node = Node(inner)
        # A link-local address is tentative for its first second, and without one no neighbour is found.
        deadline = time.monotonic() + 60
        while not node.reaches("2001:db8::9", 1.0) and time.monotonic() < deadline:
            time.sleep(0.2)
        yield node
    finally:
        if server is not None:
            server.kill()
            server.communicate()
        for name in (inner, outer):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def test_upstream_is_unreachable_and_local_is_not_until_the_kernel_forgets(node: Node) -> None:
    assert all(node.reaches(a) for a in (UPSTREAM, LOCAL, "2001:db8::9"))
    node.close(6)
    began = time.monotonic()
    assert not node.reaches(UPSTREAM, 1.0)
    assert not node.reaches("2001:db8::9", 1.0)
    assert node.reaches(LOCAL)
    # No process of ours is left in the namespace; only the kernel can open it again.
    while time.monotonic() - began < 60 and not node.reaches(UPSTREAM, 1.0):
        time.sleep(0.2)
    assert 3 < time.monotonic() - began < 60
    assert node.reaches("2001:db8::9")


def test_the_runbooks_command_opens_the_node_at_once(node: Node) -> None:
    (command,) = re.findall(r"`(nft [^`]+)`", RUNBOOK.read_text(encoding="utf-8"))
    node.close(300)
    assert not node.reaches(UPSTREAM, 1.0)
    run("ip", "netns", "exec", node.name, *shlex.split(command))
    assert node.reaches(UPSTREAM)
    assert node.reaches("2001:db8::9")


def test_an_established_connection_upstream_is_cut_and_a_local_one_lives(node: Node) -> None:
    kept = {
        address: subprocess.Popen(
            node.python(KEEP, address, patience), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for address, patience in ((UPSTREAM, "1"), (LOCAL, "30"))
    }
    try:
        for process in kept.values():
            assert process.stdout is not None
            assert process.stdout.readline().strip() == "open"
        node.close(30)
        answers = {}
        for address, process in kept.items():
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            answers[address] = process.stdout.readline().strip()
        assert answers == {UPSTREAM: "False", LOCAL: "True"}
    finally:
        for process in kept.values():
            process.kill()
            process.communicate()


def test_a_resolver_outside_is_asked_for_names_and_reached_by_nothing_else(node: Node) -> None:
    node.close(30)
    assert not node.reaches(UPSTREAM, 1.0, 53)
    assert not node.reaches(UPSTREAM, 1.0, 53, "udp")
    node.close(30, resolvers=(UPSTREAM, "127.0.0.53"))
    assert node.reaches(UPSTREAM, port=53)
    assert node.reaches(UPSTREAM, port=53, by="udp")
    assert not node.reaches(UPSTREAM, 1.0)


def test_a_node_whose_clock_is_behind_is_let_out_when_the_lease_is_over(node: Node) -> None:
    # To this node the end is an hour away; its kernel counts the lease.
    node.close(3600, lease=2.0)
    assert not node.reaches(UPSTREAM, 0.5)
    deadline = time.monotonic() + 60
    while not node.reaches(UPSTREAM, 1.0) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert node.reaches(UPSTREAM)


def test_what_is_allowed_stays_open_and_a_renewal_replaces_the_block(node: Node) -> None:
    node.close(30)
    assert not node.reaches(UPSTREAM, 1.0)
    node.close(30, allow=("203.0.113.0/28",))
    assert node.reaches(UPSTREAM)
    assert not node.reaches("2001:db8::9", 1.0)
