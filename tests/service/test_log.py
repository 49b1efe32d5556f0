"""The log of predictions and the reference values of the laboratory."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import xxhash
from servicekit import GRID, NEW, Recorded

from nirs_store import WorkspaceStore, load_bundle
from nirs_store.errors import (
    CalibrationNotFound,
    ForbiddenContent,
    InvalidInput,
    OutlierFound,
    ReadOnlyStore,
    ShapeMismatch,
    StoreClosed,
    UnknownId,
)

IDS = [f"s{row}" for row in range(len(NEW))]


@pytest.fixture
def fat(store: WorkspaceStore, recorded: Recorded) -> WorkspaceStore:
    store.calibrations.register("fat", recorded.first, alias="production", scope={"instruments": ["bench 1"]})
    store.calibrations.register("fat", recorded.second)
    return store


def test_a_named_prediction_is_logged_with_all_that_was_returned(
    fat: WorkspaceStore, recorded: Recorded
) -> None:
    at = datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    found = fat.predict(
        "fat@production", NEW, sample_ids=IDS, instrument="bench 1", operator="Ann", measured_at=at,
        keep_spectra=True, on_outlier="ignore",
    )  # fmt: skip
    log = fat.measurements.list("fat")
    assert log["sample_id"].to_list() == IDS
    for name in ("prediction", "lower", "upper", "flags"):
        assert log[name].to_list() == found[name].to_list()
    row = log.row(0, named=True)
    assert (row["version"], row["chain_id"], row["role"], row["target"]) == (
        1,
        recorded.first,
        "reported",
        "fat",
    )
    assert (row["instrument"], row["operator"], row["correction"]) == ("bench 1", "Ann", None)
    assert row["measured_at"] == datetime(2026, 3, 1, 10, tzinfo=UTC)
    assert row["logged_at"] > row["measured_at"]
    assert row["spectrum_hash"] == xxhash.xxh3_128_hexdigest(NEW[0].astype("<f8").tobytes())
    np.testing.assert_array_equal(fat.measurements.spectrum(row["measurement_id"]), NEW[0])
    assert log["batch_id"].n_unique() == 1
    assert len(fat.measurements) == len(NEW)


def test_what_is_logged_by_default(fat: WorkspaceStore, recorded: Recorded, tmp_path: Path) -> None:
    fat.predict(recorded.first, NEW, on_outlier="ignore")
    fat.replay_chain("fat", NEW)
    predictor = fat.predictor("fat@production")
    predictor.predict(NEW)
    fat.predict("fat", NEW, log=False, on_outlier="ignore")
    with pytest.raises(OutlierFound):
        fat.predict("fat", NEW * 1000, on_outlier="raise")
    assert len(fat.measurements) == 0
    plain = predictor.predict(NEW, log=True, sample_ids=IDS, instrument="bench 2")
    np.testing.assert_array_equal(plain, fat.replay_chain("fat", NEW))
    fat.predict(recorded.first, NEW[:1], log=True, on_outlier="ignore")
    log = fat.measurements.list()
    assert log["calibration"].to_list() == ["fat"] * len(NEW) + [None]
    assert log["sample_id"][-1] is None
    assert log["has_spectrum"].sum() == 0
    bundle = load_bundle(fat.export_chain(recorded.first, tmp_path / "fat.n4a"), allow_pickle=True)
    for other in (pickle.loads(pickle.dumps(predictor)), bundle):
        with pytest.raises(InvalidInput, match="no store is at hand"):
            other.predict(NEW, log=True)


@pytest.mark.of_a_folder("it counts the files of the journal")
def test_one_call_is_one_commit_and_a_replay_costs_none(fat: WorkspaceStore, recorded: Recorded) -> None:
    many = np.tile(NEW, (200, 1))
    fat.predict("fat", many[:1], on_outlier="ignore")
    before = {path.name for path in (recorded.folder / "journal" / "segments").iterdir()}
    fat.predict("fat", many, sample_ids=range(len(many)), on_outlier="ignore")
    after = {path.name for path in (recorded.folder / "journal" / "segments").iterdir()}
    assert len(after - before) == 1
    fat.predict("fat", many, log=False, on_outlier="ignore")
    assert {path.name for path in (recorded.folder / "journal" / "segments").iterdir()} <= after
    assert len(fat.measurements) == len(many) + 1


def test_an_instrument_outside_the_scope_is_flagged_and_logged_so(fat: WorkspaceStore) -> None:
    from nirs_store.errors import OutlierWarning

    with pytest.warns(OutlierWarning, match="outside scope: instrument"):
        fat.predict("fat", NEW, instrument="bench 7")
    assert fat.measurements.list(flagged=True)["instrument"].to_list() == ["bench 7"] * len(NEW)
    fat.predict("fat", NEW[:1], on_outlier="ignore", instrument="bench 1")
    assert (
        "outside scope: instrument" not in fat.measurements.list(instrument="bench 1")["flags"][0].to_list()
    )


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([1, 2, 3, 4, 5, 6], ["1", "2", "3", "4", "5", "6"]),
        (np.array([1.0, 2.0, np.nan, 4.0, 5.0, 6.0]), ["1", "2", None, "4", "5", "6"]),
        (["a", " b ", "", None, "a", "é"], ["a", "b", None, None, "a", "é"]),
        (pl.Series(IDS), IDS),
        ((name for name in IDS), IDS),
        ([pd.NA, pd.NaT, None, float("nan"), 1.5, "é"], [None, None, None, None, "1.5", "é"]),
        (None, [None] * 6),
    ],
)
def test_names_of_samples_come_in_many_forms(
    fat: WorkspaceStore, given: object, kept: list[str | None]
) -> None:
    fat.predict("fat", NEW, sample_ids=given, on_outlier="ignore")  # type: ignore[arg-type]
    assert fat.measurements.list()["sample_id"].to_list() == kept


def test_wrong_words_about_the_log_leave_no_trace(fat: WorkspaceStore) -> None:
    fat.audit.guard.forbid(patterns=["patient"])
    for wrong, error in (
        ({"sample_ids": IDS[:2]}, ShapeMismatch),
        ({"sample_ids": "s1"}, InvalidInput),
        ({"sample_ids": 6}, InvalidInput),
        ({"sample_ids": [b"a"] * 6}, InvalidInput),
        ({"sample_ids": ["\ud800"] * 6}, InvalidInput),
        ({"measured_at": 1767225600}, InvalidInput),
        ({"instrument": " "}, InvalidInput),
        ({"log": "yes"}, InvalidInput),
        ({"measured_at": "yesterday"}, InvalidInput),
        ({"measured_at": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=9)))}, InvalidInput),
        ({"measured_at": datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))}, InvalidInput),
        ({"measured_at": [datetime(2026, 1, 1)] * 2}, ShapeMismatch),
        ({"operator": "patient 7"}, ForbiddenContent),
        ({"sample_ids": ["patient"] * 6}, ForbiddenContent),
    ):
        with pytest.raises(error):
            fat.predict("fat", NEW, on_outlier="ignore", **wrong)  # type: ignore[arg-type]
    assert len(fat.measurements) == 0


def test_a_read_only_store_predicts_and_says_that_nothing_is_logged(
    fat: WorkspaceStore, recorded: Recorded
) -> None:
    predictor = fat.predictor("fat")
    fat.close()
    with pytest.raises(StoreClosed):
        predictor.predict(NEW, log=True)
    assert predictor.predict(NEW).shape == (6,)
    with WorkspaceStore(recorded.folder, read_only=True) as reader:
        with pytest.warns(UserWarning, match="is not logged"):
            found = reader.predict("fat", NEW, on_outlier="ignore")
        assert found.height == len(NEW)
        with pytest.raises(ReadOnlyStore):
            reader.predict("fat", NEW, log=True, on_outlier="ignore")
        with pytest.raises(ReadOnlyStore):
            reader.references.add("a", 1.0)
        assert reader.calibrations.monitor("fat").n_measurements == len(reader.measurements) == 0


def _log(folder: Path, worker: int, calls: int) -> None:
    with WorkspaceStore(folder) as store:
        for call in range(calls):
            names = [f"{worker}-{call}-{row}" for row in range(len(NEW))]
            store.predict("fat", NEW, sample_ids=names, on_outlier="ignore")


@pytest.mark.of_a_folder("its other processes open the folder")
@pytest.mark.parametrize("processes", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_processes_log_at_once_and_nothing_is_lost(
    fat: WorkspaceStore, recorded: Recorded, processes: int
) -> None:
    fat.close()
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_log, args=(recorded.folder, number, 3)) for number in range(processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * processes
    with WorkspaceStore(recorded.folder) as store:
        names = store.measurements.list("fat")["sample_id"]
        assert len(names) == names.n_unique() == processes * 3 * len(NEW)


def test_old_measurements_go_and_the_audit_trail_tells(fat: WorkspaceStore) -> None:
    fat.predict("fat", NEW, on_outlier="ignore")
    assert fat.measurements.delete(before=datetime.now(UTC) - timedelta(days=1)) == 0
    assert fat.measurements.delete(before=datetime.now(UTC) + timedelta(days=1)) == len(NEW)
    told = fat.audit.query(operation="delete_measurements")["details"].to_list()
    assert len(fat.measurements) == 0
    assert f'"rows": {len(NEW)}' in str(told[-1]).replace("'", '"')
    with pytest.raises(UnknownId):
        fat.measurements.spectrum("nothing")


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("fatt", CalibrationNotFound, "Did you mean 'fat'"),
        ("fat@v1", InvalidInput, "a name alone"),
        (1, InvalidInput, "a name alone"),
    ],
)
@pytest.mark.parametrize("dry_run", [True, False])
def test_measurements_of_no_calibration_are_not_zero_rows(
    fat: WorkspaceStore, name: Any, error: type[Exception], words: str, dry_run: bool
) -> None:
    fat.predict("fat", NEW, on_outlier="ignore")
    with pytest.raises(error, match=words):
        fat.measurements.delete(before="2100-01-01", calibration=name, dry_run=dry_run)
    assert len(fat.measurements) == len(NEW)


# -- Reference values.


@pytest.mark.everywhere
def test_replicates_are_combined_and_corrections_keep_their_history(store: WorkspaceStore) -> None:
    first, second = store.references.add(
        4711, [18.0, 19.0], target="fat", lab="north", measured_at="2026-03-01"
    )
    store.references.add("4711", 20.0, target="Fat", lab="south", measured_at="2026-02-01")
    assert store.references.list(target="FAT").height == 3
    for how, value in (("mean", 19.0), ("median", 19.0), ("latest", 19.0)):
        assert store.references.combined("fat", combine=how)["value"].to_list() == [value]  # type: ignore[arg-type]
    assert store.references.sel("fat") == (pytest.approx(1.0), 2)
    new = store.references.correct(second, 18.4, "a transposed digit")
    assert store.references.combined("fat")["value"].to_list() == [pytest.approx(18.8)]
    store.references.withdraw(first, "wrong sample")
    assert store.references.list("4711")["value"].to_list() == [20.0, 18.4]
    history = store.references.list(history=True)
    assert history.height == 5
    assert set(history["replaces"].drop_nulls()) == {first, second}
    assert store.references.list().filter(pl.col("reference_id") == new)["lab"].to_list() == ["north"]
    for gone in (first, second, "nothing"):
        with pytest.raises(UnknownId):
            store.references.correct(gone, 1.0, "again")


@pytest.mark.parametrize("form", ["csv", "german", "polars", "pandas", "dict"])
def test_references_come_from_a_table(store: WorkspaceStore, tmp_path: Path, form: str) -> None:
    table: object = {"sample": ["007", "8", "9"], "fat": [1.5, None, 2.5], "lab": ["a", "a", "b"]}
    if form == "polars":
        table = pl.DataFrame(table)
    elif form == "pandas":
        table = pd.DataFrame(table)
    elif form != "dict":
        table = tmp_path / "lab.csv"
        text = "sample,fat,lab\n007,1.5,a\n8,,a\n9,2.5,b\n"
        table.write_text(text if form == "csv" else text.replace(",", ";").replace(".", ","))
    store.references.add_many(table, target="fat", unit="%")
    found = store.references.list()
    assert found.select("sample_id", "value", "target", "lab", "unit").rows() == [
        ("007", 1.5, "fat", "a", "%"),
        ("9", 2.5, "fat", "b", "%"),
    ]
    with pytest.raises(InvalidInput, match="Stored already, word for word: 2 of 2 rows"):
        store.references.add_many(table, target="fat", unit="%")
    assert store.references.add_many(table, target="fat", unit="%", existing="skip") == []
    assert len(store.references.add_many(table, target="fat", unit="%", existing="add")) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"sample_id": None, "value": 1.0},
        {"sample_id": " ", "value": 1.0},
        {"sample_id": "a", "value": float("nan")},
        {"sample_id": "a", "value": "12"},
        {"sample_id": "a", "value": True},
        {"sample_id": "a", "value": []},
        {"sample_id": "a", "value": [1.0, None]},
        {"sample_id": "a", "value": 1.0, "measured_at": "soon"},
        {"sample_id": "a", "value": 1.0, "lab": ""},
    ],
)
def test_what_is_no_reference_is_refused(store: WorkspaceStore, wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        store.references.add(wrong.pop("sample_id"), wrong.pop("value"), **wrong)  # type: ignore[arg-type]
    assert store.references.list(history=True).height == 0


@pytest.mark.parametrize(
    ("cells", "culprit"),
    [
        (["12,5", "1.234,5", "<0,5", ""], "row 3, fat: .*<0,5"),
        (["12.5", "NA", "13 %", "x"], "row 3, fat: .*13 %"),
        (["-", "n/a", "3.1/3.2"], "row 3, fat: .*3.1/3.2"),
    ],
)
def test_the_cell_that_is_no_number_is_named(
    store: WorkspaceStore, tmp_path: Path, cells: list[str], culprit: str
) -> None:
    file = tmp_path / "lab.csv"
    file.write_text("\n".join(["sample_id;fat", *(f"s{row};{cell}" for row, cell in enumerate(cells))]))
    with pytest.raises(InvalidInput, match=culprit):
        store.references.add_many(file, target="fat")
    assert store.references.list().height == 0


@pytest.mark.parametrize(
    "given",
    [
        np.datetime64("2026-05-01T10:00"),
        pd.Timestamp("2026-05-01T12:00", tz="Europe/Berlin"),
        pd.Series([pd.Timestamp("2026-05-01T10:00")] * 6),
        np.array(["2026-05-01T10:00"] * 6, dtype="datetime64[ns]"),
        [
            "2026-05-01T10:00Z",
            pd.NaT,
            np.datetime64("NaT"),
            None,
            "2026-05-01T10:00",
            datetime(2026, 5, 1, 10),
        ],
    ],
)
def test_moments_of_numpy_and_pandas_are_moments(fat: WorkspaceStore, given: object) -> None:
    fat.predict("fat", NEW, measured_at=given, on_outlier="ignore")
    found = fat.measurements.list(until="2026-05-02")["measured_at"]
    assert set(found) == {datetime(2026, 5, 1, 10, tzinfo=UTC)}
    assert len(found) == (3 if isinstance(given, list) else 6)
    fat.flush()  # nothing that cannot be written waits in the buffer


def test_a_pandas_frame_names_its_samples(fat: WorkspaceStore) -> None:
    fat.predict("fat", pd.DataFrame(NEW, columns=GRID, index=IDS), on_outlier="ignore")
    assert fat.measurements.list("fat@v1")["sample_id"].to_list() == IDS
    with pytest.raises(CalibrationNotFound, match="Did you mean 'fat'"):
        fat.measurements.list("fta")


def test_a_transaction_that_is_given_up_logs_nothing(fat: WorkspaceStore) -> None:
    def give_up() -> None:
        with fat.transaction():
            fat.predict("fat", NEW, on_outlier="ignore")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        give_up()
    assert len(fat.measurements) == 0


def test_a_frame_with_wavelengths_is_hashed_like_its_values(fat: WorkspaceStore) -> None:
    frame = pl.DataFrame(NEW, schema=[f"{value:.6f}" for value in GRID])
    fat.predict("fat", frame, on_outlier="ignore")
    fat.predict("fat", NEW, on_outlier="ignore")
    assert fat.measurements.list()["spectrum_hash"].n_unique() == len(NEW)


def test_a_version_is_named_once(fat: WorkspaceStore) -> None:
    fat.predict("fat", NEW, on_outlier="ignore")
    for named in ("fat@v1", "fat@production", fat.calibrations.get("fat")):
        assert fat.measurements.list(named).height == len(NEW)  # type: ignore[arg-type]
        for number in (1, 2):
            with pytest.raises(InvalidInput, match="names a version already"):
                fat.measurements.list(named, version=number)  # type: ignore[arg-type]


# -- Reference values of several processes.


def _race(folder: Path, gate: Any, reference_ids: list[str], worker: int, said: Any) -> None:
    with WorkspaceStore(folder) as store:
        len(store.measurements)  # opened before the race begins
        for turn, reference_id in enumerate(reference_ids):
            row = [{"sample_id": f"row {turn}", "value": 1.0, "target": "fat"}]
            calls: list[Callable[[], object]] = [
                lambda r=reference_id: store.references.correct(r, 10.0 + worker, "read again"),  # type: ignore[misc]
                lambda row=row: store.references.add_many(row),  # type: ignore[misc]
                lambda row=row: store.references.add_many(
                    [row[0] | {"sample_id": "skipped"}], existing="skip"
                ),  # type: ignore[misc]
            ]
            for number, call in enumerate(calls):
                gate.wait()
                try:
                    said.put((turn, number, bool(call())))
                except (InvalidInput, UnknownId):
                    said.put((turn, number, False))


@pytest.mark.of_a_folder("its other processes open the folder")
def test_of_two_that_decide_at_once_one_wins(store: WorkspaceStore, recorded: Recorded) -> None:
    turns = 6
    ids = store.references.add("s", [float(turn) for turn in range(turns)], target="fat")
    store.close()
    context = multiprocessing.get_context("spawn")
    gate, said = context.Barrier(2), context.Queue()
    workers = [context.Process(target=_race, args=(recorded.folder, gate, ids, n, said)) for n in range(2)]
    for worker in workers:
        worker.start()
    answers = sorted(said.get(timeout=300) for _ in range(turns * 3 * 2))
    for worker in workers:
        worker.join()
    with WorkspaceStore(recorded.folder) as opened:
        now = opened.references.list()
        assert now.filter(sample_id="s").height == turns
        assert set(now.filter(sample_id="s")["value"]) <= {10.0, 11.0}
        assert opened.references.list("s", history=True).height == 2 * turns
        assert now.filter(pl.col("sample_id").str.starts_with("row")).height == turns
        assert now.filter(sample_id="skipped").height == 1
    won = [(turn, number) for turn, number, good in answers if good]
    assert won == sorted({*((t, n) for t in range(turns) for n in (0, 1)), (0, 2)})


def test_of_two_corrections_of_one_value_the_later_counts(store: WorkspaceStore) -> None:
    (first,) = store.references.add("s", 1.0, target="fat")
    (other,) = store.references.add("t", 1.0, target="fat")
    with store.transaction():  # does not see its own rows
        store.references.correct(first, 2.0, "read again")
        store.references.correct(first, 3.0, "and again")
        store.references.correct(other, 2.0, "read again")
        store.references.withdraw(other, "another sample")
    assert store.references.list()["value"].to_list() == [3.0]
    assert store.references.sel("fat")[1] == 0
    assert store.references.list(history=True).height == 6
    with pytest.raises(UnknownId):
        store.references.withdraw(other, "again")


def test_a_correction_in_a_transaction_that_is_given_up_is_not_made(store: WorkspaceStore) -> None:
    (first,) = store.references.add("s", 1.0, target="fat")

    def give_up() -> None:
        with store.transaction():
            store.references.correct(first, 2.0, "read again")
            store.references.add_many([{"sample_id": "t", "value": 1.0}])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        give_up()
    assert store.references.list()["value"].to_list() == [1.0]
