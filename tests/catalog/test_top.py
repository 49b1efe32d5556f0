"""The best predictions: ranked by the score, then by the id, and what has no score last."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from storekit import begin, prediction

from nirs_store.store import WorkspaceStore

SCORES = (None, math.nan, math.inf, -math.inf, 0.5, 0.25, -1.0, 0.0, -0.0)
DISTINCT = tuple(np.linspace(-1.0, 1.0, 500).tolist())


@pytest.mark.parametrize("ascending", [True, False])
@pytest.mark.parametrize(
    "pool", [SCORES, (0.5, 0.25), (None, math.nan), (None, 0.5), (math.nan, 0.5, 0.25), DISTINCT]
)
def test_they_are_those_of_a_sort_by_hand(
    store: WorkspaceStore, ascending: bool, pool: tuple[float | None, ...]
) -> None:
    rng = np.random.default_rng(len(pool))
    pipeline_id = begin(store)[1]
    rows: list[dict[str, Any]] = []
    with store.transaction():
        for index in range(40):
            score = pool[rng.integers(len(pool))]
            name = ("corn", "oats")[index % 2]
            given = prediction(val_score=score, dataset_name=name)
            rows.append(
                {"id": store.save_prediction(pipeline_id, None, **given), "score": score, "name": name}
            )

    def place(row: dict[str, Any]) -> tuple[Any, ...]:
        score = row["score"]
        if score is None or math.isnan(score):
            return (True, score is None, 0.0, row["id"])
        return (False, False, score if ascending else -score, row["id"])

    for name in (None, "oats"):
        wanted = [row["id"] for row in sorted(rows, key=place) if name in (None, row["name"])]
        for n in (1, 3, 10, 20, 39, 40, 100):
            found = store.top_predictions(n, ascending=ascending, dataset_name=name)
            assert found["prediction_id"].to_list() == wanted[:n]
    # Of each group likewise; a group without a name is one too.
    groups = {
        name: [row["id"] for row in sorted(rows, key=place) if row["name"] == name]
        for name in ("corn", "oats")
    }
    for n in (1, 3, 19, 20, 40):
        found = store.top_predictions(n, ascending=ascending, group_by="dataset_name")
        assert found["prediction_id"].to_list() == [key for ids in groups.values() for key in ids[:n]]
        found = store.top_predictions(n, ascending=ascending, group_by=["branch_name", "dataset_name"])
        assert found["prediction_id"].to_list() == [key for ids in groups.values() for key in ids[:n]]
    assert store.top_predictions(2, partition="test", group_by="dataset_name").is_empty()
