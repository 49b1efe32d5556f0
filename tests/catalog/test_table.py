"""The gateway to tables: rows go in and come out as plain data, whatever their number."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import duckdb
import pytest

from nirs_store.db.schema import create_statements
from nirs_store.db.table import Table

NOW = datetime(2026, 1, 2, 3, 4, 5)


@pytest.fixture
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        for statement in create_statements(["file_types", "file_aliases"]):
            if statement.startswith("CREATE TABLE"):
                connection.execute(statement)
        yield connection


def alias(number: int, **more: Any) -> dict[str, Any]:
    return {"alias_id": f"{number:03}", "name": "x", "alias": "a", "version_id": "v", "made_at": NOW, **more}


@pytest.mark.parametrize("count", [1, 2, 200])
def test_rows_come_back_as_they_went_in(con: duckdb.DuckDBPyConnection, count: int) -> None:
    rows = [
        {
            "type": f"t{n:03}",
            "description": "d",
            "metadata_schema": {"n": [n, None, "ä"]} if n else None,
            "made_at": NOW,
        }
        for n in range(count)
    ]
    table = Table(con, "file_types")
    table.insert(rows)
    assert table.where("type") == rows
    names = {row["type"] for row in rows}
    assert table.where("type", type=names) == rows, "a few are looked up, many are joined"
    assert set(table.keys(type=names)) == names


def test_none_is_null_and_an_empty_list_fits_nothing(con: duckdb.DuckDBPyConnection) -> None:
    table = Table(con, "file_aliases")
    table.insert([alias(1), alias(2, test_name="t"), alias(3, test_name="")])
    assert table.keys(test_name=None) == ["001"]
    assert table.keys(test_name="") == ["003"]
    assert table.keys(test_name=[]) == []
    assert [row["alias_id"] for row in table.where("alias_id DESC", 2)] == ["003", "002"]


def test_changes_and_deletions_touch_what_fits_only(con: duckdb.DuckDBPyConnection) -> None:
    types = Table(con, "file_types")
    row = {"type": "a", "description": "", "metadata_schema": {"x": 1}, "made_at": NOW}
    types.insert([row, {**row, "type": "b"}])
    assert types.update({"metadata_schema": {"y": 2}}, type="a") == ["a"]
    types.insert([{**row, "description": "other"}], "OR IGNORE")
    types.insert([{**row, "type": "b", "description": "new"}], "OR REPLACE")
    assert [(r["description"], r["metadata_schema"]) for r in types.where("type")] == [
        ("", {"y": 2}), ("new", {"x": 1}),
    ]  # fmt: skip
    assert [gone["metadata_schema"] for gone in types.delete(type="a")] == [{"y": 2}]
    assert types.keys() == ["b"]


def test_an_unknown_column_is_a_mistake_of_the_program(con: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(KeyError, match="colour"):
        Table(con, "file_aliases").insert([alias(1), alias(2, colour="red")])
    assert Table(con, "file_aliases").keys() == []
