from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import LabelEncoder, OrdinalEncoder
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from nirs_store.chains.predictor import ChainPredictor
from nirs_store.errors import ReplayError


def chain_of(shelf: Any, *models: str, steps: Any = (), **more: Any) -> ChainPredictor:
    folds = {"final": models[0]} if len(models) == 1 else dict(enumerate(models))
    chain = {"steps": list(steps), "model_step_idx": 9, "fold_artifacts": folds, **more}
    return ChainPredictor(chain, shelf.load)


@pytest.fixture
def lda(tecator: Any, shelf: Any) -> list[Any]:
    models = [LinearDiscriminantAnalysis().fit(tecator.X[i::3], tecator.fatty[i::3]) for i in range(3)]
    shelf.put(**{f"m{i}": model for i, model in enumerate(models)})
    return models


def test_probabilities_are_averaged_and_labels_keep_their_type(
    tecator: Any, shelf: Any, lda: list[Any]
) -> None:
    chain = chain_of(shelf, "m0", "m1", "m2")
    proba = np.mean(np.stack([model.predict_proba(tecator.X) for model in lda]), axis=0)
    assert chain.predict_proba(tecator.X).tobytes() == proba.tobytes()
    labels = chain.predict(tecator.X)
    assert labels.dtype == tecator.fatty.dtype
    assert np.array_equal(labels, lda[0].classes_[proba.argmax(axis=1)])
    assert chain.classes_.tolist() == ["fatty meat", "lean", "medium"]
    assert shelf.changed() == []


def test_probabilities_are_weighted(tecator: Any, shelf: Any, lda: list[Any]) -> None:
    chain = chain_of(shelf, "m0", "m1", "m2", fold_weights={"0": 3, "1": 1, "2": 0})
    stacked = np.stack([model.predict_proba(tecator.X) for model in lda])
    expected = np.average(stacked, axis=0, weights=[3, 1, 0])
    assert chain.predict_proba(tecator.X).tobytes() == expected.tobytes()


def test_a_refit_gives_its_own_labels_and_probabilities(tecator: Any, shelf: Any, lda: list[Any]) -> None:
    chain = chain_of(shelf, "m0")
    assert np.array_equal(chain.predict(tecator.X), lda[0].predict(tecator.X))
    assert np.array_equal(chain.predict_proba(tecator.X), lda[0].predict_proba(tecator.X))
    assert chain.classes_.tolist() == lda[0].classes_.tolist()


def test_folds_that_saw_different_classes_are_aligned_by_label(shelf: Any) -> None:
    X = np.arange(8.0).reshape(-1, 1)
    first = KNeighborsClassifier(1).fit(X[:6], ["b", "b", "b", "d", "d", "d"])
    second = KNeighborsClassifier(1).fit(X[2:], ["a", "a", "a", "ccc", "ccc", "ccc"])
    shelf.put(m0=first, m1=second)
    chain = chain_of(shelf, "m0", "m1", fold_weights={0: 1, 1: 3})
    proba = chain.predict_proba(X)
    assert chain.classes_.tolist() == ["a", "b", "ccc", "d"]
    assert proba[0].tolist() == [0.75, 0.25, 0.0, 0.0]
    assert proba[7].tolist() == [0.0, 0.0, 0.75, 0.25]
    assert chain.predict(X).tolist() == ["a"] * 5 + ["ccc"] * 3
    equal = chain_of(shelf, "m0", "m1").predict(X)
    assert equal.tolist() == ["a", "a", "a", "a", "a", "ccc", "ccc", "ccc"]


def test_integer_labels_stay_integers(shelf: Any) -> None:
    X = np.arange(6.0).reshape(-1, 1)
    y = np.array([7, 7, 7, 3, 3, 3], dtype=np.int32)
    shelf.put(m0=DecisionTreeClassifier().fit(X, y), m1=DecisionTreeClassifier().fit(X[1:5], y[1:5]))
    labels = chain_of(shelf, "m0", "m1").predict(X)
    assert labels.dtype == np.int32
    assert labels.tolist() == y.tolist()


def test_classifiers_without_probabilities_vote(tecator: Any, shelf: Any) -> None:
    # The last knows probabilities; as the others do not, all of them vote.
    kinds = [RidgeClassifier(), SVC(), LinearDiscriminantAnalysis()]
    models = [kind.fit(tecator.X[i::3], tecator.fatty[i::3]) for i, kind in enumerate(kinds)]
    shelf.put(**{f"m{i}": model for i, model in enumerate(models)})
    found = chain_of(shelf, "m0", "m1", "m2").predict(tecator.X)
    votes = np.stack([model.predict(tecator.X) for model in models])
    expected = []
    for column in votes.T:
        labels, counts = np.unique(column, return_counts=True)
        expected.append(labels[counts.argmax()])
    assert found.dtype == tecator.fatty.dtype
    assert found.tolist() == expected
    weighted = chain_of(shelf, "m0", "m1", "m2", fold_weights={0: 1, 1: 1, 2: 5}).predict(tecator.X)
    assert np.array_equal(weighted, votes[2])
    assert not hasattr(chain_of(shelf, "m0", "m1", "m2"), "predict_proba")


