"""Puts the rooms together: settings in, a running process out. Nothing is decided here."""

from __future__ import annotations

import fcntl
import importlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import datetime
from itertools import count
from pathlib import Path
from secrets import token_hex

import anyio

from events import flow
from events.jetstream import JetStreamLog, step_durable
from events.journal import Journal
from events.log import LogUnavailable
from schemas.events import Audited
from schemas.nodes import NodeReport
from schemas.results import StepResult
from workers import admission, certify, drift, handover, preflight, projector, watchman
from workers.adapters.cluster import Cluster
from workers.adapters.git import Git
from workers.adapters.gitea import GiteaApi
from workers.adapters.harbor import HarborApi
from workers.adapters.oci import Registries
from workers.audit import survey
from workers.autofire import fuse
from workers.autofire.rule import Rule
from workers.copies import Copies, CopyLog
from workers.entrypoints.classes import EVERYTHING, Duties
from workers.entrypoints.health import Health
from workers.entrypoints.settings import Settings, redactor
from workers.errors import Wait
from workers.inbox import Inbox, publish_report
from workers.pool import Pool, Work
from workers.proof import block
from workers.scribe import Scribe
from workers.verdict import Limits
from workers.world import Copied, NodeReports, Order, Report, World

log = logging.getLogger("cutover")


def worker_name() -> str:
    """Unique for each start of a process: two lives of one Pod are two workers."""
    return f"{socket.gethostname()}-{os.getpid()}-{token_hex(3)}"


def scribe(settings: Settings, name: str | None = None) -> Scribe:
    """Who writes events in this process."""
    return Scribe(settings.sovereign.fqdn, name or worker_name(), redactor(settings))


@asynccontextmanager
async def cluster(settings: Settings) -> AsyncIterator[Cluster]:
    """The Kubernetes API under our field manager."""
    async with Cluster.open(
        kubeconfig=settings.kubernetes.kubeconfig, field_manager=settings.sovereign.field_manager
    ) as opened:
        yield opened


@asynccontextmanager
async def world(
    settings: Settings, api: Cluster, inbox: NodeReports, copied: Copied | None = None
) -> AsyncIterator[World]:
    """Every adapter with its client, closed at the end."""
    sovereign = settings.sovereign
    async with AsyncExitStack() as stack:
        yield World(
            sovereign=sovereign,
            cluster=api,
            git=Git(stack.enter_context(desk(settings.workspace)), settings.git.timeout, stall=settings.git.stall),
            gitea=await stack.enter_async_context(GiteaApi.open(sovereign.gitea)),
            harbor=await stack.enter_async_context(HarborApi.open(sovereign.harbor)),
            registries=await stack.enter_async_context(Registries.open(sovereign)),
            nodes=inbox,
            survey=survey.declared,
            copied=copied or CopyLog(settings.nats),
        )


@contextmanager
def desk(workspace: Path) -> Iterator[Path]:
    """A directory below the workspace that no other process uses, kept for whoever comes after us.

    The lock is the kernel's: it is gone with the process, however that ends, and the Git cache stays."""
    for number in count():
        place = workspace / str(number)
        place.mkdir(parents=True, exist_ok=True)
        with (place / "lock").open("w", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield place / "git"
            return


def bound(slug: str, everything: World) -> Work:
    """The step's `run` with the world in hand."""
    module = importlib.import_module(f"workers.steps.{slug.replace('-', '_')}")

    async def run(order: Order, report: Report) -> StepResult:
        result: StepResult = await module.run(order, everything, report)
        return result

    return run


def keyed(last: Work, key: Callable[[], Awaitable[str]]) -> Work:
    """The proof, once the key that will sign for it is there: else ten minutes of hold might be for nothing."""

    async def run(order: Order, report: Report) -> StepResult:
        await key()
        return await last(order, report)

    return run


async def work(
    settings: Settings,
    duties: Duties = EVERYTHING,
    *,
    health: Health | None = None,
    say: Callable[[str], None] = log.info,
) -> None:
    """Serve until cancelled. Raises StreamDrift, NotPermitted; waits for a broker that is away."""
    async with AsyncExitStack() as stack:
        stream = await stack.enter_async_context(JetStreamLog.open(settings.nats, patient=True, say=say))
        own = [step_durable(flow.BY_SLUG[slug].number) for slug in duties.steps]
        await (stream.ensure() if duties.found else stream.await_ensured(say, own))
        api = await stack.enter_async_context(cluster(settings))
        journal, writer, inbox = Journal(stream), scribe(settings), Inbox(stream)
        everything = await stack.enter_async_context(world(settings, api, inbox, Copies(stream)))
        place = settings.status
        rule = Rule(**settings.auto_fire.model_dump())

        async def named() -> str:
            return (await certify.signer(api, place.namespace)).verifier.keyid if duties.sign else ""

        async def look() -> Audited:
            return await survey.evidence(everything, await named())

        gate = preflight.gate(settings.handover, everything)
        works = {slug: bound(slug, everything) for slug in duties.steps}
        if duties.sign and flow.LAST.slug in works:
            works[flow.LAST.slug] = keyed(works[flow.LAST.slug], named)
        pool = Pool(
            stream, journal, writer, works,
            lease_seconds=settings.pace.lease,
            limits=Limits(waits=settings.pace.waits, blips=settings.pace.blips, total=settings.pace.total),
            audit=look, gate=gate,
        )  # fmt: skip
        if health is not None:
            health.ready = lambda: None if stream.connected else "the broker is away"
        say(f"worker {writer.worker} serves {', '.join(duties.steps) or 'no step'}")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(journal.tail)
            tasks.start_soon(inbox.follow)
            tasks.start_soon(pool.serve)
            if duties.admit:
                tasks.start_soon(admission.serve, stream, journal, writer, rule, gate)
                tasks.start_soon(admission.Registrar(stream, writer).serve)

                async def sealed() -> bool:
                    if settings.handover is None or not await handover.sealed(api, settings.handover):
                        return False
                    return await preflight.planned(everything, strict=False) is None

                tasks.start_soon(fuse.serve, stream, journal, writer, rule, sealed)
            if duties.project:

                async def paint() -> None:
                    await projector.serve(journal, api, namespace=place.namespace, name=place.name)

                tasks.start_soon(paint)
                if endpoint := settings.telemetry.endpoint:
                    from workers.entrypoints import telemetry  # some MiB that nobody pays for who sends nothing

                    tasks.start_soon(telemetry.serve, stream, endpoint, settings.sovereign.fqdn)
            if duties.watch:

                async def lift(token: int, only_expired_at: datetime | None) -> bool:
                    return await block.lift(everything, token=token, only_expired_at=only_expired_at)

                async def keep_watch() -> None:
                    await watchman.serve(journal, lift, lease_seconds=settings.pace.lease)

                tasks.start_soon(keep_watch)
            if duties.drift:
                tasks.start_soon(drift.serve, journal, everything, writer, named)


@asynccontextmanager
async def agent(settings: Settings) -> AsyncIterator[tuple[Cluster, Callable[[NodeReport], Awaitable[None]]]]:
    """What a node agent needs: the cluster, and a way to report that waits for a broker that is away."""
    async with JetStreamLog.open(settings.nats, patient=True, say=log.info) as stream, cluster(settings) as api:

        async def publish(report: NodeReport) -> None:
            try:
                await publish_report(stream, settings.sovereign.fqdn, report)
            except LogUnavailable as error:
                raise Wait("BrokerAway", str(error)) from None

        yield api, publish
