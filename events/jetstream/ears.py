"""How we hear the broker: nats-py's client, except that what a stranger wrote beside a message is not obeyed.

nats-py (2.16) takes a stored message's own headers for the server's word: `Status: 408` ends a pull, a header block
that is none ends its reading for good, and so does a subject that is not UTF-8. Whoever may publish anything could
thus stop everyone who reads the log, for as long as the message stands in it: for ever.
"""

from __future__ import annotations

import re
from typing import Any, Final

from nats.aio.client import Client
from nats.protocol import parser

_STORED: Final = b"$JS.ACK."
"""Where a delivered message is acknowledged: it came out of the stream. What the server says itself has no such
reply (ADR-37: status messages of a pull)."""

# The server ends a word at a blank or a tab only; in Python's `\s` a vertical tab ends one too, and a subject may
# hold it: then the line fits no pattern, or is taken for another subject.
parser.MSG_RE = re.compile(rb"\AMSG[ \t]+([^ \t\r\n]+)[ \t]+([^ \t\r\n]+)[ \t]+(([^ \t\r\n]+)[ \t]+)?(\d+)\r\n")
parser.HMSG_RE = re.compile(
    rb"\AHMSG[ \t]+([^ \t\r\n]+)[ \t]+([^ \t\r\n]+)[ \t]+(([^ \t\r\n]+)[ \t]+)?(\d+)[ \t]+(\d+)\r\n"
)


class Ears(Client):
    """A client that reads of a stored message what we go by: its place, its subject, its bytes."""

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        """Headers of stored messages are dropped unread: nobody of ours looks at them."""
        await super()._process_msg(sid, subject, reply, data, b"" if reply.startswith(_STORED) else headers)

    def _build_message(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Any) -> Any:
        readable = subject.decode("utf-8", "backslashreplace").encode()
        return super()._build_message(sid, readable, reply, data, headers)
