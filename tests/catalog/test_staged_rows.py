"""Arrow rows as a table of one connection, and the statements that it knows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from storekit import Counting, begin, commit_rows, whole_pipeline

import nirs_store
from nirs_store.db import database as access
from nirs_store.db import sql as statements
from nirs_store.db.schema import column_names
from nirs_store.db.sql import StagedRows, execute, incoming, parsed
from nirs_store.store import WorkspaceStore

PACKAGE = Path(nirs_store.__file__).parent
INSERT = "INSERT INTO things SELECT a FROM arriving"
FIND = "SELECT a FROM things WHERE a IN (SELECT a FROM arriving) ORDER BY a"


@pytest.fixture
def con() -> Any:
    con = Counting(duckdb.connect())
    con.con.execute("CREATE TABLE things (a BIGINT)")
    return con


def test_a_statement_sees_the_rows_and_the_columns_of_the_moment(con: Any) -> None:
    arriving = StagedRows()
    arriving.register(con)
    for values in ([1], [2, 3], [], list(range(4, 3000))):
        arriving.rows = pa.table({"a": pa.array(values, pa.int64())})
        execute(con.con, INSERT)
        assert [row[0] for row in execute(con.con, FIND).fetchall()] == values
    for kind in (pa.int8(), pa.string(), pa.int64()):
        arriving.rows = pa.table({"a": pa.array(["7"], pa.string()).cast(kind)})
        execute(con.con, INSERT)
    assert con.con.execute("SELECT count(*), max(a) FROM things").fetchall() == [(3002, 2999)]
    arriving.clear()
    assert arriving.rows.num_rows == 0


def test_a_transaction_that_is_taken_back_does_not_take_the_name(con: Any) -> None:
    arriving = StagedRows()
    arriving.register(con)
    arriving.rows = pa.table({"a": [1]})
    for ending in ("ROLLBACK", "ROLLBACK", "COMMIT", "ROLLBACK", "COMMIT"):
        con.execute("BEGIN")
        execute(con.con, INSERT)
        con.execute(ending)
    con.execute("BEGIN")
    with pytest.raises(duckdb.ConversionException):
        con.execute("INSERT INTO things VALUES ('x')")
    con.execute("ROLLBACK")
    execute(con.con, INSERT)
    assert con.execute("SELECT count(*) FROM things").fetchall() == [(3,)]


def test_a_table_that_was_altered_meanwhile_is_taken_as_it_is_now(con: Any) -> None:
    arriving = StagedRows()
    arriving.register(con)
    arriving.rows = pa.table({"a": [5]})
    for _ in range(3):
        execute(con.con, "INSERT INTO things (a) SELECT a FROM arriving")
    con.con.execute("ALTER TABLE things ADD COLUMN b VARCHAR DEFAULT 'new'")
    execute(con.con, "INSERT INTO things (a) SELECT a FROM arriving")
    assert con.con.execute("SELECT a, b FROM things").fetchall() == [(5, "new")] * 4


def test_nothing_of_this_library_runs_while_duckdb_reads_the_rows(con: Any) -> None:
    """Ctrl-C there would come out as an error of the statement, and the commit would be set aside for it."""
    arriving = StagedRows()
    arriving.register(con)
    arriving.rows = pa.table({"a": [1, 2]})
    entered: list[str] = []
    before = sys.gettrace()
    sys.settrace(lambda frame, event, _: entered.append(frame.f_code.co_filename))
    try:
        con.con.execute(INSERT)
        con.con.execute(f"PREPARE again AS {FIND}")
        found = con.con.execute("EXECUTE again").fetchall()
    finally:
        sys.settrace(before)
    assert found == [(1,), (2,)]
    assert [file for file in entered if Path(file).is_relative_to(PACKAGE)] == []


def test_a_name_for_one_block_is_taken_back_at_its_end(con: Any) -> None:
    with incoming(con) as rows:
        rows.rows = pa.table({"a": [1]})
        execute(con.con, f"INSERT INTO things SELECT a FROM {rows.name}")
    with pytest.raises(duckdb.Error, match="incoming"):
        con.con.execute("SELECT * FROM incoming")


def test_pipelines_that_are_asked_for_one_by_one_are_all_there_also_around_a_commit_that_is_set_aside(
    store: WorkspaceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "LINGER", 600.0)
    run_id = begin(store)[0]
    for number in range(5):
        pipeline_id = whole_pipeline(store, run_id, f"p{number}")
        if number == 3:
            commit_rows(folder, {"runs": [tuple(None for _ in column_names("runs"))]})
            with pytest.warns(UserWarning, match="could not be applied"):
                store.list_runs()
        found = store.query_predictions(pipeline_id=pipeline_id)
        assert found.height == 2
        arrays = store.get_prediction_arrays(found["prediction_id"].to_list())
        assert all(arrays[i]["y_true"] is not None for i in found["prediction_id"])
    arriving = store._engine.access._arriving
    assert arriving.rows.num_rows == 0  # not kept in memory while nobody asks
    assert store.query_predictions().height == 10
    assert [finding.kind for finding in store.check().findings] == ["segment_rejected"]


# -- Statements that are kept parsed.


def test_a_text_is_parsed_once_and_means_what_is_there_when_it_runs() -> None:
    con, other = duckdb.connect(), duckdb.connect()
    sql = "SELECT * FROM things WHERE a > ?"
    con.execute("CREATE TABLE things (a INTEGER)")
    other.execute("CREATE TABLE things (a VARCHAR, b INTEGER)")
    con.execute("INSERT INTO things VALUES (1), (2)")
    assert execute(con, sql, [1]).fetchall() == [(2,)]
    assert execute(con, sql, [0]).fetchall() == [(1,), (2,)]
    assert execute(other, sql, ["x"]).fetchall() == []
    con.execute("DROP TABLE things")
    with pytest.raises(duckdb.CatalogException, match="things"):
        execute(con, sql, [1])
    assert parsed(con, sql) is parsed(other, sql)


def test_two_statements_are_not_one() -> None:
    with pytest.raises(ValueError, match="too many"):
        execute(duckdb.connect(), "SELECT 1; SELECT 2")


def test_not_all_texts_that_ever_were_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements, "_MOST", 3)
    monkeypatch.setattr(statements, "_parsed", {})
    con = duckdb.connect()
    for number in range(10):
        assert execute(con, f"SELECT {number}").fetchall() == [(number,)]
        assert len(statements._parsed) <= 3
