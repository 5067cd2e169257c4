"""What a canary says of names: every address there is, and nothing for a name that nobody knows."""

from __future__ import annotations

from schemas.canary import NAMES
from workers.entrypoints.canary import names_document
from workers.proof.names import AT_ONCE, parted


def test_an_answer_of_as_many_names_as_are_asked_at_once_fits_into_a_termination_message() -> None:
    six = tuple(f"2001:db8:ffff:ffff:ffff:ffff:ffff:{n:04x}" for n in range(0x1000, 0x1000 + 10))
    four = tuple(f"198.51.100.1{n:02}" for n in range(10))
    said = names_document({f"a-rather-long-registry-name-{n}.example": (*four, *six) for n in range(AT_ONCE)})
    assert len(said) < 4096
    assert len(NAMES.validate_json(said)) == AT_ONCE


def test_every_name_is_asked_once() -> None:
    urls = [f"https://h{n}" for n in range(12)]
    assert [url for part in parted(urls) for url in part] == urls
    assert max(len(part) for part in parted(urls)) == AT_ONCE
