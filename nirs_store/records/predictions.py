"""Recording predictions and their arrays."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from operator import itemgetter
from types import NoneType
from typing import Any

import numpy as np

from nirs_store.db.database import Connection
from nirs_store.db.journal import encode_array
from nirs_store.db.schema import TABLES, arrow_schema, column_names
from nirs_store.db.session import Engine
from nirs_store.db.sql import execute, few_rows
from nirs_store.db.table import checked
from nirs_store.errors import InvalidInput, ShapeMismatch, UnknownId, did_you_mean, quoted
from nirs_store.ids import new_id, now_naive
from nirs_store.lazy import polars as pl
from nirs_store.records import queries
from nirs_store.records.lookup import whole_ids_of
from nirs_store.records.queries import array_of, arrays_of, columns_of, frame, named_like, page_of, row_of
from nirs_store.records.runs import require, require_open_pipeline
from nirs_store.scores import METRICS, RMSE_BY_SET, higher_is_better
from nirs_store.values import as_float, as_int, as_text, is_text

# -- Questions about predictions and their arrays.


ARRAY_NAMES = ("y_true", "y_pred", "y_proba", "sample_indices", "weights")
METRIC_COLUMNS = (
    "val_score", "test_score", "train_score", "n_samples", "n_features", "exclusion_count", "exclusion_rate",
)  # fmt: skip
GROUP_COLUMNS = (
    "pipeline_id", "chain_id", "dataset_name", "model_name", "model_class", "fold_id", "partition", "metric",
    "task_type", "preprocessings", "branch_id", "branch_name",
)  # fmt: skip

# DuckDB keeps up to a million rows per group in this way; beyond some thousands a window is as good.
_FEW = 10_000
_ALL = 2**63 - 1
WITH_UNIT = ("mse", *(name for name, metric in METRICS.items() if metric.in_units))
# Up to so many rows, Python values are made into a frame sooner than Arrow is.
_HANDFUL = 200


def get_prediction(con: Connection, prediction_id: str, load: bool) -> dict[str, Any] | None:
    """One prediction, JSON decoded, with its arrays on request."""
    row = row_of(
        con,
        f"SELECT {columns_of('predictions')} FROM predictions WHERE prediction_id = ?",
        [prediction_id],
    )
    if row is not None and load:
        row.update(load_arrays(con, [prediction_id]).get(prediction_id, dict.fromkeys(ARRAY_NAMES)))
    return row


def get_arrays(engine: Engine, prediction_ids: Any) -> dict[str, dict[str, np.ndarray | None]]:
    """Return arrays by the ids as they are given; see `WorkspaceStore.get_prediction_arrays`."""
    if isinstance(prediction_ids, str):
        raise InvalidInput(
            "prediction_ids: expected a list of ids, found one. For one prediction call "
            "get_prediction(prediction_id, load_arrays=True)."
        )
    ids = list(prediction_ids) if isinstance(prediction_ids, Iterable) else [prediction_ids]
    strange = [each for each in ids if not isinstance(each, str)]
    if strange:
        raise InvalidInput(f"prediction_ids: expected a list of ids, found {strange[0]!r}.")
    known = [each for each in ids if is_text(each)]
    whole = whole_ids_of(engine, ("prediction",), known)
    found = engine.query(lambda con: load_arrays(con, whole))
    return {given: found[each] for given, each in zip(known, whole, strict=True) if each in found}


def load_arrays(
    con: Connection,
    prediction_ids: Sequence[str],
    names: Sequence[str] = ARRAY_NAMES,
    *,
    pipeline_id: str | None = None,
) -> dict[str, dict[str, np.ndarray | None]]:
    """Arrays of many predictions, all or those of `names`, with two queries, however many they are."""
    # Of predictions of one pipeline, naming it takes half the time; those whose rows do not name it are looked up by
    # their own ids.
    columns = [name for name in ARRAY_NAMES if name in names]
    sql = f"SELECT prediction_id, {', '.join(columns)} FROM prediction_arrays WHERE"
    rows: list[tuple[str | None, ...]] = []
    missing = list(prediction_ids)
    if pipeline_id is not None:
        wanted = set(missing)
        of_pipeline = execute(con, f"{sql} pipeline_id = ?", [pipeline_id]).fetchall()
        rows = [row for row in of_pipeline if row[0] in wanted]
        missing = sorted(wanted - {str(row[0]) for row in rows})
    if missing:
        rows += execute(con, f"{sql} prediction_id IN (SELECT unnest(?))", [missing]).fetchall()
    arrays = arrays_of(con, sorted({key for row in rows for key in row[1:] if key is not None}))
    return {
        str(row[0]): {
            name: None if key is None else array_of(arrays, key).copy()
            for name, key in zip(columns, row[1:], strict=True)
        }
        for row in rows
    }


def prediction_filters(alias: str = "", **filters: Any) -> tuple[str, dict[str, Any]]:
    """WHERE clause and parameters; `model_class` may hold `%`, everything else is compared whole."""
    where, params = ["TRUE"], {}
    for name, value in filters.items():
        if value is None:
            continue
        if name == "chain_ids":
            where.append(f"{alias}chain_id IN (SELECT unnest($chain_ids::VARCHAR[]))")
        elif name == "run_name":
            as_text(value, "name")
            where.append(
                f"{alias}pipeline_id IN (SELECT pipeline_id FROM pipelines JOIN runs r USING (run_id) WHERE "
                f"{named_like('r.name', 'run_name')})"
            )
        elif name == "run_id":
            where.append(f"{alias}pipeline_id IN (SELECT pipeline_id FROM pipelines WHERE run_id = $run_id)")
        elif name in ("target", "target_unit"):
            # An empty text asks for those that do not say.
            where.append(
                f"{alias}chain_id IN (SELECT chain_id FROM chains WHERE coalesce({name}, '') = ${name})"
            )
        elif name == "model_class" and "%" in str(value):
            # Only % is a wildcard: class names are full of underscores.
            where.append(f"{alias}model_class LIKE $model_class ESCAPE '\\'")
            value = str(value).replace("\\", "\\\\").replace("_", "\\_")
        elif name in column_names("predictions"):
            where.append(f"{alias}{name} = ${name}")
        else:
            raise unknown_column("filter", name, (*column_names("predictions"), "run_id"))
        params[name] = value if name == "chain_ids" else _comparable(name, value)
    return " AND ".join(where), params


def _comparable(name: str, value: Any) -> Any:
    """Convert a filter's value to its column's type; DuckDB would cast the column instead, and fail."""
    sql = {column.name: column.sql for column in TABLES["predictions"].columns}.get(name, "VARCHAR")
    if sql.startswith("INTEGER"):
        return as_int(value, name)
    if sql.startswith("DOUBLE"):
        return as_float(value, name)
    return as_text(value, name) if sql.startswith("VARCHAR") else value


def unknown_column(what: str, name: Any, allowed: Sequence[str]) -> InvalidInput:
    """Return the error for a column that is not on the list, with the nearest that is."""
    hint = did_you_mean(name, allowed)
    return InvalidInput(f"Invalid {what} column: {name!r}. Expected one of {', '.join(allowed)}.{hint}")


def columns_to_group(group_by: Any, allowed: Sequence[str]) -> list[str]:
    """Return the columns that are grouped by, each once; refuse one that is not on the list."""
    if not isinstance(group_by, (str, Iterable, NoneType)):
        raise unknown_column("group_by", group_by, allowed)
    groups = [group_by] if isinstance(group_by, str) else list(group_by or ())
    for group in groups:
        if group not in allowed:
            raise unknown_column("group_by", group, allowed)
    return list(dict.fromkeys(groups))


def query_predictions(con: Connection, limit: int | None, offset: int, **filters: Any) -> pl.DataFrame:
    """Predictions, newest first."""
    where, params = prediction_filters(**filters)
    params.update(page_of(limit, offset))
    found = frame(
        con,
        f"SELECT {columns_of('predictions')} FROM predictions WHERE {where} "
        "ORDER BY created_at DESC, prediction_id DESC LIMIT $limit OFFSET $offset",
        params,
    )
    return with_targets(con, found)


def _is_few(params: dict[str, Any]) -> bool:
    return params["limit"] is not None and params["limit"] <= _HANDFUL


def _settled(scores: Sequence[float | None], n: int) -> bool:
    """Whether the order of a score alone tells the first n of n + 1 rows from the rest."""
    # It does not where the last is as good as the one after it, and where what has no score is among them.
    if len(scores) <= n or any(score is None or math.isnan(score) for score in scores[:n]):
        return False
    return scores[n] != scores[n - 1]


def _best_by_score(
    con: Connection, sql: str, params: dict[str, Any], metric: str, ascending: bool
) -> pl.DataFrame | None:
    """Return the best rows of a query ordered by a score alone; None if the score does not tell them apart."""
    n = params["limit"]
    more = params | {"limit": n + 1}
    if not _is_few(more):
        found = frame(con, sql, more)
        if not _settled(found[metric].to_list(), n):
            return None
        return found.head(n).sort([metric, "prediction_id"], descending=[not ascending, False])
    rows = execute(con, sql, more).fetchall()
    score, key = (column_names("predictions").index(name) for name in (metric, "prediction_id"))
    if not _settled([row[score] for row in rows], n):
        return None
    # Twice, because a later sort keeps the order of an earlier one among equals.
    rows = sorted(rows[:n], key=itemgetter(key))
    rows.sort(key=itemgetter(score), reverse=not ascending)
    return few_rows(rows, arrow_schema("predictions"))


def _best_of_groups(
    con: Connection, rows: str, params: dict[str, Any], groups: Sequence[str], metric: str, ascending: bool
) -> pl.DataFrame | None:
    """Return the best rows of each group; None where a score alone does not tell them apart, as for `_settled`."""
    # DuckDB finds the best by one number with an aggregate, as it would write it itself; by three columns it sorts.
    n, keys = params["limit"], ", ".join(groups)
    order = f"{metric} {'ASC' if ascending else 'DESC'} NULLS LAST"
    found = frame(
        con,
        f"SELECT {rows} QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY {order}) <= $limit "
        f"ORDER BY {keys}, {order}, prediction_id",
        params | {"limit": n + 1},
    )
    begins = np.ones(found.height, bool)
    begins[1:] = False
    for name in groups:
        key = found[name]
        begins[1:] |= key[1:].ne_missing(key[:-1]).to_numpy()
    row = np.arange(found.height)
    place = row - np.maximum.accumulate(np.where(begins, row, 0))
    score = found[metric].cast(pl.Float64).to_numpy()
    beyond = np.flatnonzero(place == n)
    if np.isnan(score[place < n]).any() or (score[beyond] == score[beyond - 1]).any():
        return None
    return found[np.flatnonzero(place < n)]


def _low_is_good(
    con: Connection,
    where: str,
    params: dict[str, Any],
    column: str,
    groups: Sequence[str],
    stated: bool | None,
) -> bool:
    """Tell whether low scores come first: as it was said, else by the metrics of the rows.

    Warns where errors of several targets are ranked together; those of one chain are of one target.
    """
    of_chains = {"chain_id", "pipeline_id"} & set(groups)
    if not column.endswith("_score") or (stated is not None and of_chains):
        return stated is not False
    keys = "".join(f", {group} AS key_{place}" for place, group in enumerate(groups))
    about, chains = (
        "target, target_unit",
        "LEFT JOIN (SELECT chain_id, target, target_unit FROM chains) USING (chain_id)",
    )
    if of_chains:
        about, chains = "NULL, NULL", ""
    found = execute(
        con,
        f"SELECT DISTINCT {about}, of_metric{keys} FROM (SELECT *, lower(metric) AS of_metric FROM predictions "
        f"WHERE {where} AND {column} IS NOT NULL) {chains} ORDER BY ALL",
        params,
    ).fetchall()
    by_group: dict[tuple[Any, ...], set[str]] = {}
    kinds: dict[tuple[str, str | None], None] = {}
    for target, unit, metric, *key in found:
        name = "rmse" if metric in RMSE_BY_SET else metric
        by_group.setdefault(tuple(key), set()).add(name)
        if target is not None and name in WITH_UNIT:
            kinds[target, unit] = None
    names = sorted(set[str]().union(*by_group.values()))
    directions = {_is_high(name) for name in names}
    if stated is None and (len(directions) > 1 or any(len(several) > 1 for several in by_group.values())):
        raise InvalidInput(
            f"These predictions were scored by {', '.join(map(quoted, names))}, which do not rank together. Name one "
            "with scored_by=, or a data set, or say the direction with ascending=."
        )
    warn_of_targets(list(kinds), "rmse")
    return True not in directions if stated is None else stated


def with_targets(con: Connection, predictions: pl.DataFrame) -> pl.DataFrame:
    """Add what each prediction's chain predicts, and its unit."""
    ids = predictions["chain_id"].unique().drop_nulls()
    about = queries.targets_of(con, ids.to_list() if ids.len() <= _FEW else None)
    return predictions.join(about, on="chain_id", how="left", maintain_order="left")


