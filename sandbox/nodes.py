"""Three k3s nodes as cloud-init leaves them: directories with the files that k3s wrote, all tied upstream."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomli_w

from sandbox.catalogue import MOTHERSHIP
from workers.adapters.containerd import HEADER, Containerd
from workers.adapters.firewall import NodeBlock
from workers.entrypoints.node_agent import containerd_at

Object = dict[str, Any]
NAMES = ("cp-1", "worker-1", "worker-2")
MIRRORED = {
    "docker.io": "proxy-dockerhub",
    "ghcr.io": "proxy-ghcr",
    "quay.io": "proxy-quay",
    "registry.k8s.io": "proxy-k8s",
    "gcr.io": "proxy-gcr",
}
"""What the vendor's cloud-init mirrors, and the project of the mothership that it uses."""
RESOLVER = "192.0.2.53"
"""Whom every node asks for names: the provider's resolver, outside (192.0.2.0/24, RFC 5737)."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node and the directory that is its root file system."""

    name: str
    root: Path
    number: int

    @property
    def containerd(self) -> Containerd:
        """Its registry files."""
        return containerd_at(self.root)

    @property
    def images(self) -> Path:
        """What is in its image store."""
        return self.root / "var/lib/rancher/k3s/agent/containerd/images.json"

    @property
    def log(self) -> Path:
        """Where containerd writes what nobody reads."""
        return self.root / "var/lib/rancher/k3s/agent/containerd/containerd.log"

    def say(self, line: str) -> None:
        """Append to containerd's log."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def object(self) -> Object:
        """The Node as k3s registers it."""
        control = {"node-role.kubernetes.io/control-plane": "true"} if self.number == 0 else {}
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": self.name,
                "labels": {
                    "kubernetes.io/hostname": self.name,
                    "kubernetes.io/os": "linux",
                    "kubernetes.io/arch": "amd64",
                    **control,
                },
            },
            "spec": {"podCIDR": f"10.42.{self.number}.0/24", "podCIDRs": [f"10.42.{self.number}.0/24"]},
        }

    def status(self) -> Object:
        """Its status: ready."""
        return {
            "conditions": [
                {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is ready"}
            ],
            "addresses": [
                {"type": "InternalIP", "address": f"10.0.1.{self.number + 1}"},
                {"type": "Hostname", "address": self.name},
            ],
            "nodeInfo": {
                "architecture": "amd64",
                "operatingSystem": "linux",
                "kubeletVersion": "v1.31.4+k3s1",
                "containerRuntimeVersion": "containerd://1.7.23-k3s2",
            },
        }


def provision(directory: Path, names: tuple[str, ...] = NAMES) -> list[Node]:
    """The nodes below a directory; one that is not there yet is made as cloud-init and k3s make it."""
    nodes = [Node(name, directory / name, number) for number, name in enumerate(names)]
    for node in nodes:
        if not node.containerd.k3s.exists():
            first_boot(node)
    return nodes


def first_boot(node: Node) -> None:
    """Its registry files as cloud-init and k3s make them, whatever they were before."""
    files = node.containerd
    for folder in (files.k3s, files.certs):
        shutil.rmtree(folder, ignore_errors=True)
    files.k3s.mkdir(parents=True)
    lines = ["mirrors:"]
    for host, project in MIRRORED.items():
        lines += [
            f"  {host}:",
            f'    endpoint: ["https://{MOTHERSHIP}"]',
            "    rewrite:",
            f'      "^(.*)$": "{project}/$1"',
        ]
    (files.k3s / "registries.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for host, project in MIRRORED.items():
        folder = files.certs / host
        folder.mkdir(parents=True, mode=0o700)
        (folder / "hosts.toml").write_text(_as_k3s_writes(host, project), encoding="utf-8")


def _as_k3s_writes(host: str, project: str) -> str:
    """pkg/agent/containerd/hosts.toml of k3s: the default endpoint stays as `server`."""
    server = "registry-1.docker.io" if host == "docker.io" else host
    mirror = {"capabilities": ["pull", "resolve"], "rewrite": {"^(.*)$": f"{project}/$1"}}
    document = {
        "server": f"https://{server}/v2",
        "capabilities": ["pull", "resolve", "push"],
        "host": {f"https://{MOTHERSHIP}/v2": mirror},
    }
    return HEADER + "\n" + tomli_w.dumps(document)


class ImageStore:
    """A node's images and blobs, kept on its disk: what is there is not fetched again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        self.images: dict[str, str] = kept.get("images", {})
        """Reference as it was asked for -> digest."""
        self.blobs: set[str] = set(kept.get("blobs", ()))

    def add(self, name: str, digest: str, blobs: tuple[str, ...]) -> None:
        """Remember an image that was pulled."""
        self.images[name] = digest
        self.blobs.update(blobs)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_suffix(".part")
        text = json.dumps({"images": self.images, "blobs": sorted(self.blobs)})
        part.write_text(text, encoding="utf-8")
        part.replace(self._path)


class NodeBlocks:
    """The blocks in force on the nodes. They live in files, as the kernel's would outlive the agent."""

    def __init__(self, nodes: list[Node]) -> None:
        self._files = {n.name: n.root / "run/cutover-block.json" for n in nodes}
        self.current: dict[str, NodeBlock] = {}
        for name, file in self._files.items():
            if file.exists():
                self.current[name] = NodeBlock.model_validate_json(file.read_text(encoding="utf-8"))
        self._listeners: list[Callable[[], None]] = []
        self.open: set[str] = set()
        """Nodes whose firewall takes every order and closes nothing."""

    def add(self, node: Node) -> None:
        """A node that joined."""
        self._files[node.name] = node.root / "run/cutover-block.json"

    def listen(self, listener: Callable[[], None]) -> None:
        """Call this whenever a block comes or goes."""
        self._listeners.append(listener)

    def put(self, node: str, block: NodeBlock | None) -> bool:
        """Set or remove; False when there was nothing to remove."""
        file = self._files[node]
        had = self.current.pop(node, None) is not None
        if block is None:
            file.unlink(missing_ok=True)
        else:
            self.current[node] = block
            if node in self.open:
                self.current[node] = block.model_copy(update={"deny": ()})
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.model_dump_json(), encoding="utf-8")
        for listener in self._listeners:
            listener()
        return had

    def deaf(self, node: str, now: datetime) -> bool:
        """True while a block stands between the node and its resolver: no name leads anywhere then."""
        block = self.current.get(node)
        return block is not None and not block.answers(RESOLVER, now)

    def expire(self, now: datetime) -> None:
        """Drop what is over, as the kernel does."""
        for node, block in list(self.current.items()):
            if not block.remaining(now):
                self.put(node, None)


class DirectoryFirewall:
    """A node's firewall in the sandbox: the block goes into a file, and the Network enforces it."""

    def __init__(self, node: str, blocks: NodeBlocks) -> None:
        self._node, self._blocks = node, blocks

    async def block(self, block: NodeBlock, now: datetime | None = None) -> None:
        """In force at once, until it expires."""
        self._blocks.put(self._node, block if block.remaining(now or datetime.now(UTC)) else None)

    async def lift(self) -> bool:
        """Nothing is denied any more."""
        return self._blocks.put(self._node, None)
