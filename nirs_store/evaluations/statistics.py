"""What a table of episodes or samples says about a metric: its value, its interval, its value a row.

A metric is a score of this library where the table has ``y_true`` and ``y_pred``, else the mean of the column
of that name. Intervals are bootstrap intervals of `scipy.stats.bootstrap` (rows are drawn, pairs stay together).
"""

from __future__ import annotations

import io
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from nirs_store.blobs.durable import ensure_dir, write_file
from nirs_store.db.database import Connection
from nirs_store.db.session import Engine
from nirs_store.display import table as html_table
from nirs_store.errors import InvalidInput, UnknownId
from nirs_store.evaluations import rows
from nirs_store.evaluations.rows import BETTER, value_of
from nirs_store.lazy import polars as pl
from nirs_store.reading.export import frame_csv
from nirs_store.records.artifacts import read_artifact
from nirs_store.scores import (
    CLASSIFICATION_SCORES,
    REGRESSION_SCORES,
    classification_scores,
    direction,
    regression_scores,
)
from nirs_store.values import from_json, native, one_kind, one_of, to_json

__all__ = [
    "CORRECTIONS",
    "EXPORT_FORMATS",
    "TABLES",
    "TESTS",
    "WHICH",
    "Entries",
    "Entry",
    "Interval",
    "ModelComparison",
    "adjusted",
    "as_table",
    "better_of",
    "by_group",
    "compare",
    "entries_of",
    "estimate",
    "export_table",
    "from_parquet",
    "leaderboard",
    "pareto",
    "robustness",
    "row_values",
    "sort_value",
    "table_of",
    "to_parquet",
    "trend",
]


# -- Tables of episodes and samples: taken from anybody, kept as Parquet, handed out as CSV or JSON.


EXPORT_FORMATS = ("csv", "json", "both")


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
            rows = list(value)
            if not all(isinstance(row, Mapping) for row in rows):
                raise InvalidInput(
                    f"{name}: expected a dict a row, found {_kinds(rows)}. Nothing was recorded."
                )
            # A column that the first rows lack is a column all the same.
            columns = list(dict.fromkeys(str(key) for row in rows for key in row))
            plain = [{str(key): cell for key, cell in row.items()} for row in rows]
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


def _kinds(rows: Sequence[Any]) -> str:
    return ", ".join(sorted({type(row).__name__ for row in rows}))


def to_parquet(table: pl.DataFrame) -> bytes:
    """Return a table as a Parquet file; the same table gives the same bytes."""
    buffer = io.BytesIO()
    table.write_parquet(buffer, compression="zstd", statistics=False)
    return buffer.getvalue()


def from_parquet(data: bytes) -> pl.DataFrame:
    """Read what `to_parquet` wrote."""
    return pl.read_parquet(io.BytesIO(data))


def export_table(
    table: pl.DataFrame, facts: Mapping[str, Any], folder: Path, stem: str, what: str, format: str
) -> dict[str, Path]:
    """Write a table as CSV, as JSON with the facts of its evaluation, or as both."""
    if format not in EXPORT_FORMATS:
        from nirs_store.scores import unknown_name

        raise InvalidInput(unknown_name("format", format, EXPORT_FORMATS))
    ensure_dir(folder)
    written: dict[str, Path] = {}
    if format in ("csv", "both"):
        written["csv"] = folder / f"{stem}-{what}.csv"
        write_file(written["csv"], frame_csv(_flat(table)).encode())
    if format in ("json", "both"):
        written["json"] = folder / f"{stem}-{what}.json"
        text = to_json({"evaluation": dict(facts), what: table.to_dicts()}, what) or ""
        write_file(written["json"], msgspec.json.format(text.encode(), indent=2))
    return written


def _flat(table: pl.DataFrame) -> pl.DataFrame:
    """Return lists and records as JSON text: a cell of a CSV file holds one value."""
    nested = [name for name, kind in table.schema.items() if kind.is_nested()]
    return table.with_columns(
        pl.Series(
            name, [None if cell is None else to_json(_items(cell), name) for cell in table[name]], pl.String
        )
        for name in nested
    )


def _items(cell: Any) -> Any:
    return cell.to_list() if isinstance(cell, pl.Series) else cell


