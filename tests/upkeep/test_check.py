"""A check finds every kind of damage, names what depends on it, and changes nothing."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from storekit import ADDRESSES, NO_FOLDERS, begin, chain_of
from upkeepkit import Sample, age, leased, overwrite, sql, tree

from nirs_store.blobs.local import aside_name
from nirs_store.db.connection import Options, attach
from nirs_store.db.journal import Journal, new_txid
from nirs_store.db.schema import SCHEMA_VERSION
from nirs_store.errors import ForeignCatalog, InvalidInput, NotAWorkspace, StoreBusy
from nirs_store.maintenance.check import check_workspace
from nirs_store.maintenance.findings import CheckReport, Finding
from nirs_store.store import WorkspaceStore

GONE = "0190aaaa-0000-7000-8000-000000000000"


def problems(report: CheckReport) -> list[tuple[str, str]]:
    return [(finding.kind, finding.where) for finding in report.findings if finding.severity != "info"]


def the(report: CheckReport, kind: str) -> Finding:
    (finding,) = report.of_kind(kind)
    return finding


def checked(sample: Sample, *, read_data: bool = False) -> CheckReport:
    """Check, and see that nothing was touched."""
    before = tree(sample.path)
    report = check_workspace(sample.path, read_data=read_data)
    assert tree(sample.path) == before
    return report


# -- nothing wrong, nothing touched --------------------------------------------------------------


@pytest.mark.parametrize("read_data", [False, True])
def test_a_healthy_store_is_ok_and_its_pending_commits_count(recorded: Sample, read_data: bool) -> None:
    report = checked(recorded, read_data=read_data)
    assert report.ok
    assert [finding.kind for finding in report.findings] == ["segments_pending"]
    assert report.counts["chains"] == 3
    assert report.counts["predictions"] == 5
    assert report.counts["files"] == 7
    assert report.counts["segments"] == len(recorded.segments()) == 5


def test_a_store_opened_read_only_is_checked_without_touching_it(recorded: Sample) -> None:
    before = tree(recorded.path)
    with WorkspaceStore(recorded.path, read_only=True) as store:
        assert store.check(read_data=True).ok
    assert tree(recorded.path) == before


def test_a_store_checks_itself_with_what_it_has_just_recorded(sample: Sample) -> None:
    with WorkspaceStore(sample.path) as store:
        _, pipeline_id = begin(store)
        chain_of(store, pipeline_id)
        store.save_artifact([1, 2], "builtins.list", "model")
        report = store.check(read_data=True)
        assert report.ok, str(report)
        assert report.counts["chains"] == 4
        assert store.check().to_dict()["ok"]


def test_a_blob_that_is_being_saved_is_no_orphan(sample: Sample) -> None:
    with WorkspaceStore(sample.path) as store, store.transaction():
        key = store.save_artifact([3], "builtins.list", "model")
        store._engine.blobs.wait()
        assert any(key in path.name for path in sample.path.glob("artifacts/*/*"))
        assert check_workspace(sample.path).ok


def test_recording_goes_on_while_the_catalog_is_inspected(sample: Sample) -> None:
    with WorkspaceStore(sample.path) as store, store._engine.access.inspecting(timeout=5.0) as connect:
        connect()
        with WorkspaceStore(sample.path) as other:
            begin(other)


def test_a_check_waits_no_longer_than_asked(recorded: Sample) -> None:
    with leased(recorded.path), pytest.raises(StoreBusy):
        check_workspace(recorded.path, lock_timeout=0.05)


@pytest.mark.parametrize("timeout", [math.inf, 1e10, 1e300])
def test_a_check_that_waits_for_ever_is_answered(sample: Sample, timeout: float) -> None:
    assert check_workspace(sample.path, lock_timeout=timeout).ok


@pytest.mark.parametrize("timeout", ["30", None, -1, math.nan, 1j])
def test_what_is_no_time_is_refused(recorded: Sample, timeout: Any) -> None:
    with pytest.raises(InvalidInput, match="lock_timeout: expected seconds"):
        check_workspace(recorded.path, lock_timeout=timeout)


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_is_not_checked_as_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, kind: Callable[[str], Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match="address") as caught:
        check_workspace(kind(address))
    assert "geheim" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", NO_FOLDERS)
def test_what_cannot_be_the_folder_of_a_workspace_is_not_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match="Nothing was changed"):
        check_workspace(path)
    assert list(tmp_path.iterdir()) == []


def test_a_check_of_a_store_that_another_thread_uses_waits(sample: Sample) -> None:
    reports: list[CheckReport] = []
    with WorkspaceStore(sample.path) as store:
        threads = [threading.Thread(target=lambda: reports.append(store.check())) for _ in range(3)]
        for thread in threads:
            thread.start()
        store.list_runs()
        for thread in threads:
            thread.join()
    assert [report.ok for report in reports] == [True] * 3


def test_a_folder_that_is_no_workspace_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(NotAWorkspace):
        check_workspace(tmp_path)
    with duckdb.connect(str(tmp_path / "store.duckdb")) as con:
        con.execute("CREATE TABLE mine (a INTEGER)")
    before = tree(tmp_path)
    with pytest.raises(ForeignCatalog):
        check_workspace(tmp_path)
    assert tree(tmp_path) == before


# -- the catalog ---------------------------------------------------------------------------------


def test_a_missing_catalog_is_found_and_blobs_are_checked_by_their_names(sample: Sample) -> None:
    sample.layout.catalog.unlink()
    overwrite(sample.blob("fold_0"), b"other")
    report = checked(sample, read_data=True)
    assert problems(report) == [
        ("blob_corrupt", sample.relative("fold_0")),
        ("catalog_missing", "store.duckdb"),
    ]
    assert not check_workspace(sample.path).of_kind("blob_orphan")


@pytest.mark.parametrize("content", [b"", b"not a database at all", None])
def test_a_catalog_that_cannot_be_opened_is_found_and_the_rest_still_checked(
    sample: Sample, content: bytes | None
) -> None:
    whole = sample.layout.catalog.read_bytes()
    overwrite(sample.layout.catalog, whole[: len(whole) // 3] if content is None else content)
    overwrite(sample.segments()[1], b"torn")
    report = checked(sample)
    assert {kind for kind, _ in problems(report)} == {"catalog_damaged", "segment_damaged"}


def test_an_open_store_finds_that_its_catalog_was_damaged_meanwhile(sample: Sample) -> None:
    with WorkspaceStore(sample.path, read_only=True) as store:
        overwrite(sample.layout.catalog, b"gone")
        assert the(store.check(), "catalog_damaged").severity == "error"


def test_a_newer_schema_is_found_and_an_older_one_told(sample: Sample) -> None:
    sql(sample.path, "UPDATE nirs_store_meta SET value = '1000' WHERE key = 'schema_version'")
    assert problems(checked(sample)) == [("schema_too_new", "store.duckdb")]
    sql(sample.path, "UPDATE nirs_store_meta SET value = '1' WHERE key = 'schema_version'")
    report = checked(sample)
    assert report.ok
    assert f"brings it to {SCHEMA_VERSION}" in the(report, "schema_old").message


def test_a_log_that_a_crash_left_is_found_and_its_rows_count(sample: Sample) -> None:
    con = attach(sample.layout.catalog, read_only=False, options=Options(), spill=None)
    con.execute("INSERT INTO runs SELECT * REPLACE (? AS run_id) FROM runs LIMIT 1", [GONE])
    crashed = sample.layout.catalog.read_bytes(), sample.layout.wal.read_bytes()
    con.close()
    overwrite(sample.layout.catalog, crashed[0])
    sample.layout.wal.write_bytes(crashed[1])
    report = checked(sample, read_data=True)
    assert problems(report) == [("wal_present", "store.duckdb.wal")]
    assert report.counts["runs"] == 3


# -- rows that do not belong together --------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "key", "statement"),
    [
        ("pipelines", "pipeline_id", f"UPDATE pipelines SET run_id = '{GONE}' WHERE name = 'refit'"),
        ("chains", "chain_id", f"UPDATE chains SET pipeline_id = '{GONE}' WHERE wavelengths IS NOT NULL"),
        ("logs", "log_id", f"UPDATE logs SET pipeline_id = '{GONE}' WHERE message = 'about to fail'"),
    ],
)
def test_a_row_whose_parent_never_came_is_found(sample: Sample, table: str, key: str, statement: str) -> None:
    sql(sample.path, statement)
    report = checked(sample)
    finding = the(report, "dangling_row")
    assert finding.where.startswith(f"{table}/")
    assert GONE in finding.message
    assert len(report.of_kind("dangling_row")) == 1


def test_predictions_without_pipeline_or_chain_and_arrays_without_prediction_are_found(
    sample: Sample,
) -> None:
    first, second, third, *_ = [*sample.predictions["folds"], *sample.predictions["refit"]]
    sql(sample.path, f"UPDATE predictions SET pipeline_id = '{GONE}' WHERE prediction_id = '{first}'")
    sql(sample.path, f"UPDATE predictions SET chain_id = '{GONE}' WHERE prediction_id = '{second}'")
    sql(sample.path, f"DELETE FROM predictions WHERE prediction_id = '{third}'")
    report = checked(sample)
    assert {finding.where for finding in report.of_kind("dangling_row")} == {
        f"predictions/{first}",
        f"predictions/{second}",
        f"prediction_arrays/{third}",
    }


def test_pending_rows_of_what_was_deleted_do_not_count(sample: Sample) -> None:
    store = WorkspaceStore(sample.path)
    run_id, pipeline_id = begin(store)
    with WorkspaceStore(sample.path) as other:
        other.delete_run(run_id, now=True)
    with leased(sample.path):
        store.log_step(pipeline_id, 0, "x", "end")
        store.close()
    assert sample.segments()
    report = checked(sample)
    assert report.ok
    assert report.counts["logs"] == 4


def test_an_array_that_is_gone_names_its_predictions(sample: Sample) -> None:
    ident = sample.predictions["folds"][1]
    con = duckdb.connect(str(sample.layout.catalog))
    ((key,),) = con.execute(
        "SELECT y_pred FROM prediction_arrays WHERE prediction_id = ?", [ident]
    ).fetchall()
    con.execute("DELETE FROM arrays WHERE array_hash = ?", [key])
    con.close()
    finding = the(checked(sample), "array_missing")
    assert finding.where == f"arrays/{key}"
    assert finding.affects == (ident,)


def test_an_altered_array_is_found_when_data_are_read_and_names_who_uses_it(sample: Sample) -> None:
    con = duckdb.connect(str(sample.layout.catalog))
    ((key,),) = con.execute("SELECT wavelengths FROM chains WHERE wavelengths IS NOT NULL").fetchall()
    con.execute("UPDATE arrays SET data = data || '\\x00'::BLOB WHERE array_hash = ?", [key])
    con.close()
    assert checked(sample).ok
    finding = the(checked(sample, read_data=True), "array_corrupt")
    assert finding.where == f"arrays/{key}"
    assert finding.affects == (sample.chains["folds"],)


def test_changes_that_wait_for_their_row_and_rows_dropped_are_told(sample: Sample) -> None:
    sql(
        sample.path,
        f"INSERT INTO deferred VALUES ('{GONE}', 1, 0, 'complete_run', '{GONE}', now()::TIMESTAMP, '{{}}')",
        "INSERT INTO dropped VALUES ('t', 'logs', 2, now()::TIMESTAMP), ('u', 'logs', 3, now()::TIMESTAMP)",
    )
    report = checked(sample)
    assert problems(report) == [("change_deferred", f"deferred/{GONE}")]
    assert "5 rows of logs" in the(report, "rows_dropped").message


# -- artifacts and references ------------------------------------------------------------------------


def test_an_artifact_without_row_and_file_names_the_chains_that_cannot_replay(sample: Sample) -> None:
    key = sample.artifacts["scaler"]
    sql(sample.path, f"DELETE FROM blobs WHERE artifact_id = '{key}'")
    sample.blob("scaler").unlink()
    finding = the(checked(sample), "artifact_missing")
    assert set(finding.affects) == sample.needs("scaler")
    assert finding.severity == "error"


def test_an_artifact_whose_row_alone_is_gone_is_told_apart_and_is_no_orphan(sample: Sample) -> None:
    sql(sample.path, f"DELETE FROM blobs WHERE artifact_id = '{sample.artifacts['refit']}'")
    report = checked(sample)
    assert problems(report) == [("artifact_row_missing", sample.relative("refit"))]
    assert set(report.affected) == sample.needs("refit")


def test_references_that_lack_or_lead_nowhere_are_found(sample: Sample) -> None:
    chain, key = sample.chains["folds"], sample.artifacts["scaler"]
    sql(
        sample.path,
        f"DELETE FROM artifact_refs WHERE owner_id = '{chain}' AND artifact_id = '{key}'",
        f"INSERT INTO artifact_refs VALUES ('r1', '{key}', 'chain', '{GONE}', NULL, NULL, NULL, now()::TIMESTAMP)",
        "INSERT INTO artifact_refs SELECT 'r2', 'nothing', 'session', session_id, NULL, NULL, NULL, "
        "now()::TIMESTAMP FROM sessions LIMIT 1",
        f"INSERT INTO artifact_refs VALUES ('r3', '{key}', 'session', '{GONE}', NULL, NULL, NULL, now()::TIMESTAMP)",
    )
    report = checked(sample)
    assert problems(report) == [
        ("reference_dangling", "artifact_refs/r1"),
        ("reference_empty", "artifact_refs/r2"),
        ("reference_missing", f"chains/{chain}"),
    ]
    assert the(report, "reference_missing").subject == (chain, key)
    assert the(report, "session_missing").where == f"sessions/{GONE}"


def test_a_chain_whose_steps_cannot_be_read_is_found(sample: Sample) -> None:
    chain = sample.chains["folds"]
    sql(sample.path, f"UPDATE chains SET steps = '7' WHERE chain_id = '{chain}'")
    finding = the(checked(sample), "chain_unreadable")
    assert finding.affects == (chain,)


# -- files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["beside", "refit"])
def test_a_missing_blob_names_the_chains_that_cannot_replay(sample: Sample, name: str) -> None:
    sample.blob(name).unlink()
    finding = the(checked(sample), "blob_missing")
    assert finding.where == sample.relative(name)
    assert set(finding.affects) == sample.needs(name)


def test_a_torn_blob_is_found_by_its_size(sample: Sample) -> None:
    overwrite(sample.blob("scaler"), sample.blob("scaler").read_bytes()[:-1])
    finding = the(checked(sample), "blob_size")
    assert set(finding.affects) == sample.needs("scaler")


def test_altered_bytes_are_found_when_data_are_read(sample: Sample) -> None:
    data = bytearray(sample.blob("late_scaler").read_bytes())
    data[40] ^= 1
    overwrite(sample.blob("late_scaler"), bytes(data))
    assert checked(sample).ok
    report = checked(sample, read_data=True)
    assert problems(report) == [("blob_corrupt", sample.relative("late_scaler"))]
    assert set(report.affected) == sample.needs("late_scaler")


def test_a_blob_that_cannot_be_read_is_found(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("nirs_store.maintenance.check.hash_blob", refuse)
    report = check_workspace(sample.path, read_data=True)
    assert len(report.of_kind("blob_unreadable")) == 7
    assert "Input/output error" in report.errors[0].message


def test_a_path_that_leaves_the_workspace_is_found(sample: Sample) -> None:
    key = sample.artifacts["fold_0"]
    sql(sample.path, f"UPDATE blobs SET artifact_path = '../outside' WHERE artifact_id = '{key}'")
    report = checked(sample)
    assert set(the(report, "blob_path").affects) == sample.needs("fold_0")


def test_a_blob_that_was_healed_while_it_was_hashed_is_not_reported(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nirs_store.maintenance import check as module

    good = sample.blob("refit").read_bytes()
    overwrite(sample.blob("refit"), bytes(len(good)))
    hashed = module.hash_files
    first = iter([True])

    def heal_after_the_first_look(*args: object) -> object:
        found = hashed(*args)  # type: ignore[arg-type]
        if next(first, False):
            overwrite(sample.blob("refit"), good)
        return found

    monkeypatch.setattr(module, "hash_files", heal_after_the_first_look)
    assert check_workspace(sample.path, read_data=True).ok


def test_blobs_without_row_and_unknown_files_are_told_apart(sample: Sample) -> None:
    orphan = sample.path / "artifacts" / "ab" / ("ab" + "0" * 62 + ".joblib")
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"12345")
    (sample.path / "artifacts" / "notes.txt").write_text("mine")
    (orphan.parent / "link").symlink_to(orphan)
    report = checked(sample)
    assert problems(report) == [("blob_orphan", orphan.relative_to(sample.path).as_posix())]
    assert "5 bytes" in the(report, "blob_orphan").message
    assert [f.where for f in report.of_kind("unknown_file")] == ["artifacts/ab/link", "artifacts/notes.txt"]


# -- the journal ---------------------------------------------------------------------------------------


def other_name(sample: Sample) -> None:
    first, second, *_ = sample.segments()
    overwrite(second, first.read_bytes())


def cut(sample: Sample) -> None:
    overwrite(sample.segments()[1], sample.segments()[1].read_bytes()[:100])


def emptied(sample: Sample) -> None:
    overwrite(sample.segments()[1], b"")


@pytest.mark.parametrize("damage", [other_name, cut, emptied])
def test_a_damaged_commit_is_found_where_it_lies(sample: Sample, damage: Callable[[Sample], None]) -> None:
    name = sample.segments()[1].name
    damage(sample)
    finding = the(checked(sample), "segment_damaged")
    assert finding.where == f"journal/segments/{name}"


def test_a_rejected_commit_names_what_it_holds(sample: Sample) -> None:
    journal = Journal(sample.layout)
    entry = next(e for e in journal.pending() if "chains" in _tables(e.path))
    journal.reject(entry, reason="duplicate id", claim="", at="now")
    finding = the(checked(sample), "segment_rejected")
    assert "duplicate id" in finding.message
    assert set(finding.affects) == {sample.chains["late"], *sample.predictions["late"]}
    assert not checked(sample).of_kind("blob_orphan"), "its blobs are not given up"


def _tables(path: Path) -> set[str]:
    data = path.read_bytes()
    header = json.loads(data[12 : 12 + int.from_bytes(data[8:12], "little")])
    return {name for name, _, _ in header["tables"]}


def test_a_file_among_the_commits_that_is_none_is_told(sample: Sample) -> None:
    (sample.layout.segments / "README").write_text("?")
    assert "README" in the(checked(sample), "unknown_file").message


def test_a_commit_that_was_applied_and_not_removed_counts_once(sample: Sample) -> None:
    kept = {path: path.read_bytes() for path in sample.segments()}
    with WorkspaceStore(sample.path) as store:
        store.list_runs()
    for path, data in kept.items():
        path.write_bytes(data)
    report = checked(sample)
    assert report.ok
    assert report.counts["predictions"] == 5


# -- leftovers -------------------------------------------------------------------------------------------


def test_leftovers_of_those_that_died_are_found(sample: Sample) -> None:
    old, young = sample.layout.tmp / "old.tmp", sample.layout.tmp / "young.tmp"
    old.write_bytes(b"x")
    young.write_bytes(b"x")
    age(old)
    (sample.layout.claims / new_txid()).write_bytes(b"")
    waiting = sample.layout.aside / aside_name(sample.relative("scaler"))
    sample.blob("scaler").rename(waiting)
    report = checked(sample, read_data=True)
    assert [kind for kind, _ in problems(report)] == ["aside", "dead_claim", "leftover"]
    assert the(report, "leftover").where == "journal/tmp/old.tmp"
    assert the(report, "aside").where == sample.relative("scaler")


def test_the_claims_of_a_living_store_are_no_leftover(sample: Sample) -> None:
    with WorkspaceStore(sample.path) as store:
        begin(store)
        assert list(sample.layout.claims.iterdir())
        assert check_workspace(sample.path).ok


# -- the report --------------------------------------------------------------------------------------------


def test_the_report_reads_well_and_is_plain_data(sample: Sample) -> None:
    sample.blob("scaler").unlink()
    report = check_workspace(sample.path)
    text = str(report)
    assert text.startswith(f"error: {sample.relative('scaler')}: the file is gone.")
    assert sample.chains["folds"] in text
    assert "Save the same object again" in text
    assert text.endswith(
        "1 errors, 0 warnings (2 runs, 3 chains, 5 predictions, 6 files, 5 segments; "
        "structure only; --read-data reads every byte)."
    )
    assert json.loads(json.dumps(report.to_dict()))["findings"][0]["kind"] == "blob_missing"


def test_many_findings_of_a_kind_are_printed_short() -> None:
    findings = [Finding("leftover", "warning", f"journal/tmp/{i:02}", "old") for i in range(30)]
    report = CheckReport.of_findings("ws", False, [*findings, *findings], {})
    assert len(report.findings) == 30
    assert str(report).count("journal/tmp/") == 10
    assert "20 more of this kind (leftover)" in str(report)


def test_progress_is_told_in_bytes(recorded: Sample) -> None:
    told: list[tuple[int, int]] = []
    check_workspace(recorded.path, read_data=True, progress=lambda done, total: told.append((done, total)))
    sizes = [recorded.blob(name).stat().st_size for name in recorded.artifacts]
    assert told[-1] == (sum(sizes), sum(sizes))
    assert np.diff([done for done, _ in told]).min() > 0