def test_a_label_encoder_is_undone(tecator: Any, shelf: Any) -> None:
    encoder = LabelEncoder().fit(tecator.fatty)
    codes = encoder.transform(tecator.fatty)
    models = [LinearDiscriminantAnalysis().fit(tecator.X[i::2], codes[i::2]) for i in range(2)]
    shelf.put(encoder=encoder, m0=models[0], m1=models[1])
    step = {"step_idx": 0, "operator_type": "y_processing", "artifact_id": "encoder"}
    for chain in (chain_of(shelf, "m0", steps=[step]), chain_of(shelf, "m0", "m1", steps=[step])):
        labels = chain.predict(tecator.X)
        assert labels.shape == (215,)
        assert set(labels) == set(tecator.fatty)
        assert chain.classes_.tolist() == ["fatty meat", "lean", "medium"]
    both = np.mean(np.stack([model.predict_proba(tecator.X) for model in models]), axis=0)
    assert np.array_equal(labels, encoder.classes_[both.argmax(axis=1)])


def test_label_encoders_of_each_fold_are_undone_before_labels_meet(shelf: Any) -> None:
    X = np.arange(6.0).reshape(-1, 1)
    # Code 0 means "b" in the first fold and "a" in the second.
    for fold, labels in enumerate((["b", "b", "b", "c", "c", "c"], ["a", "a", "a", "c", "c", "c"])):
        encoder = LabelEncoder().fit(labels)
        shelf.put(
            **{f"e{fold}": encoder, f"m{fold}": KNeighborsClassifier(1).fit(X, encoder.transform(labels))}
        )
        shelf.put(**{f"r{fold}": RidgeClassifier().fit(X, encoder.transform(labels))})
    step = {"step_idx": 0, "operator_type": "y_processing", "fold_artifact_ids": {"0": "e0", "1": "e1"}}
    soft = chain_of(shelf, "m0", "m1", steps=[step], fold_weights={0: 2, 1: 1})
    assert soft.classes_.tolist() == ["a", "b", "c"]
    assert soft.predict(X).tolist() == ["b", "b", "b", "c", "c", "c"]
    assert soft.predict_proba(X)[0].round(3).tolist() == [0.333, 0.667, 0.0]
    hard = chain_of(shelf, "r0", "r1", steps=[step])
    assert hard.predict(X).tolist() == ["a", "a", "a", "c", "c", "c"]


def test_labels_of_a_model_are_never_handed_out_for_writing(lda: list[Any], shelf: Any) -> None:
    class Shouting:
        def inverse_transform(self, y: Any) -> Any:
            y[:] = np.char.upper(y)
            return y

    shelf.loaded.update(shout=Shouting(), m0=lda[0])
    labels = chain_of(shelf, "m0").classes_
    labels[:] = "x"
    step = {"step_idx": 0, "operator_type": "y_processing", "artifact_id": "shout"}
    loud = chain_of(shelf, "m0", steps=[step]).classes_
    assert loud.ravel().tolist() == ["FATTY MEAT", "LEAN", "MEDIUM"]
    assert lda[0].classes_.tolist() == ["fatty meat", "lean", "medium"]


def test_another_encoder_gets_a_column(tecator: Any, shelf: Any) -> None:
    encoder = OrdinalEncoder().fit(tecator.fatty.reshape(-1, 1))
    model = LinearDiscriminantAnalysis().fit(
        tecator.X, encoder.transform(tecator.fatty.reshape(-1, 1)).ravel()
    )
    shelf.put(encoder=encoder, m0=model)
    step = {"step_idx": 0, "operator_type": "y_processing", "artifact_id": "encoder"}
    labels = chain_of(shelf, "m0", steps=[step]).predict(tecator.X)
    assert labels.shape == (215,)
    assert set(labels) == set(tecator.fatty)


def test_several_outputs_vote_one_by_one(shelf: Any) -> None:
    X = np.arange(6.0).reshape(-1, 1)
    y = np.array([[0, 5], [0, 5], [0, 5], [1, 5], [1, 6], [1, 6]])
    models = [MultiOutputClassifier(KNeighborsClassifier(1)).fit(X, y + shift) for shift in (0, 1, 0)]
    shelf.put(**{f"m{i}": model for i, model in enumerate(models)})
    chain = chain_of(shelf, "m0", "m1", "m2")
    assert chain.predict(X).tolist() == y.tolist()
    assert not hasattr(chain, "predict_proba")


def test_classifiers_and_regressors_do_not_mix(tecator: Any, shelf: Any, lda: list[Any]) -> None:
    shelf.put(r=Ridge().fit(tecator.X, tecator.fat))
    with pytest.raises(ReplayError, match="cannot be combined"):
        chain_of(shelf, "m0", "r").predict(tecator.X)
    regressor = chain_of(shelf, "r")
    assert not hasattr(regressor, "predict_proba")
    with pytest.raises(AttributeError, match="classes_: this chain is a regression"):
        regressor.classes_  # noqa: B018
