"""SQL from a person: one SELECT runs, anything else is refused and the store works on."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from datetime import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest

from nirs_store import WorkspaceStore
from nirs_store.errors import InvalidInput, StoreBusy, StoreClosed
from nirs_store.records import user_sql as people_sql

# A replacement scan would find these: one in the module that asks, one where the query runs.
here = pl.DataFrame({"secret": [1]})
people_sql_global = pl.DataFrame({"secret": [2]})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="module")
def store(folder: Path) -> Iterator[WorkspaceStore]:
    with WorkspaceStore(folder) as opened:
        with opened.run("corn", datasets=["corn"]) as run, run.pipeline("pls", dataset_name="corn") as p:
            p.complete(best_val=0.5, metric="rmse")
        yield opened


@pytest.fixture
def writable(store: WorkspaceStore) -> Iterator[WorkspaceStore]:
    """The store just after a commit, so that its connection can write; it must be whole afterwards."""
    before = store.list_runs().drop("summary")
    store.flush()
    with store.run("passing"):
        pass
    extra = store.list_runs()["run_id"][0]
    store.delete_run(extra, now=True)
    yield store
    assert store.list_runs().drop("summary").equals(before)
    with store.run("still records"):
        pass
    store.delete_run(store.list_runs()["run_id"][0], now=True)


def test_a_select_gives_a_frame(store: WorkspaceStore) -> None:
    found = store.sql("SELECT name, status FROM runs")
    assert found.rows() == [("corn", "completed")]
    joined = store.sql(
        "WITH p AS (SELECT * FROM pipelines) SELECT r.name, p.best_val FROM runs r JOIN p USING (run_id);"
    )
    assert joined.rows() == [("corn", 0.5)]
    for query in ("FROM runs", "VALUES (1), (2)", "SHOW TABLES", "DESCRIBE runs", "SUMMARIZE pipelines"):
        assert store.sql(query).height >= 1, query


def test_no_rows_still_have_their_columns(store: WorkspaceStore) -> None:
    assert store.sql("SELECT name, created_at FROM runs WHERE FALSE").columns == ["name", "created_at"]


def test_times_are_utc_as_in_all_other_answers(store: WorkspaceStore) -> None:
    found = store.sql("SELECT run_id, created_at FROM runs")
    assert found.equals(store.list_runs().select("run_id", "created_at"))


def test_it_sees_what_was_recorded_a_moment_ago(store: WorkspaceStore) -> None:
    pipeline_id = store.list_pipelines()["pipeline_id"][0]
    store.log_step(pipeline_id, 0, "SNV", "note", message="buffered")
    assert store.sql("SELECT message FROM logs WHERE event = 'note'").rows() == [("buffered",)]


# -- parameters ----------------------------------------------------------------------------------------


def test_parameters_are_bound_and_never_part_of_the_text(store: WorkspaceStore) -> None:
    nasty = "corn'; DROP TABLE runs; --"
    assert store.sql("SELECT ? AS a, ? AS b", [nasty, None]).rows() == [(nasty, None)]
    assert store.sql("SELECT $name AS a", {"name": nasty}).rows() == [(nasty,)]
    assert store.sql("SELECT name FROM runs WHERE name = ?", (nasty,)).height == 0
    assert store.sql("SELECT name FROM runs WHERE name = $n", {"n": "corn"}).height == 1
    assert store.sql("SELECT ? + 1 AS a", [np.float64(1.5)]).rows() == [(2.5,)]


@pytest.mark.parametrize(
    ("query", "params"),
    [
        ("SELECT ?", None),
        ("SELECT ?", []),
        ("SELECT ?, ?", [1]),
        ("SELECT 1", [1]),
        ("SELECT $a", {"b": 1}),
        ("SELECT ?", [object()]),
        ("SELECT ?", 5),
        ("SELECT ?", "x"),
        ("SELECT ?", {1}),
    ],
)
def test_parameters_that_do_not_fit_are_refused(store: WorkspaceStore, query: str, params: Any) -> None:
    with pytest.raises(InvalidInput):
        store.sql(query, params)
    assert store.sql("SELECT 1 AS one").rows() == [(1,)]


# -- what is refused -----------------------------------------------------------------------------------

STATEMENTS = [
    "CREATE TABLE mine (a INTEGER)",
    "CREATE TEMP TABLE mine AS SELECT 1",
    "CREATE OR REPLACE VIEW runs AS SELECT 1",
    "CREATE MACRO m(a) AS a",
    "DROP TABLE runs",
    "ALTER TABLE runs ADD COLUMN mine INTEGER",
    "COMMENT ON TABLE runs IS 'mine'",
    "INSERT INTO runs SELECT * FROM runs",
    "UPDATE runs SET name = 'mine'",
    "DELETE FROM runs",
    "TRUNCATE runs",
    "MERGE INTO runs USING runs r ON FALSE WHEN NOT MATCHED THEN INSERT VALUES (1)",
    "COPY runs TO '{file}'",
    "COPY (SELECT 1) TO '{file}'",
    "COPY runs FROM '{file}'",
    "EXPORT DATABASE '{file}'",
    "IMPORT DATABASE '{file}'",
    "ATTACH '{file}' AS other",
    "DETACH store",
    "USE memory",
    "PRAGMA table_info('runs')",
    "PRAGMA database_list",
    "SET threads = 1",
    "SET enable_external_access = true",
    "RESET threads",
    "CALL pragma_version()",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "CHECKPOINT",
    "VACUUM",
    "ANALYZE",
    "INSTALL httpfs",
    "LOAD httpfs",
    "UPDATE EXTENSIONS",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "DEALLOCATE p",
    "EXPLAIN SELECT 1",
    "EXPLAIN ANALYZE DELETE FROM runs",
]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_statement_that_is_no_select_is_refused_before_it_runs(
    store: WorkspaceStore, tmp_path: Path, statement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(people_sql, "select", lambda *_: pytest.fail("it ran"))
    target = tmp_path / "out"
    with pytest.raises(InvalidInput, match="expected a SELECT statement, found"):
        store.sql(statement.format(file=target))
    assert not target.exists()


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1; SELECT 2",
        "SELECT 1; DROP TABLE runs",
        "COMMIT; DROP TABLE runs",
        "ROLLBACK; DELETE FROM runs; BEGIN",
        "SELECT 1 /* ; */; -- ;\nDELETE FROM runs",
        "SELECT 1\x00; DROP TABLE runs",
    ],
)
def test_two_statements_are_refused_before_any_of_them_runs(store: WorkspaceStore, query: str) -> None:
    with pytest.raises(InvalidInput, match=r"exactly one SELECT statement, found [23] statements"):
        store.sql(query)
    assert store.sql("SELECT count(*) FROM runs").item() == 1


@pytest.mark.parametrize("query", ["", "  ", None, 5, "SELECT '\ud800'", b"SELECT 1"])
def test_something_that_is_no_text_is_refused(store: WorkspaceStore, query: Any) -> None:
    with pytest.raises(InvalidInput, match="expected the text of one SELECT"):
        store.sql(query)


@pytest.mark.parametrize("query", [";", "-- a comment", "SELEC 1", "SELECT FROM WHERE", "SELECT 'open"])
def test_what_cannot_be_parsed_is_refused(store: WorkspaceStore, query: str) -> None:
    with pytest.raises(InvalidInput, match="query: "):
        store.sql(query)


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM runs RETURNING run_id",
        "UPDATE runs SET name = 'mine' RETURNING run_id",
        "INSERT INTO runs SELECT * REPLACE (uuid()::VARCHAR AS run_id) FROM runs RETURNING run_id",
    ],
)
def test_a_change_hidden_in_a_select_is_refused(writable: WorkspaceStore, change: str) -> None:
    with pytest.raises(InvalidInput, match="changes the store is refused"):
        writable.sql(f"WITH hidden AS ({change}) SELECT * FROM hidden")


@pytest.mark.parametrize(
    "source",
    [
        "read_csv('{file}')",
        "read_text('{file}')",
        "read_blob('{file}')",
        "read_parquet('{file}')",
        "read_json('{file}')",
        "glob('{folder}/*')",
        "'{file}'",
        "sniff_csv('{file}')",
        "query('SELECT * FROM read_text(''{file}'')')",
        "query('DROP TABLE runs')",
    ],
)
def test_a_select_reads_no_file(store: WorkspaceStore, tmp_path: Path, source: str) -> None:
    file = tmp_path / "private.csv"
    file.write_text("a,b\n1,2\n")
    with pytest.raises(InvalidInput) as refused:
        store.sql(f"SELECT * FROM {source.format(file=file, folder=tmp_path)}")
    assert "1,2" not in str(refused.value)


@pytest.mark.parametrize(
    "name", ["here", "local", "people_sql_global", "params", "statement", "con", "table"]
)
def test_a_select_sees_no_python_variable(
    store: WorkspaceStore, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = here.clone()
    monkeypatch.setattr(people_sql, "people_sql_global", people_sql_global, raising=False)
    with pytest.raises(InvalidInput):
        store.sql(f'SELECT * FROM "{name}"')
    assert local.equals(here)


def test_settings_are_locked_and_external_access_is_off(store: WorkspaceStore) -> None:
    found = store.sql("SELECT name, value FROM duckdb_settings()")
    settings = dict(found.select("name", "value").iter_rows())
    assert settings["enable_external_access"] == "false"
    assert settings["lock_configuration"] == "true"
    with pytest.raises(InvalidInput, match="locked"):
        store.sql("SELECT * FROM enable_profiling()")


# -- a query that fails --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT nam FROM runs", '"name"'),
        ("SELECT * FROM run", '"runs"'),
        ("SELECT CAST(name AS INTEGER) FROM runs", "convert"),
        ("SELECT error('my own words')", "my own words"),
        ("SELECT * FROM force_checkpoint()", "query: "),
        ("SELECT INTERVAL 1 DAY AS a", "VARCHAR"),
        ("SELECT union_value(k := 1) AS a", "VARCHAR"),
    ],
)
def test_a_query_that_fails_says_why_and_leaves_the_store_usable(
    writable: WorkspaceStore, query: str, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        writable.sql(query)
    assert writable.sql("SELECT name FROM runs").rows() == [("corn",)]


def test_a_read_only_store_answers_too(store: WorkspaceStore, folder: Path) -> None:
    store.list_runs()
    with WorkspaceStore(folder, read_only=True) as reader:
        assert reader.sql("SELECT name FROM runs").rows() == [("corn",)]
        with pytest.raises(InvalidInput, match="changes the store is refused"):
            reader.sql("WITH d AS (DELETE FROM runs RETURNING run_id) SELECT * FROM d")


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    closed = WorkspaceStore(tmp_path)
    closed.close()
    with pytest.raises(StoreClosed):
        closed.sql("SELECT 1")


# -- limits --------------------------------------------------------------------------------------

ENDLESS = "SELECT count(*) FROM range(100000000000) t(i) WHERE hash(i) % 7 = 3"


@pytest.mark.parametrize(
    "query",
    [
        ENDLESS,
        "SELECT i FROM range(100000000000) t(i) WHERE hash(i) = 3",
        # The first rows have come when its time is over.
        "SELECT a.i * b.i AS n FROM range(100000000) a(i), range(9999) b(i) WHERE (a.i * b.i) % 777777 = 1",
    ],
)
def test_a_query_that_takes_too_long_is_stopped_and_the_next_is_answered(
    writable: WorkspaceStore, query: str
) -> None:
    with pytest.raises(InvalidInput, match=r"longer than 0\.1 s"):
        writable.sql(query, timeout=0.1)
    assert writable.sql("SELECT 1 AS one")["one"].to_list() == [1]


@pytest.mark.parametrize("rows", [1, 2048, 100_000])
def test_more_rows_than_allowed_are_refused_and_as_many_are_not(writable: WorkspaceStore, rows: int) -> None:
    query = "SELECT i, 'x' AS t FROM range(?) t(i) ORDER BY i DESC"
    assert writable.sql(query, [rows], max_rows=rows)["i"].to_list() == list(range(rows))[::-1]
    with pytest.raises(InvalidInput, match=f"more than {rows:,} rows"):
        writable.sql(query, [rows + 1], max_rows=rows)
    assert writable.sql(query, [rows + 1], max_rows=None).height == rows + 1


@pytest.mark.parametrize(
    "query",
    [
        "SELECT list(i) AS x FROM range(200000) t(i)",
        "SELECT repeat('x', 2000000) AS x",
        "SELECT repeat('x', 500) AS x FROM range(9000)",
        "SELECT {'a': [i, i]} AS x FROM range(100000) t(i)",
        "SELECT repeat('x', 2000000)::BLOB AS x",
    ],
)
def test_more_bytes_than_allowed_are_refused_however_few_the_rows(
    writable: WorkspaceStore, query: str
) -> None:
    with pytest.raises(InvalidInput, match="more than 1,000,000 bytes"):
        writable.sql(query, max_bytes=1_000_000)
    assert writable.sql(query, max_bytes=10_000_000).height


@pytest.mark.parametrize(
    "value",
    [
        "TIMESTAMP 'infinity'",
        "TIMESTAMPTZ '-infinity'",
        "TIMESTAMP_MS '20000-01-01'",
        "TIMESTAMP '0044-03-15 (BC) 12:00:00'",
        "DATE 'infinity'",
        "DATE '10000-01-01'",
        "[DATE '2026-01-01', DATE '-infinity']",
        "{'a': {'b': TIMESTAMP 'infinity'}}",
        "MAP {1: TIMESTAMP 'infinity'}",
        "[DATE 'infinity']::DATE[1]",
    ],
)
@pytest.mark.parametrize("most", [None, 10])
def test_times_that_no_calendar_of_python_has_are_refused(
    writable: WorkspaceStore, value: str, most: int | None
) -> None:
    with pytest.raises(InvalidInput, match="years 1 to 9999"):
        writable.sql(f"SELECT {value} AS t UNION ALL SELECT NULL", max_rows=most)
    assert writable.sql(f"SELECT ({value})::VARCHAR AS t").height == 1


def test_the_first_and_the_last_time_of_the_calendar_are_answered(writable: WorkspaceStore) -> None:
    found = writable.sql(
        "SELECT TIMESTAMP '0001-01-01' AS a, TIMESTAMP '9999-12-31 23:59:59.999999' AS b, DATE '9999-12-31' AS c, "
        "NULL::TIMESTAMP AS d, TIMESTAMP_NS '2026-01-01' AS e"
    )
    assert [None if each is None else each.year for each in found.row(0)] == [1, 9999, 9999, None, 2026]


@pytest.mark.parametrize(
    "value",
    [
        "INTERVAL '3 days'",
        "[INTERVAL '1 month', NULL]",
        "{'a': [INTERVAL '-1 year']}",
        "'1010'::BIT",
        "['1'::BIT]::BIT[1]",
        "MAP {'a': 340282366920938463463374607431768211455::UHUGEINT}",
        "union_value(num := 2)",
        "[union_value(t := TIMESTAMP 'infinity')]",
        "TIMETZ '12:00:00+02'",
        "(1::BIGNUM, 'x')",
        "'1'::VARIANT",
    ],
)
@pytest.mark.parametrize("rows", ["", " WHERE false"])
def test_types_that_data_frames_lack_are_named(writable: WorkspaceStore, value: str, rows: str) -> None:
    with pytest.raises(InvalidInput, match=r"the column 'x' holds [A-Z ]+, a type"):
        writable.sql(f"SELECT {value} AS x{rows}")
    assert writable.sql(f"SELECT ({value})::VARCHAR AS x").height == 1


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("170141183460469231731687303715884105727::HUGEINT", "38 digits"),
        ("[-100000000000000000000000000000000000000::HUGEINT]", "38 digits"),
        ("TIME '24:00:00'", "24:00"),
        ("{'a': TIME '24:00:00'}", "24:00"),
    ],
)
def test_values_that_would_be_shown_as_others_are_refused(
    writable: WorkspaceStore, value: str, words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        writable.sql(f"SELECT NULL AS x UNION ALL SELECT {value}")


@pytest.mark.parametrize(
    ("value", "right"),
    [
        ("99999999999999999999999999999999999999::HUGEINT", Decimal(10**38 - 1)),
        ("[NULL, []]", [None, []]),
        ("{'a': NULL, 'b': {'c': [NULL]}}", {"a": None, "b": {"c": [None]}}),
        ("TIME '23:59:59.999999'", time(23, 59, 59, 999999)),
        ("'5b4c1d9e-0f6e-4f0e-9d6b-3c2a7d1b8e00'::UUID", "5b4c1d9e-0f6e-4f0e-9d6b-3c2a7d1b8e00"),
        ("[[1, 2], [3, 4]]::INT[2][2]", [[1, 2], [3, 4]]),
    ],
)
def test_rare_types_are_answered(writable: WorkspaceStore, value: str, right: Any) -> None:
    assert writable.sql(f"SELECT {value} AS x").rows() == [(right,)]


def test_two_columns_of_one_name_are_refused_by_name(writable: WorkspaceStore) -> None:
    with pytest.raises(InvalidInput, match="two columns are named 'a'"):
        writable.sql("SELECT 1 AS a, 2 AS a")


def test_an_error_after_the_first_rows_is_one_of_the_query(writable: WorkspaceStore) -> None:
    late = "SELECT CASE WHEN i = 300000 THEN error('late') ELSE 1 END AS x FROM range(400000) t(i)"
    with pytest.raises(InvalidInput, match="late"):
        writable.sql(late)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"timeout": -1}, "timeout"),
        ({"timeout": "soon"}, "timeout"),
        ({"max_rows": 0}, "max_rows"),
        ({"max_rows": 1.5}, "max_rows"),
        ({"max_rows": True}, "max_rows"),
        ({"max_bytes": 0}, "max_bytes"),
    ],
)
def test_limits_that_are_none_are_refused(store: WorkspaceStore, limits: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        store.sql("SELECT 1", **limits)


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
@pytest.mark.parametrize("way", ["sql", "query", "change"])
def test_ctrl_c_in_a_question_is_a_keyboard_interrupt_and_the_store_works_on(
    writable: WorkspaceStore, way: str
) -> None:
    engine = writable._engine

    def work(con: Any) -> None:
        con.execute(f"CREATE TEMP TABLE found AS {ENDLESS}" if way == "change" else ENDLESS)

    ended = threading.Event()

    def press() -> None:
        # Again after ten seconds, as people do: on a busy machine the first may come before the statement begins.
        pause = 0.2
        while not ended.wait(pause):
            os.kill(os.getpid(), signal.SIGINT)
            pause = 10.0

    pressing = threading.Thread(target=press)
    pressing.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            writable.sql(ENDLESS) if way == "sql" else getattr(engine, way)(work)
    finally:
        ended.set()
        pressing.join()
    assert writable.sql("SELECT 1 AS one")["one"].to_list() == [1]


def test_another_connection_of_this_process_is_named_and_nothing_is_called_damaged(tmp_path: Path) -> None:
    with WorkspaceStore(tmp_path) as store:
        store.begin_run("a", {}, [])
        store.list_runs()
        store._engine._flusher.stop()  # it would release the connection at the same time
        store._engine.access._give_up()
        with duckdb.connect(str(tmp_path / "store.duckdb"), read_only=True):
            store.begin_run("b", {}, [])
            with pytest.raises(StoreBusy, match=r"another DuckDB connection of this process") as caught:
                store.list_runs()
        assert "backup" not in str(caught.value)
        assert store.list_runs().height == 2
