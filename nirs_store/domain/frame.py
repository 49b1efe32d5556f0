"""Predictions with their domain and interval as a data frame, and what is said about outliers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nirs_store.domain.measure import NOT_KNOWN, Domain
from nirs_store.errors import InvalidInput, OutlierFound, OutlierWarning, ShapeMismatch, quoted
from nirs_store.lazy import polars as pl
from nirs_store.values import as_text

OnOutlier = Literal["warn", "raise", "ignore"]
_FLAGGABLE = ("h", "gh", "nh")


class Predicted(NamedTuple):
    """What a chain predicts for some samples, and what its models got: see `details_frame`."""

    y: NDArray[Any]
    proba: NDArray[Any] | None
    inputs: list[Any]


class Reading(NamedTuple):
    """The options of a detailed prediction; see `ChainPredictor.predict_details`."""

    level: float = 0.90
    alpha: float = 0.05
    scaled: bool = False
    margin: float = 5.0
    flag: Mapping[str, float] | Sequence[str] = ()

    def check(self) -> Reading:
        """Refuse values that no prediction can be read with; return the others as plain numbers and names."""
        shares = {name: as_real(getattr(self, name)) for name in ("level", "alpha")}
        for name, share in shares.items():
            if not 0 < share < 1:
                raise InvalidInput(
                    f"{name}: expected a share between 0 and 1, such as {self._field_defaults[name]}; found "
                    f"{quoted(getattr(self, name))}."
                )
        margin = as_real(self.margin)
        if not margin >= 0:
            raise InvalidInput(
                f"margin: expected percent of the calibration's range, a number from 0; found {quoted(self.margin)}."
            )
        if not isinstance(self.scaled, (bool, np.bool_)):
            raise InvalidInput(f"scaled: expected True or False; found {quoted(self.scaled)}.")
        return Reading(scaled=bool(self.scaled), margin=margin, flag=_flagging(self.flag), **shares)


def as_real(value: Any) -> float:
    """Return a real number; NaN, which every check refuses, for what is none."""
    if isinstance(value, (np.ndarray, np.generic)) and value.ndim == 0:
        value = value.item()
    try:
        return float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:
        return math.nan


def _flagging(flag: Any) -> dict[str, float] | tuple[str, ...]:
    """Check which columns flag samples; an iterator is read once."""
    several = isinstance(flag, Iterable) and not isinstance(flag, (str, bytes))
    listed = list(flag) if several else [flag]
    strange = [name for name in listed if not several or not isinstance(name, str) or name not in _FLAGGABLE]
    if strange:
        raise InvalidInput(
            f"flag: expected names among {', '.join(_FLAGGABLE)}, or a mapping of them to limits; found "
            f"{quoted(strange[0])}."
        )
    if not isinstance(flag, Mapping):
        # Some are strings of numpy.
        return tuple(dict.fromkeys(map(str, listed)))
    limits = {str(name): as_real(flag[name]) for name in listed}
    for name, limit in limits.items():
        if not limit >= 0:
            raise InvalidInput(
                f"flag: expected a limit of {name}, a number from 0; found {quoted(flag[name])}."
            )
    return limits


def as_names(sample_ids: Any) -> list[Any] | None:
    """Return names of samples as a list, so that a generator can be read twice."""
    if sample_ids is None:
        return None
    if isinstance(sample_ids, (str, bytes)) or not isinstance(sample_ids, Iterable):
        raise InvalidInput(f"sample_ids: expected one name for each spectrum; found {sample_ids!r}.")
    return list(sample_ids)


def details_frame(
    domain: Domain | None,
    predicted: Predicted,
    reading: Reading,
    sample_ids: Iterable[Any] | None,
    targets: Sequence[str] | None,
) -> pl.DataFrame:
    """Lay predictions out: one row per sample, or per sample and target.

    Returns
    -------
    polars.DataFrame
        sample, (target,) prediction, lower and upper (a classifier: set), t2, q, h, gh, nh, flags.
    """
    reading = reading.check()
    y = np.asarray(predicted.y)
    n = len(y)
    columns = y.reshape(n, -1)
    width = columns.shape[1]
    given = as_names(sample_ids)
    names = [as_text(str(each), "sample_ids") for each in (range(n) if given is None else given)]
    if len(names) != n:
        raise ShapeMismatch(f"sample_ids: expected one name for each of {n} spectra; found {len(names)}.")
    found = (domain or Domain({})).measure(predicted.inputs, y, predicted.proba, **reading._asdict())
    table: dict[str, Any] = {"sample": np.repeat(names, width) if width > 1 else names}
    if width > 1:
        known = [str(each) for each in targets or ()]
        table["target"] = (known if len(known) == width else [str(place) for place in range(width)]) * n
    table["prediction"] = columns.ravel().tolist() if columns.dtype.kind == "O" else columns.ravel()
    if found.sets is not None or (domain is not None and domain.facts.get("task") == "classification"):
        table["set"] = _lists([None] * n if found.sets is None else found.sets)
    else:
        for name, bound in (("lower", found.lower), ("upper", found.upper)):
            values = np.full(n * width, np.nan) if bound is None else bound.ravel()
            table[name] = pl.Series(values, nan_to_null=True)
    for name, values in found.values.items():
        table[name] = pl.Series(np.repeat(values, width), nan_to_null=True)
    # A classifier of several outputs has one list of words per sample.
    words = [row * (width if len(row) < width else 1) for row in found.flags]
    table["flags"] = _lists([each for row in words for each in row]).cast(pl.List(pl.String))
    return pl.DataFrame(table)


def _lists(rows: Sequence[list[Any] | None]) -> pl.Series:
    """Return a column of lists; few of them differ, and polars looks at each item of those it is given."""
    known: dict[Any, int] = {}
    places = [known.setdefault(None if row is None else tuple(row), len(known)) for row in rows]
    return pl.Series([None if each is None else list(each) for each in known]).gather(places)


def report_outliers(
    frame: pl.DataFrame, on_outlier: OnOutlier, where: str, stacklevel: int = 3
) -> pl.DataFrame:
    """Warn of flagged samples, or raise; return the frame."""
    if not isinstance(on_outlier, str) or on_outlier not in ("warn", "raise", "ignore"):
        raise InvalidInput(f'on_outlier: expected "warn", "raise" or "ignore"; found {quoted(on_outlier)}.')
    if on_outlier == "ignore" or not frame.height:
        return frame
    some = frame.select("sample", "flags").filter(pl.col("flags").list.len() > 0)
    rows = [(str(name), list(words)) for name, words in some.iter_rows()]
    flagged = [
        (name, kept) for name, words in rows if (kept := [word for word in words if word != NOT_KNOWN])
    ]
    if flagged:
        shown = "; ".join(f"{name}: {', '.join(words)}" for name, words in flagged[:5])
        text = f"{where} flags {len({name for name, _ in flagged})} of {frame['sample'].n_unique()} samples ({shown}"
        text += "; ...)." if len(flagged) > 5 else ")."
        if on_outlier == "raise":
            raise OutlierFound(f"{text} Look at the spectra; on_outlier='ignore' returns the predictions.")
        warnings.warn(text, OutlierWarning, stacklevel=stacklevel)
    if len(flagged) < len(rows) and any(NOT_KNOWN in words for _, words in rows):
        warnings.warn(
            f"{where}: its domain is not known, so nothing says whether the samples are inside it. Give it one with "
            "store.add_domain(chain, X, y).",
            OutlierWarning,
            stacklevel=stacklevel,
        )
    return frame
