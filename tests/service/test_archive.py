"""Measurements, references and corrections in archives, backups and retention."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from clikit import invoke
from servicekit import NEW, Recorded, record

from nirs_store import WorkspaceStore
from nirs_store.errors import RecordingWarning
from nirs_store.history.policy import Limit, Rule, keep_recent, limit

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


def deleted_version(store: WorkspaceStore, name: str, chains: tuple[str, str], ids: list[str]) -> None:
    """Predict with the second version of a name, correct it first, and delete it: its measurements stay."""
    store.calibrations.register(name, chains[0], alias="production")
    store.calibrations.register(name, chains[1])
    store.calibrations.correct(f"{name}@v2", bias=3.0)
    store.predict(f"{name}@v2", NEW, sample_ids=ids, on_outlier="ignore")
    store.references.add_many({"sample_id": ids, "value": [40.0] * len(ids)}, target=name)
    store.calibrations.delete(f"{name}@v2")


@pytest.mark.parametrize("whole", [True, False])
def test_measurements_of_a_deleted_version_never_become_those_of_another(
    store: WorkspaceStore, recorded: Recorded, tmp_path: Path, whole: bool
) -> None:
    deleted_version(store, "fat", (recorded.first, recorded.second), IDS)
    store.archive(tmp_path / "a.zip", runs=None if whole else store.list_runs()["run_id"].to_list())
    with WorkspaceStore(tmp_path / "other") as other:
        for components in (1, 3):
            other.calibrations.register("fat", record(other, components), alias="production")
        other.calibrations.correct("fat@v2", bias=5.0)
        mine = other.predict("fat@v2", NEW, log=False, on_outlier="ignore")
        with pytest.warns(RecordingWarning):
            other.restore_archive(tmp_path / "a.zip")
        assert other.calibrations.monitor("fat", version=2).n_measurements == 0
        assert other.predict("fat@v2", NEW, log=False, on_outlier="ignore").equals(mine)
        # v1 of the archive became v3; the deleted one is v4, and the next is neither.
        assert other.measurements.list("fat")["version"].unique().to_list() == [4]
        assert other.calibrations.register("fat", recorded.second).version == 5
        assert other.check().ok
        before = (
            table(other, "measurements"),
            table(other, "corrections"),
            table(other, "calibration_retired"),
        )
        with pytest.warns(RecordingWarning, match="1 aliases"):
            other.restore_archive(tmp_path / "a.zip")
        assert before == (
            table(other, "measurements"), table(other, "corrections"), table(other, "calibration_retired")
        )  # fmt: skip
    with WorkspaceStore(tmp_path / "empty") as empty:
        empty.restore_archive(tmp_path / "a.zip")
        assert empty.measurements.list("fat")["version"].unique().to_list() == [2]
        assert empty.calibrations.register("fat", recorded.second).version == 3


def test_the_monitor_leaves_out_what_another_chain_predicted(fat: WorkspaceStore, recorded: Recorded) -> None:
    fat.calibrations.register("fat", recorded.second)
    fat.calibrations.challenge("fat", 2)
    fat.predict("fat", NEW, sample_ids=IDS, on_outlier="ignore")
    twice = 2 * len(NEW)
    assert fat.calibrations.monitor("fat").n_measurements == twice
    challengers = len(fat.calibrations.monitor("fat").challengers)
    fat._engine.change(
        lambda con: con.execute(
            "UPDATE measurements SET chain_id = ? WHERE sample_id IN ('s0', 's1') AND role = 'reported'",
            [recorded.second],
        ).fetchall()
    )
    report = fat.calibrations.monitor("fat")
    assert report.n_measurements == twice - 4
    assert logged_of(fat, "fat@v1") == twice - 4
    assert len(report.challengers) == challengers == 1


def logged_of(store: WorkspaceStore, version: str) -> object:
    """Return the number of logged predictions that the dossier of a version states."""
    part = next(
        part
        for part in store.calibrations.dossier(version, figures=False).parts
        if part.title == "In service"
    )
    return part.items[0].value


def test_a_name_alone_means_the_newest_version_with_measurements_of_its_own(
    store: WorkspaceStore, recorded: Recorded
) -> None:
    for chain in (recorded.first, recorded.second):
        store.calibrations.register("fat", chain)
        store.predict("fat@latest", NEW, sample_ids=IDS, on_outlier="ignore")
    store.references.add_many({"sample_id": IDS, "value": [10.0] * len(NEW)}, target="fat")
    store.calibrations.delete("fat@v2")
    store.calibrations.register("fat", recorded.second)
    # An archive of an older version of this library could bring such a row.
    store._engine.change(
        lambda con: con.execute(
            "UPDATE measurements SET version = 3, chain_id = ? WHERE version = 2", [recorded.first]
        ).fetchall()
    )
    report = store.calibrations.monitor("fat")
    assert (report.version, report.n_measurements) == (1, len(NEW))


def test_a_correction_made_elsewhere_comes_in_retired_and_check_finds_nothing(
    fat: WorkspaceStore, tmp_path: Path
) -> None:
    fat.archive(tmp_path / "a.zip")
    with WorkspaceStore(tmp_path / "other") as other:
        other.restore_archive(tmp_path / "a.zip")
        other.calibrations.correct("fat", bias=7.0)
        mine = other.predict("fat", NEW, log=False, on_outlier="ignore")
        fat.calibrations.correct("fat", bias=2.0)
        fat.predict("fat", NEW, sample_ids=[f"t{row}" for row in range(len(NEW))], on_outlier="ignore")
        fat.archive(tmp_path / "b.zip")
        with pytest.warns(RecordingWarning, match="1 corrections .* retired"):
            other.restore_archive(tmp_path / "b.zip")
        assert other.check().ok
        assert other.predict("fat", NEW, log=False, on_outlier="ignore").equals(mine)
        found = other.calibrations.corrections("fat")
        assert [(c.number, c.bias, c.retired_at is None) for c in found] == [
            (1, 1.0, False), (2, 7.0, True), (3, 2.0, False)
        ]  # fmt: skip


def logged(store: WorkspaceStore, days: dict[str, tuple[int, ...]]) -> None:
    """Let each calibration have been used so many days ago."""
    for name, ages in days.items():
        for age in ages:
            store.predict(name, NEW[:1], sample_ids=[f"{name}{age}"], on_outlier="ignore")
            store._engine.change(
                lambda con, name=name, age=age: con.execute(
                    "UPDATE measurements SET logged_at = logged_at - to_days(?) WHERE sample_id = ?",
                    [age, f"{name}{age}"],
                ).fetchall()
            )


@pytest.mark.parametrize(
    "policy",
    [
        keep_recent(2, on="measurement"),
        keep_recent(2, on="measurement", per="name"),
        keep_recent(2, on="measurement", per="model"),
        limit(on="measurement", max_count=2),
    ],
)
def test_retention_counts_the_days_of_each_calibration(
    store: WorkspaceStore, recorded: Recorded, policy: Rule | Limit
) -> None:
    for name, chain in (("busy", recorded.first), ("rare", recorded.second)):
        store.calibrations.register(name, chain, alias="production")
    logged(store, {"busy": (1, 2, 3, 4), "rare": (30, 60, 90)})
    assert "of each calibration" in str(store.retention.plan(policy))
    store.retention.execute(store.retention.plan(policy))
    assert set(store.measurements.list()["sample_id"]) == {"busy1", "busy2", "rare30", "rare60"}


def test_retention_deletes_nothing_that_was_logged_after_the_plan(fat: WorkspaceStore) -> None:
    plan = fat.retention.plan(limit(on="measurement", max_count=0))
    fat.predict("fat", NEW[:2], sample_ids=["later", "later still"], on_outlier="ignore")
    fat.retention.execute(plan)
    assert sorted(fat.measurements.list()["sample_id"]) == ["later", "later still"]


def test_the_command_says_that_deleted_measurements_do_not_come_back(fat: WorkspaceStore) -> None:
    folder = str(fat.workspace_path)
    fat.close()
    arguments = ["retention", "run", "--on", "measurement", "--max-count", "0", "--dry-run", "-w", folder]
    assert "cannot be undone" in invoke(*arguments).output
