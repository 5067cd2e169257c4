"""Somebody is at the picture of the log while nothing happens: it becomes the log's own again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from histories import accepted, chain, draft, started, whole_run

from events.fold import fold
from events.journal import Journal
from events.memory import MemoryLog
from events.picture import LONGEST, picture
from schemas import events as facts
from workers import projector
from workers.adapters.cluster import CONFIG_MAP, Cluster

PLACE = {"namespace": "flux-system", "name": "self-sovereign-cutover-status"}
LOG = chain(whole_run())


@pytest.fixture
async def cluster(cluster: Cluster) -> AsyncIterator[Cluster]:
    """A projector at work on a log that has ended."""
    keeper = MemoryLog()
    for entry in LOG:
        await keeper.append(entry.raw, id=str(entry.seq), expected=entry.seq - 1, then=None)
    journal = Journal(keeper)
    tasks = [asyncio.create_task(each) for each in (journal.tail(), projector.serve(journal, cluster, **PLACE))]
    yield cluster
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def restored(cluster: Cluster) -> None:
    """The log's own picture stands there, within a minute."""
    async with asyncio.timeout(60):
        while True:
            live = await cluster.get(CONFIG_MAP, PLACE["name"], PLACE["namespace"])
            if live is not None and live["data"] == picture(fold(LOG)):
                return
            await asyncio.sleep(0.05)


async def test_a_picture_that_was_deleted_or_edited_comes_back_though_nothing_happens(cluster: Cluster) -> None:
    await restored(cluster)
    await cluster.delete(CONFIG_MAP, PLACE["name"], PLACE["namespace"])
    await restored(cluster)
    for forged in (
        {"cutoverComplete": "maybe"},
        {"streamSequence": "999999999", "cutoverComplete": "false"},  # ahead of any log: no projector was faster
        {"streamSequence": "3"},
        {"streamSequence": "none"},
        {"extra": "x"},
    ):
        await cluster.patch(CONFIG_MAP, PLACE["name"], PLACE["namespace"], {"data": forged})
        await restored(cluster)


def test_a_text_that_no_config_map_could_hold_is_shown_from_its_start() -> None:
    """Whoever wrote it: an older version of ours, or somebody who may write on the journal."""
    huge = "x" * 900_000
    history = [
        accepted().model_copy(update={"operator": huge}),
        started("gitea-mirror"),
        facts.StepFailed(step="gitea-mirror", worker="w", token=2, reason="GitDenied", message=huge),
        facts.Failed(step="gitea-mirror", reason="GitDenied", message=huge),
    ]
    shown = picture(fold(chain(history)))
    assert sum(len(key) + len(value.encode()) for key, value in shown.items()) < 100_000
    assert shown["lastError"].startswith("GitDenied: xxx")
    assert max(map(len, shown.values())) <= LONGEST + 1


def test_an_event_that_does_not_say_when_is_shown_all_the_same() -> None:
    raw = draft(accepted(), 1).sealed(1, "0" * 64).encode()
    before, _, rest = raw.partition(b'"time"')
    silent = before + rest.partition(b",")[2].lstrip()
    state = fold([type(LOG[0])(1, "", silent)])
    assert state.run is not None, silent
    assert picture(state)["cutoverStartedAt"] == "1970-01-01T00:00:00.000Z"
