"""The audit trail: what is noted, and what is found out when somebody tampers with it."""

from __future__ import annotations

import ast
import csv
import json
import os
import re
import shutil
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from storekit import begin, chain_of, segments, whole_pipeline

from nirs_store import WorkspaceStore
from nirs_store.artifacts.types import ArtifactRecord
from nirs_store.audit import trail as audit
from nirs_store.audit.trail import attempting
from nirs_store.db.changes import GENESIS, _who, entry_hash
from nirs_store.errors import InvalidInput, UnknownFormat, UnknownId
from nirs_store.ids import utcnow
from nirs_store.records.notes import note


def operations(store: WorkspaceStore, **filters: object) -> list[str]:
    return store.audit.query(**filters)["operation"].to_list()


def tamper(folder: Path, statement: str) -> None:
    with duckdb.connect(str(folder / "store.duckdb")) as con:
        con.execute(statement)


@pytest.fixture(scope="session")
def recorded(empty: Path) -> Path:
    """A workspace with six entries that nobody has open."""
    folder = Path(shutil.copytree(empty, empty.parent / "recorded"))
    with WorkspaceStore(folder) as store:
        run_id, pipeline_id = begin(store)
        store.complete_pipeline(pipeline_id, 0.5, None, "rmse", 5)
        store.tag_run(run_id, "spring")
        store.annotate_run(run_id, "as agreed")
        store.complete_run(run_id, {})
        assert store.list_runs().height == 1
    return folder


@pytest.fixture
def trail(recorded: Path, memory: Path) -> Path:
    """A copy of it, to be tampered with."""
    return Path(shutil.copytree(recorded, memory / "trail"))


# -- what is noted -----------------------------------------------------------------------------------


def test_one_entry_an_operation_and_none_a_prediction(store: WorkspaceStore) -> None:
    run_id = store.begin_run("run", {}, [])
    whole_pipeline(store, run_id, n=50)
    store.complete_run(run_id, {})
    assert operations(store) == ["begin_run", "begin_pipeline", "complete_pipeline", "complete_run"]


def test_an_entry_says_who_did_what_to_which_object_and_when(store: WorkspaceStore) -> None:
    before = utcnow()
    run_id = store.begin_run("corn", {}, [])
    (row,) = store.audit.query().to_dicts()
    assert (row["operation"], row["object_kind"], row["object_id"]) == ("begin_run", "run", run_id)
    assert row["success"] is True
    assert row["user"]
    assert row["host"]
    assert row["pid"] == os.getpid()
    assert before <= row["made_at"] <= utcnow()
    assert json.loads(row["details"]) == {"name": "corn"}


@pytest.mark.of_a_folder("it counts the commits in the journal")
def test_entries_travel_with_their_commit_and_recording_asks_nobody(
    store: WorkspaceStore, folder: Path
) -> None:
    store.begin_run("run", {}, [])
    assert len(segments(folder)) == 1  # the run, its session and the entry: one commit, not applied yet


def test_failures_are_entries_without_success(store: WorkspaceStore) -> None:
    run_id, pipeline_id = begin(store)
    store.fail_pipeline(pipeline_id, "Traceback ...\nValueError: no variance\n")
    store.fail_run(run_id, "gave up")
    failed = store.audit.query(success=False)
    assert failed["operation"].to_list() == ["fail_pipeline", "fail_run"]
    assert failed["message"].to_list() == ["ValueError: no variance", "gave up"]


def test_a_refused_attempt_stays_when_its_transaction_is_given_up(store: WorkspaceStore) -> None:
    def begin_and_complete_another() -> None:
        with store.transaction():
            store.begin_run("never", {}, [])
            store.complete_run("no-such-run", {})

    with pytest.raises(UnknownId):
        begin_and_complete_another()
    assert store.list_runs().height == 0
    assert operations(store) == ["complete_run"]
    (row,) = store.audit.query(success=False).to_dicts()
    assert row["object_id"] == "no-such-run"
    assert json.loads(row["details"]) == {"error": "unknown_id"}


def test_an_error_that_passes_two_calls_is_noted_once(store: WorkspaceStore) -> None:
    engine = store._engine
    with pytest.raises(UnknownId), attempting(engine, "outer"), attempting(engine, "inner"):
        raise UnknownId("run", "x")
    assert operations(store) == ["inner"]


