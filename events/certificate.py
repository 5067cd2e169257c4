"""The certificate: what a whole log proves, said in one signed document that anyone can check without us. Pure.

An in-toto Statement v1 in a DSSE envelope (Ed25519). Its subjects are the exported log itself, byte for byte
(`sha256sum log.jsonl`), and the digest of the run's events; its predicate is computed from the log alone, so the
same log and the same key give the same certificate, and whoever checks it computes it again and compares.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from events import export
from events.envelope import Undecodable, data_of, read
from events.flow import LAST, STEPS
from events.fold import Run, State, evolve
from events.log import Entry
from events.subjects import JOURNAL
from schemas import events as facts

STATEMENT: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "https://schemas.openova.io/catalyst-cutover/v1/certificate"
PAYLOAD: Final = "application/vnd.in-toto+json"
LOG, RUN = "log.jsonl", "run"
"""Names of the two subjects; the second is followed by the run's id."""

Document = dict[str, Any]


class Uncertifiable(Exception):
    """This log proves no cutover; the text says what is missing."""


class Forged(Exception):
    """This is no certificate, or not the one that was signed."""


# --- keys -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verifier:
    """A public key."""

    key: Ed25519PublicKey

    @classmethod
    def from_pem(cls, pem: bytes) -> Verifier:
        """Raises ValueError for anything but an Ed25519 public key."""
        found = serialization.load_pem_public_key(pem)
        if not isinstance(found, Ed25519PublicKey):
            raise ValueError("it is no Ed25519 key")
        return cls(found)

    @property
    def pem(self) -> str:
        """As `openssl pkey -pubin` reads it."""
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return self.key.public_bytes(serialization.Encoding.PEM, form).decode()

    @property
    def keyid(self) -> str:
        """`sha256:` of its DER: `openssl pkey -pubin -outform DER | sha256sum` gives the same."""
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        der = self.key.public_bytes(serialization.Encoding.DER, form)
        return "sha256:" + hashlib.sha256(der).hexdigest()

    def signed(self, signature: bytes, payload: bytes) -> bool:
        """Did this key sign the payload?"""
        try:
            self.key.verify(signature, _pae(payload))
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class Signer:
    """A private key. Its bytes go to the Secret that keeps it and nowhere else."""

    key: Ed25519PrivateKey

    @classmethod
    def new(cls) -> Signer:
        """A key that nobody else has."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, pem: bytes) -> Signer:
        """Raises ValueError for anything but an Ed25519 private key."""
        found = serialization.load_pem_private_key(pem, password=None)
        if not isinstance(found, Ed25519PrivateKey):
            raise ValueError("it is no Ed25519 key")
        return cls(found)

    @property
    def pem(self) -> bytes:
        """PKCS #8, unencrypted."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    @property
    def verifier(self) -> Verifier:
        """The public half."""
        return Verifier(self.key.public_key())

    def sign(self, payload: bytes) -> bytes:
        """Ed25519 over DSSE's pre-authentication encoding."""
        return self.key.sign(_pae(payload))


def _pae(payload: bytes) -> bytes:
    """`DSSEv1 <len> <type> <len> <payload>` (DSSE 1.0, protocol.md): type and payload are signed together."""
    kind = PAYLOAD.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


# --- what a log proves ------------------------------------------------------------------------------------------


@dataclass
class _Reading:
    """A log, read once from its first message to its last."""

    state: State
    done: Run | None = None
    """The run that completed last, as it stood just before `completed`."""
    completed: facts.Completed | None = None
    at: str = ""
    source: str = ""
    results: dict[str, Document] | None = None
    before: facts.Audited | None = None
    after: facts.Audited | None = None
    signer: str = ""
    """The key that the log named last for its certificates; a run that was only accepted since unsays it not."""


