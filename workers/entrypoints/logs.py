"""What a process says on standard error: one line each, and no secret that we know of in any of them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable


class Redacted(logging.Formatter):
    """Formats a record, trace included, then takes every known secret out of the text."""

    def __init__(self, redact: Callable[[str], str]) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        return self._redact(super().format(record))


def configure(level: str, redact: Callable[[str], str]) -> None:
    """Log to standard error from now on. Libraries that log whole requests are kept at warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Redacted(redact))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in ("httpx", "httpcore", "aiohttp", "nats", "git", "asyncio", "kubernetes_asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
