"""Objects put together from fitted parts."""

from __future__ import annotations

import numpy as np
import pytest

from nirs_store.bundle import layout as prefit

RNG = np.random.default_rng(3)
X = RNG.normal(size=(60, 5))
NEW = RNG.normal(size=(200, 5))
LABELS = np.array(["a", "b", "c"])[np.digitize(X[:, 0] + X[:, 1], [-0.5, 0.5])]


def classifiers() -> list[object]:
    from sklearn.neighbors import KNeighborsClassifier

    return [KNeighborsClassifier(4).fit(X[k::3], LABELS[k::3]) for k in range(3)]


@pytest.mark.parametrize("weights", [None, [0.0, 2.0, 3.0]])
def test_probabilities_are_averaged_to_the_last_bit(weights: list[float] | None) -> None:
    models = classifiers()
    known = np.array(["a", "b", "c"])
    whole = prefit.average_probabilities(models, [known] * 3, known, weights)
    mean = np.average([model.predict_proba(NEW) for model in models], axis=0, weights=weights)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(whole.predict_proba(NEW), mean)
    assert (whole.predict(NEW) == known[mean.argmax(axis=1)]).all()
    assert whole.n_features_in_ == 5


@pytest.mark.parametrize("weights", [None, [1.0, 5.0]])
def test_a_label_that_one_of_them_never_saw_has_no_share_there(weights: list[float] | None) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    seen = [LABELS != "a", LABELS != "c"]
    models = [KNeighborsClassifier(7).fit(X[rows], LABELS[rows]) for rows in seen]
    known = np.array(["a", "b", "c"])
    shares = np.zeros((2, len(NEW), 3))
    shares[0][:, 1:], shares[1][:, :2] = models[0].predict_proba(NEW), models[1].predict_proba(NEW)
    mean = np.average(shares, axis=0, weights=weights)
    clear = np.diff(np.sort(mean, axis=1)[:, -2:], axis=1).ravel() > 1e-9
    whole = prefit.average_probabilities(models, [model.classes_ for model in models], known, weights)
    assert (whole.predict(NEW) == known[mean.argmax(axis=1)])[clear].all()
    assert len(np.unique(whole.predict(NEW))) > 1


@pytest.mark.parametrize("weights", [None, [1.0, 1.5, 0.25]])
def test_votes_are_counted_and_ties_go_to_the_first_label(weights: list[float] | None) -> None:
    models = classifiers()
    known = np.array(["a", "b", "c", "never"])
    votes = sum(
        share * (model.predict(NEW)[:, None] == known)  # type: ignore[attr-defined]
        for share, model in zip(weights or [1.0] * 3, models, strict=True)
    )
    whole = prefit.count_votes(models, known, weights)
    assert (whole.predict(NEW) == known[np.argmax(votes, axis=1)]).all()
    assert not hasattr(whole, "predict_proba")
    if weights is None:
        ties = (np.sort(np.asarray(votes), axis=1)[:, -2:] == 1.0).all(axis=1)
        assert ties.any(), "else this would say nothing about ties"


def test_two_labels_and_one_label_can_be_voted_on() -> None:
    from sklearn.dummy import DummyClassifier
    from sklearn.svm import LinearSVC

    binary = LABELS == "a"
    models = [LinearSVC().fit(X[k::2], binary[k::2]) for k in (0, 1)]
    whole = prefit.count_votes(models, np.array([False, True]), None)
    both = np.array([model.predict(NEW) for model in models])
    assert (whole.predict(NEW) == both.all(axis=0)).all()
    one = [DummyClassifier().fit(X, np.ones(60, dtype=int))]
    assert prefit.count_votes(one, np.array([1]), None).predict(NEW).tolist() == [1] * 200


def test_a_regressor_undoes_its_targets_and_keeps_its_shape() -> None:
    from sklearn.linear_model import LinearRegression
    from sklearn.preprocessing import MinMaxScaler, StandardScaler

    y = X @ np.arange(5.0)
    first = StandardScaler().fit(y.reshape(-1, 1))
    second = MinMaxScaler().fit(first.transform(y.reshape(-1, 1)))
    coded = second.transform(first.transform(y.reshape(-1, 1)))
    for one_d in (True, False):
        model = LinearRegression().fit(X, coded.ravel() if one_d else coded)
        found = prefit.undo_targets(model, [first, second], one_d).predict(NEW)
        raw = model.predict(NEW).reshape(-1, 1)
        expected = first.inverse_transform(second.inverse_transform(raw))
        np.testing.assert_array_equal(found, expected.ravel() if one_d else expected)


def test_features_are_augmented_with_the_input_first() -> None:
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(X)
    found = prefit.augmented([scaler, scaler]).transform(NEW)
    np.testing.assert_array_equal(found, np.hstack([NEW, scaler.transform(NEW), scaler.transform(NEW)]))