def statement(entries: Sequence[Entry], signer: Verifier) -> Document:
    """What this log proves, as an in-toto Statement. Raises Uncertifiable."""
    found = export.check(entries)
    if found.faults:
        raise Uncertifiable(f"the log does not hold: {found.faults[0]}")
    reading = _read(entries)
    run, done = reading.done, reading.completed
    if run is None or done is None or not reading.state.complete:
        raise Uncertifiable(_why_not(reading.state))
    if (said := reading.signer) and said != signer.keyid:
        raise Uncertifiable(f"the log names {said} as the key of its certificates, not {signer.keyid}")
    return {
        "_type": STATEMENT,
        "subject": [
            {"name": LOG, "digest": {"sha256": digest(entries)}},
            {"name": f"{RUN}/{run.id}", "digest": {"sha256": done.evidence_digest}},
        ],
        "predicateType": PREDICATE,
        "predicate": {
            "sovereign": reading.source,
            "verdict": _verdict(reading),
            "rehearsal": reading.state.rehearsal,
            "run": {
                "id": run.id,
                "operator": run.operator,
                "startedAt": _time(run.started_at),
                "completedAt": reading.at,
                "evidenceDigest": done.evidence_digest,
            },
            "steps": [_step(run, number) for number in range(len(STEPS))],
            "egress": (reading.results or {}).get(LAST.slug, {}),
            "tethers": {"before": _audit(reading.before), "after": _audit(reading.after)},
            "log": {"messages": found.messages, "events": found.events, "head": found.head, "foreign": found.foreign},
            "signer": {"keyid": signer.keyid, "publicKey": signer.pem},
        },
    }


def digest(entries: Iterable[Entry]) -> str:
    """SHA-256 of the exported file."""
    hashed = hashlib.sha256()
    for entry in entries:
        hashed.update(export.line(entry) + b"\n")
    return hashed.hexdigest()


def _read(entries: Iterable[Entry]) -> _Reading:
    reading = _Reading(State())
    results: dict[str, Document] = {}
    for entry in entries:
        if entry.subject != JOURNAL:
            continue
        before, reading.state = reading.state, evolve(reading.state, entry)
        if reading.state.length == before.length:
            continue
        try:
            event = read(entry.raw)
            data = data_of(event)
        except Undecodable:
            continue
        match data:
            case facts.Accepted():
                results, reading.before = {}, reading.after or reading.before
                reading.after = None
            case facts.StepSucceeded() if _counts(reading.state, data.step, entry.seq):
                results[data.step] = data.result
            case facts.Audited() if reading.state.run is not None and event.run == reading.state.run.id:
                _audited(reading, data)
            case facts.Completed() if before.run is not None and event.run == before.run.id:
                reading.done, reading.completed, reading.results = before.run, data, dict(results)
                reading.at, reading.source = _time(event.time), event.source
    return reading


def _counts(state: State, slug: str, seq: int) -> bool:
    """True when the fold took this success: one under an old token, or of another run, says nothing here either."""
    step = state.run.step(slug) if state.run else None
    return step is not None and step.seen == seq and step.result == "success"


def _audited(reading: _Reading, data: facts.Audited) -> None:
    """Before the proof began it tells what there was, after that what is left."""
    run = reading.state.run
    reading.signer = data.signer or reading.signer
    if run is not None and run.step(LAST.slug).result == "success":
        reading.after = data
    else:
        reading.before = data


def _verdict(reading: _Reading) -> str:
    # As the fold reads it: a hold that was short makes a rehearsal, whatever `completed` says of itself.
    if reading.state.rehearsal:
        return "rehearsal"
    if reading.after is None:
        return "not audited"
    return "sovereign" if reading.after.clean else "tethered"


def _why_not(state: State) -> str:
    run = state.run
    if run is None:
        return "no cutover was ever asked for in this log"
    if run.phase == "succeeded":
        return f"run {run.id} completed, and something changed after its proof; run the cutover again"
    return f"the cutover is not complete: run {run.id} {run.phase} {run.failed_step or run.current}".rstrip()


def _step(run: Run, number: int) -> Document:
    slug = STEPS[number].slug
    step = run.step(slug)
    outcome = step.outcome
    return {
        "step": slug,
        "attempts": step.attempt,
        "startedAt": _time(step.started_at),
        "finishedAt": _time(step.finished_at),
        "changes": outcome.changes if outcome else None,
        "summary": outcome.summary if outcome else "",
    }