def warn_of_targets(kinds: Sequence[tuple[str, str | None]], metric: str) -> None:
    """Warn of scores in one list that are about different targets, or in different units."""
    if len(kinds) > 1 and metric in WITH_UNIT:
        words = [f"{quoted(target)} ({quoted(unit)})" if unit else quoted(target) for target, unit in kinds]
        several = len({target for target, _ in kinds}) > 1
        warnings.warn(
            f"These chains predict different targets, whose {metric} cannot be compared: "
            f"{', '.join(words[:5])}{' and more' if len(words) > 5 else ''}. Name one with "
            f"{'target' if several else 'target_unit'}=, or rank by r2.",
            UserWarning,
            stacklevel=2,
        )


def _is_high(metric: str) -> bool:
    # A metric of a caller's own is taken for an error, as it always was.
    try:
        return higher_is_better(metric)
    except InvalidInput:
        return False


def top_predictions(
    con: Connection,
    n: int,
    metric: str,
    ascending: bool | None,
    partition: str | None,
    dataset_name: str | None,
    group_by: str | Sequence[str] | None,
    target: str | None = None,
    scored_by: str | None = None,
    target_unit: str | None = None,
) -> pl.DataFrame:
    """Best predictions, overall or of each group; NULL and NaN rank last in either direction."""
    if metric not in METRIC_COLUMNS:
        raise unknown_column("metric", metric, METRIC_COLUMNS)
    groups = columns_to_group(group_by, GROUP_COLUMNS)
    where, params = prediction_filters(
        partition=partition,
        dataset_name=dataset_name,
        target=target,
        target_unit=target_unit,
        metric=scored_by,
    )
    low_first = _low_is_good(con, where, params, metric, groups, ascending)
    params.update(page_of(n, 0))
    found = _best(con, n, metric, low_first, groups, where, params)
    return with_targets(con, found)