@pytest.mark.takes_over
def test_what_destroys_is_noted_in_its_own_transaction(store: WorkspaceStore) -> None:
    run_id = store.begin_run("run", {}, [])
    whole_pipeline(store, run_id)
    prediction_id = store.query_predictions()["prediction_id"][0]
    store.delete_prediction(prediction_id, now=True)
    store.delete_run(run_id, now=True)
    store.gc_artifacts()
    store.vacuum()
    assert operations(store)[3:] == ["delete_prediction", "delete_run", "gc", "gc", "vacuum"]
    (row,) = store.audit.query("delete_run").to_dicts()
    assert json.loads(row["details"])["rows"]["chains"] == 1


def test_deleting_nothing_is_no_entry(store: WorkspaceStore) -> None:
    assert store.delete_run("nothing", now=True) == 0
    assert store.delete_prediction("nothing", now=True) is False
    assert operations(store) == []


@pytest.mark.not_on("objects", "replicas", why="each store object commits before the next is asked")
def test_an_export_commits_what_was_recorded_but_not_the_entry_that_another_export_left(
    store: WorkspaceStore, folder: Path, tmp_path: Path
) -> None:
    _, pipeline_id = begin(store)
    chain_id = chain_of(store, pipeline_id, store.save_artifact({"a": 1}, "builtins.dict", "model", "joblib"))
    store.flush()
    for number in range(3):
        store.export_chain(chain_id, tmp_path / f"{number}.n4a")
    with WorkspaceStore(folder) as other:
        assert "export_chain" not in operations(other)
    store.log_step(pipeline_id, 0, None, "start", None, None, None)
    store.export_chain(chain_id, tmp_path / "last.n4a")
    with WorkspaceStore(folder) as other:
        assert operations(other).count("export_chain") == 3
        assert other.get_pipeline_log(pipeline_id).height == 1
    assert operations(store).count("export_chain") == 4


def test_purging_exporting_and_importing_are_noted(store: WorkspaceStore, tmp_path: Path) -> None:
    _, pipeline_id = begin(store)
    model = store.save_artifact({"a": 1}, "builtins.dict", "model", "joblib")
    chain_id = chain_of(store, pipeline_id, model)
    store.complete_pipeline(pipeline_id, 0.5, None, "rmse", 5)
    path = store.export_chain(chain_id, tmp_path / "m.n4a")
    found = store.import_bundle(path, allow_pickle=True)
    store.artifacts.delete_pipeline_artifacts(pipeline_id)
    assert {"export_chain", "import_bundle", "purge_artifacts"} <= set(operations(store))
    (row,) = store.audit.query(object_kind="bundle", object_id=found.content_hash).to_dicts()
    assert json.loads(row["details"])["chain_id"] == found.chain_id
    with pytest.raises(Exception, match="pickle"):
        store.import_bundle(path)
    assert operations(store, success=False) == ["import_bundle"]


def test_a_store_that_dies_leaves_the_entries_of_what_it_committed(folder: Path) -> None:
    dying = WorkspaceStore(folder)
    dying.begin_run("a", {}, [])
    dying._engine.abort()
    with WorkspaceStore(folder) as store:
        assert operations(store) == ["begin_run"]
        assert store.audit.verify().ok


@pytest.mark.everywhere
def test_entries_of_several_stores_are_one_chain(folder: Path) -> None:
    with WorkspaceStore(folder) as one, WorkspaceStore(folder) as other:
        for number in range(5):
            (one if number % 2 else other).begin_run(str(number), {}, [])
        rows = one.audit.query().to_dicts()
        assert [row["number"] for row in rows] == [1, 2, 3, 4, 5]
        assert [row["previous_hash"] for row in rows] == [GENESIS, *(row["entry_hash"] for row in rows[:-1])]
        assert other.audit.verify().ok


# -- switching it off ----------------------------------------------------------------------------------


def test_a_store_can_be_opened_without_the_trail(folder: Path) -> None:
    with WorkspaceStore(folder, audit=False) as store:
        run_id, _ = begin(store)
        store.complete_run(run_id, {})
        with pytest.raises(UnknownId):
            store.tag_run("nothing", "x")
        assert not store.audit.enabled
        assert operations(store) == []


