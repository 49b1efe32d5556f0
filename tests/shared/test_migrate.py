"""A shared workspace goes to the next version of the schema: once, whole, on every replica, and the old are refused."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest
from storekit import begin, whole_pipeline

from nirs_store.db.table import digests
from nirs_store.errors import SchemaTooNew
from nirs_store.store import WorkspaceStore

# A library with a schema version more: a column of runs, filled from what is there.
NEWER = """
import json, os, sys
import nirs_store.db.schema as schema
schema.SCHEMA_VERSION = 7
table = schema.TABLES["runs"]
column = next(c for c in table.columns if c.name == "note")._replace(name="colour")
newer = table._replace(columns=(*table.columns, column))
schema.TABLES["runs"] = schema.SEGMENT_TABLES["runs"] = newer
schema.ADDED_COLUMNS["runs"] |= {"colour"}
import nirs_store.db.migrations as migrations
STEP = "ALTER TABLE runs ADD COLUMN colour VARCHAR; UPDATE runs SET colour = 'red like ' || name"
migrations.MIGRATIONS += (migrations.Migration(7, "colours of runs", lambda con: con.execute(STEP)),)
from nirs_store.db.table import digests
from nirs_store.errors import MigrationNeeded
from nirs_store.shared import log, migrating
from nirs_store.shared.address import parse
from nirs_store.db.session import Settings
from nirs_store.store import WorkspaceStore
from pathlib import Path
place, folder = sys.argv[1:3]
def address(name):
    return f"{place}&replica={folder}/{name}"
def migrate(name, dry_run=False):
    return migrating.migrate(Settings(Path(), shared=parse(address(name)), create=False), dry_run=dry_run)
def look(name):
    with WorkspaceStore(address(name), create=False) as store:
        return store._engine.query(digests), store.sql("SELECT colour FROM runs ORDER BY name")["colour"].to_list()
"""


def newer(code: str, place: str, folder: Path) -> Any:
    """Run code in a process with the newer library; gives the JSON that it printed last."""
    done = subprocess.run(
        [sys.executable, "-c", NEWER + code, place, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 9), done.stderr
    return json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else done.returncode


@pytest.fixture
def lab(database: str, tmp_path: Path) -> tuple[str, Path]:
    """The address of a workspace without its replica, and the folder of replicas."""
    place = f"{database}?workspace=corn&patience=20"
    with WorkspaceStore(f"{place}&replica={tmp_path / 'one'}", blobs=(tmp_path / "blobs").as_uri()) as store:
        run_id, _ = begin(store, "a")
        whole_pipeline(store, run_id)
        store.list_runs()
    with WorkspaceStore(f"{place}&replica={tmp_path / 'behind'}") as store:
        store.list_runs()
    with WorkspaceStore(f"{place}&replica={tmp_path / 'one'}") as store:
        begin(store, "b")
        store.delete_run(begin(store, "gone")[0])
        store.list_runs()
    return place, tmp_path


def state(database: str) -> Any:
    with psycopg.connect(database) as con:
        sql = (
            "SELECT schema_version, head, (SELECT count(*) FROM nirs_store.log WHERE kind = 'migrate'), "
            "(SELECT count(*) FROM nirs_store.log) FROM nirs_store.workspaces"
        )
        return con.execute(sql).fetchone()


def test_every_replica_runs_the_step_when_it_meets_it_and_an_older_library_is_refused(
    lab: tuple[str, Path], database: str
) -> None:
    place, folder = lab
    old = WorkspaceStore(f"{place}&replica={folder / 'old'}")
    old.list_runs()
    version, head, *_ = state(database)
    planned = newer(
        """
try:
    WorkspaceStore(address("one"))
except MigrationNeeded as error:
    assert "shared migrate" in str(error)
    plan = migrate("one", dry_run=True)
    print(json.dumps([plan.from_version, plan.to_version, plan.steps, plan.snapshot]))
""",
        place,
        folder,
    )
    assert planned == [6, 7, ["colours of runs"], None]
    assert state(database)[:2] == (version, head)
    found = newer(
        """
done = migrate("one")
assert done.snapshot == HEAD, done
again = migrate("one")
assert again.steps == () and again.snapshot is None
with WorkspaceStore(address("behind")) as store:
    store.begin_run("c", {}, [])
looks = [look(name) for name in ("behind", "one", "new")]
with WorkspaceStore(address("new")) as store:
    assert store.audit.verify().ok
    assert store.check(read_data=True).errors == (), store.check(read_data=True)