# An RMSE is called by the set that it was computed on.
_ALIASES = {"rmsep": "rmse", "rmsecv": "rmse", "rmsec": "rmse"}
_SUCCESS = "success_rate"
# Jackknife values, which BCa needs, take the square of the rows; above this both methods agree anyway.
_BCA_ROWS = 2000
_CELLS = 4_000_000
_LOSSES: dict[str, Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]] = {
    "rmse": lambda y, yhat: (yhat - y) ** 2,
    "mse": lambda y, yhat: (yhat - y) ** 2,
    "sep": lambda y, yhat: (yhat - y - np.mean(yhat - y)) ** 2,
    "mae": lambda y, yhat: np.abs(yhat - y),
    "bias": lambda y, yhat: yhat - y,
}


class Interval(NamedTuple):
    """A value with its bootstrap interval; None where there is none."""

    value: float | None
    low: float | None
    high: float | None
    n: int


def better_of(metric: str, said: str | None = None) -> str:
    """Return in which direction a metric improves: "higher", "lower", or "zero" for a bias; by default "higher"."""
    return said or direction(metric) or "higher"


def sort_value(value: float | None, better: str) -> float:
    """Return a number that is larger for a better value; what is missing or NaN comes last."""
    if value is None or math.isnan(value):
        return -math.inf
    return {"higher": value, "lower": -value, "zero": -abs(value)}[better]


def _kind(table: pl.DataFrame, metric: str) -> str | None:
    """How a table gives a metric: "regression", "classification", the name of a column, or not at all."""
    if metric == _SUCCESS and "success" in table.columns:
        return "success"
    if {"y_true", "y_pred"} <= set(table.columns):
        numeric = table["y_true"].dtype.is_numeric() and table["y_pred"].dtype.is_numeric()
        if _ALIASES.get(metric, metric) in (*REGRESSION_SCORES, "mse") and numeric:
            return "regression"
        if metric in CLASSIFICATION_SCORES and metric != "log_loss":
            return "classification"
    if metric in table.columns and _is_number(table[metric].dtype):
        return metric
    return None


def _is_number(dtype: pl.DataType) -> bool:
    return dtype.is_numeric() or dtype == pl.Boolean


def _columns(table: pl.DataFrame, kind: str) -> list[NDArray[Any]]:
    names = ["y_true", "y_pred"] if kind in ("regression", "classification") else [kind]
    known = table.select(names).drop_nulls()
    found = [known[name].to_numpy() for name in names]
    if kind == "classification":
        return [np.asarray(column.tolist()) for column in found]
    return [column.astype(np.float64) for column in found]


