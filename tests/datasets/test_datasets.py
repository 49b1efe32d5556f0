"""Data sets through `store.datasets`: what goes in comes out, versions share spectra, nothing is lost."""

from __future__ import annotations

import csv
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from storekit import blob_keys, blob_root

from nirs_store import Spectra, WorkspaceStore, read_spectra
from nirs_store.datasets import given, rows, samples, writer
from nirs_store.errors import (
    BlobCorrupt,
    InvalidInput,
    NirsStoreError,
    OverwriteRefused,
    ReadOnlyStore,
    ShapeMismatch,
    UnknownDataset,
)

GRID = np.arange(1100.0, 1150.0, 2.0)
RANDOM = np.random.default_rng(7)
X = RANDOM.normal(0.5, 0.1, (12, GRID.size))
NAMES = [f"S{n}" for n in range(12)]
FAT = np.linspace(1, 12, 12)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[WorkspaceStore]:
    with WorkspaceStore(tmp_path / "workspace") as opened:
        yield opened


def add(store: WorkspaceStore, name: str = "corn", spectra: Any = X, **about: Any) -> Any:
    about = {"references": {"fat": FAT[: len(spectra)]}, "ids": NAMES[: len(spectra)]} | about
    return store.datasets.add(name, spectra, **{"wavelengths": GRID, "unit": "nm", **about})


def stored_bytes(store: WorkspaceStore) -> int:
    return sum(path.stat().st_size for path in (blob_root(store) / "artifacts").rglob("*.npy"))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int16", "uint8", "int64", ">f4"])
def test_spectra_come_back_to_the_bit_in_their_dtype(store: WorkspaceStore, dtype: str) -> None:
    values = (X * 100).astype(dtype)
    add(store, spectra=values)
    with WorkspaceStore(store.workspace_path, read_only=True) as other:
        found = other.datasets.get("corn@v1")
    assert found.X.dtype == np.dtype(dtype).newbyteorder("<")
    np.testing.assert_array_equal(found.X, values)
    np.testing.assert_array_equal(found.wavelengths, GRID)
    assert (found.unit, found.ids.tolist(), found.numbers("fat").tolist()) == ("nm", NAMES, FAT.tolist())


def test_missing_values_and_the_layout_in_memory_do_not_change_what_is_stored(store: WorkspaceStore) -> None:
    values = X.copy()
    values[3, 4] = np.nan
    first = add(store, "plain", values, references={"fat": [None, *FAT[1:]], "day": ["a", None, *"b" * 10]})
    other = add(
        store,
        "other",
        np.asfortranarray(values),
        references=pl.DataFrame({"fat": [np.nan, *FAT[1:]], "day": ["a", None, *"b" * 10]}),
    )
    assert first.content_hash == other.content_hash
    found = store.datasets.get("other", target="fat")
    np.testing.assert_array_equal(found.X, values)
    assert np.isnan(found.y[0])
    assert found.references["day"].to_list()[:2] == ["a", None]


@pytest.mark.parametrize("kind", ["polars", "pandas", "arrow", "read"])
def test_frames_and_files_bring_everything_along(store: WorkspaceStore, tmp_path: Path, kind: str) -> None:
    table = pl.DataFrame(X, schema=[f"{w:g}" for w in GRID]).insert_column(0, pl.Series("sample", NAMES))
    table = table.with_columns(pl.Series("fat", FAT), pl.Series("farm", ["ä", "b"] * 6))
    if kind == "read":
        table.write_csv(tmp_path / "corn.csv")
        store.datasets.add("corn", read_spectra(tmp_path / "corn.csv", target="fat", unit="%", groups="farm"))
    else:
        made = {"polars": table, "pandas": table.to_pandas(), "arrow": table.to_arrow()}[kind]
        store.datasets.add("corn", made, ids="sample", groups="farm", unit="nm", units={"fat": "%"})
    found = store.datasets.get("corn", target="fat")
    np.testing.assert_array_equal(found.X, X)
    np.testing.assert_array_equal(found.y, FAT)
    assert found.target_unit == "%"
    assert (found.ids.tolist(), found.groups.tolist()) == (NAMES, ["ä", "b"] * 6)
    np.testing.assert_array_equal(found.wavelengths, GRID)


