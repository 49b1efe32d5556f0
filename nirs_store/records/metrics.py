"""Training curves: values of a pipeline by step, recorded through the journal and read as a frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nirs_store.db.database import Connection
from nirs_store.db.session import Engine
from nirs_store.db.sql import execute
from nirs_store.errors import InvalidInput, ShapeMismatch, shortened
from nirs_store.ids import new_id, now_naive
from nirs_store.lazy import polars as pl
from nirs_store.records.lookup import whole_ids_of
from nirs_store.records.runs import require
from nirs_store.values import as_array, as_name, as_text, is_text, whole_number

# Points in one row of the table: reading one curve must not take memory for a whole one.
_CHUNK = 1 << 17
_MOST_STEP = 2**63 - 1


def log_metrics(engine: Engine, pipeline_id: str, name: str, values: Any, steps: Any) -> None:
    """Record points of one curve; NaN and infinities are kept."""
    require(engine, "pipeline", pipeline_id)
    called = as_name(name, "name")
    points = _values(values)
    numbers = np.arange(points.size, dtype=np.int64) if steps is None else _steps(steps)
    if points.size != numbers.size:
        raise ShapeMismatch(f"{points.size} values but {numbers.size} steps. Nothing was recorded.")
    with engine.recording() as buffer:
        at = now_naive()
        for begin in range(0, points.size, _CHUNK):
            end = begin + _CHUNK
            buffer.add(
                "metrics",
                {
                    "metric_id": new_id(),
                    "pipeline_id": pipeline_id,
                    "name": called,
                    "n_points": points[begin:end].size,
                    "steps": numbers[begin:end].astype("<i8").tobytes(),
                    "step_values": points[begin:end].astype("<f8").tobytes(),
                    "logged_at": at,
                },
            )
        buffer.nbytes += points.nbytes + numbers.nbytes


def _values(given: Any) -> np.ndarray:
    try:
        plain = np.array(as_array(given, "values"), ndmin=1)
        if plain.dtype.kind not in "biufO":
            raise TypeError
        found = plain.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(
            f"values: expected numbers, found {shortened(repr(given), 60)}. Nothing was recorded."
        ) from error
    if found.ndim != 1:
        raise ShapeMismatch(f"values: expected one dimension, found {found.shape}. Nothing was recorded.")
    return found


def _steps(given: Any) -> np.ndarray:
    found = np.array(as_array(given, "steps"), ndmin=1)
    whole = found.astype(np.int64) if found.dtype.kind in "iu" else np.empty(0, np.int64)
    if found.ndim != 1 or found.dtype.kind not in "iu" or (whole < 0).any():
        raise InvalidInput(
            f"steps: expected whole numbers from 0 to {_MOST_STEP}, found {found.dtype} of shape {found.shape}. "
            "Nothing was recorded."
        )
    return whole


def get_metrics(
    engine: Engine,
    pipeline_ids: str | Sequence[str],
    names: str | Sequence[str] | None,
    max_points: int | None,
) -> pl.DataFrame:
    """Read curves, point by point or thinned; see `WorkspaceStore.get_metrics`."""
    listed = [pipeline_ids] if isinstance(pipeline_ids, str) else list(pipeline_ids)
    whole = whole_ids_of(engine, ("pipeline",), listed)
    chosen = [names] if isinstance(names, str) else names
    return engine.query(lambda con: _read(con, whole, chosen, max_points))


def _read(
    con: Connection, pipeline_ids: Sequence[str], names: Sequence[str] | None, max_points: int | None
) -> pl.DataFrame:
    if max_points is not None:
        whole_number("max_points", max_points, 2, "")
    rows = execute(
        con,
        "SELECT m.pipeline_id, l.name, l.run_id, m.name, m.logged_at, m.steps, m.step_values FROM metrics m "
        "LEFT JOIN pipelines l USING (pipeline_id) WHERE m.pipeline_id IN (SELECT unnest($ids::VARCHAR[])) "
        "AND ($names IS NULL OR m.name IN (SELECT unnest($names::VARCHAR[]))) "
        "ORDER BY m.pipeline_id, m.name, m.metric_id",
        {
            "ids": [each for each in pipeline_ids if is_text(each)],
            "names": None if names is None else [as_text(each, "names") for each in names],
        },
    ).fetchall()
    curves: dict[tuple[str, str], list[tuple[Any, ...]]] = {}
    for row in rows:
        curves.setdefault((row[0], row[3]), []).append(row)
    frames = [_curve(parts, max_points) for parts in curves.values()]
    return pl.concat(frames) if frames else _curve([("", "", "", "", now_naive(), b"", b"")], None)


def _curve(parts: Sequence[tuple[Any, ...]], max_points: int | None) -> pl.DataFrame:
    """Make the frame of one curve, of its rows in the order in which they were recorded."""
    steps = np.concatenate([np.frombuffer(part[5], "<i8") for part in parts])
    values = np.concatenate([np.frombuffer(part[6], "<f8") for part in parts])
    sizes = [len(part[5]) // 8 for part in parts]
    order = np.argsort(steps, kind="stable")  # points of one step stay in their order
    if max_points is not None and steps.size > max_points:
        order = _thinned(steps, values, order, max_points // 2)
    logged = pl.Series([part[4] for part in parts], dtype=pl.Datetime("us")).dt.replace_time_zone("UTC")
    points = {
        "step": steps[order],
        "value": values[order],
        "logged_at": logged.gather(np.repeat(np.arange(len(parts)), sizes)[order]),
    }
    about = dict(zip(("pipeline_id", "pipeline", "run_id", "name"), parts[0], strict=False))
    return pl.DataFrame(points).select(
        *(pl.lit(text, pl.String).alias(name) for name, text in about.items()), *points
    )


def _thinned(steps: np.ndarray, values: np.ndarray, order: np.ndarray, spans: int) -> np.ndarray:
    """Keep, of each of equal spans of steps, the smallest and the largest value; NaN counts as the largest."""
    placed = steps[order]
    # As floats: the difference of two whole numbers of 64 bits may not be one.
    share = (placed - float(placed[0])) / max(float(placed[-1]) - float(placed[0]), 1.0)
    span = np.minimum((share * spans).astype(np.int64), spans - 1)
    begins = np.flatnonzero(np.diff(span, prepend=-1))
    sorted_values = values[order]
    low = np.where(np.isnan(sorted_values), np.inf, sorted_values)
    kept = set()
    for begin, end in zip(begins, np.append(begins[1:], order.size), strict=True):
        kept |= {begin + int(low[begin:end].argmin()), begin + int(sorted_values[begin:end].argmax())}
    found: np.ndarray = order[np.array(sorted(kept))]
    return found
