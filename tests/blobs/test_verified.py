"""What was verified is remembered for as many files as were used last, and no more."""

from __future__ import annotations

from nirs_store.blobs.store import VerifiedBlobs

IDENTITY = (1, 2, 3)


def test_as_many_hashes_are_remembered_as_were_used_last() -> None:
    verified = VerifiedBlobs(limit=2)
    verified.remember("a.joblib", "a", IDENTITY)
    verified.remember("b.joblib", "b", IDENTITY)
    assert verified.knows("a.joblib", "a", IDENTITY)
    verified.remember("c.joblib", "c", IDENTITY)
    assert verified.knows("a.joblib", "a", IDENTITY)
    assert not verified.knows("b.joblib", "b", IDENTITY)
    assert verified.knows("c.joblib", "c", IDENTITY)


def test_a_hash_is_forgotten_with_all_its_files() -> None:
    verified = VerifiedBlobs()
    verified.remember("a.joblib", "a", IDENTITY)
    verified.remember("a.skops", "a", IDENTITY)
    assert not verified.knows("a.joblib", "a", (1, 2, 4))
    verified.forget("a")
    assert not verified.knows("a.joblib", "a", IDENTITY)
    assert not verified.knows("a.skops", "a", IDENTITY)


def test_a_process_that_saves_without_end_does_not_remember_without_end() -> None:
    verified = VerifiedBlobs()
    for number in range(25_000):
        verified.remember("x", str(number), IDENTITY)
    assert not verified.knows("x", "0", IDENTITY)
    assert verified.knows("x", "24999", IDENTITY)
