"""What was copied, by the newest result in the log: one that cannot be read is not passed over."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from histories import START, accepted, chain, started, succeeded
from pydantic import BaseModel

from events.log import Entry
from events.memory import MemoryLog
from events.subjects import JOURNAL
from schemas import events as facts
from workers.audit.finding import Audit, Severity
from workers.audit.kept import forgotten
from workers.audit.report import document, verdict
from workers.copies import Copies
from workers.errors import Stuck
from workers.sovereign import Gitea, Harbor, Login, Sovereign
from workers.world import World

SLUG = "harbor-prewarm"


class Kept(MemoryLog):
    """A log that holds these entries."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        super().__init__()
        self.stream.extend(entries)


def copied(changes: int, **extra: Any) -> facts.StepSucceeded:
    """A result; with `extra`, one that a later version wrote."""
    good = succeeded(SLUG, token=2, changes=changes)
    return good.model_copy(update={"result": {**good.result, **extra}})


def journal(*results: BaseModel) -> list[Entry]:
    return chain([accepted(), started(SLUG), *results])


async def test_the_newest_result_counts_of_whichever_run() -> None:
    found = await Copies(Kept(journal(copied(1), copied(7)))).latest()
    assert found is not None
    assert found.changes == 7
    assert await Copies(Kept(journal())).latest() is None


async def test_a_newest_result_that_cannot_be_read_is_not_replaced_by_an_older_one() -> None:
    for older in ([], [copied(1)]):
        copies = Copies(Kept(journal(*older, copied(2, invented_later=1))))
        for _ in range(2):  # what was read once stays so
            with pytest.raises(Stuck, match=r"^ResultUnreadable: .*entry \d.* run harbor-prewarm once more"):
                await copies.latest()


async def test_a_success_whose_own_fields_cannot_be_read_is_not_passed_over_either() -> None:
    entries = journal(copied(1), copied(2))
    raw = entries[-1].raw.replace(b'"worker"', b'"doer"')
    assert raw != entries[-1].raw
    with pytest.raises(Stuck, match=r"^ResultUnreadable"):
        await Copies(Kept([*entries[:-1], dataclasses.replace(entries[-1], raw=raw)])).latest()


async def test_a_result_after_it_that_can_be_read_settles_the_matter() -> None:
    log = Kept(journal(copied(1), copied(2, invented_later=1)))
    copies = Copies(log)
    with pytest.raises(Stuck):
        await copies.latest()
    log.stream.append(journal(copied(1), copied(2), copied(3))[-1])
    found = await copies.latest()
    assert found is not None
    assert found.changes == 3


async def test_what_others_succeed_with_strangers_and_copies_of_the_past_are_no_result_of_it() -> None:
    other = succeeded("gitea-mirror", token=2)
    odd = other.model_copy(update={"result": {**other.result, "after": SLUG}})
    old = journal(copied(1))[-1]
    entries = journal(copied(1), copied(5), odd)
    stranger = Entry(20, JOURNAL, b'{"harbor-prewarm": not an event')
    log = Kept([*entries, stranger, dataclasses.replace(old, seq=21)])
    found = await Copies(log).latest()
    assert found is not None
    assert found.changes == 5


LOGIN = Login(username="u", password_file=Path("/absent"))
SOVEREIGN = Sovereign(
    fqdn="sov.test",
    gitea=Gitea(url="http://127.0.0.1:1", login=LOGIN),
    harbor=Harbor(url="http://127.0.0.1:2", host="harbor.sov.test", login=LOGIN),
)


@dataclasses.dataclass(frozen=True)
class Seen:
    """As much of a world as the question asks for: no project here is a proxy, so Harbor is asked nothing."""

    copied: Copies
    sovereign: Sovereign = SOVEREIGN


async def test_an_audit_says_that_nobody_knows_what_was_copied() -> None:
    world = cast(World, Seen(Copies(Kept(journal(copied(1), copied(2, invented_later=1))))))
    [found] = await forgotten(world)
    assert (found.severity, found.tether, found.name) == (Severity.UNREADABLE, 7, "what was copied")
    assert found.host.startswith("ResultUnreadable: ")
    assert "harbor-prewarm" in found.cut_by
    said = Audit(START, (found,))
    assert verdict(said).startswith("not known: 1 ")
    assert not document(said)["clean"]
