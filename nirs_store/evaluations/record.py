"""Record an evaluation: check everything, make its tables durable, then write rows and champion in one transaction."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.audit.trail import attempting
from nirs_store.db.database import Connection
from nirs_store.db.session import Engine
from nirs_store.db.table import Row, Table
from nirs_store.errors import InvalidInput, ShapeMismatch, UnknownId
from nirs_store.evaluations import rows
from nirs_store.evaluations.champions import crown
from nirs_store.evaluations.rows import BETTER, STATUSES, better_of
from nirs_store.evaluations.tables import TABLES, as_table, to_parquet
from nirs_store.ids import naive, new_id, now_naive, sha256_hex
from nirs_store.lazy import polars as pl
from nirs_store.records.artifacts import hold
from nirs_store.records.notes import check_guard, note
from nirs_store.records.runs import as_list, capture_environment
from nirs_store.scores import classification_scores, regression_scores
from nirs_store.values import (
    as_array,
    as_float,
    as_name,
    as_text,
    column_names,
    index_names,
    is_frame,
    native,
    one_of,
    to_json,
    whole_number,
)

_TABLE_TYPE = "evaluation_table"
_TABLE_CLASS = "polars.DataFrame"
# An id names files of an export too.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_GLOBAL = ("global_score", "score")
# A figure that was rounded to two decimals says the same.
_ROUNDED = 0.005 + 1e-9
_COLUMNS = ("sample", "y_true", "y_pred")


@dataclass
class _Draft:
    """An evaluation that was checked by itself; `metric` and `better` are what was asked for."""

    row: Row
    tables: dict[str, pl.DataFrame]
    metric: str | None
    better: str | None


def record(engine: Engine, model_id: str, suite: str, scores: Any, about: Mapping[str, Any]) -> str:
    """Record an evaluation; `about` has the other arguments of `Evaluations.record`."""
    engine.check_writable()
    given = about["evaluation_id"]
    identifier = new_id() if given is None else given
    with attempting(engine, "record_evaluation", "evaluation", identifier):
        draft = _checked(identifier, model_id, suite, scores, about)
        texts = {name: about[name] for name in ("metadata", "message", "parameters")}
        check_guard(
            engine, {name: each for name, each in {**texts, "tags": [*about["tags"]]}.items() if each}
        )
        _store(engine, draft, champion=about["champion"])
    facts = {"model_id": model_id, "suite": suite}
    note(engine, "record_evaluation", "evaluation", identifier, details=facts)
    return str(identifier)


def check_score(value: Any, rank: Any, needed: Mapping[str, Any]) -> float:
    """Return the score that a champion is set by; raise where it is not enough for that."""
    missing = [name for name, each in {**needed, "value": value}.items() if each is None]
    if missing:
        raise InvalidInput(
            f"set_champion: expected an evaluation, or model_id, suite, metric and value; {', '.join(missing)} "
            "missing. Nothing was changed."
        )
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise InvalidInput(f"value: expected a finite number, found {value!r}. Nothing was changed.")
    whole_number("rank", rank, 1)
    return float(value)


def _checked(identifier: Any, model_id: Any, suite: Any, scores: Any, about: Mapping[str, Any]) -> _Draft:
    """Check everything that can be checked without the catalog."""
    if not isinstance(identifier, str) or _ID.fullmatch(identifier) is None:
        raise InvalidInput(
            f"evaluation_id: expected at most 128 letters, digits, '_', '.' and '-', found {identifier!r}. "
            "Nothing was recorded."
        )
    tables = {name: as_table(about[name], name) for name in TABLES if about[name] is not None}
    found = _scores(scores)
    metadata, message, metric, better = (about[each] for each in ("metadata", "message", "metric", "better"))
    chain_id, run_id, created_at = (about[each] for each in ("chain_id", "run_id", "created_at"))
    row: Row = {
        "evaluation_id": identifier,
        "model_id": as_name(model_id, "model_id"),
        "suite": as_name(suite, "suite"),
        "chain_id": None if chain_id is None else as_text(chain_id, "chain_id"),
        "run_id": None if run_id is None else as_text(run_id, "run_id"),
        "status": one_of("status", about["status"], STATUSES),
        "scores": found,
        "success_rate": _rate(about["success_rate"], tables.get("episodes")),
        **{f"n_{name}": tables[name].height if name in tables else None for name in TABLES},
        "files": [as_text(each, "files") for each in as_list(about["files"], "files", "texts")],
        "tags": [as_name(each, "tags") for each in as_list(about["tags"], "tags", "texts")],
        "metadata": None if metadata is None else dict(metadata),
        "environment": capture_environment(
            seeds=about["seeds"], parameters=about["parameters"], container=about["container"]
        ),
        "message": None if message is None else as_text(message, "message"),
        "created_at": now_naive() if created_at is None else _moment(created_at),
    }
    for name in ("scores", "files", "tags", "metadata", "environment"):
        # Refused here, before a table is written, if it is not plain data.
        to_json(row[name], name)
    if better is not None:
        one_of("better", better, BETTER)
    if metric is not None:
        one_of("metric", metric, [*found, "success_rate"])
    return _Draft(row, tables, metric, better)


def _store(engine: Engine, draft: _Draft, *, champion: bool) -> None:
    # Before any file is written; and again in the transaction, where nothing can come in between.
    engine.query(lambda con: _check(con, draft))
    row = draft.row
    blobs: list[Row] = []
    # The session's row comes before any claim of its.
    with engine.recording():
        pass
    with ExitStack() as held:
        for what, table in draft.tables.items():
            data = to_parquet(table)
            artifact_id = row[f"{what}_id"] = sha256_hex(data)
            # Claim first, look second: a gc that did not see the claim has moved the file away by now.
            held.enter_context(engine.recorder.claiming(artifact_id))
            info = engine.blobs.put(data, "parquet", digest=artifact_id)
            kind = {"operator_class": _TABLE_CLASS, "artifact_type": _TABLE_TYPE}
            blob = {"artifact_path": info.path, "content_hash": artifact_id, "size_bytes": info.size, **kind}
            blobs.append({"artifact_id": artifact_id, "format": "parquet", **blob})
        engine.blobs.wait([blob["artifact_id"] for blob in blobs])

        def write(con: Connection) -> None:
            row["metric"], row["better"] = _check(con, draft)
            _insert(con, row, blobs)
            if champion and row["status"] == "completed":
                crown(con, row)

        # Unlike `engine.change`, it waits for a gc that is still deleting files: they may be those that come now.
        engine.exclusive(lambda access: access.transact(write))
    if blobs:
        engine.recorder.release_claims()


def _insert(con: Connection, row: Row, blobs: Sequence[Row]) -> None:
    """Insert an evaluation, what it holds and the files that it was made from; its chain is in its own row."""
    Table(con, "evaluations").insert([row])
    identifier, made = row["evaluation_id"], {"created_at": now_naive()}
    # Episodes that are the samples too are one blob with one reference.
    blobs = list({blob["artifact_id"]: {**blob, **made} for blob in blobs}.values())
    Table(con, "blobs").insert(blobs, "OR IGNORE")
    held = [(identifier, blob["artifact_id"], blob["artifact_type"]) for blob in blobs]
    hold(con, "evaluation", held, _TABLE_CLASS)
    link = {"target_kind": "evaluation", "target_id": identifier, "link_type": "derived_from", **made}
    Table(con, "lineage_links").insert(
        [
            {"link_id": new_id(), "source_kind": "file", "source_id": version_id, **link}
            for version_id in row["files"]
        ]
    )


def _check(con: Connection, draft: _Draft) -> tuple[str, str]:
    """Check against what is recorded already; return the metric that ranks and its direction."""
    row = draft.row
    for kind in ("run", "chain"):
        identifier = row[f"{kind}_id"]
        if identifier is not None and not Table(con, f"{kind}s").keys(**{f"{kind}_id": identifier}):
            raise UnknownId(kind, identifier, "Nothing was recorded.")
    if Table(con, "evaluations").keys(evaluation_id=row["evaluation_id"]):
        raise InvalidInput(
            f"evaluation_id: {row['evaluation_id']!r} is recorded already. Nothing was changed; give another id, or "
            "none."
        )
    chosen = draft.metric or _metric(con, row)
    stated = rows.direction_of(con, row["suite"], chosen)
    if draft.better is not None and stated is not None and draft.better != stated:
        raise InvalidInput(
            f"better: in the suite {row['suite']!r} {stated!r} is better for {chosen!r}, found {draft.better!r}. "
            "Nothing was recorded; use another suite, or another name for the score."
        )
    return chosen, better_of(chosen, draft.better or stated)


def _metric(con: Connection, row: Row) -> str:
    """Return the score that ranks when none is asked for: the suite's metric, else the first one."""
    before, found = rows.suite_metric(con, row["suite"]), row["scores"]
    if before is not None and (before[0] in found or before[0] == "success_rate"):
        return before[0]
    return next((name for name in (*_GLOBAL, *found) if name in found), "success_rate")