def _best(
    con: Connection,
    n: int,
    metric: str,
    ascending: bool,
    groups: Sequence[str],
    where: str,
    params: dict[str, Any],
) -> pl.DataFrame:
    bad = f"({metric} IS NULL OR isnan({metric}::DOUBLE))"
    rank = f"{bad}, {metric} {'ASC' if ascending else 'DESC'}, prediction_id"
    columns = columns_of("predictions")
    if not groups:
        page = f"ORDER BY {rank} LIMIT $limit OFFSET $offset"
        limit = params["limit"]
        if limit is not None and 1 <= limit <= _FEW:
            # DuckDB finds the best by one number three times as fast as by three columns.
            first = (
                f"ORDER BY {metric} {'ASC' if ascending else 'DESC'} NULLS LAST LIMIT $limit OFFSET $offset"
            )
            sql = f"SELECT {columns} FROM predictions WHERE {where} {first}"
            ranked = _best_by_score(con, sql, params, metric, ascending)
            if ranked is not None:
                return ranked
        sql = f"SELECT {columns} FROM predictions WHERE {where} {page}"
        if not _is_few(params):
            return frame(con, sql, params)
        return few_rows(execute(con, sql, params).fetchall(), arrow_schema("predictions"))
    del params["offset"]
    if params["limit"] is None:
        n = params["limit"] = _ALL
    keys = ", ".join(groups)
    if 1 <= n < _FEW:
        settled = _best_of_groups(
            con, f"{columns} FROM predictions WHERE {where}", params, groups, metric, ascending
        )
        if settled is not None:
            return settled
    if 1 <= n <= _FEW:
        # The best rows of each group by what orders them alone; a window would sort whole rows.
        key = f"ROW({bad}, {'' if ascending else '-'}{metric}, prediction_id)"
        best = f"unnest(arg_min(rowid, {key}, $limit)) FROM predictions WHERE {where} GROUP BY {keys}"
    else:
        best = (
            f"rowid FROM predictions WHERE {where} "
            f"QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY {rank}) <= $limit"
        )
    sql = f"SELECT {columns} FROM predictions WHERE rowid IN (SELECT {best}) ORDER BY {keys}, {rank}"
    return frame(con, sql, params)


