"""Bundles without pickles."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import scipy.sparse
from sklearn.linear_model import Ridge
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import SVR

from nirs_store import load_bundle
from nirs_store.blobs.trusted import CHEMOTOOLS, is_plain_estimator
from nirs_store.bundle import Limits, export_chain, inspect_bundle
from nirs_store.bundle.payload import skops_payload, untrusted
from nirs_store.errors import BundleInvalid, InvalidInput, ReplayError, SerializationError, UntrustedBundle

CHAINS = [
    "folds",
    "weights",
    "refit",
    "single",
    "two in one step",
    "steps of each fold",
    "augmentation",
    "stateless",
    "targets",
    "two targets",
    "targets of each fold",
    "soft votes",
    "soft votes, weighted",
    "classes that a fold never saw",
    "encoded labels",
]


@pytest.fixture
def safe(world: Any, tmp_path: Path) -> Path:
    """A bundle of three folds behind SNV and a derivative, with a probe."""
    return export_chain(world.shelf, world.chains["folds"], tmp_path / "safe", safe=True, probe=world.new[:4])


@pytest.mark.parametrize("name", CHAINS)
def test_every_kind_of_chain_predicts_the_same_without_pickles(name: str, world: Any, tmp_path: Path) -> None:
    chain_id = world.chains[name]
    bundle = load_bundle(export_chain(world.shelf, chain_id, tmp_path / "safe", safe=True))
    expected = world.shelf.replay(chain_id, world.new)
    found = bundle.predict(world.new)
    assert found.shape == expected.shape
    if expected.dtype.kind == "f":
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    else:
        np.testing.assert_array_equal(found, expected)


def test_no_member_is_a_pickle(safe: Path) -> None:
    with zipfile.ZipFile(safe) as archive:
        names = archive.namelist()
        assert {Path(name).suffix for name in names} == {".json", ".md", ".skops", ".npy"}
        for name in names:
            if name.endswith(".skops"):
                with archive.open(name) as stream, zipfile.ZipFile(stream) as inner:
                    assert {Path(member).suffix for member in inner.namelist()} <= {".npy", ".json", ".bin"}
        manifest = json.loads(archive.read("manifest.json"))
    # Other readers find no model and say so.
    assert "model_step_index" not in manifest


def test_nothing_that_unpickles_is_called(safe: Path, world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load_bundle(safe).predict(world.new)  # imports what it needs

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a pickle was read")

    for module in (pickle, joblib):
        monkeypatch.setattr(module, "load", refuse)
    monkeypatch.setattr(pickle, "loads", refuse)
    monkeypatch.setattr(pickle, "Unpickler", refuse)
    monkeypatch.setattr(joblib.numpy_pickle, "NumpyUnpickler", refuse)
    np.testing.assert_array_equal(load_bundle(safe).predict(world.new), expected)


def test_the_same_chain_gives_the_same_bytes(world: Any, safe: Path, tmp_path: Path) -> None:
    again = export_chain(
        world.shelf, world.chains["folds"], tmp_path / "again", safe=True, probe=world.new[:4]
    )
    assert again.read_bytes() == safe.read_bytes()


@pytest.mark.parametrize("name", ["hard votes", "two classes"])
def test_support_vector_machines_need_to_be_named(name: str, world: Any, tmp_path: Path) -> None:
    path = export_chain(world.shelf, world.chains[name], tmp_path / "svm", safe=True)
    needs = inspect_bundle(path).needs_trust
    assert needs == ("sklearn.svm._classes.SVC",)
    with pytest.raises(UntrustedBundle, match=r"sklearn\.svm\._classes\.SVC"):
        load_bundle(path)
    bundle = load_bundle(path, trusted_types=needs)
    np.testing.assert_array_equal(
        bundle.predict(world.new), world.shelf.replay(world.chains[name], world.new)
    )


def test_trust_in_one_type_is_not_trust_in_another(world: Any, tmp_path: Path) -> None:
    path = export_chain(world.shelf, world.chains["hard votes"], tmp_path / "svm", safe=True)
    with pytest.raises(UntrustedBundle):
        load_bundle(path, trusted_types=["sklearn.svm._classes.SVR"])
    with pytest.raises(InvalidInput, match="list of names"):
        load_bundle(path, trusted_types="sklearn.svm._classes.SVC")


def test_pickles_are_not_asked_for_when_pickles_are_allowed(world: Any, tmp_path: Path) -> None:
    path = export_chain(world.shelf, world.chains["hard votes"], tmp_path / "svm", safe=True)
    with pytest.raises(UntrustedBundle):
        load_bundle(path, allow_pickle=True)


@pytest.mark.parametrize("name", sorted(CHEMOTOOLS))
def test_each_transformer_that_is_trusted_exists_and_transforms(name: str) -> None:
    from importlib import import_module

    module, _, cls = name.rpartition(".")
    found = getattr(import_module(module), cls)
    assert callable(getattr(found, "transform", None)) or cls == "BandedSolver"
    assert untrusted([name]) == []


@pytest.mark.parametrize(
    "name",
    [
        "sklearn.svm._classes.SVR",
        "sklearn.neighbors._regression.KNeighborsRegressor",
        "sklearn.ensemble._gb.GradientBoostingRegressor",
        "sklearn.cluster._kmeans.KMeans",
        "sklearn.tree._tree.Tree",
        "sklearn.evil.PLSRegression",
        "sklearn.cross_decomposition.evil.PLSRegression",
        "evil.cross_decomposition.PLSRegression",
        "chemotools.adaptation._metadata_function_transformer.MetadataFunctionTransformer",
        "builtins.eval",
        "os.system",
        "numpy.load",
        "numpy.random.mtrand.RandomState",
    ],
)
def test_what_reaches_compiled_code_or_is_not_known_is_not_trusted(name: str) -> None:
    assert untrusted([name]) == [name]
    assert untrusted([name], [name]) == []
    assert not is_plain_estimator(name)


class Strange(Ridge):
    """An estimator that keeps what skops cannot carry."""

    def fit(self, X: Any, y: Any) -> Strange:
        super().fit(X, y)
        self.rows_ = (row for row in X)
        return self


def test_what_skops_cannot_carry_is_refused_by_name(kit: Any, world: Any, tmp_path: Path) -> None:
    shelf = kit.Shelf()
    lambdas = shelf.keep(FunctionTransformer(lambda X: X).fit(world.X), "cloudpickle")
    model = shelf.keep(Ridge().fit(world.X, world.fat))
    chain = shelf.chain(
        [{"operator_class": "f", "artifact_id": lambdas}, {"operator_class": "m"}], {0: model}
    )
    with pytest.raises(SerializationError, match=r"FunctionTransformer.*<lambda>.*Nothing was written"):
        export_chain(shelf, chain, tmp_path / "no", safe=True)
    with pytest.raises(SerializationError, match="Strange"):
        skops_payload(Strange().fit(world.X, world.fat), "Step 1")
    sparse = Ridge().fit(world.X, world.fat)
    sparse.kept_ = scipy.sparse.csr_matrix(world.X)
    with pytest.raises(SerializationError, match=r"Ridge.*csr_matrix"):
        skops_payload(sparse, "Step 1")
    assert list(tmp_path.iterdir()) == []


def test_a_chain_of_unknown_width_needs_probe_spectra(kit: Any, tmp_path: Path) -> None:
    shelf = kit.Shelf()
    chain = shelf.chain([{"operator_class": "line"}], {0: shelf.keep(kit.Line(2.0))})
    with pytest.raises(InvalidInput, match="probe="):
        export_chain(shelf, chain, tmp_path / "x", safe=True)


def test_predictions_that_are_not_those_of_the_chain_are_not_exported(world: Any, tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match="Nothing was written"):
        export_chain(
            world.shelf,
            world.chains["folds"],
            tmp_path / "x",
            safe=True,
            probe=world.new[:2],
            predictions=np.zeros(2),
        )


def test_limits_hold_inside_payloads_too(safe: Path) -> None:
    with pytest.raises(BundleInvalid, match="members; at most 9"):
        load_bundle(safe, limits=Limits(members=9))


def test_another_scikit_learn_is_a_warning_that_names_both(safe: Path, kit: Any, world: Any) -> None:
    import sklearn

    def older(members: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        return [
            (
                name,
                data.replace(f'"scikit-learn": "{sklearn.__version__}"'.encode(), b'"scikit-learn": "1.2.3"'),
            )
            for name, data in members
        ]

    kit.rewrite(safe, older)
    with pytest.warns(UserWarning, match=rf"scikit-learn 1\.2\.3, and {sklearn.__version__} is installed"):
        bundle = load_bundle(safe)
    assert bundle.predict(world.new).shape == (len(world.new),)


def test_spectra_that_do_not_fit_are_refused_and_resampled_only_when_asked(safe: Path, world: Any) -> None:
    from nirs_store.errors import ShapeMismatch

    bundle = load_bundle(safe)
    grid = bundle.wavelengths
    assert grid is not None
    with pytest.raises(ShapeMismatch, match=r"trained on 100 channels \(850 to 1050\), X has 99"):
        bundle.predict(world.new[:, :99])
    finer = np.linspace(grid[0], grid[-1], 397)
    spectra = np.array([np.interp(finer, grid, row) for row in world.new])
    with pytest.raises(ShapeMismatch, match="trained on 100 channels"):
        bundle.predict(spectra, finer)
    shifted = grid + 1.0
    with pytest.raises(ShapeMismatch, match="not on the grid"):
        bundle.predict(world.new, shifted)
    found = bundle.predict(spectra, finer, resample=True)
    np.testing.assert_allclose(found, bundle.predict(world.new), rtol=0, atol=0.5)
    same = bundle.predict(world.new[:, ::-1], grid[::-1], resample=True)
    np.testing.assert_allclose(same, bundle.predict(world.new), rtol=1e-9)
    with pytest.raises(ShapeMismatch, match="Nothing is extrapolated"):
        bundle.predict(world.new, shifted, resample=True)
    with pytest.raises(InvalidInput, match="give the wavelengths"):
        bundle.predict(world.new, resample=True)


def test_inspection_loads_nothing_and_shows_what_opening_would_make(safe: Path, plain: Path) -> None:
    found = inspect_bundle(safe)
    assert (found.kind, found.verdict, found.needs_trust) == ("skops", "opens as it is", ())
    assert "chemotools.scatter._standard_normal_variate.StandardNormalVariate" in found.types
    assert found.card is not None
    pickled = inspect_bundle(plain)
    assert (pickled.kind, pickled.verdict) == ("joblib", "needs allow_pickle")
    assert any("PLSRegression" in name for name in pickled.types)


def test_a_support_vector_regression_round_trips_when_trusted(kit: Any, world: Any, tmp_path: Path) -> None:
    shelf = kit.Shelf()
    chain = shelf.chain([{"operator_class": "svr"}], {0: shelf.keep(SVR().fit(world.X, world.fat))})
    path = export_chain(shelf, chain, tmp_path / "svr", safe=True)
    bundle = load_bundle(path, trusted_types=["sklearn.svm._classes.SVR"])
    np.testing.assert_array_equal(bundle.predict(world.new), shelf.replay(chain, world.new))


def test_a_model_that_skops_bends_is_not_exported(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nirs_store.bundle import writer as room

    really = room.load_payload

    def bent(data: bytes, accepted: Any) -> Any:
        found = really(data, accepted)
        if hasattr(found, "intercept_"):
            found.intercept_ = found.intercept_ + 1.0
        return found

    monkeypatch.setattr(room, "load_payload", bent)
    with pytest.raises(ReplayError, match=r"after its objects went through skops.*Nothing was written"):
        export_chain(world.shelf, world.chains["folds"], tmp_path / "x", safe=True)
    assert list(tmp_path.iterdir()) == []


def test_payloads_that_the_store_holds_travel_as_they_are(kit: Any, world: Any, tmp_path: Path) -> None:
    """Not dumped again: another version of skops would give other bytes."""
    data = skops_payload(Ridge().fit(world.X, world.fat), "Step 1")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    spaced = [(name, held + b"\n" if name == "schema.json" else held) for name, held in members]
    stored = kit.write_zip(tmp_path / "stored", spaced).read_bytes()
    shelf = kit.Shelf()
    shelf.blobs["own"], shelf.formats["own"] = stored, "skops"
    path = export_chain(
        shelf, shelf.chain([{"operator_class": "ridge"}], {0: "own"}), tmp_path / "x", safe=True
    )
    with zipfile.ZipFile(path) as archive:
        (name,) = [name for name in archive.namelist() if name.startswith("blobs/")]
        assert archive.read(name) == stored


def _searches() -> dict[str, Any]:
    from scipy.stats import loguniform
    from sklearn.ensemble import StackingRegressor
    from sklearn.model_selection import GridSearchCV, KFold, RandomizedSearchCV, RepeatedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    grid = GridSearchCV(Ridge(), {"alpha": [0.1, 1.0]}, cv=KFold(3, shuffle=True, random_state=0), verbose=0)
    drawn = RandomizedSearchCV(
        Ridge(), {"alpha": loguniform(1e-3, 1)}, n_iter=3, cv=RepeatedKFold(n_splits=3, n_repeats=2)
    )
    whole = GridSearchCV(
        make_pipeline(StandardScaler(), Ridge()), {"ridge__alpha": [1.0, 2.0]}, n_jobs=-1, scoring="r2"
    )
    return {
        "a grid": grid,
        "drawn at random": drawn,
        "over a pipeline": whole,
        "in a pipeline": make_pipeline(StandardScaler(), grid),
        "a search in a search": GridSearchCV(
            make_pipeline(StandardScaler(), grid), {"standardscaler__with_std": [True, False]}
        ),
        "in a stack": StackingRegressor([("a", grid), ("b", drawn)], final_estimator=Ridge()),
    }


@pytest.mark.parametrize("name", _searches())
@pytest.mark.parametrize("format", ["joblib", "skops"])
def test_of_a_search_travels_what_it_predicts_with(
    name: str, format: str, kit: Any, world: Any, tmp_path: Path
) -> None:
    model = _searches()[name].fit(world.X, world.fat)
    shelf = kit.Shelf()
    try:
        kept = shelf.keep(model, format)
    except SerializationError:
        pytest.skip("the store itself does not keep it as skops")
    chain = shelf.chain([{"operator_class": "search"}], {0: kept})
    path = export_chain(shelf, chain, tmp_path / "search", safe=True)
    bundle = load_bundle(path)
    np.testing.assert_allclose(bundle.predict(world.new), model.predict(world.new), rtol=1e-12)
    assert "not the search and its results" in " ".join(bundle.notes)
    assert type(model).__name__ == type(_searches()[name]).__name__
    assert not any("Search" in name for name in inspect_bundle(path).types)


@pytest.mark.parametrize("name", ["SimpleImputer", "KNNImputer", "IterativeImputer"])
def test_imputers_travel_and_fill_in(name: str, kit: Any, world: Any, tmp_path: Path) -> None:
    import sklearn.experimental.enable_iterative_imputer
    import sklearn.impute

    holes = world.X[:, :12].copy()
    holes[::7, 3] = np.nan
    imputer = getattr(sklearn.impute, name)(add_indicator=True)
    filled = imputer.fit_transform(holes)
    shelf = kit.Shelf()
    steps = [{"operator_class": "fill", "artifact_id": shelf.keep(imputer)}, {"operator_class": "ridge"}]
    chain = shelf.chain(steps, {0: shelf.keep(Ridge().fit(filled, world.fat))})
    bundle = load_bundle(export_chain(shelf, chain, tmp_path / "x", safe=True, probe=holes[:4]))
    np.testing.assert_allclose(bundle.predict(holes[:9]), shelf.replay(chain, holes[:9]), rtol=1e-12)