def _scores(scores: Any) -> dict[str, float | None]:
    if isinstance(scores, Mapping):
        found = {
            as_text(name, "scores"): as_float(value, f"scores[{name!r}]") for name, value in scores.items()
        }
    else:
        found = {"score": as_float(scores, "scores")}
    if not found or all(value is None for value in found.values()):
        raise InvalidInput(
            "scores: expected a number, or a mapping of names to numbers with at least one; found none. "
            "Nothing was recorded."
        )
    return {name: None if value is None or math.isnan(value) else value for name, value in found.items()}


def _rate(given: float | None, episodes: pl.DataFrame | None) -> float | None:
    rate, mean = as_float(given, "success_rate"), None
    if episodes is not None and "success" in episodes.columns:
        column = episodes["success"]
        if column.dtype == pl.Boolean or column.dtype.is_numeric():
            mean = column.cast(pl.Float64).mean()
    if isinstance(mean, float):
        if rate is not None and abs(rate - mean) > _ROUNDED:
            raise InvalidInput(
                f"success_rate: found {rate!r}, but of the episodes {mean:.4g} succeeded. Nothing was recorded. Leave "
                "success_rate out, or give the episodes that it is about."
            )
        rate = mean
    if rate is not None and not 0 <= rate <= 1:
        raise InvalidInput(
            f"success_rate: expected a share between 0 and 1, found {rate!r}. Nothing was recorded."
        )
    return rate


