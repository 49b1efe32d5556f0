"""The leaderboard of a workspace from its predictions: a row a chain, the best first."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nirs_store.chains import fold_key
from nirs_store.errors import InvalidInput
from nirs_store.plots._chain import chain_data
from nirs_store.scores import higher_is_better, regression_scores
from nirs_store.store import WorkspaceStore

__all__ = ["ChainRow", "leaderboard"]

_FINAL = fold_key("final")


@dataclass
class ChainRow:
    """What the leaderboard says of a chain.

    Attributes
    ----------
    value
        RMSECV of a regression: the RMSE over all out-of-fold predictions. Of a classification the
        metric it was recorded with.
    fold_sd
        Standard deviation of that score over the folds.
    test
        The same score on the test samples, by the refit; None without one.
    bias, sep, r2, rpd
        Of the pooled out-of-fold predictions; None for a classification.
    """

    chain_id: str
    pipeline_id: str
    dataset: str
    task_type: str
    metric: str
    value: float
    fold_sd: float | None
    n_folds: int
    test: float | None
    preprocessings: str
    model: str
    chain: str = ""
    target: str = ""
    unit: str = ""
    bias: float | None = None
    sep: float | None = None
    r2: float | None = None
    rpd: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The row as plain data."""
        return asdict(self)


def leaderboard(
    store: WorkspaceStore, n: int, *, dataset: str | None = None, run_id: str | None = None
) -> list[ChainRow]:
    """Rank the chains that have out-of-fold predictions; those without a score come last.

    Parameters
    ----------
    store
        The workspace.
    n
        At most so many rows for each task and metric.
    dataset, run_id
        Only the chains of these.

    Returns
    -------
    list of ChainRow
        Regressions and classifications one after the other: their scores do not compare.
    """
    frame = store.query_predictions(dataset_name=dataset, run_id=run_id)
    by_chain: dict[str, list[dict[str, Any]]] = {}
    for row in frame.iter_rows(named=True):
        if row["chain_id"] is not None:
            by_chain.setdefault(row["chain_id"], []).append(row)
    ranked: dict[str, list[ChainRow]] = {}
    for rows in by_chain.values():
        entry = _entry(rows)
        if entry is not None:
            ranked.setdefault(entry.metric, []).append(entry)
    shown = []
    for metric in sorted(ranked, key=lambda name: (name != "rmse", name)):
        sign = -1.0 if _high_is_good(metric) else 1.0
        ranked[metric].sort(
            key=lambda entry: (not math.isfinite(entry.value), sign * entry.value, entry.chain_id)
        )
        shown += ranked[metric][:n]
    for entry in shown:
        _complete(store, entry)
    return shown


def _entry(rows: list[dict[str, Any]]) -> ChainRow | None:
    folds = [row for row in rows if row["partition"] == "val" and _is_fold(row["fold_id"])]
    if not folds:
        return None
    first = folds[0]
    regression = first["task_type"] == "regression"
    metric = "rmse" if regression else str(first["metric"])
    each = [_score(row, "val", metric) for row in folds]
    sizes = [int(row["n_samples"] or 0) for row in folds]
    known = [value for value in each if math.isfinite(value)]
    mean = sum(known) / len(known) if known else math.nan
    spread = math.sqrt(sum((v - mean) ** 2 for v in known) / (len(known) - 1)) if len(known) > 1 else None
    refit = [row for row in rows if row["partition"] == "test" and _is_final(row["fold_id"])]
    return ChainRow(
        chain_id=first["chain_id"],
        pipeline_id=first["pipeline_id"],
        dataset=first["dataset_name"],
        task_type=first["task_type"],
        metric=metric,
        value=_pooled(each, sizes, squared=regression),
        fold_sd=spread,
        n_folds=len(folds),
        test=_score(refit[0], "test", metric) if refit else None,
        preprocessings=str(first["preprocessings"] or ""),
        model=str(first["model_name"]),
    )


def _pooled(values: Iterable[float], sizes: list[int], *, squared: bool) -> float:
    """Pool fold scores by their numbers of samples; exact for RMSE and accuracy."""
    total = sum(sizes)
    if not total:
        return math.nan
    power = 2.0 if squared else 1.0
    return float(
        (sum(size * value**power for value, size in zip(values, sizes, strict=True)) / total) ** (1 / power)
    )


def _score(row: Mapping[str, Any], partition: str, metric: str) -> float:
    scores = json.loads(row["scores"]) if row["scores"] else {}
    own = scores.get(partition, scores)
    value = own.get(metric) if isinstance(own, dict) else None
    if value is None and (
        row["metric"] == metric or (metric == "rmse" and str(row["metric"]).startswith("rmse"))
    ):
        value = row[f"{partition}_score"]
    return math.nan if value is None else float(value)


def _complete(store: WorkspaceStore, entry: ChainRow) -> None:
    """Add what only the chain or its arrays say; done for the rows that are shown."""
    data = chain_data(store, entry.chain_id)
    entry.chain, entry.target, entry.unit = data.title, data.target, data.unit
    recorded = data.metadata.get("cross_validation") or {}
    if recorded.get(entry.metric) is not None:
        entry.value = float(recorded[entry.metric])
    if entry.task_type != "regression":
        return
    if "rpd" not in recorded:
        pair = data.pair("cv")
        recorded = {} if pair is None else regression_scores(*pair)
    entry.bias, entry.sep, entry.r2, entry.rpd = (recorded.get(name) for name in ("bias", "sep", "r2", "rpd"))


def _high_is_good(metric: str) -> bool:
    try:
        return higher_is_better(metric)
    except InvalidInput:
        return False


def _is_final(fold: Any) -> bool:
    return fold_key(fold) == _FINAL if _is_known(fold) else False


def _is_fold(fold: Any) -> bool:
    return _is_known(fold) and not _is_final(fold)


def _is_known(fold: Any) -> bool:
    try:
        fold_key(fold)
    except InvalidInput:
        return False
    return True
