"""What a process says on standard error: one line each, and no secret that we know of in any of them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

import orjson

from workers.bearing import BEARING

Format = Literal["text", "json"]
CHATTY = ("httpx", "httpcore", "aiohttp", "nats", "git", "asyncio", "kubernetes_asyncio", "opentelemetry", "urllib3")
"""One line for each HTTP request helps nobody who follows a cutover."""


class Redacted(logging.Formatter):
    """Formats a record, trace included, then takes every known secret out of the text."""

    def __init__(self, redact: Callable[[str], str]) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if bearing := BEARING.get():
            text = f"{text} [{bearing.run} {bearing.step} attempt {bearing.attempt}]"
        return self._redact(text)


class Structured(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and run, step, attempt and trace where there are any."""

    def __init__(self, redact: Callable[[str], str]) -> None:
        super().__init__()
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._redact(record.getMessage()),
        }
        if record.exc_info:
            line["exception"] = self._redact(self.formatException(record.exc_info))
        if bearing := BEARING.get():
            line |= {"run": bearing.run, "step": bearing.step, "attempt": str(bearing.attempt)}
            line |= {"trace_id": bearing.trace}
        return orjson.dumps(line).decode()


def configure(level: str, redact: Callable[[str], str], style: Format = "text") -> None:
    """Log to standard error from now on. Libraries that log whole requests are kept at warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Structured(redact) if style == "json" else Redacted(redact))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in CHATTY:
        logging.getLogger(chatty).setLevel(logging.WARNING)
