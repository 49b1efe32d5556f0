"""Bundles of version 1.0 made by hand, as nirs4all writes them, and what must not be guessed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nirs_store.bundle import Bundle, load_bundle
from nirs_store.errors import BundleInvalid, BundleTooNew

RNG = np.random.default_rng(7)
X = RNG.normal(1.0, 0.2, (40, 6))
Y = X @ RNG.normal(size=6)
NEW = RNG.normal(1.0, 0.2, (9, 6))


def scaler(shift: float = 0.0) -> Any:
    from sklearn.preprocessing import StandardScaler

    return StandardScaler().fit(X + shift)


def model(rows: slice = slice(None), by: Any = None) -> Any:
    from sklearn.cross_decomposition import PLSRegression

    Z = X if by is None else by.transform(X)
    return PLSRegression(2).fit(Z[rows], Y[rows])


@pytest.fixture
def bundle(kit: Any, tmp_path: Path) -> Callable[..., Bundle]:
    """Write a bundle from objects by name, with any JSON members, and open it."""

    def make(artifacts: dict[str, Any], manifest: Any = None, **texts: Any) -> Bundle:
        stated = {"model_step_index": 3, **(manifest or {})}
        members = [("manifest.json", json.dumps({k: v for k, v in stated.items() if v is not None}).encode())]
        members += [(f"{name}.json", json.dumps(value).encode()) for name, value in texts.items()]
        members += [
            (f"artifacts/{name}", value if isinstance(value, bytes) else kit.dumped(value))
            for name, value in artifacts.items()
        ]
        path = kit.write_zip(tmp_path / "foreign.n4a", members)
        return load_bundle(path, allow_pickle=True)

    return make


def test_a_scaler_and_two_folds_as_the_store_of_nirs4all_exports_them(bundle: Any) -> None:
    one, a, b = scaler(), model(slice(0, 20), scaler()), model(slice(20, 40), scaler())
    found = bundle(
        {"step_1_sub0.joblib": one, "step_3_fold0.joblib": a, "step_3_fold1.joblib": b},
        {"fold_strategy": "per_fold", "model_class": "PLSRegression"},
    )
    Z = one.transform(NEW)
    assert (found.predict(NEW) == (a.predict(Z) + b.predict(Z)) / 2).all()
    assert found.chain["model_step_idx"] == 3
    assert found.record is None
    assert "from another program" in repr(found)
    assert found.scores == {}


def test_compressed_and_plain_pickles_are_read_whatever_their_ending(bundle: Any, kit: Any) -> None:
    import pickle

    one, m = scaler(), model(by=scaler())
    found = bundle(
        {"step_1.pkl": pickle.dumps(one), "step_3_foldfinal_PLSRegression.bin": kit.dumped(m, compress=3)}
    )
    assert (found.predict(NEW) == m.predict(one.transform(NEW))).all()


def test_step_1_is_not_step_10(bundle: Any) -> None:
    """Searching by prefix, the model of step 1 would be found in step 10."""
    first, tenth = model(), scaler(5.0)
    found = bundle(
        {"step_10_sub0.joblib": tenth, "step_1_PLSRegression.joblib": first},
        {"model_step_index": 1},
        chain={"fold_artifacts": {"fold_final": "x"}},
    )
    assert (found.predict(NEW) == first.predict(NEW)).all()
    assert "Step 10 comes after the model" in " ".join(found.notes)


def test_a_refit_is_used_alone(bundle: Any) -> None:
    a, final = model(slice(0, 20)), model()
    for name in ("step_3_foldfinal_PLS.joblib", "step_3_final.joblib"):
        found = bundle({"step_3_fold0.joblib": a, name: final})
        assert (found.predict(NEW) == final.predict(NEW)).all()


def test_a_refit_that_only_the_chain_names_is_used(bundle: Any) -> None:
    final = model()
    found = bundle({"step_3_sub0.joblib": final}, chain={"fold_artifacts": {"final": "id"}})
    assert (found.predict(NEW) == final.predict(NEW)).all()


def test_missing_weights_count_as_one(bundle: Any) -> None:
    models = [model(slice(10 * k, 10 * k + 20)) for k in range(3)]
    artifacts = {f"step_3_fold{k}_PLS.joblib": m for k, m in enumerate(models)}
    found = bundle(artifacts, fold_weights={"0": 3.0, "2": 0.5})
    expected = np.average(np.stack([m.predict(NEW) for m in models]), axis=0, weights=[3.0, 1.0, 0.5])
    assert (found.predict(NEW) == expected).all()
    with pytest.raises(BundleInvalid, match="fold_weights"):
        bundle(artifacts, fold_weights={"avg": 1.0})


def test_objects_of_a_step_apply_by_number_even_if_the_archive_was_packed_anew(bundle: Any) -> None:
    from sklearn.preprocessing import MinMaxScaler

    first = scaler()
    second = MinMaxScaler().fit(first.transform(X) ** 2)
    m = model(by=scaler())
    expected = m.predict(second.transform(first.transform(NEW)))
    found = bundle({"step_1_sub1.joblib": second, "step_1_sub0.joblib": first, "step_3_foldfinal.joblib": m})
    assert (found.predict(NEW) == expected).all()
    assert "another order" in " ".join(found.notes)
    named = {"step_1_StandardScaler.joblib": first, "step_1_MinMaxScaler.joblib": second}
    assert (bundle({**named, "step_3_foldfinal.joblib": m}).predict(NEW) == expected).all()


def test_targets_are_transformed_back_and_features_augmented(bundle: Any) -> None:
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    of_y = StandardScaler().fit(Y.reshape(-1, 1))
    one = scaler()
    m = Ridge().fit(np.hstack([X, one.transform(X)]), of_y.transform(Y.reshape(-1, 1)).ravel())
    found = bundle(
        {"step_1_sub0.joblib": of_y, "step_2_sub0.joblib": one, "step_3_fold0.joblib": m},
        pipeline={"steps": [{"y_processing": "x"}, {"feature_augmentation": ["x"]}, {"model": "x"}]},
    )
    raw = m.predict(np.hstack([NEW, one.transform(NEW)]))
    assert (found.predict(NEW) == of_y.inverse_transform(raw.reshape(-1, 1)).ravel()).all()


def test_several_target_transformers_are_undone_in_reverse(bundle: Any) -> None:
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import MinMaxScaler, StandardScaler

    first = StandardScaler().fit(Y.reshape(-1, 1) * 3)
    second = MinMaxScaler().fit(first.transform(Y.reshape(-1, 1)) * 2)
    m = Ridge().fit(X, Y)
    found = bundle(
        {"step_1_sub0.joblib": first, "step_1_sub1.joblib": second, "step_3.joblib": m},
        pipeline={"steps": [{"y_processing": ["x"]}]},
    )
    raw = m.predict(NEW).reshape(-1, 1)
    assert (found.predict(NEW) == first.inverse_transform(second.inverse_transform(raw)).ravel()).all()
    assert "reverse order" in " ".join(found.notes)


def test_a_trace_gives_order_and_types(bundle: Any) -> None:
    first, second = scaler(), scaler(2.0)
    m = model(by=scaler())
    steps = [
        {"step_index": 2, "operator_type": "preprocessing"},
        {"step_index": 1, "operator_type": "transform"},
        {"step_index": 4, "operator_type": "transform", "execution_mode": "skip"},
        {"step_index": 5, "operator_type": "model"},
        {"step_index": 3, "operator_type": "transform"},
    ]
    artifacts = {
        "step_1.joblib": first,
        "step_2.joblib": second,
        "step_3.joblib": first,
        "step_4.joblib": first,
        "step_5_foldfinal.joblib": m,
    }
    found = bundle(artifacts, {"model_step_index": None}, trace={"steps": steps, "model_step_index": 5})
    assert (found.predict(NEW) == m.predict(first.transform(second.transform(NEW)))).all()


def test_classifiers_of_folds_vote_instead_of_averaging_labels(bundle: Any) -> None:
    from sklearn.linear_model import LogisticRegression

    labels = np.digitize(Y, np.quantile(Y, [0.33, 0.66])) * 10
    models = [LogisticRegression().fit(X[k::2], labels[k::2]) for k in (0, 1)]
    found = bundle({f"step_3_fold{k}.joblib": m for k, m in enumerate(models)})
    mean = np.mean([m.predict_proba(NEW) for m in models], axis=0)
    assert (found.predict(NEW) == models[0].classes_[mean.argmax(axis=1)]).all()


@pytest.mark.parametrize(
    "models",
    [["step_3_fold0_PLS_sub1", "step_3_fold1_PLS_sub2"], ["step_3_foldfinal_PLS_sub1"], ["step_3_final"]],
)
def test_a_transformer_with_the_number_of_the_model_is_never_left_out(bundle: Any, models: list[str]) -> None:
    objects = {"step_3_StandardScaler_sub0.joblib": scaler()}
    objects |= {f"{name}.joblib": model(by=scaler()) for name in models}
    with pytest.raises(
        BundleInvalid, match=r"step_3_StandardScaler_sub0\.joblib is a fitted object in the step"
    ):
        bundle(objects, pipeline={"steps": [{}, {}, {"branch": [["x", {"model": "y"}]]}]})


def test_what_cannot_transform_is_left_out_as_in_nirs4all_but_said(bundle: Any) -> None:
    from sklearn.model_selection import KFold

    found = bundle({"step_2.joblib": KFold(3), "step_3.joblib": model()})
    assert (found.predict(NEW) == model().predict(NEW)).all()
    assert "no transform()" in found.notes[0]


def test_unknown_members_are_not_read(kit: Any, tmp_path: Path) -> None:
    members = [
        ("manifest.json", b'{"model_step_index": 1, "unknown": 1}'),
        ("host_artifacts/evil.joblib", kit.dumped(kit.Touch(str(tmp_path / "canary")))),
        ("artifacts/step_1.joblib", kit.dumped(model())),
    ]
    load_bundle(kit.write_zip(tmp_path / "x.n4a", members), allow_pickle=True)
    assert not (tmp_path / "canary").exists()


def test_promised_hashes_are_compared(bundle: Any, kit: Any) -> None:
    data = kit.dumped(model())
    good = {"artifacts/step_3.joblib": f"sha256:{kit.sha256_hex(data)}"}
    bundle({"step_3.joblib": data}, {"artifact_integrity": good})
    with pytest.raises(BundleInvalid, match="manifest promises"):
        bundle({"step_3.joblib": data}, {"artifact_integrity": {"artifacts/step_3.joblib": "sha256:00"}})


def test_a_promised_transformer_that_is_gone_is_missed(bundle: Any, kit: Any) -> None:
    data = {"step_1_sub0.joblib": kit.dumped(scaler()), "step_3.joblib": kit.dumped(model(by=scaler()))}
    promised = {f"artifacts/{name}": f"sha256:{kit.sha256_hex(value)}" for name, value in data.items()}
    pipeline = {"steps": [{"class": "StandardScaler"}, {"class": "KFold"}, {"model": "PLSRegression"}]}
    manifest = {"artifact_integrity": promised}
    assert bundle(data, manifest, pipeline=pipeline).predict(NEW).shape == (9,)
    del data["step_1_sub0.joblib"]
    with pytest.raises(BundleInvalid, match=r"'artifacts/step_1_sub0\.joblib'.* is missing \(1 of 2\)"):
        bundle(data, manifest, pipeline=pipeline)


def test_a_transformer_that_the_trace_does_not_name_is_never_left_out(bundle: Any) -> None:
    objects = {"step_1.joblib": scaler(), "step_3.joblib": model(by=scaler())}
    named = {"step_index": 3, "operator_type": "model"}
    with pytest.raises(BundleInvalid, match=r"step 1 has fitted objects, but trace\.json does not name it"):
        bundle(objects, trace={"steps": [named]})


@pytest.mark.parametrize(
    ("steps", "note"),
    [
        ([{"step_index": 1, "execution_mode": "skip"}, {"step_index": 3}], "Step 1 was skipped"),
        ([{"step_index": 3}, {"step_index": 1}], "Step 1 comes after the model"),
    ],
)
def test_what_the_trace_passes_over_is_said(bundle: Any, steps: list[Any], note: str) -> None:
    found = bundle({"step_1.joblib": scaler(), "step_3.joblib": model()}, trace={"steps": steps})
    assert (found.predict(NEW) == model().predict(NEW)).all()
    assert note in " ".join(found.notes)


def test_a_damaged_transformer_is_never_skipped(bundle: Any, kit: Any) -> None:
    data = kit.dumped(scaler())
    for damaged in (data[: len(data) // 2], b"", b"garbage", data[:-1]):
        with pytest.raises(BundleInvalid, match=r"step_1_sub0\.joblib cannot be loaded"):
            bundle({"step_1_sub0.joblib": damaged, "step_3.joblib": model()})


def test_classes_of_nirs4all_are_named_where_it_is_not_installed(bundle: Any, kit: Any) -> None:
    # A class of a package with a name of the same length stands in for one of nirs4all's.
    data = kit.dumped(scaler()).replace(b"sklearn.preprocessing._data", b"nirs4al.operators.transform")
    with pytest.raises(
        BundleInvalid, match=r"package 'nirs4al'.*nirs4al\.operators\.transform\.StandardScaler"
    ):
        bundle({"step_1.joblib": data, "step_3.joblib": model()})


@pytest.mark.parametrize("module", ["_loss", "_sgd_fast", "sklearn.linear_model.no_such_module"])
def test_a_module_that_another_scikit_learn_has_is_blamed_on_its_version(bundle: Any, module: str) -> None:
    import sklearn

    data = f"c{module}\nCyHalfSquaredError\n)R.".encode()
    with pytest.raises(BundleInvalid, match=rf"scikit-learn {re.escape(sklearn.__version__)}") as caught:
        bundle({"step_3.joblib": data})
    assert "package '" not in str(caught.value)


@pytest.mark.parametrize(
    ("artifacts", "manifest", "texts", "reason"),
    [
        ({"step_3": 0}, {"model_step_index": None}, {}, "model_step_index"),
        ({"step_3": 0}, {"model_step_index": "3"}, {}, "whole number"),
        ({"step_3": 0}, {"model_step_index": True}, {}, "whole number"),
        ({"step_1": 0}, {}, {}, "model, step 3"),
        ({"step_3_a": 0, "step_3_b": 0}, {}, {}, "model, step 3"),
        ({"ab" * 32: 0}, {}, {}, "named by hash"),
        ({"step_1_fold0": 1, "step_1_fold1": 1, "step_3": 0}, {}, {}, "for each of 2 folds"),
        ({"step_3": 1}, {}, {}, "cannot predict"),
        ({"step_3": 0}, {"partitioner_routing": {"a": 1}}, {}, "partitioner_routing"),
        ({"step_3": 0}, {"relation_replay_manifest": {"path": "x"}}, {}, "relation"),
        (
            {"step_2": 1, "step_3": 0},
            {},
            {"pipeline": {"steps": [{}, {"branch": []}, {"model": 1}]}},
            "'branch'",
        ),
        ({"step_2": 1, "step_3": 0}, {}, {"trace": {"steps": 5}}, "list of objects"),
        ({"step_2": 1, "step_3": 0}, {}, {"trace": {"steps": [{}]}}, "no number"),
        (
            {"step_3": 0},
            {},
            {"trace": {"steps": [{"step_index": 3, "operator_type": "meta_model"}]}},
            "meta_model",
        ),
        (
            {"step_2": 1, "step_3": 0},
            {},
            {"trace": {"steps": [{"step_index": 2, "operator_type": "merge"}, {"step_index": 3}]}},
            "'merge'",
        ),
    ],
)
def test_what_would_have_to_be_guessed_is_refused(
    bundle: Any, artifacts: dict[str, int], manifest: Any, texts: Any, reason: str
) -> None:
    objects = {f"{name}.joblib": scaler() if kind else model() for name, kind in artifacts.items()}
    with pytest.raises(BundleInvalid, match=reason):
        bundle(objects, manifest, **texts)


@pytest.mark.parametrize("version", ["1.0.1", "1.1", "2.0", "2", "10"])
def test_newer_formats_are_refused(bundle: Any, version: str) -> None:
    with pytest.raises(BundleTooNew, match=r"reads up to 1\.0"):
        bundle({"step_3.joblib": model()}, {"bundle_format_version": version})


@pytest.mark.parametrize("version", ["1", "1.0", "1.0.0", "0.9"])
def test_older_and_equal_formats_are_read(bundle: Any, version: str) -> None:
    assert bundle({"step_3.joblib": model()}, {"bundle_format_version": version}).predict(NEW).shape == (9,)


@pytest.mark.parametrize("version", ["", "one", "1.0.0.0", "-1", "1.0\n"])
def test_nonsense_for_a_version_is_refused(bundle: Any, version: str) -> None:
    with pytest.raises(BundleInvalid, match="bundle_format_version"):
        bundle({"step_3.joblib": model()}, {"bundle_format_version": version})
