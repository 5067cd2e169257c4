"""A certificate belongs to one log and one key: whatever is changed, dropped, moved or added is noticed."""

from __future__ import annotations

import base64
import shutil
import subprocess
from functools import cache
from pathlib import Path

import histories
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from events import certificate, export
from events.certificate import Forged, Signer, Uncertifiable, Verifier
from events.envelope import record
from events.flow import SLUGS
from events.fold import fold
from events.log import Entry
from schemas import events as facts

KEY = Signer.new()


@cache
def log(clean: bool = True, signer: str = "") -> tuple[Entry, ...]:
    """A whole run with its evidence and an audit after it."""
    history = histories.whole_run()[:-1]
    run = fold(histories.chain(history)).run
    assert run is not None
    done = facts.Completed(evidence_digest=run.digest, rehearsal=True)
    after = facts.Audited(findings=({"kind": "GitRepository"},), clean=clean, signer=signer)
    return tuple(histories.chain([*history, done, after]))


@cache
def issued() -> bytes:
    return certificate.issue(log(), KEY)


def faults(entries: list[Entry], signed: bytes | None = None, continued: bool = False) -> tuple[str, ...]:
    """What the check of a certificate against these messages finds; a forged one counts as a fault."""
    try:
        return certificate.verify(signed or issued(), entries, trusted=KEY.verifier, continued=continued).faults
    except Forged as error:
        return (str(error),)


def test_the_log_and_its_certificate_belong_together() -> None:
    assert faults(list(log())) == ()


def test_a_certificate_says_what_was_done_blocked_seen_and_left() -> None:
    document = certificate.opened(issued())
    predicate = document["predicate"]
    assert document["_type"] == "https://in-toto.io/Statement/v1"
    assert predicate["verdict"] == "rehearsal"
    assert [step["step"] for step in predicate["steps"]] == list(SLUGS)
    assert {"means", "blocked_hosts", "held_seconds", "forced", "during"} <= predicate["egress"].keys()
    assert predicate["tethers"] == {"before": None, "after": {"clean": True, "findings": [{"kind": "GitRepository"}]}}


def test_its_first_subject_is_the_digest_of_the_exported_file() -> None:
    import hashlib

    exported = b"".join(export.line(entry) + b"\n" for entry in log())
    subject = certificate.opened(issued())["subject"][0]
    assert subject == {"name": "log.jsonl", "digest": {"sha256": hashlib.sha256(exported).hexdigest()}}


def test_the_same_log_and_key_give_the_same_certificate() -> None:
    assert certificate.issue(log(), Signer.from_pem(KEY.pem)) == issued()


places = st.integers(0, len(log()) - 1)


@given(places, st.data())
def test_a_changed_event_fails(place: int, data: st.DataObject) -> None:
    entries = list(log())
    raw = bytearray(entries[place].raw)
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    entries[place] = Entry(entries[place].seq, entries[place].subject, bytes(raw))
    assert faults(entries)


@given(places, st.booleans(), st.booleans())
def test_a_dropped_event_fails(place: int, renumbered: bool, continued: bool) -> None:
    entries = [entry for number, entry in enumerate(log()) if number != place]
    if renumbered:
        entries = [Entry(seq, entry.subject, entry.raw) for seq, entry in enumerate(entries, 1)]
    assert faults(entries, continued=continued)


@given(places, places, st.booleans())
def test_reordered_events_fail(one: int, other: int, renumbered: bool) -> None:
    entries = list(log())
    entries[one], entries[other] = entries[other], entries[one]
    if renumbered:
        entries = [Entry(seq, entry.subject, entry.raw) for seq, entry in enumerate(entries, 1)]
    assert bool(faults(entries)) is (one != other)


@given(st.integers(0, len(log())), places, st.booleans())
def test_an_added_event_fails_wherever_it_stands(place: int, copied: int, renumbered: bool) -> None:
    entries = list(log())
    entries.insert(place, Entry(place + 1, entries[copied].subject, entries[copied].raw))
    if renumbered:
        entries = [Entry(seq, entry.subject, entry.raw) for seq, entry in enumerate(entries, 1)]
    assert faults(entries)


@given(st.integers(0, len(issued()) - 1), st.integers(1, 255))
def test_a_changed_certificate_fails_or_says_the_same(at: int, bits: int) -> None:
    changed = bytearray(issued())
    changed[at] ^= bits
    try:
        same = orjson.loads(bytes(changed)) == orjson.loads(issued())
    except orjson.JSONDecodeError:
        same = False
    assert same or faults(list(log()), bytes(changed))


def test_a_log_that_went_on_is_taken_only_when_that_is_asked_for_and_counted() -> None:
    longer = [*log(), Entry(len(log()) + 1, "catalyst.cutover.requested", b"{}")]
    assert faults(longer) == ("the log has 1 messages that the certificate does not know",)
    assert certificate.verify(issued(), longer, continued=True).beyond == 1
    assert faults(longer, continued=True) == ()


