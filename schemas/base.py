"""What every travelling model has in common: frozen, strict about unknown fields on the way out."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Travels(BaseModel):
    """A value that is written once and read by others. Unknown fields are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Arrives(BaseModel):
    """A value that someone else wrote. Unknown fields are kept out of our way, not refused."""

    model_config = ConfigDict(frozen=True, extra="ignore")
