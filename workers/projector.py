"""The projector: paints the status ConfigMap from the journal. Any number of them may run.

The picture is written whole, under its resourceVersion, with the stream sequence that it stands for, and never
backwards. It can be thrown away and painted again: whoever deletes or edits it gets the log's own back.
"""

from __future__ import annotations

import logging
from contextlib import aclosing
from typing import Any

import anyio

from events.fold import State
from events.journal import Journal
from events.log import LogUnavailable
from events.picture import picture
from workers.adapters.cluster import CONFIG_MAP, Cluster, Conflict, Exists
from workers.errors import Stuck, Wait

log = logging.getLogger("cutover.projector")
PACE = 0.3  # seconds between two writes, at least
AGAIN = 5.0  # seconds until what failed is tried again
BLIND = 60.0  # seconds, when the picture may not be watched


async def serve(journal: Journal, cluster: Cluster, *, namespace: str, name: str) -> None:
    """Keep the ConfigMap at the journal's newest state for ever. `journal.tail` must run beside."""
    easel = Easel()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(easel.guard, cluster, namespace, name)
        shown = 0
        while True:
            state = await easel.news(journal, shown)
            try:
                easel.data = picture(state)
                if (standing := await paint(cluster, state, namespace=namespace, name=name)) > state.seq:
                    state = await _unless_ahead(journal, cluster, standing, namespace, name)
                shown = state.seq
            except (Wait, Stuck, LogUnavailable) as error:
                log.warning("status not written: %s", error)
                await anyio.sleep(AGAIN)
            await anyio.sleep(PACE)


class Easel:
    """What we painted last, and whether somebody has been at it."""

    def __init__(self) -> None:
        self.data: dict[str, str] = {}
        self._disturbed = anyio.Event()

    async def news(self, journal: Journal, shown: int) -> State:
        """The state to paint, once the journal has gone past `shown` or the picture is not ours any more."""
        disturbed = self._disturbed
        async with anyio.create_task_group() as tasks:

            async def spoilt() -> None:
                await disturbed.wait()
                tasks.cancel_scope.cancel()

            if shown:
                tasks.start_soon(spoilt)
            await journal.moved(shown)
            tasks.cancel_scope.cancel()
        if disturbed.is_set():
            self._disturbed = anyio.Event()
        return journal.state

    async def guard(self, cluster: Cluster, namespace: str, name: str) -> None:
        """Watch the picture for ever: a deletion or a stranger's hand is news."""
        while True:
            pause = AGAIN
            try:
                async with aclosing(cluster.watch(CONFIG_MAP, namespace, name=name)) as changes:
                    async for change, found in changes:
                        if change == "DELETED" or (found.get("data") or {}) != self.data:
                            self._disturbed.set()
            except Wait as error:
                log.info("the status is not watched: %s", error)
            except Stuck as error:
                log.warning("the status may not be watched, edits of it are seen with the next event only: %s", error)
                pause = BLIND
            await anyio.sleep(pause)


async def _unless_ahead(journal: Journal, cluster: Cluster, standing: int, namespace: str, name: str) -> State:
    """Another projector was faster, or the picture claims what no log has said: that is painted over."""
    state = await journal.refresh()  # asked after the picture was read: it cannot honestly be ahead of this
    if standing > state.seq:
        log.warning("the status claims sequence %d, the log ends at %d: painted over", standing, state.seq)
        await paint(cluster, state, namespace=namespace, name=name, anyway=True)
    return state


async def paint(cluster: Cluster, state: State, *, namespace: str, name: str, anyway: bool = False) -> int:
    """The ConfigMap shows `state`, or a newer one; the sequence that it stands for. Raises Wait, Stuck.

    `anyway`: even over one that says it is newer."""
    data = picture(state)
    if not data:
        return state.seq
    while True:
        live = await cluster.get(CONFIG_MAP, name, namespace)
        try:
            if live is None:
                await cluster.create(CONFIG_MAP, _config_map(namespace, name, data))
            elif (live.get("data") or {}) != data:
                if newer(live.get("data") or {}, state.seq) and not anyway:
                    return sequence(live["data"])
                await cluster.replace(CONFIG_MAP, {**live, "data": data})
            return state.seq
        except (Conflict, Exists):
            continue


def sequence(data: dict[str, str]) -> int:
    """The stream sequence that a picture stands for; 0 when it does not say."""
    word = data.get("streamSequence", "")
    return int(word) if word.isascii() and word.isdigit() and len(word) < 20 else 0  # anybody may have written it


def newer(data: dict[str, str], seq: int) -> bool:
    """Does the picture stand for a later state? Then another projector was faster."""
    return sequence(data) > seq


def _config_map(namespace: str, name: str, data: dict[str, str]) -> dict[str, Any]:
    labels = {"app.kubernetes.io/part-of": "catalyst-cutover"}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        # Helm and Flux leave it alone: it is nobody's manifest.
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": labels,
            "annotations": {"helm.sh/resource-policy": "keep", "kustomize.toolkit.fluxcd.io/reconcile": "disabled"},
        },
        "data": data,
    }
