"""Measurements, references and corrections in archives, backups and retention."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from servicekit import NEW, Recorded

from nirs_store import WorkspaceStore
from nirs_store.errors import RecordingWarning
from nirs_store.registry import limit

IDS = [f"s{row}" for row in range(len(NEW))]


@pytest.fixture
def fat(store: WorkspaceStore, recorded: Recorded) -> WorkspaceStore:
    store.calibrations.register("fat", recorded.first, alias="production")
    store.calibrations.correct("fat", bias=1.0)
    store.predict("fat", NEW, sample_ids=IDS, on_outlier="ignore", keep_spectra=True)
    store.references.add_many({"sample_id": IDS, "value": [10.0] * len(NEW)}, target="fat")
    store.references.add("elsewhere", 1.0)
    return store


def table(store: WorkspaceStore, name: str) -> list[tuple[object, ...]]:
    return store.sql(f"SELECT * FROM {name} ORDER BY 1").rows()


@pytest.mark.parametrize("whole", [True, False])
def test_an_archive_brings_them_into_an_empty_workspace(
    fat: WorkspaceStore, tmp_path: Path, whole: bool
) -> None:
    runs = None if whole else fat.list_runs()["run_id"].to_list()
    fat.archive(tmp_path / "a.zip", runs=runs)
    with WorkspaceStore(tmp_path / "other") as other:
        other.restore_archive(tmp_path / "a.zip")
        for name in ("measurements", "corrections"):
            assert table(other, name) == table(fat, name)
        assert len(table(other, "sample_references")) == len(NEW) + whole
        # As text, because a slope that is not defined is NaN, which equals nothing.
        assert str(other.calibrations.monitor("fat").agreement) == str(
            fat.calibrations.monitor("fat").agreement
        )
        before = {name: table(other, name) for name in ("measurements", "corrections", "sample_references")}
        other.restore_archive(tmp_path / "a.zip")
        assert {name: table(other, name) for name in before} == before


def test_what_comes_in_changes_no_number_that_is_predicted_here(
    fat: WorkspaceStore, recorded: Recorded, tmp_path: Path
) -> None:
    fat.archive(tmp_path / "a.zip")
    with WorkspaceStore(tmp_path / "other") as other:
        other.restore_archive(tmp_path / "a.zip")
        other.calibrations.retire_correction("fat")
        mine = other.predict("fat@v1", NEW, log=False, on_outlier="ignore")
        fat.calibrations.correct("fat", bias=2.0)
        fat.archive(tmp_path / "b.zip")
        with pytest.warns(RecordingWarning, match="1 corrections"):
            other.restore_archive(tmp_path / "b.zip")
        assert other.predict("fat@v1", NEW, log=False, on_outlier="ignore").equals(mine)
    with WorkspaceStore(tmp_path / "fourth") as fourth:
        from servicekit import record

        own = record(fourth, 3)
        fourth.calibrations.register("fat", own, alias="production")
        fourth.calibrations.correct("fat", bias=5.0)
        with pytest.warns(RecordingWarning):
            fourth.restore_archive(tmp_path / "a.zip")
        # The version became the second of this name: its measurements and its correction went along.
        assert fourth.measurements.list("fat")["version"].unique().to_list() == [2]
        assert [(c.version, c.label, c.bias) for c in fourth.calibrations.corrections("fat")] == [
            (1, "c1", 5.0),
            (2, "c2", 1.0),
        ]


def test_a_backup_holds_them(fat: WorkspaceStore, tmp_path: Path) -> None:
    made = fat.backups.create(tmp_path / "backups")
    before = table(fat, "measurements")
    fat.measurements.delete(before=datetime.now(UTC) + timedelta(days=1))
    assert len(fat.measurements) == 0
    fat.close()
    from nirs_store.backup.backup import restore_backup

    restore_backup(made.path, tmp_path / "back")
    with WorkspaceStore(tmp_path / "back") as back:
        assert table(back, "measurements") == before
        assert back.check().ok


def test_retention_lets_old_measurements_go(fat: WorkspaceStore) -> None:
    policy = limit(on="measurement", max_age_days=365)
    assert fat.retention.plan(policy).take == ()
    moved = fat._engine.change(
        lambda con: con.execute(
            "UPDATE measurements SET logged_at = logged_at - INTERVAL 400 DAY WHERE sample_id IN ('s0', 's1')"
        ).fetchall()
    )
    assert moved == [(2,)]
    plan = fat.retention.plan(policy)
    assert [(item.kind, item.name.split(",")[0]) for item in plan.take] == [("measurement", "fat")]
    assert fat.retention.execute(plan).taken == 1
    assert fat.measurements.list()["sample_id"].to_list() == IDS[2:]


def test_check_misses_a_correction_and_a_corrected_reference(fat: WorkspaceStore) -> None:
    first = fat.references.list("s0")["reference_id"][0]
    fat.references.correct(first, 11.0, "a slip of the pen")
    assert fat.check().ok
    fat._engine.change(lambda con: con.execute("DELETE FROM corrections").fetchall())
    fat._engine.change(
        lambda con: con.execute("DELETE FROM sample_references WHERE reference_id = ?", [first]).fetchall()
    )
    found = [finding.message for finding in fat.check().findings if finding.kind == "calibration_broken"]
    assert len(found) == 2
    assert "6 measurements were corrected by it" in found[0]
    assert first in found[1]
