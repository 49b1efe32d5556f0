"""What is refused when a chain is saved, because it could never predict.

Only what costs next to nothing to see; a replay looks closely.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nirs_store.chains.folds import (
    REFIT,
    normalise_folds,
    normalise_weights,
    step_fold_ids,
    step_number,
)
from nirs_store.errors import InvalidInput

__all__ = ["check_numbers", "check_weights"]


def check_numbers(steps: Sequence[Mapping[str, Any]], model_step_idx: object, source_index: object) -> None:
    """Check the numbers of the steps, of the model's step and of the source.

    Raises
    ------
    InvalidInput
        One is no whole number from 0, or a step has none.

    Examples
    --------
    >>> check_numbers([{"step_idx": 0}], 0, None)
    """
    for position, step in enumerate(steps):
        step_number(step.get("step_idx"), f"steps[{position}]['step_idx']")
    step_number(model_step_idx, "model_step_idx")
    if source_index is not None:
        step_number(source_index, "source_index")


def check_weights(
    weights: Mapping[Any, Any] | None,
    fold_artifacts: Mapping[Any, Any] | None,
    steps: Sequence[Mapping[str, Any]],
    model_step_idx: object,
) -> None:
    """Check that the weights are numbers that can weigh, and fit the models that they are to weigh.

    Those of a chain with a refit, or with one model alone, weigh nothing, whatever their folds.

    Raises
    ------
    InvalidInput

    Examples
    --------
    >>> check_weights({"0": 0.5}, {"fold_0": "a", "fold_1": "b"}, [{"step_idx": 0}], 0)
    Traceback (most recent call last):
    ...
    nirs_store.errors.InvalidInput: fold_weights: expected a weight for each of the models of ['fold_0', 'fold_1'], ...
    """
    named = normalise_weights(weights)
    if named is None:
        return
    folds = set(normalise_folds(fold_artifacts, "fold_artifacts"))
    for position, step in enumerate(steps):
        if not folds and step.get("step_idx") == model_step_idx:
            folds = set(step_fold_ids(step, f"steps[{position}]"))
    if not folds or REFIT in folds:
        return
    weighed = {fold: weight for fold, weight in named.items() if fold != REFIT}
    if set(weighed) != folds or not any(weighed.values()):
        raise InvalidInput(
            f"fold_weights: expected a weight for each of the models of {sorted(folds)}, at least one above 0, "
            f"found {weighed}. Nothing was recorded."
        )
