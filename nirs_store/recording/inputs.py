"""Look at everything a cross-validation is given, before anything is fitted or recorded."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import is_classifier, is_clusterer, is_regressor
from sklearn.model_selection import check_cv

from nirs_store.chains.grids import advice, differ, flat_names, same_grid
from nirs_store.chains.plan import Names, require_columns, text_names
from nirs_store.chains.spectra import read_header, read_text, require_order
from nirs_store.errors import InvalidInput, RecordingWarning, ShapeMismatch, did_you_mean, quoted
from nirs_store.ids import is_id
from nirs_store.reading.cells import FARTHEST_NM, parse_unit
from nirs_store.recording.groups import grouped_twin, read_groups, refuse_split_groups
from nirs_store.recording.steps import Parts, describe
from nirs_store.scores import RMSE_BY_SET, SCORES, default_metric, unknown_name
from nirs_store.values import as_array, as_floats, check_index, column_names, index_names, is_frame, native

# -- Names of samples: given, out of a column of the spectra's frame, or from a pandas index.


def take_names(label: str, X: Any, given: Any, what: str = "sample_ids") -> tuple[Any, NDArray[Any] | None]:
    """Find the names of the samples and take the column that holds them out of the spectra."""
    if given is None:
        return X, index_names(X)
    if isinstance(given, str):
        names = _column(label, X, given, what)
        X = X.drop([given]) if type(X).__module__.partition(".")[0] == "polars" else X.drop(columns=[given])
    else:
        names = as_array(given, what)
    n = len(X) if hasattr(X, "__len__") else np.asarray(X).shape[0]
    if names.shape != (n,):
        raise ShapeMismatch(
            f"{what}: expected one name per sample of {label}, {n}; found the shape {names.shape}."
        )
    kinds = {type(each) for each in names.tolist()}
    if kinds == {str}:
        return X, names.astype(np.str_)
    if kinds == {int}:
        return X, names
    found = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise InvalidInput(f"{what}: expected text or whole numbers, one kind, none missing; found {found}.")


def _column(label: str, X: Any, name: str, what: str) -> NDArray[Any]:
    if not is_frame(X):
        raise InvalidInput(
            f"{what}={name!r} names a column, but {label} is not a data frame. Pass the names themselves."
        )
    columns = column_names(X)
    if name not in columns:
        hint = did_you_mean(name, columns)
        raise InvalidInput(f"{what}: {label} has no column {name!r}.{hint}")
    return as_array(X[name], what)


@dataclass(frozen=True, eq=False)
class Data:
    """Checked spectra and targets."""

    X: NDArray[Any]
    y: NDArray[Any]
    X_test: NDArray[Any] | None
    y_test: NDArray[Any] | None
    classes: NDArray[Any] | None
    wavelengths: NDArray[np.float64] | None
    sample_ids: NDArray[Any] | None = None
    sample_ids_test: NDArray[Any] | None = None
    columns: Names | None = None
    unit: str | None = None

    def names(self, partition: str, rows: NDArray[np.intp]) -> NDArray[Any]:
        """Return the names of a partition's samples, or their row numbers if they have none."""
        known = self.sample_ids_test if partition == "test" else self.sample_ids
        return rows if known is None else known[rows]


@dataclass(frozen=True, eq=False)
class FixedFolds:
    """Folds that a splitter has made already: a shuffle without a seed would make others the next time."""

    splitter: Any
    pairs: list[tuple[NDArray[np.intp], NDArray[np.intp]]]


@dataclass(frozen=True, eq=False)
class Fold:
    """Rows to fit on and rows to predict; the refit has none of the latter."""

    key: str
    train: NDArray[np.intp]
    val: NDArray[np.intp] | None


def check_estimator(parts: Parts, task_type: str | None) -> str:
    """Find the task of an estimator and refuse what a chain cannot hold."""
    model = parts.model
    if isinstance(model, type):
        raise InvalidInput(f"Expected an estimator, found the class {model.__name__}; call it first.")
    for transformer in parts.transformers:
        if not (hasattr(transformer, "transform") and hasattr(transformer, "get_params")):
            raise InvalidInput(f"{describe(transformer)} comes before the model but has no transform().")
    # The class is asked too: a stack shows its predict() only once it is fitted.
    if not all(
        hasattr(model, name) or hasattr(type(model), name) for name in ("fit", "predict", "get_params")
    ):
        raise InvalidInput(
            f"Expected a scikit-learn estimator that ends in a model with fit() and predict(); found "
            f"{model if model is None else describe(model)}."
        )
    if task_type is not None:
        default_metric(task_type)
        return "regression" if task_type == "regression" else "classification"
    if is_classifier(model):
        return "classification"
    if is_regressor(model) and not is_clusterer(model):
        return "regression"
    raise InvalidInput(
        f"{describe(model)} says neither that it is a regressor nor a classifier. If it is one, pass "
        f"task_type='regression' or task_type='classification'."
    )


