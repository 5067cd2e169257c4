"""What closes a node's own way out, and opens it again without us: entries that expire in the kernel."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol

from pydantic import AwareDatetime

from schemas.base import Arrives
from workers.errors import Stuck, Wait

TABLE = "catalyst_cutover"
LIMIT = 30.0  # seconds for one transaction; nft needs some milliseconds
CLOCK = 10.0  # seconds that a node's clock may be behind the worker's
PRIVATE = (
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "127.0.0.0/8",
    "224.0.0.0/4",
    "fc00::/7",
    "fe80::/10",
    "ff00::/8",
    "::1/128",
)
"""Never closed: the cluster's own wires (nodes, Pods, services, link-local, loopback)."""

# nft refuses 0.0.0.0/0 in some versions' interval sets; two halves are the same and always taken.
HALVES = {"0.0.0.0/0": ("0.0.0.0/1", "128.0.0.0/1"), "::/0": ("::/1", "8000::/1")}


class NodeBlock(Arrives):
    """What a node shall not reach, and until when. Written by step 8, key `block.json`."""

    deny: tuple[str, ...]
    """Networks in CIDR notation; the world is `0.0.0.0/0` and `::/0`."""
    allow: tuple[str, ...] = ()
    """Networks that stay open inside of what is denied."""
    expires_at: AwareDatetime
    """After this nothing is denied any more, whoever is alive."""
    token: int = 0
    """Fencing token of the attempt that ordered it: an earlier one must not lift it."""
    lease: float | None = None
    """Seconds for which it was ordered. No node holds it longer from its arrival, whatever its clock says.
    None from a worker of before, which did not say."""
    resolvers: tuple[str, ...] = ()
    """Addresses that nodes ask for names: open on port 53, and on no other."""

    def remaining(self, now: datetime) -> float:
        """Seconds until it lifts itself; 0 when that is past."""
        return max(0.0, (self.expires_at - now).total_seconds())

    def holds(self, now: datetime) -> float:
        """Seconds that a node which takes it now may hold it."""
        left = self.remaining(now)
        return left if self.lease is None else min(left, self.lease)

    def odd(self, now: datetime) -> str:
        """What is wrong with the clock of a node on which it arrives at this moment; empty when nothing is."""
        left = (self.expires_at - now).total_seconds()
        if left <= 0:
            return "a block that is over by this node's clock was ordered: nobody renews it, or the clock is ahead"
        if self.lease is not None and left > self.lease + CLOCK:
            return f"a block of {self.lease:g} s ends more than {CLOCK:g} s later by this node's clock, which is behind"
        return ""

    def answers(self, resolver: str, now: datetime) -> bool:
        """True when the node may ask this address for names."""
        return resolver in self.resolvers or not self.denies(resolver, now)

    def denies(self, address: str, now: datetime) -> bool:
        """True while this block stands between the node and the address."""
        if not self.remaining(now):
            return False
        return within(address, self.deny) and not within(address, (*PRIVATE, *self.allow))


def within(address: str, networks: Iterable[str]) -> bool:
    """True when one of the networks holds the address."""
    ip = ipaddress.ip_address(address)
    return any(ip in ipaddress.ip_network(n, strict=False) for n in networks)


class Firewall(Protocol):
    """A node's own firewall."""

    async def block(self, block: NodeBlock, now: datetime) -> None:
        """From now until `expires_at` the node cannot reach what is denied. Replaces an earlier block."""
        ...

    async def lift(self) -> bool:
        """Nothing is denied any more. False when nothing was."""
        ...


def _family(networks: Iterable[str], version: int) -> list[str]:
    """Networks of one IP version, none inside another: nft refuses overlapping intervals."""
    mine = (ipaddress.ip_network(n, strict=False) for n in networks)
    # collapse_addresses is typed for one version only; the filter makes it so.
    chosen = [n for n in mine if n.version == version]
    return [str(n) for n in ipaddress.collapse_addresses(chosen)]  # type: ignore[type-var]