def save_prediction(
    engine: Engine, pipeline_id: str, chain_id: str | None, given_id: Any, values: dict[str, Any]
) -> str:
    """Record one prediction row."""
    require_open_pipeline(engine, pipeline_id)
    if chain_id is not None:
        require(engine, "chain", chain_id)
    prediction_id = _prediction_id(engine, given_id)
    if not isinstance(values["fold_id"], str):
        values["fold_id"] = str(values["fold_id"])
    for name in ("scores", "best_params"):
        if values[name] is None:
            values[name] = {}
    row = checked("predictions", values)
    row |= {
        "prediction_id": prediction_id,
        "pipeline_id": pipeline_id,
        "chain_id": chain_id,
        "created_at": now_naive(),
    }
    with engine.recording() as buffer:
        buffer.add("predictions", row)
        engine.id_cache.add(
            "prediction", prediction_id, {"pipeline_id": pipeline_id, "arrays": False, "n": row["n_samples"]}
        )
    return prediction_id


def _prediction_id(engine: Engine, given: Any) -> str:
    """Return a new id or the caller's; refuse one that is taken, or the commit would be rejected later."""
    if given is None:
        return new_id()
    prediction_id = as_text(given, "prediction_id")
    if not prediction_id or _note_now(engine, prediction_id) is not None:
        raise InvalidInput(
            f"There is a prediction with the id {prediction_id!r} already (ids may not be empty either). "
            "Nothing was recorded."
        )
    return prediction_id