def test_a_version_brings_only_what_is_new_in_it(store: WorkspaceStore) -> None:
    add(store)
    before = stored_bytes(store)
    assert not add(store).added
    corrected = add(store, references={"fat": np.where(FAT == 3, 3.5, FAT)})
    assert (corrected.version, stored_bytes(store)) == (2, before)
    more = np.vstack([X[2:], X[:1] + 1, X[2:3]])
    grown = add(store, spectra=more, ids=[*NAMES[2:], "new", "S2"], references={"fat": [*FAT[2:], 9, 3]})
    # One spectrum is new, and a replicate with the values of another is one of its own.
    assert stored_bytes(store) - before == 128 + 2 * GRID.size * 8
    np.testing.assert_array_equal(store.datasets.get(grown).X, more)
    found = store.datasets.diff("corn@v1", "corn@v3")
    assert (found.added, found.removed, found.changed) == (("new", "S2"), ("S0", "S1"), ())
    table = store.datasets.diff("corn@v1", "corn@v2").corrected
    assert table.rows() == [("S2", "fat", "3.0", "3.5")]
    changed = add(store, spectra=np.vstack([X[:5], X[5:6] * 2, X[6:]]))
    assert store.datasets.diff("corn@v1", changed).changed == ("S5",)
    assert store.datasets.versions("corn")["version"].to_list() == [1, 2, 3, 4]
    np.testing.assert_array_equal(store.datasets.get("corn@v1").X, X)


