"""Runs or chains side by side: configuration, environment and scores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from nirs_store.catalog import queries
from nirs_store.catalog.access import Connection
from nirs_store.catalog.engine import Engine
from nirs_store.errors import InvalidInput, UnknownId
from nirs_store.lazily import polars as pl
from nirs_store.leaderboard import top_chains

__all__ = ["compare", "flatten"]

_SCORES = (
    "score",
    "score_sd",
    "refit_score",
    "test_score",
    "rmsecv",
    "rmsec",
    "rmsep",
    "bias",
    "sep",
    "r2",
    "rpd",
    "rpiq",
    "accuracy",
    "balanced_accuracy",
    "f1",
    "log_loss",
)


def compare(engine: Engine, ids: Sequence[str], *, only_differences: bool) -> pl.DataFrame:
    """Put runs or chains side by side; see `WorkspaceStore.compare`."""
    if isinstance(ids, str) or len(ids) < 2 or not all(isinstance(each, str) for each in ids):
        raise InvalidInput("run_or_chain_ids: expected at least two ids of runs or chains, each a text.")
    if len(set(ids)) < len(ids):
        raise InvalidInput("run_or_chain_ids: an id is named twice.")
    facts = [_facts(engine, identifier) for identifier in ids]
    items = list(dict.fromkeys(item for fact in facts for item in fact))
    rows = []
    for item in items:
        values = [None if fact.get(item) is None else _text(fact[item]) for fact in facts]
        if only_differences and all(value == values[0] for value in values):
            continue
        rows.append([item, *values])
    return pl.DataFrame(rows, schema={"item": pl.String, **dict.fromkeys(ids, pl.String)}, orient="row")


def flatten(value: Any, prefix: str) -> dict[str, Any]:
    """Nested plain data as dotted names: ``{"a": {"b": 1}}`` becomes ``{"a.b": 1}``.

    Examples
    --------
    >>> flatten({"steps": [{"class": "PLS"}]}, "config")
    {'config.steps.0.class': 'PLS'}
    """
    if isinstance(value, Mapping) and value:
        parts = [flatten(item, f"{prefix}.{key}") for key, item in value.items()]
    elif isinstance(value, (list, tuple)) and value:
        parts = [flatten(item, f"{prefix}.{index}") for index, item in enumerate(value)]
    else:
        return {prefix: value}
    return {name: item for part in parts for name, item in part.items()}


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _facts(engine: Engine, identifier: str) -> dict[str, Any]:
    def ask(con: Connection) -> tuple[dict[str, Any] | None, dict[str, Any] | None, dict[str, Any] | None]:
        alive = engine.living_sessions()
        run = queries.get_run(con, identifier, alive)
        chain = None if run is not None else queries.get_chain(con, identifier)
        pipeline = None if chain is None else queries.get_pipeline(con, chain["pipeline_id"], alive)
        return run, chain, pipeline

    run, chain, pipeline = engine.query(ask)
    if run is not None:
        return _of_run(engine, run)
    if chain is None or pipeline is None:
        raise UnknownId("run or chain", identifier)
    return _of_chain(engine, chain, pipeline)


def _of_run(engine: Engine, run: dict[str, Any]) -> dict[str, Any]:
    names = [d.get("name") if isinstance(d, dict) else d for d in run["datasets"] or []]
    facts: dict[str, Any] = {
        "kind": "run",
        "name": run["name"],
        "status": run["status"],
        "datasets": ", ".join(str(name) for name in names),
        **flatten(run["config"], "config"),
        **flatten(run.get("environment"), "environment"),
        **flatten(run["summary"], "summary"),
    }
    return facts | _best(engine, run_id=run["run_id"])


def _of_chain(engine: Engine, chain: dict[str, Any], pipeline: dict[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "kind": "chain",
        "name": pipeline["name"],
        "status": pipeline["status"],
        "datasets": pipeline["dataset_name"],
        "dataset_hash": pipeline["dataset_hash"],
        "preprocessings": chain["preprocessings"],
        "model_class": chain["model_class"],
        "fold_strategy": chain["fold_strategy"],
    }
    for step in chain["steps"]:
        where = f"step.{step.get('step_idx')}"
        facts[where] = step.get("operator_class")
        facts |= flatten(step.get("params") or {}, f"{where}.params") if step.get("params") else {}
    run = engine.query(lambda con: queries.get_run(con, pipeline["run_id"], []))
    facts |= flatten((run or {}).get("environment"), "environment")
    return facts | _best(engine, chain_id=chain["chain_id"])


def _best(engine: Engine, **filters: Any) -> dict[str, Any]:
    """Scores of the only chain, or of a run's best one."""
    try:
        best = top_chains(engine, 1, None, None, None, **filters)
    except InvalidInput:
        return {}  # a run of regressions and classifications has no best chain
    if not best.height:
        return {}
    row = best.row(0, named=True)
    facts = {"best chain": row["pipeline"], "metric": row["metric"], "n_folds": row["n_folds"]}
    return facts | {f"score.{name}": row[name] for name in _SCORES if row.get(name) is not None}
