"""`Evaluations`: what was evaluated, how well, and who leads. Offered as `store.evaluations`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.addresses import user_path
from nirs_store.audit import trail as audit
from nirs_store.audit.trail import note
from nirs_store.db.changes import PROMOTED
from nirs_store.db.database import CatalogAccess, Connection
from nirs_store.db.session import Engine
from nirs_store.db.table import Table
from nirs_store.errors import InvalidInput, NirsStoreError, ShapeMismatch, UnknownId
from nirs_store.evaluations import rows
from nirs_store.evaluations import statistics as boards
from nirs_store.evaluations import statistics as comparisons
from nirs_store.evaluations.report import Summary, summarise
from nirs_store.evaluations.rows import BETTER, STATUSES, value_of
from nirs_store.evaluations.statistics import (
    TABLES,
    ModelComparison,
    as_table,
    better_of,
    export_table,
    sort_value,
    table_of,
    to_parquet,
)
from nirs_store.ids import naive, new_id, now_naive, sha256_hex
from nirs_store.lazy import polars as pl
from nirs_store.maintenance import trash
from nirs_store.records.lookup import whole_ids
from nirs_store.records.notes import check_guard
from nirs_store.records.runs import capture_environment
from nirs_store.scores import classification_scores, regression_scores
from nirs_store.values import (
    as_array,
    as_float,
    as_name,
    as_text,
    column_names,
    from_json,
    index_names,
    is_frame,
    native,
    one_of,
    to_json,
)

__all__ = [
    "BY_HAND",
    "FOUND",
    "Crowning",
    "Evaluations",
    "ModelComparison",
    "Questions",
    "Summary",
    "choice",
    "choose",
    "crown",
    "delete",
    "evaluate",
    "find",
    "improvements",
    "plan",
    "put",
    "record",
    "vacate",
]


# -- What is asked of evaluations: champions, leaderboards, comparisons, curves, trends, a summary.


class Questions:
    """The questions of `Evaluations`; each changes nothing."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def suites(self) -> list[str]:
        """Names of all suites."""
        return self._engine.query(rows.suites)

    def champions(self, suite: str | None = None, metric: str | None = None) -> pl.DataFrame:
        """Who holds which rank now."""
        return _with_gain(self._engine.query(lambda con: rows.champion_rows(con, suite=suite, metric=metric)))

    def progression(
        self,
        suite: str | None = None,
        metric: str | None = None,
        *,
        rank: int | None = 1,
        limit: int | None = None,
    ) -> pl.DataFrame:
        """How champions followed each other, oldest first; `limit` takes the newest. Columns as `champions`."""
        return _with_gain(
            self._engine.query(
                lambda con: rows.champion_rows(
                    con, suite=suite, metric=metric, rank=rank, current=False, limit=limit
                )
            )
        )

    def leaderboard(
        self,
        suite: str,
        metric: str | None = None,
        *,
        models: Sequence[str] | None = None,
        which: str = "latest",
        confidence: float = 0.95,
        n_resamples: int = 2000,
        seed: int = 0,
    ) -> pl.DataFrame:
        """Rank the models of a suite, with bootstrap confidence intervals."""
        return boards.leaderboard(
            self._engine,
            suite,
            metric,
            models=models,
            which=which,
            confidence=confidence,
            n_resamples=n_resamples,
            seed=seed,
        )

    def by_group(
        self,
        suite: str,
        by: str,
        metric: str | None = None,
        *,
        models: Sequence[str] | None = None,
        which: str = "latest",
        wide: bool = False,
        confidence: float = 0.95,
        n_resamples: int = 2000,
        seed: int = 0,
    ) -> pl.DataFrame:
        """Give a metric for each group of episodes or samples, for instance each map or instrument."""
        return boards.by_group(
            self._engine,
            suite,
            by,
            metric,
            models=models,
            which=which,
            wide=wide,
            confidence=confidence,
            n_resamples=n_resamples,
            seed=seed,
        )

    def compare(
        self,
        suite: str,
        metric: str | None = None,
        *,
        models: Sequence[str] | None = None,
        which: str = "latest",
        test: str = "wilcoxon",
        correction: str = "bh",
        pair_by: str | None = None,
        alpha: float = 0.05,
    ) -> ModelComparison:
        """Compare every model with every other on the same episodes or samples."""
        return comparisons.compare(
            self._engine,
            suite,
            metric,
            models=models,
            which=which,
            test=test,
            correction=correction,
            pair_by=pair_by,
            alpha=alpha,
        )

    def pareto(
        self,
        suite: str,
        objectives: Sequence[str] | Mapping[str, str],
        *,
        models: Sequence[str] | None = None,
        which: str = "latest",
    ) -> pl.DataFrame:
        """Find the models that no other beats in all objectives at once."""
        return boards.pareto(self._engine, suite, objectives, models=models, which=which)

    def robustness(
        self,
        suite: str,
        by: str,
        metric: str | None = None,
        *,
        models: Sequence[str] | None = None,
        which: str = "latest",
        confidence: float = 0.95,
        n_resamples: int = 2000,
        seed: int = 0,
    ) -> pl.DataFrame:
        """Follow a metric along a column of numbers, for instance the strength of a disturbance."""
        return boards.robustness(
            self._engine,
            suite,
            by,
            metric,
            models=models,
            which=which,
            confidence=confidence,
            n_resamples=n_resamples,
            seed=seed,
        )

    def trend(self, suite: str, metric: str | None = None, *, model_id: str | None = None) -> pl.DataFrame:
        """Follow the recorded values over time."""
        return boards.trend(self._engine, suite, metric, model_id=model_id)

    def summary(
        self,
        suite: str,
        metric: str | None = None,
        *,
        by: str | None = None,
        alpha: float = 0.05,
        confidence: float = 0.95,
        n_resamples: int = 2000,
        seed: int = 0,
    ) -> Summary:
        """Sum a suite up on a page, with recommendations."""
        drawing = {"confidence": confidence, "n_resamples": n_resamples, "seed": seed}
        return summarise(self._engine, suite, metric, by=by, alpha=alpha, **drawing)