def test_switching_off_holds_for_every_store_and_both_are_noted(folder: Path) -> None:
    with WorkspaceStore(folder) as store, WorkspaceStore(folder) as other:
        store.audit.switch(False)
        other.begin_run("unseen", {}, [])
        assert not other.audit.enabled
        other.audit.switch(True)
        store.begin_run("seen", {}, [])
        assert operations(store) == ["switch_audit", "switch_audit", "begin_run"]
        assert store.audit.verify().ok


def test_entries_that_were_under_way_when_it_was_switched_off_are_kept(store: WorkspaceStore) -> None:
    store.begin_run("before", {}, [])
    store.audit.switch(False)
    assert operations(store) == ["begin_run", "switch_audit"]


# -- asking --------------------------------------------------------------------------------------------


def test_entries_are_found_by_operation_success_time_object_and_user(store: WorkspaceStore) -> None:
    run_id, pipeline_id = begin(store)
    store.fail_pipeline(pipeline_id, "no")
    now = utcnow()
    assert operations(store, operation=["begin_run", "fail_pipeline"]) == ["begin_run", "fail_pipeline"]
    assert operations(store, success=True) == ["begin_run", "begin_pipeline"]
    assert operations(store, object_kind="pipeline") == ["begin_pipeline", "fail_pipeline"]
    assert operations(store, object_id=run_id) == ["begin_run"]
    assert operations(store, since=now) == []
    assert operations(store, until=now - timedelta(hours=1)) == []
    assert len(operations(store, since=(now - timedelta(hours=1)).isoformat(), until=now)) == 3
    assert operations(store, limit=1, newest_first=True) == ["fail_pipeline"]
    assert operations(store, user="nobody-of-that-name") == []


def test_unknown_kinds_and_moments_are_refused_with_the_nearest(store: WorkspaceStore) -> None:
    with pytest.raises(InvalidInput, match="'chain'"):
        store.audit.query(object_kind="chian")
    with pytest.raises(InvalidInput, match="since"):
        store.audit.query(since="yesterday")


def test_the_history_of_a_chain_tells_of_its_pipeline_and_run(store: WorkspaceStore) -> None:
    run_id, pipeline_id = begin(store)
    chain_id = chain_of(store, pipeline_id)
    store.begin_run("another", {}, [])
    note(store._engine, "look_at", "chain", chain_id, details={"by": "hand"})
    assert store.audit.history("chain", chain_id)["operation"].to_list() == [
        "begin_run",
        "begin_pipeline",
        "look_at",
    ]
    assert store.audit.history("chain", chain_id, related=False)["operation"].to_list() == ["look_at"]
    assert store.audit.history("run", run_id)["object_id"].unique().to_list() == [run_id]


# -- handing out ---------------------------------------------------------------------------------------


def test_an_export_holds_every_entry_with_hashes_that_can_be_verified(
    store: WorkspaceStore, tmp_path: Path
) -> None:
    begin(store)
    (path,) = store.audit.export(tmp_path / "trail.json")
    exported = json.loads(path.read_text())
    assert exported["head"] == {
        "number": 2,
        "entry_hash": exported["entries"][-1]["entry_hash"],
    }
    assert [entry["operation"] for entry in exported["entries"]] == ["begin_run", "begin_pipeline"]
    assert operations(store)[-1] == "export_audit"


def test_json_lines_are_a_file_a_month(store: WorkspaceStore, tmp_path: Path) -> None:
    begin(store)
    store._engine.change(
        lambda con: con.execute("UPDATE audit_entries SET made_at = '2026-01-31' WHERE number = 2")
    )
    written = store.audit.export(tmp_path / "trail", "jsonl")
    this_month = f"audit_{utcnow():%Y%m}.jsonl"
    assert [path.name for path in written] == ["audit_202601.jsonl", this_month]
    assert all(re.fullmatch(r"audit_\d{6}\.jsonl", path.name) for path in written)
    (line,) = written[0].read_text().splitlines()
    assert json.loads(line)["number"] == 2


def test_csv_has_a_row_an_entry_and_a_head_even_without_entries(
    store: WorkspaceStore, tmp_path: Path
) -> None:
    begin(store)
    (path,) = store.audit.export(tmp_path / "trail.csv", "csv")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["operation"] for row in rows] == ["begin_run", "begin_pipeline"]
    assert json.loads(rows[0]["details"]) == {"name": "run"}
    (path,) = store.audit.export(tmp_path / "none.csv", "csv", since=utcnow())
    assert path.read_text().startswith("number,made_at,user")
    assert len(path.read_text().splitlines()) == 1