print(json.dumps(looks))
""".replace("HEAD", str(head)),
        place,
        folder,
    )
    assert found[0] == found[1] == found[2]
    assert found[0][1] == ["red like a", "red like b", None]
    assert state(database)[:3] == (7, state(database)[1], 1)
    # The older library: at a question, at a commit, at a change, and at opening.
    before = state(database), (folder / "old" / "store.duckdb").read_bytes()
    with pytest.raises(SchemaTooNew, match="Upgrade"):
        old.list_runs()
    with pytest.raises(SchemaTooNew, match="Upgrade"):
        old.begin_run("late", {}, [])
    with pytest.raises(SchemaTooNew, match="Upgrade"):
        WorkspaceStore(f"{place}&replica={folder / 'other'}")
    old._engine.abort()
    assert (state(database), (folder / "old" / "store.duckdb").read_bytes()) == before


@pytest.mark.slow
def test_what_was_acknowledged_while_recorders_were_at_work_is_there_on_every_replica(
    lab: tuple[str, Path], database: str
) -> None:
    place, folder = lab
    said: list[str] = []
    refused: list[str] = []

    def record(name: str) -> None:
        store = WorkspaceStore(f"{place}&replica={folder / name}")
        try:
            for number in range(100_000):
                store.begin_run(f"{name} {number}", {}, [])
                store.flush()
                said.append(f"{name} {number}")
                if number % 7 == 0:
                    store.list_runs(limit=1)
        except SchemaTooNew:
            refused.append(name)
        finally:
            store._engine.abort()

    threads = [threading.Thread(target=record, args=(name,)) for name in ("red", "blue")]
    for thread in threads:
        thread.start()
    found = newer(
        """
migrate("one")
print(json.dumps([look(name) for name in ("red", "one", "behind", "new")]))
""",
        place,
        folder,
    )
    for thread in threads:
        thread.join(60)
    assert sorted(refused) == ["blue", "red"]
    assert found[0] == found[1] == found[2] == found[3]
    colours = found[0][1]
    assert sorted(colours) == sorted(f"red like {name}" for name in (*said, "a", "b"))


POINTS = {
    "before anything": "log._SharedChange.migrate = lambda *_: os._exit(9)",
    "after the step": "log._SharedChange.commit = lambda *_: os._exit(9)",
    "before the commit": "log.write_position = lambda *_: os._exit(9)",
    "after the commit": "log._SharedChange.end = lambda *_: os._exit(9)",
    "between the commits": """
real = log._SharedChange.commit
def commit(self, con):
    real(self, con)
    os._exit(9)
log._SharedChange.commit = commit
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_a_migration_that_is_killed_is_whole_or_was_not_begun(
    lab: tuple[str, Path], database: str, point: str
) -> None:
    place, folder = lab
    _, head, _, rows = state(database)
    newer(f'{POINTS[point]}\nmigrate("one")', place, folder)
    whole = point in ("after the commit", "between the commits")
    assert state(database) == ((7, head + 1, 1, rows + 1) if whole else (6, head, 0, rows))
    if not whole:
        with WorkspaceStore(f"{place}&replica={folder / 'one'}") as store:
            assert store.list_runs().height == 2
            store.begin_run("c", {}, [])
    found = newer(
        'migrate("one")\nprint(json.dumps([look(name) for name in ("one", "behind", "new")]))', place, folder
    )
    assert found[0] == found[1] == found[2]
    assert found[0][1][:2] == ["red like a", "red like b"]
    assert state(database)[2] == 1


def test_a_step_that_fails_changes_nothing(lab: tuple[str, Path], database: str) -> None:
    place, folder = lab
    before = state(database)
    with WorkspaceStore(f"{place}&replica={folder / 'one'}") as store:
        rows = store._engine.query(digests)
    said = newer(
        """
def step(con):
    con.execute("UPDATE runs SET name = 'gone'")
    con.execute("SELECT no_such_thing FROM runs")
migrations.MIGRATIONS = (*migrations.MIGRATIONS[:-1], migrations.Migration(7, "fails", step))
try:
    migrate("one")
except Exception as error:
    print(json.dumps(type(error).__name__))
""",
        place,
        folder,
    )
    assert said != "AssertionError"
    assert state(database) == before
    with WorkspaceStore(f"{place}&replica={folder / 'one'}") as store:
        assert store._engine.query(digests) == rows