def _with_gain(found: pl.DataFrame) -> pl.DataFrame:
    """Return the improvement in the metric itself as a column of its own."""
    gains = [(from_json(row["improvements"]) or {}).get(row["metric"]) for row in found.iter_rows(named=True)]
    return found.with_columns(pl.Series("improvement", gains, pl.Float64))


# -- Champions: who holds a rank of a suite, since when, whom they followed and by how much they are better.


FOUND = "found"
BY_HAND = "hand"


def improvements(
    con: Connection, now: Mapping[str, Any], before: Mapping[str, Any] | None
) -> dict[str, float] | None:
    """By how much each score that both have is better; positive is better in every metric."""
    if before is None:
        return None
    found: dict[str, float] = {}
    for name in dict.fromkeys([*now["scores"], "success_rate"]):
        mine, theirs = value_of(now, name), value_of(before, name)
        if mine is None or theirs is None:
            continue
        better = better_of(name, rows.directions(con, now["suite"], name))
        change = sort_value(mine, better) - sort_value(theirs, better)
        if math.isfinite(change):
            found[name] = change
    return found


def crown(con: Connection, evaluation: Mapping[str, Any]) -> bool:
    """Make an evaluation champion where it is better than whoever holds the first rank.

    A champion set by hand stays until somebody sets another or has the champions found again.
    """
    metric = evaluation["metric"]
    value = value_of(evaluation, metric)
    if value is None or math.isnan(value):
        return False
    held = _holder(con, evaluation["suite"], metric, 1)
    if held is not None:
        if held["chosen_by"] == BY_HAND:
            return False
        better = evaluation["better"]
        if not sort_value(value, better) > sort_value(held["value"], better):
            return False
    put(con, evaluation, metric, 1, FOUND, None, held)
    return True


def put(
    con: Connection,
    evaluation: Mapping[str, Any],
    metric: str,
    rank: int,
    chosen_by: str,
    words: str | None,
    held: Mapping[str, Any] | None,
) -> str:
    """Write one change of a rank; gives its id."""
    before = None if held is None else rows.evaluation_of(con, held["evaluation_id"])
    champion_id = new_id()
    gained = improvements(con, evaluation, before)
    row = {
        "champion_id": champion_id,
        "suite": evaluation["suite"],
        "metric": metric,
        "model_id": evaluation["model_id"],
        "evaluation_id": evaluation["evaluation_id"],
        "rank": rank,
        "value": value_of(evaluation, metric),
        "previous_id": None if held is None else held["champion_id"],
        "improvements": gained,
        "chosen_by": chosen_by,
        "note": words,
        "made_at": now_naive(),
    }
    Table(con, "champions").insert([row])
    return champion_id


def choice(
    con: Connection, evaluation_id: str, metric: str | None, rank: int
) -> tuple[dict[str, Any], str, dict[str, Any] | None]:
    """Check a choice by hand: its evaluation, the metric, and who holds the rank so far."""
    evaluation = rows.evaluation_of(con, evaluation_id)
    if evaluation is None:
        raise UnknownId("evaluation", evaluation_id, "Nothing was changed.")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise InvalidInput(
            f"rank: expected a whole number of at least 1, found {rank!r}. Nothing was changed."
        )
    chosen = metric or evaluation["metric"]
    if value_of(evaluation, chosen) is None:
        raise InvalidInput(
            f"metric: evaluation {evaluation_id} has no {chosen!r}; it has {', '.join(evaluation['scores'])}. "
            "Nothing was changed."
        )
    return evaluation, chosen, _holder(con, evaluation["suite"], chosen, rank)


def choose(con: Connection, evaluation_id: str, metric: str | None, rank: int, words: str | None) -> str:
    """Set a champion by hand."""
    evaluation, chosen, held = choice(con, evaluation_id, metric, rank)
    return put(con, evaluation, chosen, rank, BY_HAND, words, held)


