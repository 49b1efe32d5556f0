"""Statistics of a calibration in service: agreement with the laboratory, control charts, comparisons.

Everything here works on arrays and frames, and knows no store. Differences are reference - predicted, the sign of
ISO 12099; `nirs_store.scores` uses predicted - measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from nirs_store.display import counted
from nirs_store.errors import InvalidInput, ShapeMismatch
from nirs_store.lazy import polars as pl
from nirs_store.values import one_of

Floats = NDArray[np.float64]
Repeats = Literal["mean", "last", "each"]

#: With fewer samples no verdict is given.
FEWEST = 10
#: The weight of the newest value in the moving average.
LAMBDA = 0.4
SIGN = "difference = reference - predicted"
#: What a number of bias in service is labelled with; the bias of recorded scores has the opposite sign.
BIAS = "bias (reference - predicted)"
_RUN = 9
_EXACT = 1e-12


class Baseline(NamedTuple):
    """The error of a version when it was registered, which SEP is compared with.

    Attributes
    ----------
    error : float
        SEC, or SECV where the number of fitted parameters is not defined.
    df : int
        Its degrees of freedom.
    kind : str
        ``"SEC"`` or ``"SECV"``.
    """

    error: float
    df: int
    kind: str

    @classmethod
    def of(cls, figures: Mapping[str, Any]) -> Baseline | None:
        """Read it from the figures of a version: SEC with n - p - 1, else SECV with n - 1 degrees of freedom.

        Examples
        --------
        >>> Baseline.of({"n_cal": 100, "p": 5, "sec": 0.4, "secv": 0.5})
        Baseline(error=0.4, df=94, kind='SEC')
        >>> Baseline.of({"n_cal": 100, "p": None, "sec": 0.1, "secv": 0.5})
        Baseline(error=0.5, df=99, kind='SECV')
        """
        n, p = _number(figures.get("n_cal")), _number(figures.get("p"))
        sec, secv = _number(figures.get("sec")), _number(figures.get("secv"))
        if n is not None and p is not None and sec is not None and n - p - 1 >= 1:
            return cls(sec, int(n - p - 1), "SEC")
        if n is not None and secv is not None and n >= 2:
            return cls(secv, int(n - 1), "SECV")
        return None


@dataclass(frozen=True)
class Agreement:
    """How predictions agree with reference values; differences are reference - predicted.

    Attributes
    ----------
    n : int
        Number of samples.
    bias : float
        Mean difference, reference - predicted.
    bias_limit : float
        T_b = t(1 - alpha/2; n - 1) SEP / sqrt(n).
    sep : float
        Standard deviation of the differences, with n - 1.
    sep_limit : float
        T_UE = SEC sqrt(F(1 - alpha; n - 1, df)); NaN where the version has neither SEC nor SECV.
    rmsep : float
        Root mean square of the differences; it includes the bias.
    slope, intercept : float
        Of the straight line of reference on predicted; NaN where the references or the predictions do not differ.
    slope_t, slope_t_limit : float
        t of slope - 1, and t(1 - alpha/2; n - 2).
    baseline : Baseline or None
        What `sep_limit` was computed with.
    alpha : float
        Level of each test.
    """

    n: int
    bias: float
    bias_limit: float
    sep: float
    sep_limit: float
    rmsep: float
    slope: float
    intercept: float
    slope_t: float
    slope_t_limit: float
    baseline: Baseline | None
    alpha: float

    @property
    def enough(self) -> bool:
        """Tell whether there are enough samples for a verdict."""
        return self.n >= FEWEST

    @property
    def bias_significant(self) -> bool | None:
        """Tell whether the bias differs from 0; None without a verdict."""
        return self._verdict(abs(self.bias), self.bias_limit)

    @property
    def sep_exceeds(self) -> bool | None:
        """Tell whether the SEP is larger than the calibration explains; None without a verdict."""
        return self._verdict(self.sep, self.sep_limit)

    @property
    def slope_significant(self) -> bool | None:
        """Tell whether the slope differs from 1; None without a verdict."""
        return self._verdict(self.slope_t, self.slope_t_limit)

    def _verdict(self, value: float, limit: float) -> bool | None:
        if not self.enough or math.isnan(value) or math.isnan(limit):
            return None
        return bool(value > limit)

    @property
    def needs_attention(self) -> bool:
        """Tell whether a test found something; False without a verdict."""
        return bool(self.bias_significant or self.sep_exceeds or self.slope_significant)

    @property
    def advice(self) -> str:
        """Say in words what the tests mean for the calibration."""
        if not self.enough:
            return f"no verdict: {self.n} of at least {FEWEST} samples with a reference"
        found = [
            f"{BIAS} {self.bias:+.4g} is beyond {self.bias_limit:.4g}" if self.bias_significant else "",
            f"slope {self.slope:.4g} differs from 1 (t = {self.slope_t:.3g})"
            if self.slope_significant
            else "",
            f"SEP {self.sep:.4g} is above {self.sep_limit:.4g}" if self.sep_exceeds else "",
        ]
        said = "; ".join(each for each in found if each)
        if not said:
            return "in agreement with the laboratory"
        if self.sep_exceeds:
            return (
                f"{said}: look for the cause, and extend the calibration; a correction cannot lower this SEP"
            )
        if self.slope_significant:
            return f"{said}: a slope and bias correction can be justified if the samples cover the range"
        return f"{said}: a bias correction can be justified"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; what is not defined is None."""
        tests = ("bias_significant", "sep_exceeds", "slope_significant", "advice")
        return plain_fields(self, *tests) | {"sign": SIGN}


