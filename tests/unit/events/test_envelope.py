"""What travels: conforming, chained, and refused when it is not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cloudevents.core.formats.json import JSONFormat
from histories import accepted, chain, draft, whole_run
from hypothesis import given
from hypothesis import strategies as st

from events.documents import stale
from events.envelope import Undecodable, admit, data_of, read
from events.fold import State
from events.journal import Journal
from events.log import Unreadable
from events.memory import MemoryLog
from events.types import FACTS, KINDS, kind_of, type_of
from schemas import events as facts
from schemas.progress import Progress

MINIMAL = {"specversion": "1.0", "id": "1", "source": "me", "type": type_of("requested"), "data": {}}


def test_every_event_is_a_cloudevent_of_its_kind() -> None:
    for entry in chain(whole_run()):
        JSONFormat().read(None, entry.raw)
        event = read(entry.raw)
        assert event.kind in FACTS
        assert type(data_of(event)) is FACTS[event.kind or ""]
        assert event.dataschema
        assert event.dataschema.endswith(f"/{event.kind}.json")


def test_a_minimal_hand_made_request_works() -> None:
    event, _ = admit(json.dumps(MINIMAL).encode(), "requested")
    assert event.source == "me"


@pytest.mark.parametrize("missing", ["specversion", "id", "source", "type"])
def test_a_request_without_a_required_attribute_is_refused(missing: str) -> None:
    body = {name: value for name, value in MINIMAL.items() if name != missing}
    with pytest.raises(Undecodable):
        admit(json.dumps(body).encode(), "requested")


@pytest.mark.parametrize("wrong", [type_of("cancel"), "com.example.x", "io.openova.catalyst.cutover.requested.v2"])
def test_another_type_is_refused(wrong: str) -> None:
    with pytest.raises(Undecodable, match="type"):
        admit(json.dumps({**MINIMAL, "type": wrong}).encode(), "requested")


@given(st.binary(max_size=200))
def test_bytes_that_are_no_event_are_refused_and_not_repeated(raw: bytes) -> None:
    with pytest.raises(Undecodable):
        admit(raw, "requested")


def test_a_refusal_does_not_repeat_what_was_sent() -> None:
    with pytest.raises(Undecodable) as caught:
        admit(json.dumps({**MINIMAL, "data": {"operator": ["hunter2"]}}).encode(), "requested")
    assert "hunter2" not in str(caught.value)


ANY = st.text(st.characters(), max_size=20)  # half characters too, as Python holds what is not UTF-8


@given(st.dictionaries(ANY, st.one_of(ANY, st.floats(), st.lists(ANY, max_size=3)), max_size=5), ANY)
def test_whatever_a_step_says_is_read_again(result: dict[str, Any], message: str) -> None:
    whole = facts.StepSucceeded(step="gitea-mirror", worker="w", token=1, result={**result, "summary": message})
    raw = draft(whole, 1).encode()
    JSONFormat().read(None, raw)
    said = data_of(read(raw))
    assert isinstance(said, facts.StepSucceeded)
    assert said.result["summary"] == message.encode("utf-8", "backslashreplace").decode()


async def test_what_could_not_be_read_again_is_not_appended() -> None:
    log = MemoryLog()
    journal = Journal(log)
    for odd in (facts.StepSucceeded(step="gitea-mirror", worker="w", token=1, result={}),
                facts.Accepted(operator="ann", request=10**5000, steps=()),
                facts.StepProgress(step="gitea-mirror", worker="w", token=1,
                                   progress=Progress(message="m", items_done=10**300))):  # fmt: skip
        with pytest.raises(Unreadable):
            await journal.append(draft(odd, 1))
    assert (log.stream, journal.state) == ([], State())


def test_kind_and_type_are_one_to_one() -> None:
    assert {kind_of(type_of(kind)) for kind in KINDS} == set(KINDS)


def test_the_same_draft_is_the_same_bytes() -> None:
    assert draft(accepted(), 1).sealed(1, "0" * 64).encode() == draft(accepted(), 1).sealed(1, "0" * 64).encode()


def test_the_generated_schemas_are_not_stale() -> None:
    assert stale() == []
