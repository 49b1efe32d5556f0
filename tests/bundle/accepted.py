"""Make the list of attributes that a safe bundle may set: `python tests/bundle/accepted.py` checks it, --write adds to it.

Names come from fitted objects of every accepted class (corpus.py) and from the constraints that scikit-learn states for
parameters; words are those of the constraints. What `BY_HAND` says wins, and every attribute that is more than numbers
and words is there. A run adds to what the file has, so running it with each version of scikit-learn (PYTHONPATH) lists
the attributes of all of them. Read the difference before you commit it.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import skops.io

sys.path.insert(0, str(Path(__file__).parent))

import corpus

FILE = Path(__file__).parents[2] / "nirs_store" / "bundle" / "attributes.json"
COMMENT = "Made by tests/bundle/accepted.py and reviewed by hand; what a kind means is said in positions.py."
_METHODS = "'auto' | 'predict' | 'predict_proba' | 'predict_log_proba' | 'decision_function'"
KINDS = {
    "step": "estimator | 'passthrough' | 'drop' | none",
    "steps": "[(text, step)]",
    "columns": "[(text, step, labels | <_RemainderColsList>)]",
    "estimators": "[estimator] | (estimator...)",
    "method": _METHODS,
    "seed": "none | number | random",
    "splitter": " | ".join(
        f"<{name}>"
        for name in [
            "KFold",
            "StratifiedKFold",
            "GroupKFold",
            "StratifiedGroupKFold",
            "ShuffleSplit",
            "StratifiedShuffleSplit",
            "GroupShuffleSplit",
            "LeaveOneOut",
            "LeavePOut",
            "LeaveOneGroupOut",
            "LeavePGroupsOut",
            "RepeatedKFold",
            "RepeatedStratifiedKFold",
            "TimeSeriesSplit",
            "PredefinedSplit",
        ]
    )
    + " | unlisted",
}
# Attribute, or Class.attribute, to its kind.
BY_HAND = {
    # What every estimator has.
    "_sklearn_version": "text",
    "_sklearn_output_config": "{'default' | 'pandas' | 'polars'}",
    "feature_names_in_": "labels",
    "n_features_in_": "number",
    "memory": "none",
    "n_jobs": "none | number",
    "verbose": "quiet",
    "random_state": "seed",
    "random_state_": "random",
    "_random_state": "random",
    # Estimators that hold others, and how they call them.
    "steps": "steps",
    "transformer_list": "steps",
    "estimators": "steps",
    "transformers": "columns",
    "transformers_": "columns",
    "_remainder": "(text, step, labels | <_RemainderColsList>)",
    "future_dtype": "none | 'int' | 'bool' | 'str'",
    "remainder": "step",
    "_columns": "[labels]",
    "output_indices_": "{slice}",
    "_transformer_to_input_indices": "{data}",
    "_name_to_fitted_passthrough": "{estimator}",
    "named_estimators_": "{estimator | 'drop'}",
    "estimators_": "estimators",
    "_label_encoder": "estimator | [estimator]",
    "cv": "none | number | splitter | data | 'prefit'",
    "stack_method": "method",
    "stack_method_": "[method]",
    "chain_method": "method | [method] | (method...)",
    "chain_method_": "method",
    "importance_getter": "'auto' | 'coef_' | 'feature_importances_' | 'regressor_.coef_'",
    "func": "none | function",
    "inverse_func": "none | function",
    "kw_args": "none | empty",
    "inv_kw_args": "none | empty",
    "feature_names_out": "none | 'one-to-one'",
    "score_func": "score",
    "transform_input": "none | [text]",
    "estimator_params": "labels",
    "is_data_valid": "none",
    "is_model_valid": "none",
    "_required_parameters": "labels",
    "estimator": "none | estimator | 'deprecated'",
    "base_estimator": "none | estimator | 'deprecated'",
    "final_estimator": "none | estimator",
    "regressor": "none | estimator",
    "transformer": "none | estimator",
    "model": "estimator",
    "covariance_estimator": "none | estimator",
    "initial_imputer_": "estimator",
    "imputation_sequence_": "[triplet]",
    "indicator_": "none | estimator",
    # Labels, categories and what stands for a value that is missing.
    "classes_": "labels",
    "_classes": "labels",
    "y_": "labels",
    "categories": "labels",
    "categories_": "labels",
    "drop": "labels",
    "constant": "labels",
    "constant_": "labels",
    "fill_value": "labels",
    "missing_values": "labels",
    "statistics_": "labels",
    "class_weight": "none | 'balanced' | 'balanced_subsample' | data | [data]",
    "threshold": "none | number | text",
    "threshold_": "number",
    "dtype": "none | dtype",
    "_fit_dtype": "dtype",
    "_fill_dtype": "dtype",
    # What compiled code is made of.
    "tree_": "tree",
    "_loss_function_": "loss",
    "loss_function_": "loss",
    "_optimizer": "<AdamOptimizer> | <SGDOptimizer> | unlisted",
    "solver_": "'auto' | 'cholesky' | 'lbfgs' | 'lsqr' | 'sag' | 'saga' | 'sparse_cg' | 'svd' | <BandedSolver>",
    "sparse": "flag | 'auto'",
    # Words that no constraint states.
    "_strategy": "'constant' | 'most_frequent' | 'prior' | 'stratified' | 'uniform'",
    "input_unit": "'absorbance' | 'transmittance' | 'reflectance'",
    "output_unit": "'absorbance' | 'transmittance' | 'reflectance'",
    "aggregation": "'mean' | 'median' | 'max' | 'min' | 'sum'",
    "storage": "'dense' | 'band' | 'sparse'",
    "algorithm": "'arpack' | 'deflation' | 'nipals' | 'parallel' | 'randomized' | 'svd' | 'SAMME' | 'SAMME.R' | 'deprecated'",
    "out_activation_": "'exp' | 'identity' | 'logistic' | 'softmax'",
    "y_type_": "'binary' | 'multiclass' | 'multilabel-indicator'",
    "deflation_mode": "'canonical' | 'regression'",
    "_fit_svd_solver": "'arpack' | 'covariance_eigh' | 'full' | 'randomized'",
    "lr_schedule": "'constant' | 'adaptive' | 'invscaling'",
    "scoring": "none | 'warn' | " + " | ".join(f"'{name}'" for name in sorted(corpus.scorers())),
    # Splitters, which only fitting uses.
    "RepeatedKFold.cv": "kfold",
    "RepeatedStratifiedKFold.cv": "kfold",
    "cvargs": "{data}",
}  # fmt: skip
# Not taken up: functions of the user, files, what scikit-learn says is private to fitting and large.
LEFT_OUT = {"callback", "callbacks", "_metadata_request"}
EXTRA_CLASSES = {
    "sklearn.multiclass._ConstantPredictor": "_sklearn_version y_ n_features_in_ feature_names_in_"
}
_SPLIT = "n_splits shuffle random_state test_size train_size _default_test_size n_repeats cv cvargs p n_groups max_train_size gap test_fold unique_folds"
PARTS = {
    "chemotools.utils.BandedSolver": "lam DtD",
    "sklearn.compose._RemainderColsList": "data future_dtype warning_was_emitted warning_enabled",
    "sklearn.neural_network.AdamOptimizer": "learning_rate_init learning_rate beta_1 beta_2 epsilon t ms vs params",
    "sklearn.neural_network.SGDOptimizer": "learning_rate_init learning_rate lr_schedule momentum nesterov power_t velocities params",
    **{f"sklearn.model_selection.{name.strip('<> ')}": _SPLIT for name in KINDS["splitter"].split("|")[:-1]},
}


def observed(model: Any) -> Iterator[tuple[str, str, str]]:
    """Yield class and attribute of every object in a payload, and its text where it is one."""
    import io
    import zipfile

    with zipfile.ZipFile(io.BytesIO(skops.io.dumps(model))) as archive:
        waiting: list[Any] = [json.loads(archive.read("schema.json"))]
    while waiting:
        node = waiting.pop()
        if (
            isinstance(node, dict)
            and node.get("__loader__") == "ObjectNode"
            and isinstance(node.get("content"), dict)
        ):
            name = f"{node['__module__']}.{node['__class__']}".split(".")
            for key, value in node["content"].get("content", {}).items():
                text = json.loads(value["content"]) if value["__loader__"] == "JsonNode" else None
                yield ".".join([*name[:2], name[-1]]), key, text if isinstance(text, str) else ""
        waiting += node.values() if isinstance(node, dict) else node if isinstance(node, list) else []


def generated() -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Find the attributes of each class, and the words that each attribute may be."""
    names: dict[str, set[str]] = {name: set() for name in corpus.classes()}
    words: dict[str, set[str]] = defaultdict(set)
    for name, cls in corpus.classes().items():
        names[name] |= {"_sklearn_version", "n_features_in_", "feature_names_in_", "_sklearn_output_config"}
        parameters = inspect.signature(cls.__init__).parameters.values()
        names[name] |= {
            p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD or p.kind is p.KEYWORD_ONLY
        }
        names[name] -= {"self"}
        for key, values in corpus.words(cls).items():
            words[key] |= {value for value in values if isinstance(value, str)}
        words_of_defaults = (p for p in parameters if isinstance(p.default, str))
        for parameter in words_of_defaults:
            words[parameter.name].add(parameter.default)
        for model in corpus.fitted(name, every=name.rpartition(".")[2] != "SequentialFeatureSelector"):
            for owner, key, text in observed(model):
                if owner in names:
                    names[owner].add(key)
                    words[key] |= {text} - {""}
    return names, words


