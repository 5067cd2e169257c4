"""What a canary leaves behind as its Pod's termination message: 4096 bytes of JSON at most come back."""

from __future__ import annotations

from pydantic import TypeAdapter

from schemas.base import Travels


class Finding(Travels):
    """One look at one target."""

    host: str
    reached: bool
    detail: str = ""
    at: tuple[str, ...] = ()
    """Addresses that answered: one of each family, for a later look that must not trust the name alone."""


FINDINGS = TypeAdapter(tuple[Finding, ...])
NAMES = TypeAdapter(dict[str, tuple[str, ...]])
"""Name -> every address that it has where the canary stands; none for one that does not resolve."""
