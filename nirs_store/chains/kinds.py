"""What a step does when a chain is replayed."""

from __future__ import annotations

import re

from nirs_store.errors import InvalidInput, ReplayError

__all__ = [
    "AUGMENTATION",
    "KINDS",
    "MERGE",
    "MODEL",
    "SPLITTER",
    "STACKED",
    "TARGETS",
    "TRANSFORM",
    "step_kind",
]

TRANSFORM = "transform"
TARGETS = "y_processing"
AUGMENTATION = "feature_augmentation"
SPLITTER = "splitter"
MODEL = "model"
STACKED = "meta_model"
MERGE = "merge"

KINDS = (TRANSFORM, TARGETS, AUGMENTATION, SPLITTER, MERGE, MODEL)

_ALIASES = {"preprocessing": TRANSFORM, "transformer": TRANSFORM}
# KFold, ShuffleSplit, SPXYSplitter, LeaveOneGroupOut: only steps that do not say what they are.
_SPLITTER_NAME = re.compile(r"Split|Fold|^Leave")


def step_kind(operator_type: str | None, operator_class: str, has_artifacts: bool) -> str:
    """Tell what a step is: by its own word, else by the name of its class.

    Parameters
    ----------
    operator_type : str or None
        What the step says; kinds that are not known here come back unchanged.
    operator_class : str
        Class of the step, qualified or not.
    has_artifacts : bool
        Whether the step left fitted objects behind; a splitter without a word never does.

    Examples
    --------
    >>> step_kind(None, "sklearn.model_selection.KFold", False), step_kind("", "SNV", True)
    ('splitter', 'transform')
    """
    if operator_type is not None and not isinstance(operator_type, str):
        raise InvalidInput(f"operator_type must be text, found {operator_type!r}.")
    if operator_type:
        return _ALIASES.get(operator_type, operator_type)
    if not has_artifacts and _SPLITTER_NAME.search(operator_class.rpartition(".")[2]):
        return SPLITTER
    return TRANSFORM


def check_kind(kind: str, where: str) -> str:
    """Refuse a kind of step that a replay does not know how to apply."""
    if kind not in (*KINDS, STACKED):
        raise ReplayError(
            f"{where} is of the type {kind!r}, which a replay cannot apply. Known types: {', '.join(KINDS)}."
        )
    return kind
