"""Data sets that came with an archive of a stranger: refused in words, never unfolded, never pickled."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from nirs_store import WorkspaceStore
from nirs_store.datasets import matrix, samples
from nirs_store.errors import ArchiveInvalid, BlobCorrupt, NirsStoreError

X = np.arange(40.0).reshape(8, 5)


def table(data: bytes) -> pa.Table:
    return pa.ipc.open_file(data).read_all()


def written(found: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, found.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(found)
    return sink.getvalue()


def with_column(name: str, make: Callable[[pa.ChunkedArray], Any]) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        found = table(data)
        place = found.schema.get_field_index(name)
        return written(found.set_column(place, name, make(found[name])))

    return change


def with_header(**values: Any) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        found = table(data)
        header = msgspec.json.decode(found.schema.metadata[b"nirs_store"]) | values
        return written(found.replace_schema_metadata({"nirs_store": msgspec.json.encode(header)}))

    return change


EVIL: dict[str, Callable[[bytes], bytes]] = {
    "compressed": lambda data: written(table(data), compression="zstd"),
    "a dictionary": with_column("@id", lambda column: column.dictionary_encode()),
    "a list": with_column("@id", lambda column: pa.array([[1]] * 8)),
    "gaps": with_column("@row", lambda column: pa.array([None] * 8, pa.int64())),
    "one row often": with_column("@row", lambda column: pa.array([0] * 8, pa.int64())),
    "rows beyond": with_column("@row", lambda column: pa.array(range(10**12, 10**12 + 8), pa.int64())),
    "rows below": with_column("@row", lambda column: pa.array(range(-8, 0), pa.int64())),
    "no such file": with_column("@part", lambda column: pa.array([7] * 8, pa.int32())),
    "short hashes": with_column("@hash", lambda column: pa.array([b"x"] * 8, pa.large_binary())),
    "false hashes": with_column("@hash", lambda column: pa.array([b"x" * 16] * 8, pa.large_binary())),
    "no hashes": lambda data: written(table(data).drop_columns(["@hash"])),
    "no header": lambda data: written(table(data).replace_schema_metadata(None)),
    "a huge matrix": with_header(n_channels=2**31 - 1),
    "another type": with_header(dtype="float32"),
    "objects": with_header(dtype="O"),
    "no type": with_header(dtype="(1000000,)f8"),
    "a short grid": with_header(wavelengths=[1.0]),
    "a header of text": with_header(n_channels="five"),
    "half": lambda data: data[: len(data) // 2],
    "nothing": lambda data: b"",
    "words": lambda data: b"no table at all",
}


@pytest.fixture(scope="module")
def evil_samples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkspaceStore]:
    """A workspace that restored an archive whose data sets have such samples."""
    folder = tmp_path_factory.mktemp("samples")
    honest = samples.Samples.to_bytes
    with WorkspaceStore(folder / "theirs") as store, pytest.MonkeyPatch.context() as patch:
        for number, (name, change) in enumerate(EVIL.items()):
            patch.setattr(samples.Samples, "to_bytes", lambda self, change=change: change(honest(self)))
            store.datasets.add(name, X + number, ids=[f"S{n}" for n in range(8)])
        store.archive(folder / "corn.zip")
    with WorkspaceStore(folder / "ours") as store:
        store.restore_archive(folder / "corn.zip")
        yield store


@pytest.mark.parametrize("evil", EVIL)
def test_samples_that_this_library_would_not_write_are_refused(
    evil: str, evil_samples: WorkspaceStore
) -> None:
    datasets = evil_samples.datasets
    with pytest.raises(BlobCorrupt):
        datasets.get(evil)
    if evil not in ("rows beyond", "rows below", "false hashes", "another type"):
        with pytest.raises(BlobCorrupt):
            datasets.samples(evil)
    # The rest goes on.
    datasets.add(evil, X)
    np.testing.assert_array_equal(datasets.get(evil).X, X)


class _Harmful:
    def __reduce__(self) -> Any:
        return (print, ("this ran",))


def pickled() -> bytes:
    sink = io.BytesIO()
    np.save(sink, np.array([[_Harmful()] * 5] * 8, dtype=object), allow_pickle=True)
    return sink.getvalue()


@pytest.mark.parametrize(
    "content",
    [pickled(), b"", b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, b"\x93NUMPY\x03\x00" + b"\0" * 90],
    ids=["objects", "nothing", "brackets", "another version"],
)
def test_spectra_that_are_no_plain_numbers_are_refused(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(draft: Any, spectra: Any) -> list[bytes]:
        draft.write(content)
        return samples_hashes(spectra)

    from nirs_store.datasets import writer

    samples_hashes = matrix.spectrum_hashes
    monkeypatch.setattr(writer, "write_rows", write)
    with WorkspaceStore(tmp_path / "theirs") as store:
        store.datasets.add("corn", X)
        store.archive(tmp_path / "corn.zip")
    with WorkspaceStore(tmp_path / "ours") as store:
        store.restore_archive(tmp_path / "corn.zip")
        with pytest.raises(BlobCorrupt):
            store.datasets.get("corn")
    assert "this ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("spectra_ids", '{"a": 1}'),
        ("spectra_ids", "[]"),
        ("labels", "7"),
        ("metadata", "[1]"),
        ("n_samples", "-1"),
        ("version", "0"),
        ("samples_id", "gone"),
    ],
)
def test_rows_of_data_sets_that_lie_are_refused_before_anything_comes_in(
    column: str, value: str, tmp_path: Path
) -> None:
    with WorkspaceStore(tmp_path / "theirs") as store:
        store.datasets.add("corn", X)
        store._engine.change(
            lambda con: con.execute(f"UPDATE dataset_versions SET {column} = ?", [value]).fetchall()
        )
        store.archive(tmp_path / "corn.zip")
    with WorkspaceStore(tmp_path / "ours") as store:
        with pytest.raises(ArchiveInvalid):
            store.restore_archive(tmp_path / "corn.zip")
        assert store.datasets.list().is_empty()


def test_what_a_version_says_of_itself_is_compared_with_its_samples(tmp_path: Path) -> None:
    with WorkspaceStore(tmp_path / "ours") as store:
        store.datasets.add("corn", X)
        store._engine.change(lambda con: con.execute("UPDATE dataset_versions SET n_samples = 9").fetchall())
        with pytest.raises(NirsStoreError, match="not what its row says"):
            store.datasets.get("corn")