def check_data(
    X: Any,
    y: Any,
    *,
    X_test: Any = None,
    y_test: Any = None,
    wavelengths: Any = None,
    sample_ids: Any = None,
    sample_ids_test: Any = None,
    task_type: str,
    wavelength_unit: str | None = None,
    no_missing: str = "Remove these samples or channels, or impute them before.",
) -> Data:
    """Turn spectra and targets, frames included, into arrays that can be fitted and stored."""
    # `no_missing` says why there may be no NaN in the spectra; empty where there may.
    check_index(X=X, y=y)
    check_index(X_test=X_test, y_test=y_test)
    X, names = take_names("X", native(X, "X"), sample_ids)
    names_test = None
    stated = _stated_unit(wavelength_unit)
    spectra, grid, unit, columns = _spectra("X", X, no_missing, stated)
    target = _target("y", y, task_type)
    _same_length("X", spectra, "y", target)
    spectra_test = target_test = None
    if (X_test is None) != (y_test is None):
        raise InvalidInput("X_test and y_test come together; only one of them was given.")
    if X_test is None and sample_ids_test is not None:
        raise InvalidInput("sample_ids_test names the samples of X_test, which was not given.")
    if X_test is not None:
        # A column that names the samples of X is in X_test too.
        wanted = sample_ids if isinstance(sample_ids, str) and sample_ids_test is None else sample_ids_test
        X_test, names_test = take_names("X_test", native(X_test, "X_test"), wanted, "sample_ids_test")
        spectra_test, grid_test, _, columns_test = _spectra("X_test", X_test, no_missing, stated or unit)
        target_test = _target("y_test", y_test, task_type)
        _same_length("X_test", spectra_test, "y_test", target_test)
        if spectra_test.shape[1] != spectra.shape[1] or target_test.shape[1:] != target.shape[1:]:
            raise ShapeMismatch(
                f"Test samples must have the channels and targets of the others: X {spectra.shape}, X_test "
                f"{spectra_test.shape}, y {target.shape}, y_test {target_test.shape}."
            )
        if grid is not None and grid_test is not None and not same_grid(grid_test, grid):
            raise ShapeMismatch(
                f"The column names of X and X_test are different wavelengths: {differ(grid_test, grid)}. "
                f"{advice(grid_test, grid)}"
            )
        if grid is None and columns is not None and columns_test is not None:
            require_columns(columns_test, columns, "X_test", "X")
        if columns is None and grid_test is None:
            require_order(columns_test or (), "X_test")
    if wavelengths is not None and grid is None:
        require_order(columns or (), "X")
    classes = None
    if task_type == "classification":
        seen = np.unique(target)
        if seen.size < 2:
            raise InvalidInput(f"A classification needs two classes at least; y has only {seen.tolist()}.")
        classes = seen if target_test is None else np.unique(np.concatenate([target, target_test]))
    grid, unit = _grid(wavelengths, grid, stated or unit, spectra.shape[1])
    return Data(spectra, target, spectra_test, target_test, classes, grid, names, names_test, columns, unit)


def choose_metric(metric: str | None, task_type: str) -> str:
    """Check the name of the metric that ranks this model; RMSECV, RMSEP and RMSEC are the RMSE."""
    if metric is None:
        return default_metric(task_type)
    chosen = "rmse" if metric in RMSE_BY_SET else metric
    known = SCORES[task_type]
    if chosen == "bias":
        raise InvalidInput("The bias has a sign and cannot rank models; choose rmse, sep or another score.")
    if chosen not in known:
        raise InvalidInput(unknown_name(f"metric of a {task_type}", metric, known))
    return chosen


def full_run_id(store: Any, run_id: Any) -> Any:
    """Return the whole id of a run that was given by name or by a part of its id; what is not known as it is."""
    if run_id is None or is_id(run_id) or not hasattr(store, "get_run"):
        return run_id
    row = store.get_run(run_id)
    return run_id if row is None else row["run_id"]


