"""Tables of episodes and samples, kept as Parquet, and the evaluations of a suite with theirs."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from nirs_store.blobs.durable import ensure_dir, write_file
from nirs_store.db.database import Connection
from nirs_store.db.session import Engine
from nirs_store.db.table import Row
from nirs_store.errors import InvalidInput, UnknownId
from nirs_store.evaluations import rows
from nirs_store.evaluations.rows import better_of, sort_value, value_of
from nirs_store.lazy import polars as pl
from nirs_store.reading.tables import frame_csv
from nirs_store.records.artifacts import read_artifact
from nirs_store.scores import unknown_name
from nirs_store.values import from_json, native, one_kind, one_of, to_json

_EXPORT_FORMATS = ("csv", "json", "both")
_WHICH = ("latest", "best", "all")
TABLES = ("episodes", "samples")


def as_table(value: Any, name: str) -> pl.DataFrame:
    """Take a table of a polars or pandas frame, Arrow data, a mapping of columns, or a list of dicts."""
    value = native(value, name)
    try:
        if isinstance(value, pl.DataFrame):
            table = value
        elif type(value).__module__.partition(".")[0] == "pandas":
            table = pl.from_pandas(value)
        elif isinstance(value, Mapping):
            table = pl.DataFrame(
                {
                    str(c): one_kind(cells, f"{name}.{c}") if isinstance(cells, list | tuple) else cells
                    for c, cells in value.items()
                }
            )
        elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
            records = list(value)
            if not all(isinstance(row, Mapping) for row in records):
                kinds = ", ".join(sorted({type(row).__name__ for row in records}))
                raise InvalidInput(f"{name}: expected one dict per row, found {kinds}. Nothing was recorded.")
            # A column that the first rows lack is still a column.
            columns = list(dict.fromkeys(str(key) for row in records for key in row))
            plain = [{str(key): cell for key, cell in row.items()} for row in records]
            table = pl.DataFrame(
                {
                    c: pl.Series(c, one_kind([row.get(c) for row in plain], f"{name}.{c}"), strict=True)
                    for c in columns
                }
            )
        else:
            raise InvalidInput(
                f"{name}: expected a data frame or a list of dicts, found {type(value).__name__}. "
                "Nothing was recorded."
            )
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, InvalidInput):
            raise
        why = str(error).strip().partition("\n")[0]
        raise InvalidInput(
            f"{name}: expected columns of one kind of value each, found otherwise: {why}. Nothing was recorded."
        ) from error
    if not table.height or not table.width:
        raise InvalidInput(f"{name}: expected at least one row, found none. Leave it out instead.")
    opaque = [column for column, kind in table.schema.items() if kind == pl.Object]
    if opaque:
        raise InvalidInput(
            f"{name}: the columns {', '.join(opaque)} hold Python objects. Turn them into text or numbers; "
            "nothing was recorded."
        )
    return table


def to_parquet(table: pl.DataFrame) -> bytes:
    """Return a table as a Parquet file; the same table gives the same bytes."""
    buffer = io.BytesIO()
    table.write_parquet(buffer, compression="zstd", statistics=False)
    return buffer.getvalue()


def table(engine: Engine, evaluation_id: str, what: str) -> pl.DataFrame | None:
    """Return the episodes or samples of an evaluation."""
    return table_of(engine, _require(engine, evaluation_id), what)


def export(engine: Engine, evaluation_id: str, folder: Path, what: str, format: str) -> dict[str, Path]:
    """Write a table as CSV, as JSON with the facts of its evaluation, or as both."""
    one_of("what", what, TABLES)
    evaluation = _require(engine, evaluation_id)
    found = table_of(engine, evaluation, what)
    if found is None:
        raise InvalidInput(
            f"what: evaluation {evaluation_id} was recorded without {what}. Nothing was written."
        )
    if format not in _EXPORT_FORMATS:
        raise InvalidInput(unknown_name("format", format, _EXPORT_FORMATS))
    facts = {name: value for name, value in evaluation.items() if not name.endswith("s_id")}
    ensure_dir(folder)
    written: dict[str, Path] = {}
    if format in ("csv", "both"):
        written["csv"] = folder / f"{evaluation_id}-{what}.csv"
        write_file(written["csv"], frame_csv(found, cell=_cell).encode())
    if format in ("json", "both"):
        written["json"] = folder / f"{evaluation_id}-{what}.json"
        text = to_json({"evaluation": facts, what: found.to_dicts()}, what) or ""
        write_file(written["json"], msgspec.json.format(text.encode(), indent=2))
    return written


def _require(engine: Engine, evaluation_id: str) -> Row:
    found = engine.query(lambda con: rows.evaluation_of(con, evaluation_id))
    if found is None:
        raise UnknownId("evaluation", evaluation_id)
    return found


def _cell(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else to_json(value, "cell") or ""


# -- evaluations with their tables ---------------------------------------------------------------


def list_evaluations(
    engine: Engine, tags: Sequence[str] | str, limit: int | None, which: Mapping[str, str | None]
) -> pl.DataFrame:
    """Return the evaluations that fit, oldest first."""
    if which["status"] is not None:
        one_of("status", which["status"], rows.STATUSES)
    wanted = [tags] if isinstance(tags, str) else [*tags]
    return engine.query(lambda con: rows.evaluation_rows(con, tags=wanted, limit=limit, **which))


def history(found: pl.DataFrame) -> pl.DataFrame:
    """Return evaluations with one column per score."""
    names = ("evaluation_id", "model_id", "suite", "status", "metric", "success_rate", "created_at")
    scores = [from_json(text) for text in found["scores"]]
    columns = dict.fromkeys(name for each in scores for name in each)
    return found.select(names).with_columns(
        pl.Series(f"score.{name}" if name in names else name, [each.get(name) for each in scores], pl.Float64)
        for name in columns
    )


@dataclass(frozen=True)
class Entry:
    """One evaluation with what was recorded of the metric."""

    row: Row
    recorded: float | None
    table: pl.DataFrame | None = None

    @property
    def evaluation_id(self) -> str:
        """Return its id."""
        return str(self.row["evaluation_id"])

    @property
    def model_id(self) -> str:
        """Return what was evaluated."""
        return str(self.row["model_id"])


@dataclass(frozen=True)
class Entries:
    """Evaluations of a suite, oldest first, and what they are ranked by."""

    suite: str
    metric: str
    better: str
    items: tuple[Entry, ...]


def table_of(engine: Engine, row: Row, what: str | None = None) -> pl.DataFrame | None:
    """Return the episodes or samples of an evaluation (None: whichever it has)."""
    for name in TABLES if what is None else (what,):
        if row[f"{name}_id"] is not None:
            return pl.read_parquet(io.BytesIO(read_artifact(engine, row[f"{name}_id"])))
    return None


def entries_of(
    engine: Engine,
    suite: str,
    metric: str | None,
    models: Sequence[str] | None = None,
    which: str = "latest",
    *,
    tables: bool = True,
) -> Entries:
    """Return the completed evaluations of a suite: the latest or best of each model, or all."""
    one_of("which", which, _WHICH)

    def ask(con: Connection) -> tuple[str, str, list[Row]]:
        default = rows.suite_metric(con, suite)
        if default is None:
            raise UnknownId("suite", suite, f"There are: {', '.join(rows.suites(con)) or 'none'}.")
        chosen = metric or default[0]
        found = rows.evaluation_rows(con, suite=suite, status="completed").to_dicts()
        return chosen, better_of(chosen, rows.direction_of(con, suite, chosen)), found

    chosen, better, found = engine.query(ask)
    decoded = [{**row, "scores": from_json(row["scores"])} for row in found]
    entries = [Entry(row, value_of(row, chosen)) for row in decoded]
    if models is not None:
        if isinstance(models, str):
            raise InvalidInput("models: expected a list of model ids, found one text.")
        known = list(dict.fromkeys(entry.model_id for entry in entries))
        missing = sorted(set(models).difference(known))
        if missing:
            raise UnknownId("model", missing[0], f"Suite {suite!r} has {', '.join(known) or 'none'}.")
        entries = [entry for entry in entries if entry.model_id in set(models)]
    if which != "all":
        entries = _one_per_model(entries, better if which == "best" else None)
    if tables:
        entries = [replace(entry, table=table_of(engine, entry.row)) for entry in entries]
    return Entries(suite, chosen, better, tuple(entries))


def _one_per_model(entries: Sequence[Entry], better: str | None) -> list[Entry]:
    """Choose the best evaluation of each model, of equals the first; the latest where no direction is given."""
    chosen: dict[str, Entry] = {}
    for entry in entries:
        before = chosen.get(entry.model_id)
        if (
            before is None
            or better is None
            or sort_value(entry.recorded, better) > sort_value(before.recorded, better)
        ):
            chosen[entry.model_id] = entry
    return list(chosen.values())