def _audit(data: facts.Audited | None) -> Document | None:
    if data is None:
        return None
    omitted = {"omitted": data.omitted} if data.omitted else {}
    return {"clean": data.clean, "findings": list(data.findings), **omitted}


def _time(at: Any) -> str:
    return at.isoformat() if at else ""


# --- the envelope -----------------------------------------------------------------------------------------------


def issue(entries: Sequence[Entry], signer: Signer) -> bytes:
    """The certificate of this log, as the file's bytes. Raises Uncertifiable."""
    payload = orjson.dumps(statement(entries, signer.verifier), option=orjson.OPT_SORT_KEYS)
    signature = {"keyid": signer.verifier.keyid, "sig": _b64(signer.sign(payload))}
    envelope = {"payloadType": PAYLOAD, "payload": _b64(payload), "signatures": [signature]}
    return orjson.dumps(envelope, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def opened(certificate: bytes, trusted: Verifier | None = None) -> Document:
    """The statement, once its signature was checked. Raises Forged.

    Without a trusted key the one that the statement names is believed: then compare its id with the Sovereign's.
    """
    try:
        envelope = orjson.loads(certificate)
        payload, (signature,) = _bytes(envelope["payload"]), envelope["signatures"]
        document: Document = orjson.loads(payload)
        signer = Verifier.from_pem(document["predicate"]["signer"]["publicKey"].encode())
        named = {signature["keyid"], document["predicate"]["signer"]["keyid"], signer.keyid}
        signed = signer.signed(_bytes(signature["sig"]), payload)
        types = (envelope["payloadType"], document["_type"], document["predicateType"])
    except (ValueError, TypeError, KeyError, AttributeError, binascii.Error) as error:
        raise Forged(f"this is no certificate: {type(error).__name__}") from None
    if types != (PAYLOAD, STATEMENT, PREDICATE):
        raise Forged(f"this is no certificate of a cutover: {', '.join(map(str, types))}")
    if not signed or len(named) != 1:
        raise Forged("its signature does not hold: it was changed, or signed by another key")
    if trusted is not None and trusted.keyid != signer.keyid:
        raise Forged(f"it was signed by {signer.keyid}, not by the trusted key {trusted.keyid}")
    return document


@dataclass(frozen=True, slots=True)
class Verified:
    """What a check found; `faults` is empty when certificate and log belong together."""

    statement: Document
    faults: tuple[str, ...]
    beyond: int
    """Messages of the log that came after the certificate: nothing vouches for them."""

    @property
    def keyid(self) -> str:
        """Who signed."""
        return str(self.statement["predicate"]["signer"]["keyid"])


def verify(
    certificate: bytes, entries: Iterable[Entry], *, trusted: Verifier | None = None, continued: bool = False
) -> Verified:
    """Does the certificate speak of exactly this log? Raises Forged when it is not even whole itself.

    `continued` lets the log be longer than the certificate; what came after it is counted and not vouched for.
    """
    document = opened(certificate, trusted)
    messages = list(entries)
    covered = messages[: document["predicate"]["log"]["messages"]]
    beyond = len(messages) - len(covered)
    faults = list(_faults(document, covered))
    if beyond and not continued:
        faults.append(f"the log has {beyond} messages that the certificate does not know")
    return Verified(document, tuple(faults), beyond)


def _faults(document: Document, covered: Sequence[Entry]) -> Iterable[str]:
    wanted = document["subject"][0]["digest"]["sha256"]
    if (found := digest(covered)) != wanted:
        yield f"this is not the log that was certified: sha256 {found}, certified is {wanted}"
    signer = Verifier.from_pem(document["predicate"]["signer"]["publicKey"].encode())
    try:
        again = statement(covered, signer)
    except Uncertifiable as error:
        yield str(error)
        return
    # Through JSON and back: a tuple and a list are the same there.
    if orjson.loads(orjson.dumps(again)) != document:
        yield "the log does not say what the certificate claims"


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _bytes(text: str) -> bytes:
    """Base64 in its one canonical spelling. Raises ValueError."""
    raw = base64.b64decode(text, validate=True)
    if _b64(raw) != text:
        raise ValueError("not canonical")
    return raw
