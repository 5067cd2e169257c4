"""No log line carries a secret, not even a trace's."""

from __future__ import annotations

import json
import logging

from workers.bearing import BEARING, Bearing
from workers.entrypoints.logs import Redacted, Structured


def test_a_secret_is_taken_out_of_the_message_and_of_the_trace() -> None:
    try:
        raise ValueError("401 for correct-horse")
    except ValueError as error:
        record = logging.LogRecord("x", logging.INFO, "f", 1, "tried %s", ("correct-horse",), (ValueError, error, None))
    text = Redacted(lambda line: line.replace("correct-horse", "***")).format(record)
    assert "correct-horse" not in text
    assert text.count("***") == 2


def test_a_structured_line_says_run_step_attempt_and_trace_and_no_secret() -> None:
    record = logging.LogRecord("cutover.pool", logging.INFO, "f", 1, "tried %s", ("correct-horse",), None)
    standing = BEARING.set(Bearing("run-1", "gitea-mirror", 2, "ab" * 16))
    try:
        line = Structured(lambda text: text.replace("correct-horse", "***")).format(record)
    finally:
        BEARING.reset(standing)
    said = json.loads(line)
    assert (said["message"], said["run"], said["step"], said["attempt"]) == ("tried ***", "run-1", "gitea-mirror", "2")
    assert said["trace_id"] == "ab" * 16
    assert "\n" not in line


def test_a_line_outside_of_any_step_says_none() -> None:
    record = logging.LogRecord("cutover", logging.WARNING, "f", 1, "away", None, None)
    assert "run" not in json.loads(Structured(str).format(record))