def merged(names: dict[str, set[str]], words: dict[str, set[str]], held: dict[str, Any]) -> dict[str, Any]:
    """Add what was found to what the file has."""
    classes = {name: set(text.split()) for name, text in held.get("classes", {}).items()}
    for name, found in names.items():
        classes[name] = (classes.get(name, set()) | found) - LEFT_OUT
    lists = {**{name: " ".join(sorted(found)) for name, found in classes.items()}, **EXTRA_CLASSES}
    attributes: dict[str, str] = {}
    for key in sorted({key for text in (*lists.values(), *PARTS.values()) for key in text.split()}):
        old = held.get("attributes", {}).get(key, "").split(" | ")
        texts = {f"'{word}'" for word in words.get(key, ())} | {word for word in old if word.startswith("'")}
        estimators = (
            key in ("estimator_", "regressor_", "transformer_", "final_estimator_") or key in _HOLDERS
        )
        attributes[key] = BY_HAND.get(key) or (
            "estimator" if estimators else " | ".join(["data", *sorted(texts)])
        )
    attributes |= {key: kind for key, kind in BY_HAND.items() if "." in key}
    return {
        "": COMMENT,
        "kinds": KINDS,
        "attributes": attributes,
        "classes": dict(sorted(lists.items())),
        "parts": PARTS,
    }


_HOLDERS = {"_encoder", "_scaler", "_centerer", "_label_binarizer", "label_binarizer_", "le_", "_estimator"}


def main() -> int:
    held = json.loads(FILE.read_text()) if FILE.exists() else {}
    found = merged(*generated(), held)
    if "--write" in sys.argv:
        FILE.write_text(json.dumps(found, indent=1) + "\n")
    new = [
        (n, set(t.split()) - set(held.get("classes", {}).get(n, "").split()))
        for n, t in found["classes"].items()
    ]
    for name, keys in new:
        if keys:
            print(name, *sorted(keys))
    return 0 if found == held else 1


if __name__ == "__main__":
    sys.exit(main())