def test_another_key_fails_though_it_signs_everything_anew() -> None:
    assert faults(list(log()), certificate.issue(log(), Signer.new()))


def test_a_signature_of_another_key_under_our_name_fails() -> None:
    envelope = orjson.loads(issued())
    payload = base64.b64decode(envelope["payload"])
    envelope["signatures"][0]["sig"] = base64.b64encode(Signer.new().sign(payload)).decode()
    with pytest.raises(Forged, match="another key"):
        certificate.opened(orjson.dumps(envelope))


def test_a_log_that_names_its_signer_takes_no_certificate_of_another_even_without_a_trusted_key() -> None:
    named = log(signer=KEY.verifier.keyid)
    assert certificate.verify(certificate.issue(named, KEY), named).faults == ()
    with pytest.raises(Uncertifiable, match="names"):
        certificate.issue(named, Signer.new())


def test_a_request_that_came_after_completion_does_not_free_the_log_for_another_key() -> None:
    named = list(log(signer=KEY.verifier.keyid))
    asked = histories.draft(histories.accepted(), 99, run="another").sealed(
        len(named) + 1, record(1, named[-1].raw).hash
    )
    named.append(Entry(len(named) + 1, named[-1].subject, asked.encode()))
    assert certificate.verify(certificate.issue(named, KEY), named).faults == ()
    with pytest.raises(Uncertifiable, match="names"):
        certificate.issue(named, Signer.new())


def test_a_success_that_the_fold_does_not_take_says_nothing_in_the_certificate() -> None:
    history = histories.whole_run()[:-1]
    proof = histories.succeeded(SLUGS[-1], token=1)
    claimed = proof.model_copy(update={"result": {**proof.result, "held_seconds": 6000.0}})
    run = fold(histories.chain([*history, claimed])).run
    assert run is not None
    done = facts.Completed(evidence_digest=run.digest, rehearsal=True)
    document = certificate.statement(histories.chain([*history, claimed, done]), KEY.verifier)
    held = certificate.statement(log(), KEY.verifier)["predicate"]["egress"]["held_seconds"]
    assert document["predicate"]["egress"]["held_seconds"] == held


def test_a_claim_that_the_log_does_not_make_fails_though_it_is_signed() -> None:
    document = certificate.statement(log(), KEY.verifier)
    document["predicate"]["verdict"] = "sovereign"
    payload = orjson.dumps(document)
    signature = {"keyid": KEY.verifier.keyid, "sig": base64.b64encode(KEY.sign(payload)).decode()}
    envelope = {
        "payloadType": certificate.PAYLOAD,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [signature],
    }
    assert faults(list(log()), orjson.dumps(envelope)) == ("the log does not say what the certificate claims",)


@pytest.mark.parametrize("length", [0, 1, 2, 16, 17])
def test_a_log_without_a_completed_run_is_not_certified(length: int) -> None:
    with pytest.raises(Uncertifiable):
        certificate.issue(log()[:length], KEY)


def test_a_run_that_completed_without_the_digest_of_its_own_events_is_not_certified() -> None:
    with pytest.raises(Uncertifiable, match="evidence"):
        certificate.issue(histories.chain(histories.whole_run()), KEY)


def test_a_proof_that_is_older_than_a_change_is_not_certified() -> None:
    again = [*histories.whole_run()[:-1]]
    run = fold(histories.chain(again)).run
    assert run is not None
    again.append(facts.Completed(evidence_digest=run.digest, rehearsal=False))
    again += [histories.started(SLUGS[4], trigger=90), histories.succeeded(SLUGS[4], token=len(again) + 1)]
    with pytest.raises(Uncertifiable):
        certificate.issue(histories.chain(again), KEY)


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"payload":"","signatures":[]}', b"\xff", b'{"payload":1}'])
def test_what_is_no_certificate_is_said_to_be_none(text: bytes) -> None:
    with pytest.raises(Forged, match="no certificate"):
        certificate.opened(text)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the machine has no openssl")
def test_openssl_alone_verifies_the_signature_as_dsse_defines_it(tmp_path: Path) -> None:
    envelope = orjson.loads(issued())
    payload = base64.b64decode(envelope["payload"])
    kind = envelope["payloadType"].encode()
    signed = b" ".join([b"DSSEv1", str(len(kind)).encode(), kind, str(len(payload)).encode(), payload])
    (tmp_path / "signed").write_bytes(signed)
    (tmp_path / "sig").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    (tmp_path / "key").write_text(KEY.verifier.pem)
    done = subprocess.run(
        ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "key", "-rawin", "-in", "signed", "-sigfile", "sig"],
        cwd=tmp_path,
        check=False,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr


def test_a_key_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"PEM|pem|key|load"):
        Verifier.from_pem(b"-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n")
