"""No cutover before handover is finished: read from a real API, asked by admission, answered as 425."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest
from api_bench import Door, door
from pool_bench import doing
from pool_bench import opened as opened_bench

from events.flow import FIRST
from events.jetstream import JetStreamLog
from events.journal import Journal
from events.subjects import trigger
from sandbox.clock import Clock
from sandbox.kube import KubeApi
from workers import admission, preflight
from workers.adapters.cluster import CONFIG_MAP, SECRET, Cluster
from workers.errors import Trouble
from workers.handover import Handover, sealed
from workers.pool import Pool
from workers.scribe import Scribe
from workers.world import World

PLACE = Handover(kind="ConfigMap", namespace="default", name="handover", key="finished", value="true")


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[tuple[KubeApi, Cluster]]:
    async with KubeApi.open(tmp_path / "kube", Clock()) as kube:
        kube.kubeconfig(tmp_path / "kubeconfig")
        async with Cluster.open(kubeconfig=tmp_path / "kubeconfig", field_manager="test") as opened:
            yield kube, opened


def config_map(**data: str) -> dict[str, Any]:
    return {"metadata": {"name": "handover", "namespace": "default"}, "data": data}


async def test_handover_is_what_the_object_says_and_not_that_it_is_there(cluster: tuple[KubeApi, Cluster]) -> None:
    _, api = cluster
    assert not await sealed(api, PLACE)
    await api.apply(CONFIG_MAP, config_map(finished="false"))
    assert not await sealed(api, PLACE)
    await api.apply(CONFIG_MAP, config_map(finished="true"))
    assert await sealed(api, PLACE)
    secret = Handover(namespace="default", name="tofu-phase0-archive", key="archive")
    assert not await sealed(api, secret)
    await api.apply(SECRET, {"metadata": {"name": "tofu-phase0-archive", "namespace": "default"}, "data": {}})
    assert not await sealed(api, secret)
    full = {"metadata": {"name": "tofu-phase0-archive", "namespace": "default"}, "data": {"archive": "AAEC"}}
    await api.apply(SECRET, full)
    assert await sealed(api, secret)
    assert await sealed(api, secret.model_copy(update={"key": None}))


async def test_what_cannot_be_read_is_not_known_to_be_finished(cluster: tuple[KubeApi, Cluster]) -> None:
    kube, api = cluster
    await api.apply(CONFIG_MAP, config_map(finished="true"))
    kube.api.refused.add(("get", "", "configmaps"))
    with pytest.raises(Trouble):
        await sealed(api, PLACE)


@asynccontextmanager
async def admitted(opened: Door, cluster: Cluster) -> AsyncIterator[None]:
    """Admission with the gate that `cutover work` gives it."""
    gate = preflight.gate(PLACE, cast(World, SimpleNamespace(cluster=cluster)))
    async with JetStreamLog.open(opened.bench.settings) as stream, anyio.create_task_group() as tasks:
        scribe = Scribe("s", "w", str)
        tasks.start_soon(lambda: admission.serve(stream, Journal(stream), scribe, gate=gate))
        yield
        tasks.cancel_scope.cancel()


async def test_a_start_before_handover_is_425_and_after_it_202(
    cluster: tuple[KubeApi, Cluster], tmp_path: Path
) -> None:
    kube, api = cluster
    async with door(tmp_path / "door") as opened, admitted(opened, api):
        early = await opened.post("/start")
        assert (early.status_code, early.json()["error"]) == (425, "handover-incomplete")
        assert "default/handover" in early.json()["detail"]
        kube.api.refused.add(("get", "", "configmaps"))
        unknown = await opened.post("/start")
        assert (unknown.status_code, unknown.json()["error"]) == (503, "handover-unknown")
        kube.api.refused.clear()
        await api.apply(CONFIG_MAP, config_map(finished="true"))
        assert (await opened.post("/start")).status_code == 202


async def test_a_bare_trigger_that_would_begin_a_run_meets_the_same_gate(
    cluster: tuple[KubeApi, Cluster], tmp_path: Path
) -> None:
    _, api = cluster
    gate = preflight.gate(PLACE, cast(World, SimpleNamespace(cluster=api)))
    async with opened_bench(tmp_path / "bench") as bench, JetStreamLog.open(bench.settings) as stream:
        pool = Pool(stream, Journal(stream), Scribe("s", "w", str), doing(bench.done), gate=gate)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pool.serve)
            await bench.send(trigger(FIRST), asked("step.trigger", "1"))
            assert [data["reason"] for data in await bench.rejected(1)] == ["HandoverIncomplete"]
            await api.apply(CONFIG_MAP, config_map(finished="true"))
            await bench.send(trigger(FIRST), asked("step.trigger", "2"))
            assert (await bench.until(lambda state: state.complete)).complete
            tasks.cancel_scope.cancel()


def asked(kind: str, id: str) -> bytes:
    """What a person types."""
    type_ = f"io.openova.catalyst.cutover.{kind}.v1"
    return json.dumps({"specversion": "1.0", "id": id, "source": "me", "type": type_, "data": {}}).encode()
