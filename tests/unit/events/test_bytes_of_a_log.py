"""An exported log is checked as a file: not one byte of it may differ from what was signed."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import cache

import histories
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from events import certificate, export
from events.certificate import Forged, Signer, Uncertifiable
from events.export import Rewritten
from events.flow import LAST
from events.fold import fold
from events.log import Entry
from events.subjects import JOURNAL
from schemas import events as facts

KEY = Signer.new()


@cache
def log() -> tuple[Entry, ...]:
    """A whole run, and a message that is no JSON in the middle."""
    history = histories.whole_run()[:-1]
    run = fold(histories.chain(history)).run
    assert run is not None
    done = facts.Completed(evidence_digest=run.digest, rehearsal=True)
    chained = histories.chain([*history, done, facts.Audited(findings=(), clean=True)])
    stray = Entry(chained[-1].seq + 1, "catalyst.cutover.elsewhere", b"\xff\xfe no json\n")
    return (*chained, stray)


@cache
def exported() -> bytes:
    return b"".join(export.line(each) + b"\n" for each in log())


@cache
def signed() -> bytes:
    return certificate.issue(log(), KEY)


def holds(file: bytes, envelope: bytes | None = None) -> bool:
    """Does the check of this file against the certificate find nothing?"""
    try:
        entries = list(export.entries(io.BytesIO(file)))
        return not certificate.verify(envelope or signed(), entries, trusted=KEY.verifier).faults
    except (Rewritten, Forged, Uncertifiable):
        return False


def test_the_file_as_it_was_exported_holds() -> None:
    assert holds(exported())


@given(st.integers(0, len(exported()) - 1), st.integers(0, 255))
def test_no_byte_of_it_may_change(at: int, value: int) -> None:
    file = exported()
    assert holds(file[:at] + bytes([value]) + file[at + 1 :]) is (file[at] == value)


@given(st.integers(0, len(exported())), st.binary(min_size=1, max_size=3))
def test_nothing_may_be_put_in(at: int, more: bytes) -> None:
    file = exported()
    changed = file[:at] + more + file[at:]
    assert not holds(changed)


@given(st.integers(0, len(exported()) - 1), st.integers(1, 400))
def test_nothing_may_be_cut_out_or_off(at: int, length: int) -> None:
    file = exported()
    assert not holds(file[:at] + file[at + length :])


def _respelled(lines: Sequence[bytes]) -> list[list[bytes]]:
    """The same messages, as another program would write them."""
    first = orjson.loads(lines[0])
    raw = base64.b64encode(log()[0].raw).decode()
    as_base64 = orjson.dumps({"seq": first["seq"], "subject": first["subject"], "base64": raw}) + b"\n"
    stray = orjson.loads(lines[-1])
    return [
        [as_base64, *lines[1:]],
        [*lines[:-1], orjson.dumps({**stray, "note": "x"}) + b"\n"],
        [*lines[:-1], orjson.dumps({"subject": stray["subject"], **stray}) + b"\n"],
        [lines[0].replace(b'"seq":1,', b'"seq":1.0,'), *lines[1:]],
        [lines[0].replace(b'"r1', b'"\\u00721', 1), *lines[1:]],
        [line.replace(b"\n", b"\r\n") for line in lines],
        [*lines, b"\n"],
        [*lines, *lines],
        [*lines[1:], lines[0]],
        [lines[0], *lines],
    ]


@pytest.mark.parametrize("number", range(10))
def test_the_same_messages_spelled_another_way_are_not_that_file(number: int) -> None:
    changed = b"".join(_respelled(exported().splitlines(keepends=True))[number])
    assert changed != exported()
    assert not holds(changed)


def _enveloped(**changes: object) -> bytes:
    return orjson.dumps({**orjson.loads(signed()), **changes})


def test_an_envelope_of_another_type_of_more_hands_or_of_another_alphabet_is_none() -> None:
    envelope = orjson.loads(signed())
    (signature,) = envelope["signatures"]
    other = {"keyid": Signer.new().verifier.keyid, "sig": signature["sig"]}
    url_safe = base64.urlsafe_b64encode(base64.b64decode(envelope["payload"])).decode()
    spaced = envelope["payload"][:76] + "\n" + envelope["payload"][76:]
    cases = [
        _enveloped(payloadType="application/json"),
        _enveloped(signatures=[]),
        _enveloped(signatures=[signature, other]),
        _enveloped(signatures=[signature, signature]),
        _enveloped(signatures=[other]),
        _enveloped(payload=spaced),
        _enveloped(payload=envelope["payload"].rstrip("=") + "===="),
        _enveloped(signatures=[{**signature, "sig": signature["sig"] + "AAAA"}]),
    ]
    if url_safe != envelope["payload"]:
        cases.append(_enveloped(payload=url_safe))
    assert holds(exported(), _enveloped())
    assert [holds(exported(), case) for case in cases] == [False] * len(cases)


def test_a_rehearsals_log_that_calls_itself_real_is_still_a_rehearsal() -> None:
    """Whoever may write to the journal could say so: the result of step 8 in the same log says otherwise."""
    history = histories.whole_run()[:-1]
    run = fold(histories.chain(history)).run
    assert run is not None
    assert run.step(LAST.slug).outcome.rehearsal  # type: ignore[union-attr]
    lie = facts.Completed(evidence_digest=run.digest, rehearsal=False)
    entries = histories.chain([*history, lie, facts.Audited(findings=(), clean=True)])
    assert fold(e for e in entries if e.subject == JOURNAL).rehearsal
    predicate = certificate.statement(entries, KEY.verifier)["predicate"]
    assert (predicate["verdict"], predicate["rehearsal"]) == ("rehearsal", True)