def agreement(
    reference: Any, predicted: Any, *, baseline: Baseline | None = None, alpha: float = 0.05
) -> Agreement:
    """Compare predictions with the reference values of the same samples.

    Parameters
    ----------
    reference, predicted : array-like of shape (n_samples,)
        One pair for each sample, without NaN.
    baseline : Baseline, optional
        The error of the calibration when it was registered.
    alpha : float
        Level of each test.

    Raises
    ------
    ShapeMismatch
        They differ in length.
    InvalidInput
        A value is not finite, or alpha is not a share.

    Examples
    --------
    >>> found = agreement([1.0, 2.0, 3.0, 4.0], [1.1, 2.1, 3.1, 4.1])
    >>> round(found.bias, 3), found.bias_significant
    (-0.1, None)
    """
    from scipy.special import fdtri, stdtrit

    if not (_is_number(alpha) and 0 < alpha < 1):
        raise InvalidInput(f"alpha: expected a share between 0 and 1; found {alpha!r}.")
    y, x = _values(reference, "reference"), _values(predicted, "predicted")
    if y.shape != x.shape:
        raise ShapeMismatch(
            f"reference has {counted(y.size, 'value')}, predicted {x.size}. Nothing was computed."
        )
    n, nan = int(y.size), float("nan")
    if not n:
        return Agreement(0, nan, nan, nan, nan, nan, nan, nan, nan, nan, baseline, alpha)
    d = y - x
    bias = float(d.mean())
    sep = float(d.std(ddof=1)) if n > 1 else nan
    scale = max(float(np.abs(y).max()), float(np.abs(x).max()))
    # A constant offset, or none, leaves nothing but the rounding of the values.
    sep = 0.0 if sep <= _EXACT * scale else sep
    bias = 0.0 if abs(bias) <= _EXACT * scale else bias
    slope = intercept = slope_t = slope_limit = nan
    spread = float(((x - x.mean()) ** 2).sum())
    # References that do not differ, of one control sample, give a slope of 0 whatever was predicted: no slope.
    least = n * (_EXACT * scale) ** 2
    if n > 2 and spread > least and float(((y - y.mean()) ** 2).sum()) > least:
        slope = float(((x - x.mean()) * (y - y.mean())).sum()) / spread
        intercept = float(y.mean() - slope * x.mean())
        residual = y - intercept - slope * x
        variance = float((residual**2).sum()) / (n - 2)
        off = abs(slope - 1.0)
        if variance > (_EXACT * scale) ** 2:
            slope_t = off * math.sqrt(spread / variance)
        else:
            slope_t = math.inf if off > 1e-9 else 0.0
        slope_limit = float(stdtrit(n - 2, 1 - alpha / 2))
    bias_limit = float(stdtrit(n - 1, 1 - alpha / 2)) * sep / math.sqrt(n) if n > 1 else nan
    sep_limit = nan
    if baseline is not None and n > 1:
        sep_limit = baseline.error * math.sqrt(float(fdtri(n - 1, baseline.df, 1 - alpha)))
    rmsep = float(np.sqrt((d**2).mean()))
    return Agreement(
        n, bias, bias_limit, sep, sep_limit, rmsep, slope, intercept, slope_t, slope_limit, baseline, alpha
    )


