"""The domain of a stored chain: recorded, predicted with, added later, kept, exported, imported."""

from __future__ import annotations

import json
import math
import pickle
import runpy
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import KFold, ShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nirs_store import (
    BranchRecorder,
    WorkspaceStore,
    load_bundle,
    load_tecator,
    record_cross_validation,
    record_stacking,
)
from nirs_store.errors import ArtifactMissing, BundleInvalid, InvalidInput, OutlierWarning, UnknownId

meat = load_tecator()
X, y = meat.X[:120], meat.fat[:120]
NEW = np.vstack([meat.X[120:180], meat.X[:1] * 1000])
CLASSES = np.array(["lean", "fat"])[(y > 20).astype(int)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[WorkspaceStore]:
    with WorkspaceStore(tmp_path / "ws") as opened:
        yield opened


def record(store: Any, estimator: Any = None, values: Any = y, spectra: Any = X, **options: Any) -> str:
    estimator = PLSRegression(5, scale=False) if estimator is None else estimator
    settings = {"cv": KFold(5, shuffle=True, random_state=0), "dataset_name": "meat"} | options
    return record_cross_validation(store, estimator, spectra, values, **settings).chain_id


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WorkspaceStore, str]]:
    with WorkspaceStore(tmp_path_factory.mktemp("known") / "ws") as opened:
        yield opened, record(opened)


def quiet(store: Any, chain: str, spectra: Any = NEW, **options: Any) -> pl.DataFrame:
    return store.predict(chain, spectra, on_outlier="ignore", **options)


def without_domain(store: Any, chain_id: str) -> str:
    """Return a copy of a chain as an older version would have recorded it, with its predictions."""
    chain = store.get_chain(chain_id)
    about = {key: value for key, value in chain["metadata"].items() if key != "domain_artifact"}
    with store.run("old") as run, run.pipeline("old", dataset_name="meat") as pipeline:
        old = store.save_chain(
            pipeline.pipeline_id, chain["steps"], chain["model_step_idx"], chain["model_class"],
            chain["preprocessings"], chain["fold_strategy"], chain["fold_artifacts"], chain["shared_artifacts"],
            metadata=about,
        )  # fmt: skip
        for row in store.query_predictions(chain_id=chain_id).iter_rows(named=True):
            kept = store.get_prediction(row["prediction_id"], load_arrays=True)
            new = store.save_prediction(
                pipeline.pipeline_id, old, "meat", kept["model_name"], kept["model_class"], kept["fold_id"],
                kept["partition"], kept["val_score"], None, None, kept["metric"], kept["task_type"],
                kept["n_samples"], kept["n_features"], kept["scores"], {}, None, None, 0, 0.0,
            )  # fmt: skip
            store.save_prediction_arrays(
                new, kept["y_true"], kept["y_pred"], kept["y_proba"], kept["sample_indices"]
            )
    return old