def _elements(networks: Sequence[str], seconds: int | None) -> str:
    if not networks:
        return ""
    suffix = f" timeout {seconds}s" if seconds is not None else ""
    halves = [half for n in networks for half in HALVES.get(n, (n,))]
    return "elements = { " + ", ".join(f"{n}{suffix}" for n in halves) + " }"


def ruleset(block: NodeBlock, now: datetime, resolvers: Sequence[str]) -> str:
    """The whole nft transaction: our own table, replaced. Only `denied` bites, and its elements expire.

    `output` sees what the node itself sends, host-network Pods and image pulls included; Pods with a network
    of their own pass `forward` and are the policy's matter. Replies to who called us are never cut. `resolvers`:
    open on port 53 beside those of the order.
    """
    seconds = max(1, int(block.holds(now)))
    known = [a for a in (*block.resolvers, *resolvers) if not ipaddress.ip_address(a).is_loopback]
    allow = (*PRIVATE, *block.allow)
    lines = [f"table inet {TABLE}", f"delete table inet {TABLE}", f"table inet {TABLE} {{"]
    for version, kind in ((4, "ipv4_addr"), (6, "ipv6_addr")):
        denied, opened = _family(block.deny, version), _family(allow, version)
        asked = _family(known, version)
        lines += [
            f"  set denied{version} {{ type {kind}; flags interval, timeout; {_elements(denied, seconds)} }}",
            f"  set open{version} {{ type {kind}; flags interval; {_elements(opened, None)} }}",
            f"  set resolvers{version} {{ type {kind}; flags interval; {_elements(asked, None)} }}",
        ]
    lines += [
        "  chain output {",
        "    type filter hook output priority 10; policy accept;",
        '    oifname "lo" accept',
        "    ct direction reply accept",
        "    ip daddr @open4 accept",
        "    ip6 daddr @open6 accept",
        "    ip daddr @resolvers4 meta l4proto { tcp, udp } th dport 53 accept",
        "    ip6 daddr @resolvers6 meta l4proto { tcp, udp } th dport 53 accept",
        "    ip daddr @denied4 drop",
        "    ip6 daddr @denied6 drop",
        "  }",
        "}",
    ]
    return "\n".join(lines) + "\n"


def nameservers(resolv_conf: str) -> list[str]:
    """Addresses that are asked for names where this file stands."""
    words = [line.split() for line in resolv_conf.splitlines() if line.startswith("nameserver")]
    return [w[1].split("%", 1)[0] for w in words if len(w) > 1]


class NftFirewall:
    """The node's nftables, in a table of our own. Needs CAP_NET_ADMIN in the host's network namespace.

    Who the node asks for names stands in the order. The file here is the agent's own, which names the cluster's
    resolver: by that the agent itself finds the API and the log.
    """

    def __init__(self, resolv_conf: Path = Path("/etc/resolv.conf")) -> None:
        self._resolv_conf = resolv_conf

    async def block(self, block: NodeBlock, now: datetime) -> None:
        """Replace our table. A block that is already over lifts."""
        if not block.remaining(now):
            await self.lift()
            return
        await _nft(ruleset(block, now, nameservers(self._resolv_conf.read_text(encoding="utf-8"))))

    async def lift(self) -> bool:
        """Remove our table."""
        if TABLE not in await _nft("list tables\n"):
            return False
        await _nft(f"table inet {TABLE}\ndelete table inet {TABLE}\n")
        return True


async def _nft(text: str) -> str:
    try:
        process = await asyncio.create_subprocess_exec(
            "nft",
            "-f",
            "-",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except FileNotFoundError as error:
        raise Stuck("NoNft", "the node agent's image has no nft; a node block is not possible") from error
    try:
        async with asyncio.timeout(LIMIT):
            out, err = await process.communicate(text.encode())
    except TimeoutError:
        raise Wait("NftFailed", f"nft: no end after {LIMIT:g} s; is the node's kernel well?") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == 0:
        return out.decode()
    message = err.decode(errors="replace").strip()[:500]
    if "not permitted" in message:
        raise Stuck("NftDenied", f"nft: {message}; the node agent needs CAP_NET_ADMIN and hostNetwork")
    raise Wait("NftFailed", f"nft: {message}")
