"""The picture of the log in a real ConfigMap: whole, never backwards, and painted again when it is gone."""

from __future__ import annotations

import asyncio

from histories import chain, whole_run

from events.fold import State, fold
from events.journal import Journal
from events.log import Entry
from events.memory import MemoryLog
from events.picture import picture
from workers import projector
from workers.adapters.cluster import CONFIG_MAP, Cluster

PLACE = {"namespace": "flux-system", "name": "self-sovereign-cutover-status"}
LOG: list[Entry] = chain(whole_run())


async def shown(cluster: Cluster) -> dict[str, str]:
    live = await cluster.get(CONFIG_MAP, PLACE["name"], PLACE["namespace"])
    return dict(live["data"]) if live else {}


async def test_the_config_map_is_the_fold_byte_for_byte(cluster: Cluster) -> None:
    state = fold(LOG)
    await projector.paint(cluster, state, **PLACE)
    assert await shown(cluster) == picture(state)


async def test_an_older_state_never_replaces_a_newer_one(cluster: Cluster) -> None:
    await projector.paint(cluster, fold(LOG), **PLACE)
    await projector.paint(cluster, fold(LOG[:5]), **PLACE)
    assert await shown(cluster) == picture(fold(LOG))


async def test_what_someone_wrote_into_it_by_hand_is_painted_over(cluster: Cluster) -> None:
    await projector.paint(cluster, fold(LOG[:9]), **PLACE)
    forged = {"data": {"cutoverComplete": "true"}}
    await cluster.patch(CONFIG_MAP, PLACE["name"], PLACE["namespace"], forged)
    await projector.paint(cluster, fold(LOG[:9]), **PLACE)
    assert (await shown(cluster))["cutoverComplete"] == "false"


async def test_nothing_is_painted_of_an_empty_log(cluster: Cluster) -> None:
    await projector.paint(cluster, State(), **PLACE)
    assert await shown(cluster) == {}


async def test_two_projectors_end_with_the_newest_state(cluster: Cluster) -> None:
    keeper = MemoryLog()
    tasks = []
    for _ in range(2):
        journal = Journal(keeper)
        tasks += [
            asyncio.create_task(journal.tail()),
            asyncio.create_task(projector.serve(journal, cluster, **PLACE)),
        ]
    for entry in LOG:
        await keeper.append(entry.raw, id=str(entry.seq), expected=entry.seq - 1, then=None)
        await asyncio.sleep(0.02)
    async with asyncio.timeout(60):
        while await shown(cluster) != picture(fold(LOG)):
            await asyncio.sleep(0.05)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
