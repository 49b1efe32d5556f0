"""A commit as bytes: what goes in comes out, and nothing that was altered is believed."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pyarrow as pa
import pytest
from storekit import begin, prediction

from nirs_store.db.journal import SegmentDamaged, decode, encode
from nirs_store.store import WorkspaceStore

ROWS: dict[str, list[tuple[Any, ...]]] = {
    "logs": [
        (
            "l1",
            "p1",
            0,
            None,
            "start",
            None,
            "grüße 🍇",
            '{"a": 1}',
            "info",
            datetime(2026, 1, 2, 3, 4, 5, 6),
        ),
        ("l2", "p1", 1, "C", "end", 7, None, None, "error", datetime(2026, 1, 2)),
    ],
    "arrays": [("h", "<f8", "[2]", bytes(range(16)))],
}


def make(rows: dict[str, list[tuple[Any, ...]]] = ROWS) -> bytes:
    return b"".join(encode(rows, txid="t", claim="c", session="s", created="now"))


def test_rows_come_back_with_their_types() -> None:
    segment = decode(make())
    assert (segment.txid, segment.claim, segment.session) == ("t", "c", "s")
    assert {
        name: [tuple(row.values()) for row in table.to_pylist()] for name, table in segment.tables.items()
    } == ROWS


def test_tables_without_rows_take_no_space() -> None:
    assert make({**ROWS, "runs": []}) == make()


@pytest.fixture
def in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrow gives the rows of a table in two arrays, as it does when a column holds more than 2 GB."""
    whole = pa.array

    def halves(values: Any, type: Any = None) -> Any:
        if not pa.types.is_struct(type):
            return whole(values, type=type)
        middle = len(values) // 2
        return pa.chunked_array([whole(part, type=type) for part in (values[:middle], values[middle:])])

    monkeypatch.setattr(pa, "array", halves)


@pytest.mark.usefixtures("in_chunks")
def test_rows_that_take_several_arrays_come_back_all_the_same() -> None:
    segment = decode(make())
    assert {
        name: [tuple(row.values()) for row in table.to_pylist()] for name, table in segment.tables.items()
    } == ROWS
    assert segment.tables["logs"].column("log_id").num_chunks == 2


@pytest.mark.usefixtures("in_chunks")
@pytest.mark.parametrize("tombstones", [False, True])
def test_a_commit_whose_rows_take_several_arrays_is_applied(store: WorkspaceStore, tombstones: bool) -> None:
    if tombstones:  # rows are looked at one by one while there are tombstones
        store.delete_run(begin(store)[0], now=True)
    _, pipeline_id = begin(store)
    with store.transaction():
        ids = [store.save_prediction(pipeline_id, None, **prediction(val_score=i)) for i in range(3)]
        for i, prediction_id in enumerate(ids):
            store.save_prediction_arrays(prediction_id, [0.5], [float(i)])
    store.complete_pipeline(pipeline_id, 0.0, None, "rmse", 1)
    found = store.get_prediction_arrays(ids)
    assert [found[each]["y_pred"].tolist() for each in ids] == [[0.0], [1.0], [2.0]]
    assert store.check(read_data=True).ok


def test_every_flipped_bit_is_found() -> None:
    whole = make()
    for place in range(0, len(whole), 7):
        altered = bytearray(whole)
        altered[place] ^= 1 << (place % 8)
        with pytest.raises(SegmentDamaged):
            decode(bytes(altered))


@pytest.mark.parametrize("keep", [0, 1, 8, 27, 28, 100, -16, -1])
def test_a_torn_segment_is_found(keep: int) -> None:
    with pytest.raises(SegmentDamaged):
        decode(make()[:keep])


def test_bytes_behind_the_end_are_found() -> None:
    with pytest.raises(SegmentDamaged):
        decode(make() + b"\0")


def _signed(header: bytes, rest: bytes = b"") -> bytes:
    import struct

    import xxhash

    body = b"NIRSSEG1" + struct.pack("<I", len(header)) + header + rest
    return body + xxhash.xxh3_128(body).digest()


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"[]",
        b'{"format": 1, "txid": "t"}',
        b'{"format": 1, "txid": "t", "claim": "", "session": "", "created": "", "tables": [["runs", 1, 99]]}',
    ],
)
def test_a_header_that_makes_no_sense_is_damage_even_with_a_right_checksum(header: bytes) -> None:
    with pytest.raises(SegmentDamaged):
        decode(_signed(header))