@pytest.mark.everywhere
def test_a_selection_is_a_version_of_its_own_and_stores_no_spectra(store: WorkspaceStore) -> None:
    add(store)
    before = stored_bytes(store)
    test = store.datasets.select("corn", "corn-test", where="fat > 3 AND id != 'S7'", note="north")
    rest = store.datasets.select("corn", "corn-cal", ids=store.datasets.get(test).ids, invert=True)
    assert stored_bytes(store) == before
    assert store.datasets.get("corn-cal", target="fat").y.tolist() == [1, 2, 3, 8]
    np.testing.assert_array_equal(store.datasets.get(test).X, X[[3, 4, 5, 6, 8, 9, 10, 11]])
    assert (test.kind, rest.parent_id) == ("selection", store.datasets.version("corn").dataset_version_id)
    chosen = store.datasets.get("corn", ids=["S3", "S1"], target="fat")
    assert chosen.y.tolist() == [4, 2]
    np.testing.assert_array_equal(store.datasets.get("corn", rows=range(11, -1, -1)).X, X[::-1])
    with pytest.raises(InvalidInput, match="no samples"):
        store.datasets.select("corn", "none", where="fat > 100")


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"spectra": X[0]}, "reshape"),
        ({"spectra": X[:0]}, "no spectra"),
        ({"spectra": X + 1j}, "real numbers"),
        ({"spectra": np.array([["a", "b"]])}, "numbers"),
        ({"spectra": np.where(X[2, 1] == X, np.inf, X)}, "row 2, channel 1"),
        ({"ids": NAMES[:5]}, "12 values"),
        ({"ids": [*NAMES[:11], None]}, "none missing"),
        ({"ids": [*NAMES[:11], " "]}, "1 to 1,000 characters"),
        ({"ids": ["x" * 2000, *NAMES[1:]]}, "1 to 1,000 characters"),
        ({"ids": ["\ud800", *NAMES[1:]]}, "Unicode"),
        ({"groups": [1.5] * 12}, "whole numbers"),
        ({"references": {"fat": FAT[:3]}}, "3 values for 12"),
        ({"references": FAT}, "moisture"),
        ({"references": {"fat": [*FAT[:11], np.inf]}}, "'fat' of the sample 'S11' is inf in row 11"),
        (
            {"references": pl.DataFrame({"p": [1.0] * 12, "fat": [-np.inf, None, *FAT[2:]]})},
            "is -inf in row 0",
        ),
        ({"references": {"fat": np.where(FAT == 3, np.inf, FAT).astype("float32")}}, "'S2' is inf"),
        ({"references": {"fat": [float("inf"), None, *FAT[2:]]}, "ids": None}, "'fat' is inf in row 0"),
        ({"references": {"fat": [object()] * 12}}, "fat"),
        ({"wavelengths": GRID[:-1]}, "finite values"),
        ({"unit": "furlong"}, "nm, cm-1"),
        ({"units": {"moisture": "%"}}, "no column"),
        ({"metadata": {"x": object()}}, "metadata"),
        ({"name": "corn@v2"}, "without '@'"),
        ({"name": "x" * 300}, "200"),
        ({"name": ""}, "name"),
        ({"name": 5}, "name"),
    ],
)
def test_what_cannot_be_stored_is_refused_and_nothing_is(
    store: WorkspaceStore, about: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        add(store, **about)
    assert store.datasets.list().is_empty()
    assert blob_keys(store) == []
    assert not list((store.workspace_path / "journal").rglob("draft-*"))


@pytest.mark.parametrize(
    "other",
    [
        {"spectra": X[:, :-1], "wavelengths": GRID[:-1]},
        {"wavelengths": GRID + 1},
        {"unit": "cm-1"},
    ],
)
def test_another_grid_under_the_same_name_is_asked_for(store: WorkspaceStore, other: dict[str, Any]) -> None:
    add(store)
    with pytest.raises(ShapeMismatch, match="other_grid"):
        add(store, **other)
    allowed = add(store, **other, other_grid=True)
    assert store.datasets.diff("corn@v1", allowed).grid_changed


@pytest.mark.parametrize("other", [{"wavelengths": GRID[::-1]}, {"wavelengths": GRID + 1}, {"unit": "um"}])
def test_a_version_without_wavelengths_hides_none(store: WorkspaceStore, other: dict[str, Any]) -> None:
    add(store)
    for k in (1.0, 2.0):
        store.datasets.add("corn", X + k)
    with pytest.raises(ShapeMismatch, match="corn@v1"):
        add(store, spectra=X + 3, **other)
    add(store, "other", **other)
    store.datasets.add("test", X)
    store.datasets.select("corn@v1", "test", rows=[0])
    store.datasets.select("corn@v2", "test", rows=[1])
    with pytest.raises(ShapeMismatch, match="test@v2"):
        store.datasets.select("other", "test", rows=[0, 1])
    assert add(store, spectra=X + 3).version == 4


@pytest.mark.parametrize(
    ("rows", "added", "removed", "changed"),
    [
        ([1, 0, 2, 3, 4, 5], 0, 0, 0),
        ([1, 2, 3, 4, 5], 0, 1, 0),
        ([5, 4, 3, 1, 0], 0, 1, 0),
        ([6, 1, 0, 2, 3, 4, 5], 1, 0, 0),
        ([0, 6, 2, 3, 4, 5], 0, 0, 1),
        ([6, 0, 3, 4, 5], 0, 1, 1),
    ],
)
def test_replicates_are_compared_by_their_spectra(
    store: WorkspaceStore, rows: list[int], added: int, removed: int, changed: int
) -> None:
    names = np.array(["a", "a", "b", "b", "c", "c", "a"])

    def version(some: list[int]) -> None:
        about = {"references": {"fat": FAT[some]}, "ids": names[some], "groups": None}
        add(store, spectra=X[some], **about)

    version([0, 1, 2, 3, 4, 5])
    version(rows)
    found = store.datasets.diff("corn@v1", "corn@v2")
    assert [len(each) for each in (found.added, found.removed, found.changed)] == [added, removed, changed]
    assert found.corrected.height == changed


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"spectra": X[:, :-1], "wavelengths": GRID[:-1]}, "24 channels"),
        ({"wavelengths": GRID + 1}, "other wavelengths"),
        ({"unit": "um"}, "in um"),
    ],
)
def test_a_selection_keeps_the_grid_of_its_name(
    store: WorkspaceStore, other: dict[str, Any], words: str
) -> None:
    add(store)
    add(store, "other", **other)
    store.datasets.select("corn", "test", rows=[0, 1])
    with pytest.raises(ShapeMismatch, match=f"(?s){words}.*Nothing was stored. Give another name"):
        store.datasets.select("other", "test", rows=[0, 1])
    with pytest.raises(ShapeMismatch, match=words):
        store.datasets.select("other", "corn", rows=[0, 1])
    assert store.datasets.versions("test").height == store.datasets.versions("corn").height == 1
    assert store.datasets.select("corn", "test", rows=[5]).version == 2


