"""Sends the log's traces to an OpenTelemetry collector. The only room of opentelemetry; off without an endpoint.

OTLP over HTTP, one POST for each span that ended. A collector that is away costs the cutover nothing: what could not
be sent is logged once a time and dropped, and the log still has it all.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime

import anyio
from anyio.to_thread import run_sync
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event as SpanEvent
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from events.envelope import Undecodable, data_of, read
from events.log import Keeper
from events.subjects import JOURNAL
from workers.tracing import Span, Traces

log = logging.getLogger("cutover.telemetry")
PATIENCE = 5.0  # seconds for one POST


async def serve(keeper: Keeper, endpoint: str, fqdn: str) -> None:
    """Follow the log and send each span as it ends. `endpoint` is the collector's, with `/v1/traces`.

    What ended before this began is sent again for a run that is still active, under the same ids, and not else.
    """
    exporter = OTLPSpanExporter(endpoint=endpoint, timeout=PATIENCE)
    resource = Resource.create({"service.name": "catalyst-cutover", "service.namespace": fqdn})
    try:
        newest = await keeper.last()
        head = newest.seq if newest else 0
        traces = Traces()
        earlier: list[Span] = []
        async for entry in keeper.follow(0):
            if entry.subject != JOURNAL:
                continue
            try:
                event = read(entry.raw)
                ended = list(traces.hear(event, data_of(event)))
            except Undecodable:
                continue
            if entry.seq < head:
                earlier = [] if event.kind in ("accepted", "completed", "failed", "cancelled") else [*earlier, *ended]
                continue
            await _send(exporter, resource, [*earlier, *ended])
            earlier = []
    finally:
        with anyio.CancelScope(shield=True):
            await run_sync(exporter.shutdown)


async def _send(exporter: OTLPSpanExporter, resource: Resource, spans: Iterable[Span]) -> None:
    told = [readable(span, resource) for span in spans]
    if told and await run_sync(exporter.export, told) is not SpanExportResult.SUCCESS:
        log.warning("%d spans could not be sent to the collector; the log has what they say", len(told))


def readable(span: Span, resource: Resource) -> ReadableSpan:
    """OpenTelemetry's word for it."""
    return ReadableSpan(
        name=span.name,
        context=_context(span.trace, span.id),
        parent=None if span.parent is None else _context(span.trace, span.parent),
        resource=resource,
        attributes=span.attributes,
        events=[SpanEvent(m.name, m.attributes, _nanoseconds(m.at)) for m in span.moments],
        kind=SpanKind.CONSUMER if span.parent is not None else SpanKind.INTERNAL,
        status=Status(StatusCode.ERROR, span.trouble) if span.trouble else Status(StatusCode.OK),
        start_time=_nanoseconds(span.begin),
        end_time=_nanoseconds(span.end),
        instrumentation_scope=InstrumentationScope("catalyst-cutover"),
    )


def _context(trace: int, span: int) -> SpanContext:
    return SpanContext(trace, span, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def _nanoseconds(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000) * 1_000