def make_folds(
    cv: Any, data: Data, groups: Any, task_type: str
) -> tuple[Any, list[Fold], NDArray[Any] | None]:
    """Split the samples and check each fold."""
    # With groups a splitter that ignores them is replaced by the one that keeps them together, or refused.
    n = data.X.shape[0]
    labels = read_groups(groups, n)
    if isinstance(cv, FixedFolds):
        return cv.splitter, [_fold(index, *pair, n) for index, pair in enumerate(cv.pairs)], labels
    is_splitter = callable(getattr(cv, "split", None)) and hasattr(cv, "get_n_splits")
    if not (is_splitter or cv is None or isinstance(cv, (int, np.integer))):
        splitter: Any = _ready_made(cv, n)
        pairs = splitter
    else:
        try:
            splitter = check_cv(cv, data.y, classifier=task_type == "classification")
            if labels is not None:
                splitter = grouped_twin(splitter)
                if is_splitter and splitter is not cv:
                    warnings.warn(
                        f"{cv!r} ignores groups; {splitter!r} splits instead, and keeps each group in one fold.",
                        RecordingWarning,
                        stacklevel=3,
                    )
            with warnings.catch_warnings():
                # Whether a splitter minds the groups or not: every fold is looked at below.
                warnings.filterwarnings("ignore", "The groups parameter is ignored")
                pairs = list(splitter.split(data.X, data.y, labels))
        except InvalidInput:
            raise
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"The splitter {cv!r} cannot split these {n} samples: {error}") from error
    if not pairs:
        raise InvalidInput("The splitter gives no fold at all.")
    folds = [_fold(index, train, val, n) for index, (train, val) in enumerate(pairs)]
    if labels is not None:
        for index, fold in enumerate(folds):
            if fold.val is not None:
                refuse_split_groups(index, labels, fold.train, fold.val)
    return splitter, folds, labels


def _spectra(
    name: str, X: Any, no_missing: str, stated: str | None
) -> tuple[NDArray[Any], NDArray[np.float64] | None, str | None, Names | None]:
    grid = columns = unit = None
    if is_frame(X):
        named = flat_names(column_names(X))
        grid, unit = _column_wavelengths(name, named, stated)
        # What says no more than the wavelengths need not be kept.
        columns = None if grid is not None and all(map(_is_plain, named)) else text_names(named)
        if grid is None and columns is None:
            require_order(named, name)  # numbers are not kept with the chain, as names are
    if hasattr(X, "toarray"):
        raise InvalidInput(f"{name} is a sparse matrix; spectra are dense. Pass {name}.toarray().")
    array = as_array(X, name)
    if array.dtype == object:
        array = _floats(name, array)
    if array.ndim != 2:
        raise ShapeMismatch(f"{name} must be of shape (n_samples, n_features); found {array.shape}.")
    if array.dtype.kind not in "biuf":
        raise InvalidInput(f"{name} must hold real numbers; found {array.dtype}.")
    if not array.size:
        raise InvalidInput(f"{name} is empty: its shape is {array.shape}.")
    array = array if array.dtype.kind == "f" else array.astype(np.float64)
    bad = ~np.isfinite(array)
    if bad.any() and (no_missing or np.isinf(array).any()):
        bad = bad if no_missing else np.isinf(array)
        row, column = np.argwhere(bad)[0]
        raise InvalidInput(
            f"{name} holds {int(bad.sum())} values that are NaN or infinite, first in row {row}, column "
            f"{column}. {no_missing or 'Remove these samples or channels.'}"
        )
    return array, grid, unit, columns


def _column_wavelengths(
    name: str, columns: list[Any], stated: str | None
) -> tuple[NDArray[np.float64] | None, str | None]:
    numbers, unit = read_header(columns, stated, name)
    others = [column for column, number in zip(columns, numbers, strict=True) if number is None]
    if len(others) == len(columns):
        return None, None
    if others:
        raise InvalidInput(
            f"The columns of {name} are named by wavelength, but for {', '.join(map(repr, others[:5]))}"
            f"{' and more' if len(others) > 5 else ''}. Drop them: everything in {name} is fitted as spectra."
        )
    grid = np.array(numbers, dtype=np.float64)
    # pandas numbers the columns of a bare array from 0, which no spectrum has as a wavelength.
    return (grid, unit) if grid.min() > 0 else (None, None)


def _is_plain(name: Any) -> bool:
    try:
        float(name)
    except (TypeError, ValueError):
        return False
    return True


def _stated_unit(text: str | None) -> str | None:
    unit = None if text is None else parse_unit(text)
    if text is not None and unit is None:
        raise InvalidInput(
            f"wavelength_unit: expected nm, cm-1 or um (or another spelling, such as cm^-1 or 1/cm), found {text!r}."
        )
    return unit


def _grid(
    given: Any, from_columns: NDArray[np.float64] | None, unit: str | None, n_features: int
) -> tuple[NDArray[np.float64] | None, str | None]:
    """Settle the wavelengths and their unit, of which column names and `wavelengths` may both tell."""
    grid = from_columns
    if given is not None:
        array, own = read_text(as_array(given, "wavelengths"), unit)
        unit = unit or own
        grid = _floats("wavelengths", array)
        if grid.shape != (n_features,) or not np.isfinite(grid).all():
            raise ShapeMismatch(
                f"Expected {n_features} finite wavelengths, one a channel of X; found the shape {grid.shape}."
            )
        # As a replay compares them: else the frame that is recorded here could not be predicted with its own chain.
        if from_columns is not None and not same_grid(from_columns, grid):
            raise ShapeMismatch(
                f"`wavelengths` disagrees with the column names of X: {differ(from_columns, grid)}. Pass only one of "
                "them."
            )
    if grid is not None and unit == "nm" and grid.max() > FARTHEST_NM:
        warnings.warn(
            f"wavelength_unit='nm', but the wavelengths go up to {grid.max():g}, beyond the near infrared. If they are "
            "wavenumbers, record them with wavelength_unit='cm-1'.",
            RecordingWarning,
            stacklevel=4,
        )
    return grid, unit


