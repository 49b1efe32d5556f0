"""What version 1.0 has no place for travels as it is; what has one is compared first."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nirs_store.bundle import Bundle, export_chain, export_script, layout, load_bundle
from nirs_store.chains.plan import ReplayPlan
from nirs_store.errors import InvalidInput, ReplayError

X = np.array([[0.0, 1.0], [1.0, 3.0], [2.0, 2.0], [3.0, 5.0], [4.0, 3.5], [5.0, 8.0]])
Y = np.array([1.0, 2.0, 4.0, 7.0, 8.0, 11.0])
LABELS = np.array(["a", "b", "a", "c", "b", "c"])
ROWS = [[0, 1, 2, 3], [2, 3, 4, 5, 1]]


@pytest.fixture
def shelf(kit: Any) -> Any:
    return kit.Shelf()


def travel(shelf: Any, chain_id: str, folder: Path, wavelengths: Any = None) -> Bundle:
    """Export, load, and see that the predictions are the same."""
    bundle = load_bundle(export_chain(shelf, chain_id, folder / "x"), allow_pickle=True)
    expected = shelf.replay(chain_id, X, wavelengths)
    assert (bundle.predict(X, wavelengths) == expected).all()
    assert len(np.unique(expected)) > 1
    return bundle


def expressible(bundle: Bundle) -> bool:
    assert bundle.record is not None
    return bundle.record.version_1_0.expressible


def test_steps_of_each_fold_that_take_wavelengths_travel_as_they_are(
    shelf: Any, kit: Any, tmp_path: Path
) -> None:
    from sklearn.linear_model import LinearRegression
    from sklearn.preprocessing import StandardScaler

    own = {i: [shelf.keep(kit.Tilted(i + 1.0))] for i in (0, 1)}
    models = {i: shelf.keep(LinearRegression().fit(X[rows], Y[rows])) for i, rows in enumerate(ROWS)}
    steps = [
        {"operator_class": "StandardScaler", "artifact_id": shelf.keep(StandardScaler().fit(X))},
        {"operator_class": "Tilted", "fold_artifact_ids": own},
        {"operator_class": "sklearn.preprocessing.Normalizer", "params": {"norm": "max"}, "stateless": True},
        {"operator_class": "LinearRegression"},
    ]
    bundle = travel(shelf, shelf.chain(steps, models), tmp_path, [900.0, 1000.0])
    assert not expressible(bundle)
    assert "takes wavelengths" in bundle.notes[0]
    assert bundle.chain["steps"][1]["fold_artifact_ids"].keys() == {"fold_0", "fold_1"}
    assert bundle.chain["steps"][2]["stateless"]


def test_a_shared_step_that_takes_wavelengths_is_said(shelf: Any, kit: Any, tmp_path: Path) -> None:
    from sklearn.linear_model import LinearRegression

    model = shelf.keep(LinearRegression().fit(X, Y))
    steps = [{"operator_class": "Tilted", "artifact_id": shelf.keep(kit.Tilted())}, {"operator_class": "L"}]
    bundle = travel(shelf, shelf.chain(steps, {"final": model}), tmp_path, [900.0, 1000.0])
    assert expressible(bundle)
    assert "other readers" in bundle.notes[0]


def test_labels_encoded_by_each_fold_are_decoded_in_its_classifier(shelf: Any, tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import LabelEncoder
    from sklearn.svm import SVC

    coders = {i: LabelEncoder().fit(LABELS[rows]) for i, rows in enumerate(ROWS)}
    coding = {
        "operator_class": "LabelEncoder",
        "operator_type": "y_processing",
        "fold_artifact_ids": {i: [shelf.keep(coder)] for i, coder in coders.items()},
    }
    for model, fits in ((LogisticRegression(C=1e4), True), (SVC(C=1e4), False)):
        models = {
            i: shelf.keep(type(model)(C=1e4).fit(X[rows], coders[i].transform(LABELS[rows])))
            for i, rows in enumerate(ROWS)
        }
        bundle = travel(shelf, shelf.chain([coding, {"operator_class": "classifier"}], models), tmp_path)
        assert expressible(bundle) is fits


def test_targets_of_each_fold_behind_a_model_of_unknown_shape_travel_as_they_are(
    shelf: Any, kit: Any, tmp_path: Path
) -> None:
    from sklearn.preprocessing import StandardScaler

    own = {i: [shelf.keep(StandardScaler().fit(Y[rows].reshape(-1, 1)))] for i, rows in enumerate(ROWS)}
    scaling = {"operator_class": "StandardScaler", "operator_type": "y_processing", "fold_artifact_ids": own}
    models = {i: shelf.keep(kit.Line(i + 0.5)) for i in (0, 1)}
    bundle = travel(shelf, shelf.chain([scaling, {"operator_class": "Line"}], models), tmp_path)
    assert not expressible(bundle)
    assert "shape" in bundle.notes[0]


def of_each_fold(shelf: Any, models: list[Any], calls: tuple[Any, Any] = (np.sqrt, np.cbrt)) -> str:
    from sklearn.preprocessing import FunctionTransformer

    own = {i: [shelf.keep(FunctionTransformer(call))] for i, call in enumerate(calls)}
    kept = {i: shelf.keep(model) for i, model in enumerate(models)}
    steps = [{"operator_class": "FunctionTransformer", "fold_artifact_ids": own}, {"operator_class": "model"}]
    return str(shelf.chain(steps, kept))


def test_a_model_that_does_not_work_inside_a_pipeline_travels_as_it_is(
    shelf: Any, kit: Any, tmp_path: Path
) -> None:
    chain_id = of_each_fold(shelf, [kit.Line(0.5), kit.Line(1.5)])
    for probe in (None, X):
        path = export_chain(shelf, chain_id, tmp_path / "x", probe=probe)
        bundle = load_bundle(path, allow_pickle=True)
        assert not expressible(bundle)
        assert ("give probe=" if probe is None else "other numbers") in bundle.notes[0]
        assert (bundle.predict(X) == shelf.replay(chain_id, X)).all()


def test_a_width_that_only_the_model_knows_is_enough_for_the_comparison(shelf: Any, tmp_path: Path) -> None:
    from sklearn.linear_model import LinearRegression

    chain_id = of_each_fold(shelf, [LinearRegression().fit(X[rows], Y[rows]) for rows in ROWS])
    assert expressible(travel(shelf, chain_id, tmp_path))


def test_what_made_up_spectra_cannot_pass_is_compared_on_a_probe(
    shelf: Any, kit: Any, tmp_path: Path
) -> None:
    from sklearn.linear_model import LinearRegression

    models = [LinearRegression().fit(X[rows], Y[rows]) for rows in ROWS]
    chain_id = of_each_fold(shelf, models, (kit.only_whole_numbers, np.cbrt))
    whole = np.array([[1.0, 2.0], [3.0, 5.0]])
    for probe in (None, whole):
        path = export_chain(shelf, chain_id, tmp_path / "x", probe=probe)
        bundle = load_bundle(path, allow_pickle=True)
        assert expressible(bundle) is (probe is not None)
        assert (bundle.predict(whole) == shelf.replay(chain_id, whole)).all()


def test_classifiers_and_regressors_are_not_mixed(shelf: Any, tmp_path: Path) -> None:
    from sklearn.linear_model import LinearRegression, LogisticRegression

    models = {0: shelf.keep(LinearRegression().fit(X, Y)), 1: shelf.keep(LogisticRegression().fit(X, LABELS))}
    with pytest.raises(ReplayError, match="classifiers"):
        export_chain(shelf, shelf.chain([{"operator_class": "model"}], models), tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_classifiers_that_do_not_name_their_labels_are_not_averaged_by_other_readers(
    shelf: Any, kit: Any, tmp_path: Path
) -> None:
    numbers = np.array([0, 1, 0, 2, 1, 2])
    models = {i: shelf.keep(kit.Nearest().fit(X[rows], numbers[rows])) for i, rows in enumerate(ROWS)}
    chain_id = shelf.chain([{"operator_class": "bundle_kit.Nearest"}], models)
    bundle = travel(shelf, chain_id, tmp_path)
    assert set(bundle.predict(X)) <= {0, 1, 2}
    assert not expressible(bundle)
    assert "do not name their labels" in bundle.notes[0]
    with pytest.raises(InvalidInput, match="do not name their labels"):
        export_script(shelf, chain_id, tmp_path / "x")


def regressors() -> list[Any]:
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.cross_decomposition import PLSRegression
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.linear_model import Lasso, LinearRegression, Ridge
    from sklearn.neighbors import KNeighborsRegressor
    from sklearn.svm import SVR

    return [
        PLSRegression(1),
        Ridge(),
        Lasso(),
        LinearRegression(),
        SVR(),
        KNeighborsRegressor(2),
        RandomForestRegressor(2, random_state=0),
        TransformedTargetRegressor(Ridge()),
    ]


@pytest.mark.parametrize("model", regressors(), ids=lambda model: type(model).__name__)
def test_a_regressor_of_scikit_learn_is_not_opened_to_know_that_it_is_one(shelf: Any, model: Any) -> None:
    class Closed:
        def open(self, operator: Any) -> Any:
            raise AssertionError(f"{operator.name} was opened")

    kept = {i: shelf.keep(model.fit(X[rows], Y[rows])) for i, rows in enumerate(ROWS)}
    plan = ReplayPlan.from_chain(shelf.chains[shelf.chain([{"operator_class": "model"}], kept)])
    closed: Any = Closed()
    assert not layout._classifies(plan, closed, shelf.blobs.__getitem__)


def test_steps_of_one_number_and_different_kinds_are_numbered_anew(
    shelf: Any, kit: Any, tmp_path: Path
) -> None:
    from sklearn.linear_model import LinearRegression
    from sklearn.preprocessing import StandardScaler

    scaler, targets = StandardScaler().fit(X), StandardScaler().fit(Y.reshape(-1, 1))
    model = LinearRegression().fit(scaler.transform(X), targets.transform(Y.reshape(-1, 1)).ravel())
    steps = [
        {"step_idx": 4, "operator_class": "StandardScaler", "artifact_id": shelf.keep(scaler)},
        {
            "step_idx": 4,
            "operator_class": "StandardScaler",
            "operator_type": "y_processing",
            "artifact_id": shelf.keep(targets),
        },
        {"step_idx": 9, "operator_class": "LinearRegression"},
    ]
    chain_id = shelf.chain(steps, {"final": shelf.keep(model)})
    bundle = travel(shelf, chain_id, tmp_path)
    assert [step["step_idx"] for step in bundle.chain["steps"]] == [1, 2, 3]
    foreign = load_bundle(kit.as_foreign(bundle.path), allow_pickle=True)
    assert (foreign.predict(X) == shelf.replay(chain_id, X)).all()


def pickles() -> dict[str, tuple[bytes, bool]]:
    """Models as they are stored, and whether their first bytes tell that they are regressors."""
    from sklearn.cross_decomposition import PLSRegression
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.model_selection import GridSearchCV
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline

    from nirs_store.blobs.serializers import get_serializer

    class Own(Ridge):  # type: ignore[misc]
        pass

    Own.__module__, Own.__qualname__ = __name__, "Own"
    globals()["Own"] = Own
    dumps = get_serializer("joblib").dumps
    ridge = dumps(Ridge().fit(X, Y))
    gone = ridge.replace(b"\x8c\x1bsklearn.linear_model._ridge", b"\x8c\x1bsklearn.linear_model._gones")
    assert gone != ridge
    return {
        "ridge": (ridge, True),
        "pls": (dumps(PLSRegression(1).fit(X, Y)), True),
        "logistic": (dumps(LogisticRegression().fit(X, LABELS)), False),
        "neighbours": (dumps(KNeighborsClassifier(1).fit(X, LABELS)), False),
        "search": (dumps(GridSearchCV(Ridge(), {"alpha": [1.0]}, cv=2).fit(X, Y)), False),
        "pipeline": (dumps(make_pipeline(Ridge()).fit(X, Y)), False),
        "own": (dumps(Own().fit(X, Y)), False),
        "a list": (dumps([Ridge().fit(X, Y)]), False),
        "a class": (dumps(Ridge), False),
        "old protocol": (pickle.dumps(Ridge().fit(X, Y), protocol=2), False),
        "of another version": (gone, False),
        "lying length": (ridge.replace(b"\x8c\x05Ridge", b"\x8c\x04Ridge", 1), False),
        "cut": (ridge[:20], False),
        "nothing": (b"", False),
    }


@pytest.mark.parametrize("name", pickles())
def test_the_first_bytes_of_a_pickle_tell_a_regressor_of_scikit_learn(name: str) -> None:
    data, expected = pickles()[name]
    assert layout._is_regressor(data) is expected


# -- Objects put together from fitted parts.


RNG = np.random.default_rng(3)
SEEN = RNG.normal(size=(60, 5))
NEW = RNG.normal(size=(200, 5))
LETTERS = np.array(["a", "b", "c"])[np.digitize(SEEN[:, 0] + SEEN[:, 1], [-0.5, 0.5])]


def classifiers() -> list[object]:
    from sklearn.neighbors import KNeighborsClassifier

    return [KNeighborsClassifier(4).fit(SEEN[k::3], LETTERS[k::3]) for k in range(3)]


@pytest.mark.parametrize("weights", [None, [0.0, 2.0, 3.0]])
def test_probabilities_are_averaged_to_the_last_bit(weights: list[float] | None) -> None:
    models = classifiers()
    known = np.array(["a", "b", "c"])
    whole = layout.average_probabilities(models, [known] * 3, known, weights)
    mean = np.average([model.predict_proba(NEW) for model in models], axis=0, weights=weights)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(whole.predict_proba(NEW), mean)
    assert (whole.predict(NEW) == known[mean.argmax(axis=1)]).all()
    assert whole.n_features_in_ == 5


@pytest.mark.parametrize("weights", [None, [1.0, 5.0]])
def test_a_label_that_one_of_them_never_saw_has_no_share_there(weights: list[float] | None) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    seen = [LETTERS != "a", LETTERS != "c"]
    models = [KNeighborsClassifier(7).fit(SEEN[rows], LETTERS[rows]) for rows in seen]
    known = np.array(["a", "b", "c"])
    shares = np.zeros((2, len(NEW), 3))
    shares[0][:, 1:], shares[1][:, :2] = models[0].predict_proba(NEW), models[1].predict_proba(NEW)
    mean = np.average(shares, axis=0, weights=weights)
    clear = np.diff(np.sort(mean, axis=1)[:, -2:], axis=1).ravel() > 1e-9
    whole = layout.average_probabilities(models, [model.classes_ for model in models], known, weights)
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
    whole = layout.count_votes(models, known, weights)
    assert (whole.predict(NEW) == known[np.argmax(votes, axis=1)]).all()
    assert not hasattr(whole, "predict_proba")
    if weights is None:
        ties = (np.sort(np.asarray(votes), axis=1)[:, -2:] == 1.0).all(axis=1)
        assert ties.any(), "else this would say nothing about ties"


def test_two_labels_and_one_label_can_be_voted_on() -> None:
    from sklearn.dummy import DummyClassifier
    from sklearn.svm import LinearSVC

    binary = LETTERS == "a"
    models = [LinearSVC().fit(SEEN[k::2], binary[k::2]) for k in (0, 1)]
    whole = layout.count_votes(models, np.array([False, True]), None)
    both = np.array([model.predict(NEW) for model in models])
    assert (whole.predict(NEW) == both.all(axis=0)).all()
    one = [DummyClassifier().fit(SEEN, np.ones(60, dtype=int))]
    assert layout.count_votes(one, np.array([1]), None).predict(NEW).tolist() == [1] * 200


def test_a_regressor_undoes_its_targets_and_keeps_its_shape() -> None:
    from sklearn.linear_model import LinearRegression
    from sklearn.preprocessing import MinMaxScaler, StandardScaler

    y = SEEN @ np.arange(5.0)
    first = StandardScaler().fit(y.reshape(-1, 1))
    second = MinMaxScaler().fit(first.transform(y.reshape(-1, 1)))
    coded = second.transform(first.transform(y.reshape(-1, 1)))
    for one_d in (True, False):
        model = LinearRegression().fit(SEEN, coded.ravel() if one_d else coded)
        found = layout.undo_targets(model, [first, second], one_d).predict(NEW)
        raw = model.predict(NEW).reshape(-1, 1)
        expected = first.inverse_transform(second.inverse_transform(raw))
        np.testing.assert_array_equal(found, expected.ravel() if one_d else expected)


def test_features_are_augmented_with_the_input_first() -> None:
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(SEEN)
    found = layout.augmented([scaler, scaler]).transform(NEW)
    np.testing.assert_array_equal(found, np.hstack([NEW, scaler.transform(NEW), scaler.transform(NEW)]))