def test_infinite_references_of_older_versions_are_told_from_missing_ones(
    store: WorkspaceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older versions stored infinities, and hashed them as JSON does: as null."""
    old, new = [1.0, np.inf, *FAT[2:]], [1.0, None, *FAT[2:]]
    with monkeypatch.context() as older:
        older.setattr(given, "_refuse_infinite", lambda found: None)
        older.setattr(samples, "_cells", lambda column: column.to_list())
        first = add(store, references={"fat": old})
    before = store.datasets.version("corn@v1").content_hash
    part = store.datasets.select("corn", "part", rows=[0, 1])
    with monkeypatch.context() as older:
        older.setattr(given, "_refuse_infinite", lambda found: None)
        other = add(store, "other", references={"fat": [1.0, -np.inf, *FAT[2:]]})
        assert add(store, "other", references={"fat": old}).version == 2
        assert not add(store, "other", references={"fat": old}).added
    second = add(store, references={"fat": new})
    assert (second.added, second.version) == (True, 2)
    assert not add(store, references={"fat": new}).added
    assert store.datasets.get("corn", target="fat").y[:2].tolist() == pytest.approx([1, np.nan], nan_ok=True)
    assert store.datasets.get("corn@v1", target="fat").y[1] == np.inf
    # Finite and missing values are hashed as ever; what is stored is not hashed again.
    assert first.content_hash == before == second.content_hash != other.content_hash
    chosen = store.datasets.select("corn", "part", rows=[0, 1])
    assert (chosen.version, chosen.content_hash == part.content_hash) == (2, False)


@pytest.mark.parametrize("reference", ["con", "corn@v7", "corn@0", "corn@best", "", None, "corn@v1@v1"])
def test_references_that_mean_nothing_are_refused_in_words(store: WorkspaceStore, reference: Any) -> None:
    add(store)
    with pytest.raises(NirsStoreError) as raised:
        store.datasets.get(reference)
    assert isinstance(raised.value, (UnknownDataset, InvalidInput))
    if reference == "con":
        assert "Did you mean 'corn'?" in str(raised.value)


def test_deletion_minds_what_needs_a_version_and_gives_no_number_twice(store: WorkspaceStore) -> None:
    add(store)
    store.datasets.select("corn", "half", rows=[0, 1, 2])
    with pytest.raises(OverwriteRefused, match="half@v1"):
        store.datasets.delete("corn@v1")
    with pytest.raises(InvalidInput, match="corn@v1"):
        store.datasets.delete("corn")
    store.datasets.delete("corn@v1", force=True)
    store.gc_artifacts(grace_seconds=0)
    # The selection holds the spectra that it needs.
    np.testing.assert_array_equal(store.datasets.get("half").X, X[:3])
    assert add(store).version == 2
    assert add(store, note="again", references={"fat": FAT + 1}).version == 3
    for reference in ("half@v1", "corn@v3", "corn@v2"):
        store.datasets.delete(reference)
    # The higher number went first, and counts.
    assert add(store).version == 4
    store.datasets.delete("corn@v4")
    store.gc_artifacts(grace_seconds=0)
    assert stored_bytes(store) == 0
    assert store.check(read_data=True).ok


def test_damage_is_never_served_and_adding_again_heals_it(store: WorkspaceStore) -> None:
    add(store)
    add(store, "short", X[:2])
    (path,) = (p for p in blob_root(store).rglob("*.npy") if p.stat().st_size > 1000)
    store.datasets.get("corn")
    whole = path.read_bytes()
    path.chmod(0o644)
    for damaged in (whole[:-200] + b"\1" * 8 + whole[-192:], whole[:-8], whole + b"0", b"", b"no numbers"):
        path.write_bytes(damaged)
        with pytest.raises(BlobCorrupt):
            store.datasets.get("corn")
        report = store.check(read_data=True)
        assert not report.ok
        assert store.datasets.version("corn").dataset_version_id in report.affected
    path.write_bytes(whole[:-200] + b"\1" * 8 + whole[-192:])
    assert store.datasets.get("corn", rows=[0]).X.shape == (1, GRID.size)
    add(store, note="again")
    np.testing.assert_array_equal(store.datasets.get("corn@v1").X, X)


def test_an_archive_and_a_backup_carry_data_sets_and_a_merge_renumbers(
    store: WorkspaceStore, tmp_path: Path
) -> None:
    add(store)
    add(store, references={"fat": FAT + 1})
    add(store, "other", X * 2)
    store.archive(tmp_path / "corn.tar.gz", datasets=["corn"])
    backup = store.backups.create(tmp_path / "backups")
    assert backup
    with WorkspaceStore(tmp_path / "second") as second:
        add(second, spectra=X[:4])
        second.restore_archive(tmp_path / "corn.tar.gz")
        second.restore_archive(tmp_path / "corn.tar.gz")
        assert second.datasets.list()["name"].to_list() == ["corn"]
        assert second.datasets.versions("corn")["version"].to_list() == [1, 2, 3]
        np.testing.assert_array_equal(second.datasets.get("corn@v3", target="fat").y, FAT + 1)
        assert second.check(read_data=True).ok


def test_the_trail_and_the_lineage_know_data_sets(store: WorkspaceStore) -> None:
    first = add(store)
    second = store.datasets.select(first, "half", rows=[1])
    with pytest.raises(InvalidInput):
        add(store, ids=[1])
    trail = store.audit.query(operation="add_dataset")
    assert trail["operation"].to_list().count("add_dataset") == 2
    links = store.lineage.links(f"dataset:{second.dataset_version_id}")
    assert (first.dataset_version_id, "selected") in {(link.source.id, link.link_type) for link in links}


def _add_many(folder: Path, worker: int) -> None:
    with WorkspaceStore(folder) as store:
        for n in range(4):
            add(store, spectra=X + worker + n / 10)


@pytest.mark.slow
def test_processes_that_add_versions_at_once_lose_none(tmp_path: Path) -> None:
    with WorkspaceStore(tmp_path / "workspace"):
        pass
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_add_many, args=(tmp_path / "workspace", n)) for n in range(3)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
        assert each.exitcode == 0
    with WorkspaceStore(tmp_path / "workspace") as store:
        assert store.datasets.versions("corn")["version"].to_list() == list(range(1, 13))
        first = {store.datasets.get(f"corn@v{n}", rows=[0]).X[0, 0] for n in range(1, 13)}
        assert first == {X[0, 0] + worker + n / 10 for worker in range(3) for n in range(4)}


def test_a_store_that_may_not_be_written_is_read(store: WorkspaceStore) -> None:
    add(store)
    with WorkspaceStore(store.workspace_path, read_only=True) as reader:
        assert isinstance(reader.datasets.get("corn"), Spectra)
        with pytest.raises(ReadOnlyStore):
            add(reader)
        with pytest.raises(ReadOnlyStore):
            reader.datasets.delete("corn@v1")


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_an_export_is_read_again(store: WorkspaceStore, tmp_path: Path, ending: str) -> None:
    add(store, groups=["a", "b"] * 6)
    path = store.datasets.export("corn", tmp_path / f"corn.{ending}", where="fat <= 6")
    again = read_spectra(path, target="fat", groups="group")
    np.testing.assert_array_equal(again.X, X[:6])
    assert again.ids.tolist() == NAMES[:6]
    with pytest.raises(InvalidInput, match="exists"):
        store.datasets.export("corn", path)


@pytest.mark.parametrize("moment", ["before it is held", "while it is held"])
def test_a_version_that_is_deleted_while_it_is_shared_costs_nothing(
    store: WorkspaceStore, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    add(store)
    module, name = (writer, "claiming") if moment == "before it is held" else (rows, "record")
    original, other = getattr(module, name), WorkspaceStore(store.workspace_path)
    gone: list[str] = []

    def late(*given: Any) -> Any:
        if not gone:
            gone.append(other.datasets.delete("corn@v1", force=True).reference)
            other.gc_artifacts(grace_seconds=0)
        return original(*given)

    monkeypatch.setattr(module, name, late)
    made = add(store, references={"fat": FAT + 1})
    other.close()
    store.gc_artifacts(grace_seconds=0)
    assert gone
    assert made.reference == "corn@v2"
    np.testing.assert_array_equal(store.datasets.get(made).X, X)
    assert store.check(read_data=True).ok


def test_samples_without_names_are_told_by_their_spectra(store: WorkspaceStore) -> None:
    store.datasets.add("corn", X, references={"fat": FAT})
    store.datasets.add("corn", np.vstack([X[3:], X[:1] * 2]), references={"fat": [*FAT[3:11], 99, 5]})
    found = store.datasets.diff("corn@v1", "corn@v2")
    assert (found.added, found.removed, found.changed) == ((9,), (0, 1, 2), ())
    assert found.corrected.rows() == [("11", "fat", "12.0", "99.0")]
    with pytest.raises(InvalidInput, match="have no names"):
        store.datasets.get("corn", ids=["S1"])


@pytest.mark.parametrize("whole", [True, False])
def test_references_in_another_order_than_the_spectra_are_refused(store: WorkspaceStore, whole: bool) -> None:
    table = pd.DataFrame(X, columns=[str(each) for each in GRID], index=NAMES)
    fat = pd.Series(FAT, index=NAMES)[::-1]
    with pytest.raises(InvalidInput, match=r"another order.*\.loc\[X\.index\]"):
        store.datasets.add("d", table, references=fat.to_frame("fat") if whole else {"fat": fat})
    store.datasets.add("d", table, references={"fat": fat.loc[NAMES]})
    np.testing.assert_array_equal(store.datasets.get("d", target="fat").y, FAT)


def test_no_cell_of_an_exported_csv_is_a_formula(store: WorkspaceStore, tmp_path: Path) -> None:
    signs = ["=1+1", "+1", "-1", "@A1", "\t=1", "\r=1"]
    store.datasets.add(
        "d", X[:6], references={"fat": range(6)}, ids=signs, groups=[f"{sign}g" for sign in signs]
    )
    path = store.datasets.export("d", tmp_path / "d.csv")
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))[1:]
    assert [row[:2] for row in rows] == [[f"'{sign}", f"'{sign}g"] for sign in signs]
    exact = pl.read_parquet(store.datasets.export("d", tmp_path / "d.parquet"))
    assert exact[:, 0].to_list() == signs