def _target(name: str, y: Any, task_type: str) -> NDArray[Any]:
    array = as_array(y, name)
    if not array.size or array.ndim not in (1, 2):
        raise ShapeMismatch(
            f"{name} must be of shape (n,) or (n, targets) and not empty; found {array.shape}."
        )
    if task_type == "regression":
        values = _floats(name, array)
        if not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0, 0])
            raise InvalidInput(
                f"{name} holds {int((~np.isfinite(values)).sum())} values that are NaN or infinite, first in "
                f"row {row}. Remove these samples."
            )
        return values
    if array.ndim == 2:
        if array.shape[1] != 1:
            raise ShapeMismatch(f"A classification has one target; {name} has the shape {array.shape}.")
        array = array[:, 0]
    labels = array.tolist()
    missing = [row for row, label in enumerate(labels) if label is None or label != label]
    if missing:
        raise InvalidInput(f"{name} lacks {len(missing)} labels, first in row {missing[0]}.")
    strange = labels[0] if array.dtype.kind not in "mMcV" else array[0]
    if not isinstance(strange, str | bytes | bool | int | float | np.bool_):
        raise InvalidInput(
            f"{name} holds labels of the type {type(strange).__name__} (first: {quoted(strange)}); expected text, "
            "whole numbers or True and False. Nothing was recorded. Convert them first, for example with .astype(str)."
        )
    if len({type(label) for label in labels}) > 1:
        raise InvalidInput(f"{name} mixes labels of several types; make them all text or all integers.")
    # An object array of text sorts and compares as text does, but cannot be stored by its bytes.
    return np.array(labels) if array.dtype == object else array


def target_names(y: Any) -> list[str] | None:
    """Return the names of several targets that come as the columns of a frame."""
    y = native(y, "y")
    names = [str(name) for name in column_names(y)] if is_frame(y) else []
    return (
        names
        if len(names) > 1 and len(set(names)) == len(names) and not all(map(str.isdigit, names))
        else None
    )


def _ready_made(cv: Any, n: int) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    message = "Expected cv as a number of folds, a splitter, or (train, validation) pairs of row numbers"
    if isinstance(cv, (str, bytes)) or not isinstance(cv, Iterable):
        raise InvalidInput(f"{message}; found {cv!r}.")
    pairs = []
    for pair in cv:
        if not isinstance(pair, Sequence) or len(pair) != 2:
            raise InvalidInput(f"{message}; found an item that is not a pair: {pair!r}.")
        pairs.append((_rows(pair[0], n), _rows(pair[1], n)))
    return pairs


def _rows(rows: Any, n: int) -> NDArray[np.intp]:
    array = np.asarray(rows)
    if array.dtype == bool and array.shape == (n,):
        return np.flatnonzero(array)
    if array.size and (array.ndim != 1 or array.dtype.kind not in "iu"):
        raise InvalidInput(f"A fold is a list of row numbers; found {array.dtype} of shape {array.shape}.")
    return array.astype(np.intp)


def _fold(index: int, train: Any, val: Any, n: int) -> Fold:
    fit_rows, val_rows = _rows(train, n), _rows(val, n)
    for word, rows in (("fit on", fit_rows), ("validate with", val_rows)):
        if not rows.size:
            raise InvalidInput(f"Fold {index} has no samples to {word}.")
        if rows.min() < 0 or rows.max() >= n:
            raise InvalidInput(f"Fold {index} names rows {rows.min()} to {rows.max()} of {n} samples.")
    shared = np.intersect1d(fit_rows, val_rows)
    if shared.size:
        raise InvalidInput(
            f"Fold {index} validates with {shared.size} samples that it is fitted on (first: row "
            f"{shared[0]}); its scores would be too good."
        )
    return Fold(f"fold_{index}", fit_rows, val_rows)


def _same_length(first: str, a: NDArray[Any], second: str, b: NDArray[Any]) -> None:
    if a.shape[0] != b.shape[0]:
        raise ShapeMismatch(f"{first} has {a.shape[0]} samples but {second} has {b.shape[0]}.")


def _floats(name: str, values: NDArray[Any]) -> NDArray[np.float64]:
    try:
        return as_floats(values)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{name} must hold numbers only: {error}.") from error
