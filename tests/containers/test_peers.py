"""Broker and registry in containers: separate machines, as far as a socket can tell."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import pytest
from histories import accepted, draft
from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

from events.jetstream import Broker, JetStreamLog
from events.journal import Journal
from events.log import Entry, LogUnavailable
from sandbox.broker import free_port
from workers.adapters.oci import Registries
from workers.sovereign import Gitea, Harbor, Login, Sovereign

NATS_READY = "Server is ready"


@contextmanager
def nats(image: str) -> Iterator[tuple[DockerContainer, str]]:
    """The broker, on a loopback port that stays the same when it is started again."""
    port = free_port()
    container = DockerContainer(image).with_command("/nats-server --jetstream --store_dir /data")
    container.ports[4222] = ("127.0.0.1", port)
    with container.waiting_for(LogMessageWaitStrategy(NATS_READY).with_startup_timeout(120)):
        yield container, f"nats://127.0.0.1:{port}"


async def test_the_journal_outlives_a_broker_container_that_is_killed(
    engine: docker.DockerClient, nats_image: str
) -> None:
    with nats(nats_image) as (container, url):
        async with JetStreamLog.open(Broker(url=url)) as stream:
            await stream.ensure()
            journal = Journal(stream)
            sequence = await journal.append(draft(accepted(), 1))
            wrapped = container.get_wrapped_container()
            await asyncio.to_thread(wrapped.kill)
            await asyncio.to_thread(wrapped.start)
            last = await once_it_answers(stream)
            assert last is not None
            assert last.seq == sequence


async def once_it_answers(stream: JetStreamLog) -> Entry | None:
    """The journal's end. Until the broker is back the log says that it is away, and nothing else."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await stream.last()
            except LogUnavailable:
                await asyncio.sleep(0.1)


@contextmanager
def registry(base: str, directory: Path) -> Iterator[str]:
    """Debian's docker-registry; its URL."""
    binary = shutil.which("docker-registry")
    if binary is None:
        pytest.skip("docker-registry is not installed")
    port = free_port()
    (directory / "config.yml").write_text(
        "version: 0.1\nstorage: {filesystem: {rootdirectory: /data}}\nhttp: {addr: ':5000'}\n", encoding="utf-8"
    )
    container = (
        DockerContainer(base)
        .with_command("/usr/local/bin/docker-registry serve /etc/registry/config.yml")
        .with_volume_mapping(binary, "/usr/local/bin/docker-registry", "ro")
        .with_volume_mapping(str(directory), "/etc/registry", "ro")
        .with_tmpfs_mount("/data")
    )
    container.ports[5000] = ("127.0.0.1", port)
    with container.waiting_for(LogMessageWaitStrategy("listening on").with_startup_timeout(120)):
        yield f"http://127.0.0.1:{port}"


async def test_an_image_pushed_to_a_registry_container_is_read_back_by_its_digest(
    engine: docker.DockerClient, base: str, tmp_path: Path
) -> None:
    password = tmp_path / "password"
    password.write_text("any", encoding="utf-8")
    login = Login(username="admin", password_file=password)
    with registry(base, tmp_path) as url:
        sovereign = Sovereign(
            fqdn="sovereign.test",
            gitea=Gitea(url="http://127.0.0.1:9", login=login),
            harbor=Harbor(url=url, host="harbor.sovereign.test", login=login),
            mothership_endpoint="http://127.0.0.1:9",
        )
        async with Registries.open(sovereign) as registries:
            digest = await registries.push_probe("openova-io/probe", "v1", b"only here")
            assert await registries.local_digest("openova-io/probe", "v1") == digest
            assert await registries.local_digest("openova-io/probe", "v2") is None
