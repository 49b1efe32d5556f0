"""Steps of a chain in the words of the field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["in_words", "seeds"]

_ORDINALS = {1: "first", 2: "second", 3: "third"}

# Words for a class, whichever package it comes from; {name} is filled in from its parameters.
_WORDS = {
    "StandardNormalVariate": "standard normal variate: each spectrum centred and divided by its standard deviation",
    "RobustNormalVariate": "robust normal variate, on the lower {percentile} % of each spectrum",
    "MultiplicativeScatterCorrection": "multiplicative scatter correction to the {method} spectrum",
    "ExtendedMultiplicativeScatterCorrection": "extended multiplicative scatter correction of order {order}",
    "NorrisWilliams": "Norris-Williams derivative of order {deriv} (window {window_length}, gap {gap_size})",
    "SavitzkyGolayFilter": "Savitzky-Golay smoothing (window of {window_length} channels)",
    "MeanFilter": "moving mean",
    "MedianFilter": "moving median",
    "WhittakerSmooth": "Whittaker smoothing",
    "LinearCorrection": "straight baseline between the ends of each spectrum subtracted",
    "PolynomialCorrection": "polynomial baseline of order {order} subtracted",
    "AirPls": "baseline by adaptive iteratively reweighted penalised least squares subtracted",
    "ArPls": "baseline by asymmetrically reweighted penalised least squares subtracted",
    "AsLs": "baseline by asymmetric least squares subtracted",
    "RangeCut": "only the channels from {start} to {end}",
    "StandardScaler": "each channel centred and scaled to unit variance",
    "RobustScaler": "each channel centred on its median and scaled by its interquartile range",
    "MinMaxScaler": "scaled to a fixed range",
    "Normalizer": "each spectrum scaled to unit {norm} norm",
    "PCA": "principal components: {n_components}",
    "PLSRegression": "partial least squares regression with {n_components} latent variables",
    "PLSCanonical": "canonical partial least squares with {n_components} components",
    "Ridge": "ridge regression with penalty {alpha}",
    "Lasso": "lasso with penalty {alpha}",
    "LinearRegression": "linear regression by least squares",
    "SVR": "support vector regression with {kernel} kernel, C {C}",
    "SVC": "support vector classifier with {kernel} kernel, C {C}",
    "RandomForestRegressor": "random forest of {n_estimators} trees",
    "RandomForestClassifier": "random forest of {n_estimators} trees",
    "KFold": "cross-validation with {n_splits} folds",
    "GroupKFold": "cross-validation with {n_splits} folds, groups kept together",
    "StratifiedKFold": "cross-validation with {n_splits} folds, classes in equal shares",
    "ShuffleSplit": "{n_splits} random splits",
    "LeaveOneOut": "leave-one-out cross-validation",
}


def in_words(name: str, params: Mapping[str, Any]) -> str:
    """Describe a step.

    Parameters
    ----------
    name : str
        Full name of its class.
    params : mapping
        Its parameters.

    Examples
    --------
    >>> in_words("chemotools.derivative.SavitzkyGolay", {"window_length": 11, "polyorder": 2, "deriv": 1})
    'Savitzky-Golay first derivative (window of 11 channels, polynomial of order 2) (SavitzkyGolay)'
    >>> in_words("my.package.Detrend", {"order": 2})
    'Detrend(order=2)'
    """
    short = name.rpartition(".")[2] or "unknown step"
    if short == "SavitzkyGolay" and "window_length" in params:
        deriv = params.get("deriv", 1)
        kind = f"{_ORDINALS.get(deriv, f'{deriv}th')} derivative" if deriv else "smoothing"
        return (
            f"Savitzky-Golay {kind} (window of {params['window_length']} channels, polynomial of order "
            f"{params.get('polyorder')}) (SavitzkyGolay)"
        )
    template = _WORDS.get(short)
    if template is not None:
        try:
            return f"{template.format_map(dict(params))} ({short})"
        except (KeyError, IndexError, ValueError, AttributeError):
            # Recorded without that parameter: the name alone has to do.
            pass
    shown = ", ".join(f"{key}={_short(value)}" for key, value in sorted(params.items()))
    return f"{short}({shown})"


def seeds(steps: Any) -> list[str]:
    """List the random states among the parameters of steps, nested ones included, as "KFold 0".

    Examples
    --------
    >>> seeds([{"operator_class": "sklearn.model_selection.KFold", "params": {"random_state": 7}}])
    ['KFold 7']
    """
    found: dict[str, None] = {}

    def visit(owner: str, params: Any) -> None:
        if isinstance(params, Mapping):
            inner = str(params.get("class") or params.get("operator_class") or owner)
            for key, value in params.items():
                if (
                    str(key).endswith("random_state")
                    and isinstance(value, int)
                    and not isinstance(value, bool)
                ):
                    found[f"{inner.rpartition('.')[2]} {value}"] = None
                else:
                    visit(inner, value)
        elif isinstance(params, list):
            for item in params:
                visit(owner, item)

    visit("", list(steps))
    return list(found)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
