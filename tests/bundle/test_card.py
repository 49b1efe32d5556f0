"""The card says what a person should know, in their words, and no more than was recorded."""

from __future__ import annotations

from typing import Any

import pytest

from nirs_store.bundle.card import card_text, in_words, readable, seeds

CHAIN: dict[str, Any] = {
    "chain_id": "chain-7",
    "model_class": "sklearn.cross_decomposition.PLSRegression",
    "steps": [
        {
            "step_idx": 1,
            "operator_class": "sklearn.model_selection.KFold",
            "operator_type": "splitter",
            "params": {"n_splits": 5, "random_state": 7},
        },
        {
            "step_idx": 2,
            "operator_class": "chemotools.scatter.StandardNormalVariate",
            "operator_type": "transform",
            "params": {},
        },
        {
            "step_idx": 3,
            "operator_class": "chemotools.derivative.SavitzkyGolay",
            "operator_type": "transform",
            "params": {"window_length": 11, "polyorder": 2, "deriv": 2},
        },
        {
            "step_idx": 4,
            "operator_class": "sklearn.cross_decomposition.PLSRegression",
            "operator_type": "model",
            "params": {"n_components": 8},
        },
    ],
    "fold_artifacts": {"fold_0": "a", "fold_1": "b"},
    "wavelengths": [850.0, 852.0, 854.0],
    "metadata": {"n_samples": 172, "data_hash": "abc123"},
    "created_at": "2026-01-02T03:04:05+00:00",
}
SCORES = {
    "rmsec": 1.9,
    "rmsecv": 2.24,
    "rmsep": 1.912,
    "bias": -0.005,
    "sep": 2.247,
    "r2": 0.9694,
    "rpd": 5.716,
    "rpiq": 9.234,
}
UNITS = {"target": "fat", "target_unit": "%", "wavelength_unit": "nm", "task_type": "regression"}
FACTS = {
    "dataset_name": "tecator",
    "git_commit": "f" * 40,
    "n_test_samples": 43,
    "seeds": ["KFold 7"],
    "environment": {"python": "3.12.1", "scikit-learn": "1.8.0"},
}


def card(**changes: Any) -> str:
    options: dict[str, Any] = {
        "scores": SCORES,
        "units": UNITS,
        "facts": FACTS,
        "environment": {"python": "3.11.7", "scikit-learn": "1.9.1"},
        "kind": "skops",
    }
    return card_text({**CHAIN, **changes.pop("chain", {})}, **{**options, **changes})


@pytest.mark.parametrize(
    "words",
    [
        "# PLSRegression for fat (%)",
        "| wavelengths | 850 to 854 nm, 3 channels, 2 apart on average |",
        "| calibration samples | 172 |",
        "| test samples | 43 |",
        "| data set | tecator |",
        "| data set hash | abc123 |",
        "1. standard normal variate: each spectrum centered and divided by its standard deviation",
        "2. Savitzky-Golay second derivative (window of 11 channels, polynomial of order 2)",
        "3. partial least squares regression with 8 latent variables (PLSRegression); 2 models, one a fold",
        "| RMSEC | 1.9 % |",
        "| RMSECV | 2.24 % |",
        "| RMSEP | 1.912 % |",
        "| bias | -0.005 % |",
        "| SEP | 2.247 % |",
        "| R² | 0.9694 |",
        "| RPD | 5.716 |",
        "| RPIQ | 9.234 |",
        "| date | 2026-01-02 03:04:05 |",
        f"| git commit | {'f' * 40} |",
        "| trained with | python 3.12.1, scikit-learn 1.8.0 |",
        "| exported with | python 3.11.7, scikit-learn 1.9.1 |",
        "| validation | cross-validation with 5 folds (KFold) |",
        "| seeds | KFold 7 |",
    ],
)
def test_everything_that_travels_with_a_model_is_on_it(words: str) -> None:
    assert words in card()


def test_what_was_not_recorded_is_not_claimed() -> None:
    text = card(scores={}, units={}, facts={}, chain={"wavelengths": None, "metadata": None})
    assert "None were recorded." in text
    assert "| predicts | not recorded |" in text
    assert "git commit" not in text
    assert "RMSEP" not in text


def test_it_says_what_opening_asks_for() -> None:
    assert "holds no pickles and opens as it is" in card()
    assert "runs code that its writer has chosen" in card(kind="joblib")
    assert "need to be trusted by name: sklearn.tree" in card(needs_trust=["sklearn.tree._tree.Tree"])


def test_names_of_users_stay_inside_their_cell() -> None:
    text = card(units={**UNITS, "target": "fat|x\n# evil <script> `code` [a](b)"})
    assert "\n# evil" not in text
    assert "<script>" not in text
    assert "fat\\|x" in text
    assert "\\[a]" in text


def test_a_strangers_card_cannot_drive_the_terminal() -> None:
    shown = readable("# card\x1b[2Jgone\u202e\r\n" + "x" * 100_000)
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert shown.startswith("# card [2Jgone")
    assert shown.endswith("[cut]")
    assert len(shown) < 70_000


def test_seeds_are_found_wherever_they_stand() -> None:
    steps = [
        {"operator_class": "sklearn.model_selection.KFold", "params": {"random_state": 3}},
        {
            "operator_class": "x.Stack",
            "params": {"parts": [{"class": "y.Forest", "params": {"random_state": 5}}]},
        },
        {"operator_class": "x.Stack", "params": {"base__random_state": 0, "random_state": None}},
    ]
    assert seeds(steps) == ["KFold 3", "Forest 5", "Stack 0"]


def test_a_class_without_words_is_named_with_its_parameters() -> None:
    assert in_words("mine.Detrend", {"order": 2}) == "Detrend(order=2)"
    assert in_words("sklearn.linear_model.Ridge", {}) == "Ridge()"
    assert len(in_words("mine.Big", {"table": list(range(1000))})) < 60


def test_a_strangers_facts_of_the_wrong_shape_do_not_hinder_an_export() -> None:
    text = card(
        facts={"environment": [1], "seeds": 5, "n_folds": {"a": 1}}, units={"classes": 3, "target": [1]}
    )
    assert "| seeds | none were set |" in text
    assert "| trained with | python 3.11.7, scikit-learn 1.9.1 |" in text