def _moment(value: Any) -> Any:
    if not hasattr(value, "astimezone"):
        raise InvalidInput(f"created_at: expected a datetime, found {value!r}. Nothing was recorded.")
    return naive(value)


# -- A chain of this store as an evaluation: its predictions for new spectra, scored as the field does.


def evaluate(
    X: Any, y: Any, predicted: NDArray[Any], groups: Any
) -> tuple[dict[str, float], str, dict[str, Any]]:
    """Return scores, the one that ranks, and the columns of the table of samples."""
    truth = _column(as_array(y, "y"), "y")
    guess = _column(np.asarray(predicted), "the chain's predictions")
    if len(truth) != len(guess):
        raise ShapeMismatch(
            f"y: expected one value per sample, {len(guess)} of them, found {len(truth)}. Nothing was recorded."
        )
    numeric = truth.dtype.kind in "fiu" and guess.dtype.kind in "fiu"
    labels = truth.dtype.kind in "UOb" or guess.dtype.kind in "UOb"
    if not numeric and not labels:
        raise InvalidInput(f"y: expected numbers or labels, found {truth.dtype}. Nothing was recorded.")
    table: dict[str, Any] = {"sample": _names(X, len(truth))}
    if numeric and not (truth.dtype.kind in "iu" and guess.dtype.kind in "iu"):
        found = regression_scores(truth, guess)
        scores = {"rmsep": found.pop("rmse"), **found}
        metric = "rmsep"
        table |= {"y_true": truth.astype(np.float64), "y_pred": guess.astype(np.float64)}
    else:
        # A regression predicts floats, so whole numbers on both sides are labels.
        scores = classification_scores(truth, guess)
        scores.pop("log_loss")
        metric = "balanced_accuracy"
        table |= {"y_true": truth.tolist(), "y_pred": guess.tolist()}
    scores.pop("n")
    table |= _groups(groups, len(truth))
    return {name: float(value) for name, value in scores.items()}, metric, table


def _column(values: NDArray[Any], name: str) -> NDArray[Any]:
    array = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    if array.ndim != 1 or not len(array):
        raise ShapeMismatch(
            f"{name}: expected one value per sample in one column, found shape {values.shape}. Nothing was recorded."
        )
    return array


def _names(X: Any, n: int) -> list[Any]:
    names = index_names(X) if is_frame(X) else None
    found = list(range(n)) if names is None else names.tolist()
    # Names that repeat cannot say which rows belong together.
    return found if len(set(found)) == n else list(range(n))


def _groups(groups: Any, n: int) -> dict[str, Any]:
    if groups is None:
        return {}
    groups = native(groups, "groups")
    if isinstance(groups, Mapping):
        columns = {str(name): values for name, values in groups.items()}
    elif is_frame(groups):
        columns = {str(name): groups[name] for name in column_names(groups)}
    else:
        columns = {"group": groups}
    found: dict[str, Any] = {}
    for name, values in columns.items():
        if name in _COLUMNS:
            raise InvalidInput(f"groups: {name!r} is a column of the table already. Give it another name.")
        array = as_array(values, f"groups[{name!r}]")
        if array.shape != (n,):
            raise ShapeMismatch(
                f"groups[{name!r}]: expected one value per sample, {n} of them, found the shape {array.shape}. "
                "Nothing was recorded."
            )
        found[name] = pl.Series(name, array.tolist())
    return found