def find(con: Connection, suite: str, metric: str | None, top: int) -> list[str]:
    """Find the champions of a suite anew among all its evaluations: the best of each model, by rank.

    Also replaces champions that were set by hand. A rank whose holder stays the same gets no row.
    """
    if not isinstance(top, int) or isinstance(top, bool) or top < 1:
        raise InvalidInput(f"top: expected a whole number of at least 1, found {top!r}. Nothing was changed.")
    default = rows.suite_metric(con, suite)
    if default is None:
        raise UnknownId(
            "suite", suite, f"There are: {', '.join(rows.suites(con)) or 'none'}. Nothing was changed."
        )
    chosen = metric or default[0]
    better = better_of(chosen, rows.directions(con, suite, chosen))
    best: dict[str, tuple[float, dict[str, Any]]] = {}
    for identifier in rows.evaluation_rows(con, {"suite": suite, "status": "completed"})["evaluation_id"]:
        evaluation = rows.evaluation_of(con, identifier) or {}
        strength = sort_value(value_of(evaluation, chosen), better)
        model = evaluation["model_id"]
        # Of equals the first one stays.
        if math.isfinite(strength) and (model not in best or strength > best[model][0]):
            best[model] = strength, evaluation
    ranked = sorted(best.values(), key=lambda pair: -pair[0])[:top]
    if not ranked:
        raise InvalidInput(
            f"metric: no completed evaluation of {suite!r} has {chosen!r}. Nothing was changed."
        )
    made = []
    for rank, (_, evaluation) in enumerate(ranked, start=1):
        held = _holder(con, suite, chosen, rank)
        same = held is not None and held["evaluation_id"] == evaluation["evaluation_id"]
        if not same or held is None or held["chosen_by"] == BY_HAND:
            made.append(put(con, evaluation, chosen, rank, FOUND, None, held))
    for held in rows.champion_rows(con, suite=suite, metric=chosen).to_dicts():
        if held["rank"] > len(ranked):
            vacate(con, held)
    return made


def vacate(con: Connection, held: Mapping[str, Any]) -> None:
    """Write that nobody holds a rank any more."""
    names = ("suite", "metric", "rank", "model_id", "evaluation_id")
    empty = {"champion_id": new_id(), "previous_id": held["champion_id"], "chosen_by": "vacant"}
    row = {**{name: held[name] for name in names}, **empty, "made_at": now_naive()}
    Table(con, "champions").insert([row])


def _holder(con: Connection, suite: str, metric: str, rank: int) -> dict[str, Any] | None:
    found = rows.champion_rows(con, suite=suite, metric=metric, rank=rank).to_dicts()
    return found[0] if found else None


# -- Setting champions by hand, and finding them again.


class Crowning(Questions):
    """What changes champions."""

    @whole_ids
    def set_champion(
        self,
        evaluation_id: str | None = None,
        *,
        metric: str | None = None,
        rank: int = 1,
        note: str | None = None,
        model_id: str | None = None,
        suite: str | None = None,
        value: float | None = None,
        better: str | None = None,
        chain_id: str | None = None,
    ) -> str:
        """Set a champion of a suite by hand; it stays until another is set or found.

        Parameters
        ----------
        evaluation_id : str, optional
            The evaluation that the champion comes from. Without one, give `model_id`, `suite`, `metric` and `value`: an
            evaluation that holds this one score, tagged ``by hand``, is recorded first.
        metric, rank, note
            The metric of the rank (the evaluation's when None), the rank, and why.
        model_id, suite, value, better, chain_id
            Without an evaluation: the model, the suite, its score, ``"higher"`` or ``"lower"`` where the suite has no
            such metric yet, and the chain it is.

        Returns
        -------
        str
            Id of the change.

        Raises
        ------
        UnknownId, InvalidInput
            Nothing was changed.
        """
        given = {"model_id": model_id, "suite": suite, "metric": metric, "value": value}
        if evaluation_id is None:
            missing = [name for name, each in given.items() if each is None]
            if missing:
                raise InvalidInput(
                    f"set_champion: expected an evaluation, or model_id, suite, metric and value; {', '.join(missing)} "
                    "missing. Nothing was changed."
                )
            if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
                raise InvalidInput(f"value: expected a finite number, found {value!r}. Nothing was changed.")
            if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
                raise InvalidInput(
                    f"rank: expected a whole number of at least 1, found {rank!r}. Nothing was changed."
                )
            evaluation_id = self.record(
                str(model_id), str(suite), {str(metric): value}, metric=metric, better=better, chain_id=chain_id,
                champion=False, tags=["by hand"], message=note,
            )  # fmt: skip
        elif model_id is not None or suite is not None or value is not None or chain_id is not None:
            raise InvalidInput("set_champion: give an evaluation, or a model with its score, not both.")
        chosen = str(evaluation_id)
        made = self._crowning(
            "set_champion",
            chosen,
            lambda con: choose(con, chosen, metric, rank, note),
        )
        return str(made)

    def plan_champion(
        self, evaluation_id: str, *, metric: str | None = None, rank: int = 1
    ) -> dict[str, Any]:
        """Tell what `set_champion` would do, and change nothing.

        Returns
        -------
        dict
            ``suite, metric, rank, model_id, evaluation_id, value``, and ``previous_model``, who holds the rank now.

        Raises
        ------
        UnknownId, InvalidInput
            As `set_champion`.
        """
        evaluation, chosen, held = self._engine.query(lambda con: choice(con, evaluation_id, metric, rank))
        return {
            "suite": evaluation["suite"],
            "metric": chosen,
            "rank": rank,
            "model_id": evaluation["model_id"],
            "evaluation_id": evaluation_id,
            "value": value_of(evaluation, chosen),
            "previous_model": None if held is None else held["model_id"],
        }

    def find_champions(self, suite: str, *, metric: str | None = None, top: int = 1) -> pl.DataFrame:
        """Find the champions of a suite anew among all its evaluations, also where one was set by hand.

        Parameters
        ----------
        top : int
            How many ranks; each model holds at most one.

        Returns
        -------
        polars.DataFrame
            As `champions`.

        Raises
        ------
        UnknownId, InvalidInput
            Nothing was changed.
        """
        self._crowning("find_champions", suite, lambda con: find(con, suite, metric, top))
        return self.champions(suite, metric)

    def _crowning(self, operation: str, what: str, work: Callable[[Connection], Any]) -> Any:
        try:
            made = self._engine.change(work)
        except NirsStoreError as error:
            audit.note(self._engine, operation, "evaluation", what, success=False, message=str(error))
            raise
        audit.note(self._engine, operation, "evaluation", what)
        return made


