"""Pulls on nodes: through the mothership before, through local Harbor after, upstream when files are broken."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from sandbox.network import Identity
from sandbox.nodes import DirectoryFirewall
from sandbox.policy import Policies
from sandbox.puller import PullError
from workers.adapters.firewall import NodeBlock
from workers.entrypoints import canary
from workers.proof.means import cilium
from workers.proof.means.terms import Terms

from .conftest import LOCAL, PLAN, Place

IMAGE = "ghcr.io/openova-io/openova/api:1"


async def test_before_the_pivot_a_miss_in_the_mothership_is_answered_upstream(place: Place) -> None:
    place.publish("ghcr.io", "openova-io/openova/api", "1")
    assert await place.pull(IMAGE) == "https://ghcr.io/v2"
    place.publish("harbor.openova.io", "proxy-ghcr/openova-io/openova/api", "1")
    assert await place.pull(IMAGE) == "https://harbor.openova.io/v2"


async def test_a_pivoted_node_pulls_what_only_local_harbor_has(place: Place) -> None:
    place.publish(LOCAL, "proxy-ghcr/openova-io/probe", "1")
    with pytest.raises(PullError, match="not found"):
        await place.pull("ghcr.io/openova-io/probe:1")
    place.nodes[0].containerd.write(PLAN)
    assert await place.pull("ghcr.io/openova-io/probe:1") == f"https://{LOCAL}/v2/proxy-ghcr"


async def test_a_pivoted_node_refuses_what_only_upstream_has_though_upstream_answers(place: Place) -> None:
    place.publish("ghcr.io", "openova-io/openova/api", "1")
    place.nodes[0].containerd.write(PLAN)
    with pytest.raises(PullError, match="not found"):
        await place.pull(IMAGE)
    assert await place.pull(IMAGE, node=1) == "https://ghcr.io/v2"


@pytest.mark.parametrize("text", ['server = "https://harbor.sovereign.test"\n', "not toml ["])
async def test_a_hosts_file_that_containerd_cannot_use_goes_silently_upstream(place: Place, text: str) -> None:
    place.publish("ghcr.io", "openova-io/openova/api", "1")
    files = place.nodes[0].containerd
    files.write(PLAN)
    (files.certs / "ghcr.io" / "hosts.toml").write_text(text)
    assert await place.pull(IMAGE) == "https://ghcr.io/v2"
    assert any("decoding hosts.toml failed" in line for line in place.log)


async def test_the_agent_puts_a_broken_file_right(place: Place) -> None:
    files = place.nodes[0].containerd
    files.write(PLAN)
    (files.certs / "ghcr.io" / "hosts.toml").write_text("not toml [")
    assert files.write(PLAN) == 1
    place.publish("ghcr.io", "openova-io/openova/api", "1")
    with pytest.raises(PullError, match="not found"):
        await place.pull(IMAGE)


async def test_a_blocked_node_reaches_nothing_outside_and_its_block_expires(place: Place) -> None:
    place.publish("ghcr.io", "openova-io/openova/api", "1")
    place.publish(LOCAL, "proxy-docker/library/nats", "2")
    place.nodes[0].containerd.write(PLAN)
    firewall = DirectoryFirewall(place.nodes[1].name, place.blocks)
    now = place.clock.now()
    block = NodeBlock(deny=("0.0.0.0/0", "::/0"), expires_at=now + timedelta(seconds=60))
    await firewall.block(block, now)
    place.judge()
    with pytest.raises(PullError, match="timeout"):
        await place.pull(IMAGE, node=1)
    assert await place.pull("nats:2", node=0) == f"https://{LOCAL}/v2/proxy-docker"
    place.clock.skip(timedelta(seconds=61))
    assert await place.pull(IMAGE, node=1) == "https://ghcr.io/v2"


async def test_a_block_on_a_node_outlives_the_agent_that_ordered_it(place: Place, tmp_path: Path) -> None:
    now = place.clock.now()
    block = NodeBlock(deny=("0.0.0.0/0",), expires_at=now + timedelta(seconds=60))
    await DirectoryFirewall("cp-1", place.blocks).block(block, now)
    assert type(place.blocks)(place.nodes).current == {"cp-1": block}


async def test_a_policy_holds_pods_and_not_their_nodes(place: Place) -> None:
    policy = cilium.policy(Terms("p", (), place.clock.now(), 1, "m"))
    pod, node = Identity("pod", "a", "b"), Identity("node", "cp-1")
    targets = ["https://ghcr.io", f"https://{LOCAL}"]

    async def look(who: Identity) -> list[bool]:
        connect = {h: await place.network.url(who, h) for h in ("ghcr.io", LOCAL)}
        return [f.reached for f in await canary.look(targets, 0.5, connect)]

    assert await look(pod) == [True, True]
    place.judge(Policies(clusterwide=(policy,)))
    assert await look(pod) == [False, True]
    assert await look(node) == [True, True]


async def test_an_established_connection_is_cut_when_the_verdict_changes(place: Place) -> None:
    who = Identity("pod", "a", "b")
    port = await place.network.route(who, "ghcr.io")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"HEAD /v2/ HTTP/1.1\r\nHost: ghcr.io\r\n\r\n")
    assert await reader.readuntil(b"\r\n\r\n")
    place.network.set_verdict(lambda _who, _host: False)
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await asyncio.wait_for(reader.readexactly(1), 60)
    writer.transport.abort()


async def test_silence_is_not_reached_and_a_refusal_is_not_either(place: Place) -> None:
    who = Identity("pod", "a", "b")
    place.network.set_verdict(lambda _who, _host: False)
    connect = {"ghcr.io": await place.network.url(who, "ghcr.io"), "quay.io": "http://127.0.0.1:9"}
    silent, refused = await canary.look(["https://ghcr.io", "https://quay.io"], 0.3, connect)
    assert (silent.reached, refused.reached) == (False, False)
    assert "no answer within" in silent.detail


async def test_a_canary_that_is_ended_tries_nothing_any_more(place: Place) -> None:
    place.network.set_verdict(lambda _who, _host: False)
    connect = {"ghcr.io": await place.network.url(Identity("pod", "a", "b"), "ghcr.io")}
    before = asyncio.all_tasks()
    looking = asyncio.create_task(canary.look(["https://ghcr.io"], 60, connect))
    while not any("_direct" in str(task.get_coro()) for task in asyncio.all_tasks() - before):
        await asyncio.sleep(0.01)
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    assert not [task for task in asyncio.all_tasks() - before if "_direct" in str(task.get_coro())]


async def test_a_name_that_nobody_attached_has_no_route(place: Place) -> None:
    with pytest.raises(LookupError):
        await place.network.route(Identity("pod", "a", "b"), "example.test")
