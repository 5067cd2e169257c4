"""The log, kept by JetStream: appended to by compare-and-set. It is read in `reading`, made in `making`."""

from __future__ import annotations

import time
from typing import Any, Final
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
"""Wrong last sequence; the same on three replicas while another append is in flight; an id that is there already."""
PASSING: Final = frozenset({10176})
"""The batch was not whole: its first half went down with a connection. As 503, it says nothing of the next try."""
FULL: Final = 10077
TOO_LARGE: Final = 10054


class JetStreamLog(Reader, Maker):
    """The log, kept by JetStream. Open it with `JetStreamLog.open`."""

    async def append(self, raw: bytes, *, id: str, expected: int, then: Emit | None) -> int:
        """Compare-and-set append, retried until the broker's answer is known or the budget is used up."""
        deadline = time.monotonic() + self.broker.budget
        asked = (JOURNAL, *([then.subject] if then else []))
        pause, mark = 0.05, ""
        while True:
            try:
                return await self._append_once(raw, id, expected, then, mark)
            except nats.errors.MaxPayloadError:
                raise self._too_large(raw) from None
            except Refused as refusal:
                if self._refused(*asked):  # of a batch the first half: the second is then refused for another reason
                    raise NotPermitted(str(self.denied)) from None
                if refusal.code in (FULL, TOO_LARGE) or not (
                    refusal.code in CONFLICTS | PASSING or refusal.status == 503
                ):
                    raise self._why(refusal, raw) from None
                trouble: Exception = refusal
            except RETRY as error:
                if self._refused(*asked):
                    raise NotPermitted(str(self.denied)) from None
                trouble = error
            found = await self._landed(raw, expected, deadline)
            if found is not None:
                return found
            if isinstance(trouble, Refused) and trouble.code == DUPLICATE:
                # Nothing stands in the journal above `expected`, so a stranger has the id, on whatever subject. What
                # keeps ours from landing twice is the compare-and-set: it needs no id.
                mark = f".{uuid4().hex}"
            if time.monotonic() > deadline:
                raise LogUnavailable(f"append not confirmed in {self.broker.budget:.0f} s: {words(trouble)}")
            await anyio.sleep(pause)
            pause = min(pause * 2, 1.0)

    async def _append_once(self, raw: bytes, id: str, expected: int, then: Emit | None, mark: str) -> int:
        headers = {
            "Nats-Msg-Id": id + mark,
            "Nats-Expected-Last-Subject-Sequence": str(expected),
            "content-type": CONTENT_TYPE,
        }
        if then is None:
            reply = await self._publish(JOURNAL, raw, headers)
            seq = int(reply["seq"])
            if reply.get("duplicate") or seq <= expected:  # by us, before an answer was lost, or by someone else
                raise Refused({"err_code": DUPLICATE, "description": f"event id {id} is there already, at {seq}"})
            return seq
        batch = uuid4().hex
        await self.client.publish(JOURNAL, raw, headers={**headers, "Nats-Batch-Id": batch, "Nats-Batch-Sequence": "1"})
        closing = {
            "Nats-Msg-Id": then.draft.id + mark,
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
        """Publish beside the journal; idempotent by its id, though a stranger took that. Raises LogUnavailable."""
        raw, id = message.draft.encode(), message.draft.id
        reply = await self._publish_known(message.subject, raw, id)
        if reply.get("duplicate") and not await self._stands(int(reply["seq"]), message.subject):
            reply = await self._publish_known(message.subject, raw, f"{id}.{uuid4().hex}")
        return int(reply["seq"])

    async def _stands(self, seq: int, subject: str) -> bool:
        """Is the message at `seq` on this subject? Who may publish there is granted by subject."""
        found = await self._api(f"STREAM.MSG.GET.{self.broker.stream}", {"seq": seq}, missing=404)
        return found is not None and bool(found["message"]["subject"] == subject)

    async def publish_raw(self, subject: str, raw: bytes, id: str | None = None) -> int:
        """Publish bytes as they are, retried within the budget."""
        return int((await self._publish_known(subject, raw, id))["seq"])

    async def _publish_known(self, subject: str, raw: bytes, id: str | None) -> dict[str, Any]:
        """The broker's answer, asked again within the budget when there is an id to know it by."""
        headers = {"content-type": CONTENT_TYPE, **({"Nats-Msg-Id": id} if id else {})}
        deadline = time.monotonic() + self.broker.budget
        while True:
            try:
                return await self._publish(subject, raw, headers)
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