# -- Recording an evaluation: everything is checked, blobs are durable, then rows and champion in one transaction.


TABLE_TYPE = "evaluation_table"
# An id names files of an export too.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_GLOBAL = ("global_score", "score")


def record(
    engine: Engine,
    model_id: str,
    suite: str,
    scores: Mapping[str, float] | float,
    *,
    success_rate: float | None,
    episodes: Any,
    samples: Any,
    metric: str | None,
    better: str | None,
    chain_id: str | None,
    run_id: str | None,
    evaluation_id: str | None,
    status: str,
    champion: bool,
    files: Sequence[str],
    tags: Sequence[str],
    metadata: Mapping[str, Any] | None,
    seeds: Any,
    parameters: Mapping[str, Any] | None,
    container: str | None,
    message: str | None,
    created_at: Any,
) -> str:
    """Record an evaluation; see `Evaluations.record`."""
    engine.check_writable()
    identifier = evaluation_id if evaluation_id is not None else new_id()
    try:
        if not isinstance(identifier, str) or _ID.fullmatch(identifier) is None:
            raise InvalidInput(
                f"evaluation_id: expected at most 128 letters, digits, '_', '.' and '-', found {identifier!r}. "
                "Nothing was recorded."
            )
        tables = {
            name: as_table(value, name)
            for name, value in (("episodes", episodes), ("samples", samples))
            if value is not None
        }
        found = _scores(scores)
        rate = _rate(success_rate, tables.get("episodes"))
        row: dict[str, Any] = {
            "evaluation_id": identifier,
            "model_id": as_name(model_id, "model_id"),
            "suite": as_name(suite, "suite"),
            "chain_id": None if chain_id is None else as_text(chain_id, "chain_id"),
            "run_id": None if run_id is None else as_text(run_id, "run_id"),
            "status": one_of("status", status, STATUSES),
            "scores": dict(found),
            "success_rate": rate,
            "n_episodes": tables["episodes"].height if "episodes" in tables else None,
            "n_samples": tables["samples"].height if "samples" in tables else None,
            "files": [as_text(each, "files") for each in _listed(files, "files")],
            "tags": [as_name(each, "tags") for each in _listed(tags, "tags")],
            "metadata": None if metadata is None else dict(metadata),
            "environment": capture_environment(seeds=seeds, parameters=parameters, container=container),
            "message": None if message is None else as_text(message, "message"),
            "created_at": now_naive() if created_at is None else _moment(created_at),
        }
        for name in ("scores", "files", "tags", "metadata", "environment"):
            # Refused here, before a table is written, if it is not plain data.
            to_json(row[name], name)
        if better is not None:
            one_of("better", better, BETTER)
        if metric is not None and metric not in found and metric != "success_rate":
            one_of("metric", metric, [*found, "success_rate"])
        told = {"metadata": metadata, "tags": list(tags), "message": message, "parameters": parameters}
        check_guard(engine, {name: value for name, value in told.items() if value})
        _store(engine, row, tables, found, metric, better, champion)
    except NirsStoreError as error:
        note(engine, "record_evaluation", "evaluation", str(identifier), success=False, message=str(error))
        raise
    note(
        engine, "record_evaluation", "evaluation", identifier, details={"model_id": model_id, "suite": suite}
    )
    return identifier