def test_an_export_that_is_refused_writes_nothing_and_is_noted(store: WorkspaceStore, tmp_path: Path) -> None:
    with pytest.raises(UnknownFormat, match="'jsonl'"):
        store.audit.export(tmp_path / "x", "jsonll")
    with pytest.raises(InvalidInput, match="is a folder"):
        store.audit.export(tmp_path, "csv")
    assert operations(store, success=False) == ["export_audit", "export_audit"]
    assert not (tmp_path / "x").exists()


# -- verifying -----------------------------------------------------------------------------------------


def test_a_whole_trail_passes_and_so_does_check(trail: Path) -> None:
    with WorkspaceStore(trail) as store:
        report = store.audit.verify()
        assert report.ok
        assert (report.entries, report.head.number) == (6, 6)
        assert "6 entries" in str(report)
        assert store.check().ok


@pytest.mark.parametrize(
    ("statement", "number", "words"),
    [
        ("UPDATE audit_entries SET user_name = 'somebody' WHERE number = 3", 3, "altered"),
        ("UPDATE audit_entries SET success = NOT success WHERE number = 3", 3, "altered"),
        ("UPDATE audit_entries SET details = '{}' WHERE number = 1", 1, "altered"),
        (
            "UPDATE audit_entries SET made_at = made_at + INTERVAL 1 MICROSECOND WHERE number = 6",
            6,
            "altered",
        ),
        ("DELETE FROM audit_entries WHERE number = 2", 2, "missing"),
        ("DELETE FROM audit_entries WHERE number IN (1, 2)", 1, "missing: number 1 to 2"),
        ("INSERT INTO audit_entries SELECT * FROM audit_entries WHERE number = 4", 4, "twice"),
    ],
)
def test_what_was_altered_or_removed_is_found(trail: Path, statement: str, number: int, words: str) -> None:
    tamper(trail, statement)
    with WorkspaceStore(trail) as store:
        report = store.audit.verify()
        assert not report.ok
        assert report.breaks[0].number == number
        assert words in report.breaks[0].reason
        (finding, *_) = store.check().of_kind("audit_broken")
        assert finding.severity == "error"
        assert finding.where == f"audit_entries/{number}"


def test_an_entry_that_was_replaced_with_its_hash_is_found_by_the_next_one(trail: Path) -> None:
    with WorkspaceStore(trail) as store:
        names = "number, made_at, user_name, host, pid, operation, object_kind, object_id, success, message, details"
        row = store._engine.query(
            lambda con: con.execute(
                f"SELECT {names}, previous_hash FROM audit_entries WHERE number = 3"
            ).fetchall()
        )[0]
    forged = dict(zip([*names.split(", "), "previous_hash"], row, strict=True)) | {"user_name": "somebody"}
    tamper(
        trail,
        f"UPDATE audit_entries SET user_name = 'somebody', entry_hash = '{entry_hash(forged)}' WHERE number = 3",
    )
    with WorkspaceStore(trail) as store:
        (found,) = store.audit.verify().breaks
    assert found.number == 4
    assert "replaced" in found.reason


def test_a_tail_missing_since_the_last_head_is_found(trail: Path) -> None:
    with WorkspaceStore(trail) as store:
        store.audit.head()
    tamper(trail, "DELETE FROM audit_entries WHERE number > 4")
    with WorkspaceStore(trail) as store:
        (found,) = store.audit.verify().breaks
        assert "trail ends at 4" in found.reason
        assert not store.check().ok
        store.begin_run("goes on", {}, [])
        store.begin_run("and on", {}, [])
        assert "exported" in store.audit.verify().breaks[0].reason  # other entries have the numbers now


def test_a_head_that_was_kept_elsewhere_finds_what_the_workspace_forgot(trail: Path) -> None:
    with WorkspaceStore(trail) as store:
        head = store.audit.head()
    (trail / "journal" / "audit-head.json").unlink()
    tamper(trail, "DELETE FROM audit_entries WHERE number > 4")
    with WorkspaceStore(trail) as store:
        assert store.audit.verify().ok
        assert not store.audit.verify(head).ok
        assert not store.audit.verify({"number": 6, "entry_hash": head.entry_hash}).ok
        with pytest.raises(InvalidInput, match="head"):
            store.audit.verify("6")


