"""What travels: conforming, chained, and refused when it is not."""

from __future__ import annotations

import json

import pytest
from cloudevents.core.formats.json import JSONFormat
from histories import accepted, chain, draft, whole_run
from hypothesis import given
from hypothesis import strategies as st

from events.documents import stale
from events.envelope import Undecodable, admit, data_of, read
from events.types import FACTS, KINDS, kind_of, type_of

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


def test_kind_and_type_are_one_to_one() -> None:
    assert {kind_of(type_of(kind)) for kind in KINDS} == set(KINDS)


def test_the_same_draft_is_the_same_bytes() -> None:
    assert draft(accepted(), 1).sealed(1, "0" * 64).encode() == draft(accepted(), 1).sealed(1, "0" * 64).encode()


def test_the_generated_schemas_are_not_stale() -> None:
    assert stale() == []