def ewma(values: Any, weight: float = LAMBDA, start: float = 0.0) -> Floats:
    """Return the exponentially weighted moving average z_i = weight x_i + (1 - weight) z_(i-1), with z_0 = start.

    Examples
    --------
    >>> ewma([1.0, 1.0], 0.5)
    array([0.5 , 0.75])
    """
    from scipy.signal import lfilter

    if not (_is_number(weight) and 0 < weight <= 1):
        raise InvalidInput(f"lambda: expected a weight above 0 and at most 1; found {weight!r}.")
    found, _ = lfilter([weight], [1.0, weight - 1.0], _values(values, "values"), zi=[(1.0 - weight) * start])
    return np.asarray(found, dtype=np.float64)


def control_chart(
    difference: Any, sigma: Any, *, weight: float = LAMBDA, limits: tuple[float, float] = (2.0, 3.0)
) -> pl.DataFrame:
    """Lay out a control chart around 0, in the order of the differences.

    Parameters
    ----------
    difference : array-like of shape (n,)
        reference - predicted, in time order.
    sigma : float or array-like of shape (n,)
        SEP of the version at registration; NaN where it is not known, and then there are no limits.
    weight : float
        Of the newest value in the moving average, above 0 and at most 1.
    limits : (float, float)
        Warning and action limit in units of `sigma`.

    Returns
    -------
    polars.DataFrame
        ``difference, warning, action, ewma, ewma_limit, signals``. A limit holds on both sides of 0; ``signals`` is
        a list of words: "action" (beyond the action limit), "warning" (beyond the warning limit), "2 of 3" (two of
        three in a row beyond the same warning limit), "9 in a row" (nine in a row on one side), "ewma".

    Raises
    ------
    InvalidInput
    ShapeMismatch
        `sigma` has another length than `difference`.
    """
    d = _values(difference, "difference")
    s = _sigma(sigma, d.size)
    warning, action = s * limits[0], s * limits[1]
    average = ewma(d, weight)
    steps = np.arange(1, d.size + 1)
    ewma_limit = action * np.sqrt(weight / (2 - weight) * (1 - (1 - weight) ** (2.0 * steps)))
    with np.errstate(invalid="ignore"):
        beyond = np.where(np.abs(d) > warning, np.sign(d), 0.0)
        words = {
            "action": np.abs(d) > action,
            "warning": beyond != 0,
            "2 of 3": _two_of_three(beyond),
            f"{_RUN} in a row": _runs(np.sign(d)) >= _RUN,
            "ewma": np.abs(average) > ewma_limit,
        }
    columns = {
        "difference": d,
        "warning": warning,
        "action": action,
        "ewma": average,
        "ewma_limit": ewma_limit,
    }
    found = {name: pl.Series(each, nan_to_null=True, dtype=pl.Float64) for name, each in columns.items()}
    return pl.DataFrame(found).with_columns(signals=_words(words, d.size))


def _sigma(given: Any, n: int) -> Floats:
    """Return one error for each difference; NaN where it is not known."""
    found = _floats(given, "sigma")
    if found.ndim and found.shape != (n,):
        raise ShapeMismatch(
            f"sigma: expected one number, or one for each of {counted(n, 'difference')}; found shape {found.shape}."
        )
    return np.broadcast_to(found, (n,))


def _words(found: Mapping[str, NDArray[np.bool_]], n: int) -> pl.Series:
    """Return a column of lists of the words that hold for each row."""
    codes = np.zeros(n, dtype=np.int64)
    for place, hit in enumerate(found.values()):
        codes += hit.astype(np.int64) << place
    names = list(found)
    each = [[name for k, name in enumerate(names) if code >> k & 1] for code in range(1 << len(names))]
    return pl.Series(each, dtype=pl.List(pl.String)).gather(codes)


def _two_of_three(beyond: Floats) -> NDArray[np.bool_]:
    padded = np.concatenate([np.zeros(2), beyond])
    window = np.stack([padded[:-2], padded[1:-1], padded[2:]])
    return np.asarray((beyond != 0) & ((window == beyond).sum(axis=0) >= 2))


def _runs(side: Floats) -> NDArray[np.int64]:
    """Return how many values in a row, up to each, lie on its side of 0; a value of 0 begins a new run."""
    n = side.size
    begins = np.ones(n, dtype=bool)
    begins[1:] = (side[1:] != side[:-1]) | (side[1:] == 0)
    places = np.arange(n)
    start = np.maximum.accumulate(np.where(begins, places, 0)) if n else places
    return np.asarray(np.where(side == 0, 0, places - start + 1))


