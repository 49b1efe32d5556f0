"""A run, a chain and its predictions as values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nirs_store import CrossValidationResult, WorkspaceStore, load_tecator, record_cross_validation
from nirs_store.errors import InvalidInput, UnknownId

MEAT = load_tecator()
LABEL = np.where(MEAT.fat > 20, "fatty", "lean")
NAMES = [f"meat-{i:03d}" for i in range(80)]


@dataclass(frozen=True)
class Recorded:
    """One store with a regression and a classification."""

    store: WorkspaceStore
    fat: CrossValidationResult
    label: CrossValidationResult


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    with WorkspaceStore(tmp_path_factory.mktemp("workspace")) as store:
        fat = record_cross_validation(
            store, make_pipeline(StandardScaler(), PLSRegression(4)), MEAT.X[:60], MEAT.fat[:60],
            cv=KFold(12, shuffle=True, random_state=0), dataset_name="meat", X_test=MEAT.X[60:80],
            y_test=MEAT.fat[60:80], sample_ids=NAMES[:60], sample_ids_test=NAMES[60:],
            wavelengths=MEAT.wavelengths, target="fat", target_unit="%",
        )  # fmt: skip
        label = record_cross_validation(
            store, make_pipeline(StandardScaler(), LogisticRegression()), MEAT.X[:60], LABEL[:60], cv=3,
            dataset_name="kind", refit=False,
        )  # fmt: skip
        yield Recorded(store, fat, label)


def test_a_chain_is_looked_at_whole(recorded: Recorded) -> None:
    view = recorded.store.show_chain(recorded.fat.chain_id)
    assert view.name == "StandardScaler > PLS(4)"
    assert (view.run_id, view.pipeline_id) == (recorded.fat.run_id, recorded.fat.pipeline_id)
    assert (view.dataset_name, view.metadata["target"]) == ("meat", "fat")
    assert [step["operator_class"].rpartition(".")[2] for step in view.steps] == [
        "KFold",
        "StandardScaler",
        "PLSRegression",
    ]
    assert view.folds == (*(f"fold_{i}" for i in range(12)), "final")
    assert view.artifacts["artifact_type"].to_list() == ["model"] * 13 + ["splitter"] + ["transformer"] * 13
    assert view.scores["rmsecv"] == pytest.approx(recorded.fat.rmsecv)
    assert view.scores["rmsep"] == pytest.approx(recorded.fat.test_value)
    assert view.n_samples == 60
    assert view.wavelengths is not None
    with pytest.raises(FrozenInstanceError):
        view.name = "other"  # type: ignore[misc]


def test_a_run_is_looked_at_with_its_pipelines(recorded: Recorded) -> None:
    store = recorded.store
    store.annotate_run(recorded.fat.run_id, "first try")
    store.tag_run(recorded.fat.run_id, "autumn", "fat")
    view = store.show_run(recorded.fat.run_id)
    assert (view.name, view.status, view.datasets) == ("StandardScaler > PLS(4)", "completed", ("meat",))
    assert (view.note, sorted(view.tags)) == ("first try", ["autumn", "fat"])
    assert view.pipelines["pipeline_id"].to_list() == [recorded.fat.pipeline_id]
    assert view.environment["python"]
    assert view.completed_at is not None
    assert view.completed_at >= view.created_at


@pytest.mark.parametrize("identifier", ["nobody", "", None, 5])
def test_an_unknown_id_is_an_error(recorded: Recorded, identifier: str) -> None:
    with pytest.raises(UnknownId):
        recorded.store.show_chain(identifier)
    with pytest.raises(KeyError):
        recorded.store.show_run(identifier)


def test_out_of_fold_predictions_come_a_sample_a_row_under_their_names(recorded: Recorded) -> None:
    frame = recorded.store.chain_predictions(recorded.fat.chain_id)
    assert frame.columns == ["sample", "fold_id", "y_true", "y_pred"]
    assert frame["fold_id"].unique(maintain_order=True).to_list() == [f"fold_{i}" for i in range(12)]
    assert sorted(frame["sample"]) == NAMES[:60]
    measured = dict(zip(NAMES, MEAT.fat, strict=False))
    assert [measured[name] for name in frame["sample"]] == frame["y_true"].to_list()
    rmsecv = np.sqrt(np.mean((frame["y_pred"] - frame["y_true"]).to_numpy() ** 2))
    assert rmsecv == pytest.approx(recorded.fat.rmsecv)


def test_test_samples_have_their_own_names_and_the_refit_comes_last(recorded: Recorded) -> None:
    frame = recorded.store.chain_predictions(recorded.fat.chain_id, "test")
    assert frame["fold_id"][-1] == "final"
    final = frame.filter(fold_id="final")
    assert final["sample"].to_list() == NAMES[60:]
    np.testing.assert_allclose(
        final["y_pred"], recorded.store.replay_chain(recorded.fat.chain_id, MEAT.X[60:80]), rtol=1e-12
    )


def test_without_names_samples_are_row_numbers_and_classes_name_the_probabilities(recorded: Recorded) -> None:
    frame = recorded.store.chain_predictions(recorded.label.chain_id)
    assert frame.columns == ["sample", "fold_id", "y_true", "y_pred", "y_proba_fatty", "y_proba_lean"]
    assert frame["sample"].dtype == pl.Int64
    assert [LABEL[i] for i in frame["sample"]] == frame["y_true"].to_list()
    sums = frame["y_proba_fatty"] + frame["y_proba_lean"]
    assert sums.to_list() == pytest.approx([1.0] * 60)
    likely = frame.select(
        pl.when(pl.col("y_proba_fatty") > 0.5).then(pl.lit("fatty")).otherwise(pl.lit("lean"))
    )
    assert likely.to_series().to_list() == frame["y_pred"].to_list()


def test_predictions_without_arrays_or_of_nobody_are_an_empty_table(recorded: Recorded) -> None:
    frame = recorded.store.chain_predictions("nobody")
    assert frame.columns == ["sample", "fold_id", "y_true", "y_pred"]
    assert frame.height == 0
    with pytest.raises(InvalidInput, match="Did you mean 'train'"):
        recorded.store.chain_predictions(recorded.fat.chain_id, "trian")


def test_several_targets_and_mixed_sample_names_fit_in_one_table(tmp_path: Path) -> None:
    with WorkspaceStore(tmp_path) as store, store.run("r") as run, run.pipeline("p") as p:
        step = {"step_idx": 0, "operator_class": "a.Model", "params": {}, "stateless": True}
        chain_id = store.save_chain(p.pipeline_id, [step], 0, "a.Model", "", "per_fold", {}, {})
        two = np.arange(6.0).reshape(3, 2)
        for fold, samples in (
            ("10", np.array(["a", "b", "c"])),
            ("9", np.arange(3)),
            ("2", None),
            ("avg", None),
        ):
            prediction_id = store.save_prediction(
                p.pipeline_id, chain_id, "d", "m", "m", fold, "custom", None, None, None, "rmse", "regression",
                3, 2, {}, {}, None, None, 0, 0.0,
            )  # fmt: skip
            if fold != "avg":
                store.save_prediction_arrays(prediction_id, two, two + 1, sample_indices=samples)
        frame = store.chain_predictions(chain_id, "custom")
    assert frame.columns == ["sample", "fold_id", "y_true_0", "y_true_1", "y_pred_0", "y_pred_1"]
    assert frame["fold_id"].to_list() == ["2"] * 3 + ["9"] * 3 + ["10"] * 3
    assert frame["sample"].to_list() == [None] * 3 + ["0", "1", "2", "a", "b", "c"]
    assert frame["y_pred_1"].to_list() == [2.0, 4.0, 6.0] * 3