def _store(
    engine: Engine,
    row: dict[str, Any],
    tables: Mapping[str, pl.DataFrame],
    found: Mapping[str, float | None],
    metric: str | None,
    better: str | None,
    champion: bool,
) -> None:
    # Before any file is written; and again in the transaction, where nobody can come in between.
    engine.query(lambda con: _check(con, row, found, metric, better))
    blobs: dict[str, tuple[str, dict[str, Any]]] = {}
    # The session's row comes before any claim of its.
    with engine.recording():
        pass
    with ExitStack() as held:
        for what, table in tables.items():
            data = to_parquet(table)
            artifact_id = sha256_hex(data)
            # Claim first, look second: a gc that did not see the claim has moved the file away by now.
            held.enter_context(engine.recorder.claiming(artifact_id))
            info = engine.blobs.put(data, "parquet", digest=artifact_id)
            row[f"{what}_id"] = artifact_id
            known = {
                "artifact_path": info.path,
                "content_hash": artifact_id,
                "operator_class": "polars.DataFrame",
                "artifact_type": TABLE_TYPE,
                "format": "parquet",
                "size_bytes": info.size,
            }
            blobs[artifact_id] = what, known
        engine.blobs.wait(list(blobs))

        def write(con: Connection) -> None:
            row["metric"], row["better"] = _check(con, row, found, metric, better)
            Table(con, "evaluations").insert([row])
            for artifact_id, (_, known) in blobs.items():
                rows.hold_blob(con, row["evaluation_id"], artifact_id, known)
            # That of its chain follows from its row.
            rows.link_files(con, row["evaluation_id"], row["files"])
            if champion and row["status"] == "completed":
                crown(con, row)

        def work(access: CatalogAccess) -> None:
            access.transact(write)

        engine.exclusive(work)
    if blobs:
        engine.recorder.release_claims()


def _check(
    con: Connection,
    row: Mapping[str, Any],
    found: Mapping[str, float | None],
    metric: str | None,
    better: str | None,
) -> tuple[str, str]:
    """Check against what is recorded already; gives the metric that ranks and its direction."""
    _check_owners(con, row)
    chosen = _metric(con, row, found, metric)
    said = rows.directions(con, row["suite"], chosen)
    if better is not None and said is not None and better != said:
        raise InvalidInput(
            f"better: in the suite {row['suite']!r} {said!r} is better for {chosen!r}, found {better!r}. Nothing was "
            "recorded; use another suite, or another name for the score."
        )
    return chosen, better_of(chosen, better or said)


def _check_owners(con: Connection, row: Mapping[str, Any]) -> None:
    for kind in ("run", "chain"):
        identifier = row[f"{kind}_id"]
        if identifier is not None and not rows.exists(con, kind, identifier):
            raise UnknownId(kind, identifier, "Nothing was recorded.")
    if rows.exists(con, "evaluation", row["evaluation_id"]):
        raise InvalidInput(
            f"evaluation_id: {row['evaluation_id']!r} is recorded already. Nothing was changed; give another id, or "
            "none."
        )


def _metric(
    con: Connection, row: Mapping[str, Any], found: Mapping[str, float | None], asked: str | None
) -> str:
    """Return the score that counts: what was asked for, what the suite goes by, else the first one."""
    if asked is not None:
        return asked
    before = rows.suite_metric(con, row["suite"])
    if before is not None and (before[0] in found or before[0] == "success_rate"):
        return before[0]
    for name in (*_GLOBAL, *found):
        if name in found:
            return name
    return "success_rate"


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


_ROUNDED = 0.005 + 1e-9


def _rate(given: float | None, episodes: pl.DataFrame | None) -> float | None:
    rate, mean = as_float(given, "success_rate"), None
    if episodes is not None and "success" in episodes.columns:
        column = episodes["success"]
        if column.dtype == pl.Boolean or column.dtype.is_numeric():
            mean = column.cast(pl.Float64).mean()
    if isinstance(mean, float):
        # A figure that was rounded to two decimals says the same.
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


def _listed(values: Any, name: str) -> list[Any]:
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        raise InvalidInput(f"{name}: expected a list of texts, found {values!r}. Nothing was recorded.")
    return list(values)


def _moment(value: Any) -> Any:
    if not hasattr(value, "astimezone"):
        raise InvalidInput(f"created_at: expected a datetime, found {value!r}. Nothing was recorded.")
    return naive(value)


# -- A chain of this store as an evaluation: its predictions for new spectra, scored as the field does.


_TAKEN = ("sample", "y_true", "y_pred")


