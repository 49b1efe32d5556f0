"""The journal: a commit is there in full or not at all, in order, once."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from storekit import failing

from nirs_store.db import journal as journal_module
from nirs_store.db.journal import Journal, new_txid
from nirs_store.db.layout import Layout
from nirs_store.errors import WriteFailed


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    for folder in layout.folders:
        folder.mkdir(parents=True)
    return layout


def append(journal: Journal, text: bytes = b"x") -> str:
    txid = new_txid()
    journal.append([text], txid)
    return txid


def test_commits_are_listed_in_the_order_in_which_they_were_made(layout: Layout) -> None:
    first, second = Journal(layout), Journal(layout)
    made = [append(journal) for journal in (first, second, second, first, second)]
    assert [entry.txid for entry in first.pending()] == made
    assert [entry.number for entry in first.pending()] == [1, 2, 3, 4, 5]


def test_a_number_is_not_used_again_when_the_journal_was_emptied(layout: Layout) -> None:
    journal = Journal(layout)
    append(journal)
    journal.remove(journal.pending())
    assert journal.is_empty()
    append(journal)
    assert [entry.number for entry in journal.pending()] == [2]


def test_one_listing_is_no_snapshot_so_what_a_second_one_adds_below_is_taken(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(layout)
    made = [append(journal) for _ in range(3)]
    names = sorted(os.listdir(layout.segments))
    listings = iter([[names[2]], [*names, f"000000000009-{new_txid()}.seg"]])
    monkeypatch.setattr(journal_module.os, "listdir", lambda path: next(listings))
    # A later one that only the second listing shows may follow one that neither has shown.
    assert [entry.txid for entry in journal.pending()] == made


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_commit_that_the_disk_refuses_leaves_nothing_in_the_journal(
    layout: Layout, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(layout)
    with (
        failing(monkeypatch, call, below=layout.tmp) as refused,
        pytest.raises(WriteFailed, match="No space"),
    ):
        append(journal)
    assert refused
    assert journal.is_empty()
    assert list(layout.tmp.iterdir()) == []
    append(journal)
    assert len(journal.pending()) == 1


def test_files_of_other_names_are_left_alone(layout: Layout) -> None:
    for name in ("readme.txt", "1-x.seg", "000000000001-.seg", ".000000000001-a.seg.swp"):
        (layout.segments / name).write_bytes(b"?")
    assert Journal(layout).pending() == []


def test_a_rejected_commit_is_kept_with_its_reason_and_told_once_to_its_writer(layout: Layout) -> None:
    journal = Journal(layout)
    append(journal, b"bad")
    (entry,) = journal.pending()
    rejection = journal.reject(entry, reason="it is bad", claim="me", at="now")
    assert journal.is_empty()
    assert rejection.path.read_bytes() == b"bad"
    assert json.loads(rejection.path.with_suffix(".json").read_text())["reason"] == "it is bad"
    assert [r.reason for r in journal.rejections()] == ["it is bad"]
    assert Journal(layout).rejections_of("somebody else") == []
    assert [r.txid for r in journal.rejections_of("me")] == [entry.txid]
    assert journal.rejections_of("me") == []


def test_a_second_rejection_within_the_same_tick_of_the_clock_is_told_and_the_first_not_again(
    layout: Layout,
) -> None:
    journal = Journal(layout)
    told = []
    stamp = time.time()
    for _ in range(3):
        txid = append(journal)
        journal.reject(journal.pending()[0], reason="bad", claim="me", at="now")
        # File systems stamp folders with a clock that stands still for milliseconds.
        os.utime(layout.rejected, (stamp, stamp))
        told.append([r.txid for r in journal.rejections_of("me")] == [txid])
    assert told == [True, True, True]


def test_looking_for_rejections_costs_one_look_at_the_folder_when_there_are_none(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(layout)
    old = time.time() - 100
    os.utime(layout.rejected, (old, old))
    journal.rejections_of("me")
    monkeypatch.setattr(journal, "rejections", lambda: pytest.fail("listed again"))
    assert journal.rejections_of("me") == []


def test_a_note_that_cannot_be_read_is_still_a_rejection(layout: Layout) -> None:
    (layout.rejected / f"000000000001-{new_txid()}.json").write_text("{")
    (rejection,) = Journal(layout).rejections()
    assert "cannot be read" in rejection.reason


def test_unfinished_writes_are_swept_when_they_are_old(layout: Layout) -> None:
    old, young, inside = (layout.tmp / name for name in ("old", "young", "folder"))
    old.write_bytes(b"")
    young.write_bytes(b"")
    inside.mkdir()
    mine, theirs, busy = (layout.tmp / f"archive-{new_txid()}-{k}" for k in range(3))
    for path in (mine, theirs, busy):
        path.mkdir()
        (path / "blob").write_bytes(b"")
    for path in (old, inside, *(p for f in (mine, theirs) for p in (f / "blob", f)), busy):
        os.utime(path, (time.time() - 4000,) * 2)
    Journal(layout).sweep_tmp({mine.name.partition("-")[2][:36]})
    # Left are what is young, what a living session has, and a folder in which something was written just now.
    assert sorted(p.name for p in layout.tmp.iterdir()) == sorted(["young", mine.name, busy.name])


def test_a_lost_sync_of_the_folder_is_not_taken_for_success(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def fsync(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}") == str(layout.segments):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(WriteFailed):
        append(Journal(layout))


def test_reading_an_absent_journal_finds_nothing(tmp_path: Path) -> None:
    journal = Journal(Layout(tmp_path))
    assert journal.is_empty()
    assert journal.rejections() == []
    assert journal.rejections_of("me") == []


def test_txids_sort_by_their_making() -> None:
    made: list[Any] = [new_txid() for _ in range(100)]
    assert made == sorted(made)


# -- A journal that cannot be applied for an afternoon.


@pytest.fixture
def long(layout: Layout) -> Journal:
    """A journal of 300 commits, whose owner has been the only one for a minute."""
    journal = Journal(layout)
    for number in range(300):
        (layout.segments / f"{number:012d}-{new_txid()}.seg").touch()
    os.utime(layout.claims, (time.time() - 60,) * 2)
    return journal


def listings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return what every listing of the journal has found."""
    found: list[int] = []
    plain = Journal._names

    def names(journal: Journal) -> list[str]:
        made = plain(journal)
        found.append(len(made))
        return made

    monkeypatch.setattr(Journal, "_names", names)
    return found