def estimate(
    table: pl.DataFrame | None,
    metric: str,
    *,
    recorded: float | None = None,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the value of a metric in a table with its interval; the recorded value where the table has none."""
    if not 0 < confidence < 1:
        raise InvalidInput(f"confidence: expected a number between 0 and 1, found {confidence!r}.")
    if not isinstance(n_resamples, int) or n_resamples < 1:
        raise InvalidInput(f"n_resamples: expected a whole number of at least 1, found {n_resamples!r}.")
    kind = None if table is None else _kind(table, metric)
    if table is None or kind is None:
        return Interval(recorded, None, None, 0 if table is None else table.height)
    data = _columns(table, kind)
    n = len(data[0])
    numbers = kind != "classification"
    if not n or (numbers and not all(np.isfinite(column).all() for column in data)):
        return Interval(recorded, None, None, n)
    statistic, vectorized = _statistic(kind, metric)
    value = float(statistic(*data))
    if n < 2 or not math.isfinite(value):
        return Interval(value, None, None, n)
    if all((column == column[0]).all() for column in data):
        return Interval(value, value, value, n)  # every resample is the same
    low, high = _bootstrap(data, statistic, vectorized, confidence, n_resamples, seed)
    return Interval(value, low, high, n)


def _bootstrap(
    data: list[NDArray[Any]],
    statistic: Callable[..., Any],
    vectorized: bool,
    confidence: float,
    n_resamples: int,
    seed: int,
) -> tuple[float | None, float | None]:
    from scipy.stats import bootstrap

    if data[0].dtype.kind not in "fi":
        # SciPy resamples numbers: rows are drawn by their index.
        labels, data = data, [np.arange(len(data[0]))]

        def of_rows(rows: NDArray[Any]) -> Any:
            return statistic(*(column[rows.astype(np.intp)] for column in labels))

        found = _ask(bootstrap, data, of_rows, False, confidence, n_resamples, seed, "percentile")
        return found
    methods = ("BCa", "percentile") if len(data[0]) <= _BCA_ROWS and vectorized else ("percentile",)
    for method in methods:
        found = _ask(bootstrap, data, statistic, vectorized, confidence, n_resamples, seed, method)
        if found[0] is not None:
            return found
    return None, None


def _ask(
    bootstrap: Callable[..., Any],
    data: list[NDArray[Any]],
    statistic: Callable[..., Any],
    vectorized: bool,
    confidence: float,
    n_resamples: int,
    seed: int,
    method: str,
) -> tuple[float | None, float | None]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # Where BCa is not defined (a jackknife without spread), SciPy warns and gives NaN.
        warnings.simplefilter("ignore")
        found = bootstrap(
            data,
            statistic,
            paired=True,
            vectorized=vectorized,
            confidence_level=confidence,
            n_resamples=n_resamples,
            batch=max(1, _CELLS // len(data[0])),
            method=method,
            rng=np.random.default_rng(seed),
        ).confidence_interval
    low, high = float(found.low), float(found.high)
    return (low, high) if math.isfinite(low) and math.isfinite(high) else (None, None)


def _statistic(kind: str, metric: str) -> tuple[Callable[..., Any], bool]:
    if kind == "classification":
        return (lambda y, yhat: classification_scores(y, yhat)[metric]), False
    if kind != "regression":
        return (lambda values, axis=-1: np.mean(values, axis=axis)), True
    name = _ALIASES.get(metric, metric)

    def scores(y: NDArray[Any], yhat: NDArray[Any], axis: int = -1) -> Any:
        # Each resample is a target of its own to the scores of this library.
        y, yhat = np.moveaxis(y, axis, 0), np.moveaxis(yhat, axis, 0)
        shape = y.shape[1:]
        table = regression_scores(y.reshape(len(y), -1), yhat.reshape(len(yhat), -1), per_target=True)
        found = np.square(table["rmse"]) if name == "mse" else np.asarray(table[name])
        return found.reshape(shape)

    return scores, True


def row_values(table: pl.DataFrame, metric: str) -> tuple[NDArray[np.float64], str]:
    """Return what each row contributes to a metric, and in which direction that improves.

    For an RMSE the squared error, for a MAE the absolute one, for an accuracy 1 or 0, else the column.
    """
    kind = _kind(table, metric)
    if kind == "regression":
        name = _ALIASES.get(metric, metric)
        if name in _LOSSES:
            y, yhat = (table[column].cast(pl.Float64).to_numpy() for column in ("y_true", "y_pred"))
            return np.asarray(_LOSSES[name](y, yhat), dtype=np.float64), "zero" if name == "bias" else "lower"
    elif kind == "classification" and metric == "accuracy":
        hits = (table["y_true"] == table["y_pred"]).cast(pl.Float64)
        return hits.fill_null(math.nan).to_numpy(), "higher"
    elif kind is not None and kind != "classification":
        return table[kind].cast(pl.Float64).fill_null(math.nan).to_numpy(), better_of(metric)
    numeric = [name for name, dtype in table.schema.items() if _is_number(dtype)]
    raise InvalidInput(
        f"metric: {metric!r} has no value a row, which a paired comparison needs. Of these tables can be compared: "
        f"{', '.join(numeric) or 'no column'}; with y_true and y_pred also rmse, mae, bias or accuracy."
    )


# -- The evaluations that a question is about, each with its table.


WHICH = ("latest", "best", "all")
TABLES = ("episodes", "samples")


@dataclass(frozen=True)
class Entry:
    """One evaluation with what was recorded of the metric."""

    evaluation_id: str
    model_id: str
    scores: dict[str, float | None]
    success_rate: float | None
    recorded: float | None
    created_at: datetime
    row: dict[str, Any]
    table: pl.DataFrame | None

    def value(self, metric: str) -> float | None:
        """Return the recorded value of a metric."""
        return value_of({"scores": self.scores, "success_rate": self.success_rate}, metric)


@dataclass(frozen=True)
class Entries:
    """Evaluations of a suite, oldest first, and what they are ranked by."""

    suite: str
    metric: str
    better: str
    items: tuple[Entry, ...]


def table_of(engine: Engine, row: dict[str, Any], what: str | None = None) -> pl.DataFrame | None:
    """Return the episodes or samples of an evaluation (None: whichever it has)."""
    for name in TABLES if what is None else (what,):
        if row[f"{name}_id"] is not None:
            return from_parquet(read_artifact(engine, row[f"{name}_id"]))
    return None


def entries_of(
    engine: Engine,
    suite: str,
    metric: str | None,
    *,
    models: Sequence[str] | None = None,
    which: str = "latest",
    tables: bool = True,
    what: str | None = None,
) -> Entries:
    """Completed evaluations of a suite: the latest or best of each model, or all."""
    one_of("which", which, WHICH)
    if what is not None:
        one_of("table", what, TABLES)

    def ask(con: Connection) -> tuple[tuple[str, str] | None, str | None, pl.DataFrame, list[str]]:
        default = rows.suite_metric(con, suite)
        said = None if default is None else rows.directions(con, suite, metric or default[0])
        found = rows.evaluation_rows(con, {"suite": suite, "status": "completed"})
        return default, said, found, rows.suites(con)

    default, said, found, known = engine.query(ask)
    if default is None:
        raise UnknownId("suite", suite, f"There are: {', '.join(known) or 'none'}.")
    chosen = metric or default[0]
    better = better_of(chosen, said)
    kept = [_entry(row, chosen) for row in found.to_dicts()]
    if models is not None:
        if isinstance(models, str):
            raise InvalidInput("models: expected a list of model ids, found one text.")
        missing = sorted(set(models) - {entry.model_id for entry in kept})
        if missing:
            raise UnknownId("model", missing[0], f"Suite {suite!r} has {', '.join(_models(kept)) or 'none'}.")
        kept = [entry for entry in kept if entry.model_id in set(models)]
    if which != "all":
        kept = _one_a_model(kept, better, best=which == "best")
    if tables:
        kept = [Entry(**{**entry.__dict__, "table": table_of(engine, entry.row, what)}) for entry in kept]
    return Entries(suite, chosen, better, tuple(kept))


def _models(entries: Sequence[Entry]) -> list[str]:
    return list(dict.fromkeys(entry.model_id for entry in entries))


def _entry(row: dict[str, Any], metric: str) -> Entry:
    scores = from_json(row["scores"])
    recorded = value_of({"scores": scores, "success_rate": row["success_rate"]}, metric)
    return Entry(
        row["evaluation_id"],
        row["model_id"],
        scores,
        row["success_rate"],
        recorded,
        row["created_at"],
        row,
        None,
    )


def _one_a_model(entries: Sequence[Entry], better: str, *, best: bool) -> list[Entry]:
    chosen: dict[str, Entry] = {}
    for entry in entries:
        before = chosen.get(entry.model_id)
        if (
            before is None
            or not best
            or sort_value(entry.recorded, better) > sort_value(before.recorded, better)
        ):
            chosen[entry.model_id] = entry
    return list(chosen.values())


# -- Leaderboards, tables by group, robustness curves, Pareto fronts, trends: all as polars data frames.


@cache
def _board() -> dict[str, Any]:
    return {
        "rank": pl.Int32,
        "model_id": pl.String,
        "evaluation_id": pl.String,
        "metric": pl.String,
        "value": pl.Float64,
        "ci_low": pl.Float64,
        "ci_high": pl.Float64,
        "n": pl.Int64,
        "success_rate": pl.Float64,
        "champion": pl.Boolean,
        "created_at": pl.Datetime("us", "UTC"),
    }


def leaderboard(
    engine: Engine, suite: str, metric: str | None, *, models: Any, which: str, **drawing: Any
) -> pl.DataFrame:
    """See `Evaluations.leaderboard`."""
    found = entries_of(engine, suite, metric, models=models, which=which)
    held = engine.query(lambda con: rows.champion_rows(con, suite=suite, metric=found.metric, rank=1))
    champions = set(held["evaluation_id"])
    lines = []
    for entry in found.items:
        interval = estimate(entry.table, found.metric, recorded=entry.recorded, **drawing)
        lines.append((entry, interval))
    _check_metric(found, metric, (interval.value for _, interval in lines))
    strengths = [sort_value(interval.value, found.better) for _, interval in lines]
    order = sorted(range(len(lines)), key=lambda i: (-strengths[i], lines[i][0].model_id))
    table = [
        {
            # Equal values share a rank.
            "rank": 1 + sum(strength > strengths[i] for strength in strengths),
            "model_id": lines[i][0].model_id,
            "evaluation_id": lines[i][0].evaluation_id,
            "metric": found.metric,
            **_cells(lines[i][1]),
            "success_rate": lines[i][0].success_rate,
            "champion": lines[i][0].evaluation_id in champions,
            "created_at": lines[i][0].created_at,
        }
        for i in order
    ]
    return pl.DataFrame(table, schema=_board())


def _check_metric(found: Entries, asked: str | None, values: Iterable[float | None]) -> None:
    """Refuse a metric that nothing has: a typing error would else be a table without values."""
    if asked is None or not found.items or any(value is not None for value in values):
        return
    known = {"success_rate"}
    for entry in found.items:
        known |= entry.scores.keys()
        if entry.table is not None:
            known |= {name for name in entry.table.columns if entry.table[name].dtype.is_numeric()}
    one_of("metric", asked, sorted(known))


def _cells(interval: Interval) -> dict[str, Any]:
    return {"value": interval.value, "ci_low": interval.low, "ci_high": interval.high, "n": interval.n}


def _grouped(found: Entries, by: str, drawing: Mapping[str, Any]) -> list[tuple[Entry, Any, Interval]]:
    lines: list[tuple[Entry, Any, Interval]] = []
    known: set[str] = set()
    for entry in found.items:
        if entry.table is None:
            continue
        known |= set(entry.table.columns)
        if by not in entry.table.columns:
            continue
        for group in entry.table[by].unique(maintain_order=True):
            part = entry.table.filter(pl.col(by).eq_missing(pl.lit(group)))
            lines.append((entry, group, estimate(part, found.metric, **drawing)))
    if not lines:
        if known:
            one_of("by", by, sorted(known))
        raise InvalidInput(
            f"by: no evaluation of {found.suite!r} has a table of episodes or samples. Record them with the evaluation."
        )
    if all(interval.value is None for _, _, interval in lines):
        raise InvalidInput(
            f"metric: {found.metric!r} is neither a column of the tables of {found.suite!r} nor a score of y_true and "
            f"y_pred. Their columns: {', '.join(sorted(known))}."
        )
    return lines


def by_group(
    engine: Engine,
    suite: str,
    by: str,
    metric: str | None,
    *,
    models: Any,
    which: str,
    wide: bool,
    **drawing: Any,
) -> pl.DataFrame:
    """See `Evaluations.by_group`."""
    found = entries_of(engine, suite, metric, models=models, which=which)
    lines = _grouped(found, by, drawing)
    groups = sorted({group for _, group, _ in lines}, key=_natural)
    table = pl.DataFrame(
        [
            {"model_id": entry.model_id, by: group, "metric": found.metric, **_cells(interval)}
            for entry, group, interval in sorted(
                lines, key=lambda line: (line[0].model_id, groups.index(line[1]))
            )
        ],
        infer_schema_length=None,
    )
    if not wide:
        return table
    names = table.with_columns(pl.col(by).cast(pl.String).fill_null("(none)"))
    return names.pivot(on=by, index="model_id", values="value", aggregate_function="first")


def _natural(value: Any) -> tuple[int, float, str]:
    if value is None:
        return (2, 0.0, "")
    if isinstance(value, int | float):
        return (0, float(value), "")
    return (1, 0.0, str(value))


def robustness(
    engine: Engine, suite: str, by: str, metric: str | None, *, models: Any, which: str, **drawing: Any
) -> pl.DataFrame:
    """See `Evaluations.robustness`."""
    found = entries_of(engine, suite, metric, models=models, which=which)
    lines = _grouped(found, by, drawing)
    if not all(isinstance(level, int | float) and not isinstance(level, bool) for _, level, _ in lines):
        raise InvalidInput(
            f"by: a curve needs a column of numbers; {by!r} holds others. Use by_group for a table of kinds."
        )
    table = []
    for model in dict.fromkeys(entry.model_id for entry, _, _ in lines):
        curve = sorted((level, interval) for entry, level, interval in lines if entry.model_id == model)
        start = curve[0][1].value
        for level, interval in curve:
            change = None
            if start is not None and interval.value is not None:
                change = interval.value - start
            table.append(
                {
                    "model_id": model,
                    by: float(level),
                    "metric": found.metric,
                    **_cells(interval),
                    "change": change,
                }
            )
    return pl.DataFrame(table, infer_schema_length=None)


def pareto(
    engine: Engine, suite: str, objectives: Sequence[str] | Mapping[str, str], *, models: Any, which: str
) -> pl.DataFrame:
    """See `Evaluations.pareto`."""
    if isinstance(objectives, str) or len(objectives) < 2:
        raise InvalidInput("objectives: expected at least two metrics, as a list or as a dict of directions.")
    found = entries_of(engine, suite, None, models=models, which=which)
    stated = dict(objectives) if isinstance(objectives, Mapping) else {}
    names = list(objectives)
    better: dict[str, str] = {}
    for name in names:
        if name in stated:
            better[name] = one_of(f"objectives[{name!r}]", stated[name], BETTER)
        else:
            said = engine.query(lambda con, name=name: rows.directions(con, suite, name))  # type: ignore[misc]
            better[name] = better_of(name, said)
    known = sorted({name for entry in found.items for name in entry.scores} | {"success_rate"})
    points = []
    for entry in found.items:
        values = [_objective(entry, name) for name in names]
        points.append((entry, values))
    for position, name in enumerate(names):
        if all(values[position] is None for _, values in points):
            one_of("objectives", name, known)
            raise InvalidInput(f"objectives: no evaluation of {suite!r} has a value of {name!r}.")
    strengths = np.array(
        [
            [sort_value(value, better[name]) for name, value in zip(names, values, strict=True)]
            for _, values in points
        ]
    )
    table = []
    for index, (entry, values) in enumerate(points):
        whole = bool(np.isfinite(strengths[index]).all())
        above = (strengths >= strengths[index]).all(axis=1) & (strengths > strengths[index]).any(axis=1)
        table.append(
            {
                "model_id": entry.model_id,
                "evaluation_id": entry.evaluation_id,
                **dict(zip(names, values, strict=True)),
                "on_front": whole and not above.any(),
                "dominated_by": int(above.sum()),
            }
        )
    frame = pl.DataFrame(table, infer_schema_length=None)
    return frame.sort(
        ["on_front", names[0]], descending=[True, better[names[0]] == "higher"], nulls_last=True
    )


def _objective(entry: Entry, name: str) -> float | None:
    value = entry.value(name)
    if value is None:
        value = estimate(entry.table, name, n_resamples=1).value
    return None if value is None or math.isnan(value) else value


def trend(
    engine: Engine, suite: str, metric: str | None, *, model_id: str | None, checked: bool = True
) -> pl.DataFrame:
    """See `Evaluations.trend`; unless `checked`, a metric that only tables have is a trend without values."""
    models = None if model_id is None else [model_id]
    found = entries_of(engine, suite, metric, models=models, which="all", tables=False)
    if checked:
        _check_metric(found, metric, (entry.recorded for entry in found.items))
    values = [math.nan if entry.recorded is None else entry.recorded for entry in found.items]
    begun = found.items[0].created_at if found.items else None
    days = np.array([(entry.created_at - begun).total_seconds() / 86400 for entry in found.items if begun])
    slope, fitted = _line(days, np.array(values))
    best: float | None = None
    table = []
    for index, (entry, value) in enumerate(zip(found.items, values, strict=True)):
        if sort_value(value, found.better) > sort_value(best, found.better):
            best = value
        before = values[index - 1] if index else math.nan
        table.append(
            {
                "created_at": entry.created_at,
                "model_id": entry.model_id,
                "evaluation_id": entry.evaluation_id,
                "metric": found.metric,
                "value": entry.recorded,
                "change": None if math.isnan(before) or math.isnan(value) else value - before,
                "best_so_far": best,
                "fitted": fitted[index],
                "slope_per_day": slope,
            }
        )
    if not table:
        raise UnknownId("suite", suite, "It has no completed evaluation.")
    return pl.DataFrame(table, infer_schema_length=None)


def _line(days: np.ndarray, values: np.ndarray) -> tuple[float | None, list[float | None]]:
    """Theil and Sen's line through the values over time: one bad evaluation does not bend it."""
    known = np.isfinite(values)
    if known.sum() < 3 or np.ptp(days[known]) == 0:
        return None, [None] * len(values)
    from scipy.stats import theilslopes

    found = theilslopes(values[known], days[known])
    return float(found.slope), [float(found.intercept + found.slope * day) for day in days]


# -- Every model against every other on the same episodes or samples: paired tests, corrected for their number.


TESTS = ("t-test", "wilcoxon")
CORRECTIONS = ("bh", "by", "holm", "none")
_PAIRS = ("episode_id", "sample", "sample_id", "episode", "seed")


@cache
def _schema() -> dict[str, Any]:
    return {
        "model_a": pl.String,
        "model_b": pl.String,
        "n": pl.Int64,
        "mean_difference": pl.Float64,
        "statistic": pl.Float64,
        "p_value": pl.Float64,
        "p_adjusted": pl.Float64,
        "significant": pl.Boolean,
        "better": pl.String,
    }


@dataclass(frozen=True, repr=False, eq=False)
class ModelComparison:
    """Paired comparisons of the models of a suite.

    Attributes
    ----------
    frame : polars.DataFrame
        A row a pair: ``model_a, model_b, n`` (pairs of rows), ``mean_difference`` (a - b, of what a row contributes
        to the metric), ``statistic, p_value, p_adjusted, significant``, ``better`` (the better model where
        significant).
    suite, metric, test, correction : str
    alpha : float
    """

    frame: pl.DataFrame
    suite: str
    metric: str
    test: str
    correction: str
    alpha: float

    def matrix(self, value: str = "p_adjusted") -> pl.DataFrame:
        """Return a column of the frame as a table of model against model; differences change their sign below the
        diagonal.

        Raises
        ------
        InvalidInput
            Another column than ``n, mean_difference, statistic, p_value, p_adjusted``.
        """
        one_of("value", value, ("p_adjusted", "p_value", "mean_difference", "statistic", "n"))
        models = list(dict.fromkeys([*self.frame["model_a"], *self.frame["model_b"]]))
        cells: dict[tuple[str, str], Any] = {}
        sign = -1 if value in ("mean_difference", "statistic") and self.test == "t-test" else 1
        sign = -1 if value == "mean_difference" else sign
        for row in self.frame.iter_rows(named=True):
            found = row[value]
            cells[row["model_a"], row["model_b"]] = found
            cells[row["model_b"], row["model_a"]] = None if found is None else sign * found
        columns: dict[str, Any] = {"model": models}
        for column in models:
            name = f"{column} " if column == "model" else column
            columns[name] = [cells.get((row, column)) for row in models]
        return pl.DataFrame(columns)

    def _repr_html_(self) -> str:
        words = f"{self.metric} on {self.suite}: {self.test}, p corrected ({self.correction})"
        return html_table(self.frame.columns, self.frame.iter_rows(), caption=words)

    def __repr__(self) -> str:
        return (
            f"<ModelComparison of {self.metric!r} on {self.suite!r}: {self.frame.height} pairs, {self.test}>"
        )


def adjusted(p_values: Sequence[float | None], correction: str) -> list[float | None]:
    """Correct p values for the number of tests; what is None was no test.

    ``bh`` and ``by`` (false discovery rate; Benjamini and Hochberg 1995, Benjamini and Yekutieli 2001) are SciPy's,
    ``holm`` is Holm's step-down of the family-wise error rate (Scand. J. Statist. 6, 1979, 65-70).
    """
    known = [index for index, p in enumerate(p_values) if p is not None and not math.isnan(p)]
    found: list[float | None] = [None] * len(p_values)
    values = np.array([p_values[index] for index in known], dtype=np.float64)
    if not known:
        return found
    if correction in ("bh", "by"):
        from scipy.stats import false_discovery_control

        corrected = false_discovery_control(values, method="bh" if correction == "bh" else "by")
    elif correction == "holm":
        order = np.argsort(values, kind="stable")
        steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
        corrected = np.empty_like(values)
        corrected[order] = np.minimum(steps, 1.0)
    else:
        corrected = values
    for index, value in zip(known, corrected, strict=True):
        found[index] = float(value)
    return found


def compare(
    engine: Engine,
    suite: str,
    metric: str | None,
    *,
    models: Any,
    which: str,
    test: str,
    correction: str,
    pair_by: str | None,
    alpha: float,
) -> ModelComparison:
    """See `Evaluations.compare`."""
    one_of("test", test, TESTS)
    one_of("correction", correction, CORRECTIONS)
    if not 0 < alpha < 1:
        raise InvalidInput(f"alpha: expected a number between 0 and 1, found {alpha!r}.")
    if which == "all":
        raise InvalidInput("which: a comparison takes one evaluation a model: 'latest' or 'best'.")
    found = entries_of(engine, suite, metric, models=models, which=which)
    entries = sorted((e for e in found.items if e.table is not None), key=lambda e: e.model_id)
    if len(entries) < 2:
        without = [e.model_id for e in found.items if e.table is None]
        raise InvalidInput(
            f"A comparison needs two models of {suite!r} with episodes or samples; found {len(entries)}"
            + (f" (without a table: {', '.join(without)})." if without else ".")
        )
    said = engine.query(lambda con: rows.directions(con, suite, found.metric))
    lines = []
    for a, b in itertools.combinations(entries, 2):
        mine, theirs, better = _paired(a, b, found.metric, pair_by)
        if better == better_of(found.metric):
            better = better_of(found.metric, said)
        lines.append((a.model_id, b.model_id, *_tested(mine, theirs, test, better)))
    corrected = adjusted([line[5] for line in lines], correction)
    table = []
    for (a_id, b_id, n, mean, statistic, p, ahead), p_adjusted in zip(lines, corrected, strict=True):
        significant = None if p_adjusted is None else p_adjusted < alpha
        winner = (a_id if ahead > 0 else b_id) if significant and ahead else None
        table.append((a_id, b_id, n, mean, statistic, p, p_adjusted, significant, winner))
    frame = pl.DataFrame(table, schema=_schema(), orient="row")
    return ModelComparison(frame, suite, found.metric, test, correction, alpha)


def _paired(
    a: Entry, b: Entry, metric: str, pair_by: str | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], str]:
    assert a.table is not None
    assert b.table is not None
    mine, better = row_values(a.table, metric)
    theirs, _ = row_values(b.table, metric)
    shared = set(a.table.columns) & set(b.table.columns)
    key = pair_by
    if key is None:
        key = next((name for name in _PAIRS if name in shared), None)
    elif key not in shared:
        one_of("pair_by", key, sorted(shared))
    if key is None:
        if len(mine) != len(theirs):
            raise InvalidInput(
                f"{a.model_id!r} has {len(mine)} rows and {b.model_id!r} {len(theirs)}, and no column says which "
                f"belong together. Name one with pair_by (both have {', '.join(sorted(shared)) or 'none'})."
            )
        return (*_known(mine, theirs), better)
    keys_a, keys_b = (_keys(entry, key) for entry in (a, b))
    both = [name for name in keys_a if name in keys_b]
    if not both:
        raise InvalidInput(f"pair_by: {a.model_id!r} and {b.model_id!r} share no value of {key!r}.")
    first, second = mine[[keys_a[name] for name in both]], theirs[[keys_b[name] for name in both]]
    return (*_known(first, second), better)