def evaluate(
    X: Any, y: Any, predicted: NDArray[Any], groups: Any
) -> tuple[dict[str, float], str, dict[str, Any]]:
    """Scores, the one that ranks, and the columns of the table of samples."""
    truth = _column(as_array(y, "y"), "y")
    guess = _column(np.asarray(predicted), "the chain's predictions")
    if len(truth) != len(guess):
        raise ShapeMismatch(
            f"y: expected a value a sample, {len(guess)} of them, found {len(truth)}. Nothing was recorded."
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
            f"{name}: expected one column with a value a sample, found the shape {values.shape}. Nothing was recorded."
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
        if name in _TAKEN:
            raise InvalidInput(f"groups: {name!r} is a column of the table already. Give it another name.")
        array = as_array(values, f"groups[{name!r}]")
        if array.shape != (n,):
            raise ShapeMismatch(
                f"groups[{name!r}]: expected a value a sample, {n} of them, found the shape {array.shape}. "
                "Nothing was recorded."
            )
        found[name] = pl.Series(name, array.tolist())
    return found


# -- Who holds the ranks of a suite when an evaluation is deleted.


Holders = dict[tuple[str, int], dict[str, Any]]
"""Who holds which rank: by metric and rank."""


def plan(con: Connection, evaluation_id: str) -> list[dict[str, Any]]:
    """Tell which ranks change hands when an evaluation is deleted; changes nothing."""
    before, _, after = _holders(con, evaluation_id)
    return [
        {
            "suite": held["suite"],
            "metric": metric,
            "rank": rank,
            "model_id": held["model_id"],
            "next_model": None if (metric, rank) not in after else after[metric, rank]["model_id"],
        }
        for (metric, rank), held in sorted(before.items())
        if not _same(held, after.get((metric, rank)))
    ]


def delete(con: Connection, evaluation_id: str, *, now: bool) -> bool:
    """Delete an evaluation inside the caller's transaction, and let others follow; False when there was none."""
    found = rows.evaluation_of(con, evaluation_id)
    if found is None:
        return False
    _, left, after = _holders(con, evaluation_id)
    known = [str(row[0]) for row in con.execute("SELECT champion_id FROM champions").fetchall()]
    name = f"{found['model_id']} on {found['suite']}"
    with trash.deleting(con, "evaluation", evaluation_id, name, "delete_evaluation", now=now) as take:
        rows.delete_evaluation(con, evaluation_id, take)
        for metric, rank in sorted(left.keys() | after.keys()):
            held, heir = left.get((metric, rank)), after.get((metric, rank))
            if _same(held, heir):
                continue
            evaluation = None if heir is None else rows.evaluation_of(con, heir["evaluation_id"])
            if heir is not None and evaluation is not None:
                put(con, evaluation, metric, rank, heir["chosen_by"], heir["note"], held)
            elif held is not None:
                vacate(con, held)
        take(con, PROMOTED, "champion_id NOT IN (SELECT unnest(?::VARCHAR[]))", [known])
    return True


def _holders(con: Connection, evaluation_id: str) -> tuple[Holders, Holders, Holders]:
    """Who holds the ranks now, whom the rows name without the evaluation, and who is to hold them then."""
    evaluation = rows.evaluation_of(con, evaluation_id)
    if evaluation is None:
        return {}, {}, {}
    suite = evaluation["suite"]
    before = _by_rank(rows.champion_rows(con, suite=suite).to_dicts())
    left = _by_rank(rows.champion_rows(con, suite=suite, without=evaluation_id).to_dicts())
    after: Holders = {}
    for metric in {metric for metric, _ in before}:
        now = {rank: held for (name, rank), held in before.items() if name == metric}
        fallback = {rank: held for (name, rank), held in left.items() if name == metric}
        heirs = _heirs(now, fallback, evaluation_id)
        after |= {(metric, rank): held for rank, held in heirs.items()}
    return before, left, after


def _heirs(
    now: Mapping[int, dict[str, Any]], fallback: Mapping[int, dict[str, Any]], evaluation_id: str
) -> dict[int, dict[str, Any]]:
    free = [rank for rank, held in now.items() if held["evaluation_id"] == evaluation_id]
    if not free:
        return dict(now)
    first = min(free)
    heirs = {rank: held for rank, held in now.items() if rank < first}
    below = [held for rank, held in sorted(now.items()) if rank > first and rank not in free]
    standing = {held["evaluation_id"] for held in heirs.values()}
    if not below and first in fallback and fallback[first]["evaluation_id"] not in standing:
        below = [fallback[first]]
    return heirs | dict(enumerate(below, start=first))


def _by_rank(held: list[dict[str, Any]]) -> Holders:
    return {(each["metric"], each["rank"]): each for each in held}


def _same(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    if one is None or other is None:
        return one is other
    return bool(one["evaluation_id"] == other["evaluation_id"])


Replay = Callable[[str, Any, Any], np.ndarray]


class Evaluations(Crowning):
    """Evaluations of models on suites: recorded, ranked, compared, summarised.

    Parameters
    ----------
    engine : Engine
    replay : callable
        Predicts with a chain: ``replay(chain_id, X, wavelengths)``.

    Examples
    --------
    >>> import tempfile
    >>> from nirs_store import WorkspaceStore
    >>> folder = tempfile.TemporaryDirectory()
    >>> with WorkspaceStore(folder.name) as store:
    ...     first = store.evaluations.record("baseline", "loop", {"global_score": 0.82}, success_rate=0.88)
    ...     second = store.evaluations.record("enhanced", "loop", {"global_score": 0.87}, success_rate=0.92)
    ...     store.evaluations.champions()["model_id"].to_list()
    ['enhanced']
    >>> folder.cleanup()
    """

    def __init__(self, engine: Engine, replay: Replay) -> None:
        super().__init__(engine)
        self._replay = replay

    # -- recording -----------------------------------------------------------------------------

    @whole_ids
    def record(
        self,
        model_id: str,
        suite: str,
        scores: Mapping[str, float] | float,
        *,
        success_rate: float | None = None,
        episodes: Any = None,
        samples: Any = None,
        metric: str | None = None,
        better: str | None = None,
        chain_id: str | None = None,
        run_id: str | None = None,
        evaluation_id: str | None = None,
        status: str = "completed",
        champion: bool = True,
        files: Sequence[str] = (),
        tags: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
        seeds: int | Sequence[int] | Mapping[str, int] | None = None,
        parameters: Mapping[str, Any] | None = None,
        container: str | None = None,
        message: str | None = None,
        created_at: datetime | None = None,
    ) -> str:
        """Record an evaluation; durable when this returns.

        Parameters
        ----------
        model_id, suite : str
            Any names: what was evaluated, and on what.
        scores : mapping of str to float, or float
            A single number is called ``score``. NaN counts as unknown.
        success_rate : float, optional
            Between 0 and 1; by default the mean of the column ``success`` of `episodes`.
        episodes, samples : data frame or list of dicts, optional
            A row an episode, or a sample (with ``y_true`` and ``y_pred``). Intervals, tables by group and
            comparisons are made from them. Kept once as a Parquet blob.
        metric : str, optional
            The score that ranks. By default the one that the suite goes by, else ``global_score``, ``score`` or
            the first one.
        better : {"higher", "lower", "zero"}, optional
            In which direction the metric improves, for names that this library does not know; higher by default.
        chain_id, run_id : str, optional
            A chain and a run of this store that it belongs to.
        evaluation_id : str, optional
            An id of your own: letters, digits, ``_``, ``.`` and ``-``.
        status : {"completed", "failed", "in_progress", "pending"}
            Only completed evaluations are ranked.
        champion : bool
            Make it champion if it is better than whoever leads (and was not set by hand).
        files : sequence of str
            Ids of file versions that belong to it.
        tags, metadata
            Anything to find it by; plain data.
        seeds, parameters, container
            For `nirs_store.capture_environment`, whose answer is kept with it.
        message : str, optional
            For instance why it failed.
        created_at : datetime, optional
            When it was done; now by default.

        Returns
        -------
        str
            Its id.

        Raises
        ------
        InvalidInput, UnknownId
            Nothing was recorded.
        """
        return record(
            self._engine,
            model_id,
            suite,
            scores,
            success_rate=success_rate,
            episodes=episodes,
            samples=samples,
            metric=metric,
            better=better,
            chain_id=chain_id,
            run_id=run_id,
            evaluation_id=evaluation_id,
            status=status,
            champion=champion,
            files=files,
            tags=tags,
            metadata=metadata,
            seeds=seeds,
            parameters=parameters,
            container=container,
            message=message,
            created_at=created_at,
        )

    @whole_ids
    def record_chain(
        self,
        chain_id: str,
        X: Any,
        y: Any,
        suite: str,
        *,
        groups: Any = None,
        wavelengths: Any = None,
        model_id: str | None = None,
        **facts: Any,
    ) -> str:
        """Evaluate a chain of this store on spectra with known values, and record it.

        Parameters
        ----------
        chain_id : str
        X, wavelengths
            As for `WorkspaceStore.replay_chain`.
        y : array-like of shape (n,)
            Measured values or true labels.
        suite : str
            What the samples are called together, for instance ``"harvest 2025"``.
        groups : data frame, mapping or array-like, optional
            A column (``group``) or several, a value a sample: for tables by group and curves.
        model_id : str, optional
            By default the chain's id.
        **facts
            Whatever `record` takes besides scores and tables.

        Returns
        -------
        str
            The evaluation's id. Its scores are those of `nirs_store.scores`, the RMSE called ``rmsep``, and it is
            ranked by that or by ``balanced_accuracy``; its table has ``sample, y_true, y_pred`` and the groups.

        Raises
        ------
        UnknownId, ReplayError, ShapeMismatch, InvalidInput
            Nothing was recorded.
        """
        refused = {"scores", "samples", "chain_id"} & facts.keys()
        if refused:
            raise InvalidInput(f"{', '.join(sorted(refused))}: record_chain makes them itself.")
        predicted = self._replay(chain_id, X, wavelengths)
        scores, metric, samples = evaluate(X, y, predicted, groups)
        return self.record(
            model_id or chain_id,
            suite,
            scores,
            chain_id=chain_id,
            samples=samples,
            **{"metric": metric, **facts},
        )

    def delete(self, evaluation_id: str, *, now: bool = False) -> bool:
        """Delete an evaluation with its tables and what it made champion; False when there was none.

        The models below it move up a rank; where there are none, the model that held the rank before holds it again.

        Parameters
        ----------
        evaluation_id : str
        now : bool
            False puts it into the trash: `store.trash.restore` brings it back, with its tables and ranks. A rank
            that was given since stays as it is.
        """
        deleted = self._engine.change(lambda con: delete(con, evaluation_id, now=now))
        note(self._engine, "delete_evaluation", "evaluation", evaluation_id, success=deleted)
        return deleted

    def plan_delete(self, evaluation_id: str) -> Sequence[dict[str, Any]]:
        """Tell which ranks change hands when an evaluation is deleted, and change nothing.

        Returns
        -------
        sequence of dict
            ``suite, metric, rank, model_id`` (who holds it) and ``next_model`` (None: nobody).
        """
        return self._engine.query(lambda con: plan(con, evaluation_id))

    # -- looking -------------------------------------------------------------------------------

    def get(self, evaluation_id: str) -> dict[str, Any] | None:
        """One evaluation with its JSON decoded, or None."""
        return self._engine.query(lambda con: rows.evaluation_of(con, evaluation_id))

    @whole_ids
    def list(
        self,
        *,
        model_id: str | None = None,
        suite: str | None = None,
        chain_id: str | None = None,
        run_id: str | None = None,
        status: str | None = None,
        tags: Sequence[str] = (),
        limit: int | None = None,
    ) -> pl.DataFrame:
        """Return evaluations, oldest first; `limit` takes the newest. JSON columns are text.

        Raises
        ------
        InvalidInput
            An unknown status; the nearest is suggested.
        """
        if status is not None:
            one_of("status", status, STATUSES)
        wanted = [tags] if isinstance(tags, str) else [*tags]
        filters = {
            "model_id": model_id,
            "suite": suite,
            "chain_id": chain_id,
            "run_id": run_id,
            "status": status,
        }
        return self._engine.query(lambda con: rows.evaluation_rows(con, filters, tags=wanted, limit=limit))

    def history(self, model_id: str | None = None, suite: str | None = None) -> pl.DataFrame:
        """Return what was recorded of a model or on a suite, oldest first, with one column per score."""
        found = self.list(model_id=model_id, suite=suite)
        names = ("evaluation_id", "model_id", "suite", "status", "metric", "success_rate", "created_at")
        scores = [from_json(text) for text in found["scores"]] if found.height else []
        columns = list_of_names(scores)
        taken = {name: f"score.{name}" if name in names else name for name in columns}
        return found.select(names).with_columns(
            pl.Series(taken[name], [each.get(name) for each in scores], pl.Float64) for name in columns
        )

    def episodes(self, evaluation_id: str) -> pl.DataFrame | None:
        """Return the table of episodes, checked against its hash; None where none was recorded."""
        return self._table(evaluation_id, "episodes")

    def samples(self, evaluation_id: str) -> pl.DataFrame | None:
        """Return the table of samples, checked against its hash; None where none was recorded."""
        return self._table(evaluation_id, "samples")

    def export(
        self, evaluation_id: str, folder: str | Path, *, what: str = "episodes", format: str = "both"
    ) -> dict[str, Path]:
        """Write episodes or samples as CSV, as JSON with the facts of the evaluation, or as both.

        Parameters
        ----------
        folder : str or Path
            Made when missing; the files are ``<evaluation_id>-<what>.csv`` and ``.json``.
        what : {"episodes", "samples"}
        format : {"csv", "json", "both"}

        Returns
        -------
        dict of str to Path

        Raises
        ------
        UnknownId, InvalidInput
        """
        one_of("what", what, TABLES)
        table = self._table(evaluation_id, what)
        if table is None:
            raise InvalidInput(
                f"what: evaluation {evaluation_id} was recorded without {what}. Nothing was written."
            )
        evaluation = self._require(evaluation_id)
        facts = {name: value for name, value in evaluation.items() if not name.endswith("s_id")}
        return export_table(table, facts, user_path(folder).absolute(), evaluation_id, what, format)

    def _table(self, evaluation_id: str, what: str) -> pl.DataFrame | None:
        return table_of(self._engine, self._require(evaluation_id), what)

    def _require(self, evaluation_id: str) -> dict[str, Any]:
        found = self.get(evaluation_id)
        if found is None:
            raise UnknownId("evaluation", evaluation_id)
        return found


def list_of_names(scores: Sequence[Mapping[str, Any]]) -> Sequence[str]:
    """Names of all scores, in the order in which they first come."""
    return [*dict.fromkeys(name for each in scores for name in each)]
