"""Writing configuration, runs and predictions out as JSON, YAML and Parquet."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import yaml

from nirs_store.blobs.durable import ensure_dir, write_file
from nirs_store.catalog import prediction_queries, queries
from nirs_store.catalog.access import Connection
from nirs_store.catalog.engine import Engine
from nirs_store.errors import InvalidInput, UnknownId
from nirs_store.lazily import polars as pl

__all__ = ["export_pipeline_config", "export_predictions_parquet", "export_run"]


def _write(path: Path, data: bytes) -> Path:
    if "\x00" in str(path):
        raise InvalidInput(f"output_path: {str(path)!r} cannot be the name of a file. Nothing was written.")
    if os.path.isdir(path):  # noqa: PTH112 (Path.is_dir raises for a name that is too long)
        raise InvalidInput(f"{path} is a folder; name the file to write. Nothing was written.")
    ensure_dir(path.parent)
    write_file(path, data)
    return path


def export_pipeline_config(engine: Engine, pipeline_id: str, output_path: Path) -> Path:
    """Write a pipeline's configuration as JSON."""
    row = engine.query(lambda con: queries.get_pipeline(con, pipeline_id, engine.living_sessions()))
    if row is None:
        raise UnknownId("pipeline", pipeline_id, "Nothing was written.")
    config = {
        name: row[name]
        for name in (
            "pipeline_id",
            "name",
            "dataset_name",
            "dataset_hash",
            "expanded_config",
            "generator_choices",
        )
    }
    return _write(Path(output_path), msgspec.json.format(msgspec.json.encode(config), indent=2))


def export_run(engine: Engine, run_id: str, output_path: Path) -> Path:
    """Write a run with its pipelines and chains as YAML."""

    def ask(con: Connection) -> dict[str, Any] | None:
        alive = engine.living_sessions()
        run = queries.get_run(con, run_id, alive)
        if run is None:
            return None
        run["pipelines"] = []
        for pipeline_id in queries.list_pipelines(con, alive, run_id, None)["pipeline_id"].reverse():
            pipeline = queries.get_pipeline(con, pipeline_id, alive) or {}
            ids = queries.chains_for_pipeline(con, pipeline_id)["chain_id"]
            pipeline["chains"] = [queries.get_chain(con, chain_id) for chain_id in ids]
            run["pipelines"].append(pipeline)
        return run

    run = engine.query(ask)
    if run is None:
        raise UnknownId("run", run_id, "Nothing was written.")
    plain = msgspec.json.decode(msgspec.json.encode(run, enc_hook=lambda value: value.tolist()))
    text = yaml.safe_dump({"run": plain}, sort_keys=False, allow_unicode=True)
    return _write(Path(output_path), text.encode())


def export_predictions_parquet(
    engine: Engine, output_path: Path, *, include_arrays: bool, **filters: Any
) -> Path:
    """Write predictions as Parquet, with their arrays as lists on request."""

    def ask(con: Connection) -> tuple[pl.DataFrame, dict[str, dict[str, Any]]]:
        limit, offset = filters.pop("limit", None), filters.pop("offset", 0)
        table = prediction_queries.query_predictions(con, limit, offset, **filters)
        ids = table["prediction_id"].to_list() if include_arrays else []
        return table, prediction_queries.load_arrays(con, ids)

    table, arrays = engine.query(ask)
    if include_arrays:
        for name in prediction_queries.ARRAY_NAMES:
            values = [arrays.get(key, {}).get(name) for key in table["prediction_id"]]
            table = table.with_columns(_column(name, values))
    sink = io.BytesIO()
    table.write_parquet(sink)
    return _write(Path(output_path), sink.getvalue())


def _column(name: str, values: list[np.ndarray | None]) -> pl.Series:
    """The arrays of a table's rows as one column of lists.

    Raises
    ------
    InvalidInput
        Parquet has no such values.
    """
    given = [value for value in values if value is not None]
    # Predictions of one column may be (n,) here and (n, 1) there; a column has one nesting.
    depth = max((value.ndim for value in given), default=1)
    units = {np.datetime_data(value.dtype)[0] for value in given if value.dtype.kind in "mM"}
    kinds = {value.dtype.kind for value in given if value.size}
    fine = "ns" in units and bool(kinds)
    if "c" in kinds or units & {"ps", "fs", "as"} or (fine and kinds not in ({"M"}, {"m"})):
        raise InvalidInput(
            f"{name}: a column of Parquet has no complex numbers, no times finer than nanoseconds, and none beside "
            f"something else; found arrays of {', '.join(sorted({str(value.dtype) for value in given}))}. Nothing was "
            "written. Export without arrays, or other predictions."
        )
    if fine:
        # Python's own times end at microseconds, so numpy gives whole numbers for these.
        inner = pl.Datetime("ns") if kinds == {"M"} else pl.Duration("ns")
        lists = [None if value is None else _nested(_nanoseconds(value), depth) for value in values]
        return pl.Series(name, lists, _lists(pl.Int64(), depth)).cast(_lists(inner, depth))
    lists = [None if value is None else _nested(value, depth) for value in values]
    # strict=False settles on one type for the whole column, not on that of its first rows.
    return pl.Series(name, lists, strict=False) if any(lists) else pl.Series(name, lists, pl.List(pl.Float64))


def _nested(value: np.ndarray, depth: int) -> list[Any]:
    nested: list[Any] = value.reshape(value.shape + (1,) * (depth - value.ndim)).tolist()
    return nested


def _nanoseconds(value: np.ndarray) -> np.ndarray:
    if not value.size:
        return value
    fine = value.astype(f"{value.dtype.kind}8[ns]")
    numbers = fine.astype(np.int64).astype(object)
    numbers[np.isnat(fine)] = None
    return numbers


def _lists(inner: pl.DataType, depth: int) -> pl.DataType:
    for _ in range(depth):
        inner = pl.List(inner)
    return inner
