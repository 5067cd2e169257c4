"""Sizes of a plan: shared blobs count once, and what is here already does not count as missing."""

from __future__ import annotations

from workers.adapters.oci import CopyPlan, Item, Reference, Wanted, What
from workers.adapters.oci.closure import Closure
from workers.adapters.oci.manifest import Descriptor
from workers.copy_sizes import Measure, measured, total


def blob(name: str, size: int) -> Descriptor:
    return Descriptor(f"sha256:{name * 64}", size)


def item(name: str, *blobs: Descriptor, missing: tuple[Descriptor, ...] = ()) -> Item:
    wanted = Wanted(Reference.parse(f"ghcr.io/x/{name}:1"), What.IMAGE, f"proxy-ghcr/x/{name}")
    return Item(wanted, Closure("sha256:" + "0" * 64, (), (), blobs), missing)


def test_a_shared_layer_is_unique_to_none_and_moved_once() -> None:
    base, one, two = blob("a", 100), blob("b", 10), blob("c", 1)
    plan = CopyPlan((item("one", base, one, missing=(base, one)), item("two", base, two, missing=(base, two))))
    assert [m for _, m in measured(plan)] == [Measure(110, 10, 110), Measure(101, 1, 101)]
    assert total(plan) == "111 bytes to move for 2 references, each blob once; 111 bytes in all"


def test_what_another_local_repository_has_is_mounted_and_not_missing() -> None:
    base, one = blob("a", 100), blob("b", 10)
    plan = CopyPlan((item("one", base, one, missing=(base, one)),), known=frozenset({base.digest}))
    [(_, measure)] = measured(plan)
    assert measure.missing == plan.bytes_to_move == 10
