"""A node agent that is killed between any two changes on its disk leaves a node that pulls, and starts well again."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from sandbox.nodes import MIRRORED, Node, provision
from sandbox.puller import endpoints
from schemas.nodes import Mirror, NodePlan
from workers.adapters.containerd import HOME, Containerd
from workers.adapters.node_files import Disk

from .conftest import LOCAL, Place

PLAN = NodePlan(
    registry=f"{LOCAL}:8443",
    ca="-----BEGIN CERTIFICATE-----\n",
    mirrors=(
        *(Mirror(host=h, endpoint=f"https://{LOCAL}:8443/v2/{MIRRORED[h]}") for h in ("docker.io", "ghcr.io")),
        Mirror(host="harbor.openova.io", endpoint=f"https://{LOCAL}:8443/v2"),
    ),
)
"""Fewer hosts than k3s has files for: what the others' files say leads to the mothership and must go."""


class Fatal(Disk):
    """SIGKILL in the place of the n-th change; half of the text is written when that change is a write."""

    def __init__(self, last: int) -> None:
        self.left = last

    def _count(self) -> bool:
        self.left -= 1
        return self.left < 0

    def write(self, path: Path, text: str) -> None:
        if self._count():
            path.write_text(text[: len(text) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        super().write(path, text)

    def move(self, source: Path, target: Path) -> None:
        if self._count():
            os.kill(os.getpid(), signal.SIGKILL)
        super().move(source, target)

    def make(self, folder: Path) -> None:
        if self._count():
            os.kill(os.getpid(), signal.SIGKILL)
        super().make(folder)

    def remove(self, path: Path) -> None:
        if self._count():
            os.kill(os.getpid(), signal.SIGKILL)
        super().remove(path)

    def clear(self, path: Path) -> None:
        if self._count():
            os.kill(os.getpid(), signal.SIGKILL)
        super().clear(path)


def killed(node: Node, last: int, work: Callable[[Containerd], None]) -> bool:
    """Do it in a process of its own that dies at its n-th change; False when it came to its end before."""
    child = os.fork()
    if child == 0:
        try:
            work(Containerd(node.containerd.k3s, node.containerd.certs, Fatal(last)))
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def pivot(files: Containerd) -> None:
    files.begin(PLAN)
    files.commit()


def refused(files: Containerd) -> None:
    """Local Harbor does not answer the node's probe."""
    files.begin(PLAN)
    files.undo()


def tree(node: Node, *, own: bool = True) -> dict[str, str]:
    """Every file and folder; `own`: with what the agent keeps for itself."""
    return {
        str(p.relative_to(node.root)): p.read_text() if p.is_file() else "/"
        for p in node.root.rglob("*")
        if own or HOME not in p.parts
    }


def leads(node: Node) -> dict[str, tuple[str, ...]]:
    """Host -> where containerd would go for it now, in order."""
    said: list[str] = []
    found = {h: tuple(e.base for e in endpoints(node.containerd.certs, h, said.append)) for h in HOSTS}
    assert not said, "containerd ignores a file"
    return found


HOSTS = (*MIRRORED, "harbor.openova.io", f"{LOCAL}:8443", "unmapped.test")


def assert_pulls(node: Node, before: dict[str, tuple[str, ...]], after: dict[str, tuple[str, ...]]) -> None:
    """Each host is the old one or the new one, and so is what the next start of k3s makes of registries.yaml."""
    for host, places in leads(node).items():
        assert places in (before[host], after[host]), host
    mirrors = yaml.safe_load((node.containerd.k3s / "registries.yaml").read_text())["mirrors"]
    first = {h: m["endpoint"][0] for h, m in mirrors.items()}
    old, new = dict.fromkeys(MIRRORED, "https://harbor.openova.io"), {m.host: m.endpoint for m in PLAN.mirrors}
    assert first in (old, new)
    closed = (node.containerd.k3s / "config.yaml.d/90-catalyst-cutover.yaml").exists()
    assert not closed or first == new, "the old mirrors without a way past them"


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[[], Node]:
    """A node as k3s left it, with a `_default` that a specific folder would hide; made anew at each call."""

    def make() -> Node:
        shutil.rmtree(tmp_path / "n", ignore_errors=True)
        (node,) = provision(tmp_path / "n", ("cp-1",))
        (node.containerd.certs / "_default").mkdir()
        (node.containerd.certs / "_default/hosts.toml").write_text('[host."https://cache.corp.test"]\n')
        return node

    return make


@pytest.mark.parametrize(
    ("work", "stride"), [(pivot, 1), (refused, 3), pytest.param(refused, 1, marks=pytest.mark.slow)]
)
def test_killed_between_any_two_changes_it_leaves_a_node_that_pulls_and_ends_as_if_undisturbed(
    fresh: Callable[[], Node], work: Callable[[Containerd], None], stride: int
) -> None:
    node = fresh()
    before, untouched = leads(node), tree(node, own=False)
    pivot(node.containerd)
    after, done = leads(node), tree(node)
    assert all(len(set(after[host])) == 1 for host in (PLAN.registry, *(m.host for m in PLAN.mirrors)))
    node = fresh()
    refused(node.containerd)
    assert tree(node, own=False) == untouched
    kept = tree(node)
    for last in range(0, 1000, stride):
        node = fresh()
        if not killed(node, last, work):
            break
        assert_pulls(node, before, after)
        again = node.containerd
        if last % 2:
            refused(again)
            assert tree(node) == kept, f"put back after a kill at change {last}"
        pivot(again)
        assert tree(node) == done, f"pivoted after a kill at change {last}"
        assert again.begin(PLAN) == 0
    assert last > 40, "the sweep saw every change"


def test_killed_twice_it_still_knows_the_state_that_last_worked(fresh: Callable[[], Node]) -> None:
    node = fresh()
    untouched = tree(node, own=False)
    moved = (m.model_copy(update={"endpoint": m.endpoint.replace("proxy-", "copy-")}) for m in PLAN.mirrors)
    other = PLAN.model_copy(update={"mirrors": (*moved, Mirror(host="new.test", endpoint="https://l/v2/x"))})
    halves = 0
    for last in range(0, 60, 11):
        node = fresh()
        killed(node, 30, pivot)
        killed(node, last, lambda files: (files.begin(other), files.commit())[1])
        files = node.containerd
        if files.pending:
            halves += 1
            files.undo()
            assert tree(node, own=False) == untouched
    assert halves >= 3


async def test_after_every_kill_images_are_really_pulled(place: Place, tmp_path: Path) -> None:
    local = f"https://{LOCAL}"
    mirrors = tuple(m.model_copy(update={"endpoint": m.endpoint.replace(":8443", "")}) for m in PLAN.mirrors)
    plan = NodePlan(registry=LOCAL, mirrors=mirrors)
    place.publish("ghcr.io", "openova-io/openova/api", "1")
    place.publish("harbor.openova.io", "proxy-dockerhub/library/nats", "2")
    for repository, tag in (("proxy-ghcr/openova-io/openova/api", "1"), ("proxy-dockerhub/library/nats", "2")):
        place.publish(LOCAL, repository, tag)
    came: set[str] = set()
    last = 0
    while killed(place.nodes[0], last, lambda files: (files.begin(plan), files.commit())[1]):
        came |= {await place.pull(name) for name in ("ghcr.io/openova-io/openova/api:1", "nats:2")}
        shutil.rmtree(place.nodes[0].root)
        place.nodes[:] = provision(tmp_path / "nodes")
        last += 3
    assert {url.partition("/v2")[0] for url in came} == {"https://ghcr.io", "https://harbor.openova.io", local}