def test_a_read_only_store_verifies_and_asks_and_notes_nothing(trail: Path) -> None:
    with WorkspaceStore(trail, read_only=True) as store:
        assert store.audit.verify().ok
        assert len(store.audit.query()) == 6
        with pytest.raises(PermissionError):
            store.begin_run("x", {}, [])
    with WorkspaceStore(trail) as store:
        assert len(store.audit.query()) == 6


def test_names_of_the_system_that_are_no_text_hinder_nobody(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: os.fsdecode(b"Jos\xe9"))
    monkeypatch.setattr("socket.gethostname", lambda: os.fsdecode(b"labor-\xfc"))
    _who.cache_clear()
    try:
        with WorkspaceStore(folder) as store:
            store.begin_run("corn", {}, [])
            (entry,) = store.audit.query("begin_run").to_dicts()
            assert (entry["user"], entry["host"]) == ("Jos\\udce9", "labor-\\udcfc")
            assert store.audit.verify().ok
    finally:
        _who.cache_clear()


# -- what a verification could not look at, and operations that do not exist ------------------------------------


@pytest.mark.not_on("replicas", why="each computer keeps the head that it saw last")
def test_a_verification_says_which_heads_it_was_compared_with(store: WorkspaceStore) -> None:
    store.delete_run(store.begin_run("a", {}, []), now=True)
    report = store.audit.verify()
    assert (report.ok, report.kept_head, report.outside_head) == (True, False, False)
    assert "No kept head was there" in str(report)
    head = store.audit.head()
    report = store.audit.verify()
    assert (report.kept_head, report.outside_head) == (True, False)
    assert "only one kept elsewhere" in str(report)
    assert "compared with a head kept elsewhere" in str(store.audit.verify(head))
    assert store.audit.verify(head).to_dict()["outside_head"]
    store._engine.change(lambda con: con.execute("DELETE FROM audit_entries WHERE number = ?", [head.number]))
    store._engine.layout.audit_head.unlink()
    assert "No kept head was there" in str(store.audit.verify())
    assert not store.audit.verify(head).ok


@pytest.mark.parametrize(
    ("operation", "nearest"),
    [("begin_runs", "begin_run"), (["put", "artefact_save"], None), ("Delete_Run", "delete_run"), ("", None)],
)
def test_an_unknown_operation_is_refused_with_the_nearest(
    store: WorkspaceStore, operation: Any, nearest: str | None
) -> None:
    with pytest.raises(InvalidInput, match=f"mean {nearest!r}" if nearest else "there is none called"):
        store.audit.query(operation)


def test_what_another_version_noted_can_be_asked_for(store: WorkspaceStore) -> None:
    store.delete_run(store.begin_run("a", {}, []), now=True)
    store._engine.change(
        lambda con: con.execute("UPDATE audit_entries SET operation = 'teleport' WHERE number = 1")
    )
    assert store.audit.query("teleport").height == 1


def test_every_operation_that_is_noted_can_be_asked_for() -> None:
    places = {
        "note": 1,
        "attempting": 1,
        "attempted": 0,
        "guarded": 1,
        "store_setting": 3,
        "note_versions": 1,
    }
    places |= {"_remove": 0, "_put_all": 1, "_crowning": 0}
    noted = set()
    for path in Path(audit.__file__).parents[1].rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call):
                name = getattr(call.func, "attr", getattr(call.func, "id", ""))
                place = places.get(name, 99)
                given = call.args[place] if len(call.args) > place else None
                noted |= {given.value} if isinstance(given, ast.Constant) else set()
    assert len(noted) > 30
    assert noted - {None} <= set(audit.OPERATIONS)


def test_the_pages_list_all_operations_and_all_keys_of_a_manifest() -> None:
    pages = Path(__file__).parents[2] / "docs" / "guide"
    history, artifacts = (
        (pages / f"{name}.md").read_text(encoding="utf-8") for name in ("history", "artifacts")
    )
    assert [name for name in audit.OPERATIONS if f"`{name}`" not in history] == []
    assert [item.name for item in fields(ArtifactRecord) if f"`{item.name}`" not in artifacts] == []