KINDS = {
    "refit": ({}, None),
    "folds alone": ({"refit": False}, None),
    "refit, its folds not kept": ({"keep_folds": False}, None),
    "scaled by fold": ({}, make_pipeline(StandardScaler(), PLSRegression(5))),
    "principal components": ({}, make_pipeline(StandardScaler(), PCA(6), LinearRegression())),
    "repeated": ({"cv": ShuffleSplit(6, test_size=0.3, random_state=0)}, None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_recorded_chain_has_a_domain_and_the_predictor_gives_the_same_frame(
    kind: str, store: WorkspaceStore
) -> None:
    options, estimator = KINDS[kind]
    chain = record(store, estimator, **options)
    frame = quiet(store, chain)
    assert frame.columns == ["sample", "prediction", "lower", "upper", "t2", "q", "h", "gh", "nh", "flags"]
    assert "outside" in frame["flags"][-1]
    assert frame["flags"][:-1].list.contains("outside").mean() < 0.2
    assert (frame["lower"] < frame["prediction"]).all()
    assert np.array_equal(frame["prediction"], store.replay_chain(chain, NEW))
    predictor = store.predictor(chain)
    with pytest.warns(OutlierWarning):
        assert predictor.predict(NEW, details=True).equals(frame)
    assert pickle.loads(pickle.dumps(predictor)).predict_details(NEW, on_outlier="ignore").equals(frame)


def test_folds_alone_give_their_median_and_name_the_worst(store: WorkspaceStore) -> None:
    chain = record(store, refit=False)
    domain = store.domain(chain)
    assert domain is not None
    assert len(domain.spaces) == 5
    each = np.array([space.measure(NEW)["t2"] for space in domain.spaces])
    frame = quiet(store, chain)
    assert frame["t2"].to_numpy() == pytest.approx(np.median(each, axis=0))
    assert {word for words in frame["flags"] for word in words} <= {
        "outside", "outside for some folds", "extrapolated",
    }  # fmt: skip


def test_several_targets_have_one_row_each(store: WorkspaceStore) -> None:
    both = pl.DataFrame({"fat": y, "water": meat.water[:120]})
    chain = record(store, values=both, estimator=PLSRegression(5, scale=False))
    frame = quiet(store, chain, sample_ids=[f"s{row}" for row in range(len(NEW))])
    assert frame.height == 2 * len(NEW)
    assert frame["target"][:4].to_list() == ["fat", "water", "fat", "water"]
    assert frame["sample"][:3].to_list() == ["s0", "s0", "s1"]
    replayed = store.replay_chain(chain, NEW)
    assert np.array_equal(frame.filter(pl.col("target") == "water")["prediction"], replayed[:, 1])
    widths = (frame["upper"] - frame["lower"])[:2].to_list()
    assert widths[0] != pytest.approx(widths[1])


def test_a_classifier_has_sets_of_labels_that_hold_the_right_one_as_often_as_asked(
    store: WorkspaceStore,
) -> None:
    chain = record(store, make_pipeline(PCA(4), LinearDiscriminantAnalysis()), CLASSES)
    rest = meat.X[120:]
    frame = quiet(store, chain, rest)
    assert frame.columns == ["sample", "prediction", "set", "t2", "q", "h", "gh", "nh", "flags"]
    truth = np.array(["lean", "fat"])[(meat.fat[120:] > 20).astype(int)]
    held = np.mean([label in labels for label, labels in zip(truth, frame["set"].to_list(), strict=True)])
    assert 0.82 <= held <= 0.98
    assert not frame["flags"].list.contains("extrapolated").any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        *(
            ({"level": each}, "level: .* such as 0.9")
            for each in (1.0, 1, "0.9", math.nan, True, None, [0.9], 1j)
        ),
        *(({"alpha": each}, "alpha: .*0.05") for each in (0, "a", np.array([0.1, 0.2]), Decimal("0.1"))),
        *(({"margin": each}, "margin") for each in (-1, "a", math.nan, True, None, 10**400)),
        *(({"scaled": each}, "scaled") for each in ("no", 1, None)),
        *(({"flag": each}, "flag: expected names among h, gh, nh") for each in ("gh", b"h", None, 5, 2.5)),
        *(
            ({"flag": each}, "flag: expected names")
            for each in (["t2"], ["h", 5], [["h"]], {"q": 1}, {None: 1})
        ),
        *(
            ({"flag": {"h": each}}, "flag: expected a limit of h")
            for each in ("a", None, math.nan, -1, True, [1])
        ),
        *(({"on_outlier": each}, "on_outlier") for each in ("stop", None, np.array(["warn", "raise"]))),
        ({"sample_ids": ["a"]}, "sample_ids"),
    ],
)
def test_options_that_cannot_be_used_are_refused(
    options: dict[str, Any], words: str, known: tuple[WorkspaceStore, str]
) -> None:
    store, chain = known
    with pytest.raises(InvalidInput, match=words):
        store.predict(chain, NEW, **options)
    if "sample_ids" not in options:
        with pytest.raises(InvalidInput, match=words):
            store.predictor(chain).predict_details(NEW, **options)


@pytest.mark.parametrize(
    ("options", "plain"),
    [
        ({"level": np.float32(0.5), "margin": np.array(3)}, {"level": 0.5, "margin": 3.0}),
        ({"level": Fraction(1, 2), "scaled": np.True_}, {"level": 0.5, "scaled": True}),
        ({"flag": iter(["h", "h", np.str_("gh")])}, {"flag": ("h", "gh")}),
        ({"flag": {"nh": np.int64(1)}}, {"flag": {"nh": 1.0}}),
    ],
)
def test_options_are_read_as_the_plain_values_they_mean(
    options: dict[str, Any], plain: dict[str, Any], known: tuple[WorkspaceStore, str]
) -> None:
    found, expected = (quiet(*known, **each) for each in (options, plain))
    assert_frame_equal(found, expected)
    assert not found.equals(quiet(*known))


