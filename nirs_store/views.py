"""A run and a chain as a person looks at them: values that print themselves, in a notebook as tables."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.catalog import overview, prediction_queries, queries
from nirs_store.catalog.access import Connection
from nirs_store.catalog.engine import Engine
from nirs_store.catalog.environment import versions_only
from nirs_store.chains.folds import chain_artifact_ids
from nirs_store.display import block, byte_text, field_table, short, table
from nirs_store.errors import InvalidInput, UnknownId
from nirs_store.lazily import polars as pl
from nirs_store.leaderboard import top_chains
from nirs_store.tree import Node, chain_tree, tree_html

__all__ = ["ChainView", "RunView", "chain_predictions", "view_chain", "view_run"]

# What `capture_environment` adds to the versions that every run has.
_CAPTURED = ("git-dirty", "seeds", "container", "parameters", "command")
_PARTITIONS = ("train", "val", "test")
_SCORES = ("rmsecv", "rmsec", "rmsep", "mae", "bias", "sep", "r2", "rpd", "rpiq")
_CLASS_SCORES = ("accuracy", "balanced_accuracy", "f1", "log_loss")


@dataclass(frozen=True, eq=False, repr=False)
class ChainView:
    r"""A chain: what it does, how good it is, and what it is made of.

    Attributes
    ----------
    chain_id, pipeline_id, run_id : str
    name : str
        As in ``SNV > SG(deriv=1) > PLS(10)``.
    run_name, dataset_name : str
    metadata : dict
        As recorded: target, target_unit, wavelength_unit, task_type, …
    wavelengths : ndarray of shape (n_channels,), or None
    steps : tuple of dict
        In order; the keys of `get_chain`.
    folds : tuple of str
        Keys of the fitted models.
    artifacts : polars.DataFrame
        artifact_id, artifact_type, operator_class, format, size_bytes, ref_count.
    metric : str
        What the chain is ranked by.
    scores : dict
        By name, as in `top_chains`; empty without predictions.
    n_samples : int
        Out-of-fold predictions.
    created_at : datetime
        UTC.
    tree : Node
        Its branches, sources, folds and artifacts; ``print("\\n".join(tree_lines(view.tree)))``.
    """

    chain_id: str
    pipeline_id: str
    run_id: str
    name: str
    run_name: str
    dataset_name: str
    metadata: dict[str, Any]
    wavelengths: NDArray[np.float64] | None
    steps: tuple[dict[str, Any], ...]
    folds: tuple[str, ...]
    artifacts: pl.DataFrame
    metric: str
    scores: dict[str, float]
    n_samples: int
    created_at: datetime
    tree: Node | None = None

    def __repr__(self) -> str:
        label = "RMSECV" if self.metric == "rmse" else self.metric
        value = self.scores.get("score")
        spread = self.scores.get("score_sd")
        parts = [] if value is None else [f"{label} {value:.4g}"]
        if parts and spread is not None:
            parts[0] += f" (SD over folds {spread:.4g})"
        parts += [f"{len(self.folds)} models", f"dataset {self.dataset_name!r}"]
        return f"<Chain {short(self.name, 80)!r}: {', '.join(parts)}; chain_id={self.chain_id!r}>"

    def _repr_html_(self) -> str:
        unit = str(self.metadata.get("target_unit") or "")
        grid = self.wavelengths
        channels = None
        if grid is not None and grid.size:
            text = f"{grid.size}, {grid[0]:g} to {grid[-1]:g} {self.metadata.get('wavelength_unit') or ''}"
            channels = text.strip()
        facts = {
            "chain": self.chain_id,
            "run": self.run_name,
            "dataset": self.dataset_name,
            "target": f"{self.metadata.get('target') or ''} {f'({unit})' if unit else ''}".strip(),
            "channels": channels,
            "models": ", ".join(self.folds),
            "out-of-fold predictions": self.n_samples or None,
            "recorded": self.created_at,
        }
        steps = [
            (
                step.get("step_idx"),
                step.get("operator_type", "transform"),
                step.get("operator_class"),
                step.get("params"),
            )
            for step in self.steps
        ]
        scores = [(name, self.scores[name]) for name in (*_SCORES, *_CLASS_SCORES) if name in self.scores]
        artifacts = [
            (
                row["artifact_type"],
                row["operator_class"],
                byte_text(row["size_bytes"]),
                row["artifact_id"][:12],
            )
            for row in self.artifacts.iter_rows(named=True)
        ]
        return block(
            self.name,
            field_table(facts),
            table(("step", "type", "operator", "parameters"), steps),
            tree_html(self.tree) if self.tree is not None else "",
            table(("score", "value"), scores) if scores else "",
            table(("artifact", "operator", "size", "id"), artifacts) if artifacts else "",
        )


@dataclass(frozen=True, eq=False, repr=False)
class RunView:
    """A run with its pipelines.

    Attributes
    ----------
    run_id, name, status : str
    datasets : tuple of str
    note : str
    tags : tuple of str
    environment : dict
        Versions that it was recorded with.
    config, summary : Any
        As recorded.
    error : str or None
    created_at, completed_at : datetime
        UTC; the latter None while it runs.
    pipelines : polars.DataFrame
        As `list_pipelines` gives them.
    """

    run_id: str
    name: str
    status: str
    datasets: tuple[str, ...]
    note: str
    tags: tuple[str, ...]
    environment: dict[str, Any]
    config: Any
    summary: Any
    error: str | None
    created_at: datetime
    completed_at: datetime | None
    pipelines: pl.DataFrame

    def __repr__(self) -> str:
        data = f" on {', '.join(self.datasets)}" if self.datasets else ""
        count = f"{self.pipelines.height} pipeline{'' if self.pipelines.height == 1 else 's'}"
        return f"<Run {short(self.name, 80)!r}: {self.status}, {count}{short(data)}; run_id={self.run_id!r}>"

    def _repr_html_(self) -> str:
        facts = {
            "run": self.run_id,
            "status": self.status,
            "data": ", ".join(self.datasets),
            "tags": ", ".join(self.tags),
            "note": self.note,
            "begun": self.created_at,
            "completed": self.completed_at,
            "summary": self.summary or None,
            "error": self.error.strip().rpartition("\n")[2] if self.error else None,
            "environment": versions_only(self.environment) or None,
            **{name: self.environment.get(name) for name in _CAPTURED},
        }
        columns = ("name", "dataset_name", "status", "metric", "best_val", "best_test", "duration_ms")
        head = ("pipeline", "dataset", "status", "metric", "best val", "best test", "ms")
        rows = self.pipelines.select(columns).iter_rows()
        return block(self.name, field_table(facts), table(head, rows) if self.pipelines.height else "")


def view_chain(engine: Engine, chain_id: str) -> ChainView:
    """Look at a chain; see `WorkspaceStore.show_chain`."""

    def ask(con: Connection) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], pl.DataFrame]:
        chain = queries.get_chain(con, chain_id)
        if chain is None:
            raise UnknownId("chain", chain_id)
        pipeline = queries.get_pipeline(con, chain["pipeline_id"], []) or {}
        run = queries.get_run(con, pipeline.get("run_id", ""), []) or {}
        ids = chain_artifact_ids(chain["steps"], chain["fold_artifacts"], chain["shared_artifacts"])
        return chain, pipeline, run, overview.artifacts_of(con, ids)

    chain, pipeline, run, artifacts = engine.query(ask)
    ranked = top_chains(engine, 1, None, None, None, chain_id=chain_id)
    best = ranked.row(0, named=True) if ranked.height else {}
    wanted = ("score", "score_sd", "refit_score", "test_score", *_SCORES, *_CLASS_SCORES)
    model = str(chain["model_class"]).rpartition(".")[2]
    fallback = " > ".join(part for part in (chain["preprocessings"], model) if part)
    return ChainView(
        chain_id=chain_id,
        pipeline_id=chain["pipeline_id"],
        run_id=str(pipeline.get("run_id", "")),
        name=best.get("pipeline") or fallback,
        run_name=str(run.get("name", "")),
        dataset_name=str(pipeline.get("dataset_name", "")),
        metadata=dict(chain["metadata"]),
        wavelengths=chain["wavelengths"],
        steps=tuple(chain["steps"]),
        folds=tuple(str(fold) for fold in chain["fold_artifacts"] or {}),
        artifacts=artifacts,
        metric=best.get("metric", ""),
        scores={name: best[name] for name in wanted if best.get(name) is not None},
        n_samples=best.get("n_samples", 0),
        created_at=chain["created_at"],
        tree=chain_tree(chain, best.get("pipeline") or fallback),
    )


def view_run(engine: Engine, run_id: str) -> RunView:
    """Look at a run; see `WorkspaceStore.show_run`."""

    def ask(con: Connection) -> tuple[dict[str, Any], pl.DataFrame]:
        alive = engine.living_sessions()
        run = queries.get_run(con, run_id, alive)
        if run is None:
            raise UnknownId("run", run_id)
        return run, queries.list_pipelines(con, alive, run_id, None)

    run, pipelines = engine.query(ask)
    datasets = [each.get("name") if isinstance(each, dict) else each for each in run["datasets"] or []]
    return RunView(
        run_id=run_id,
        name=run["name"],
        status=run["status"],
        datasets=tuple(str(each) for each in datasets),
        note=run.get("note") or "",
        tags=tuple(run.get("tags") or ()),
        environment=dict(run.get("environment") or {}),
        config=run["config"],
        summary=run["summary"],
        error=run["error"],
        created_at=run["created_at"],
        completed_at=run["completed_at"],
        pipelines=pipelines,
    )


def chain_predictions(engine: Engine, chain_id: str, partition: str) -> pl.DataFrame:
    """Predictions of a chain a sample a row; see `WorkspaceStore.chain_predictions`."""

    def ask(con: Connection) -> tuple[pl.DataFrame, Any, Any]:
        rows = overview.prediction_rows(con, chain_id, partition)
        chain = queries.get_chain(con, chain_id) if rows.height else None
        arrays = prediction_queries.load_arrays(con, rows["prediction_id"].to_list())
        return rows, arrays, (chain or {}).get("metadata", {}).get("classes")

    rows, arrays, classes = engine.query(ask)
    if not rows.height and partition not in _PARTITIONS:
        near = difflib.get_close_matches(str(partition), _PARTITIONS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InvalidInput(
            f"Unknown partition {partition!r}: expected one of {', '.join(_PARTITIONS)}.{hint}"
        )
    parts = [_table_of(fold, arrays[key], classes) for key, fold in rows.iter_rows() if key in arrays]
    if not parts:
        return pl.DataFrame(
            schema={"sample": pl.Int64, "fold_id": pl.String, "y_true": pl.Float64, "y_pred": pl.Float64}
        )
    if len({part["sample"].dtype for part in parts}) > 1:
        parts = [part.with_columns(pl.col("sample").cast(pl.String)) for part in parts]
    return pl.concat(parts, how="diagonal_relaxed")


def _table_of(fold: str, arrays: dict[str, np.ndarray | None], classes: Any) -> pl.DataFrame:
    columns: dict[str, Any] = {}
    for name in ("y_true", "y_pred", "y_proba"):
        values = arrays[name]
        if values is None:
            continue
        if values.ndim > 1 and (name == "y_proba" or values.shape[1] > 1):
            labels = range(values.shape[1])
            if name == "y_proba" and classes is not None and len(classes) == values.shape[1]:
                labels = classes
            for place, label in enumerate(labels):
                columns[f"{name}_{label}"] = values[:, place]
        else:
            columns[name] = values.reshape(len(values))
    n = len(next(iter(columns.values()), ()))
    samples = arrays["sample_indices"]
    head = {"sample": pl.Series([None] * n, dtype=pl.Int64) if samples is None else samples}
    return pl.DataFrame(head | {"fold_id": pl.Series([fold] * n, dtype=pl.String)} | columns)
