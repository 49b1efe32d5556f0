"""What an export asks of a workspace."""

from __future__ import annotations

import math
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nirs_store import WorkspaceStore
from nirs_store.bundle.transfer import ExportSource
from nirs_store.errors import UnknownId
from tests.kit.storekit import begin, chain_of, predict


@pytest.fixture
def recorded(store: WorkspaceStore) -> tuple[str, str, str]:
    """A run, a pipeline, and a chain with the predictions of two folds."""
    run_id, pipeline_id = begin(store)
    chain_id = chain_of(store, pipeline_id, wavelengths=np.arange(5.0))
    for fold in ("fold_0", "fold_1"):
        predict(store, pipeline_id, chain_id, fold_id=fold)
    return run_id, pipeline_id, chain_id


def test_what_changed_since_the_last_export_is_told_anew(
    store: WorkspaceStore, recorded: tuple[str, str, str]
) -> None:
    run_id, pipeline_id, chain_id = recorded

    def told() -> Any:
        return ExportSource(store._engine, chain_id).described({})

    before = told()
    assert before["scores"]["rmsecv"] == 0.5
    assert before == told()
    # Another fold that has not saved its arrays, then with arrays, then the run's new name.
    late = store.save_prediction(
        pipeline_id,
        chain_id,
        *("corn", "PLS", "a.PLS", "fold_2", "val", 2.5, None, None, "rmse", "regression", 4, 5),
        *({"rmse": 2.5}, {}, None, None, 0, 0.0),
    )
    without = told()
    assert without["facts"]["n_folds"] == 3
    assert "sep" not in without["scores"]
    store.save_prediction_arrays(late, np.arange(4.0), np.arange(4.0) + 2.5)
    assert told()["scores"]["rmsecv"] == pytest.approx(math.sqrt((0.25 + 0.25 + 6.25) / 3))
    store.rename_run(run_id, "another name")
    assert told()["facts"]["run_name"] == "another name"


def test_a_chain_that_somebody_else_deleted_is_not_there(
    store: WorkspaceStore,
    folder: Path,
    recorded: tuple[str, str, str],
) -> None:
    run_id, pipeline_id, chain_id = recorded
    store.complete_pipeline(pipeline_id, None, None, None, None)
    assert ExportSource(store._engine, chain_id).get_chain(chain_id) is not None
    with WorkspaceStore(folder) as other:
        other.delete_run(run_id, now=True)
    gone = ExportSource(store._engine, chain_id)
    assert gone.get_chain(chain_id) is None
    assert gone.get_artifact("anything") is None
    assert gone.described({"scores": {"r2": 1.0}}) == {"scores": {"r2": 1.0}}


def test_only_its_own_chain_and_artifacts_are_given(
    store: WorkspaceStore, recorded: tuple[str, str, str]
) -> None:
    _, pipeline_id, chain_id = recorded
    other = chain_of(store, pipeline_id, store.save_artifact([1], "builtins.list", "model"))
    found = ExportSource(store._engine, chain_id)
    assert found.get_chain(other) is None
    with pytest.raises(UnknownId):
        store.export_chain([chain_id], "nothing")  # type: ignore[arg-type]
    (artifact_id,) = found.get_chain(chain_id)["fold_artifacts"].values()  # type: ignore[index]
    assert sha256(found.read_artifact(artifact_id)).hexdigest() == artifact_id