def test_replicates_in_different_folds_leave_no_interval_and_say_so(store: WorkspaceStore) -> None:
    names = [f"sample {row // 2}" for row in range(120)]
    apart = record(store, sample_ids=names)
    together = record(store, sample_ids=names, groups=names, cv=5)
    assert quiet(store, apart)["lower"].is_null().all()
    domain = store.domain(apart)
    assert domain is not None
    assert "replicates" in domain.facts["refused"]
    assert quiet(store, together)["lower"].is_not_null().all()


def test_a_chain_of_an_older_version_is_not_known_until_it_is_given_its_spectra(
    store: WorkspaceStore,
) -> None:
    recorded = record(store)
    old = without_domain(store, recorded)
    with pytest.warns(OutlierWarning, match="add_domain"):
        frame = store.predict(old, NEW)
    assert frame["flags"].to_list() == [["domain not known"]] * len(NEW)
    assert frame.select("lower", "upper", "t2", "q", "h", "gh", "nh").null_count().row(0) == (len(NEW),) * 7
    with pytest.raises(InvalidInput, match="not fitted on these"):
        store.add_domain(old, X[::-1], y)
    with pytest.raises(InvalidInput, match="not fitted on these"):
        store.add_domain(old, X, y[::-1])
    assert store.domain(old) is None
    store.add_domain(old, X, y)
    given, first = quiet(store, old), quiet(store, recorded)
    assert given["flags"].to_list() == first["flags"].to_list()
    for name in ("lower", "upper", "t2", "q", "h", "nh"):
        assert given[name].to_numpy() == pytest.approx(first[name].to_numpy(), rel=1e-6)
    kept = store.domain(old)
    assert kept is not None
    assert kept.limits()["method"] == "left-out samples"
    assert store.audit.query(operation="add_domain").height == 1


@pytest.mark.filterwarnings("ignore:.*is read-only here:UserWarning")
@pytest.mark.parametrize("read_only", [False, True])
def test_a_domain_of_another_store_is_seen_at_the_next_prediction(
    store: WorkspaceStore, read_only: bool
) -> None:
    old = without_domain(store, record(store))
    with WorkspaceStore(store.workspace_path, read_only=read_only) as open_already:
        before = quiet(open_already, old)
        assert before["flags"].to_list() == [["domain not known"]] * len(NEW)
        store.add_domain(old, X, y)
        assert quiet(open_already, old).equals(quiet(store, old))
        assert "outside" in quiet(open_already, old)["flags"][-1]
        assert open_already.domain(old) is not None
        store.delete_chain(old)
        with pytest.raises(UnknownId):
            open_already.predict(old, NEW)


def test_a_chain_with_branches_is_given_the_domain_of_what_its_model_gets(store: WorkspaceStore) -> None:
    with store.run("branches") as run, run.pipeline("two branches", dataset_name="meat") as pipeline:
        recorder = BranchRecorder(store, pipeline.pipeline_id)
        parts = []
        for number, step in enumerate([StandardScaler(), PCA(5)]):
            with recorder.branch(number):
                parts.append(step.fit_transform(X))
                recorder.step(step)
        recorder.merge()
        chain = recorder.model(PLSRegression(5).fit(np.hstack(parts), y))
    store.add_domain(chain, X, y)
    frame = quiet(store, chain)
    assert "outside" in frame["flags"][-1]
    assert frame["lower"].is_null().all()
    domain = store.domain(chain)
    assert domain is not None
    assert domain.facts["refused"] == "no out-of-fold predictions"


