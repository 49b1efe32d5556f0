"""The list of chains pools what the folds scored, over all of them or not at all."""

from __future__ import annotations

import math

import pytest
from storekit import begin, chain_of, predict

from nirs_store import WorkspaceStore


@pytest.mark.parametrize("lacking", [None, math.nan])
@pytest.mark.parametrize(
    ("metric", "sort"), [("rmse", "score"), ("mae", "score"), ("rmse", "rmse"), ("rmse", "sep")]
)
def test_a_chain_with_a_fold_without_value_has_no_pooled_score(
    store: WorkspaceStore, metric: str, sort: str, lacking: float | None
) -> None:
    _, pipeline_id = begin(store)
    scored = "rmse" if sort == "score" else sort
    whole, part = chain_of(store, pipeline_id), chain_of(store, pipeline_id)
    for chain_id, last in ((whole, 2.0), (part, lacking)):
        for fold, value in enumerate((2.0, 2.0, last)):
            known = {} if value is None else {scored: value}
            predict(
                store, pipeline_id, chain_id, fold_id=f"fold_{fold}", n_samples=4 + fold, metric=metric,
                val_score=value, scores={"val": known} if fold else known,
            )  # fmt: skip
    found = {row["chain_id"]: row for row in store.list_chains(sort, scores=False).to_dicts()}
    assert found[whole]["score"] == pytest.approx(2.0)
    assert found[part]["score"] is None
    assert found[part]["score_sd"] is None
    assert found[part]["n_folds"] == 3
