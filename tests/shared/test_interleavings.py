"""Random interleavings of savers, deleters and collectors, by seed: no row names a blob that is missing.

To see one again: play its seed with as many scenes as it took; the trace is in the error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psycopg
import pytest
from sharedcasts import SmallCast, Stores
from sharedsteps import Broken, Stage, play

from nirs_store.shared.sessions import SharedClaims

# Settings and rows of who was killed or too slow; said, and not what is asked here.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def small(seed: int, database: str, folder: Path, *, scenes: int = 10, **options: Any) -> Stage:
    with SmallCast(database, folder) as cast:
        return play(seed, scenes, database, cast, **options)


def test_a_seed_gives_the_same_interleaving_and_loses_no_blob(database: str, memory: Path) -> None:
    traces = [small(seed, database, memory, faults=0.02).trace for seed in (1, 2, 1)]
    assert traces[0] == traces[2] != traces[1]
    for statement in ("append(", "lock_head(", "lock_claims(", "claim(", "condemn("):
        assert any(f"nirs_store.{statement}" in line for line in traces[0])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_interleavings_lose_no_blob(database: str, memory: Path) -> None:
    # Each of a thousand plays has ten scenes, in which four computers do something at once.
    seen = {"\n".join(small(seed, database, memory, faults=0.01).trace) for seed in range(1000)}
    assert len(seen) == 1000


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(8))
def test_interleavings_of_whole_stores_lose_nothing(database: str, memory: Path, seed: int) -> None:
    play(seed, 25, database, Stores(database, memory))


# -- the same with a part of the protocol left out: each is seen to fail -----------------------------


@contextmanager
def _keys_used_again(database: str) -> Iterator[None]:
    with patch.object(SharedClaims, "generation", lambda claims, digest: 0):
        yield


@contextmanager
def _keys_as_remembered(database: str) -> Iterator[None]:
    """In a change, use the key that this process has heard of last."""
    with patch.object(SharedClaims, "generation", lambda claims, digest: claims.generations.get(digest, 0)):
        yield


@contextmanager
def _claims_not_locked(database: str) -> Iterator[None]:
    with psycopg.connect(database, autocommit=True) as con:
        con.execute(
            "CREATE OR REPLACE FUNCTION nirs_store.lock_claims() RETURNS void LANGUAGE sql AS 'SELECT'"
        )
        yield


@pytest.mark.slow
@pytest.mark.parametrize("part", [_keys_used_again, _keys_as_remembered, _claims_not_locked])
def test_without_a_part_of_the_protocol_blobs_are_lost(database: str, memory: Path, part: Any) -> None:
    small(0, database, memory, scenes=1)

    def search() -> None:
        for seed in range(100):
            small(seed, database, memory, faults=0.08, claims_are_locked=part is not _claims_not_locked)

    with part(database), pytest.raises(Broken, match="missing"):
        search()