def test_who_is_alone_lists_a_long_journal_rarely_and_counts_on(
    long: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = listings(monkeypatch)
    made = [long.append([b"x"], new_txid(), lambda: True) for _ in range(100)]
    assert [(entry.number, waiting) for entry, waiting in made] == [(300 + i, 301 + i) for i in range(100)]
    assert 2 <= len(found) <= 8
    long.remove(long.pending()[:200])
    assert long.append([b"x"], new_txid(), lambda: True)[1] == 201


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("ended", [True, False])
def test_a_commit_of_another_store_object_is_always_seen(
    long: Journal, layout: Layout, alone: bool, ended: bool
) -> None:
    first, _ = long.append([b"x"], new_txid(), lambda: alone)
    claim = layout.claims / "other"
    claim.touch()
    theirs = [Journal(layout).append([b"y"], new_txid())[0].number for _ in range(3)]
    if ended:
        claim.unlink()
    assert theirs[0] > first.number
    assert long.append([b"x"], new_txid(), lambda: alone)[0].number == theirs[-1] + 1


def test_a_folder_of_claims_that_has_just_changed_is_not_relied_upon(
    long: Journal, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.utime(layout.claims)
    found = listings(monkeypatch)
    for _ in range(20):
        long.append([b"x"], new_txid(), lambda: True)
    assert len(found) >= 20
