"""What git says of itself while objects move, read line by line."""

from __future__ import annotations

from workers.adapters.git_progress import FETCHED, PUSHED, Transfer


def test_bytes_and_objects_are_taken_from_gits_own_words() -> None:
    transfer = Transfer()
    assert transfer.heard("Receiving objects:  45% (450/1000), 1.50 MiB | 2.00 MiB/s")
    assert (transfer.stage, transfer.percent, transfer.objects_done, transfer.objects_total) == (FETCHED, 45, 450, 1000)
    assert (transfer.bytes_done, transfer.bytes_per_second) == (1_572_864, 2 * 2**20)
    assert transfer.heard("Receiving objects: 100% (1000/1000), 3.00 MiB | 2.00 MiB/s, done.")
    assert transfer.heard("Writing objects:  50% (10/20), 512 bytes | 512.00 KiB/s")
    assert (transfer.stage, transfer.percent, transfer.objects_done, transfer.objects_total) == (PUSHED, 50, 1010, 1020)
    assert transfer.bytes_done == 3 * 2**20 + 512


def test_nothing_runs_backwards_when_git_begins_again() -> None:
    transfer = Transfer()
    shown = []
    for line in ("Writing objects: 80% (8/10), 8.00 KiB | 1 KiB/s", "Writing objects: 10% (1/10), 1.00 KiB | 1 KiB/s"):
        transfer.heard(line)
        shown.append((transfer.percent, transfer.objects_done, transfer.bytes_done))
    assert shown == sorted(shown)


def test_what_moves_nothing_is_taken_and_what_may_be_an_error_is_not() -> None:
    transfer = Transfer()
    assert transfer.heard("remote: Counting objects: 100% (5/5), done.")
    assert transfer.heard("Resolving deltas:  10% (1/10)")
    assert transfer.heard("")
    assert not transfer.heard("fatal: unable to access 'http://x/': 403")
    assert (transfer.stage, transfer.bytes_done) == ("", 0)
