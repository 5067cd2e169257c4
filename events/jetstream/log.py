"""The log, kept by JetStream: appended to by compare-and-set. It is read in `reading`, made in `making`."""

from __future__ import annotations

import time
from typing import Final
from uuid import uuid4

import anyio
import nats.errors

from events.envelope import CONTENT_TYPE
from events.jetstream.making import Maker
from events.jetstream.reading import Reader
from events.jetstream.wire import RETRY, Refused, words
from events.log import Conflict, Emit, LogFull, LogUnavailable, NotPermitted, TooLarge
from events.subjects import JOURNAL

DUPLICATE: Final = 10201
CONFLICTS: Final = frozenset({10071, 10164, DUPLICATE})
"""Wrong last sequence; the same on three replicas while another append is in flight; a duplicate inside a batch."""
FULL: Final = 10077
TOO_LARGE: Final = 10054


class JetStreamLog(Reader, Maker):
    """The log, kept by JetStream. Open it with `JetStreamLog.open`."""

    async def append(self, raw: bytes, *, id: str, expected: int, then: Emit | None) -> int:
        """Compare-and-set append, retried until the broker's answer is known or the budget is used up."""
        deadline = time.monotonic() + self.broker.budget
        asked = (JOURNAL, *([then.subject] if then else []))
        pause = 0.05
        while True:
            try:
                return await self._append_once(raw, id, expected, then)
            except nats.errors.MaxPayloadError:
                raise self._too_large(raw) from None
            except Refused as refusal:
                if self._refused(*asked):  # of a batch the first half: the second is then refused for another reason
                    raise NotPermitted(str(self.denied)) from None
                if refusal.code not in CONFLICTS:
                    raise self._why(refusal, raw) from None
                trouble: Exception = refusal
            except RETRY as error:
                if self._refused(*asked):
                    raise NotPermitted(str(self.denied)) from None
                trouble = error
            found = await self._landed(raw, expected, deadline)
            if found is not None:
                return found
            if time.monotonic() > deadline:
                raise LogUnavailable(f"append not confirmed in {self.broker.budget:.0f} s: {words(trouble)}")
            await anyio.sleep(pause)
            pause = min(pause * 2, 1.0)

    async def _append_once(self, raw: bytes, id: str, expected: int, then: Emit | None) -> int:
        headers = {
            "Nats-Msg-Id": id,
            "Nats-Expected-Last-Subject-Sequence": str(expected),
            "content-type": CONTENT_TYPE,
        }
        if then is None:
            reply = await self._publish(JOURNAL, raw, headers)
            seq = int(reply["seq"])
            if seq <= expected:  # the broker took it for a repeat of an event from long ago
                raise ValueError(f"event id {id} stands in the log already, at {seq}")
            if reply.get("duplicate"):  # by us, before an answer was lost, or by someone else
                raise Refused({"err_code": DUPLICATE, "description": f"event id {id} is there already"})
            return seq
        batch = uuid4().hex
        await self.client.publish(JOURNAL, raw, headers={**headers, "Nats-Batch-Id": batch, "Nats-Batch-Sequence": "1"})
        closing = {
            "Nats-Msg-Id": then.draft.id,
            "content-type": CONTENT_TYPE,
            "Nats-Batch-Id": batch,
            "Nats-Batch-Sequence": "2",
            "Nats-Batch-Commit": "1",
        }
        answer = await self._publish(then.subject, then.draft.encode(), closing)
        return int(answer["seq"]) - 1

    async def _landed(self, raw: bytes, expected: int, deadline: float) -> int | None:
        """Is one of the entries above `expected` ours? Raises Conflict when there are some and none is.

        Judged by the bytes: another worker's event of the same id has another hash, and the next one builds on it."""
        while True:
            try:
                newer = await self.since(expected)
                break
            except LogUnavailable:
                if time.monotonic() > deadline:
                    raise
                await anyio.sleep(0.2)
        for entry in newer:
            if entry.raw == raw:
                return entry.seq
        if newer:
            raise Conflict(f"expected {expected}, the journal is at {newer[-1].seq}")
        return None

    def _why(self, refusal: Refused, raw: bytes) -> Exception:
        """What a refusal means for whoever asked."""
        if refusal.code == FULL:
            return LogFull("the stream is full (max_bytes); enlarge it, nothing was forgotten")
        if refusal.code == TOO_LARGE:
            return self._too_large(raw)
        return LogUnavailable(f"the broker refuses the message: {refusal}")

    def _too_large(self, raw: bytes) -> TooLarge:
        return TooLarge(f"{len(raw)} bytes; the broker takes {self.client.max_payload} in one message (max_payload)")

    async def publish(self, message: Emit) -> int:
        """Publish beside the journal; idempotent by the draft's id. Raises LogUnavailable."""
        return await self.publish_raw(message.subject, message.draft.encode(), message.draft.id)

    async def publish_raw(self, subject: str, raw: bytes, id: str | None = None) -> int:
        """Publish bytes as they are, retried within the budget."""
        headers = {"content-type": CONTENT_TYPE, **({"Nats-Msg-Id": id} if id else {})}
        deadline = time.monotonic() + self.broker.budget
        while True:
            try:
                return int((await self._publish(subject, raw, headers))["seq"])
            except nats.errors.MaxPayloadError:
                raise self._too_large(raw) from None
            except Refused as refusal:
                raise self._why(refusal, raw) from None
            except RETRY as error:
                if self._refused(subject):
                    raise NotPermitted(str(self.denied)) from None
                if time.monotonic() > deadline or id is None:
                    raise LogUnavailable(f"publish to {subject} not confirmed: {words(error)}") from None
                await anyio.sleep(0.2)
