"""Histories for tests of the fold: drafts sealed into a chain, without a broker."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from pool_bench import result
from pydantic import BaseModel

from events.envelope import GENESIS, Draft, record
from events.flow import SLUGS
from events.log import Entry
from events.subjects import JOURNAL
from schemas import events as facts

START = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


def draft(data: BaseModel, number: int, *, run: str = "r1", attempt: int | None = 1) -> Draft:
    subject = getattr(data, "step", "cutover")
    at = START + timedelta(seconds=number)
    return Draft(
        id=f"e{number}",
        source="//sovereign.test/cutover",
        data=data,
        subject=subject,
        time=at,
        run=run,
        attempt=attempt,
    )


def chain(facts_in_order: Iterable[BaseModel], *, run: str = "r1", gap: int = 1) -> list[Entry]:
    """Journal entries of one run, sequences `gap` apart, as triggers between them would leave them."""
    entries: list[Entry] = []
    prevhash = GENESIS
    for number, data in enumerate(facts_in_order, 1):
        raw = draft(data, number, run=run).sealed(number, prevhash).encode()
        entries.append(Entry(number * gap, JOURNAL, raw))
        prevhash = record(number, raw).hash
    return entries


def accepted() -> facts.Accepted:
    return facts.Accepted(operator="ann", request=1, steps=SLUGS)


def started(slug: str, trigger: int = 2, worker: str = "w") -> facts.StepStarted:
    return facts.StepStarted(step=slug, worker=worker, trigger=trigger, after=1, lease_seconds=20)


def succeeded(slug: str, token: int, changes: int = 1) -> facts.StepSucceeded:
    data: dict[str, Any] = result(slug, changes).model_dump(mode="json")
    return facts.StepSucceeded(step=slug, worker="w", token=token, result=data)


def whole_run(gap: int = 1) -> list[BaseModel]:
    """accepted, then started and succeeded of all eight, then completed. Tokens are the places in the list, `gap`
    apart as `chain` lays them."""
    history: list[BaseModel] = [accepted()]
    for slug in SLUGS:
        history.append(started(slug, trigger=len(history) + 1))
        history.append(succeeded(slug, token=len(history) * gap))
    return [*history, facts.Completed(evidence_digest="0" * 64, rehearsal=True)]