@pytest.mark.parametrize("passthrough", [False, True])
def test_a_stack_that_sees_no_spectra_never_calls_them_inside(
    store: WorkspaceStore, passthrough: bool
) -> None:
    bases = [record(store), record(store, PLSRegression(8, scale=False))]
    stack = record_stacking(
        store, bases, Ridge(), X, y, cv=KFold(5), dataset_name="meat", passthrough=passthrough
    ).chain_id
    strange = np.vstack([NEW[:1], np.full((1, X.shape[1]), X.mean()), X[:1] * 1000])
    assert quiet(store, stack, strange)["flags"].to_list() == [["domain not known"]] * 3
    domain = store.add_domain(stack, X, y)
    frame = quiet(store, stack, strange)
    if passthrough:
        assert ["outside" in words for words in frame["flags"]] == [False, True, True]
        return
    assert frame["flags"].to_list() == [["domain not known"]] * 2 + [["domain not known", "extrapolated"]]
    assert frame["lower"].null_count() == 0
    assert "predictions of other chains" in domain.limits()["method"]


@pytest.mark.takes_over
def test_the_domain_lives_as_long_as_its_chain(store: WorkspaceStore, tmp_path: Path) -> None:
    chain = record(store)
    named = store.get_chain(chain)["metadata"]["domain_artifact"]
    store.gc_artifacts(grace_seconds=0)
    frame = quiet(store, chain)
    store.archive(tmp_path / "all.tar.gz")
    with WorkspaceStore(tmp_path / "other") as other:
        other.restore_archive(tmp_path / "all.tar.gz")
        other.gc_artifacts(grace_seconds=0)
        assert quiet(other, chain).equals(frame)
        assert not other.check(read_data=True).findings
    replaced = without_domain(store, chain)
    store.add_domain(replaced, X, y)
    first = store.get_chain(replaced)["metadata"]["domain_artifact"]
    store.delete_chain(chain)
    store.gc_artifacts(grace_seconds=0)
    assert quiet(store, replaced)["flags"].to_list() == frame["flags"].to_list()
    assert store.get_artifact(named) is None or named == first
    store.delete_chain(replaced)
    store.gc_artifacts(grace_seconds=0)
    store.trash.restore(replaced)
    assert quiet(store, replaced)["flags"].to_list() == frame["flags"].to_list()
    store.delete_chain(replaced)
    store.trash.empty()
    store.gc_artifacts(grace_seconds=0)
    assert store.get_artifact(first) is None


def test_a_chain_cannot_name_a_domain_that_is_not_there(store: WorkspaceStore) -> None:
    chain = store.get_chain(record(store))
    with (
        store.run("copy") as run,
        run.pipeline("copy", dataset_name="meat") as pipeline,
        pytest.raises(ArtifactMissing),
    ):
        store.save_chain(
            pipeline.pipeline_id, chain["steps"], chain["model_step_idx"], chain["model_class"], "", "per_fold",
            chain["fold_artifacts"], {}, metadata={"domain_artifact": "0" * 64},
        )  # fmt: skip


