"""Migrations that are interrupted, repeated, or meet what they did not expect."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from clikit import check

from nirs_store import WorkspaceStore, load_tecator, migrate_nirs4all
from nirs_store.errors import ForeignCatalog, InvalidInput, NotAWorkspace, ReplayError, StoreBusy

SQL = Callable[..., list[Any]]
CHECKOUT = Path(__file__).parents[2]


def left(report: Any) -> dict[str, int]:
    return {f"{one.kind}: {one.reason}": one.count for one in report.left_out}


# The migration kills itself in the middle of a transaction: at the n-th time that it inserts rows.
KILLED = """
import os, signal, sys
from nirs_store.migration import carrying
calls = 0
insert = carrying.insert_missing
def insert_missing(*args):
    global calls
    calls += 1
    added = insert(*args)
    if calls == int(sys.argv[3]):
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
    return added
carrying.insert_missing = insert_missing
carrying.migrate_nirs4all(sys.argv[1], sys.argv[2])
"""


@pytest.mark.parametrize("moment", [11, pytest.param(19, marks=pytest.mark.slow)])
def test_a_killed_migration_is_finished_by_running_it_again(
    small: Path, tmp_path: Path, moment: int, fingerprint: Any
) -> None:
    before = fingerprint(small)
    target = tmp_path / "ours"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(small), str(target), str(moment)],
        cwd=CHECKOUT,
        check=False,
        timeout=120,
    )
    assert killed.returncode != 0
    # Files that no row names yet are a warning, as after every kill; nothing is broken.
    assert check(target).errors == ()
    whole = migrate_nirs4all(small, target)
    assert whole.verified
    assert whole.counts["runs"].present == 2
    assert sum(counts.added for counts in whole.counts.values()) > 0
    for counts in whole.counts.values():
        assert counts.added + counts.present == counts.found - counts.left_out
    assert check(target, read_data=True).errors == ()
    assert fingerprint(small) == before


def test_a_dry_run_says_what_would_come_and_writes_nothing(
    small: Path, tmp_path: Path, fingerprint: Any
) -> None:
    before = fingerprint(tmp_path)
    plan = migrate_nirs4all(small, tmp_path / "ours", dry_run=True)
    assert fingerprint(tmp_path) == before
    done = migrate_nirs4all(small, tmp_path / "ours")
    assert {kind: c.added for kind, c in plan.counts.items()} == {
        kind: c.added for kind, c in done.counts.items()
    }
    assert not plan.verified
    again = migrate_nirs4all(small, tmp_path / "ours", dry_run=True)
    assert {c.added for c in again.counts.values()} == {0}


def test_what_the_source_gained_since_is_added(small: Path, sql: SQL, tmp_path: Path) -> None:
    migrate_nirs4all(small, tmp_path / "ours")
    sql("INSERT INTO runs (run_id, name) VALUES ('later', 'later')")
    report = migrate_nirs4all(small, tmp_path / "ours")
    assert {kind: c.added for kind, c in report.counts.items() if c.added} == {"runs": 1}


def test_what_was_deleted_here_does_not_come_back(small: Path, tmp_path: Path) -> None:
    migrate_nirs4all(small, tmp_path / "ours")
    with WorkspaceStore(tmp_path / "ours") as store:
        run_id = store.list_runs().filter(pl.col("name") == "by hand")["run_id"][0]
        store.delete_run(run_id, now=True)
        prediction_id = store.query_predictions(limit=1)["prediction_id"][0]
        store.delete_prediction(prediction_id, now=True)
    report = migrate_nirs4all(small, tmp_path / "ours")
    assert {c.added for c in report.counts.values()} == {0}
    assert report.verified
    assert left(report)["runs: it was deleted in the target since an earlier migration"] == 1
    with WorkspaceStore(tmp_path / "ours") as store:
        assert store.get_run(run_id) is None
        assert store.get_prediction(prediction_id) is None


def test_what_differs_from_the_source_by_now_is_reported_and_kept(
    small: Path, sql: SQL, tmp_path: Path
) -> None:
    migrate_nirs4all(small, tmp_path / "ours")
    sql("UPDATE predictions SET val_score = 99.0 WHERE prediction_id = 'by-hand-0'")
    report = migrate_nirs4all(small, tmp_path / "ours")
    assert not report.verified
    assert report.differences == ["predictions: val_score differs: 1 (by-hand-0)"]
    with WorkspaceStore(tmp_path / "ours", read_only=True) as store:
        kept = store.get_prediction("by-hand-0")
        assert kept is not None
        assert kept["val_score"] == 0.25


@pytest.mark.parametrize("damage", ["gone", "altered"])
def test_a_chain_that_has_lost_a_model_never_predicts_with_the_others(
    small: Path, sql: SQL, tmp_path: Path, damage: str
) -> None:
    ((chain_id, folds),) = sql(
        "SELECT chain_id, fold_artifacts FROM chains WHERE fold_artifacts LIKE '%fold_2%'"
    )
    lost = json.loads(folds)["fold_1"]
    path = small / "artifacts" / sql("SELECT artifact_path FROM artifacts WHERE artifact_id = ?", lost)[0][0]
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes() + b"x")
    report = migrate_nirs4all(small, tmp_path / "ours")
    assert report.verified
    assert left(report)["chains: an artifact of it is lost; it came over, but cannot predict as it did"] == 1
    assert check(tmp_path / "ours").ok
    with WorkspaceStore(tmp_path / "ours", read_only=True) as store:
        chain = store.get_chain(chain_id)
        assert chain is not None
        assert chain["metadata"]["nirs4all"]["lost_artifacts"] == [lost]
        with pytest.raises(ReplayError):
            store.replay_chain(chain_id, load_tecator().X[:3, ::5])


def test_a_path_that_leaves_the_workspace_is_not_followed(small: Path, sql: SQL, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    sql("UPDATE artifacts SET artifact_path = '../../secret'")
    report = migrate_nirs4all(small, tmp_path / "ours")
    assert left(report)["artifacts: its path leaves the workspace"] > 0
    assert not [path for path in (tmp_path / "ours" / "artifacts").rglob("*") if path.is_file()]


def test_rows_that_cannot_be_used_are_left_out_and_named(small: Path, sql: SQL, tmp_path: Path) -> None:
    sql("UPDATE logs SET details = '{broken' WHERE log_id = (SELECT min(log_id) FROM logs)")
    sql("UPDATE runs SET status = 'paused' WHERE name = 'by hand'")
    sql("UPDATE predictions SET pipeline_id = 'nowhere' WHERE prediction_id = 'by-hand-0'")
    sql("UPDATE predictions SET chain_id = 'nowhere' WHERE prediction_id = 'by-hand-1'")
    report = migrate_nirs4all(small, tmp_path / "ours")
    found = left(report)
    assert found["logs: its JSON cannot be read"] == 1
    assert found["predictions: its pipeline was not brought over"] == 1
    assert found["arrays: their prediction was not brought over"] >= 1
    assert found["predictions: its chain was not brought over; it came over without"] == 1
    assert report.verified
    with WorkspaceStore(tmp_path / "ours", read_only=True) as store:
        orphan = store.get_prediction("by-hand-1")
        assert orphan is not None
        assert orphan["chain_id"] is None
        assert store.list_runs(status="failed")["error"].to_list() == ["its status in nirs4all was 'paused'"]


def test_arrays_that_nirs4all_deleted_stay_deleted_and_later_versions_win(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nirs_store.migration.batches._BATCH", 1)  # the versions come in batches apart
    (small / "arrays" / "_tombstones.json").write_text('{"by-hand-0": "2026-01-01"}')
    path = small / "arrays" / "other.parquet"
    rows = pl.read_parquet(path)
    newer = rows.filter(pl.col("prediction_id") == "by-hand-1").with_columns(
        pl.lit([9.0] * 6).alias("y_pred")
    )
    pl.concat([rows, newer]).write_parquet(path)
    migrate_nirs4all(small, tmp_path / "ours")
    with WorkspaceStore(tmp_path / "ours", read_only=True) as store:
        gone, kept = (store.get_prediction(name, load_arrays=True) for name in ("by-hand-0", "by-hand-1"))
        assert gone is not None
        assert kept is not None
        assert gone["y_true"] is None
        assert kept["y_pred"].tolist() == [[9.0, 9.0]] * 3


def test_a_catalog_that_nirs4all_left_with_a_journal_is_read_with_it(
    small: Path, tmp_path: Path, fingerprint: Any
) -> None:
    with closing(sqlite3.connect(small / "store.sqlite")) as con:
        con.execute("PRAGMA journal_mode = WAL")
        con.execute("INSERT INTO runs (run_id, name) VALUES ('in the journal', 'late')")
        con.commit()
        shutil.copytree(small, tmp_path / "left")  # as a process leaves it that was killed
    before = fingerprint(tmp_path / "left")
    report = migrate_nirs4all(tmp_path / "left", tmp_path / "ours")
    assert report.counts["runs"].added == 3
    assert fingerprint(tmp_path / "left") == before


def test_arrays_in_parquet_beside_duckdb_are_read(unpack: Any, tmp_path: Path) -> None:
    """Version 0.8.0 has its rows still in DuckDB and its arrays already in Parquet."""
    shutil.copytree(unpack("0.7.1") / "workspace", tmp_path / "theirs")
    (tmp_path / "theirs" / "arrays").mkdir()
    with duckdb.connect(str(tmp_path / "theirs" / "store.duckdb")) as con:
        arrays = pl.DataFrame(con.sql("SELECT * FROM prediction_arrays").to_arrow_table())
        con.execute("DROP TABLE prediction_arrays")
    arrays.write_parquet(tmp_path / "theirs" / "arrays" / "dataset.parquet")
    plan = migrate_nirs4all(tmp_path / "theirs", tmp_path / "ours", dry_run=True)
    assert plan.generation == "DuckDB + Parquet"
    assert plan.counts["arrays"].added == arrays.height > 60


def test_folders_that_cannot_be_migrated_are_refused(small: Path, tmp_path: Path) -> None:
    with pytest.raises(NotAWorkspace, match="neither"):
        migrate_nirs4all(tmp_path, Path(tmp_path.anchor) / "nowhere")
    with pytest.raises(NotAWorkspace, match="not a folder"):
        migrate_nirs4all(tmp_path / "nothing", tmp_path / "ours")
    with pytest.raises(InvalidInput, match="two folders apart"):
        migrate_nirs4all(small, small / "inside")
    with WorkspaceStore(tmp_path / "one of ours"):
        pass
    with pytest.raises(ForeignCatalog, match="already"):
        migrate_nirs4all(tmp_path / "one of ours", tmp_path / "ours")
    (small / "store.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(NotAWorkspace, match="SQLite"):
        migrate_nirs4all(small, tmp_path / "ours")
    with closing(sqlite3.connect(tmp_path / "one of ours" / "store.sqlite")) as con:
        con.execute("CREATE TABLE songs (name TEXT)")
    with pytest.raises(ForeignCatalog, match="pipelines"):
        migrate_nirs4all(tmp_path / "one of ours", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_a_source_that_is_written_to_meanwhile_is_no_success(small: Path, sql: SQL, tmp_path: Path) -> None:
    def write(what: str, done: int, total: int) -> None:
        if what == "runs":
            sql("INSERT INTO runs (run_id, name) VALUES ('meanwhile', 'x')")

    with pytest.raises(StoreBusy, match="written to"):
        migrate_nirs4all(small, tmp_path / "ours", on_progress=write)
    assert migrate_nirs4all(small, tmp_path / "ours").verified