def per_sample(pairs: pl.DataFrame, repeats: Repeats, by: Sequence[str] = ()) -> pl.DataFrame:
    """Reduce repeated measurements of a sample to one row, in time order.

    Parameters
    ----------
    pairs : polars.DataFrame
        ``sample_id, measured_at, reference, prediction`` and the columns of `by`, in time order.
    repeats : {"mean", "last", "each"}
        The mean of the predictions of a sample, the last, or each as a sample of its own (a control sample that is
        measured every day).
    by : sequence of str
        Samples are counted once in each of these groups.
    """
    one_of("repeats", repeats, get_args(Repeats), " Nothing was computed.")
    if repeats == "each" or not pairs.height:
        return pairs
    others = [name for name in pairs.columns if name not in ("sample_id", "prediction", *by)]
    prediction = pl.col("prediction").mean() if repeats == "mean" else pl.col("prediction").last()
    reduced = pairs.group_by("sample_id", *by, maintain_order=True).agg(
        prediction, *(pl.col(name).last() for name in others)
    )
    return reduced.select(pairs.columns).sort("measured_at", maintain_order=True)


def replicate_error(values: Any, samples: Any) -> tuple[float, int]:
    """Return the standard error of the laboratory (SEL) from replicates, and its degrees of freedom.

    SEL = sqrt(sum of squared deviations from each sample's mean / sum of (replicates - 1)).

    Examples
    --------
    >>> sel, df = replicate_error([1.0, 3.0, 5.0], ["a", "a", "b"])
    >>> round(sel, 3), df
    (1.414, 1)
    """
    found = _values(values, "values")
    _, which, counts = np.unique(np.asarray(samples), return_inverse=True, return_counts=True)
    df = int((counts - 1).sum())
    if df < 1:
        return float("nan"), 0
    means = np.bincount(which, weights=found) / counts
    return float(np.sqrt(((found - means[which]) ** 2).sum() / df)), df


def paired(reference: Any, first: Any, second: Any, *, alpha: float = 0.05) -> dict[str, Any]:
    """Compare two predictions of the same samples by their squared errors.

    Returns
    -------
    dict
        ``n, rmsep_first, rmsep_second, mean_difference`` (second - first), ``p`` of the two-sided randomization test of
        the paired squared errors (`nirs_store.choosing.paired_p_value`), and ``verdict``: none below ten samples.
    """
    from nirs_store.choosing.pairs import paired_p_value

    y = _values(reference, "reference")
    a, b = _values(first, "first"), _values(second, "second")
    n, nan = int(y.size), float("nan")
    errors_a, errors_b = (y - a) ** 2, (y - b) ** 2
    flips = int(max(999, min(9999, 2e7 // max(n, 1))))
    p = paired_p_value(errors_a, errors_b, n_permutations=flips) if n > 1 else nan
    rmsep_a, rmsep_b = (float(np.sqrt(each.mean())) if n else nan for each in (errors_a, errors_b))
    verdict = "not distinguishable"
    if n < FEWEST:
        verdict = f"no verdict: {n} of at least {FEWEST} samples with a reference"
    elif p < alpha:
        verdict = "better" if rmsep_b < rmsep_a else "worse"
    found: dict[str, Any] = {"n": n, "rmsep_first": rmsep_a, "rmsep_second": rmsep_b}
    return found | {"mean_difference": float((b - a).mean()) if n else nan, "p": p, "verdict": verdict}


# -- Values and distributions.


def plain_fields(value: Any, *properties: str) -> dict[str, Any]:
    """Return the fields of a data class, and some of its properties, as plain data; NaN is None."""
    names = (*value.__dataclass_fields__, *properties)
    return {name: _plain(getattr(value, name)) for name in names}


def _plain(value: Any) -> Any:
    if isinstance(value, pl.DataFrame):
        return value.to_dicts()
    if isinstance(value, float) and math.isnan(value):
        return None
    for method in ("to_dict", "_asdict"):
        if hasattr(value, method):
            return getattr(value, method)()
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


def _floats(given: Any, name: str) -> Floats:
    try:
        return np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{name}: expected numbers; found {type(given).__name__}.") from error


def _values(given: Any, name: str) -> Floats:
    found = _floats(given, name)
    if found.ndim != 1 or not np.isfinite(found).all():
        raise InvalidInput(
            f"{name}: expected finite numbers in one dimension; found shape {found.shape}"
            f"{'' if np.isfinite(found).all() else ' with NaN or infinite values'}."
        )
    return found


def _number(value: Any) -> float | None:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if plain and math.isfinite(value) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