def _keys(entry: Entry, key: str) -> dict[Any, int]:
    assert entry.table is not None
    names = entry.table[key].to_list()
    found = {name: index for index, name in enumerate(names)}
    if len(found) < len(names):
        raise InvalidInput(
            f"pair_by: {key!r} names several rows alike in the table of {entry.model_id!r}. Name a column whose values "
            "are all different."
        )
    return found


def _known(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    there = np.isfinite(a) & np.isfinite(b)
    return a[there], b[there]


def _tested(
    a: NDArray[np.float64], b: NDArray[np.float64], test: str, better: str
) -> tuple[int, float | None, float | None, float | None, float]:
    """Return number of pairs, mean difference, statistic, p value; the last one is positive where a is better."""
    difference = a - b
    if len(difference) < 2:
        return len(difference), None, None, None, 0.0
    mean = float(difference.mean())
    ahead = {"higher": mean, "lower": -mean, "zero": abs(float(b.mean())) - abs(float(a.mean()))}[better]
    if not difference.any():
        return len(difference), mean, 0.0, 1.0, ahead
    from scipy.stats import ttest_rel, wilcoxon

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # Of differences that are all alike SciPy warns that a variance of nothing is inexact.
        warnings.simplefilter("ignore")
        found = ttest_rel(a, b) if test == "t-test" else wilcoxon(a, b)
    statistic, p = float(found.statistic), float(found.pvalue)
    return len(difference), mean, statistic, None if math.isnan(p) else p, ahead
