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


class Asked(Travels):
    """What an image's own registry says of it to anybody: a node has no login there."""

    image: str
    digest: str = ""
    """Empty when nobody is told one."""
    refused: str = ""
    """The registry's words, when it wants a login (401, 403)."""
    trouble: str = ""
    """Why it could not be asked."""


FINDINGS = TypeAdapter(tuple[Finding, ...])
NAMES = TypeAdapter(dict[str, tuple[str, ...]])
"""Name -> every address that it has where the canary stands; none for one that does not resolve."""
RESOLVERS = TypeAdapter(tuple[str, ...])
"""Addresses at which a node asks for names, as its kubelet sees it."""
