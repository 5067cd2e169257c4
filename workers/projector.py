"""The projector: paints the status ConfigMap from the journal. Any number of them may run.

The picture is written whole, under its resourceVersion, with the stream sequence that it stands for, and never
backwards. It can be thrown away and painted again.
"""

from __future__ import annotations

import logging
from typing import Any

import anyio

from events.fold import State
from events.journal import Journal
from events.picture import picture
from workers.adapters.cluster import CONFIG_MAP, Cluster, Conflict, Exists
from workers.errors import Stuck, Wait

log = logging.getLogger("cutover.projector")
PACE = 0.3  # seconds between two writes, at least


async def serve(journal: Journal, cluster: Cluster, *, namespace: str, name: str) -> None:
    """Keep the ConfigMap at the journal's newest state for ever. `journal.tail` must run beside."""
    shown = 0
    while True:
        state = await journal.moved(shown) if shown else await _first(journal)
        try:
            await paint(cluster, state, namespace=namespace, name=name)
            shown = state.seq
        except (Wait, Stuck) as error:
            log.warning("status not written: %s", error)
            await anyio.sleep(5)
        await anyio.sleep(PACE)


async def _first(journal: Journal) -> State:
    return journal.state if journal.state.seq else await journal.moved(0)


async def paint(cluster: Cluster, state: State, *, namespace: str, name: str) -> None:
    """The ConfigMap shows `state`, or a newer one. Raises Wait, Stuck."""
    data = picture(state)
    if not data:
        return
    while True:
        live = await cluster.get(CONFIG_MAP, name, namespace)
        try:
            if live is None:
                await cluster.create(CONFIG_MAP, _config_map(namespace, name, data))
            elif older(live.get("data") or {}, state.seq) or (live.get("data") or {}) != data:
                if newer(live.get("data") or {}, state.seq):
                    return
                await cluster.replace(CONFIG_MAP, {**live, "data": data})
            return
        except (Conflict, Exists):
            continue


def sequence(data: dict[str, str]) -> int:
    """The stream sequence that a picture stands for; 0 when it does not say."""
    word = data.get("streamSequence", "")
    return int(word) if word.isdigit() else 0


def older(data: dict[str, str], seq: int) -> bool:
    """Does the picture stand for an earlier state?"""
    return sequence(data) < seq


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
