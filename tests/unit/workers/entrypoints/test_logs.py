"""No log line carries a secret, not even a trace's."""

from __future__ import annotations

import logging

from workers.entrypoints.logs import Redacted


def test_a_secret_is_taken_out_of_the_message_and_of_the_trace() -> None:
    try:
        raise ValueError("401 for correct-horse")
    except ValueError as error:
        record = logging.LogRecord("x", logging.INFO, "f", 1, "tried %s", ("correct-horse",), (ValueError, error, None))
    text = Redacted(lambda line: line.replace("correct-horse", "***")).format(record)
    assert "correct-horse" not in text
    assert text.count("***") == 2
