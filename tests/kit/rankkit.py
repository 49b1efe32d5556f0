"""Chains of which everything is known, for those who rank them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nirs_store import WorkspaceStore

Pair = tuple[Any, Any]


def record(
    store: WorkspaceStore,
    name: str = "PLS(3)",
    folds: Sequence[Pair] = (),
    *,
    refit: Pair | None = None,
    test: Pair | None = None,
    fold_tests: Sequence[Pair] = (),
    recorded: Sequence[float | None] | None = None,
    arrays: bool = True,
    scores: Sequence[dict[str, Any]] = (),
    metric: str = "rmse",
    task_type: str = "regression",
    dataset: str = "corn",
    run: str = "a run",
    preprocessings: str = "SNV",
    model_class: str = "sklearn.cross_decomposition.PLSRegression",
    **chain: Any,
) -> str:
    """Record a chain of which everything is known: pairs of measured and predicted values."""
    parts = [(f"fold_{i}", "val", pair) for i, pair in enumerate(folds)]
    parts += [("final", "train", refit)] * (refit is not None) + [("final", "test", test)] * (
        test is not None
    )
    parts += [(f"fold_{i}", "test", pair) for i, pair in enumerate(fold_tests)]
    with store.run(run, datasets=[dataset]) as opened, opened.pipeline(name, dataset_name=dataset) as p:
        step = {"step_idx": 0, "operator_class": "a.Model", "params": {}, "stateless": True}
        chain_id = store.save_chain(
            p.pipeline_id, [step], 0, model_class, preprocessings, "per_fold", {}, {}, **chain
        )
        for i, (fold, partition, (y, yhat)) in enumerate(parts):
            value = recorded[i] if recorded is not None else None
            each = dict.fromkeys(("val_score", "test_score", "train_score")) | {f"{partition}_score": value}
            prediction_id = store.save_prediction(
                p.pipeline_id, chain_id, dataset, name, model_class, fold, partition, metric=metric,
                task_type=task_type, n_samples=len(y), n_features=7, scores=scores[i] if scores else {},
                best_params={}, branch_id=None, branch_name=None, exclusion_count=0, exclusion_rate=0.0, **each,
            )  # fmt: skip
            if arrays:
                store.save_prediction_arrays(prediction_id, np.asarray(y), np.asarray(yhat))
    return chain_id


def error(rmse: float, n: int = 4) -> Pair:
    """Values whose RMSE is known."""
    y = np.arange(float(n))
    return y, y + rmse


def names(frame: Any) -> list[str]:
    return list(frame["model_name"])
