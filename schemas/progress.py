"""Progress inside a step: what the console shows between two facts."""

from __future__ import annotations

from pydantic import Field

from schemas.base import Travels


class Progress(Travels):
    """How far a step is. Counts never run backwards within an attempt."""

    message: str
    percent: int | None = Field(default=None, ge=0, le=100)
    items_done: int | None = None
    items_total: int | None = None
    bytes_done: int | None = None
    bytes_total: int | None = None
    bytes_per_second: float | None = None
    hold_seconds_remaining: float | None = None
