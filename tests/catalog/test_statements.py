"""Statements that are kept parsed."""

from __future__ import annotations

import duckdb
import pytest

from nirs_store.db import sql as statements
from nirs_store.db.sql import execute, parsed


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
