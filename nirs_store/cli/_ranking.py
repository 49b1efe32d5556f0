"""Ranked chains of a workspace, a table a kind of task."""

from __future__ import annotations

from nirs_store.catalog import overview
from nirs_store.cli._workspace import ask
from nirs_store.lazily import polars as pl
from nirs_store.store import WorkspaceStore

__all__ = ["TASKS", "ranked"]

TASKS = ("regression", "classification")


def ranked(
    store: WorkspaceStore,
    n: int,
    *,
    metric: str | None = None,
    ascending: bool | None = None,
    task: str | None = None,
    dataset: str | None = None,
    run_id: str | None = None,
) -> list[pl.DataFrame]:
    """Rank the chains: of each task apart, for their scores do not compare.

    Parameters
    ----------
    store
        The workspace.
    n
        At most so many rows for each task.
    metric, ascending, task, dataset, run_id
        As for `WorkspaceStore.top_chains`. A metric says which task is meant.

    Returns
    -------
    list of polars.DataFrame
        Tables that have rows, with the columns of `top_chains`, ``task_type``, ``target`` and ``unit``.
    """
    frames = []
    for each in [task] if task or metric else TASKS:
        frame = store.top_chains(n, metric, dataset, run_id, task_type=each, ascending=ascending)
        if frame.height:
            kind = "regression" if "rmsecv" in frame.columns else "classification"
            about = ask(store, overview.targets_of, frame["chain_id"].to_list())
            frames.append(
                frame.with_columns(pl.lit(kind).alias("task_type")).join(
                    about, on="chain_id", how="left", maintain_order="left"
                )
            )
    return frames
