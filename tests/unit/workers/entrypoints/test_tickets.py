"""Tickets between replicas: who has the key knows the others' tickets."""

from __future__ import annotations

import pytest

from workers.entrypoints.api.tokens import Refused, Tickets


def test_replicas_with_one_key_know_each_others_tickets() -> None:
    one, another = Tickets(b"k" * 32), Tickets(b"k" * 32)
    word, _ = one.issue({"sub": "somebody"})
    assert another.use(word)["sub"] == "somebody"


def test_a_replica_with_a_key_of_its_own_knows_nobody_elses() -> None:
    word, _ = Tickets(b"k" * 32).issue({"sub": "somebody"})
    with pytest.raises(Refused, match="no ticket of ours"):
        Tickets(b"q" * 32).use(word)