def test_a_chain_whose_domain_an_older_version_left_out_is_not_known_and_still_travels(
    store: WorkspaceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store.export_chain(record(store), tmp_path / "meat.n4a", safe=True)
    with WorkspaceStore(tmp_path / "other") as other:
        monkeypatch.setattr("nirs_store.bundle.transfer.domain_bytes", lambda contents: None)
        imported = other.import_bundle(path).chain_id
        assert quiet(other, imported)["flags"][0].to_list() == ["domain not known"]
        assert load_bundle(other.export_chain(imported, tmp_path / "x.n4a", safe=True)).domain is None


@pytest.mark.parametrize("safe", [False, True])
@pytest.mark.parametrize("kind", ["refit", "folds alone", "principal components"])
def test_a_bundle_carries_the_domain_into_another_workspace(
    kind: str, safe: bool, store: WorkspaceStore, tmp_path: Path
) -> None:
    options, estimator = KINDS[kind]
    chain = record(store, estimator, **options)
    frame = quiet(store, chain)
    path = store.export_chain(chain, tmp_path / "meat.n4a", safe=safe)
    bundle = load_bundle(path, allow_pickle=not safe)
    assert bundle.predict_details(NEW, on_outlier="ignore").equals(frame)
    with WorkspaceStore(tmp_path / "other") as other:
        imported = other.import_bundle(path, allow_pickle=not safe).chain_id
        assert quiet(other, imported).equals(frame)
        assert not other.check().findings
        again = other.export_chain(imported, tmp_path / "again.n4a", safe=safe)
    assert load_bundle(again, allow_pickle=not safe).predict_details(NEW, on_outlier="ignore").equals(frame)


def test_folds_that_are_put_together_for_a_bundle_leave_their_domain_behind_and_say_so(
    store: WorkspaceStore, tmp_path: Path
) -> None:
    chain = record(store, make_pipeline(StandardScaler(), PLSRegression(5)), refit=False)
    with pytest.warns(UserWarning, match=r"domain of the calibration is left out.*safe=True"):
        path = store.export_chain(chain, tmp_path / "x.n4a")
    bundle = load_bundle(path, allow_pickle=True)
    assert bundle.domain is None
    safe = load_bundle(store.export_chain(chain, tmp_path / "safe.n4a", safe=True))
    assert safe.predict_details(NEW, on_outlier="ignore").equals(quiet(store, chain))
    assert any("domain" in note for note in bundle.notes)
    assert quiet(store, chain)["flags"][-1].to_list()[0] == "outside"


def test_a_bundle_with_a_spoilt_domain_is_refused(store: WorkspaceStore, tmp_path: Path) -> None:
    path = store.export_chain(record(store), tmp_path / "meat.n4a", safe=True)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    described = json.loads(members["nirs_store.json"])
    assert described["domain"].startswith("arrays/")
    described["domain"] = described["probe"]["expected"]
    members["nirs_store.json"] = json.dumps(described).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(BundleInvalid, match="domain"):
        load_bundle(path)


@pytest.mark.parametrize("kind", ["refit", "folds alone", "principal components", "classifier"])
def test_a_script_measures_with_numpy_alone(kind: str, store: WorkspaceStore, tmp_path: Path) -> None:
    if kind == "classifier":
        chain = record(store, make_pipeline(PCA(4), LinearDiscriminantAnalysis()), CLASSES)
    else:
        options, estimator = KINDS[kind]
        chain = record(store, estimator, **options)
    path = store.export_chain(chain, tmp_path / "meat", format="n4a.py")
    frame = quiet(store, chain)
    found = runpy.run_path(str(path))["details"](NEW)
    assert found["flags"] == frame["flags"].to_list()
    for name in ("prediction", "set", "lower", "upper", "t2", "nh"):
        assert (name in found) == (name in frame.columns)
        if name in ("prediction", "set"):
            assert name not in found or found[name] == frame[name].to_list()
        elif name in found:
            assert found[name] == pytest.approx(frame[name].to_list(), rel=1e-9)


def test_the_command_line_of_a_script_warns_and_adds_columns_when_asked(
    store: WorkspaceStore, tmp_path: Path
) -> None:
    path = store.export_chain(record(store, target="fat"), tmp_path / "meat", format="n4a.py")
    table = tmp_path / "new.csv"
    pl.DataFrame(NEW[-2:], schema=[str(channel) for channel in range(1, 101)]).write_csv(table)
    blocked = (
        "import sys, runpy; sys.modules['nirs_store'] = None; sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    asked = [sys.executable, "-c", blocked, str(path), str(table)]
    plain = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert plain.stdout.splitlines()[0] == "sample,fat"
    assert "warning: 2: outside, extrapolated" in plain.stderr
    more = subprocess.run([*asked, "--details"], capture_output=True, text=True, check=True)
    assert more.stdout.splitlines()[0] == "sample,fat,lower_fat,upper_fat,t2,q,h,gh,nh,flags"
    assert more.stdout.splitlines()[2].endswith("outside; extrapolated")


def test_a_transformer_that_makes_no_numbers_of_a_spectrum_costs_the_domain_and_not_the_recording(
    store: WorkspaceStore,
) -> None:
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.preprocessing import FunctionTransformer

    missing = make_pipeline(FunctionTransformer(np.log), HistGradientBoostingRegressor(max_iter=3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        chain = record(store, missing, spectra=X - np.median(X))
        frame = quiet(store, chain, NEW[:3] - np.median(X))
    assert frame["flags"].to_list() == [["domain not known"]] * 3
    assert frame["lower"].is_not_null().all()
    domain = store.domain(chain)
    assert domain is not None
    assert "missing values" in domain.facts["unknown"]