def _note_now(engine: Engine, prediction_id: str) -> dict[str, Any] | None:
    """Ask for the note of a prediction: what is known here may have been deleted by another store."""
    found = engine.recorder.find("predictions", prediction_id)
    if found is not None:
        return found
    if engine.recorder.in_transaction:
        engine.recorder.flush()  # what other threads recorded; `look_up` does it outside transactions only
    answered, note = engine.look_up(lambda con: queries.note_of(con, "prediction", prediction_id))
    return note if answered else engine.id_cache.get("prediction", prediction_id)


def save_prediction_arrays(
    engine: Engine,
    prediction_id: str,
    y_true: Any,
    y_pred: Any,
    y_proba: Any = None,
    sample_indices: Any = None,
    weights: Any = None,
) -> None:
    """Record the arrays of one prediction, once."""
    note = require(engine, "prediction", prediction_id)
    if note is not None and note.get("pipeline_id"):
        require_open_pipeline(engine, note["pipeline_id"])
    there = engine.recorder.find("prediction_arrays", prediction_id) is not None
    if not there and note is not None and note.get("arrays"):
        note = _note_now(engine, prediction_id)
        if note is None:
            engine.id_cache.forget("prediction", prediction_id)
            raise UnknownId("prediction", prediction_id, "It was deleted. Nothing was recorded.")
        there = bool(note.get("arrays"))
    if there:
        raise InvalidInput(f"Prediction {prediction_id} has its arrays already; nothing was changed.")
    given = dict(zip(ARRAY_NAMES, (y_true, y_pred, y_proba, sample_indices, weights), strict=True))
    encoded = {name: encode_array(value, name) for name, value in given.items() if value is not None}
    lengths = {name: (array.shape[0] if array.ndim else -1) for name, (_, array) in encoded.items()}
    if -1 in lengths.values() or len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {array.shape}" for name, (_, array) in encoded.items())
        raise ShapeMismatch(
            f"The arrays of prediction {prediction_id} must have one entry per sample, all of equal length; found "
            f"{found}. Nothing was recorded."
        )
    with engine.recording() as buffer:
        row: dict[str, Any] = {
            "prediction_id": prediction_id,
            "pipeline_id": None if note is None else note.get("pipeline_id"),
        }
        for name, (stored, _) in encoded.items():
            row[name] = buffer.add_array(stored)
        buffer.add("prediction_arrays", row)
        engine.id_cache.add("prediction", prediction_id, {**(note or {}), "arrays": True})
