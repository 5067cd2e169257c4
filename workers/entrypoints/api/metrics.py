"""What Prometheus reads of this process: the projection, and how the front door bears up. The room of its client."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from events.flow import STEPS
from events.fold import Run
from events.picture import percent
from workers.entrypoints.api.connections import Tally
from workers.entrypoints.api.feed import Feed
from workers.entrypoints.api.live import Readers

TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Projection(Collector):
    """Computed when it is asked for; nothing is counted twice."""

    def __init__(self, feed: Feed, readers: Readers, tally: Tally) -> None:
        self._feed, self._readers, self._tally = feed, readers, tally

    def collect(self) -> Iterator[Metric]:
        state = self._feed.state
        run = state.run
        yield _gauge("cutover_live", "1 while the log is followed", self._feed.live)
        yield _gauge("cutover_complete", "1 when the cutover is complete", state.complete)
        yield _gauge("cutover_active", "1 while a run is under way", state.active)
        yield _gauge("cutover_integrity_ok", "1 while the chain of the log holds", not state.broken)
        yield _gauge("cutover_stream_sequence", "Stream sequence of the newest fact", state.seq)
        yield _gauge("cutover_progress_percent", "Of the newest run", percent(run) if run else 0)
        steps = GaugeMetricFamily(
            "cutover_step", "1 for the result that each step of the newest run has", labels=["step", "result"]
        )
        for step in STEPS:
            result = (run.step(step.slug).result if run else "") or "pending"
            steps.add_metric([step.slug, result], 1)
        yield steps
        yield from _steps(run)
        if state.tethers is not None:
            yield _gauge("cutover_tethers_found", "Findings of the newest audit", state.tethers)
        yield _gauge("cutover_api_readers", "Open streams of events", self._readers.count)
        yield _counter("cutover_api_readers_lagged", "Readers that were too slow", self._readers.lagged)
        yield _counter("cutover_api_readers_refused", "Readers too many", self._readers.refused)
        yield _gauge("cutover_api_connections", "Open connections", self._tally.open)
        yield _counter("cutover_api_connections_refused", "Connections too many", self._tally.refused)
        yield _counter("cutover_api_connections_slow", "Connections whose request did not arrive", self._tally.slow)
        yield _counter("cutover_api_connections_stalled", "Readers that took nothing", self._tally.stalled)


class Exposition:
    """What `/metrics` answers."""

    def __init__(self, projection: Projection) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(projection)

    def text(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)


def _steps(run: Run | None) -> Iterator[Metric]:
    """When each step of the newest run began and ended, how often it waited, and what it moves."""
    began = GaugeMetricFamily("cutover_step_started_timestamp_seconds", "Newest attempt", labels=["step"])
    ended = GaugeMetricFamily("cutover_step_finished_timestamp_seconds", "Newest attempt", labels=["step"])
    tries = GaugeMetricFamily("cutover_step_waits", "How often this step waited in a row", labels=["step"])
    moved = GaugeMetricFamily("cutover_step_bytes", "Bytes moved by the newest attempt", labels=["step"])
    left = GaugeMetricFamily("cutover_hold_seconds_remaining", "Of the block on egress", labels=[])
    for slug, step in run.steps.items() if run else ():
        if step.started_at is not None:
            began.add_metric([slug], step.started_at.timestamp())
            tries.add_metric([slug], step.tries)
        if step.finished_at is not None:
            ended.add_metric([slug], step.finished_at.timestamp())
        if step.progress is not None and step.progress.bytes_done is not None:
            moved.add_metric([slug], step.progress.bytes_done)
        if step.progress is not None and step.result == "running" and step.progress.hold_seconds_remaining is not None:
            left.add_metric([], step.progress.hold_seconds_remaining)
    yield from (began, ended, tries, moved, left)


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(name, what, value=float(value))


def _counter(name: str, what: str, value: float) -> Metric:
    return CounterMetricFamily(name, what, value=float(value))
